"""Flax Linen modules: encoders, decoders, sampler net, latent energy.

An encoder gives `(mean, logvar)` or particles, a decoder gives logits whose
sigmoid is the image's mean, the sampler net gives standardised latents, the
latent energy a scalar. No module knows a loss, a config or a device. Weights
are float32; `dtype` is that of the matmuls.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from ldc_vae import elbo
from ldc_vae.models import convolution as convolution_lib

Array = jax.Array
Dtype = jnp.dtype

# log sigma of a posterior lies in CENTRE +- RANGE, smoothly (tanh): a hard clip
# has no gradient back. sigma starts at 0.14 and can reach 0.007 and 2.7.
_LOG_STD_CENTRE = -2.0
_LOG_STD_RANGE = 3.0


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

  The noise enters the features by a dense layer, so that the posterior may
  have any shape; its density is not known. Pu et al. (2017),
  https://arxiv.org/abs/1704.05155.
  """

  torso: nn.Module
  latent_size: int
  hidden_size: int

  @nn.compact
  def __call__(self, images: Array, noise: Array) -> Array:
    features = self.torso(images).astype(jnp.float32)
    x = _stir(features, noise, self.hidden_size)
    centre = nn.Dense(self.latent_size)(features)[:, None, :]
    return centre + nn.Dense(self.latent_size)(x)


class WarpedEncoder(nn.Module):
  """Images [B, H, W, C] and noise [B, K, D + M] -> particles [B, K, D].

  z = m(x) + s(x) noise[:D] + w(x, noise): a Gaussian, at first with deviations
  s of about 1, and what a net makes of all the noise, at first 0; the density
  is not known. An `ImplicitEncoder`, which is m and w alone, finds the width of
  a posterior in many dimensions very slowly by SVGD of a few particles: their
  direction is mostly noise there (benchmarks/README.md).
  """

  torso: nn.Module
  latent_size: int
  hidden_size: int

  @nn.compact
  def __call__(self, images: Array, noise: Array) -> Array:
    features = self.torso(images).astype(jnp.float32)
    x = _stir(features, noise, self.hidden_size)
    # Not bounded as the gaussian encoder's: log s of that moves up to six times
    # as fast, falls in the first steps, and hardly rises again.
    moments = nn.Dense(2 * self.latent_size, name='moments')(features)
    mean, logvar = jnp.split(moments[:, None, :], 2, axis=-1)
    own = jnp.exp(0.5 * logvar) * noise[..., : self.latent_size]
    warp = nn.Dense(self.latent_size, kernel_init=nn.initializers.zeros)(x)
    return mean + own + warp


def _stir(features: Array, noise: Array, size: int) -> Array:
  """Layers of the calling module: [B, F], noise [B, K, M] -> [B, K, size]."""
  x = nn.Dense(size)(features)[:, None, :]
  x = nn.relu(x + nn.Dense(size, use_bias=False)(noise))
  return nn.relu(nn.Dense(size)(x))


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


class ConvDecoder(nn.Module):
  """Latents [..., D] -> logits [..., H, W, C], doubling once per channel."""

  channels: Sequence[int]  # of the encoder; used from last to first
  image_shape: tuple[int, int, int]
  kernel_size: int = 4
  normalise: bool = False
  dtype: Dtype = jnp.float32
  convolution: str = 'auto'  # one of convolution.IMPLEMENTATIONS

  @nn.compact
  def __call__(self, z: Array) -> Array:
    height, width, colours = self.image_shape
    factor = 2 ** len(self.channels)
    rows, columns = -(-height // factor), -(-width // factor)
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
    # sizes that are no multiple of the factor: keep the middle
    top = (x.shape[1] - height) // 2
    left = (x.shape[2] - width) // 2
    x = x[:, top : top + height, left : left + width]
    return x.reshape(*z.shape[:-1], *self.image_shape).astype(jnp.float32)


class ResidualMlp(nn.Module):
  """Vectors [..., D] -> features [..., W]: x + dense(silu(dense(silu(x)))).

  Blocks start near the identity, as steps of a flow that can be steep between
  clusters. What they buy over plain layers depends on the data set, see
  `benchmarks/README.md`.
  """

  width: int
  num_blocks: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    small = nn.initializers.variance_scaling(0.1, 'fan_in', 'normal')
    x = nn.Dense(self.width, dtype=self.dtype)(x.astype(self.dtype))
    for _ in range(self.num_blocks):
      h = nn.Dense(self.width, dtype=self.dtype)(nn.silu(x))
      h = nn.silu(h)
      x += nn.Dense(self.width, dtype=self.dtype, kernel_init=small)(h)
    return nn.silu(x).astype(jnp.float32)


class SamplerNet(nn.Module):
  """Noise xi [..., D] -> latents u = xi + net(xi) [..., D].

  It starts as the identity: u ~ N(0, I). `ldc` standardises the latents that it
  learns from; `drifting` whitens them.
  """

  width: int
  num_blocks: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, noise: Array) -> Array:
    features = ResidualMlp(self.width, self.num_blocks, self.dtype)(noise)
    zeros = nn.initializers.zeros_init()
    return noise + nn.Dense(noise.shape[-1], kernel_init=zeros)(features)


