"""Tests of ldc_vae.models.convolution."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.models import convolution

# (k, s): of the networks, a kernel within its stride, and one that s divides
_SHAPES = ((4, 2), (5, 2), (3, 1), (2, 3), (6, 3))
_FUNCTIONS = (convolution.convolve, convolution.convolve_transposed)


def _normal(seed, *shape):
  rng = np.random.default_rng(seed)
  return rng.normal(size=shape).astype(np.float32)


def _padding(size, stride, side, transposed):
  """p of the docstrings, as TensorFlow and jax define SAME."""
  if not transposed:
    num = -(-side // stride)
    return max((num - 1) * stride + size - side, 0) // 2
  return size - 1 if stride >= size else -(-(size + stride - 2) // 2)


def _loops(x, kernel, stride, transposed):
  """The docstring's sum, one output, input and tap at a time."""
  size = len(kernel)
  pads = [_padding(size, stride, side, transposed) for side in x.shape[1:3]]
  sides = [
    side * stride if transposed else -(-side // stride) for side in x.shape[1:3]
  ]
  y = np.zeros((len(x), *sides, kernel.shape[-1]))
  for row, column in np.ndindex(*sides):
    for i, j in np.ndindex(size, size):
      if transposed:
        at = np.array([row + i - pads[0], column + j - pads[1]])
        if np.any(at % stride):
          continue
        at //= stride
      else:
        at = stride * row + i - pads[0], stride * column + j - pads[1]
      if 0 <= at[0] < x.shape[1] and 0 <= at[1] < x.shape[2]:
        y[:, row, column] += x[:, at[0], at[1]] @ kernel[i, j]
  return y


class ConvolveTest(parameterized.TestCase):
  @parameterized.product(
    shape=_SHAPES, transposed=(False, True), channels=((2, 5), (5, 2))
  )
  def test_matches_loops(self, shape, transposed, channels):
    (size, stride), (inputs, outputs) = shape, channels
    x = _normal(0, 2, 7, 4, inputs)
    kernel = _normal(1, size, size, inputs, outputs)
    expected = _loops(x, kernel, stride, transposed)
    for implementation in ('native', 'subpixel', 'patches'):
      function = jax.jit(
        _FUNCTIONS[transposed], static_argnames=('stride', 'implementation')
      )
      actual = function(x, kernel, stride=stride, implementation=implementation)
      # float32, up to 180 terms of size 1
      np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-5)

  @parameterized.product(
    shape=((4, 2), (5, 2), (3, 1)),
    transposed=(False, True),
    cost=(-0.999, 1e9),  # prefers few multiply-adds, and few numbers
  )
  def test_gradients_are_the_native_ones(self, shape, transposed, cost):
    (size, stride), (inputs, outputs) = shape, (3, 2)
    x = _normal(0, 2, 6, 5, inputs)
    kernel = _normal(1, size, size, inputs, outputs)
    function = functools.partial(_FUNCTIONS[transposed], stride=stride)
    weights = _normal(
      2,
      *jax.eval_shape(
        functools.partial(function, implementation='native'), x, kernel
      ).shape,
    )

    def loss_fn(x, kernel, implementation):
      y = function(x, kernel, implementation=implementation)
      return jnp.sum(weights * jnp.square(y))

    grad_fn = jax.jit(jax.grad(loss_fn, argnums=(0, 1)), static_argnums=2)
    native = jax.device_get(grad_fn(x, kernel, 'native'))
    subpixel = jax.device_get(grad_fn(x, kernel, 'subpixel'))
    with absltest.mock.patch.object(convolution, '_COST_OF_A_NUMBER', cost):
      patches = jax.device_get(grad_fn(x, kernel, 'patches'))
    for grads in (subpixel, patches):
      for a, b in zip(grads, native):
        # float32, sums of up to 240 terms
        scale = np.max(np.abs(b))
        np.testing.assert_allclose(a / scale, b / scale, atol=2e-6)

  def test_every_way_is_taken(self):
    ways = ('_by_patches', '_by_overlap_add')
    taken = []
    with absltest.mock.patch.multiple(
      convolution,
      **{
        way: functools.partial(
          lambda *args, way, fn: (taken.append(way), fn(*args))[1],
          way=way,
          fn=getattr(convolution, way),
        )
        for way in ways
      },
    ):
      for function, shape, outputs, size, stride in (
        # the strided one, the last one; the first and last transposed one
        (convolution.convolve, (2, 14, 14, 32), 64, 4, 2),
        (convolution.convolve, (2, 32, 32, 32), 1, 3, 1),
        (convolution.convolve_transposed, (2, 4, 4, 128), 64, 4, 2),
        (convolution.convolve_transposed, (2, 16, 16, 32), 32, 4, 2),
      ):
        jax.eval_shape(
          functools.partial(function, stride=stride, implementation='patches'),
          np.zeros(shape, np.float32),
          np.zeros((size, size, shape[-1], outputs), np.float32),
        )
    self.assertEqual(taken, [ways[0], ways[1], ways[1], ways[0]])

  @parameterized.parameters(*_FUNCTIONS)
  def test_hessians_and_forward_mode_agree(self, function):
    x, kernel = _normal(0, 1, 4, 4, 2), _normal(1, 4, 4, 2, 3)

    @functools.partial(jax.jit, static_argnums=0)
    def tangent(implementation):
      def gradient_fn(x):
        loss_fn = lambda x: jnp.sum(
          jnp.sin(function(x, kernel, stride=2, implementation=implementation))
        )
        return jax.grad(loss_fn)(x)

      return jax.jvp(gradient_fn, (x,), (jnp.ones_like(x),))[1]

    native = tangent('native')
    for implementation in ('subpixel', 'patches'):
      # float32, sums of 48 and 32 terms
      np.testing.assert_allclose(
        tangent(implementation), native, rtol=1e-4, atol=1e-4
      )

  @parameterized.parameters(*_FUNCTIONS)
  def test_bfloat16_is_near_float32(self, function):
    function = jax.jit(
      functools.partial(function, stride=2, implementation='patches')
    )
    x, kernel = _normal(0, 2, 8, 8, 16), _normal(1, 4, 4, 16, 8) / 16.0
    exact = function(x, kernel)
    rounded = function(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    self.assertEqual(rounded.dtype, jnp.bfloat16)
    # 8 bits of x, the kernel and the result, and of 4 partial sums
    error = np.abs(np.asarray(rounded, np.float32) - np.asarray(exact))
    self.assertLess(np.max(error), 7 * 2.0**-8 * np.max(np.abs(exact)))
    self.assertGreater(np.max(error), 1e-4)


class ModulesTest(parameterized.TestCase):
  @parameterized.product(
    pair=(
      (convolution.Conv, nn.Conv),
      (convolution.ConvTranspose, nn.ConvTranspose),
    ),
    implementation=('native', 'subpixel', 'patches'),
    dtype=(jnp.float32, jnp.bfloat16),
  )
  def test_are_those_of_flax(self, pair, implementation, dtype):
    ours = pair[0](3, 4, stride=2, implementation=implementation, dtype=dtype)
    flax = pair[1](3, (4, 4), strides=(2, 2), padding='SAME', dtype=dtype)
    x = _normal(0, 2, 8, 6, 5)
    key = jax.random.key(0)
    params = jax.jit(ours.init)(key, x)
    chex.assert_trees_all_equal(params, jax.jit(flax.init)(key, x))
    # float32: 80 terms; bfloat16: 8 bits of a result of size 2, of its parts
    atol = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(
      np.asarray(jax.jit(ours.apply)(params, x), np.float32),
      np.asarray(jax.jit(flax.apply)(params, x), np.float32),
      atol=atol,
    )


class ChooseTest(parameterized.TestCase):
  @parameterized.parameters(
    ('cpu', False, 'patches'),
    ('cpu', True, 'patches'),
    ('gpu', False, 'patches'),
    ('gpu', True, 'subpixel'),
    ('tpu', False, 'native'),
    ('tpu', True, 'native'),
  )
  def test_auto_is_what_is_fast_there(self, backend, wide, expected):
    with absltest.mock.patch.object(
      jax, 'default_backend', return_value=backend
    ):
      self.assertEqual(convolution.choose('auto', wide=wide), expected)
      for name in ('native', 'subpixel', 'patches'):
        self.assertEqual(convolution.choose(name, wide=wide), name)

  def test_a_subpixel_program_has_no_dilated_input(self):
    x, kernel = _normal(0, 2, 5, 5, 3), _normal(1, 5, 5, 3, 2)

    def dilated(implementation):
      def loss_fn(x, kernel):
        y = convolution.convolve_transposed(
          x, kernel, stride=2, implementation=implementation
        )
        return jnp.sum(jnp.sin(y))

      program = jax.jit(jax.grad(loss_fn, (0, 1))).lower(x, kernel).as_text()
      self.assertIn('stablehlo.convolution', program)
      return 'lhs_dilate = [2, 2]' in program

    self.assertTrue(dilated('native'))
    self.assertFalse(dilated('subpixel'))

  def test_an_unknown_one_is_named(self):
    with self.assertRaisesRegex(ValueError, "'fast' is unknown; known: auto"):
      convolution.choose('fast')


if __name__ == '__main__':
  absltest.main()
