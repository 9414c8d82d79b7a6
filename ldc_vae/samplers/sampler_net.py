"""The sampler net, trained by SVGD: one update, and a fit to given latents.

The sampler net maps noise to standardised latents, u = xi + net(xi). Pairs of
an aggregate latent and a sampler's latent train a latent energy f, which learns
to tell them apart (`energy.paired_loss`). The particles u move by SVGD on f,

    phi_i = sum_j [k(u_j, u_i) (-grad f(u_j)) + T grad_{u_j} k(u_j, u_i)]
            / sum_j k(u_j, u_i),

and the net learns to follow them: Feng, Wang and Liu (2017),
https://arxiv.org/abs/1707.06626. Wang and Liu (2016),
https://arxiv.org/abs/1611.01722, train an energy against an SVGD sampler. The
bandwidth follows from `sampler_mass`: the weight of all other particles
together, in units of the particle's own weight. This mass is the same at every
latent size. Both nets stop moving only when f cannot tell the two sets apart.

`objective` is the update inside `ldc`'s train step. `fit` is the latent sampler
`svgd`: the same update on the latents of any autoencoder.

Letters: N latents, D latent size, n particles of an update.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from absl import logging
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import energy
from ldc_vae import errors
from ldc_vae import svgd
from ldc_vae.metrics import latent as latent_metrics
from ldc_vae.models import latent_nets
from ldc_vae.samplers import sampler_options
from ldc_vae.samplers import training

Array = jax.Array

NUM_STEPS = 6000  # updates of a fit

BATCH_SIZE = 256
LEARNING_RATE = 2e-3  # the rate after the warm-up; it falls along a cosine
_WARMUP_STEPS = 200
B1 = 0.5  # the momentum is low, because the target moves
_EMA_DECAY = 0.999
_SAMPLER_WIDTH, _SAMPLER_BLOCKS = 128, 4
_ENERGY_WIDTH, _ENERGY_BLOCKS = 128, 2
# A latent varies if its standard deviation is above this part of the largest.
_MIN_STD = 1e-6
_NUM_CHECKED = 10_000  # latents and draws that are compared after the training
_MOMENT_DRAWS = 50_000  # draws of the trained net, which measure its moments


def repulsion_temperature(
  progress: Array | float, *, start: float, end: float, fraction: float
) -> Array:
  """Returns T, which falls from start to end geometrically.

  Args:
    progress: Fraction of the training done, a scalar in [0, 1].
    start: T at the beginning, > 0.
    end: T from `fraction` on, > 0.
    fraction: Fraction of the training in which T falls, in (0, 1].

  Returns:
    T, a scalar.
  """
  position = jnp.minimum(progress / fraction, 1.0)
  return start * (end / start) ** position


def objective(
  params: dict[str, chex.ArrayTree],
  noise: Array,
  aggregate: Array,
  at_aggregate: Array,
  progress: Array | float,
  *,
  sampler_fn: Callable[..., Array],
  energy_fn: Callable[..., Array],
  options: sampler_options.SamplerOptions,
  axis_name: str | None = None,
) -> tuple[Array, dict[str, Array]]:
  """Returns the loss of one update of the sampler net and the latent energy.

  Args:
    params: Weights with keys 'sampler' and 'energy'.
    noise: xi ~ N(0, I), shape [n, D]; with `axis_name`, this device's part.
    aggregate: Standardised draws of the aggregate posterior, shape [n, D].
    at_aggregate: Whether the gradient penalty is taken at the aggregate latent
      of a pair, bool [n].
    progress: Fraction of the training done, a scalar in [0, 1].
    sampler_fn: Maps (weights, noise [n, D]) to u [n, D].
    energy_fn: Maps (weights, one latent [D]) to a scalar in nats.
    options: The options.
    axis_name: The device axis over which the two sets are split, or None.

  Returns:
    A scalar and metrics. Only the gradient of the scalar has a meaning; it
    trains both nets. The metrics are 'sampler_std' (1 is right), 'energy_gap',
    'gradient_penalty' and, with SVGD, 'temperature', 'kernel_mass' and
    'repulsion_share'.
  """
  u = sampler_fn(params['sampler'], noise)
  loss, metrics = energy.paired_loss(
    energy_fn,
    params['energy'],
    aggregate,
    u,
    at_aggregate,
    options.gradient_penalty,
  )
  # no gradient into f's weights: only the pairs train them
  f = functools.partial(energy_fn, jax.lax.stop_gradient(params['energy']))
  direction = -jax.vmap(jax.grad(f))(jax.lax.stop_gradient(u))
  if options.sampler_svgd:
    temperature = repulsion_temperature(
      progress,
      start=options.temperature_start,
      end=options.temperature_end,
      fraction=options.temperature_fraction,
    )
    # it depends on the target, not on the particles that it moves
    bandwidth = svgd.mass_bandwidth(
      svgd.gather(aggregate, axis_name), options.sampler_mass
    )
    update = svgd.normalised_update(
      u,
      direction,
      svgd.KERNELS[options.sampler_kernel](),
      temperature=temperature,
      bandwidth=bandwidth,
      axis_name=axis_name,
    )
    direction = update.direction
    metrics = {
      **metrics,
      'temperature': temperature,
      'kernel_mass': update.kernel_mass,
      'repulsion_share': update.repulsion_share,
    }
  # over the whole set: the few particles of one device would bias it downwards
  std = jnp.mean(jnp.std(svgd.gather(u, axis_name), axis=0))
  return loss + svgd.follow(u, direction), {'sampler_std': std, **metrics}


@dataclasses.dataclass(frozen=True)
class Fit:
  """A trained sampler net; called, it draws latents by one pass of it.

  Attributes:
    params: The weights of the net.
    affine: The arrays of the map from its output to a latent: 'own_mean' [D],
      'matrix' [D, D], 'unit' [D] and 'mean' [D].
    metrics: Those of `objective`, each of shape [num_steps].
  """

  params: chex.ArrayTree
  affine: dict[str, np.ndarray]
  metrics: dict[str, np.ndarray]

  def __call__(self, num: int, seed: int) -> np.ndarray:
    own_mean, matrix, unit, mean = (
      self.affine[name] for name in ('own_mean', 'matrix', 'unit', 'mean')
    )
    key = training.draw_key(seed)
    raw = np.asarray(draws(self.params, key, (num, len(mean))), np.float64)
    return (mean + unit * ((raw - own_mean) @ matrix)).astype(np.float32)


def fit(
  latents: np.ndarray,
  *,
  seed: int,
  num_steps: int = NUM_STEPS,
  batch_size: int = BATCH_SIZE,
  learning_rate: float = LEARNING_RATE,
  **options: Any,
) -> Fit:
  """Trains a sampler net on fixed latents.

  A warning is logged if the net misses part of the latents.

  Args:
    latents: Draws of the aggregate posterior, shape [N, D].
    seed: The seed of the weights, the batches and the noise.
    num_steps: Updates of Muon, at least 1.
    batch_size: n.
    learning_rate: The rate after the warm-up.
    **options: Fields of `sampler_options.SamplerOptions`.

  Returns:
    The trained net, which makes one pass for each draw.

  Raises:
    UserError: The training diverged or has no steps, or the batch is too small.
  """
  training.check_steps(num_steps, 'sampler net')
  described = sampler_options.SamplerOptions(**options)
  if batch_size - 1 <= described.sampler_mass:
    raise errors.UserError(
      f'batch_size={batch_size} is too small; use more than'
      f' sampler_mass={described.sampler_mass:g} + 1'
    )
  latents = np.asarray(latents, np.float64)
  chex.assert_rank(latents, 2)
  mean, std = latents.mean(axis=0), latents.std(axis=0)
  # a latent that does not vary is not scaled
  unit = np.where(std > _MIN_STD * std.max(), std, 1.0)
  u = (latents - mean) / unit
  params, metrics = _train(
    jnp.asarray(u, jnp.float32),
    jax.random.key(seed),
    num_steps,
    batch_size,
    learning_rate,
    described,
  )
  training.check_trained(params, num_steps, 'sampler net')
  own = draws(params, jax.random.key(seed), (_MOMENT_DRAWS, u.shape[1]))
  own_mean, matrix = _affine_match(np.asarray(own, np.float64), u)
  fitted = Fit(
    params,
    {'own_mean': own_mean, 'matrix': matrix, 'unit': unit, 'mean': mean},
    {name: np.asarray(x) for name, x in metrics.items()},
  )
  rows = np.random.default_rng(seed).permutation(len(latents))[:_NUM_CHECKED]
  share = latent_metrics.missed_share(latents[rows], fitted(_NUM_CHECKED, seed))
  if share > latent_metrics.LARGEST_MISSED_SHARE:
    logging.warning(
      'the sampler net misses a share of %.2g of the latents after'
      ' num_steps=%d; use more steps, or a learning_rate below %g',
      share,
      num_steps,
      learning_rate,
    )
  return fitted


@functools.partial(jax.jit, static_argnames='shape')
def draws(params: chex.ArrayTree, key: Array, shape: tuple[int, int]) -> Array:
  """Draws standardised latents of shape [n, D]."""
  return sampler().apply(params, jax.random.normal(key, shape))


def sampler() -> latent_nets.SamplerNet:
  """Returns the sampler net that `fit` trains."""
  return latent_nets.SamplerNet(_SAMPLER_WIDTH, _SAMPLER_BLOCKS)


def latent_energy() -> latent_nets.LatentEnergy:
  """Returns the net of the latent energy f that `fit` trains."""
  return latent_nets.LatentEnergy(_ENERGY_WIDTH, _ENERGY_BLOCKS)


def batch_objective(
  params: chex.ArrayTree,
  u: Array,
  key: Array,
  progress: Array | float,
  *,
  batch_size: int,
  options: sampler_options.SamplerOptions,
) -> tuple[Array, dict[str, Array]]:
  """Returns the `objective` of the nets of `fit` on a random batch.

  Args:
    params: Weights by name, 'sampler' and 'energy'.
    u: Standardised latents, shape [N, D].
    key: PRNG key of rows, noise and penalty.
    progress: Fraction of the training done, a scalar in [0, 1].
    batch_size: n.
    options: The options of the training.
  """
  rows_key, noise_key, penalty_key = jax.random.split(key, 3)
  rows = jax.random.randint(rows_key, (batch_size,), 0, len(u))
  return objective(
    params,
    jax.random.normal(noise_key, (batch_size, u.shape[1])),
    u[rows],
    jax.random.bernoulli(penalty_key, shape=(batch_size,)),
    progress,
    sampler_fn=sampler().apply,
    energy_fn=latent_energy().apply,
    options=options,
  )


def _affine_match(
  own: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns m [D] and A [D, D]: (own - m) A has the covariance of `wanted`.

  `own` [m, D] are draws of the net, `wanted` [N, D] centred latents. SVGD
  leaves the sampler a few percent too narrow. The mean and the covariance of
  the latents are known, so they are set instead of learned.
  """
  mean = own.mean(axis=0)
  return mean, _root(own - mean, -0.5) @ _root(wanted, 0.5)