class LatentEnergy(nn.Module):
  """Latents u [..., D] -> energies f(u) [...], in nats.

  Smooth (SiLU): its gradient is the sampler's score, and its gradient's
  gradient is in the gradient penalty.
  """

  width: int
  num_blocks: int
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, u: Array) -> Array:
    features = ResidualMlp(self.width, self.num_blocks, self.dtype)(u)
    return nn.Dense(1)(features)[..., 0]


class ObservationScale(nn.Module):
  """The log scale [] of the likelihood, one for all pixels."""

  initial: float

  @nn.compact
  def __call__(self) -> Array:
    start = nn.initializers.constant(math.log(self.initial))
    return self.param('log_scale', start, ())


class DeterministicEncoder(nn.Module):
  """Images [..., H, W, C] -> codes [..., D]."""

  torso: nn.Module
  latent_size: int

  @nn.compact
  def __call__(self, images: Array) -> Array:
    x = self.torso(images).astype(jnp.float32)
    return nn.Dense(self.latent_size, name='mean')(x)


class Discriminator(nn.Module):
  """Latents z [..., D] -> log odds [...] that they are draws of the prior.

  It starts undecided, at log odds 0.
  """

  width: int
  num_layers: int

  @nn.compact
  def __call__(self, z: Array) -> Array:
    for _ in range(self.num_layers):
      z = nn.relu(nn.Dense(self.width)(z))
    return nn.Dense(1, kernel_init=nn.initializers.zeros_init())(z)[..., 0]


class PseudoInputs(nn.Module):
  """Learned images [N, H, W, C] in (0, 1); takes no input.

  The sigmoid of free logits, as grey images have in the code of Tomczak and
  Welling, https://github.com/jmtomczak/vae_vampprior.
  """

  number: int
  image_shape: tuple[int, int, int]

  @nn.compact
  def __call__(self) -> Array:
    # a spread of 1: pseudo-inputs that start alike stay alike
    start = nn.initializers.normal(1.0)
    logits = self.param('logits', start, (self.number, *self.image_shape))
    return jax.nn.sigmoid(logits)


def _dense_layer(x, size, gated, dtype):
  """ReLU of a dense layer, or (W x + b) sigmoid(V x + c).

  The gate: Dauphin et al. (2017), https://arxiv.org/abs/1612.08083, as in the
  VAEs of Tomczak and Welling (2018), https://arxiv.org/abs/1705.07120.
  """
  if not gated:
    return nn.relu(nn.Dense(size, dtype=dtype)(x))
  values, gates = jnp.split(nn.Dense(2 * size, dtype=dtype)(x), 2, axis=-1)
  return values * jax.nn.sigmoid(gates)


def _mlp(sizes, image_shape, dtype, convolution, gated=False):
  del convolution  # it has none
  mirrored = tuple(reversed(sizes.hidden_sizes))
  return (
      MlpTorso(sizes.hidden_sizes, gated, dtype),
      MlpDecoder(mirrored, image_shape, gated, dtype),
  )


def _gated_mlp(sizes, image_shape, dtype, convolution):
  return _mlp(sizes, image_shape, dtype, convolution, gated=True)


