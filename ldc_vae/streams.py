"""The named streams of random numbers of a run.

A run has one base key, `jax.random.key(seed)`. A train step folds its number
into it. Everything else folds in one of these numbers, which no step reaches.
"""

import enum

import jax
import jax.numpy as jnp

Array = jax.Array


class Stream(enum.Enum):
  """The purposes of keys: numbers that are folded into another key."""

  INIT = 2**31
  VALIDATION = 2**31 + 1
  EVALUATION = 2**31 + 2
  SAMPLE = 2**31 + 3
  FLIPS = 2**31 + 4  # folded into an image's key: whether it is mirrored
  PIXELS = 2**31  # folded into an image's key: the draw of a binary image


def draw_normal(keys: Array, shape: tuple[int, ...]) -> Array:
  """Draws standard normal noise [B, *shape], one row for each key."""
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def image_keys(
  key: Array,
  batch_size: int,
  axis_name: str | None,
  first: Array | int = 0,
) -> Array:
  """Returns one key for each image of this device's batch.

  Args:
    key: The key of the step.
    batch_size: B, images on this device.
    axis_name: The device axis, or None.
    first: The position of the first image of all devices.

  Returns:
    Keys [B]. Image i of device d has the key of position first + d B + i. So
    noise does not depend on the number of devices or batches.
  """
  if axis_name is not None:
    first += jax.lax.axis_index(axis_name) * batch_size
  positions = first + jnp.arange(batch_size)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, positions)
