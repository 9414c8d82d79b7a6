"""Tests of directions that are divided by the sum of the kernel."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import svgd
from tests.svgd import svgd_case

_OBJECTS = svgd_case.OBJECTS
_direction = svgd_case.direction
_direction_reference = svgd_case.direction_reference
_normal = svgd_case.normal
_row_sums = svgd_case.row_sums


class NormalisedTest(svgd_case.StrictTest):
  @parameterized.product(
    name=('rbf', 'imq', 'multi_scale'),
    off_diagonal=(False, True),
    temperature=(1.0, 0.3),
  )
  def test_matches_double_loop(self, name, off_diagonal, temperature):
    particles, scores, h = _normal(0, 7, 3), _normal(1, 7, 3), 1.7
    options = dict(off_diagonal=off_diagonal, temperature=temperature)
    actual = _direction(
      particles, scores, _OBJECTS[name](h), normalise=True, **options
    )
    expected = _direction_reference(particles, scores, name, h, **options)
    count = 6 if off_diagonal else 7
    expected *= count / _row_sums(particles, name, h, off_diagonal=off_diagonal)
    # float32, 7 terms
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)

  def test_a_function_may_be_positive(self):
    particles, scores = _normal(0, 7, 3), _normal(1, 7, 3)
    kernel_fn = functools.partial(svgd.rbf_kernel, bandwidth=1.7)
    options = dict(off_diagonal=False, normalise=True)
    actual = _direction(
      particles,
      scores,
      svgd.from_function(kernel_fn, positive=True),
      **options,
    )
    expected = _direction(particles, scores, svgd.rbf(1.7), **options)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

  def test_a_lone_particle_moves_by_its_own_score(self):
    # far from the others, which see each other
    particles, scores = _normal(0, 7, 3), _normal(1, 7, 3)
    particles[0] += 100.0
    direction = _direction(
      particles, scores, svgd.rbf(1.0), off_diagonal=False, normalise=True
    )
    np.testing.assert_allclose(direction[0], scores[0], rtol=1e-4, atol=1e-4)

  @parameterized.parameters('linear', 'function')
  def test_a_kernel_with_negative_values_is_refused(self, name):
    kernel = {
      'linear': svgd.linear(1.0),
      'function': functools.partial(svgd.linear_kernel, bandwidth=1.0),
    }[name]
    with self.assertRaisesRegex(ValueError, 'negative values .*imq or multi'):
      svgd.svgd_direction(
        _normal(0, 4, 2),
        _normal(1, 4, 2),
        kernel,
        off_diagonal=False,
        normalise=True,
      )

  def test_half_precision_is_rounded_at_the_end(self):
    particles = (_normal(0, 7, 3) + 200.0).astype(np.float16)  # squares: inf
    scores = _normal(1, 7, 3).astype(np.float16)
    options = dict(off_diagonal=False, normalise=True)
    actual = _direction(particles, scores, svgd.rbf(1.0), **options)
    self.assertEqual(actual.dtype, np.float16)
    expected = _direction(
      particles.astype(np.float32),
      scores.astype(np.float32),
      svgd.rbf(1.0),
      **options,
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)

  def test_what_no_other_reaches_stays_finite(self):
    # without the diagonal a far particle has no sum to be divided by
    particles = np.array([[0.0], [1e3], [-1e3]], np.float32)
    direction = _direction(
      particles, particles, svgd.rbf(1.0), off_diagonal=True, normalise=True
    )
    np.testing.assert_array_equal(direction, np.zeros((3, 1)))


class NormalisedUpdateTest(svgd_case.StrictTest):
  def _update(self, particles, scores, *, name='rbf', temperature=0.3, **more):
    update_fn = functools.partial(
      svgd.normalised_update, kernel=_OBJECTS[name](), **more
    )
    run = jax.jit(update_fn)
    return run(particles, scores, temperature=temperature, bandwidth=1.7)

  @parameterized.parameters('rbf', 'imq', 'multi_scale')
  def test_is_the_direction_with_its_diagnostics(self, name):
    particles, scores = _normal(0, 9, 3), _normal(1, 9, 3)
    update = self._update(particles, scores, name=name)
    expected = _direction(
      particles,
      scores,
      _OBJECTS[name](1.7),
      off_diagonal=False,
      normalise=True,
      temperature=0.3,
    )
    # float32, 9 terms; its two parts are added at the end
    np.testing.assert_allclose(update.direction, expected, rtol=1e-5, atol=1e-6)
    sums = _row_sums(particles, name, 1.7)
    np.testing.assert_allclose(
      update.kernel_mass, np.mean(sums) - 1.0, rtol=1e-5
    )
    options = dict(off_diagonal=False)
    attraction = _direction_reference(
      particles, scores, name, 1.7, temperature=0.0, **options
    )
    repulsion = _direction_reference(
      particles, 0.0 * scores, name, 1.7, temperature=0.3, **options
    )
    norms = [
      math.sqrt(np.mean(np.sum((9 * part / sums) ** 2, axis=1)))
      for part in (repulsion, attraction)
    ]
    np.testing.assert_allclose(
      update.repulsion_share, norms[0] / norms[1], rtol=1e-5
    )

  def test_a_kernel_that_does_not_act_shows(self):
    particles = np.float32(20.0) * np.arange(5, dtype=np.float32)[:, None]
    scores = _normal(1, 5, 1)
    update = self._update(particles, scores)
    # squared lengths of up to 941 h cancel but for rounding
    np.testing.assert_allclose(update.direction, scores, rtol=1e-4, atol=1e-4)
    self.assertLess(abs(float(update.kernel_mass)), 1e-3)
    self.assertLess(float(update.repulsion_share), 1e-3)

  def test_without_scores_or_temperature_it_is_finite(self):
    particles = _normal(0, 9, 3)
    zeros = np.zeros_like(particles)
    update = self._update(particles, zeros, temperature=0.0)
    np.testing.assert_array_equal(update.direction, zeros)
    self.assertEqual(float(update.repulsion_share), 0.0)

  @parameterized.parameters('vmap', 'pmap')
  def test_sharded_sets_move_as_the_whole(self, mapping):
    particles, scores = _normal(0, 12, 3), _normal(1, 12, 3)
    expected = self._update(particles, scores)
    update_fn = functools.partial(
      svgd.normalised_update,
      kernel=svgd.rbf(),
      temperature=0.3,
      bandwidth=1.7,
      axis_name='devices',
    )
    mapped = getattr(jax, mapping)(update_fn, axis_name='devices')
    parts = particles.reshape(4, 3, 3), scores.reshape(4, 3, 3)
    actual = jax.jit(mapped)(*parts)
    np.testing.assert_allclose(
      actual.direction.reshape(12, 3),
      expected.direction,
      rtol=1e-5,
      atol=1e-6,
    )
    # each device's is that of its own particles: their mean is the whole's
    chex.assert_shape(actual.kernel_mass, (4,))
    np.testing.assert_allclose(
      np.mean(actual.kernel_mass), expected.kernel_mass, rtol=1e-5
    )

  def test_no_gradient_flows_through_it(self):
    def total(particles, scores):
      update = svgd.normalised_update(
        particles, scores, svgd.rbf(), temperature=1.0, bandwidth=1.7
      )
      return jnp.sum(update.direction) + update.kernel_mass

    grads = jax.jit(jax.grad(total, argnums=(0, 1)))(
      _normal(0, 6, 2), _normal(1, 6, 2)
    )
    chex.assert_trees_all_equal(grads, (np.zeros((6, 2)), np.zeros((6, 2))))


if __name__ == '__main__':
  absltest.main()
