"""Tests of the evaluation and of sampling, on a run of seconds."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
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
from ldc_vae import step as step_lib
from ldc_vae import train
from ldc_vae.data import datasets
from ldc_vae.evaluation import inception
from ldc_vae.evaluation import likelihood
from ldc_vae.evaluation import measures
from ldc_vae.evaluation import requirements
from ldc_vae.methods import base
from ldc_vae.reporting import style
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import writer
from ldc_vae.samplers import latent_energy
from ldc_vae.samplers import latents
from ldc_vae.samplers import two_stage
from tests import device_case

_OVERRIDES = {
    'train.num_steps': 8,
    'train.checkpoint_every': 4,
    'evaluate.num_samples': 96,
}


def _train(workdir, method='ldc', overrides=None):
  config = config_lib.load(
      f'configs/digits.py:{method},debug', {**_OVERRIDES, **(overrides or {})}
  )
  train.train_and_evaluate(config, workdir)
  return config


def _without_times(workdir):
  """All numbers that a run left, but for the seconds that it took."""
  def strip(row):
    times = (
        'train/images_per_sec',
        'wall_seconds',
        'time/sample_10k_latents_seconds',
        'time/sample_10k_seconds',
    )
    return {name: x for name, x in row.items() if name not in times}

  found = {
      'results': strip(json.loads((workdir / 'results.json').read_text())),
      'metrics': [
          strip(json.loads(line))
          for line in (workdir / 'metrics.jsonl').read_text().splitlines()
      ],
  }
  for path in (workdir / 'checkpoints').iterdir():
    manifest = json.loads((path / 'manifest' / 'metadata').read_text())
    del manifest['digest']  # of the times too
    manifest['metrics'] = strip(manifest['metrics'])
    found[f'manifest of {path.name}'] = manifest  # a SHA-256 for each array
  with np.load(workdir / 'samples.npz') as samples:
    found['samples'] = {name: samples[name].tobytes() for name in samples}
  return found


class EvaluateTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.workdir = pathlib.Path(folder) / 'run'
    with device_case.quick_classifier():
      cls.config = _train(cls.workdir)
    cls.left = _without_times(cls.workdir)  # before a test evaluates again
    cls.results = json.loads((cls.workdir / 'results.json').read_text())
    # of no field of `evaluate`: what differs in these only may share them
    cls.experiment = experiment_lib.create(cls.config)
    cls.untrained = cls.experiment.init_state()
    cls.apply = evaluate.Apply(
        cls.experiment, cls.untrained, binarize=False, batch_size=50
    )
    with checkpoint.Checkpointer(
        cls.workdir / 'checkpoints', read_only=True
    ) as checkpointer:
      template = cls.experiment.abstract_state()
      cls.trained = checkpointer.restore(template).state

  @contextlib.contextmanager
  def _without_measures(self):
    """An evaluation that measures and draws nothing."""
    with contextlib.ExitStack() as stack:
      for module, name in (
          (measures, 'latent_measures'), (likelihood, 'importance')
      ):
        stack.enter_context(
            mock.patch.object(module, name, return_value={})
        )
      stack.enter_context(mock.patch.object(evaluate, '_draw'))
      yield stack.enter_context(
          mock.patch.object(measures, 'image_measures', return_value={})
      )

  def _sources(self, config):
    """What an untrained run would be evaluated on."""
    return evaluate.make_sources(
        config, self.experiment, self.apply, jax.random.key(0)
    )

  def test_workdir_holds_the_files_of_the_contract(self):
    for name in (
        'config.json',
        'metrics.jsonl',
        'results.json',
        'samples.npz',
        'report.html',
        'checkpoints/8',
        'figures/sample_grid.png',
        'figures/reconstructions.png',
        'figures/interpolations.png',
        'figures/latent_map.png',
        'figures/training_curves.png',
        'figures/source_grid.png',
        'figures/decomposition_bars.png',
    ):
      self.assertTrue((self.workdir / name).exists(), name)

  def test_names_of_the_results_are_those_stored(self):
    stored = config_lib.ROOT / 'tests' / 'frozen' / 'result_names.json'
    names = json.loads(stored.read_text(encoding='utf-8'))
    self.assertEqual(sorted(self.results), names)

  def test_numbers_are_those_of_this_run(self):
    self.assertEqual(self.results['step'], 8)
    self.assertEqual(self.results['seed'], 0)
    self.assertEqual(self.results['num_samples'], 96)
    for source in ('real', 'aggregate', 'generator', 'prior', 'gmm_10'):
      value = self.results[f'frechet_classifier/{source}']
      self.assertGreater(value, 0.0)
    # real images are nearer to real images than those of 8 training steps
    for family in ('frechet_classifier', 'kid_classifier'):
      self.assertLess(
          self.results[f'{family}/real'],
          0.5 * self.results[f'{family}/generator'],
      )
    self.assertLess(self.results['prdc/coverage'], 0.5)
    self.assertBetween(self.results['classifier/entropy'], 0.0, np.log(10))
    self.assertBetween(self.results['classifier/class_balance'], 0.1, 1.0)
    # draws of the law itself, and of another
    self.assertLess(
        abs(self.results['latent/ksd_aggregate']),
        0.1 * self.results['latent/ksd_prior'],
    )
    self.assertLess(
        self.results['time/sample_10k_latents_seconds'],
        self.results['time/sample_10k_seconds'],
    )
    # more importance samples never loosen the bound: E log mean >= mean E log
    self.assertLess(
        self.results['nll/importance'], self.results['nll/elbo']
    )

  def test_samples_decode_their_latents(self):
    with np.load(self.workdir / 'samples.npz') as samples:
      images, latents = samples['images'], samples['latents']
    self.assertEqual(images.shape, (96, 8, 8, 1))
    self.assertEqual(images.dtype, np.uint8)
    self.assertEqual(latents.dtype, np.float32)
    decode_fn = jax.jit(self.experiment.model.decode)
    decoded = decode_fn(self.trained.ema_params, latents)
    # 1: rounding to grey levels may differ in the last bit of a float
    np.testing.assert_allclose(np.asarray(decoded) * 255, images, atol=1.0)

  def test_evaluating_again_gives_the_same_numbers(self):
    before = dict(self.results)
    # and those of a stand-in for the Inception network besides
    brightness = lambda images: np.stack(
        [images.mean(axis=(1, 2, 3)), images.std(axis=(1, 2, 3))], axis=1
    )
    with (
        mock.patch.multiple(
            inception, require=lambda: None, load=lambda: brightness
        ),
        mock.patch.object(evaluate, '_draw'),
    ):
      after = evaluate.evaluate(
          config_lib.override(self.config, {'evaluate.inception': True}),
          self.workdir,
      )
    for name, value in before.items():
      if name.startswith('frechet_inception/'):
        self.assertIsNone(value, name)
        if name.partition('/')[2] != 'two_stage':  # the config fits none
          self.assertGreater(after[name], 0.0, name)
      elif name not in ('wall_seconds', 'protocol/evaluate') and (
          not name.startswith('time/')
      ):
        self.assertEqual(after[name], value, name)
    self.assertIn('299x299', after['protocol/inception'])
    self.assertIn('96 uint8 images', after['protocol/distances'])

  def test_inception_that_is_not_there_is_told_before_the_work(self):
    config = config_lib.override(self.config, {'evaluate.inception': True})
    with mock.patch('importlib.util.find_spec', return_value=None):
      with self.assertRaisesRegex(ValueError, 'inception=True needs .* pip'):
        requirements.check(config, self.experiment.dataset)

  def test_the_same_seed_gives_the_same_run_bit_for_bit(self):
    again = self.workdir.with_name('again')
    program = (
        'import sys; from ldc_vae import config, evaluate, train\n'
        'evaluate._draw = lambda *args: None\n'
        'train.train_and_evaluate(config.read(sys.argv[1]), sys.argv[2])'
    )
    subprocess.run(  # a process of its own: another order of Python's sets
        (sys.executable, '-c', program, self.workdir, again),
        env=dict(os.environ, PYTHONHASHSEED='7'), cwd=config_lib.ROOT,
        check=True, capture_output=True,
    )
    self.assertEqual(self.left, _without_times(again))
    self.assertIn('validation/loss', self.left['manifest of 8']['metrics'])

  def test_nll_is_that_of_a_plain_loop(self):
    model, params = self.experiment.model, self.trained.ema_params
    images = self.experiment.dataset.images['test'][:128]
    images = images.astype(np.float32) / 255
    encode_fn = jax.jit(model.modules['encoder'].apply)
    mean, logvar = jax.device_get(encode_fn(params['encoder'], images))
    kl = np.mean(jax.jit(jax.vmap(elbo.gaussian_kl))(mean, logvar))
    decode_fn = jax.jit(model.decode)
    draws = np.random.default_rng(0).normal(size=(64, *mean.shape))
    nll = []
    for noise in draws.astype(np.float32):
      x = np.asarray(decode_fn(params, mean + np.exp(logvar / 2) * noise))
      scale = np.exp(params['scale']['params']['log_scale'])
      terms = 0.5 * ((images - x) / scale) ** 2
      terms += np.log(scale) + 0.5 * np.log(2 * np.pi)
      nll.append(terms.sum(axis=(1, 2, 3)).mean())
    # 8 and 64 draws of each of 128 posteriors: their means differ by about
    # the standard deviation of `nll` over its square root of 8
    self.assertAlmostEqual(
        self.results['nll/elbo'],
        float(np.mean(nll) + kl),
        delta=5 * np.std(nll) / np.sqrt(8) + 1e-3,
    )

  def test_sample_writes_the_number_asked_for(self):
    output = self.workdir / 'more' / 'some.npz'
    output.parent.mkdir(exist_ok=True)
    evaluate.sample(self.config, self.workdir, num_samples=7, output=output)
    with np.load(output) as samples:
      self.assertEqual(samples['images'].shape, (7, 8, 8, 1))
    self.assertTrue(output.with_suffix('.png').exists())

  def test_a_sample_needs_no_inception_and_a_place_for_its_picture(self):
    output = self.workdir / 'pictures' / 'some.npz'
    output.with_suffix('.png').mkdir(parents=True)
    output.write_text('kept')
    config = config_lib.override(self.config, {'evaluate.inception': True})
    with mock.patch.object(inception, 'require', side_effect=AssertionError):
      with self.assertRaisesRegex(OSError, 'some.png'):
        evaluate.sample(config, self.workdir, num_samples=7, output=output)
      self.assertEqual(output.read_text(), 'kept')
      output.with_suffix('.png').rmdir()
      evaluate.sample(config, self.workdir, num_samples=7, output=output)
    self.assertTrue(output.with_suffix('.png').is_file())

  def test_an_evaluation_that_stops_is_none(self):
    workdir = self.workdir.with_name('stopped')
    shutil.copytree(self.workdir, workdir)
    writer.write_json(workdir / 'results.json', self.results)
    self.assertTrue(evaluate.is_evaluated(workdir, self.config, 8))
    full = mock.patch.object(
        evaluate.report, 'write_report', side_effect=OSError('full')
    )
    with full, self._without_measures():
      with self.assertRaisesRegex(OSError, 'full'):
        evaluate.evaluate(self.config, workdir)
    self.assertFalse(evaluate.is_evaluated(workdir, self.config, 8))

  @parameterized.parameters(1, 9)
  def test_few_training_images_are_told(self, num):
    dataset = self.experiment.dataset
    few = {**dataset.images, 'train': dataset.images['train'][:num]}
    experiment = self.experiment._replace(
        dataset=dataset._replace(images=few)
    )
    workdir = self.workdir.with_name(f'few_{num}')
    shutil.copytree(self.workdir, workdir)
    config = config_lib.override(self.config, {'evaluate.samplers': ('prior',)})
    with mock.patch.object(evaluate.datasets, 'check_same'):
      with self._without_measures() as image_measures:
        with self.assertLogs('absl', 'WARNING') as logs:
          results = evaluate.evaluate(config, workdir, experiment=experiment)
    self.assertIn(f'real and aggregate are of {num} images', str(logs.output))
    self.assertIn(f'aggregate {num}, all', results['protocol/distances'])
    self.assertEqual(image_measures.called, num > 1)

  def test_is_evaluated_knows_step_and_evaluation(self):
    writer.write_json(self.workdir / 'results.json', self.results)
    self.assertTrue(evaluate.is_evaluated(self.workdir, self.config, 8))
    self.assertFalse(evaluate.is_evaluated(self.workdir, self.config, 9))
    writer.write_json(self.workdir / 'results.json', [1])
    self.assertFalse(evaluate.is_evaluated(self.workdir, self.config, 8))
    writer.write_json(self.workdir / 'results.json', self.results)
    for field, value in (
        ('evaluate.split', 'validation'),
        ('evaluate.samplers', ('prior',)),
        ('evaluate.ais_chains', 2),
        ('evaluate.batch_size', 7),
    ):
      other = config_lib.override(self.config, {field: value})
      self.assertFalse(evaluate.is_evaluated(self.workdir, other, 8), field)
    # the best is of some step, judged when the training had ended
    best = config_lib.override(self.config, {'evaluate.checkpoint': 'best'})
    results = {
        **self.results,
        'protocol/evaluate': measures.describe_evaluation(best),
        'step': 3,
    }
    writer.write_json(self.workdir / 'results.json', results)
    self.assertTrue(evaluate.is_evaluated(self.workdir, best, 8))
    self.assertFalse(evaluate.is_evaluated(self.workdir, best, 9))

  def test_distances_over_two_draws_come_with_their_deviation(self):
    workdir = self.workdir.with_name('draws')
    shutil.copytree(self.workdir, workdir)
    config = config_lib.override(
        self.config,
        {'evaluate.num_draws': 2, 'evaluate.samplers': ('prior',)},
    )
    self.assertFalse(evaluate.is_evaluated(workdir, config, 8))
    with mock.patch.object(
        style, 'source_bars', wraps=style.source_bars
    ) as source_bars:
      (workdir / 'metrics.jsonl').unlink()  # what is not needed is not missed
      with self.assertLogs('absl', 'WARNING') as logs:
        results = evaluate.evaluate(config, workdir)
    self.assertIn('no training curves are drawn', ''.join(logs.output))
    self.assertTrue((workdir / 'figures' / 'training_curves.png').exists())
    self.assertTrue(evaluate.is_evaluated(workdir, config, 8))
    self.assertEqual(results['num_samples'], 96)
    for source in ('aggregate', 'generator', 'prior'):
      deviation = results[f'frechet_classifier_deviation/{source}']
      mean = results[f'frechet_classifier/{source}']
      self.assertBetween(deviation, 1e-3, mean)
      first = self.results[f'frechet_classifier/{source}']
      # of two draws, whose mean is 1 / sqrt(2) deviations from each
      self.assertAlmostEqual(abs(mean - first), deviation / 2**0.5, delta=1e-3)
    source_bars.assert_called_once()  # deviations have no bars
    self.assertIn('means over 2 such', results['protocol/distances'])

  def test_results_of_one_draw_are_those_of_an_earlier_version(self):
    self.assertNotIn('num_draws', measures.describe_evaluation(self.config))

  def test_a_law_with_a_draw_that_is_not_finite_is_left_out(self):
    config = config_lib.override(
        self.config,
        {'evaluate.num_draws': 2, 'evaluate.samplers': ('prior', 'gaussian')},
    )
    bad = lambda num, seed: np.full((num, 16), np.nan if seed % 2 else 0.0)
    real_fit = latents.fit

    def fit(name, *args, **kwargs):
      return bad if name == 'gaussian' else real_fit(name, *args, **kwargs)

    with mock.patch.object(latents, 'fit', fit):
      with self.assertLogs('absl', 'WARNING') as logs:
        sources = self._sources(config)
    self.assertIn('gaussian is left out', ' '.join(logs.output))
    self.assertNotIn('gaussian', sources.images)
    self.assertNotIn('gaussian', sources.redraw_fn(1))

  def test_latents_can_be_drawn_anew(self):
    config = config_lib.override(
        self.config,
        {'evaluate.num_draws': 3, 'evaluate.samplers': ('prior', 'gmm_10')},
    )
    sources = self._sources(config)
    draws = [sources.images, sources.redraw_fn(1), sources.redraw_fn(2)]
    laws = {'aggregate', 'generator', 'prior', 'gmm_10'}
    self.assertSetEqual(set(draws[1]), laws)
    for name in laws:
      for one, other in ((0, 1), (0, 2), (1, 2)):
        self.assertEqual(draws[one][name].shape, draws[other][name].shape)
        same = np.all(draws[one][name] == draws[other][name], axis=(1, 2, 3))
        # of 96 of 1,373 training images a few are drawn twice
        self.assertLess(np.mean(same), 0.05, name)
    again = sources.redraw_fn(2)
    for name in laws:
      np.testing.assert_array_equal(again[name], draws[2][name])
    other, aggregate = sources.other_aggregate, sources.latents['aggregate']
    self.assertEqual(other.shape, aggregate.shape)
    self.assertFalse(np.any(np.all(other[:, None] == aggregate, axis=-1)))

  def test_the_validation_split_can_be_the_reference(self):
    config = config_lib.override(
        self.config,
        {'evaluate.split': 'validation', 'evaluate.samplers': ()},
    )
    experiment, state = self.experiment, self.untrained
    sources = self._sources(config)
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
    bounds = likelihood.importance(
        config, experiment, state, jax.random.key(0)
    )
    test_bounds = likelihood.importance(
        self.config, experiment, state, jax.random.key(0)
    )
    self.assertNotEqual(bounds['nll/elbo'], test_bounds['nll/elbo'])

  @parameterized.parameters('generate', 'encode')
  def test_latents_that_are_not_finite_are_told(self, name):
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
        self._sources(config)

  def test_a_fitted_law_that_is_not_finite_is_left_out(self):
    config = config_lib.override(
        self.config, {'evaluate.samplers': ('prior', 'gaussian')}
    )
    broken = lambda z, **unused: lambda num, seed: np.full((num, 16), np.nan)
    with mock.patch.dict(latents.SAMPLERS, gaussian=broken):
      sources = self._sources(config)
    self.assertNotIn('gaussian', sources.images)
    self.assertIn('prior', sources.images)

  @parameterized.parameters(
      ('langevin', latent_energy.fit), ('two_stage', two_stage.fit)
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
    with mock.patch.dict(latents.SAMPLERS, {name: fit}):
      sources = self._sources(config)
    self.assertEqual(fit.call_args.kwargs['num_steps'], 3)
    self.assertEqual(
        sources.latents[name].shape, sources.latents['generator'].shape
    )
    self.assertEqual(sources.images[name].shape[1:], (8, 8, 1))

  def test_options_reach_their_laws(self):
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
    with mock.patch.dict(latents.SAMPLERS, fits):
      sources = self._sources(config)
    for name, own in options.items():
      self.assertEqual(
          {'seed': mock.ANY, **own}, fits[name].call_args.kwargs
      )
      self.assertIn(name, sources.images)

  def test_draws_are_those_of_any_batch_size(self):
    other = evaluate.Apply(
        self.experiment, self.untrained, binarize=False, batch_size=32
    )
    images = self.experiment.dataset.images['test'][:70]
    key = jax.random.key(0)
    for draw_fn in (
        lambda apply: apply.encode(images, key).z,
        lambda apply: apply.generate(70, key),
    ):
      z = draw_fn(self.apply)
      np.testing.assert_allclose(z, draw_fn(other), rtol=1e-4, atol=1e-5)
      self.assertGreater(np.std(z[:20] - z[50:]), 0.1)  # none twice

  def test_draws_of_posteriors_have_their_deviation(self):
    images = self.experiment.dataset.images['test'][:70]
    posterior = self.apply.encode(images, jax.random.key(0))
    noise = (posterior.z - posterior.mean) / np.exp(0.5 * posterior.logvar)
    # 70 x 16 numbers: four errors of a mean, and of a deviation
    self.assertAlmostEqual(np.mean(noise), 0.0, delta=4 / noise.size**0.5)
    self.assertAlmostEqual(
        np.std(noise), 1.0, delta=4 / (2 * noise.size) ** 0.5
    )

  def test_untrained_workdir_is_refused(self):
    empty = pathlib.Path(self.create_tempdir().full_path)
    with self.assertRaisesRegex(OSError, 'no checkpoint'):
      evaluate.evaluate(self.config, empty)


class _MarkedApply:
  """Latents [N, 4] that tell their image's three numbers, and draw or mean."""

  def encode(self, images, key):
    mark = lambda kind: np.concatenate(
        [images[:, 0, 0], np.full((len(images), 1), kind)], axis=1
    ).astype(np.float32)
    return base.Posterior(mark(_DRAW), mark(_MEAN), None, None)

  def decode(self, z):
    return z.astype(np.uint8)[:, None, None]

  def generate(self, num_samples, key):
    return np.full((num_samples, 4), _GENERATED, np.float32)


