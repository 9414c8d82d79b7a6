"""The architecture of residual convolutions with group normalisation.

A block adds to its input what two convolutions of 3x3 make of it, each after a
normalisation and an activation: He et al. (2016),
https://arxiv.org/abs/1603.05027, figure 1 (b), with the group normalisation of
Wu and He (2018), https://arxiv.org/abs/1803.08494.
"""

from collections.abc import Sequence
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from ldc_vae.models import convolution as convolution_lib
from ldc_vae.models.sizes import Sizes

Array = jax.Array
Dtype = jnp.dtype


class ResidualBlock(nn.Module):
  """Images [B, H, W, C] -> [B, H, W, C]."""

  dtype: Dtype
  convolution: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    y = x
    for _ in range(2):
      y = _activate(y, self.dtype)
      y = convolution_lib.Conv(
        x.shape[-1], 3, implementation=self.convolution, dtype=self.dtype
      )(y)
    return x + y


class ResnetTorso(nn.Module):
  """Images [..., H, W, C] -> features [..., F], halving once per channel."""

  channels: Sequence[int]
  dtype: Dtype = jnp.float32
  convolution: str = 'auto'  # one of convolution.IMPLEMENTATIONS

  @nn.compact
  def __call__(self, images: Array) -> Array:
    x = images.reshape(-1, *images.shape[-3:]).astype(self.dtype)
    for features in self.channels:
      x = convolution_lib.Conv(
        features,
        4,
        stride=2,
        implementation=self.convolution,
        dtype=self.dtype,
      )(x)
      x = ResidualBlock(self.dtype, self.convolution)(x)
    x = _activate(x, self.dtype)
    return x.reshape(*images.shape[:-3], -1)


class ResnetDecoder(nn.Module):
  """Latents [..., D] -> logits [..., H, W, C], doubling once per channel."""

  channels: Sequence[int]  # those of the encoder; used from last to first
  image_shape: tuple[int, int, int]
  dtype: Dtype = jnp.float32
  convolution: str = 'auto'  # one of convolution.IMPLEMENTATIONS

  @nn.compact
  def __call__(self, z: Array) -> Array:
    height, width, colours = self.image_shape
    rows, columns = convolution_lib.halved(height, width, len(self.channels))
    widths = tuple(reversed(self.channels))
    x = z.reshape(-1, z.shape[-1]).astype(self.dtype)
    x = nn.Dense(rows * columns * widths[0], dtype=self.dtype)(x)
    x = x.reshape(-1, rows, columns, widths[0])
    for features in (*widths[1:], widths[-1]):
      x = ResidualBlock(self.dtype, self.convolution)(x)
      x = convolution_lib.ConvTranspose(
        features,
        4,
        stride=2,
        implementation=self.convolution,
        dtype=self.dtype,
      )(x)
    x = convolution_lib.Conv(
      colours, 3, implementation=self.convolution, dtype=self.dtype
    )(_activate(x, self.dtype))
    x = convolution_lib.middle(x, height, width)
    return x.reshape(*z.shape[:-1], *self.image_shape).astype(jnp.float32)


def create(
  sizes: Sizes,
  image_shape: tuple[int, int, int],
  dtype: Dtype,
  convolution: str,
) -> tuple[ResnetTorso, ResnetDecoder]:
  """Returns the torso and the decoder, see `model.ARCHITECTURES`."""
  convolution = convolution_lib.choose(convolution, wide=True)
  return (
    ResnetTorso(sizes.channels, dtype, convolution),
    ResnetDecoder(sizes.channels, image_shape, dtype, convolution),
  )


def _activate(x: Array, dtype: Dtype) -> Array:
  """Layers of the calling module: SiLU of group-normalised images."""
  groups = math.gcd(8, x.shape[-1])
  return nn.silu(nn.GroupNorm(groups, dtype=dtype)(x))
