"""The pixels of an array of images: uint8, or floats in [0, 1]."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import errors

# 1e-3 beyond [0, 1] allows for rounding, as of bfloat16 images.
_LOW, _HIGH = -1e-3, 1.001


def check(images: np.ndarray, image_shape: Sequence[int]) -> None:
  """Raises a `UserError` unless images have a shape, a type and a range.

  Args:
    images: uint8, or floats in [0, 1], shape [N, H, W, C].
    image_shape: (H, W, C).
  """
  if images.ndim != 4 or tuple(images.shape[1:]) != tuple(image_shape):
    raise errors.UserError(
      f'images have shape {tuple(images.shape)}; the network needs shape'
      f' [N, {", ".join(map(str, image_shape))}]'
    )
  if images.dtype == np.uint8:
    return
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise errors.UserError(
      f'images have dtype {images.dtype}; give uint8, or floats in [0, 1]'
    )
  # `not` also rejects NaN
  if images.size and not (images.min() >= _LOW and images.max() <= _HIGH):
    raise errors.UserError(
      f'images of dtype {images.dtype} are in [{images.min():.4g},'
      f' {images.max():.4g}]; give uint8, or floats in [0, 1]'
    )


def with_channels(images: np.ndarray) -> np.ndarray:
  """Returns images of shape [N, H, W] or [N, H, W, C] as [N, H, W, C].

  Raises:
    ValueError: They have another shape, are none, or are one image.
  """
  shape = images.shape
  one = images.ndim == 3 and shape[2] == 3 and min(shape) > 0
  if images.ndim == 3 and not one:
    images = images[..., np.newaxis]
  if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
    hint = ''
    if one:
      hint = ', not one image'
    elif images.ndim == 4 and images.shape[1] in (1, 3):
      hint = '; move the channels to the end by images.transpose(0, 2, 3, 1)'
    raise ValueError(
      f'shape {shape}: expected [N, H, W], [N, H, W, 1] or [N, H, W, 3]{hint}'
    )
  return images


def check_uint8(images: np.ndarray, name: str) -> None:
  """Raises a `UserError` unless images are uint8 [N, H, W, C].

  Args:
    images: The array.
    name: Which images these are, for the message.
  """
  if images.ndim != 4 or images.dtype != np.uint8:
    raise errors.UserError(
      f'{name} are {images.dtype}{list(images.shape)}; give uint8'
      ' [N, H, W, C], as np.round(255 * images).astype(np.uint8) of floats in'
      ' [0, 1]'
    )


def flip(images: jax.Array, keys: jax.Array) -> jax.Array:
  """Mirrors each image left to right with a probability of 1/2.

  Args:
    images: Shape [B, H, W, C].
    keys: PRNG keys of the choice, [B].

  Returns:
    Shape [B, H, W, C].
  """
  mirrored = jax.vmap(jax.random.bernoulli)(keys)
  return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def to_unit(images):
  """Returns images, uint8 or floats in [0, 1], as float32 in [0, 1]."""
  if images.dtype == np.uint8:
    return images.astype(np.float32) / np.float32(255)
  return images.astype(np.float32)


def from_unit(values: np.ndarray) -> np.ndarray:
  """Returns floats in [0, 1] as uint8.

  Raises:
    ValueError: A value is not finite, or outside by more than rounding.
  """
  lowest, highest = values.min(), values.max()
  # min and max return NaN if there is one, and NaN fails both comparisons
  if not (lowest >= _LOW and highest <= _HIGH):
    shown = f'values from {lowest:.7g} to {highest:.7g}'
    raise ValueError(
      f'{"NaN" if np.isnan(lowest) else shown}, where floats must be in [0, 1]'
    )
  return np.round(values.clip(0, 1).astype(np.float32) * 255).astype(np.uint8)
