"""The networks of a run, by name, and the functions that every method needs.

An encoder gives `(mean, logvar)` or particles. A decoder gives logits whose
sigmoid is the image's mean. The sampler net gives standardised latents, the
latent energy a scalar. No module knows a loss, a config or a device. Weights
are float32; `dtype` is that of the matmuls.

A new architecture is one function and one line of `ARCHITECTURES`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from ldc_vae import errors
from ldc_vae import fields
from ldc_vae.models import conv
from ldc_vae.models import convolution as convolution_lib
from ldc_vae.models import encoders
from ldc_vae.models import latent_nets
from ldc_vae.models import likelihoods
from ldc_vae.models import mlp
from ldc_vae.models import resnet
from ldc_vae.models.sizes import Sizes

Array = jax.Array

# name -> (sizes, image_shape, dtype, convolution) -> (torso, decoder): a torso
# maps images [..., H, W, C] to features [..., F], a decoder latents [..., D] to
# logits [..., H, W, C]
ARCHITECTURES: dict[str, Callable[..., tuple[nn.Module, nn.Module]]] = {
  'mlp': mlp.create,
  'gated_mlp': functools.partial(mlp.create, gated=True),
  'conv': conv.create,
  'conv64': functools.partial(conv.create, wide=True),
  'resnet': resnet.create,
}


DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class Options(Sizes):
  """The networks."""

  architecture: str = fields.one_of(
    ARCHITECTURES,
    default='mlp',
    help='layers of encoder and decoder; conv is made for 28x28 and 32x32'
    ' images, conv64 for 64x64, resnet for colour images of both sizes',
  )
  encoder: str = fields.one_of(
    encoders.ENCODERS,
    default='gaussian',
    help='the posterior of an image; implicit: noise enters the net, warped:'
    ' implicit on top of a gaussian, none: lebm infers by Langevin dynamics',
  )
  convolution: str = fields.one_of(
    convolution_lib.IMPLEMENTATIONS,
    default='auto',
    help='how convolutions are computed, with the same weights; auto: the'
    ' fastest on this device',
  )
  likelihood: str = fields.one_of(
    likelihoods.LIKELIHOODS, default='gaussian', help='p(x|z) of a pixel'
  )
  scale: float = fields.positive(
    default=0.31622776,
    help='scale of a gaussian or logistic likelihood, pixels in [0, 1]',
  )
  learn_scale: bool = fields.field(
    False, 'learn one scale for all pixels by gradient'
  )
  dtype: str = fields.one_of(
    DTYPES, default='float32', help='of the layers of encoder and decoder'
  )

  def check(self) -> None:
    if not self.hidden_sizes and self.encoder in ('implicit', 'warped'):
      raise self.conflict(
        ('hidden_sizes', 'encoder'),
        'has no layer for its noise; use one size or more',
      )
    if self.learn_scale and self.likelihood == 'bernoulli':
      raise self.conflict(
        ('learn_scale', 'likelihood'),
        'has no scale to learn; use learn_scale=false or another likelihood',
      )


class Model(NamedTuple):
  """The networks of a run, and the functions that every method needs.

  `params` is a dict with one entry per network that the method trains; a
  method without a sampler has no 'sampler'. The modules are those of all
  methods; with the encoder 'none' there is no 'encoder'.
  """

  modules: dict[str, nn.Module]
  image_shape: tuple[int, int, int]
  options: Options

  @property
  def latent_size(self) -> int:
    """The dimension D of a latent."""
    return self.options.latent_size

  @property
  def encoder(self) -> str:
    """The key of `encoders.ENCODERS`."""
    return self.options.encoder

  @property
  def noise_size(self) -> int:
    """Numbers of noise that the encoder needs for a particle, often 0."""
    return encoders.ENCODERS[self.encoder].noise_size_fn(self.options)

  def init(self, key: Array, names: Sequence[str]) -> dict[str, chex.ArrayTree]:
    """Returns initial float32 weights of the networks `names`."""
    image = jnp.zeros((1, *self.image_shape))
    z = jnp.zeros((1, self.latent_size))
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
    """Returns the trained ones of encoder, decoder and scale."""
    encoder = ('encoder',) if 'encoder' in self.modules else ()
    return (
      *encoder,
      'decoder',
      *(('scale',) if self.options.learn_scale else ()),
    )

  def particles(
    self, params, images: Array, keys: Array, num_particles: int
  ) -> encoders.Particles:
    """Draws K reparameterised posterior particles of each image.

    Args:
      params: Weights with 'encoder'.
      images: Shape [B, H, W, C], in [0, 1].
      keys: One PRNG key per image, shape [B].
      num_particles: K.

    Returns:
      z [B, K, D], and the mean and logvar [B, D] of the posterior. A gaussian
      encoder has both. An implicit or a warped one has None for both. A
      deterministic one has only a mean, and z is K copies of it.
    """
    particles_fn = encoders.ENCODERS[self.encoder].particles_fn
    assert particles_fn is not None, 'there is no encoder'
    apply_fn = functools.partial(
      self.modules['encoder'].apply, params['encoder']
    )
    return particles_fn(apply_fn, images, keys, num_particles, self.noise_size)

  def gaussian_particles(
    self, params, images: Array, keys: Array, num_particles: int
  ) -> tuple[Array, Array, Array]:
    """Returns `particles` of a gaussian encoder, whose mean is not None."""
    z, mean, logvar = self.particles(params, images, keys, num_particles)
    assert mean is not None and logvar is not None, self.encoder
    return z, mean, logvar

  def decode(self, params, z: Array) -> Array:
    """Returns the mean images [..., H, W, C] of latents [..., D]."""
    logits = self.modules['decoder'].apply(params['decoder'], z)
    return jax.nn.sigmoid(logits)

  def log_likelihood(self, params, images: Array, z: Array) -> Array:
    """Returns log p(x|z) in nats.

    Args:
      params: Weights with 'decoder', and 'scale' if it is learned.
      images: Shape [B, H, W, C].
      z: Shape [B, K, D].

    Returns:
      Shape [B, K].
    """
    logits = self.modules['decoder'].apply(params['decoder'], z)
    log_scale = jnp.log(self.options.scale)
    if self.options.learn_scale:
      log_scale = self.modules['scale'].apply(params['scale'])
    likelihood_fn = likelihoods.LIKELIHOODS[self.options.likelihood]
    _check_scalar(likelihood_fn, logits, images, log_scale)
    over_particles = jax.vmap(likelihood_fn, in_axes=(0, None, None))
    over_images = jax.vmap(over_particles, in_axes=(0, 0, None))
    return over_images(logits, images, log_scale)


def create_model(image_shape: tuple[int, int, int], **values: Any) -> Model:
  """Builds the modules of a run; allocates nothing.

  Args:
    image_shape: (H, W, C).
    **values: Fields of `Options`.

  Raises:
    UserError: An option is out of range.
  """
  options = Options(**values)
  torso, decoder = ARCHITECTURES[options.architecture](
    options, image_shape, jnp.dtype(options.dtype), options.convolution
  )
  modules = {
    'decoder': decoder,
    'sampler': latent_nets.SamplerNet(
      options.sampler_width, options.sampler_blocks
    ),
    'energy': latent_nets.LatentEnergy(
      options.energy_width, options.energy_blocks
    ),
    'discriminator': latent_nets.Discriminator(
      options.energy_width, options.energy_blocks
    ),
    'pseudo_inputs': latent_nets.PseudoInputs(
      options.num_pseudo_inputs, image_shape
    ),
    'scale': likelihoods.ObservationScale(options.scale),
  }
  create_fn = encoders.ENCODERS[options.encoder].create_fn
  if create_fn is not None:
    modules['encoder'] = create_fn(torso, options)
  return Model(modules, image_shape, options)


def _check_scalar(likelihood_fn, logits, images, log_scale) -> None:
  """Raises a `UserError` unless a likelihood, of an extension, is a scalar."""
  one = jax.eval_shape(
    likelihood_fn,
    jax.ShapeDtypeStruct(logits.shape[2:], logits.dtype),
    jax.ShapeDtypeStruct(images.shape[1:], images.dtype),
    log_scale,
  )
  shape = getattr(one, 'shape', type(one).__name__)
  if shape != ():
    name = getattr(likelihood_fn, '__qualname__', likelihood_fn)
    raise errors.UserError(
      f'config.model.likelihood: {name} returns {shape} for one image, not a'
      ' scalar; sum over its pixels'
    )


def num_parameters(params: chex.ArrayTree) -> int:
  """Returns the number of weights of a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
