"""The architectures of strided convolutions."""

from collections.abc import Sequence
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from ldc_vae.models import convolution as convolution_lib
from ldc_vae.models.sizes import Sizes

Array = jax.Array
Dtype = jnp.dtype


class ConvTorso(nn.Module):
  """Images [..., H, W, C] -> features [..., F], halving once per channel."""

  channels: Sequence[int]
  kernel_size: int = 4
  normalise: bool = False
  dtype: Dtype = jnp.float32
  convolution: str = 'auto'  # one of convolution.IMPLEMENTATIONS

  @nn.compact
  def __call__(self, images: Array) -> Array:
    batch_shape = images.shape[:-3]
    x = images.reshape(-1, *images.shape[-3:]).astype(self.dtype)
    for features in self.channels:
      x = convolution_lib.Conv(
        features,
        self.kernel_size,
        stride=2,
        implementation=self.convolution,
        dtype=self.dtype,
      )(x)
      if self.normalise:
        x = nn.GroupNorm(math.gcd(8, features), dtype=self.dtype)(x)
      x = nn.relu(x)
    return x.reshape(*batch_shape, -1)


class ConvDecoder(nn.Module):
  """Latents [..., D] -> logits [..., H, W, C], doubling once per channel."""

  channels: Sequence[int]  # those of the encoder; used from last to first
  image_shape: tuple[int, int, int]
  kernel_size: int = 4
  normalise: bool = False
  dtype: Dtype = jnp.float32
  convolution: str = 'auto'  # one of convolution.IMPLEMENTATIONS

  @nn.compact
  def __call__(self, z: Array) -> Array:
    height, width, colours = self.image_shape
    rows, columns = convolution_lib.halved(height, width, len(self.channels))
    widths = tuple(reversed(self.channels))
    x = z.reshape(-1, z.shape[-1]).astype(self.dtype)
    x = nn.Dense(rows * columns * widths[0], dtype=self.dtype)(x)
    x = nn.relu(x).reshape(-1, rows, columns, widths[0])
    for features in (*widths[1:], widths[-1]):
      x = convolution_lib.ConvTranspose(
        features,
        self.kernel_size,
        stride=2,
        implementation=self.convolution,
        dtype=self.dtype,
      )(x)
      if self.normalise:
        x = nn.GroupNorm(math.gcd(8, features), dtype=self.dtype)(x)
      x = nn.relu(x)
    x = convolution_lib.Conv(
      colours, 3, implementation=self.convolution, dtype=self.dtype
    )(x)
    x = convolution_lib.middle(x, height, width)
    return x.reshape(*z.shape[:-1], *self.image_shape).astype(jnp.float32)


def create(
  sizes: Sizes,
  image_shape: tuple[int, int, int],
  dtype: Dtype,
  convolution: str,
  *,
  wide: bool = False,
) -> tuple[ConvTorso, ConvDecoder]:
  """Returns the torso and the decoder, see `model.ARCHITECTURES`.

  Args:
    sizes: The widths.
    image_shape: (H, W, C).
    dtype: The type of the matmuls.
    convolution: One of convolution.IMPLEMENTATIONS.
    wide: For images of 64x64 and more: kernels of 5x5, and normalisation,
      because four or more halvings train badly without it.

  Returns:
    The torso and the decoder.
  """
  options = dict(
    kernel_size=5 if wide else 4,
    normalise=wide,
    dtype=dtype,
    convolution=convolution_lib.choose(convolution, wide=wide),
  )
  torso = ConvTorso(sizes.channels, **options)
  return torso, ConvDecoder(sizes.channels, image_shape, **options)
