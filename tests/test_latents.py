"""Tests for ldc_vae.latents: a file of latents, learned by a command line."""

import json
import os
import pathlib
import shutil
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

import ldc_vae
from ldc_vae import check
from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import latents
from ldc_vae.api import latent_sampler
from tests import main_case

_DEBUG = {'evaluate.samplers': 'gaussian', 'train.num_steps': '2'}


def _config(path, spec='latents:debug', **fields):
  overrides = {'dataset.path': str(path), **_DEBUG, **fields}
  return config_lib.load(spec, overrides)


class TrainTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    rng = np.random.default_rng(0)
    cls.path = cls.folder / 'z.npz'
    means, stds = rng.normal(size=(200, 3)), rng.uniform(size=(200, 3))
    np.savez(cls.path, means=means, stds=stds)
    cls.trained = cls.folder / 'trained'
    latents.train(_config(cls.path), cls.trained)

  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(self.create_tempdir().full_path) / 'run'
    shutil.copytree(self.trained, self.workdir)

  def again(self, config):
    """Returns how often another start trains."""
    with mock.patch.object(
      latent_sampler, 'fit_sampler', wraps=latent_sampler.fit_sampler
    ) as fit:
      latents.train(config, self.workdir)
    return fit.call_count

  def test_it_is_what_fit_sampler_gives(self):
    config = _config(self.path)
    arrays = np.load(self.path)
    expected = ldc_vae.fit_sampler(
      arrays['means'],
      arrays['stds'],
      compare=('gaussian',),
      verbose=False,
      num_steps=2,
      batch_size=config.train.batch_size,
    )
    found = ldc_vae.LatentSampler.load(self.workdir / 'sampler.npz')
    np.testing.assert_array_equal(found.sample(9), expected.sample(9))
    results = json.loads((self.workdir / 'results.json').read_text())
    self.assertEqual(
      results['latent/sliced_wasserstein_generator'],
      expected.distances['sampler net']['sliced_wasserstein'],
    )
    self.assertEqual(
      results['latent/missed_share_gaussian'],
      expected.distances['gaussian']['missed_share'],
    )
    self.assertEqual((results['num_latents'], results['latent_size']), (200, 3))

  @parameterized.parameters(
    ('method.sampler_mass', 'sampler_mass', 1.5),
    ('optimizer.latent_learning_rate', 'learning_rate', 1e-4),
    ('train.num_steps', 'num_steps', 3),
    ('train.batch_size', 'batch_size', 20),
    ('seed', 'seed', 5),
  )
  def test_a_field_counts(self, field, argument, value):
    with mock.patch.object(
      latent_sampler, 'fit_sampler', side_effect=errors.UserError('stop')
    ) as fit:
      with self.assertRaisesRegex(errors.UserError, 'stop'):
        latents.train(
          _config(self.path, **{field: str(value)}), self.workdir / 'new'
        )
    self.assertEqual(fit.call_args.kwargs[argument], value)

  def test_a_second_start_does_nothing(self):
    before = (self.workdir / 'results.json').read_bytes()
    self.assertEqual(self.again(_config(self.path)), 0)
    self.assertEqual((self.workdir / 'results.json').read_bytes(), before)

  def test_other_rivals_or_damage_are_made_again(self):
    config = _config(self.path, **{'evaluate.samplers': 'prior'})
    self.assertEqual(self.again(config), 1)
    self.assertEqual(self.again(config), 0)
    self.assertTrue(check.check(self.workdir))
    (self.workdir / 'sampler.npz').write_bytes(b'x')
    self.assertFalse(check.check(self.workdir))
    self.assertEqual(self.again(config), 1)
    self.assertTrue(check.check(self.workdir))

  def test_other_latents_or_options_are_refused(self):
    other = self.workdir / 'other.npy'
    np.save(other, np.ones((200, 3)))
    with self.assertRaisesRegex(errors.UserError, 'sampler of other latents'):
      latents.train(_config(other), self.workdir)
    with self.assertRaisesRegex(errors.UserError, 'holds a run with .*seed=0'):
      latents.train(_config(self.path, seed='1'), self.workdir)

  def test_a_workdir_of_images_is_refused(self):
    with self.assertRaisesRegex(errors.UserError, 'dataset.name=latents'):
      config = config_lib.load('digits:ldc,debug')
      latents.run_lib.check_same(self.workdir, config)

  def test_latents_may_have_moved(self):
    moved = self.workdir.parent / 'moved.npz'
    shutil.copy(self.path, moved)
    self.assertEqual(self.again(_config(moved)), 0)

  def test_nothing_is_left_of_a_start_that_fails(self):
    workdir = self.workdir.parent / 'new'
    with mock.patch.object(
      latents.outputs, 'seal', side_effect=OSError('full')
    ):
      with self.assertRaisesRegex(OSError, 'full'):
        latents.train(_config(self.path), workdir)
    self.assertFalse(workdir.exists())

  def test_the_picture_has_draws_of_posteriors(self):
    config = _config(self.path, **{'evaluate.samplers': 'prior'})
    with mock.patch('ldc_vae.reporting.latent_map.latent_map') as draw:
      draw.side_effect = lambda points, path, **_: path.write_bytes(b'')
      latents.train(config, self.workdir)
    arrays, (points, _) = np.load(self.path), draw.call_args.args
    total = arrays['means'].var() + np.mean(arrays['stds'] ** 2)
    self.assertAlmostEqual(points['aggregate'].var(), total, delta=0.15 * total)
    self.assertEqual(points['generator'].shape, (200, 3))

  def test_draws(self):
    output = self.workdir / 'generated.npz'
    latents.sample(self.workdir, seed=3, num_samples=7, output=output)
    sampler = ldc_vae.LatentSampler.load(self.workdir / 'sampler.npz')
    np.testing.assert_array_equal(
      np.load(output)['latents'], sampler.sample(7, seed=3)
    )

  def test_it_is_no_run_to_load(self):
    with self.assertRaisesRegex(errors.UserError, 'LatentSampler.load reads'):
      ldc_vae.load(self.workdir)


