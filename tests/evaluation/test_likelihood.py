"""Tests of ldc_vae.likelihood, on a decoder that is one linear layer."""

from typing import Any, NamedTuple

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np
import scipy.stats

from ldc_vae import elbo
from ldc_vae import run as run_lib
from ldc_vae.evaluation import likelihood
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib

_SHAPE = (4, 3, 1)
_LATENT_SIZE = 3


class _Method(NamedTuple):
  log_prior: Any = base.normal_log_prior


def _run(
  likelihood_name='gaussian',
  encoder='gaussian',
  scale=0.5,
  log_prior=base.normal_log_prior,
  **fields,
):
  """Networks with random weights, and images."""
  model = model_lib.create_model(
    _SHAPE,
    latent_size=_LATENT_SIZE,
    hidden_sizes=(8,) if encoder == 'implicit' else (),
    noise_size=2,
    encoder=encoder,
    likelihood=likelihood_name,
    scale=scale,
  )
  images = np.random.default_rng(0).integers(0, 256, (4, *_SHAPE), np.uint8)
  init_fn = jax.jit(lambda key: model.init(key, model.autoencoder_names()))
  params = init_fn(jax.random.key(0))
  if encoder == 'gaussian':
    # q(z|x) = N(0, I), which finds the broad posteriors of few pixels
    weights = jax.tree.map(np.zeros_like, params['encoder']['params'])
    log_std = weights['moments']['bias'][_LATENT_SIZE:]
    log_std[:] = np.arctanh(2.0 / 3.0)  # of 3
    params['encoder'] = {'params': weights}
  config = _config(**fields)
  return run_lib.Trained(
    config, model, _Method(log_prior), params, (), 0
  ), images


def _evidence(trained, images):
  """Mean log p(x) under N(0, I), from 20,000 of its draws."""
  z = jax.random.normal(jax.random.key(1), (20_000, _LATENT_SIZE))
  images = images.astype(np.float32) / 255

  @jax.jit
  def evidence(params):
    log_likelihoods = trained.model.log_likelihood(
      params, images, jnp.tile(z[None], (len(images), 1, 1))
    )
    bounds = jax.vmap(elbo.importance_weighted_bound)(log_likelihoods)
    return jnp.mean(bounds)

  return float(evidence(trained.params))


def _config(**fields):
  config = config_dict.ConfigDict()
  config.dataset = {'binarize': False}
  config.evaluate = {
    'importance_samples': 0,
    'num_nll_images': 10,
    'ais_chains': 0,
    'ais_temperatures': 5,
    'ais_images': 4,
    **fields,
  }
  return config


class ImportanceTest(parameterized.TestCase):
  def test_agrees_with_draws_of_the_prior(self):
    trained, images = _run(importance_samples=2000)
    results = likelihood.importance(trained, images, jax.random.key(0))
    # weights of 20,000 and 2000 draws that differ by a nat or two
    self.assertAlmostEqual(
      results['nll/importance'], -_evidence(trained, images), delta=0.1
    )
    self.assertGreater(results['nll/elbo'], results['nll/importance'])

  def test_the_prior_is_that_of_the_method(self):
    # p(z) three times as dense everywhere: log 3 more for every image
    tripled = lambda params, stats, z: (
      np.log(3.0) + base.normal_log_prior(params, stats, z)
    )
    first, second = (
      likelihood.importance(
        *_run(log_prior=log_prior, importance_samples=5), jax.random.key(0)
      )
      for log_prior in (base.normal_log_prior, tripled)
    )
    for name, value in first.items():
      self.assertAlmostEqual(value - second[name], np.log(3.0), places=4)

  @parameterized.parameters(
    dict(encoder='implicit'), dict(log_prior=None), dict(num_samples=0)
  )
  def test_what_has_no_density_is_not_weighed(self, num_samples=5, **fields):
    results = likelihood.importance(
      *_run(importance_samples=num_samples, **fields), jax.random.key(0)
    )
    self.assertEqual(results, {})


