"""What a method is: options, phases of updates, and a way to make latents.

A method is one file beside this one: a frozen dataclass `Method` whose fields
are `config.method`, and pure functions. `build` gives its `Algorithm` for a
model's networks. A train step runs the algorithm's phases in order; a phase is
an objective and the networks that its gradient trains.

    objective_fn(params, images, keys, context) -> Output

`images` [B, H, W, C] are in [0, 1]. `keys` [B] holds one PRNG key per image, a
function of (seed, step, phase, update, position in the global batch): noise
drawn by `vmap` over them does not depend on the number of devices or
micro-batches.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any, ClassVar, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from ldc_vae import elbo
from ldc_vae import fields
from ldc_vae import sections
from ldc_vae.models import model as model_lib

Array = jax.Array

# Draws behind the mean of a posterior that has no closed form.
_NUM_PARTICLES = 16


@dataclasses.dataclass(frozen=True)
class Context:
  """What an objective knows besides weights, images and keys.

  Attributes:
    progress: Fraction of the training done, a scalar in [0, 1).
    stats: What the method keeps between steps without a gradient.
    ema_params: Averaged weights before this step, without a gradient.
    latents: Particles of the first phase, [B, K, D], without a gradient; None
      in the first phase.
    update: Index of this update within its phase, a scalar.
    axis_name: The device axis, for particles that must see each other; None on
      one device.
  """

  progress: Array | float
  stats: Any = ()
  ema_params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  latents: Array | None = None
  update: Array | int = 0
  axis_name: str | None = None


@struct.dataclass
class Output:
  """What an objective returns.

  Attributes:
    loss: A scalar whose gradient trains the phase's networks.
    metrics: Scalars to log, by name; a first phase has 'loss'.
    latents: Particles for the later phases, [B, K, D], without a gradient;
      each device keeps its own. Or None.
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
  """One objective and the networks it trains.

  Attributes:
    objective_fn: See the module's docstring.
    trains: Keys of `params` whose gradient is taken.
    num_updates: Optimiser updates per train step.
    per_image: The objective is a mean over images, so that micro-batches of it
      add up. The others see the whole batch at once; an objective that looks
      at a set of latents gathers it from all devices, see `gather`.
    role: AUTOENCODER or LATENT, which chooses the optimiser's options.
  """

  objective_fn: ObjectiveFn
  trains: tuple[str, ...]
  num_updates: int = 1
  per_image: bool = True
  role: str = AUTOENCODER


def normal_log_prior(params, stats, z: Array) -> Array:
  """log N(z; 0, I) of one latent z [D]: the prior of most methods; nats."""
  del params, stats
  return elbo.standard_normal_log_prob(z)


class Algorithm(NamedTuple):
  """A method with its networks: how to train, and how to make images.

  Attributes:
    phases: Run in this order in each step; the first trains the autoencoder,
      and its metrics are those of validation.
    init_stats: `() -> stats`, a pytree of arrays, or ().
    generate: `(params, stats, keys [N]) -> z [N, D]`: latents whose decoding is
      the method's own sample.
    log_prior: `(params, stats, z [D]) -> log p(z)`, a scalar in nats, under
      which likelihoods are evaluated; None where its normaliser is not known.
    encode: `(params, stats, images, keys [B]) -> z [B, K, D]`, independent
      draws of each posterior, K >= 2, of a method that infers without an
      encoder net; None where the net does it.
  """

  phases: tuple[Phase, ...]
  init_stats: Callable[[], Any]
  generate: Callable[..., Array]
  log_prior: Callable[..., Array] | None = normal_log_prior
  encode: Callable[..., Array] | None = None

  @property
  def trained(self) -> tuple[str, ...]:
    """The names of all networks that the method trains, each once."""
    names = [name for phase in self.phases for name in phase.trains]
    return tuple(dict.fromkeys(names))


@dataclasses.dataclass(frozen=True)
class Method(fields.Options):
  """The base of all methods; the fields of a subclass are `config.method`.

  Attributes:
    name: The method's name in configs and on the command line.
    label: Its name in tables and pictures.
    encoders: The values of `model.encoder` that it can train, the best first.
    encoder_reason: Why it needs one of them, for the error message.
    defaults: Fields of other groups whose default it changes, by dotted name.
    compares_sets: Its loss compares sets of latents, which need two images.
  """

  group: ClassVar[str] = 'method'
  name: ClassVar[str]
  label: ClassVar[str]
  encoders: ClassVar[tuple[str, ...]]
  encoder_reason: ClassVar[str]
  defaults: ClassVar[Mapping[str, Any]] = {}
  compares_sets: ClassVar[bool] = False

  def build(self, model: model_lib.Model) -> Algorithm:
    """Returns the algorithm with a model's networks.

    Args:
      model: The networks; with one of `encoders`.

    Raises:
      UserError: The model's encoder is another.
    """
    raise NotImplementedError

  def check_with(self, groups: sections.Groups) -> None:
    """Raises a `UserError` where other groups of the config do not fit."""
    self.require_encoder(groups.model.encoder)
    batch_size = groups.train.batch_size
    if self.compares_sets and batch_size < 2:
      raise fields.conflict(
          {'train.batch_size': batch_size, 'method.name': self.name},
          'compares no sets; use a batch_size of 2 or more',
      )

  def require_encoder(self, encoder: str) -> None:
    """Raises a `UserError` unless the method can train an encoder."""
    if encoder not in self.encoders:
      raise fields.conflict(
          {'model.encoder': encoder, 'method.name': self.name},
          f'does not go together: {self.encoder_reason}; use encoder'
          f' {" or ".join(self.encoders)}',
      )