_DRAW, _MEAN, _GENERATED = 1, 0, 9
_SPLITS = {'train': 3, 'validation': 4, 'test': 5}


class SamplerCheckTest(parameterized.TestCase):

  def test_missed_latents_are_told_with_a_remedy(self):
    with self.assertLogs('absl', 'WARNING') as logs:
      evaluate._check_sampler({'latent/missed_share_generator': 0.25})
    self.assertLen(logs.output, 1)
    for words in ('=0.25', 'train.num_epochs', 'objective.num_latent_updates'):
      self.assertIn(words, logs.output[0])

  @parameterized.parameters(0.0, 0.05, None)
  def test_small_or_unknown_shares_are_not(self, share):
    with self.assertNoLogs('absl', 'WARNING'):
      evaluate._check_sampler({'latent/missed_share_generator': share})


class SplitsTest(parameterized.TestCase):
  """Whose images are behind each source: nothing is fitted to the reference."""

  def _sources(self, split):
    """The sources of marked images, and what the latent laws are fitted to."""
    images = {}
    for name, mark in _SPLITS.items():
      index = np.arange(600 if name == 'train' else 300)
      numbers = [np.full_like(index, mark), index // 256, index % 256]
      images[name] = np.stack(numbers, axis=1).astype(np.uint8)[:, None, None]
    labels = {
        name: _number(each[:, 0, 0]) % 7 + _SPLITS[name]
        for name, each in images.items()
    }
    experiment = mock.Mock(
        dataset=datasets.Dataset('marked', images, labels, 12)
    )
    config = config_lib.load(
        'configs/digits.py:ldc,debug',
        {
            'evaluate.split': split,
            'evaluate.num_samples': 200,
            'evaluate.num_draws': 3,
            'evaluate.samplers': ('gaussian', 'gmm_10', 'two_stage'),
        },
    )
    law = lambda num, seed: np.zeros((num, 4), np.float32)
    with mock.patch.object(latents, 'fit', return_value=law) as fit:
      sources = evaluate.make_sources(
          config, experiment, _MarkedApply(), jax.random.key(0)
      )
    self.assertEqual(
        [call.args[0] for call in fit.call_args_list],
        ['gaussian', 'gmm_10', 'two_stage'],
    )
    return sources, [call.args[1] for call in fit.call_args_list]

  def _assert_are(self, rows, split, kind=None):
    """Fails unless rows [N, 3 or 4] are all of a split, draws or means."""
    self.assertNotEmpty(rows)
    self.assertSetEqual(set(rows[:, 0]), {_SPLITS[split]})
    self.assertLen(set(_number(rows)), len(rows))  # none twice
    if kind is not None:
      self.assertSetEqual(set(rows[:, 3]), {kind})

  @parameterized.parameters('test', 'validation')
  def test_laws_are_fitted_to_draws_of_all_training_posteriors(self, split):
    sources, fitted = self._sources(split)
    for z in fitted:
      self.assertLen(z, 600)
      self._assert_are(z, 'train', _DRAW)
    self._assert_are(sources.train.z, 'train', _DRAW)
    self._assert_are(sources.train.mean, 'train', _MEAN)
    self.assertLen(sources.train.mean, 600)

  @parameterized.parameters('test', 'validation')
  def test_real_and_aggregate_are_of_training_images(self, split):
    sources, _ = self._sources(split)
    aggregate, other = sources.latents['aggregate'], sources.other_aggregate
    real = sources.images['real'][:, 0, 0]
    for rows in (aggregate, other, real):
      self.assertLen(rows, 200)
    self._assert_are(real, 'train')
    np.testing.assert_array_equal(real, aggregate[:, :3])
    np.testing.assert_array_equal(
        sources.images['aggregate'][:, 0, 0], aggregate
    )
    np.testing.assert_array_equal(
        sources.aggregate_labels, _number(aggregate) % 7 + _SPLITS['train']
    )
    self._assert_are(aggregate, 'train', _DRAW)
    self._assert_are(np.concatenate([aggregate, other]), 'train', _DRAW)
    for index in (1, 2):
      again = sources.redraw_fn(index)['aggregate'][:, 0, 0]
      self.assertLen(again, 200)
      self._assert_are(again, 'train', _DRAW)
      self.assertFalse(np.array_equal(again, aggregate))

  @parameterized.parameters('test', 'validation')
  def test_only_reference_and_reconstructions_are_held_out(self, split):
    sources, _ = self._sources(split)
    self._assert_are(sources.test_images[:, 0, 0], split)
    self._assert_are(sources.test_means, split, _MEAN)
    np.testing.assert_array_equal(
        sources.latents['reconstruction'], sources.test_means
    )
    own = {'real', 'reconstruction', 'aggregate'}
    for name, images in sources.images.items():
      marks = set(images[..., 0].ravel())
      if name not in own:
        self.assertNoCommonElements(marks, _SPLITS.values(), name)


def _number(rows):
  """The index of an image of rows [N, 3 or 4]."""
  return 256 * rows[:, 1].astype(np.int64) + rows[:, 2].astype(np.int64)


class MethodsTest(parameterized.TestCase):
  """Every method trains, is evaluated and makes images, at debug sizes."""

  def _results(self, method):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    fields = {'train.num_steps': 4, 'evaluate.samplers': ('prior',)}
    with mock.patch.object(evaluate, '_draw'):
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
    experiment = experiment_lib.create(
        config_lib.load('configs/digits.py:lebm,debug')
    )
    state = experiment.init_state()
    self.assertNotIn('encoder', state.params)
    apply = evaluate.Apply(experiment, state, binarize=False, batch_size=50)
    images = experiment.dataset.images['test'][:70]
    posterior = apply.encode(images, jax.random.key(0))
    keys = step_lib.image_keys(jax.random.key(0), 50, None, 50)
    padded = np.zeros((50, 8, 8, 1), np.float32)
    padded[:20] = images[50:] / np.float32(255)
    chains = np.asarray(
        jax.jit(experiment.method.encode)(
            state.ema_params, state.stats, padded, keys
        )
    )
    for actual, wanted in (
        (posterior.z, chains[:, 0]), (posterior.mean, np.mean(chains, axis=1))
    ):
      self.assertEqual(actual.shape, (70, 8))
      # float32, 20 steps of Langevin dynamics
      np.testing.assert_allclose(
          actual[50:], wanted[:20], rtol=1e-3, atol=1e-3
      )

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
        for row in writer.read_metrics(workdir / 'metrics.jsonl')
        if 'validation/reconstruction' in row
    ]
    self.assertLess(losses[-1], losses[0] - 10.0)  # nats
    # the mean image has 0.075
    self.assertLess(results['eval/reconstruction_mse'], 0.05)


class OtherRunsTest(absltest.TestCase):

  def test_vae_generates_from_the_prior(self):
    workdir = pathlib.Path(self.create_tempdir().full_path)
    with mock.patch.object(evaluate, '_draw'):
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
            'objective.whiten': False,
        },
    )
    train.train_and_evaluate(config, folder / 'run')
    results = json.loads((folder / 'run' / 'results.json').read_text())
    self.assertGreater(results['frechet_pca/generator'], 0.0)
    self.assertIsNone(results['frechet_classifier/generator'])
    self.assertIsNone(results['nll/elbo'])  # an implicit posterior has none
    with mock.patch.object(evaluate, 'evaluate') as again:
      train.train_and_evaluate(config, folder / 'run')
      again.assert_not_called()
      labels = np.arange(120) % 2  # another judge, of the same training
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
