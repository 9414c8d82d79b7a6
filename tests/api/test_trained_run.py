"""Tests of ldc_vae.api.trained_run: a trained run in a notebook."""

import pathlib
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

import ldc_vae
from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae.api import trained_run
from ldc_vae.data import datasets
from ldc_vae.evaluation import likelihood
from ldc_vae.runtime import lock
from ldc_vae.runtime import provenance
from tests import evaluate_case


class LoadTest(evaluate_case.LoadedTest):
  def test_needs_neither_the_data_nor_the_lock(self):
    with (
      lock.lock_workdir(self.workdir),
      mock.patch.object(datasets, 'load', side_effect=AssertionError),
    ):
      run = ldc_vae.load(str(self.workdir))
    for wanted, actual in zip(
      jax.tree.leaves(self.trained.ema_params),
      jax.tree.leaves(run.params),
      strict=True,
    ):
      np.testing.assert_array_equal(actual, wanted)
    self.assertEqual(run.step, 8)
    self.assertEqual(run.config.to_dict(), self.config.to_dict())
    self.assertRegex(repr(run), 'ldc, images 8x8x1, latent size 8, step 8')

  def test_the_best_checkpoint_can_be_asked_for(self):
    run = ldc_vae.load(self.workdir, checkpoint='best')
    config = config_lib.override(self.config, {'evaluate.checkpoint': 'best'})
    self.assertEqual(run.step, trained_run.restore(config, self.workdir).step)

  def test_a_run_of_an_earlier_version_has_its_shape_from_the_data(self):
    with mock.patch.object(
      trained_run.run_lib.checkpoint_folder, 'read_meta', return_value={}
    ):
      run = ldc_vae.load(self.workdir)
    self.assertEqual(run.model.image_shape, (8, 8, 1))

  def test_what_is_no_run_is_refused(self):
    for path, options, part in (
      ('nowhere', {}, 'nowhere: no such folder'),
      (self.workdir / 'figures', {}, 'config.json: no such file'),
      (self.workdir, {'checkpoint': 'first'}, "checkpoint='first' is unknown"),
    ):
      with self.assertRaisesRegex(ldc_vae.UserError, part):
        ldc_vae.load(path, **options)

  def test_64_bits_are_refused(self):
    with mock.patch.object(jax.config, 'read', return_value=True):
      with self.assertRaisesRegex(ldc_vae.UserError, 'JAX_ENABLE_X64'):
        ldc_vae.load(self.workdir)
    experiment_lib.require_float32()  # the tests themselves pass


class EncodeTest(evaluate_case.LoadedTest):
  def test_means_without_a_seed_and_draws_with_one(self):
    posterior = self.run_.posterior(self.images, seed=3)
    np.testing.assert_array_equal(self.run_.encode(self.images), posterior.mean)
    np.testing.assert_array_equal(
      self.run_.encode(self.images, seed=3), posterior.z
    )
    other = self.run_.encode(self.images, seed=4)
    self.assertGreater(np.abs(other - posterior.z).min(), 0.0)

  def test_all_ways_to_write_an_image_are_one(self):
    wanted = self.run_.encode(self.images)
    for images in (
      self.images[..., 0],
      self.images / 255,
      (self.images / 255).astype(np.float32),
      jnp.asarray(self.images),
    ):
      np.testing.assert_allclose(
        self.run_.encode(images), wanted, rtol=1e-5, atol=1e-6
      )

  def test_a_reconstruction_decodes_the_means(self):
    np.testing.assert_array_equal(
      self.run_.reconstruct(self.images),
      self.run_.decode(self.run_.encode(self.images)),
    )

  def test_lines_start_and_stop_at_their_ends(self):
    z = self.run_.encode(self.images)
    walks = self.run_.interpolate(self.images[:3], z[3:6], 5)
    self.assertEqual((walks.shape, walks.dtype), ((3, 5, 8, 8, 1), np.uint8))
    np.testing.assert_array_equal(walks[:, 0], self.run_.decode(z[:3]))
    np.testing.assert_array_equal(walks[:, -1], self.run_.decode(z[3:6]))
    middle = self.run_.decode((z[:3] + z[3:6]) / 2)
    np.testing.assert_allclose(walks[:, 2], middle, atol=1)  # rounding