class Posterior(NamedTuple):
  """The posteriors of B images.

  Attributes:
    z: One draw of each, [B, D].
    mean: [B, D]; that of draws where nothing knows it exactly.
    logvar: [B, D], of a gaussian encoder, else None.
    mean_variance: [B, D], the variance of `mean` as an estimate, itself an
      unbiased one; None where it is exact.
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
  """Posteriors of images, by whatever the method infers with.

  Args:
    algorithm: The method with its networks.
    model: The networks.
    params: Their weights.
    stats: The method's statistics.
    images: Shape [B, H, W, C], in [0, 1].
    keys: Shape [B].

  Returns:
    The posteriors.
  """
  if algorithm.encode is None:
    z, mean, logvar = model.particles(params, images, keys, _NUM_PARTICLES)
    if mean is not None:
      return Posterior(z[:, 0], mean, logvar, None)
  else:
    z = algorithm.encode(params, stats, images, keys)
  variance = jnp.var(z, axis=1, ddof=1) / z.shape[1]
  return Posterior(z[:, 0], jnp.mean(z, axis=1), None, variance)


def draw_normal(keys: Array, shape: tuple[int, ...]) -> Array:
  """Standard normal noise [B, *shape], one key per leading index."""
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def kl_weight(progress: Array | float, warmup: float) -> Array | float:
  """Weight of what pulls posteriors to the prior: 0, rising to 1 linearly.

  Sonderby et al. (2016), https://arxiv.org/abs/1602.02282: a KL divergence that
  weighs fully from the start switches latents off before the decoder has found
  a use for them.

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
  """z ~ N(0, I), shape [N, D]: the generator of a plain VAE."""
  del params, stats
  return draw_normal(keys, (latent_size,))


def with_normal_prior(model: model_lib.Model, *phases: Phase) -> Algorithm:
  """An algorithm whose images are made from z ~ N(0, I), without statistics.

  Args:
    model: The networks.
    *phases: Run in this order in each step.

  Returns:
    The algorithm.
  """
  return Algorithm(
      phases=phases,
      init_stats=tuple,
      generate=functools.partial(prior_latents, latent_size=model.latent_size),
  )


def gather(points: Array, axis_name: str | None) -> Array:
  """The points [n, D] of all devices, one set [devices n, D].

  A loss of such a set is the same on every device, and the mean over devices of
  its gradients is the gradient of the whole set's loss.
  """
  if axis_name is None:
    return points
  return jax.lax.all_gather(points, axis_name, tiled=True)


def fold_in(keys: Array, data: Array | int) -> Array:
  """`jax.random.fold_in` of each key of keys [B]."""
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def posterior_metrics(logvar: Array | None, z: Array) -> dict[str, Array]:
  """Scale of the posteriors, to see collapse and blow-up in the log.

  Args:
    logvar: Of a gaussian encoder, shape [B, D], or None of another.
    z: Particles, shape [B, K, D].

  Returns:
    'posterior_std', mean over images and dimensions (without a logvar, by the
    particles: unbiased for normal ones, 0 of a lone one), and
    'latent_mean_square', which is a mean over devices and parts of a batch too.
  """
  std = _deviations(z) if logvar is None else jnp.exp(0.5 * logvar)
  return {
      'posterior_std': jnp.mean(std),
      'latent_mean_square': jnp.mean(jnp.square(z)),
  }


def _deviations(z: Array) -> Array:
  """Standard deviations [B, D] of particles z [B, K, D]."""
  k = z.shape[1]
  if k == 1:
    return jnp.zeros_like(z[:, 0])
  # E of the square root of the unbiased variance of K normal numbers, in sigma
  ratio = math.exp(math.lgamma(0.5 * k) - math.lgamma(0.5 * (k - 1)))
  expected = math.sqrt(2.0 / (k - 1)) * ratio
  return jnp.std(z, axis=1, ddof=1) / expected
