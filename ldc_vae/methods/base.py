"""What a method is: phases of updates, and a way to make latents.

A method is a file beside this one with `create(model, **fields) -> Method`, its
fields being those of `config.objective`. A train step runs the method's phases
in order; a phase is an objective and the networks that its gradient trains.

    objective_fn(params, images, keys, context) -> (loss [], (metrics, updates))

`images` [B, H, W, C] are in [0, 1]. `keys` [B] holds one PRNG key per image, a
function of (seed, step, phase, update, position in the global batch): noise
drawn by `vmap` over them does not depend on the number of devices or
micro-batches. `updates` is merged into the context, a dict with

    'progress'   [] fraction of the training done, in [0, 1)
    'update'     [] index of this update within its phase
    'stats'      what the method keeps between steps without a gradient
    'ema_params' averaged weights before this step, without gradient
    'axis_name'  the device axis, for particles that must see each other
    'latents'    [B, K, D] particles of the first phase, without gradient
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldc_vae import elbo
from ldc_vae.models import model as model_lib

Array = jax.Array
Context = dict[str, Any]
ObjectiveFn = Callable[..., tuple[Array, tuple[dict[str, Array], Context]]]

# Behind the mean of a posterior that has no closed form.
_NUM_PARTICLES = 16


class Phase(NamedTuple):
  """One objective and the networks it trains.

  Attributes:
    objective_fn: See the module's docstring.
    trains: Keys of `params` whose gradient is taken.
    num_updates: Optimiser updates per train step.
    per_image: The objective is a mean over images, so that micro-batches of it
      add up; the others see the whole batch at once, and one that looks at a
      set of latents gathers it from all devices, see `gather`.
  """

  objective_fn: ObjectiveFn
  trains: tuple[str, ...]
  num_updates: int = 1
  per_image: bool = True


def normal_log_prior(params, stats, z: Array) -> Array:
  """log N(z; 0, I) of one latent z [D]: the prior of most methods; nats."""
  del params, stats
  return elbo.standard_normal_log_prob(z)


class Method(NamedTuple):
  """A way to train, and to make images.

  Attributes:
    phases: Run in this order in each step; the first trains the autoencoder,
      at the rate of the autoencoder, and its metrics are those of validation.
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
    method: Method,
    model: model_lib.Model,
    params,
    stats,
    images: Array,
    keys: Array,
) -> Posterior:
  """Posteriors of images, by whatever the method infers with.

  Args:
    method: The method.
    model: Its networks.
    params: Their weights.
    stats: The method's.
    images: Shape [B, H, W, C], in [0, 1].
    keys: Shape [B].

  Returns:
    The posteriors.
  """
  if method.encode is None:
    z, mean, logvar = model.particles(params, images, keys, _NUM_PARTICLES)
    if mean is not None:
      return Posterior(z[:, 0], mean, logvar, None)
  else:
    z = method.encode(params, stats, images, keys)
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


def prior_latents(params, stats, keys: Array, *, latent_size: int) -> Array:
  """z ~ N(0, I), shape [N, D]: the generator of a plain VAE."""
  del params, stats
  return draw_normal(keys, (latent_size,))


def with_normal_prior(model: model_lib.Model, *phases: Phase) -> Method:
  """A method whose images are made from z ~ N(0, I); it keeps no statistics.

  Args:
    model: Its networks.
    *phases: Run in this order in each step.

  Returns:
    The method.
  """
  return Method(
      phases=phases,
      init_stats=tuple,
      generate=functools.partial(prior_latents, latent_size=model.latent_size),
  )


def require_encoder(
    method: str, model: model_lib.Model, *encoders: str, reason: str
) -> None:
  """Raises a ValueError unless the model's encoder is one of `encoders`."""
  if model.encoder not in encoders:
    raise ValueError(
        f'objective {method} needs model.encoder={" or ".join(encoders)}, got'
        f' {model.encoder!r}: {reason}'
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
