"""Tests of ldc_vae.svgd.kernels and ldc_vae.svgd.arithmetic."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from ldc_vae import svgd
from tests.svgd import svgd_case

_FUNCTIONS = svgd_case.FUNCTIONS
_REFERENCES = svgd_case.REFERENCES
_SCALES = svgd_case.SCALES
_normal = svgd_case.normal


class KernelTest(svgd_case.StrictTest):
  @parameterized.product(name=('rbf', 'imq', 'multi_scale', 'linear'))
  def test_function_matches_reference(self, name):
    x, y = _normal(0, 2, 4)
    value_and_grad = jax.value_and_grad(
      functools.partial(_FUNCTIONS[name], bandwidth=0.7)
    )
    actual = jax.jit(value_and_grad)(x, y)
    expected = _REFERENCES[name](
      x.astype(np.float64), y.astype(np.float64), 0.7
    )
    # float32, 4 dimensions; an exponent of 10 multiplies its rounding by 10
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)

  @parameterized.product(name=('rbf', 'imq', 'multi_scale'))
  def test_smooth_where_both_points_are_one(self, name):
    x = _normal(0, 4)
    kernel_fn = functools.partial(_FUNCTIONS[name], bandwidth=0.7)
    value, gradient = jax.jit(jax.value_and_grad(kernel_fn))(x, x)
    self.assertEqual(float(value), 1.0)
    np.testing.assert_array_equal(gradient, np.zeros(4))
    hessian = jax.jit(jax.hessian(kernel_fn))(x, x)
    curvature = {  # k = 1 - c |x - y|^2 + ..., so that k'' = -2 c
      'rbf': -2.0 / 0.7,
      'imq': -1.0 / 0.7,
      'multi_scale': -2.0 / 0.7 * np.mean([1 / scale for scale in _SCALES]),
    }[name]
    # float32, a handful of operations
    np.testing.assert_allclose(hessian, curvature * np.eye(4), rtol=1e-5)

  @parameterized.product(name=('rbf', 'imq', 'multi_scale', 'linear'))
  def test_symmetric(self, name):
    x, y = _normal(1, 2, 4)
    kernel_fn = jax.jit(functools.partial(_FUNCTIONS[name], bandwidth=0.7))
    self.assertEqual(float(kernel_fn(x, y)), float(kernel_fn(y, x)))

  def test_distances_match_a_loop(self):
    x, y = _normal(2, 5, 3), _normal(3, 4, 3)
    expected = [[np.sum((a - b) ** 2) for b in y] for a in x]
    # float32, 3 dimensions; the matmul form differences terms of size 10
    actual = jax.jit(svgd.squared_distances)(x, y)
    np.testing.assert_allclose(actual, expected, atol=5e-6)

  def test_distances_are_never_negative(self):
    x = _normal(4, 64, 32)
    distances = jax.jit(svgd.squared_distances)(x, x)
    self.assertGreaterEqual(np.min(distances), 0.0)


if __name__ == '__main__':
  absltest.main()
