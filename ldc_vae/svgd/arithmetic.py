"""Sums, products and distances of particles, in full float32."""

import chex
import jax
import jax.numpy as jnp

Array = jax.Array

# Particles below which numbers of a row are multiplied before they are summed.
# XLA's CPU library takes a batch of directions as one operation, a fifth to a
# third faster (but for jax 0.10, see ldc_vae/__init__.py), if no product is of
# an array under 4096 numbers; a batch of 128 has as many row sums from 32
# particles on.
_SHORT_ROW = 32

# Particles from which on a row is summed by a matrix product.
_LONG_ROW = 1024


def at_least_float32(x: Array) -> jnp.dtype:
  """What the directions of particles are computed in."""
  return jnp.promote_types(x.dtype, jnp.float32)


def widened(x: Array) -> Array:
  """x in at least float32."""
  return jnp.asarray(x, at_least_float32(x))


def centre(points: Array) -> Array:
  """The mean [1, D] of points [n, D], to be taken off them."""
  # Not jnp.mean: where XLA fuses its last product into some of the uses of
  # `points - centre` only, these differ by its rounding, which a narrow kernel
  # takes for a distance.
  return jnp.sum(points / points.shape[0], axis=0, keepdims=True)


def squared_distances(x: Array, y: Array) -> Array:
  """Pairwise |x_i - y_j|^2 in matmul form, clamped at 0.

  Centre x and y by one common vector first: an offset of 100 spreads costs
  four digits in float32.

  Args:
    x: Shape [m, D].
    y: Shape [n, D].

  Returns:
    Shape [m, n].
  """
  chex.assert_rank([x, y], 2)
  # twice x, and not twice the m n products
  products = matmul(2.0 * x, y.T)
  norms_x = jnp.sum(jnp.square(x), axis=1)[:, None]
  norms_y = jnp.sum(jnp.square(y), axis=1)[None, :]
  return -jnp.minimum(products - norms_x - norms_y, 0.0)


def scaled_distances(x: Array, y: Array, h: Array) -> Array:
  """|x_i - y_j|^2 / h of x [m, D] and y [n, D]; shape [m, n]."""
  # `squared_distances` with h on one side: m D products, no m n divisions
  products = matmul(x * (2.0 / h), y.T)
  products = products - _norms(x, h)[:, None] - _norms(y, h)[None, :]
  # `exp` of minus this has one operation less than of a maximum
  return -jnp.minimum(products, 0.0)


def _norms(x: Array, h: Array) -> Array:
  """|x_i|^2 / h of x [m, D], shape [m]."""
  if x.shape[0] < _SHORT_ROW:
    return jnp.sum(x * (x / h), axis=1)
  return jnp.sum(jnp.square(x), axis=1) / h


def row_sums(values: Array, weight: Array | float = 1.0) -> Array:
  """The sums of the rows of [m, n] times a number, shape [m, 1]."""
  num = values.shape[1]
  if num < _SHORT_ROW:
    return jnp.sum(weight * values, axis=1, keepdims=True)
  if num < _LONG_ROW:
    return weight * jnp.sum(values, axis=1, keepdims=True)
  # XLA would fuse a sum with the products before and after it into one loop,
  # which is a tenth slower where these are large
  return matmul(values, weight * jnp.ones((num, 1), values.dtype))


def matmul(x: Array, y: Array) -> Array:
  """x @ y in full float32: distances and repulsions are small differences.

  The default on a TPU (bfloat16) or GPU (TF32) has 8 or 11 bits: a particle
  would repel itself by the rounding of its own coordinates.
  """
  return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def masked(values: Array, mask: Array | None) -> Array:
  """values * mask, or values where there is no mask."""
  return values if mask is None else values * mask


def root_mean_square(x: Array) -> Array:
  """Of the rows' lengths of [n, D], a scalar."""
  return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(x), axis=-1)))