def _conv(sizes, image_shape, dtype, convolution):
  options = dict(
      kernel_size=4,
      normalise=False,
      dtype=dtype,
      convolution=convolution_lib.choose(convolution),
  )
  torso = ConvTorso(sizes.channels, **options)
  return torso, ConvDecoder(sizes.channels, image_shape, **options)


def _conv64(sizes, image_shape, dtype, convolution):
  # 64x64 and up: four or more halvings train badly without normalisation
  options = dict(
      kernel_size=5,
      normalise=True,
      dtype=dtype,
      convolution=convolution_lib.choose(convolution, wide=True),
  )
  torso = ConvTorso(sizes.channels, **options)
  return torso, ConvDecoder(sizes.channels, image_shape, **options)


class Sizes(NamedTuple):
  """The widths of all networks, as in `config.model`."""

  latent_size: int
  hidden_sizes: tuple[int, ...] = (512, 512)
  channels: tuple[int, ...] = (32, 64, 128)
  sampler_width: int = 128
  sampler_blocks: int = 4
  energy_width: int = 256
  energy_blocks: int = 2
  noise_size: int = 16
  num_pseudo_inputs: int = 500


ARCHITECTURES = {
    'mlp': _mlp,
    'gated_mlp': _gated_mlp,
    'conv': _conv,
    'conv64': _conv64,
}
ENCODERS = {
    'gaussian': lambda torso, sizes: GaussianEncoder(torso, sizes.latent_size),
    'implicit': lambda torso, sizes: ImplicitEncoder(
        torso, sizes.latent_size, sizes.hidden_sizes[-1]
    ),
    'warped': lambda torso, sizes: WarpedEncoder(
        torso, sizes.latent_size, sizes.hidden_sizes[-1]
    ),
    'deterministic': lambda torso, sizes: DeterministicEncoder(
        torso, sizes.latent_size
    ),
    'none': lambda torso, sizes: None,  # a method that infers without a net
}
LIKELIHOODS = {
    'bernoulli': lambda logits, image, log_scale: elbo.bernoulli_log_likelihood(
        logits, image
    ),
    'gaussian': lambda logits, image, log_scale: elbo.gaussian_log_likelihood(
        jax.nn.sigmoid(logits), image, log_scale
    ),
    'discretized_logistic': (
        lambda logits, image, log_scale: (
            elbo.discretized_logistic_log_likelihood(
                jax.nn.sigmoid(logits), image, log_scale
            )
        )
    ),
}


