"""Encoders: from an image to a posterior, or to particles of one.

A torso turns images into features; an encoder adds the last layers. A new
encoder is a module, a function that gives its particles, and a line of
`ENCODERS`.
"""

from collections.abc import Callable
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from ldc_vae import streams
from ldc_vae.models.sizes import Sizes

Array = jax.Array
Particles = tuple[Array, Array | None, Array | None]  # z, mean, logvar

# log sigma of a posterior stays within CENTRE +- RANGE, smoothly (tanh): a hard
# clip has no gradient back. sigma starts at 0.14 and can reach 0.007 and 2.7.
_LOG_STD_CENTRE = -2.0
_LOG_STD_RANGE = 3.0


class GaussianEncoder(nn.Module):
  """Images [..., H, W, C] -> mean [..., D] and logvar [..., D]."""

  torso: nn.Module
  latent_size: int

  @nn.compact
  def __call__(self, images: Array) -> tuple[Array, Array]:
    x = self.torso(images).astype(jnp.float32)
    moments = nn.Dense(2 * self.latent_size, name='moments')(x)
    mean, raw = jnp.split(moments, 2, axis=-1)
    log_std = _LOG_STD_CENTRE + _LOG_STD_RANGE * jnp.tanh(raw)
    return mean, 2.0 * log_std


class ImplicitEncoder(nn.Module):
  """Images [B, H, W, C] and noise [B, K, M] -> particles [B, K, D].

  A dense layer adds the noise to the features, so that the posterior can have
  any shape; its density is not known. Pu et al. (2017),
  https://arxiv.org/abs/1704.05155.
  """

  torso: nn.Module
  latent_size: int
  hidden_size: int

  @nn.compact
  def __call__(self, images: Array, noise: Array) -> Array:
    features = self.torso(images).astype(jnp.float32)
    x = _mix(features, noise, self.hidden_size)
    centre = nn.Dense(self.latent_size)(features)[:, None, :]
    return centre + nn.Dense(self.latent_size)(x)


class WarpedEncoder(nn.Module):
  """Images [B, H, W, C] and noise [B, K, D + M] -> particles [B, K, D].

  z = m(x) + s(x) noise[:D] + w(x, noise). The first two terms are a Gaussian,
  whose standard deviations s start near 1. The third is a net of all the
  noise, which starts at 0. The density is not known.

  An `ImplicitEncoder` has m and w alone. In many dimensions it finds the width
  of a posterior very slowly by SVGD of a few particles, because their direction
  is mostly noise there (docs/lab-notes.md).
  """

  torso: nn.Module
  latent_size: int
  hidden_size: int

  @nn.compact
  def __call__(self, images: Array, noise: Array) -> Array:
    features = self.torso(images).astype(jnp.float32)
    x = _mix(features, noise, self.hidden_size)
    # Not bounded as in the gaussian encoder: log s would then move up to six
    # times as fast, fall in the first steps, and hardly rise again.
    moments = nn.Dense(2 * self.latent_size, name='moments')(features)
    mean, logvar = jnp.split(moments[:, None, :], 2, axis=-1)
    own = jnp.exp(0.5 * logvar) * noise[..., : self.latent_size]
    warp = nn.Dense(self.latent_size, kernel_init=nn.initializers.zeros)(x)
    return mean + own + warp


class DeterministicEncoder(nn.Module):
  """Images [..., H, W, C] -> codes [..., D]."""

  torso: nn.Module
  latent_size: int

  @nn.compact
  def __call__(self, images: Array) -> Array:
    x = self.torso(images).astype(jnp.float32)
    return nn.Dense(self.latent_size, name='mean')(x)


def _mix(features: Array, noise: Array, size: int) -> Array:
  """Layers of the calling module: [B, F], noise [B, K, M] -> [B, K, size]."""
  x = nn.Dense(size)(features)[:, None, :]
  x = nn.relu(x + nn.Dense(size, use_bias=False)(noise))
  return nn.relu(nn.Dense(size)(x))


def _gaussian_particles(
  apply_fn, images, keys, num_particles, noise_size
) -> Particles:
  """z = mean + std noise."""
  del noise_size
  mean, logvar = apply_fn(images)
  noise = streams.draw_normal(keys, (num_particles, mean.shape[-1]))
  z = mean[:, None] + jnp.exp(0.5 * logvar)[:, None] * noise
  return z, mean, logvar


def _particles_of_noise(
  apply_fn, images, keys, num_particles, noise_size
) -> Particles:
  """The encoder itself maps noise to particles."""
  noise = streams.draw_normal(keys, (num_particles, noise_size))
  return apply_fn(images, noise), None, None


def _repeated_codes(
  apply_fn, images, keys, num_particles, noise_size
) -> Particles:
  """K times the same code."""
  del keys, noise_size
  code = apply_fn(images)
  return jnp.repeat(code[:, None], num_particles, axis=1), code, None


class Encoder(NamedTuple):
  """Two functions: one builds an encoder, one draws its particles.

  Attributes:
    create_fn: Maps a torso and the `Sizes` to the module; None for no encoder.
    particles_fn: `(apply_fn, images [B, H, W, C], keys [B], num_particles,
      noise_size) -> (z [B, K, D], mean, logvar)`, where `apply_fn` is the
      module with its weights; mean and logvar [B, D] are None if unknown.
      None for no encoder.
    noise_size_fn: Maps the `Sizes` to the numbers of noise that the module
      takes beside an image; 0 for none.
  """

  create_fn: Callable[[nn.Module, Sizes], nn.Module] | None
  particles_fn: Callable[..., Particles] | None
  noise_size_fn: Callable[[Sizes], int] = lambda sizes: 0


ENCODERS = {
  'gaussian': Encoder(
    lambda torso, sizes: GaussianEncoder(torso, sizes.latent_size),
    _gaussian_particles,
  ),
  'implicit': Encoder(
    lambda torso, sizes: ImplicitEncoder(
      torso, sizes.latent_size, sizes.hidden_sizes[-1]
    ),
    _particles_of_noise,
    lambda sizes: sizes.noise_size,
  ),
  'warped': Encoder(
    lambda torso, sizes: WarpedEncoder(
      torso, sizes.latent_size, sizes.hidden_sizes[-1]
    ),
    _particles_of_noise,
    lambda sizes: sizes.latent_size + sizes.noise_size,
  ),
  'deterministic': Encoder(
    lambda torso, sizes: DeterministicEncoder(torso, sizes.latent_size),
    _repeated_codes,
  ),
  # for a method that infers latents without an encoder
  'none': Encoder(None, None),
}
