"""Sums, products and distances of particles, in full float32."""

import chex
import jax
import jax.numpy as jnp

Array = jax.Array

# With fewer particles than this, the numbers of a row are multiplied before
# they are summed. XLA's CPU library then takes a batch of directions as one
# operation, a fifth to a third faster (except with jax 0.10, see
# ldc_vae/__init__.py). It does so only if no product is of an array under 4096
# numbers. A batch of 128 sets has that many row sums from 32 particles on.
_SHORT_ROW = 32

# With this many particles or more, a matrix product sums the rows.
_LONG_ROW = 1024


def at_least_float32(x: Array) -> jnp.dtype:
  """The type in which the directions of particles x are computed."""
  return jnp.promote_types(x.dtype, jnp.float32)


def widened(x: Array) -> Array:
  """x in at least float32."""
  return jnp.asarray(x, at_least_float32(x))


def centre(points: Array) -> Array:
  """The mean [1, D] of points [n, D], to be subtracted from them."""
  # Not jnp.mean: XLA may fuse its last product into some uses of
  # `points - centre` and not into others. These then differ by rounding, which
  # a narrow kernel takes for a distance.
  return jnp.sum(points / points.shape[0], axis=0, keepdims=True)


def squared_distances(x: Array, y: Array) -> Array:
  """Pairwise |x_i - y_j|^2 in matmul form, clamped at 0.

  Subtract one common vector from x and y first: an offset of 100 times their
  standard deviation costs four digits in float32.

  Args:
    x: Shape [m, D].
    y: Shape [n, D].

  Returns:
    Shape [m, n].
  """
  chex.assert_rank([x, y], 2)
  # doubling x costs m D products, doubling the result m n
  products = matmul(2.0 * x, y.T)
  norms_x = jnp.sum(jnp.square(x), axis=1)[:, None]
  norms_y = jnp.sum(jnp.square(y), axis=1)[None, :]
  return -jnp.minimum(products - norms_x - norms_y, 0.0)


def scaled_distances(x: Array, y: Array, h: Array) -> Array:
  """|x_i - y_j|^2 / h of x [m, D] and y [n, D]; shape [m, n]."""
  # dividing x by h costs m D products, dividing the result m n divisions
  products = matmul(x * (2.0 / h), y.T)
  products = products - _norms(x, h)[:, None] - _norms(y, h)[None, :]
  # written so that `exp(-result)` needs one operation less than a maximum
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
  # which is a tenth slower for large products
  return matmul(values, weight * jnp.ones((num, 1), values.dtype))


def matmul(x: Array, y: Array) -> Array:
  """x @ y in full float32: distances and repulsions are small differences.

  The default on a TPU (bfloat16) or GPU (TF32) has 8 or 11 bits. With it, the
  rounding of its own coordinates would make a particle repel itself.
  """
  return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def gather(points: Array, axis_name: str | None) -> Array:
  """Returns the points [n, D] of all devices as one set [devices n, D].

  A loss of this set has the same value on every device. The mean of its
  gradients over devices is the gradient of the loss of the whole set.
  """
  if axis_name is None:
    return points
  return jax.lax.all_gather(points, axis_name, tiled=True)


def masked(values: Array, mask: Array | None) -> Array:
  """values * mask, or values if the mask is None."""
  return values if mask is None else values * mask


def root_mean_square(x: Array) -> Array:
  """The root mean square length of the rows of [n, D], a scalar."""
  return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(x), axis=-1)))
