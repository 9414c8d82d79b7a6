"""Tests of the latents that an evaluation draws, and of their options."""

import shutil
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import evaluate
from ldc_vae import run as run_lib
from ldc_vae.evaluation import measures
from ldc_vae.reporting import style
from ldc_vae.samplers import langevin
from ldc_vae.samplers import registry
from ldc_vae.samplers import two_stage
from tests import evaluate_case


class SourcesTest(evaluate_case.RunTest):
  def test_distances_over_two_draws_come_with_their_std(self):
    workdir = self.workdir.with_name('draws')
    shutil.copytree(self.workdir, workdir)
    config = config_lib.override(
      self.config,
      {'evaluate.num_draws': 2, 'evaluate.samplers': ('prior',)},
    )
    self.assertFalse(run_lib.is_evaluated(workdir, config, 8))
    with mock.patch.object(
      style, 'source_bars', wraps=style.source_bars
    ) as source_bars:
      (workdir / 'metrics.jsonl').unlink()  # what is not needed is not missed
      with self.assertLogs('absl', 'WARNING') as logs:
        results = evaluate.evaluate(config, workdir)
    self.assertIn('no training curves are drawn', ''.join(logs.output))
    self.assertTrue((workdir / 'figures' / 'training_curves.png').exists())
    self.assertTrue(run_lib.is_evaluated(workdir, config, 8))
    self.assertEqual(results['num_samples'], 96)
    for source in ('aggregate', 'generator', 'prior'):
      std = results[f'frechet_classifier_deviation/{source}']
      mean = results[f'frechet_classifier/{source}']
      self.assertBetween(std, 1e-3, mean)
      first = self.results[f'frechet_classifier/{source}']
      # of two draws, whose mean is 1 / sqrt(2) stds from each
      self.assertAlmostEqual(abs(mean - first), std / 2**0.5, delta=1e-3)
    source_bars.assert_called_once()  # standard deviations have no bars
    self.assertIn('means over 2 such', results['protocol/distances'])

  def test_results_of_one_draw_are_those_of_an_earlier_version(self):
    self.assertNotIn('num_draws', run_lib.describe_evaluation(self.config))

  def test_a_law_with_a_draw_that_is_not_finite_is_left_out(self):
    config = config_lib.override(
      self.config,
      {'evaluate.num_draws': 2, 'evaluate.samplers': ('prior', 'gaussian')},
    )
    bad = lambda num, seed: np.full((num, 16), np.nan if seed % 2 else 0.0)
    real_fit = registry.fit

    def fit(name, *args, **kwargs):
      return bad if name == 'gaussian' else real_fit(name, *args, **kwargs)

    with mock.patch.object(registry, 'fit', fit):
      with self.assertLogs('absl', 'WARNING') as logs:
        sources = self.sources(config)
    self.assertIn('gaussian is skipped', ' '.join(logs.output))
    self.assertNotIn('gaussian', sources.images)
    self.assertNotIn('gaussian', sources.redraw_fn(1))

  def test_latents_can_be_drawn_again(self):
    config = config_lib.override(
      self.config,
      {'evaluate.num_draws': 3, 'evaluate.samplers': ('prior', 'gmm_10')},
    )
    sources = self.sources(config)
    draws = [sources.images, sources.redraw_fn(1), sources.redraw_fn(2)]
    names = {'aggregate', 'generator', 'prior', 'gmm_10'}
    self.assertSetEqual(set(draws[1]), names)
    for name in names:
      for one, other in ((0, 1), (0, 2), (1, 2)):
        self.assertEqual(draws[one][name].shape, draws[other][name].shape)
        same = np.all(draws[one][name] == draws[other][name], axis=(1, 2, 3))
        # of 96 of 1,373 training images a few are drawn twice
        self.assertLess(np.mean(same), 0.05, name)
    again = sources.redraw_fn(2)
    for name in names:
      np.testing.assert_array_equal(again[name], draws[2][name])
    other, aggregate = sources.other_aggregate, sources.latents['aggregate']
    self.assertEqual(other.shape, aggregate.shape)
    self.assertFalse(np.any(np.all(other[:, None] == aggregate, axis=-1)))

  def test_the_validation_split_can_be_the_reference(self):
    config = config_lib.override(
      self.config,
      {'evaluate.split': 'validation', 'evaluate.samplers': ()},
    )
    experiment = self.experiment
    sources = self.sources(config)
    held_out = experiment.dataset.images['validation']
    np.testing.assert_array_equal(sources.test_images, held_out)
    self.assertLen(sources.images['generator'], len(held_out))
    distances = [
      measures.image_measures(
        each, experiment.dataset, {'generator': held_out}
      )['frechet_classifier/generator']
      for each in (config, self.config)
    ]
    self.assertAlmostEqual(distances[0], 0.0, delta=1e-3)
    self.assertGreater(distances[1], 1.0)

  @parameterized.parameters('generate', 'encode')
  def test_latents_that_are_not_finite_are_reported(self, name):
    config = config_lib.override(self.config, {'evaluate.samplers': ()})
    whole = getattr(self.apply, name)

    def broken(*args):
      found = whole(*args)
      (found if name == 'generate' else found[0])[3, 1] = np.inf
      return found

    with mock.patch.object(self.apply, name, broken):
      with self.assertRaisesRegex(
        FloatingPointError, r'^1 of \d+ latents \(.*\) are not finite, so'
      ):
        self.sources(config)

  def test_a_fitted_law_that_is_not_finite_is_left_out(self):
    config = config_lib.override(
      self.config, {'evaluate.samplers': ('prior', 'gaussian')}
    )
    broken = lambda z, **unused: lambda num, seed: np.full((num, 16), np.nan)
    with mock.patch.dict(registry.SAMPLERS, gaussian=broken):
      sources = self.sources(config)
    self.assertNotIn('gaussian', sources.images)
    self.assertIn('prior', sources.images)
    self.assertEqual(
      sources.left_out, {'gaussian': 'some of its latents are not finite'}
    )

  def test_a_mixture_of_too_many_components_says_so_in_the_results(self):
    config = config_lib.override(
      self.config, {'evaluate.samplers': ('prior', 'gmm_100000')}
    )
    with self.without_measures():
      results = evaluate.evaluate(config, self.workdir)
    self.assertRegex(
      results['protocol/left_out'],
      r'^gmm_100000: gmm_100000 cannot be fitted to 1373 latents; the number',
    )
    report = (self.workdir / 'report.html').read_text()
    self.assertIn('gmm_100000 cannot be fitted', report)

  def test_a_bug_of_a_sampler_is_not_passed_over(self):
    config = config_lib.override(
      self.config, {'evaluate.samplers': ('prior', 'gaussian')}
    )

    def broken(z, **unused):
      raise ValueError('shapes differ')

    with mock.patch.dict(registry.SAMPLERS, gaussian=broken):
      with self.assertRaisesRegex(ValueError, 'shapes differ'):
        self.sources(config)

  @parameterized.parameters(
    ('langevin', langevin.SAMPLER.fit), ('two_stage', two_stage.fit)
  )
  def test_a_trained_law_takes_the_steps_asked_for(self, name, fit_fn):
    config = config_lib.override(
      self.config,
      {
        'evaluate.samplers': (name,),
        'evaluate.langevin_steps': 4,
        'evaluate.two_stage_steps': 4,
        f'evaluate.{name}_steps': 3,
      },
    )
    fit = mock.Mock(wraps=fit_fn)
    with mock.patch.dict(registry.SAMPLERS, {name: fit}):
      sources = self.sources(config)
    self.assertEqual(fit.call_args.kwargs['num_steps'], 3)
    self.assertEqual(
      sources.latents[name].shape, sources.latents['generator'].shape
    )
    self.assertEqual(sources.images[name].shape[1:], (8, 8, 1))

  def test_options_reach_their_distributions(self):
    options = {
      'two_stage': {'num_steps': 3},
      'flow_matching': {'num_steps': 4},
      'flow': {'num_steps': 5},
      'drifting': {'num_steps': 6},
      'svgd': {'num_steps': 7},
      'nearest': {'noise': 0.25},
    }
    config = config_lib.override(
      self.config,
      {'evaluate.samplers': tuple(options)}
      | {
        f'evaluate.{name}_{field.removeprefix("num_")}': value
        for name, own in options.items()
        for field, value in own.items()
      },
    )
    size = self.config.model.latent_size
    zeros = lambda num, seed: np.zeros((num, size), np.float32)
    fits = {name: mock.Mock(return_value=zeros) for name in options}
    with mock.patch.dict(registry.SAMPLERS, fits):
      sources = self.sources(config)
    for name, own in options.items():
      self.assertEqual({'seed': mock.ANY, **own}, fits[name].call_args.kwargs)
      self.assertIn(name, sources.images)

  def test_draws_are_those_of_any_batch_size(self):
    other = self.untrained_networks(batch_size=32)
    images = self.experiment.dataset.images['test'][:70]
    key = jax.random.key(0)
    for draw_fn in (
      lambda apply: apply.encode(images, key).z,
      lambda apply: apply.generate(70, key),
    ):
      z = draw_fn(self.apply)
      np.testing.assert_allclose(z, draw_fn(other), rtol=1e-4, atol=1e-5)
      self.assertGreater(np.std(z[:20] - z[50:]), 0.1)  # none twice

  def test_floats_are_encoded_as_the_same_images(self):
    images = self.experiment.dataset.images['test'][:70]
    key = jax.random.key(0)
    np.testing.assert_allclose(
      self.apply.encode(images.astype(np.float64) / 255, key).z,
      self.apply.encode(images, key).z,
      rtol=1e-5,  # float64 pixels are rounded once more
      atol=1e-6,
    )

  @parameterized.parameters(
    (np.float32, 1, r'float32 are in \[0, 16\]; give uint8, or floats in'),
    (np.int64, 1, 'dtype int64; give uint8, or floats in'),
    (np.uint8, 2, r'shape \(70, 16, 8, 1\); the network needs shape \[N, 8, 8'),
  )
  def test_other_images_are_not_encoded(self, dtype, num_rows, message):
    images = self.experiment.dataset.images['test'][:70]
    images = np.tile(np.minimum(images, 16).astype(dtype), (1, num_rows, 1, 1))
    with self.assertRaisesRegex(errors.UserError, message):
      self.apply.encode(images, jax.random.key(0))

  def test_draws_of_posteriors_have_their_std(self):
    images = self.experiment.dataset.images['test'][:70]
    posterior = self.apply.encode(images, jax.random.key(0))
    noise = (posterior.z - posterior.mean) / np.exp(0.5 * posterior.logvar)
    # 70 x 16 numbers: four errors of a mean, and of a std
    self.assertAlmostEqual(np.mean(noise), 0.0, delta=4 / noise.size**0.5)
    self.assertAlmostEqual(
      np.std(noise), 1.0, delta=4 / (2 * noise.size) ** 0.5
    )


if __name__ == '__main__':
  absltest.main()