class AnnealedTest(parameterized.TestCase):
  def test_agrees_with_importance_sampling_and_closes_its_gap(self):
    run = _run(importance_samples=2000, ais_chains=16, ais_temperatures=60)
    results = likelihood.annealed(*run, jax.random.key(0))
    # means over 4 images, each with an error of a tenth
    self.assertAlmostEqual(
      results['nll/ais'], results['nll/ais_importance'], delta=0.2
    )
    self.assertBetween(results['nll/ais_gap'], -0.2, 0.4)

  def test_an_implicit_encoder_and_another_prior_are_scored_all_the_same(self):
    # p(z) three times as dense everywhere: log 3 more for every image
    tripled = lambda params, stats, z: (
      np.log(3.0) + base.normal_log_prior(params, stats, z)
    )
    trained, images = _run(
      encoder='implicit',
      log_prior=tripled,
      importance_samples=10,
      ais_chains=16,
      ais_temperatures=60,
    )
    results = likelihood.annealed(trained, images, jax.random.key(0))
    self.assertSameElements(results, ('nll/ais',))  # no exact draws, no gap
    evidence = np.log(3.0) + _evidence(trained, images)
    self.assertAlmostEqual(results['nll/ais'], -evidence, delta=0.2)

  @parameterized.parameters(dict(log_prior=None), dict(num_chains=0))
  def test_nothing_is_asked_for_or_known(self, num_chains=4, **fields):
    results = likelihood.annealed(
      *_run(ais_chains=num_chains, **fields), jax.random.key(0)
    )
    self.assertEqual(results, {})


class ValuesTest(parameterized.TestCase):
  @parameterized.parameters(1, 3, 4, 100)
  def test_padding_of_the_last_batch_does_not_count(self, batch_size):
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)

    def batch_fn(params, stats, batch, key, first):
      del params, stats, key
      return 1.0 + batch[:, 0, 0, 0], jnp.full(len(batch), first)

    trained, _ = _run()
    values, firsts = likelihood._values(
      batch_fn, trained, images, batch_size, jax.random.key(0), 'a test'
    )
    self.assertEqual(values.tolist(), [1, 2, 3, 4])
    size = min(batch_size, 4)
    self.assertEqual(firsts.tolist(), [i // size * size for i in range(4)])


class SimulateTest(parameterized.TestCase):
  def _draws(self, name):
    trained, _ = _run(name, scale=0.05)
    z = jnp.ones(_LATENT_SIZE)
    draw = lambda key: likelihood._simulate(
      trained.model, trained.params, z, key
    )
    keys = jax.random.split(jax.random.key(0), 4000)
    images = jax.jit(jax.vmap(draw))(keys)
    mean = jax.jit(trained.model.decode)(trained.params, z)
    return np.asarray(images), np.asarray(mean)

  def test_binary_pixels_have_the_mean(self):
    images, mean = self._draws('bernoulli')
    np.testing.assert_array_equal(np.unique(images), [0.0, 1.0])
    # 4000 draws: an error of 0.008; four of it
    np.testing.assert_allclose(images.mean(axis=0), mean, atol=0.032)

  def test_gaussian_pixels_have_mean_and_scale(self):
    images, mean = self._draws('gaussian')
    np.testing.assert_allclose(images.mean(axis=0), mean, atol=0.0032)
    np.testing.assert_allclose(images.std(axis=0), 0.05, rtol=0.05)

  def test_grey_levels_follow_the_discretised_logistic(self):
    images, mean = self._draws('discretized_logistic')
    levels = 255.0 * images
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    self.assertBetween(images.min(), 0.0, 1.0)
    pixel = (0, 0, 0)
    test = scipy.stats.ks_1samp(
      images[:, *pixel], scipy.stats.logistic(mean[pixel], 0.05).cdf
    )
    # a step of the levels, 1/255 over a scale of 0.05, is 0.02 of it
    self.assertLess(test.statistic, 0.02 + 0.026)


if __name__ == '__main__':
  absltest.main()
