"""Tests of whole runs: every method, other data."""

import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from ldc_vae import config as config_lib
from ldc_vae import elbo
from ldc_vae import evaluate
from ldc_vae import experiment as experiment_lib
from ldc_vae import methods
from ldc_vae import streams
from ldc_vae import train
from ldc_vae.evaluation import sources as sources_lib
from ldc_vae.reporting import evaluation_figures
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import metric_writer
from tests import evaluate_case

_train = evaluate_case.train_run


class MethodsTest(parameterized.TestCase):
  """Every method trains, is evaluated and makes images, at debug sizes."""

  def _results(self, method):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    fields = {'train.num_steps': 4, 'evaluate.samplers': ('prior',)}
    with mock.patch.object(evaluation_figures, 'draw'):
      config = _train(workdir, method, fields)
    results = json.loads((workdir / 'results.json').read_text())
    for source in ('reconstruction', 'aggregate', 'generator'):
      value = results[f'frechet_classifier/{source}']
      self.assertTrue(np.isfinite(value), source)
    with np.load(workdir / 'samples.npz') as samples:
      self.assertEqual(samples['images'].shape, (96, 8, 8, 1))
      self.assertGreater(np.std(samples['latents']), 0.01)
    with checkpoint.Checkpointer(
      workdir / 'checkpoints', read_only=True
    ) as checkpointer:
      self.experiment = experiment_lib.create(config)
      self.state = checkpointer.restore(self.experiment.abstract_state()).state
    return results

  def test_vamp_is_scored_under_its_own_prior(self):
    results = self._results('vamp')
    model, params = self.experiment.model, self.state.ema_params
    images = self.experiment.dataset.images['test'][:128] / np.float32(255)
    encode_fn = jax.jit(model.modules['encoder'].apply)
    mean, logvar = jax.device_get(encode_fn(params['encoder'], images))
    inputs = model.modules['pseudo_inputs'].apply(params['pseudo_inputs'])
    components = encode_fn(params['encoder'], inputs)
    noise = np.random.default_rng(0).normal(size=(64, *mean.shape))
    z = mean + np.exp(0.5 * logvar) * noise.astype(np.float32)  # [64, N, D]
    log_prior_fn = jax.vmap(
      jax.vmap(elbo.mixture_log_prob, (0, None, None)), (0, None, None)
    )
    log_prior = jax.jit(log_prior_fn)(z, *components)
    log_posterior = -0.5 * np.sum(noise**2 + logvar, axis=-1)
    log_posterior -= 0.5 * z.shape[-1] * np.log(2 * np.pi)
    kl = np.mean(log_posterior - log_prior, axis=1)  # of each draw
    likelihood_fn = jax.jit(lambda z: model.log_likelihood(params, images, z))
    reconstruction = [-np.mean(likelihood_fn(draw[:, None])) for draw in z]
    bounds = np.asarray(reconstruction) + kl
    # 8 and 64 draws of each of 128 posteriors, as in the plain loop above
    self.assertAlmostEqual(
      results['nll/elbo'],
      float(np.mean(bounds)),
      delta=5 * np.std(bounds) / np.sqrt(8) + 1e-3,
    )
    self.assertLess(results['nll/importance'], results['nll/elbo'])

  def test_a_method_may_encode_without_a_net(self):
    config = config_lib.load(
      'configs/digits.py:lebm,debug', {'evaluate.batch_size': 50}
    )
    experiment = experiment_lib.create(config)
    state = experiment.init_state()
    self.assertNotIn('encoder', state.params)
    apply = sources_lib.Networks(
      evaluate_case.trained(config, experiment, state)
    )
    images = experiment.dataset.images['test'][:70]
    posterior = apply.encode(images, jax.random.key(0))
    keys = streams.image_keys(jax.random.key(0), 50, None, 50)
    padded = np.zeros((50, 8, 8, 1), np.float32)
    padded[:20] = images[50:] / np.float32(255)
    chains = np.asarray(
      jax.jit(experiment.algorithm.encode)(
        state.ema_params, state.stats, padded, keys
      )
    )
    for actual, wanted in (
      (posterior.z, chains[:, 0]),
      (posterior.mean, np.mean(chains, axis=1)),
    ):
      self.assertEqual(actual.shape, (70, 8))
      # float32, 20 steps of Langevin dynamics
      np.testing.assert_allclose(actual[50:], wanted[:20], rtol=1e-3, atol=1e-3)

  @parameterized.parameters(
    *sorted(set(methods.METHODS) - {'ldc', 'vae', 'vamp'})
  )
  @pytest.mark.slow
  def test_any_method_ends(self, method):
    results = self._results(method)
    has_density = self.experiment.model.encoder == 'gaussian'
    self.assertEqual(results['nll/elbo'] is not None, has_density)

  @parameterized.parameters(*methods.METHODS)
  @pytest.mark.slow
  def test_any_method_learns(self, method):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    config = config_lib.load(
      f'configs/digits.py:{method}',
      {
        'train.num_steps': 400,
        'train.ema_decay': 0.99,
        'evaluate.num_samples': 360,
      },
    )
    train.train_and_evaluate(config, workdir)
    results = json.loads((workdir / 'results.json').read_text())
    losses = [
      row['validation/reconstruction']
      for row in metric_writer.read_metrics(workdir / 'metrics.jsonl')
      if 'validation/reconstruction' in row
    ]
    self.assertLess(losses[-1], losses[0] - 10.0)  # nats
    # the mean image has 0.075
    self.assertLess(results['eval/reconstruction_mse'], 0.05)


