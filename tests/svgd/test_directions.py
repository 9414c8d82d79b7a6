"""Tests of ldc_vae.svgd.directions."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import svgd
from tests.svgd import svgd_case

_FUNCTIONS = svgd_case.FUNCTIONS
_OBJECTS = svgd_case.OBJECTS
_assert_products_are_exact = svgd_case.assert_products_are_exact
_direction = svgd_case.direction
_direction_reference = svgd_case.direction_reference
_mean_bandwidth_reference = svgd_case.mean_bandwidth_reference
_normal = svgd_case.normal


class DirectionTest(svgd_case.StrictTest):
  def _assert_mean_bandwidth(self, particles, scores, name, rule, **tolerances):
    """The direction by a rule is that of the mean rule's bandwidth."""
    actual = _direction(
      particles, scores, _OBJECTS[name](rule), off_diagonal=False
    )
    expected = _direction_reference(
      particles,
      scores,
      name,
      _mean_bandwidth_reference(particles),
      off_diagonal=False,
    )
    np.testing.assert_allclose(actual, expected, **tolerances)

  @parameterized.product(
    name=('rbf', 'imq', 'multi_scale', 'linear'),
    form=('object', 'function'),
    off_diagonal=(False, True),
  )
  def test_matches_double_loop(self, name, form, off_diagonal):
    particles, scores = _normal(0, 7, 3), _normal(1, 7, 3)
    h = 1.7
    if form == 'object':
      kernel = _OBJECTS[name](h)
    else:
      kernel = functools.partial(_FUNCTIONS[name], bandwidth=h)
    direction_fn = jax.jit(
      functools.partial(
        svgd.svgd_direction, kernel=kernel, off_diagonal=off_diagonal
      )
    )
    for temperature in (1.0, 0.3, 0.0):
      actual = direction_fn(particles, scores, temperature=temperature)
      expected = _direction_reference(
        particles,
        scores,
        name,
        h,
        off_diagonal=off_diagonal,
        temperature=temperature,
      )
      # float32: 7 terms of size 1; the matmul form differences two of them
      np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)

  @parameterized.parameters(('rbf',), ('imq',), ('multi_scale',))
  def test_the_mean_rule_is_applied_to_all_particles(self, name):
    particles, scores = _normal(0, 6, 4), _normal(1, 6, 4)
    # float32, 6 terms, as above
    self._assert_mean_bandwidth(
      particles, scores, name, 'mean', rtol=1e-5, atol=2e-6
    )

  def test_lifts_over_images_by_vmap(self):
    particles, scores = _normal(2, 3, 6, 4), _normal(3, 3, 6, 4)
    direction_fn = functools.partial(
      svgd.svgd_direction, kernel=svgd.rbf(), off_diagonal=True
    )
    actual = jax.jit(jax.vmap(direction_fn))(particles, scores)
    one_fn = jax.jit(direction_fn)
    expected = [one_fn(z, s) for z, s in zip(particles, scores)]
    # the same float32 sums, batched
    np.testing.assert_allclose(actual, np.stack(expected), rtol=1e-5, atol=1e-6)

  @parameterized.product(name=('rbf', 'imq', 'multi_scale'), n=(2, 33))
  def test_repulsion_adds_up_to_zero(self, name, n):
    particles = _normal(4, n, 5)
    zeros = np.zeros((n, 5), np.float32)
    repulsion = np.asarray(
      _direction(particles, zeros, svgd.KERNELS[name](), off_diagonal=False)
    )
    # n float32 terms, each below 1
    np.testing.assert_allclose(
      np.sum(repulsion, axis=0), np.zeros(5), atol=n * 1e-6
    )
    self.assertGreater(np.max(np.abs(repulsion)), 1e-3)

  @parameterized.product(name=('rbf', 'imq', 'multi_scale'))
  def test_two_particles_part(self, name):
    particles = np.array([[0.0, 0.0], [1.0, 0.5]], np.float32)
    zeros = np.zeros((2, 2), np.float32)
    repulsion = np.asarray(
      _direction(particles, zeros, svgd.KERNELS[name](), off_diagonal=True)
    )
    apart = particles[1] - particles[0]
    self.assertLess(float(repulsion[0] @ apart), 0.0)
    self.assertGreater(float(repulsion[1] @ apart), 0.0)

  @parameterized.product(
    name=('rbf', 'imq', 'multi_scale'), off_diagonal=(False, True)
  )
  def test_exact_resolves_two_tight_clusters(self, name, off_diagonal):
    tight = 1e-3 * np.random.default_rng(7).normal(size=(8, 4))
    tight[4:] += 100.0
    particles, scores = tight.astype(np.float32), _normal(8, 8, 4)
    h = 1e-6  # of the clusters' own size, not of their distance
    expected = _direction_reference(
      particles, scores, name, h, off_diagonal=off_diagonal
    )
    kernel = _OBJECTS[name](h, exact=True)
    actual = _direction(particles, scores, kernel, off_diagonal=off_diagonal)
    # float32 differences of what float32 holds; eight terms
    largest = np.max(np.abs(expected))
    np.testing.assert_allclose(actual, expected, atol=1e-5 * largest)
    matmul_form = _direction(
      particles, scores, _OBJECTS[name](h), off_diagonal=off_diagonal
    )
    self.assertGreater(np.max(np.abs(matmul_form - expected)), largest)

  @parameterized.product(
    name=('rbf', 'imq', 'multi_scale', 'exact', 'linear', 'function'),
    dtype=('float16', 'bfloat16'),
  )
  def test_coinciding_particles_may_be_in_half_precision(self, name, dtype):
    particles = jnp.full((5, 3), 0.25, dtype)
    scores = jnp.full((5, 3), 2.0, dtype)
    kernel = {
      'exact': svgd.rbf('mean', exact=True),
      'function': functools.partial(svgd.rbf_kernel, bandwidth=1e-8),
    }.get(name) or svgd.KERNELS[name]('mean')
    # k(x, y) = x.y + 1 with gradient y: h is 1 if all particles coincide
    expected = 2.0 * (1 + 3 / 16) + 0.25 if name == 'linear' else 2.0
    for off_diagonal in (False, True):
      for block_size in (None, 2):
        actual = _direction(
          particles,
          scores,
          kernel,
          off_diagonal=off_diagonal,
          block_size=block_size,
        )
        self.assertEqual(actual.dtype, dtype)
        # float32, rounded to the 8 bits of bfloat16 or the 11 of float16
        np.testing.assert_allclose(
          actual.astype(np.float32), np.full((5, 3), expected), rtol=2e-3
        )

  @parameterized.parameters('float16', 'bfloat16')
  def test_half_precision_is_that_of_the_particles_alone(self, dtype):
    # 1,000 apart, squares pass the 65,504 of float16
    particles = jnp.asarray(300.0 * _normal(0, 7, 3), dtype)
    scores = jnp.asarray(_normal(1, 7, 3), dtype)
    options = dict(kernel=svgd.rbf('median'), off_diagonal=True)
    actual = _direction(particles, scores, **options)
    expected = _direction(
      *(x.astype(jnp.float32) for x in (particles, scores)), **options
    )
    np.testing.assert_array_equal(actual, expected.astype(dtype))

  @parameterized.parameters('rbf', 'imq', 'multi_scale')
  def test_most_particles_may_coincide_under_the_median_rule(self, name):
    particles = _normal(2, 16, 3)
    particles[4:] = particles[4]
    scores = _normal(3, 16, 3)
    # float32, 16 terms
    self._assert_mean_bandwidth(
      particles, scores, name, 'median', rtol=1e-4, atol=1e-5
    )

  # the median of a lone particle is an error, as everywhere
  @parameterized.parameters(('mean', 1), ('mean', 4), ('median', 4))
  def test_linear_has_a_unit_where_particles_have_no_spread(self, bandwidth, n):
    particles = np.tile(np.float32([[0.5, -0.3]]), (n, 1))
    scores = np.tile(np.float32([[1.0, 2.0]]), (n, 1))
    actual = _direction(
      particles, scores, svgd.linear(bandwidth), off_diagonal=False
    )
    expected = _direction_reference(
      particles, scores, 'linear', 1.0, off_diagonal=False
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)  # float32

  @parameterized.parameters(
    ('rbf',), ('imq',), ('multi_scale',), ('linear',), ('function',)
  )
  def test_all_products_are_in_full_precision(self, name):
    # of no effect on a CPU; TPU and GPU round their factors by default
    if name == 'function':
      kernel = functools.partial(svgd.imq_kernel, bandwidth=2.0)
    else:
      kernel = svgd.KERNELS[name]('mean')
    direction_fn = functools.partial(
      svgd.svgd_direction, kernel=kernel, off_diagonal=True
    )
    program = jax.jit(direction_fn).lower(_normal(0, 5, 3), _normal(1, 5, 3))
    _assert_products_are_exact(self, program)

  def test_no_gradient_flows_through_it(self):
    particles, scores = _normal(0, 5, 3), _normal(1, 5, 3)

    def total(particles, scores):
      direction = svgd.svgd_direction(
        particles, scores, svgd.rbf(), off_diagonal=True
      )
      return jnp.sum(direction)

    grads = jax.jit(jax.grad(total, argnums=(0, 1)))(particles, scores)
    chex.assert_trees_all_equal(grads, (np.zeros((5, 3)), np.zeros((5, 3))))

  def test_a_wrong_rank_is_an_error(self):
    with self.assertRaises(AssertionError):
      svgd.svgd_direction(
        jnp.zeros(3), jnp.zeros(3), svgd.rbf(), off_diagonal=False
      )

  @parameterized.named_parameters(
    ('not_called', svgd.rbf, r'kernel=rbf takes no two particles .* svgd.rbf'),
    ('with_a_bandwidth', svgd.rbf_kernel, "kernel=rbf_kernel .*'bandwidth'"),
    ('text', 'rbf', "kernel='rbf' takes no two particles"),
    ('nothing', None, 'kernel=None takes no two particles'),
  )
  def test_what_is_no_kernel_is_refused(self, kernel, part):
    with self.assertRaisesRegex(ValueError, part):
      svgd.svgd_direction(
        jnp.zeros((3, 2)), jnp.zeros((3, 2)), kernel, off_diagonal=False
      )


class LongRowTest(svgd_case.StrictTest):
  @parameterized.parameters(1023, 1024)  # rows summed by a sum, by a product
  def test_many_particles_match_numpy(self, num):
    particles, h, temperature = _normal(3, num, 2), 0.7, 0.5
    z = particles.astype(np.float64)
    difference = z[:, None] - z[None]
    values = np.exp(-np.sum(difference**2, axis=-1) / h)
    repulsion = 2.0 / h * np.einsum('ij,ijd->id', values, difference)
    expected = (values @ -z + temperature * repulsion) / num
    for kernel in (svgd.rbf(h), svgd.multi_scale(h, scales=(1.0,))):
      actual = _direction(
        particles,
        -particles,
        kernel,
        off_diagonal=False,
        temperature=temperature,
      )
      # float32, sums of a thousand terms of size 1
      np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6)


if __name__ == '__main__':
  absltest.main()
