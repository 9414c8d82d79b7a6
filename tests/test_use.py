"""Tests of ldc_vae.use: a trained run on the command line."""

from unittest import mock

from absl.testing import absltest
import numpy as np
from PIL import Image

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import use
from ldc_vae.api import trained_run
from ldc_vae.data import datasets
from ldc_vae.evaluation import inception
from tests import evaluate_case


class SampleTest(evaluate_case.RunTest):
  def test_the_number_asked_for_is_written_without_the_data(self):
    output = self.workdir / 'more' / 'some.npz'
    output.parent.mkdir(exist_ok=True)
    with mock.patch.object(datasets, 'load', side_effect=AssertionError):
      use.sample(self.config, self.workdir, num_samples=7, output=output)
    with np.load(output) as samples:
      images, latents = samples['images'], samples['latents']
    self.assertEqual(images.shape, (7, 8, 8, 1))
    self.assertTrue(output.with_suffix('.png').exists())
    run = trained_run.load(self.workdir)
    np.testing.assert_array_equal(run.sample(7), images)
    np.testing.assert_array_equal(run.sample_latents(7), latents)

  def test_neither_inception_is_needed_nor_another_picture_replaced(self):
    output = self.workdir / 'pictures' / 'some.npz'
    output.with_suffix('.png').mkdir(parents=True)
    output.write_text('kept')
    config = config_lib.override(self.config, {'evaluate.inception': True})
    with mock.patch.object(inception, 'require', side_effect=AssertionError):
      with self.assertRaisesRegex(OSError, 'some.png'):
        use.sample(config, self.workdir, num_samples=7, output=output)
      self.assertEqual(output.read_text(), 'kept')
      output.with_suffix('.png').rmdir()
      use.sample(config, self.workdir, num_samples=7, output=output)
    self.assertTrue(output.with_suffix('.png').is_file())


class EncodeTest(evaluate_case.RunTest):
  def _encode(self, images):
    output = self.workdir / 'latents.npz'
    use.encode(self.config, self.workdir, images=str(images), output=output)
    with np.load(output) as arrays:
      return dict(arrays)

  def test_a_split_has_labels(self):
    found = self._encode('validation')
    dataset = self.experiment.dataset
    posterior = trained_run.load(self.workdir).posterior(
      dataset.images['validation'], seed=self.config.seed
    )
    np.testing.assert_array_equal(found['latents'], posterior.z)
    np.testing.assert_array_equal(found['means'], posterior.mean)
    np.testing.assert_array_equal(found['logvars'], posterior.logvar)
    np.testing.assert_array_equal(found['labels'], dataset.labels['validation'])

  def test_a_split_of_other_data_is_refused(self):
    dataset = self.experiment.dataset
    images = {**dataset.images, 'train': dataset.images['train'].copy()}
    images['train'][7] = 0
    other = dataset._replace(images=images)
    with (
      mock.patch.object(datasets, 'load', return_value=other),
      self.assertRaisesRegex(errors.UserError, 'a run on other train images'),
    ):
      self._encode('test')

  def test_files_keep_their_order_and_need_no_data(self):
    images = self.experiment.dataset.images['test'][:5]
    run = trained_run.load(self.workdir)
    folder = self.workdir / 'files'
    folder.mkdir()
    for index, image in enumerate(images):
      Image.fromarray(image[..., 0]).save(folder / f'{index}.png')
    np.save(self.workdir / 'five.npy', images[..., 0] / 255)
    np.savez(self.workdir / 'five.npz', images=images)
    with mock.patch.object(datasets, 'load', side_effect=AssertionError):
      for name in ('files', 'five.npy', 'five.npz'):
        found = self._encode(self.workdir / name)
        np.testing.assert_allclose(
          found['means'], run.encode(images), rtol=1e-5, atol=1e-6
        )
        self.assertNotIn('labels', found)

  def test_larger_files_are_resized(self):
    image = Image.fromarray(self.experiment.dataset.images['test'][0][..., 0])
    folder = self.workdir / 'large'
    folder.mkdir()
    image.resize((32, 32), Image.Resampling.NEAREST).save(folder / 'a.png')
    self.assertEqual(self._encode(folder)['latents'].shape, (1, 8))

  def test_what_cannot_be_encoded_is_named(self):
    path = self.workdir / 'text.txt'
    path.write_text('no image')
    with self.assertRaisesRegex(
      errors.UserError, rf'^--images={path} is no folder'
    ):
      self._encode(path)
    path = self.workdir / 'bad.npy'
    np.save(path, np.full((3, 8, 8), 7.0))
    with self.assertRaisesRegex(
      errors.UserError, rf'^--images={path} holds in image 0 values from 7'
    ):
      self._encode(path)


if __name__ == '__main__':
  absltest.main()
