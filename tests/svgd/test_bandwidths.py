"""Tests of ldc_vae.svgd.bandwidths."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import svgd
from tests.svgd import svgd_case

_direction = svgd_case.direction
_mean_bandwidth_reference = svgd_case.mean_bandwidth_reference
_normal = svgd_case.normal


class BandwidthTest(svgd_case.StrictTest):
  @parameterized.parameters((2, 1), (7, 3), (50, 16))
  def test_mean_matches_double_loop(self, n, dim):
    particles = _normal(n, n, dim) * 3.0 + 1.0
    # float32 sums of n D terms
    np.testing.assert_allclose(
      jax.jit(svgd.mean_bandwidth)(particles),
      _mean_bandwidth_reference(particles),
      rtol=1e-5,
    )

  def test_that_of_a_distribution_follows_from_its_distance(self):
    h = svgd.expected_bandwidth(6.0, 4, factor=0.5)
    self.assertAlmostEqual(float(h), 1.5, 6)
    self.assertEqual(
      float(svgd.expected_bandwidth(0.0, 4, floor=1e-3)), np.float32(1e-3)
    )
    gradient = jax.grad(lambda x: svgd.expected_bandwidth(x, 4))(6.0)
    self.assertEqual(float(gradient), 0.0)

  def test_expected_one_is_as_wide_as_the_distances_vary(self):
    x, y = _normal(0, 4000, 16), _normal(1, 4000, 16)
    distances = np.sum(np.square(x - y), axis=1)
    h = svgd.expected_bandwidth(2.0 * 16, 16)
    # 4,000 distances: their std is known to 2 %
    np.testing.assert_allclose(h, np.std(distances) / 2**0.5, rtol=0.06)

  @parameterized.product(
    name=('rbf', 'imq', 'multi_scale', 'linear'), off_diagonal=(False, True)
  )
  def test_a_given_one_takes_the_place_of_the_rule(self, name, off_diagonal):
    particles, scores = _normal(0, 7, 3), _normal(1, 7, 3)
    direction_fn = jax.jit(
      functools.partial(
        _direction,
        kernel=svgd.KERNELS[name]('mean'),
        off_diagonal=off_diagonal,
      )
    )
    fixed = svgd.KERNELS[name](2.5)
    expected = _direction(particles, scores, fixed, off_diagonal=off_diagonal)
    actual = direction_fn(particles, scores, bandwidth=jnp.float32(2.5))
    # float32, fused otherwise
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    own = direction_fn(particles, scores)
    self.assertGreater(np.max(np.abs(own - expected)), 1e-3)

  def test_none_can_be_given_to_a_function(self):
    with self.assertRaisesRegex(ValueError, 'has its own bandwidth'):
      svgd.svgd_direction(
        _normal(0, 4, 2),
        _normal(1, 4, 2),
        functools.partial(svgd.rbf_kernel, bandwidth=1.0),
        off_diagonal=True,
        bandwidth=2.0,
      )

  @parameterized.parameters((2, 1), (7, 3), (24, 16))
  def test_median_matches_double_loop(self, n, dim):
    particles = _normal(n, n, dim)
    z = particles.astype(np.float64)
    pairs = [
      np.sum((z[i] - z[j]) ** 2) for i in range(n) for j in range(i + 1, n)
    ]
    expected = np.median(pairs) / math.log(n + 1)
    # float32; the matmul form differences terms of the size of the result
    np.testing.assert_allclose(
      jax.jit(svgd.median_bandwidth)(particles), expected, rtol=1e-5
    )

  @parameterized.parameters((2.5,), ('2.5',))
  def test_a_number_is_itself(self, bandwidth):
    bandwidth_fn = svgd.make_bandwidth_fn(bandwidth)
    self.assertEqual(float(bandwidth_fn(_normal(0, 4, 2))), 2.5)

  @parameterized.parameters(
    ('medain',), (0.0,), (-1.0,), (float('inf'),), (float('nan'),), (None,)
  )
  def test_anything_else_is_an_error(self, bandwidth):
    with self.assertRaisesRegex(ValueError, f'bandwidth={bandwidth!r}'):
      svgd.make_bandwidth_fn(bandwidth)

  @parameterized.product(
    bandwidth=('mean', 'median'),
    floor=(1e-3, svgd.BANDWIDTH_FLOOR),
    dtype=('float32', 'float16', 'bfloat16'),
  )
  def test_the_floor_holds_where_all_coincide(self, bandwidth, floor, dtype):
    bandwidth_fn = jax.jit(svgd.make_bandwidth_fn(bandwidth, floor=floor))
    h = bandwidth_fn(jnp.ones((4, 2), dtype))
    self.assertEqual(float(h), np.float32(floor))

  def test_a_factor_narrows_a_rule_but_no_number(self):
    particles = _normal(0, 7, 3)
    kernel_fn = functools.partial(svgd.rbf, factor=0.05)
    # float32
    np.testing.assert_allclose(
      jax.jit(kernel_fn('mean').bandwidth_fn)(particles),
      0.05 * _mean_bandwidth_reference(particles),
      rtol=1e-5,
    )
    self.assertEqual(float(kernel_fn(2.0).bandwidth_fn(particles)), 2.0)
    coincident = svgd.imq('mean', floor=1e-3, factor=0.05)
    bandwidth_fn = jax.jit(coincident.bandwidth_fn)
    self.assertEqual(float(bandwidth_fn(jnp.ones((4, 2)))), np.float32(1e-3))

  def test_median_of_one_particle_is_an_error(self):
    with self.assertRaisesRegex(ValueError, 'needs 2 particles, got 1'):
      svgd.median_bandwidth(jnp.ones((1, 2)))

  @parameterized.parameters(('mean',), ('median',))
  def test_no_gradient_flows_through_it(self, bandwidth):
    grad_fn = jax.jit(jax.grad(svgd.make_bandwidth_fn(bandwidth)))
    gradient = grad_fn(_normal(0, 6, 2))
    np.testing.assert_array_equal(gradient, np.zeros((6, 2)))


def _felt(points, queries, h):
  """Mean over queries of the sum of exp(-|y_i - y_j|^2 / h), j != i."""
  y = points.astype(np.float64)
  total = 0.0
  for i in queries:
    distances = np.sum((np.delete(y, i, axis=0) - y[i]) ** 2, axis=1)
    total += np.sum(np.exp(-distances / h))
  return total / len(queries)


class MassBandwidthTest(svgd_case.StrictTest):
  @parameterized.product(dim=(2, 16, 64), mass=(0.5, 2.0, 10.0))
  def test_the_mass_is_reached(self, dim, mass):
    points = _normal(dim, 64, dim)
    h = jax.jit(svgd.mass_bandwidth, static_argnums=1)(points, mass)
    # 0.2 % of h, of which the mass changes by at most six times as much
    np.testing.assert_allclose(
      _felt(points, range(64), float(h)), mass, rtol=0.02
    )

  def test_of_many_points_some_are_asked(self):
    points = _normal(0, 256, 3)
    h = jax.jit(svgd.mass_bandwidth, static_argnums=1)(points, 2.0)
    np.testing.assert_allclose(
      _felt(points, range(0, 256, 4), float(h)), 2.0, rtol=0.02
    )
    # those stand for all: a standard error of 5 % of 64 neighbourhoods
    np.testing.assert_allclose(
      _felt(points, range(256), float(h)), 2.0, rtol=0.2
    )

  def test_is_in_squared_units_of_the_points(self):
    points = _normal(0, 64, 4)
    bandwidth_fn = jax.jit(svgd.mass_bandwidth, static_argnums=1)
    h = bandwidth_fn(points, 2.0)
    # float32, and what a last halving decides otherwise
    for unit in (1e-2, 30.0):
      scaled = bandwidth_fn(np.float32(unit) * points, 2.0)
      np.testing.assert_allclose(scaled, unit**2 * h, rtol=3e-3)

  @parameterized.parameters(1.0, -30.0, 1e3)
  def test_a_shift_changes_nothing(self, offset):
    points = _normal(0, 64, 4)
    bandwidth_fn = jax.jit(svgd.mass_bandwidth, static_argnums=1)
    # float32 keeps 6e-5 of a point at 1e3
    np.testing.assert_allclose(
      bandwidth_fn(points + np.float32(offset), 2.0),
      bandwidth_fn(points, 2.0),
      rtol=3e-3,
    )

  @parameterized.parameters('float32', 'float16')
  def test_points_that_coincide_leave_the_floor(self, dtype):
    points = jnp.full((8, 3), 0.7, dtype)
    h = jax.jit(svgd.mass_bandwidth, static_argnums=1)(points, 2.0)
    self.assertEqual(float(h), np.float32(svgd.BANDWIDTH_FLOOR))

  @parameterized.parameters(0.0, -1.0, 7.0, 100.0, float('nan'))
  def test_a_mass_that_cannot_be_is_refused(self, mass):
    with self.assertRaisesRegex(
      ValueError,
      f'^mass={mass} of 8 points: each feels at most 7 others; use a mass'
      ' between 0 and 7$',
    ):
      svgd.mass_bandwidth(jnp.ones((8, 2)), mass)

  def test_no_gradient_flows_through_it(self):
    grad_fn = jax.grad(lambda points: svgd.mass_bandwidth(points, 2.0))
    gradient = jax.jit(grad_fn)(_normal(0, 6, 2))
    np.testing.assert_array_equal(gradient, np.zeros((6, 2)))


if __name__ == '__main__':
  absltest.main()
