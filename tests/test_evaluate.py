"""Tests of the evaluation and of sampling, on a run of seconds."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import elbo
from ldc_vae import errors
from ldc_vae import evaluate
from ldc_vae import names
from ldc_vae import run as run_lib
from ldc_vae.data import datasets
from ldc_vae.evaluation import inception
from ldc_vae.evaluation import requirements
from ldc_vae.reporting import evaluation_figures
from ldc_vae.runtime import files
from ldc_vae.runtime import provenance
from tests import evaluate_case

_without_times = evaluate_case.without_times
# What differs between evaluations that measure different things.
_OF_A_RUN = (
  'digests',
  'protocol/evaluate',
  'protocol/not_measured',
  'time/',
  'wall_seconds',
)


class EvaluateTest(evaluate_case.RunTest):
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
    stored = provenance.ROOT / 'tests' / 'frozen' / 'result_names.json'
    expected = json.loads(stored.read_text(encoding='utf-8'))
    found = [x for x in self.results if not x.startswith(names.CAUTION)]
    self.assertEqual(sorted(found), expected)

  def test_what_is_null_is_not_asked_for_or_says_why(self):
    why = self.results['protocol/not_measured']
    self.assertIn('frechet_inception: config.evaluate.inception=False', why)
    self.assertIn('nll/ais: config.evaluate.ais_chains=0', why)
    prefixes = [
      x for part in why.split('; ') for x in part.split(': ')[0].split(', ')
    ]
    for name, value in self.results.items():
      _, source = names.find_metric(name)
      if source in ('two_stage', 'gmm_50'):  # of no sampler of this run
        continue
      explained = name.startswith(tuple(prefixes))
      self.assertEqual(value is None, explained, name)

  def test_few_samples_have_a_caution(self):
    # 96 are fewer than 100, and more than two for each of 32 features
    cautions = {x for x in self.results if x.startswith(names.CAUTION)}
    families = ('kid_classifier', 'prdc', 'classifier', 'latent')
    self.assertEqual(cautions, {names.CAUTION + x for x in families})
    self.assertStartsWith(
      self.results['protocol/caution_prdc'], '96 images are too few, so'
    )
    page = (self.workdir / 'report.html').read_text()
    self.assertRegex(page, 'kid_classifier/real</th><td class="text">.* ⚠<')
    self.assertNotIn('Fréchet, classifier ⚠', page)

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
    # draws of the same distribution, and of another
    self.assertLess(
      abs(self.results['latent/ksd_aggregate']),
      0.1 * self.results['latent/ksd_prior'],
    )
    self.assertLess(
      self.results['time/sample_10k_latents_seconds'],
      self.results['time/sample_10k_seconds'],
    )
    # more importance samples never loosen the bound: E log mean >= mean E log
    self.assertLess(self.results['nll/importance'], self.results['nll/elbo'])

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
      mock.patch.object(evaluation_figures, 'draw'),
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
      elif not name.startswith(_OF_A_RUN):
        self.assertEqual(after[name], value, name)
    self.assertIn('299x299', after['protocol/inception'])
    self.assertIn('96 uint8 images', after['protocol/distances'])

  def test_networks_that_are_not_there_are_reported_before_the_work(self):
    for name in requirements.NETWORKS:
      config = config_lib.override(self.config, {f'evaluate.{name}': True})
      with mock.patch('importlib.util.find_spec', return_value=None):
        with self.assertRaisesRegex(ValueError, f'{name}=True needs .* pip'):
          requirements.check(config, self.experiment.dataset)

  def test_the_same_seed_gives_the_same_run_bit_for_bit(self):
    again = self.workdir.with_name('again')
    program = (
      'import sys; from ldc_vae import config, train\n'
      'from ldc_vae.reporting import evaluation_figures\n'
      'evaluation_figures.draw = lambda *args: None\n'
      'train.train_and_evaluate(config.read(sys.argv[1]), sys.argv[2])'
    )
    subprocess.run(  # a process of its own: another order of Python's sets
      (sys.executable, '-c', program, self.workdir, again),
      env=dict(os.environ, PYTHONHASHSEED='7'),
      cwd=provenance.ROOT,
      check=True,
      capture_output=True,
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

  def test_an_evaluation_that_fails_leaves_the_one_before(self):
    workdir = self.workdir.with_name('stopped')
    shutil.copytree(self.evaluated, workdir)
    before = _contents(workdir)
    full = mock.patch.object(
      evaluate.report, 'write_report', side_effect=OSError('full')
    )
    with full, self.without_measures():
      with self.assertRaisesRegex(OSError, 'full'):
        evaluate.evaluate(self.config, workdir)
    self.assertEqual(_contents(workdir), before)
    self.assertTrue(run_lib.is_evaluated(workdir, self.config, 8))

  @parameterized.named_parameters(
    ('number', 'results.json', lambda data: data.replace(b'96', b'97', 1)),
    ('samples', 'samples.npz', lambda data: bytes(len(data))),
    ('report', 'report.html', lambda data: data[:-1]),
    ('picture', 'figures/latent_map.png', lambda data: None),
  )
  def test_results_that_were_changed_are_none(self, name, change):
    workdir = self.workdir.with_name(f'changed_{pathlib.Path(name).stem}')
    shutil.copytree(self.evaluated, workdir)
    self.assertTrue(run_lib.is_evaluated(workdir, self.config, 8))
    data = change((workdir / name).read_bytes())
    (workdir / name).unlink()
    if data is not None:
      (workdir / name).write_bytes(data)
    with self.assertLogs('absl', 'WARNING') as logs:
      self.assertFalse(run_lib.is_evaluated(workdir, self.config, 8))
    self.assertRegex(logs.output[0], f'{name} is .*: the run is evaluated')

  def test_samples_may_be_taken_away(self):
    workdir = self.workdir.with_name('without_samples')
    shutil.copytree(self.evaluated, workdir)
    (workdir / 'samples.npz').unlink()
    self.assertTrue(run_lib.is_evaluated(workdir, self.config, 8))

  @parameterized.parameters(1, 9)
  def test_few_training_images_are_reported(self, num):
    dataset = self.experiment.dataset
    few = {**dataset.images, 'train': dataset.images['train'][:num]}
    experiment = self.experiment._replace(dataset=dataset._replace(images=few))
    workdir = self.workdir.with_name(f'few_{num}')
    shutil.copytree(self.workdir, workdir)
    config = config_lib.override(self.config, {'evaluate.samplers': ('prior',)})
    with mock.patch.object(datasets, 'check_same'):
      with self.without_measures() as image_measures:
        with self.assertLogs('absl', 'WARNING') as logs:
          results = evaluate.evaluate(config, workdir, experiment=experiment)
    self.assertIn(f'real and aggregate use {num} images', str(logs.output))
    self.assertIn(f'aggregate {num}, all', results['protocol/distances'])
    self.assertEqual(image_measures.called, num > 1)

  def test_is_evaluated_knows_step_and_evaluation(self):
    results = {k: x for k, x in self.results.items() if k != 'digests'}
    files.write_json(self.workdir / 'results.json', results)
    self.assertTrue(run_lib.is_evaluated(self.workdir, self.config, 8))
    self.assertFalse(run_lib.is_evaluated(self.workdir, self.config, 9))
    files.write_json(self.workdir / 'results.json', [1])
    self.assertFalse(run_lib.is_evaluated(self.workdir, self.config, 8))
    files.write_json(self.workdir / 'results.json', results)
    for field, value in (
      ('evaluate.split', 'validation'),
      ('evaluate.samplers', ('prior',)),
      ('evaluate.ais_chains', 2),
      ('evaluate.batch_size', 7),
    ):
      other = config_lib.override(self.config, {field: value})
      self.assertFalse(run_lib.is_evaluated(self.workdir, other, 8), field)
    # the best step is known when the training has ended
    best = config_lib.override(self.config, {'evaluate.checkpoint': 'best'})
    results = {
      **results,
      'protocol/evaluate': run_lib.describe_evaluation(best),
      'step': 3,
    }
    files.write_json(self.workdir / 'results.json', results)
    self.assertTrue(run_lib.is_evaluated(self.workdir, best, 8))
    self.assertFalse(run_lib.is_evaluated(self.workdir, best, 9))

  def test_untrained_workdir_is_refused(self):
    empty = pathlib.Path(self.create_tempdir().full_path)
    with self.assertRaisesRegex(errors.UserError, 'no checkpoint') as context:
      evaluate.evaluate(self.config, empty)
    self.assertEqual(context.exception.exit_code, 1)


def _contents(folder):
  """The bytes of every file in a folder."""
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


class LogTest(absltest.TestCase):
  def test_ends_with_ten_numbers_in_words_and_the_paths(self):
    results = {
      **dict.fromkeys(names.result_names(('prior',)), 0.5),
      'protocol/split': 'test',
    }
    with self.assertLogs('absl', 'INFO') as logs:
      evaluate._log(results)
      run_lib.log_files(pathlib.Path('here'))
    lines = [record.getMessage() for record in logs.records]
    self.assertLen(lines, 12)
    for line in lines[:10]:
      self.assertRegex(line, r'^  [^/_]+  0\.50*$|held-out images: 1')
    here = os.path.abspath('here')
    self.assertEqual(lines[10], f'report: {here}/report.html')
    self.assertEqual(lines[11], f'all numbers: {here}/results.json')


class SamplerCheckTest(parameterized.TestCase):
  def test_missed_latents_are_reported_with_a_remedy(self):
    with self.assertLogs('absl', 'WARNING') as logs:
      evaluate._check_sampler({'latent/missed_share_generator': 0.25})
    self.assertLen(logs.output, 1)
    for words in ('=0.25', 'train.num_epochs', 'method.num_latent_updates'):
      self.assertIn(words, logs.output[0])

  @parameterized.parameters(0.0, 0.05, None)
  def test_small_or_unknown_shares_are_not(self, share):
    with self.assertNoLogs('absl', 'WARNING'):
      evaluate._check_sampler({'latent/missed_share_generator': share})


if __name__ == '__main__':
  absltest.main()
