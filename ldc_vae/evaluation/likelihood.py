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
  if not num_samples or not _has_densities(experiment) or not len(images):
    return {}

  @jax.jit
  def bounds(params, stats, images, key, first):
    images, keys = step_lib.eval_images(
      images, key, config.dataset.binarize, first
    )
    log_weights = _log_weights(
      experiment, params, stats, images, keys, num_samples
    )
    return (
      jnp.mean(log_weights, axis=1),
      jax.vmap(elbo.importance_weighted_bound)(log_weights),
    )

  bound, log_evidence = _means(
    functools.partial(bounds, state.ema_params, state.stats),
    images,
    _DECODES_AT_ONCE // num_samples,
    key,
    'estimating the likelihood by importance sampling',
  )
  return {'nll/elbo': -bound, 'nll/importance': -log_evidence}


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
  batch_size = _DECODES_AT_ONCE // num_chains
  enclose = functools.partial(
    _enclose, experiment, num_chains, config.evaluate.ais_temperatures
  )
  weighted = num_samples and _has_densities(experiment)

  @jax.jit
  def test_bounds(params, stats, images, key, first):
    images, keys = step_lib.eval_images(
      images, key, config.dataset.binarize, first
    )
    lower, _ = jax.vmap(functools.partial(enclose, params, stats))(images, keys)
    if not weighted:
      return (lower,)

    def importance_bound(inputs):
      image, key = inputs
      log_weights = _log_weights(
        experiment, params, stats, image[None], key[None], num_samples
      )
      return elbo.importance_weighted_bound(log_weights[0])

    return lower, jax.lax.map(importance_bound, (images, keys))

  @jax.jit
  def model_bounds(params, stats, images, key, first):
    keys = streams.image_keys(key, images.shape[0], None, first)

    def gap(key):
      z_key, image_key, chain_key = jax.random.split(key, 3)
      z = jax.random.normal(z_key, (experiment.model.latent_size,))
      image = _simulate(experiment.model, params, z, image_key)
      lower, upper = enclose(params, stats, image, chain_key, z)
      return upper - lower

    return (jax.vmap(gap)(keys),)

  means = lambda bounds, key, what: _means(
    functools.partial(bounds, state.ema_params, state.stats),
    images,
    batch_size,
    key,
    what,
  )
  what = 'estimating the likelihood by annealed importance sampling'
  test_key, model_key = jax.random.split(key)
  log_evidences = means(test_bounds, test_key, what)
  names = ('nll/ais', 'nll/ais_importance')
  results = {name: -value for name, value in zip(names, log_evidences)}
  if log_prior is base.normal_log_prior:
    what = 'bounding the error of annealed importance sampling'
    results['nll/ais_gap'] = means(model_bounds, model_key, what)[0]
  return results


def _has_densities(experiment: experiment_lib.Experiment) -> bool:
  """Returns whether posterior and prior have densities, for the weights."""
  gaussian = experiment.model.encoder == 'gaussian'
  return gaussian and experiment.algorithm.log_prior is not None


def _reference(config, experiment) -> np.ndarray:
  """Returns the images of the evaluated split, uint8 [N, H, W, C]."""
  return experiment.dataset.images[config.evaluate.split]


def _log_weights(
  experiment: experiment_lib.Experiment,
  params: chex.ArrayTree,
  stats: chex.ArrayTree,
  images: Array,
  keys: Array,
  num_samples: int,
) -> Array:
  """Returns log [p(x|z) p(z) / q(z|x)] of K draws of each posterior, [B, K]."""
  model = experiment.model
  z, mean, logvar = model.particles(params, images, keys, num_samples)
  log_likelihoods = model.log_likelihood(params, images, z)  # [B, K]

  def log_weight(log_likelihood, z, mean, logvar):
    log_prior = experiment.algorithm.log_prior(params, stats, z)
    return log_likelihood + log_prior - elbo.gaussian_log_prob(z, mean, logvar)

  over_particles = jax.vmap(log_weight, in_axes=(0, 0, None, None))
  return jax.vmap(over_particles)(log_likelihoods, z, mean, logvar)


def _enclose(
  experiment: experiment_lib.Experiment,
  num_chains: int,
  num_temperatures: int,
  params: chex.ArrayTree,
  stats: chex.ArrayTree,
  image: Array,
  key: Array,
  z: Array | None = None,
) -> tuple[Array, Array | None]:
  """Returns bounds of log p(x): a lower one and, given an exact z, an upper."""
  model = experiment.model
  log_initial_fn = elbo.standard_normal_log_prob

  def log_joint_fn(z):
    log_likelihood = model.log_likelihood(params, image[None], z[None, None])
    log_prior = experiment.algorithm.log_prior(params, stats, z)
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


def _means(
  batch_fn: Callable[[np.ndarray, Array, int], tuple[Array, ...]],
  images: np.ndarray,
  batch_size: int,
  key: Array,
  what: str,
) -> tuple[float, ...]:
  """Returns means over images of each output [B] of `batch_fn`.

  Args:
    batch_fn: A function `(batch, key, number of its first image)`.
    images: uint8, shape [N, H, W, C].
    batch_size: B.
    key: PRNG key.
    what: What is estimated, in words.

  Returns:
    One mean for each output.
  """
  batch_size = max(1, min(batch_size, len(images)))
  totals = []
  with progress.activity(what) as report:
    for index, (batch, mask) in enumerate(
      datasets.eval_batches(images, batch_size)
    ):
      values = batch_fn(batch, key, index * batch_size)
      totals.append(
        [np.sum(np.asarray(each, np.float64)[mask]) for each in values]
      )
      report(min((index + 1) * batch_size, len(images)), len(images))
  return tuple(float(total) for total in np.sum(totals, axis=0) / len(images))