class CommandTest(main_case.MainTestCase):
  def setUp(self):
    super().setUp()
    np.save(self.folder / 'z.npy', np.eye(30, 2))
    self.workdir = self.folder / 'run'
    self.workdir.mkdir()
    record = config_lib.to_json(_config(self.folder / 'z.npy'))
    (self.workdir / 'config.json').write_text(json.dumps(record))

  def test_train_and_sample_are_of_this_job(self):
    for mode, name in (('train', 'train'), ('sample', 'sample')):
      config = ['--config=latents', '--config.dataset.path=z.npy']
      argv = config * (mode == 'train') + [f'--workdir={self.workdir}']
      with mock.patch.object(latents, name) as job:
        code, calls, _, err = self.run_main(f'--mode={mode}', *argv)
      self.assertEqual(code, 0, err)
      self.assertEmpty(calls)  # of the jobs for images
      job.assert_called_once()

  @parameterized.parameters('evaluate', 'encode', 'export')
  def test_other_modes_are_refused(self, mode):
    images = ['--images=test'] if mode == 'encode' else []
    code, _, _, err = self.run_main(
      f'--mode={mode}', f'--workdir={self.workdir}', *images
    )
    self.assertEqual(code, 2)
    self.assertIn('holds a sampler of latents', err)

  @parameterized.parameters(
    (['--mode=compare', '--methods=ldc'], 'trains on images'),
    (
      ['--config.dataset.path='],
      "config.dataset.path='' is empty: give an .npy",
    ),
    (['--config.dataset.path=no.npy'], 'no.npy cannot be read'),
    (['--config.evaluate.samplers=gmm'], 'config.evaluate.samplers'),
  )
  def test_mistakes_are_one_sentence(self, argv, part):
    given = ['--config=latents', '--config.dataset.path=z.npy', *argv]
    code, _, _, err = self.run_main(*given)
    self.assertEqual(code, 2, err)
    self.assertIn(part, err)
    self.assertEqual(err.count('\n'), 1)
    self.assertFalse(os.path.exists('runs'))

  def test_an_interruption_says_that_it_begins_again(self):
    with mock.patch.object(latents, 'train', side_effect=KeyboardInterrupt):
      code, _, _, err = self.run_main(
        '--config=latents', '--config.dataset.path=z.npy', '--workdir=new'
      )
    self.assertEqual(code, 130)
    self.assertIn('interrupted: the same command begins new again', err)

  def test_another_method_is_refused(self):
    code, _, _, err = self.run_main(
      '--config=latents:vae', '--config.dataset.path=z.npy'
    )
    self.assertEqual(code, 2)
    self.assertIn('config.method.name=vae: latents are learned', err)


if __name__ == '__main__':
  absltest.main()
