"""The architectures of dense layers, plain or gated."""

from collections.abc import Sequence
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from ldc_vae.models.sizes import Sizes

Array = jax.Array
Dtype = jnp.dtype


class MlpTorso(nn.Module):
  """Images [..., H, W, C] -> features [..., F], by dense layers."""

  hidden_sizes: Sequence[int]
  gated: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, images: Array) -> Array:
    # one leading axis: with more, XLA transposes copies for the gradients
    x = images.reshape(-1, math.prod(images.shape[-3:])).astype(self.dtype)
    for size in self.hidden_sizes:
      x = _dense_layer(x, size, self.gated, self.dtype)
    return x.reshape(*images.shape[:-3], x.shape[-1])


class MlpDecoder(nn.Module):
  """Latents [..., D] -> logits [..., H, W, C], by dense layers."""

  hidden_sizes: Sequence[int]
  image_shape: tuple[int, int, int]
  gated: bool = False
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, z: Array) -> Array:
    x = z.reshape(-1, z.shape[-1]).astype(self.dtype)  # one leading axis
    for size in self.hidden_sizes:
      x = _dense_layer(x, size, self.gated, self.dtype)
    x = nn.Dense(math.prod(self.image_shape), dtype=self.dtype)(x)
    return x.reshape(*z.shape[:-1], *self.image_shape).astype(jnp.float32)


def create(
  sizes: Sizes,
  image_shape: tuple[int, int, int],
  dtype: Dtype,
  convolution: str,
  *,
  gated: bool = False,
) -> tuple[MlpTorso, MlpDecoder]:
  """Returns the torso and the decoder, see `model.ARCHITECTURES`."""
  del convolution  # it has none
  mirrored = tuple(reversed(sizes.hidden_sizes))
  return (
    MlpTorso(sizes.hidden_sizes, gated, dtype),
    MlpDecoder(mirrored, image_shape, gated, dtype),
  )


def _dense_layer(x, size, gated, dtype):
  """ReLU of a dense layer, or (W x + b) sigmoid(V x + c).

  The gate: Dauphin et al. (2017), https://arxiv.org/abs/1612.08083, as in the
  VAEs of Tomczak and Welling (2018), https://arxiv.org/abs/1705.07120.
  """
  if not gated:
    return nn.relu(nn.Dense(size, dtype=dtype)(x))
  values, gates = jnp.split(nn.Dense(2 * size, dtype=dtype)(x), 2, axis=-1)
  return values * jax.nn.sigmoid(gates)