class Model(NamedTuple):
  """The networks of a run, and the functions that every method needs.

  `params` is a dict with one entry per network that the method trains; a
  method without a sampler simply has no 'sampler'.
  """

  modules: dict[str, nn.Module]
  image_shape: tuple[int, int, int]
  sizes: Sizes
  encoder: str
  likelihood: str
  scale: float
  learn_scale: bool

  @property
  def latent_size(self) -> int:
    """D."""
    return self.sizes.latent_size

  @property
  def noise_size(self) -> int:
    """What the encoder takes of noise beside an image; 0 for none."""
    if self.encoder == 'implicit':
      return self.sizes.noise_size
    if self.encoder == 'warped':
      return self.latent_size + self.sizes.noise_size
    return 0

  def init(self, key: Array, names: Sequence[str]) -> dict[str, chex.ArrayTree]:
    """Fresh float32 weights of the networks `names`."""
    size = self.latent_size
    image, z = jnp.zeros((1, *self.image_shape)), jnp.zeros((1, size))
    inputs = {
        'encoder': (image,),
        'decoder': (z,),
        'sampler': (z,),
        'energy': (z,),
        'discriminator': (z,),
        'pseudo_inputs': (),
        'scale': (),
    }
    if self.noise_size:
      inputs['encoder'] = (image, jnp.zeros((1, 1, self.noise_size)))
    keys = jax.random.split(key, len(names))
    return {
        name: self.modules[name].init(keys[i], *inputs[name])
        for i, name in enumerate(names)
    }

  def autoencoder_names(self) -> tuple[str, ...]:
    """The networks of every method: encoder, decoder, a learned scale."""
    encoder = () if self.encoder == 'none' else ('encoder',)
    return (*encoder, 'decoder', *(('scale',) if self.learn_scale else ()))

  def particles(
      self, params, images: Array, keys: Array, num_particles: int
  ) -> tuple[Array, Array | None, Array | None]:
    """K reparameterised posterior particles of each image.

    Args:
      params: With 'encoder'.
      images: Shape [B, H, W, C], in [0, 1].
      keys: One PRNG key per image, shape [B].
      num_particles: K.

    Returns:
      z [B, K, D], and the mean and logvar [B, D] of a gaussian encoder, None
      and None of an implicit or warped one, mean and None of a deterministic
      one, whose particles are K times its code.
    """
    encoder = self.modules['encoder']
    if self.encoder == 'deterministic':
      mean = encoder.apply(params['encoder'], images)
      return jnp.repeat(mean[:, None], num_particles, axis=1), mean, None
    if self.noise_size:
      shape = (num_particles, self.noise_size)
      noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
      return encoder.apply(params['encoder'], images, noise), None, None
    mean, logvar = encoder.apply(params['encoder'], images)
    shape = (num_particles, self.latent_size)
    noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    z = mean[:, None] + jnp.exp(0.5 * logvar)[:, None] * noise
    return z, mean, logvar

  def decode(self, params, z: Array) -> Array:
    """The mean images [..., H, W, C] of latents [..., D]."""
    logits = self.modules['decoder'].apply(params['decoder'], z)
    return jax.nn.sigmoid(logits)

  def log_likelihood(self, params, images: Array, z: Array) -> Array:
    """log p(x|z) in nats.

    Args:
      params: With 'decoder', and 'scale' if it is learned.
      images: Shape [B, H, W, C].
      z: Shape [B, K, D].

    Returns:
      Shape [B, K].
    """
    logits = self.modules['decoder'].apply(params['decoder'], z)
    log_scale = jnp.log(self.scale)
    if self.learn_scale:
      log_scale = self.modules['scale'].apply(params['scale'])
    likelihood_fn = LIKELIHOODS[self.likelihood]
    over_particles = jax.vmap(likelihood_fn, in_axes=(0, None, None))
    over_images = jax.vmap(over_particles, in_axes=(0, 0, None))
    return over_images(logits, images, log_scale)


def create_model(
    image_shape: tuple[int, int, int],
    sizes: Sizes,
    *,
    architecture: str = 'mlp',
    encoder: str = 'gaussian',
    likelihood: str = 'gaussian',
    scale: float = 0.1**0.5,
    learn_scale: bool = False,
    dtype: str = 'float32',
    convolution: str = 'auto',
) -> Model:
  """Builds the modules of a run; allocates nothing.

  Args:
    image_shape: (H, W, C).
    sizes: Widths of all networks.
    architecture: A key of ARCHITECTURES.
    encoder: A key of ENCODERS.
    likelihood: A key of LIKELIHOODS.
    scale: Standard deviation (gaussian) or scale (discretized_logistic) of a
      pixel in [0, 1]; where it starts, if it is learned.
    learn_scale: Train one scale for all pixels.
    dtype: 'float32' or 'bfloat16', of the matmuls.
    convolution: One of convolution.IMPLEMENTATIONS; all have the same weights.

  Returns:
    The model.
  """
  torso, decoder = ARCHITECTURES[architecture](
      sizes, image_shape, jnp.dtype(dtype), convolution
  )
  modules = {
      'encoder': ENCODERS[encoder](torso, sizes),
      'decoder': decoder,
      'sampler': SamplerNet(sizes.sampler_width, sizes.sampler_blocks),
      'energy': LatentEnergy(sizes.energy_width, sizes.energy_blocks),
      'discriminator': Discriminator(sizes.energy_width, sizes.energy_blocks),
      'pseudo_inputs': PseudoInputs(
          sizes.num_pseudo_inputs, tuple(image_shape)
      ),
      'scale': ObservationScale(scale),
  }
  return Model(
      modules=modules,
      image_shape=tuple(image_shape),
      sizes=sizes,
      encoder=encoder,
      likelihood=likelihood,
      scale=scale,
      learn_scale=learn_scale,
  )


def num_parameters(params: chex.ArrayTree) -> int:
  """The number of weights in a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
