"""The base of a method: its options, its training phases and its generator.

Each method is one file in this folder. It has a frozen dataclass, a subclass of
`Method`, whose fields are `config.method`; and it has pure functions. `build`
returns its `Algorithm` for a model's networks. A train step runs the
algorithm's phases in order. A phase is an objective and the networks that its
gradient trains.

    objective_fn(params, images, keys, context) -> Output

`images` [B, H, W, C] are in [0, 1]. `keys` [B] has one PRNG key per image. It
depends on the seed, step, phase, update and position in the global batch. So
noise that is drawn by `vmap` over the keys does not depend on the number of
devices or micro-batches.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any, ClassVar, NamedTuple

import chex
from flax import struct
import jax
import jax.numpy as jnp

from ldc_vae import elbo
from ldc_vae import fields
from ldc_vae import sections
from ldc_vae import streams
from ldc_vae.models import model as model_lib

Array = jax.Array

draw_normal = streams.draw_normal

# The number of draws that estimate the mean of an implicit posterior.
_NUM_PARTICLES = 16


@dataclasses.dataclass(frozen=True)
class Context:
  """The inputs of an objective besides weights, images and keys.

  Attributes:
    progress: Fraction of the training done, a scalar in [0, 1).
    stats: The statistics that the method keeps between steps; no gradient.
    ema_params: Averaged weights before this step; no gradient.
    latents: Particles of the first phase, [B, K, D], without a gradient; None
      in the first phase.
    update: Index of this update within its phase, a scalar.
    axis_name: The name of the device axis, over which particles are gathered;
      None on one device.
  """

  progress: Array | float
  stats: Any = ()
  ema_params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  latents: Array | None = None
  update: Array | int = 0
  axis_name: str | None = None


@struct.dataclass
class Output:
  """The output of an objective.

  Attributes:
    loss: A scalar whose gradient trains the phase's networks.
    metrics: Scalars to log, by name; the first phase must have 'loss'.
    latents: Particles for the later phases, [B, K, D], without a gradient, or
      None. Each device keeps its own.
    stats: The new statistics, which are averaged over devices; None keeps the
      old ones.
  """

  loss: Array
  metrics: dict[str, Array]
  latents: Array | None = None
  stats: Any = None


ObjectiveFn = Callable[..., Output]

AUTOENCODER, LATENT = 'autoencoder', 'latent'


class Phase(NamedTuple):
  """One objective and the networks that it trains.

  Attributes:
    objective_fn: See the module's docstring.
    trains: The keys of `params` that are trained.
    num_updates: Optimiser updates per train step.
    per_image: Whether the objective is a mean over images. Then it can be
      computed in micro-batches. Otherwise it gets the whole batch at once; an
      objective of a set of latents also uses `svgd.gather` over all devices.
    role: AUTOENCODER or LATENT; it selects the optimiser's options.
  """

  objective_fn: ObjectiveFn
  trains: tuple[str, ...]
  num_updates: int = 1
  per_image: bool = True
  role: str = AUTOENCODER


def normal_log_prior(params, stats, z: Array) -> Array:
  """Returns log N(z; 0, I) of one latent z [D] in nats, the usual prior."""
  del params, stats
  return elbo.standard_normal_log_prob(z)


class Algorithm(NamedTuple):
  """The functions of a method for given networks.

  Attributes:
    phases: The phases of a step, in this order. The first one trains the
      autoencoder, and its metrics are also those of the validation.
    init_stats: `() -> stats`, a pytree of arrays, or ().
    generate: `(params, stats, keys [N]) -> z [N, D]`, the latents that are
      decoded to the method's own samples.
    log_prior: `(params, stats, z [D]) -> log p(z)`, a scalar in nats, which
      likelihoods use; None if its normaliser is not known.
    encode: `(params, stats, images, keys [B]) -> z [B, K, D]`, independent
      draws of each posterior, K >= 2, for a method without an encoder net; None
      if it has an encoder net.
  """

  phases: tuple[Phase, ...]
  init_stats: Callable[[], Any]
  generate: Callable[..., Array]
  log_prior: Callable[..., Array] | None = normal_log_prior
  encode: Callable[..., Array] | None = None

  @property
  def trained(self) -> tuple[str, ...]:
    """Returns the names of all networks that the method trains, each once."""
    names = [name for phase in self.phases for name in phase.trains]
    return tuple(dict.fromkeys(names))


@dataclasses.dataclass(frozen=True)
class Method(fields.Options):
  """The base class of all methods; a subclass's fields are `config.method`.

  Attributes:
    name: The method's name in configs and on the command line.
    label: Its name in tables and pictures.
    encoders: The `model.encoder` values that it can train, the default first.
    encoder_reason: The reason for this restriction, for the error message.
    defaults: Its defaults for fields of other groups, by dotted name.
    compares_sets: Whether its loss compares sets of latents, which needs a
      batch of at least two images.
  """

  group: ClassVar[str] = 'method'
  name: ClassVar[str]
  label: ClassVar[str]
  encoders: ClassVar[tuple[str, ...]]
  encoder_reason: ClassVar[str]
  defaults: ClassVar[Mapping[str, Any]] = {}
  compares_sets: ClassVar[bool] = False

  def build(self, model: model_lib.Model) -> Algorithm:
    """Returns the algorithm for a model's networks.

    Args:
      model: The networks, with one of `encoders`.

    Raises:
      UserError: The model has another encoder.
    """
    raise NotImplementedError

  def first_phase(
    self, model: model_lib.Model, objective_fn: ObjectiveFn, **kwargs: Any
  ) -> Phase:
    """Returns the phase that trains the autoencoder.

    Args:
      model: The networks.
      objective_fn: An objective that also takes `model` and `**kwargs`.
      **kwargs: The method's own fields, unless they are given.

    Raises:
      UserError: The model has an encoder that the method cannot train.
    """
    self.require_encoder(model.encoder)
    objective_fn = functools.partial(
      objective_fn, model=model, **(kwargs or dataclasses.asdict(self))
    )
    return Phase(
      objective_fn,
      model.autoencoder_names(),
      per_image=not self.compares_sets,
    )

  def check_with(self, groups: sections.Groups) -> None:
    """Raises a `UserError` if other groups of the config do not fit."""
    self.require_encoder(groups.model.encoder)
    batch_size = groups.train.batch_size
    if self.compares_sets and batch_size < 2:
      raise fields.conflict(
        {'train.batch_size': batch_size, 'method.name': self.name},
        'is too small: this method compares sets of latents; use a batch_size'
        ' of 2 or more',
      )

  def require_encoder(self, encoder: str) -> None:
    """Raises a `UserError` if the method cannot train this encoder."""
    if encoder not in self.encoders:
      raise fields.conflict(
        {'model.encoder': encoder, 'method.name': self.name},
        f'does not go together: {self.encoder_reason}; use encoder'
        f' {" or ".join(self.encoders)}',
      )


class Posterior(NamedTuple):
  """The posteriors of B images.

  Attributes:
    z: One draw of each posterior, [B, D].
    mean: The means, [B, D]; estimated from draws if they are not known exactly.
    logvar: The log variances [B, D] of a gaussian encoder, else None.
    mean_variance: An unbiased estimate of the variance of `mean`, [B, D]; None
      if `mean` is exact.
  """

  z: Array
  mean: Array
  logvar: Array | None
  mean_variance: Array | None


def encode(
  algorithm: Algorithm,
  model: model_lib.Model,
  params,
  stats,
  images: Array,
  keys: Array,
) -> Posterior:
  """Returns the posteriors of images, by the method's own inference.

  Args:
    algorithm: The method's functions.
    model: The networks.
    params: The weights of the networks.
    stats: The method's statistics.
    images: Shape [B, H, W, C], in [0, 1].
    keys: PRNG keys, shape [B].

  Returns:
    The posteriors.
  """
  chex.assert_type(images, float)
  if algorithm.encode is None:
    z, mean, logvar = model.particles(params, images, keys, _NUM_PARTICLES)
    if mean is not None:
      return Posterior(z[:, 0], mean, logvar, None)
  else:
    z = algorithm.encode(params, stats, images, keys)
  variance = jnp.var(z, axis=1, ddof=1) / z.shape[1]
  return Posterior(z[:, 0], jnp.mean(z, axis=1), None, variance)


def kl_weight(progress: Array | float, warmup: float) -> Array | float:
  """Returns the weight of the KL divergence, which rises from 0 to 1 linearly.

  Sonderby et al. (2016), https://arxiv.org/abs/1602.02282. With the full weight
  from the start, latents become inactive before the decoder learns to use them.

  Args:
    progress: Fraction of the training done, a scalar in [0, 1].
    warmup: Fraction of the training until the weight is 1; 0: always 1.

  Returns:
    A scalar.
  """
  return jnp.minimum(progress / warmup, 1.0) if warmup else 1.0


def kl_warmup_field() -> float:
  """Returns the field `kl_warmup`, see `kl_weight`."""
  return fields.fraction(
    default=0.0,
    help='fraction of training until the KL term weighs fully; 0: none',
  )


def prior_latents(params, stats, keys: Array, *, latent_size: int) -> Array:
  """Draws z ~ N(0, I), shape [N, D]: the generator of a plain VAE."""
  del params, stats
  return draw_normal(keys, (latent_size,))


def with_normal_prior(model: model_lib.Model, *phases: Phase) -> Algorithm:
  """Returns an algorithm that generates from z ~ N(0, I), without statistics.

  Args:
    model: The networks.
    *phases: The phases of a step, in this order.

  Returns:
    The algorithm.
  """
  return Algorithm(
    phases=phases,
    init_stats=tuple,
    generate=functools.partial(prior_latents, latent_size=model.latent_size),
  )


def fold_in(keys: Array, data: Array | int) -> Array:
  """Applies `jax.random.fold_in` to each key of keys [B]."""
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def posterior_metrics(logvar: Array | None, z: Array) -> dict[str, Array]:
  """Returns the scale of the posteriors, which shows collapse and divergence.

  Args:
    logvar: The log variances of a gaussian encoder, shape [B, D], else None.
    z: Particles, shape [B, K, D].

  Returns:
    A dict of two scalars. 'posterior_std' is the mean standard deviation over
    images and dimensions. Without a logvar it is estimated from the particles:
    unbiased if they are normal, and 0 for K = 1. 'latent_mean_square' is the
    mean of z^2, so it can be averaged over devices and micro-batches.
  """
  std = _standard_deviations(z) if logvar is None else jnp.exp(0.5 * logvar)
  return {
    'posterior_std': jnp.mean(std),
    'latent_mean_square': jnp.mean(jnp.square(z)),
  }


def _standard_deviations(z: Array) -> Array:
  """Returns the standard deviations [B, D] of particles z [B, K, D]."""
  k = z.shape[1]
  if k == 1:
    return jnp.zeros_like(z[:, 0])
  # the mean sample standard deviation of K normal numbers, in units of sigma
  ratio = math.exp(math.lgamma(0.5 * k) - math.lgamma(0.5 * (k - 1)))
  expected = math.sqrt(2.0 / (k - 1)) * ratio
  return jnp.std(z, axis=1, ddof=1) / expected
