"""Tests of ldc_vae.svgd.flows."""

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

_assert_products_are_exact = svgd_case.assert_products_are_exact
_normal = svgd_case.normal


def _flow_reference(particles, targets, scales):
  """The docstring of `smoothed_flow` as loops in float64."""
  u, y = particles.astype(np.float64), targets.astype(np.float64)
  n, dim = u.shape
  unit = math.sqrt(2 * dim)
  total = np.zeros_like(u)
  for scale in scales:
    flows = []
    for i in range(n):
      w = [math.exp(-np.linalg.norm(u[i] - b) / (scale * unit)) for b in y]
      v = [
        0.0
        if j == i
        else math.exp(-np.linalg.norm(u[i] - u[j]) / (scale * unit))
        for j in range(n)
      ]
      to_y = sum(weight * b for weight, b in zip(w, y)) / sum(w)
      to_u = sum(weight * b for weight, b in zip(v, u)) / sum(v)
      flows.append(to_y - to_u)
    flows = np.stack(flows)
    total += flows / math.sqrt(np.mean(np.sum(flows**2, axis=1)))
  return total


class SmoothedFlowTest(svgd_case.StrictTest):
  @parameterized.parameters((8, 8), (9, 5))
  def test_matches_loop(self, n, m):
    particles, targets = _normal(0, n, 4), _normal(1, m, 4) + 1.0
    scales = (0.05, 0.2, 1.0)
    actual = jax.jit(functools.partial(svgd.smoothed_flow, scales=scales))(
      particles, targets
    )
    expected = _flow_reference(particles, targets, scales)
    # float32 distances over the least scale 0.05: their rounding times 20
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)

  def test_sharded_sets_have_the_flow_of_the_whole(self):
    particles, targets = _normal(0, 16, 4), _normal(1, 24, 4)
    scales = (0.05, 0.2)
    whole_fn = functools.partial(svgd.smoothed_flow, scales=scales)
    expected = jax.jit(whole_fn)(particles, targets)
    parts = particles.reshape(4, 4, 4), targets.reshape(4, 6, 4)
    flow_fn = functools.partial(
      svgd.smoothed_flow, scales=scales, axis_name='devices'
    )
    for mapped in (jax.pmap, jax.vmap):
      actual = jax.jit(mapped(flow_fn, axis_name='devices'))(*parts)
      # float32; distances over the least scale
      np.testing.assert_allclose(
        actual.reshape(16, 4), expected, rtol=1e-4, atol=1e-5
      )

  def test_all_products_are_in_full_precision(self):
    flow_fn = functools.partial(svgd.smoothed_flow, scales=(0.2,))
    program = jax.jit(flow_fn).lower(_normal(0, 5, 3), _normal(1, 5, 3))
    _assert_products_are_exact(self, program)

  def test_a_shift_is_followed(self):
    particles, targets = _normal(0, 64, 2), _normal(1, 64, 2)
    shift = np.array([1.0, 0.0], np.float32)
    flow_fn = jax.jit(functools.partial(svgd.smoothed_flow, scales=(0.2,)))
    flow = flow_fn(particles, targets + shift)
    mean = np.mean(np.asarray(flow), axis=0)
    self.assertGreater(mean[0], 0.3)  # of a root mean square of 1
    self.assertGreater(mean[0], 3 * abs(mean[1]))

  def test_at_rest_in_expectation_where_the_distributions_are_equal(self):
    point = np.array([[0.8, -0.4]], np.float32)
    num_draws, n = 500, 33
    others = _normal(2, num_draws, n - 1, 2)
    targets = _normal(3, num_draws, n - 1, 2)

    def flow_at_point(others, targets):
      particles = jnp.concatenate([point, others])
      return svgd.smoothed_flow(particles, targets, (0.1, 0.3))[0]

    run = jax.jit(jax.vmap(flow_at_point))
    # n - 1 targets against n - 1 other particles: exchangeable, mean 0
    flows = np.asarray(run(others, targets))
    error = np.std(flows, axis=0) / math.sqrt(num_draws)
    np.testing.assert_array_less(np.abs(np.mean(flows, axis=0)), 4 * error)
    # the same statistic sees a shift of one half
    moved = np.asarray(run(others, targets + np.float32(0.5)))
    self.assertTrue(np.all(np.mean(moved, axis=0) > 8 * error))

  @parameterized.parameters('float16', 'bfloat16')
  def test_sets_that_coincide_are_at_rest(self, dtype):
    points = jnp.full((5, 2), 0.3, dtype)
    flow_fn = jax.jit(functools.partial(svgd.smoothed_flow, scales=(0.2,)))
    flow = flow_fn(points, points)
    self.assertEqual(flow.dtype, dtype)
    np.testing.assert_array_equal(flow, jnp.zeros((5, 2), dtype))

  def test_no_gradient_flows_through_it(self):
    total = lambda u, y: jnp.sum(svgd.smoothed_flow(u, y, (0.2,)))
    grad_fn = jax.jit(jax.grad(total, argnums=(0, 1)))
    grads = grad_fn(_normal(0, 5, 2), _normal(1, 5, 2))
    chex.assert_trees_all_equal(grads, (np.zeros((5, 2)), np.zeros((5, 2))))


if __name__ == '__main__':
  absltest.main()