def _root(centred: np.ndarray, power: float) -> np.ndarray:
  """Returns a power of the covariance of points [n, D].

  Directions without variance get 0.
  """
  values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
  used = values > _MIN_STD**2 * values[-1]
  values = np.where(used, np.where(used, values, 1.0) ** power, 0.0)
  return (vectors * values) @ vectors.T


@functools.partial(
  jax.jit,
  static_argnames=('num_steps', 'batch_size', 'learning_rate', 'options'),
)
def _train(
  u: Array,
  key: Array,
  num_steps: int,
  batch_size: int,
  learning_rate: float,
  options: sampler_options.SamplerOptions,
) -> tuple[chex.ArrayTree, dict[str, Array]]:
  """Trains on u [N, D]; returns the sampler's averaged weights and metrics."""
  sampler_key, energy_key, steps_key = jax.random.split(key, 3)
  params = {
    'sampler': sampler().init(sampler_key, u[0]),
    'energy': latent_energy().init(energy_key, u[0]),
  }
  rate = optax.warmup_cosine_decay_schedule(
    0.0, learning_rate, min(_WARMUP_STEPS, num_steps // 2), num_steps
  )
  tx = training.muon(rate, B1)

  def loss_fn(params, index):
    return batch_objective(
      params,
      u,
      jax.random.fold_in(steps_key, index),
      index / num_steps,
      batch_size=batch_size,
      options=options,
    )

  average, metrics = training.descend(
    loss_fn, params, tx, num_steps, ema_decay=_EMA_DECAY
  )
  return average['sampler'], metrics