class OtherRunsTest(absltest.TestCase):
  def test_vae_generates_from_the_prior(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    with mock.patch.object(evaluation_figures, 'draw'):
      _train(workdir, 'vae', {'evaluate.samplers': ('prior',)})
    with np.load(workdir / 'samples.npz') as samples:
      latents = samples['latents']
    # 96 x 16 draws: the mean of squares is 1 with standard deviation 0.036
    self.assertAlmostEqual(np.mean(latents**2), 1.0, delta=0.15)

  def test_images_without_labels_get_pixel_components(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (120, 12, 10, 3), dtype=np.uint8)
    np.savez(folder / 'faces.npz', images=images)
    config = config_lib.load(
      'configs/images.py:ldc,debug',
      {
        'dataset.path': str(folder / 'faces.npz'),
        'evaluate.samplers': ('prior',),
        'train.num_steps': 4,
        'model.architecture': 'mlp',
        'model.encoder': 'implicit',
        'method.whiten': False,
      },
    )
    with mock.patch.object(evaluation_figures, 'draw'):
      train.train_and_evaluate(config, folder / 'run')
    results = json.loads((folder / 'run' / 'results.json').read_text())
    self.assertGreater(results['frechet_pca/generator'], 0.0)
    self.assertIsNone(results['frechet_classifier/generator'])
    self.assertIsNone(results['nll/elbo'])  # an implicit posterior has none
    with mock.patch.object(evaluate, 'evaluate') as again:
      train.train_and_evaluate(config, folder / 'run')
      again.assert_not_called()
      labels = np.arange(120) % 2  # another classifier, with the same training
      np.savez(folder / 'faces.npz', images=images, labels=labels)
      train.train_and_evaluate(config, folder / 'run')
      again.assert_called_once()

  def test_a_handful_of_images_is_trained_and_shown(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 8, 8, 1), dtype=np.uint8)
    np.save(folder / 'few.npy', images)
    config = config_lib.load(
      'configs/images.py:ldc,debug',
      {
        'dataset.path': str(folder / 'few.npy'),
        'evaluate.samplers': ('prior',),
        'model.architecture': 'mlp',
        'train.num_steps': 2,
        'train.batch_size': 4,
      },
    )
    train.train_and_evaluate(config, folder / 'run')
    results = json.loads((folder / 'run' / 'results.json').read_text())
    self.assertIsNone(results['frechet_pca/generator'])  # one test image
    self.assertGreater(results['eval/reconstruction_mse'], 0.0)
    self.assertTrue((folder / 'run' / 'report.html').exists())


if __name__ == '__main__':
  absltest.main()
