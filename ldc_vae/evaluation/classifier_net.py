"""The network of the feature classifier, with convolutions as matmuls."""

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import errors

Array = jax.Array


class PatchConv(nn.Module):
  """A convolution by one matmul of patches, with SAME padding.

  On a CPU it is several times faster than `nn.Conv`.
  """

  features: int
  kernel_size: int
  stride: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), F]."""
    chex.assert_rank(x, 4)
    return nn.Dense(self.features)(
      _extract_patches(x, self.kernel_size, self.stride)
    )


class Network(nn.Module):
  """A network of strided convolutions, a feature layer and a linear layer."""

  channels: tuple[int, ...]
  kernel_sizes: tuple[int, ...]
  strides: tuple[int, ...]
  num_features: int
  num_classes: int

  @nn.compact
  def __call__(self, images: Array) -> tuple[Array, Array]:
    """Maps images in [0, 1], [B, H, W, C], to features [B, F] and logits."""
    x = 2.0 * images - 1.0
    for channels, kernel_size, stride in zip(
      self.channels, self.kernel_sizes, self.strides, strict=True
    ):
      x = nn.gelu(PatchConv(channels, kernel_size, stride)(x))
    x = x.reshape(x.shape[0], -1)
    # GELU, because with a ReLU up to half of the features are always 0
    features = nn.gelu(nn.Dense(self.num_features, name='features')(x))
    logits = nn.Dense(self.num_classes, name='logits')(features)
    return features, logits


def create_network(
  image_shape: tuple[int, int, int], num_classes: int
) -> Network:
  """Returns a network whose strides reduce a side to 4 pixels or fewer."""
  side = max(image_shape[:2])
  if min(image_shape[:2]) < 4:
    raise errors.UserError(
      f'images of {image_shape[0]}x{image_shape[1]} pixels are too small for'
      ' the feature classifier; use at least 4x4 pixels, or no labels'
    )
  if side < 16:
    return Network((32, 64), (3, 3), (1, 2), 32, num_classes)
  num_layers = max(3, int(np.ceil(np.log2(side / 4))))
  channels = (32, 64) + (128,) * (num_layers - 2)
  kernel_sizes = (5,) + (3,) * (num_layers - 1)
  return Network(channels, kernel_sizes, (2,) * num_layers, 64, num_classes)


def _extract_patches(x: Array, kernel_size: int, stride: int) -> Array:
  """Returns SAME patches [B, H', W', kernel_size^2 C] of x [B, H, W, C]."""
  sizes = [-(-size // stride) for size in x.shape[1:3]]
  pads = []
  for size, out in zip(x.shape[1:3], sizes):
    total = max((out - 1) * stride + kernel_size - size, 0)
    pads.append((total // 2, total - total // 2))
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  patches = []
  for i in range(kernel_size):
    for j in range(kernel_size):
      rows = slice(i, i + (sizes[0] - 1) * stride + 1, stride)
      columns = slice(j, j + (sizes[1] - 1) * stride + 1, stride)
      patches.append(x[:, rows, columns])
  return jnp.concatenate(patches, axis=-1)
