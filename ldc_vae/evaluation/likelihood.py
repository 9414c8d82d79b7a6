"""The likelihood of test images under a trained decoder, by sampling.

Importance sampling draws from a gaussian encoder. Annealed importance sampling
(AIS) needs only the prior, so it works with any encoder. The likelihood is
p(x) = E p(x|z) under the method's prior; the inverse temperature lambda is not
used. All results are in nats per image.
"""

from collections.abc import Callable
import functools

import chex
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from ldc_vae import elbo
from ldc_vae import experiment as experiment_lib
from ldc_vae import run as run_lib
from ldc_vae import step as step_lib
from ldc_vae import streams
from ldc_vae.data import datasets
from ldc_vae.methods import base
from ldc_vae.metrics import ais as ais_lib
from ldc_vae.models import model as model_lib
from ldc_vae.runtime import progress

Array = jax.Array

_DECODES_AT_ONCE = 4_000  # latents in one decoder call
_NUM_LEAPFROG = 10  # leapfrog steps of a move; Wu et al. (2017), section 5


def importance(
  config: config_dict.ConfigDict,
  experiment: experiment_lib.Experiment,
  state: step_lib.TrainState,
  key: Array,
) -> dict[str, float]:
  """Estimates -ELBO and -log p of test images from posterior samples.

  Args:
    config: The run's config.
    experiment: The run.
    state: The state in its checkpoint.
    key: PRNG key.

  Returns:
    'nll/elbo' and 'nll/importance'. The dict is empty if the posterior or the
    prior has no density, or if `evaluate.importance_samples` is 0.
  """
  num_samples = config.evaluate.importance_samples
  images = _reference(config, experiment)[: config.evaluate.num_nll_images]
  trained = _trained(config, experiment, state)
  if not num_samples or not has_densities(trained) or not len(images):
    return {}
  bound, log_evidence = importance_bounds(
    trained, images, key, num_samples=num_samples
  )
  return {
    'nll/elbo': -float(np.mean(bound)),
    'nll/importance': -float(np.mean(log_evidence)),
  }