class SampleTest(evaluate_case.LoadedTest):
  def test_the_seed_decides(self):
    first, again = (self.run_.sample_latents(20, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(
      self.run_.sample(20, seed=5), self.run_.decode(first)
    )
    other = self.run_.sample_latents(20, seed=6)
    self.assertGreater(np.abs(other - first).min(), 0.0)

  def test_the_first_do_not_depend_on_the_number(self):
    np.testing.assert_array_equal(
      self.run_.sample_latents(5), self.run_.sample_latents(2000)[:5]
    )

  def test_the_configs_seed_is_the_default(self):
    np.testing.assert_array_equal(
      self.run_.sample_latents(5),
      self.run_.sample_latents(5, seed=self.config.seed),
    )


class LogLikelihoodTest(evaluate_case.LoadedTest):
  def test_importance_is_that_of_the_evaluation(self):
    config = config_lib.override(self.config, {'evaluate.num_nll_images': 7})
    trained = evaluate_case.trained(config, self.experiment, self.trained)
    images = self.experiment.dataset.images[config.evaluate.split]
    wanted = likelihood.importance(trained, images, jax.random.key(2))[
      'nll/importance'
    ]
    values = self.run_.log_likelihood(self.images, seed=2)
    self.assertEqual(values.shape, (7,))
    self.assertAlmostEqual(-float(np.mean(values)), wanted, places=9)

  def test_ais_is_nearer_for_a_posterior_that_is_not_learned(self):
    importance = self.run_.log_likelihood(self.images, num_samples=2000)
    annealed = self.run_.log_likelihood(
      self.images, method='ais', num_samples=4
    )
    # both are lower bounds of one number
    self.assertTrue(np.all(annealed > importance), annealed - importance)
    more = self.run_.log_likelihood(
      self.images, method='ais', num_samples=8, seed=1
    )
    self.assertAlmostEqual(np.mean(more), np.mean(annealed), delta=5.0)

  def test_what_has_no_density_is_refused(self):
    for method, part in (
      ('ae', "use method='ais'"),
      ('aae', 'config.model.encoder=deterministic'),
    ):
      run = _untrained(f'{method},debug')
      with self.assertRaisesRegex(ldc_vae.UserError, part):
        run.log_likelihood(self.images)
    run = _untrained('lebm,debug')
    with self.assertRaisesRegex(ldc_vae.UserError, 'lebm has no density'):
      run.log_likelihood(self.images, method='ais')
    with self.assertRaisesRegex(ldc_vae.UserError, "method='exact' is unkno"):
      self.run_.log_likelihood(self.images, method='exact')


def _untrained(arg):
  """A run with its first weights."""
  config = config_lib.load(f'configs/digits.py:{arg}')
  model = experiment_lib.create_model(config, (8, 8, 1))
  algorithm = experiment_lib.create_algorithm(config, model)
  params = model.init(jax.random.key(0), algorithm.trained)
  stats = algorithm.init_stats()
  return trained_run.TrainedRun(
    trained_run.run_lib.Trained(config, model, algorithm, params, stats, 0),
    pathlib.Path('untrained'),
  )


class MistakesTest(evaluate_case.LoadedTest):
  @parameterized.named_parameters(
    ('shape', np.zeros((3, 9, 9)), r'shape \(3, 9, 9\); .* \[N, 8, 8, 1\]'),
    ('one', np.zeros((8, 8)), r'shape \(8, 8\)'),
    ('one_grey', np.zeros((8, 8, 1)), r'shape \(8, 8, 1\)'),
    ('ragged', [[1], [2, 3]], 'images make no NumPy array'),
    ('objects', np.full((2, 8, 8), None), 'dtype object; give uint8'),
    ('none', np.zeros((0, 8, 8)), 'there are 0 images'),
    ('range', np.full((2, 8, 8), 16.0), r'are in \[16, 16\]; give uint8, or'),
    ('nan', np.full((2, 8, 8), np.nan), r'in \[nan, nan\]'),
    ('integers', np.zeros((2, 8, 8), np.int64), 'dtype int64; give uint8'),
    ('texts', np.array([['a']]), r'shape \(1, 1\)'),
  )
  def test_images(self, images, part):
    for call in (
      self.run_.encode,
      self.run_.reconstruct,
      self.run_.log_likelihood,
    ):
      with self.assertRaisesRegex(ldc_vae.UserError, part):
        call(images)

  @parameterized.named_parameters(
    ('size', np.zeros((3, 5)), r'shape \(3, 5\); give shape \[N, 8\]'),
    ('one', np.zeros(8), r'shape \(8,\)'),
    ('none', np.zeros((0, 8)), r'shape \(0, 8\)'),
    ('ragged', [[1], [2, 3]], 'latents make no NumPy array'),
    ('texts', np.full((1, 8), 'a'), 'have dtype'),
    ('complex', np.full((1, 8), 1j), 'have dtype complex128'),
    ('objects', np.full((1, 8), None), 'have dtype object'),
    ('huge', np.full((1, 8), 1e99), '1 of 1 latents are not finite'),
    ('nan', np.full((1, 8), np.nan), '1 of 1 latents are not finite'),
  )
  def test_latents(self, latents, part):
    with self.assertRaisesRegex(ldc_vae.UserError, part):
      self.run_.decode(latents)

  def test_numbers(self):
    z = np.zeros((2, 8))
    for call, part in (
      (lambda: self.run_.sample(0), 'num=0: give a whole number from 1 to'),
      (lambda: self.run_.sample(2**40), r'num=1099511627776: .* to 2\*\*32'),
      (lambda: self.run_.sample(2**32 - 1), 'GB fit half of the free memory'),
      (lambda: self.run_.sample(2.0), 'num=2.0'),
      (lambda: self.run_.sample(True), 'num=True'),
      (lambda: self.run_.sample(2, seed=-1), 'seed=-1: .* from 0 to'),
      (lambda: self.run_.interpolate(z, z, 1), 'num_steps=1: .* from 2 to'),
      (
        lambda: self.run_.log_likelihood(np.zeros((1, 8, 8)), num_samples=0),
        'num_samples=0',
      ),
      (
        lambda: self.run_.interpolate([[1], [2, 3]], z, 3),
        'starts and stops make no NumPy array',
      ),
      (lambda: self.run_.interpolate(z, z[:1], 3), '2 starts and 1 stops'),
    ):
      with self.assertRaisesRegex(ldc_vae.UserError, part):
        call()


class ImportTest(absltest.TestCase):
  def test_jax_is_imported_when_it_is_used(self):
    code = (
      'import sys, ldc_vae; assert "jax" not in sys.modules;'
      ' assert "load" in dir(ldc_vae); ldc_vae.load; ldc_vae.svgd.rbf;'
      ' assert "jax" in sys.modules'
    )
    subprocess.run(
      (sys.executable, '-c', code), check=True, cwd=provenance.ROOT
    )

  def test_every_public_name_has_a_docstring(self):
    for name in ldc_vae._PUBLIC:
      self.assertTrue(getattr(ldc_vae, name).__doc__, name)
    with self.assertRaisesRegex(AttributeError, "no attribute 'lod'"):
      ldc_vae.lod  # noqa: B018


if __name__ == '__main__':
  absltest.main()