def importance_bounds(
  trained: run_lib.Trained, images: np.ndarray, key: Array, *, num_samples: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns two lower bounds of log p(x) of each image, in nats.

  Burda et al. (2016), https://arxiv.org/abs/1509.00519, equation 8.

  Args:
    trained: Networks whose posterior and prior have densities.
    images: uint8, or floats in [0, 1], shape [N, H, W, C].
    key: PRNG key.
    num_samples: Latents for each image.

  Returns:
    The ELBO [N], and the importance-weighted bound [N], float64.
  """

  @jax.jit
  def bounds(params, stats, images, key, first):
    images, keys = step_lib.eval_images(
      images, key, trained.config.dataset.binarize, first
    )
    weights = log_weights(trained, params, stats, images, keys, num_samples)
    return (
      jnp.mean(weights, axis=1),
      jax.vmap(elbo.importance_weighted_bound)(weights),
    )

  bound, log_evidence = _values(
    functools.partial(bounds, trained.params, trained.stats),
    images,
    _DECODES_AT_ONCE // num_samples,
    key,
    'estimating the likelihood by importance sampling',
  )
  return bound, log_evidence


def annealed(
  config: config_dict.ConfigDict,
  experiment: experiment_lib.Experiment,
  state: step_lib.TrainState,
  key: Array,
) -> dict[str, float]:
  """Estimates -log p of test images by annealed importance sampling.

  Wu et al. (2017), https://arxiv.org/abs/1611.04273, with Hamiltonian Monte
  Carlo. As there, a check uses images drawn from the model itself. For these
  images there is also an upper bound of log p; the gap between the two bounds
  limits the error.

  Args:
    config: The run's config.
    experiment: The run.
    state: The state in its checkpoint.
    key: PRNG key.

  Returns:
    A dict with up to three results. It is empty if the prior has no density or
    `evaluate.ais_chains` is 0.
      'nll/ais': -log p by annealed importance sampling.
      'nll/ais_importance': -log p of the same images by importance sampling,
        with a gaussian encoder only.
      'nll/ais_gap': The gap between the two bounds, with the prior N(0, I)
        only, which has exact draws.
  """
  num_chains = config.evaluate.ais_chains
  num_samples = config.evaluate.importance_samples
  images = _reference(config, experiment)[: config.evaluate.ais_images]
  log_prior = experiment.algorithm.log_prior
  if not num_chains or log_prior is None or not len(images):
    return {}
  trained = _trained(config, experiment, state)
  chains = {
    'num_chains': num_chains,
    'num_temperatures': config.evaluate.ais_temperatures,
  }
  test_key, model_key = jax.random.split(key)
  bounds = annealed_bounds(
    trained,
    images,
    test_key,
    **chains,
    num_samples=num_samples if has_densities(trained) else 0,
  )
  names = ('nll/ais', 'nll/ais_importance')
  results = {name: -float(np.mean(x)) for name, x in zip(names, bounds)}
  if log_prior is base.normal_log_prior:
    gaps = _gaps(trained, images, model_key, **chains)
    results['nll/ais_gap'] = float(np.mean(gaps))
  return results


def annealed_bounds(
  trained: run_lib.Trained,
  images: np.ndarray,
  key: Array,
  *,
  num_chains: int,
  num_temperatures: int,
  num_samples: int,
) -> tuple[np.ndarray, ...]:
  """Returns lower bounds of log p(x) of each image by AIS, in nats.

  Args:
    trained: Networks whose prior has a density.
    images: uint8, or floats in [0, 1], shape [N, H, W, C].
    key: PRNG key.
    num_chains: Chains for each image.
    num_temperatures: Temperatures of a chain.
    num_samples: Latents of the importance-weighted bound of the same images;
      0 leaves it out.

  Returns:
    The bound [N] by AIS and, unless `num_samples` is 0, the one by importance
    sampling [N]; float64.
  """

  @jax.jit
  def bounds(params, stats, images, key, first):
    images, keys = step_lib.eval_images(
      images, key, trained.config.dataset.binarize, first
    )
    enclose = functools.partial(
      _enclose, trained, num_chains, num_temperatures, params, stats
    )
    lower, _ = jax.vmap(enclose)(images, keys)
    if not num_samples:
      return (lower,)

    def importance_bound(inputs):
      image, key = inputs
      weights = log_weights(
        trained, params, stats, image[None], key[None], num_samples
      )
      return elbo.importance_weighted_bound(weights[0])

    return lower, jax.lax.map(importance_bound, (images, keys))

  return _values(
    functools.partial(bounds, trained.params, trained.stats),
    images,
    _DECODES_AT_ONCE // num_chains,
    key,
    'estimating the likelihood by annealed importance sampling',
  )


def _gaps(
  trained: run_lib.Trained,
  images: np.ndarray,
  key: Array,
  *,
  num_chains: int,
  num_temperatures: int,
) -> np.ndarray:
  """Returns upper minus lower bound for N images of the model, [N]."""
  model = trained.model

  @jax.jit
  def gaps(params, stats, images, key, first):
    keys = streams.image_keys(key, images.shape[0], None, first)
    enclose = functools.partial(
      _enclose, trained, num_chains, num_temperatures, params, stats
    )

    def gap(key):
      z_key, image_key, chain_key = jax.random.split(key, 3)
      z = jax.random.normal(z_key, (model.latent_size,))
      image = _simulate(model, params, z, image_key)
      lower, upper = enclose(image, chain_key, z)
      return upper - lower

    return (jax.vmap(gap)(keys),)

  return _values(
    functools.partial(gaps, trained.params, trained.stats),
    images,
    _DECODES_AT_ONCE // num_chains,
    key,
    'bounding the error of annealed importance sampling',
  )[0]


def has_densities(trained: run_lib.Trained) -> bool:
  """Returns whether posterior and prior have densities, for the weights."""
  has_prior = trained.algorithm.log_prior is not None
  return trained.model.encoder == 'gaussian' and has_prior


def _trained(config, experiment, state) -> run_lib.Trained:
  """Returns the networks of a checkpoint."""
  return run_lib.Trained(
    config,
    experiment.model,
    experiment.algorithm,
    state.ema_params,
    state.stats,
    step=0,
  )


def _reference(config, experiment) -> np.ndarray:
  """Returns the images of the evaluated split, uint8 [N, H, W, C]."""
  return experiment.dataset.reference(config.evaluate.split)


def log_weights(
  trained: run_lib.Trained,
  params: chex.ArrayTree,
  stats: chex.ArrayTree,
  images: Array,
  keys: Array,
  num_samples: int,
) -> Array:
  """Returns log [p(x|z) p(z) / q(z|x)] of K draws of each posterior, [B, K]."""
  model, algorithm = trained.model, trained.algorithm
  z, mean, logvar = model.particles(params, images, keys, num_samples)
  log_likelihoods = model.log_likelihood(params, images, z)  # [B, K]

  def log_weight(log_likelihood, z, mean, logvar):
    assert algorithm.log_prior is not None  # see `has_densities`
    log_prior = algorithm.log_prior(params, stats, z)
    return log_likelihood + log_prior - elbo.gaussian_log_prob(z, mean, logvar)

  over_particles = jax.vmap(log_weight, in_axes=(0, 0, None, None))
  return jax.vmap(over_particles)(log_likelihoods, z, mean, logvar)


def _enclose(
  trained: run_lib.Trained,
  num_chains: int,
  num_temperatures: int,
  params: chex.ArrayTree,
  stats: chex.ArrayTree,
  image: Array,
  key: Array,
  z: Array | None = None,
) -> tuple[Array, Array | None]:
  """Returns bounds of log p(x): a lower one and, given an exact z, an upper."""
  model, algorithm = trained.model, trained.algorithm
  log_initial_fn = elbo.standard_normal_log_prob

  def log_joint_fn(z):
    log_likelihood = model.log_likelihood(params, image[None], z[None, None])
    assert algorithm.log_prior is not None  # the callers ask for it
    log_prior = algorithm.log_prior(params, stats, z)
    return log_prior + log_likelihood[0, 0]

  path = ais_lib.sigmoid_schedule(num_temperatures)
  # a new key, because the encoder's noise may use the other one
  keys = jax.random.split(jax.random.fold_in(key, 1), 4)
  start = jax.random.normal(keys[0], (num_chains, model.latent_size))
  step_sizes = ais_lib.adapt_step_sizes(
    keys[1], start, log_initial_fn, log_joint_fn, path, _NUM_LEAPFROG
  )

  def log_evidence(key, start, path, step_sizes):
    chain = lambda key, z: (
      ais_lib.ais(
        key, z, log_initial_fn, log_joint_fn, path, step_sizes, _NUM_LEAPFROG
      ).log_weight
    )
    log_weights = jax.vmap(chain)(jax.random.split(key, num_chains), start)
    return elbo.importance_weighted_bound(log_weights)

  # fresh starts, because the step sizes depend on the first ones
  start = jax.random.normal(keys[2], start.shape)
  lower = log_evidence(jax.random.fold_in(keys[3], 0), start, path, step_sizes)
  if z is None:
    return lower, None
  start = jnp.tile(z[None], (num_chains, 1))
  back = ais_lib.reverse_path(path, step_sizes)
  return lower, -log_evidence(jax.random.fold_in(keys[3], 1), start, *back)


def _simulate(
  model: model_lib.Model, params: chex.ArrayTree, z: Array, key: Array
) -> Array:
  """Draws an image [H, W, C] from p(x|z) of one latent [D]."""
  mean = model.decode(params, z)
  log_scale = jnp.log(model.options.scale)
  if model.options.learn_scale:
    log_scale = model.modules['scale'].apply(params['scale'])
  return _SIMULATORS[model.options.likelihood](key, mean, log_scale)


def _draw_grey_levels(key: Array, mean: Array, log_scale: Array) -> Array:
  """Draws from a discretised logistic, whose first and last bin are open."""
  values = mean + jnp.exp(log_scale) * jax.random.logistic(key, mean.shape)
  return jnp.clip(jnp.round(255.0 * values), 0.0, 255.0) / 255.0


_SIMULATORS = {
  'bernoulli': lambda key, mean, log_scale: jax.random.bernoulli(
    key, mean
  ).astype(mean.dtype),
  'gaussian': lambda key, mean, log_scale: (
    mean + jnp.exp(log_scale) * jax.random.normal(key, mean.shape)
  ),
  'discretized_logistic': _draw_grey_levels,
}


def _values(
  batch_fn: Callable[[np.ndarray, Array, int], tuple[Array, ...]],
  images: np.ndarray,
  batch_size: int,
  key: Array,
  what: str,
) -> tuple[np.ndarray, ...]:
  """Returns the values of all images, of each output [B] of `batch_fn`.

  Args:
    batch_fn: A function `(batch, key, number of its first image)`.
    images: Shape [N, H, W, C].
    batch_size: B.
    key: PRNG key.
    what: What is estimated, in words.

  Returns:
    An array [N] for each output, float64.
  """
  batch_size = max(1, min(batch_size, len(images)))
  parts = []
  with progress.activity(what) as report:
    for index, (batch, mask) in enumerate(
      datasets.eval_batches(images, batch_size)
    ):
      values = batch_fn(batch, key, index * batch_size)
      parts.append([np.asarray(each, np.float64)[mask] for each in values])
      report(min((index + 1) * batch_size, len(images)), len(images))
  return tuple(np.concatenate(each) for each in zip(*parts, strict=True))
