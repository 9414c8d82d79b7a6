"""Tests of whose images are behind each source of latents."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import evaluate
from ldc_vae import names
from ldc_vae.data import datasets
from ldc_vae.evaluation import sources as sources_lib
from ldc_vae.methods import base
from ldc_vae.samplers import registry


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


class SplitsTest(parameterized.TestCase):
  """Whose images are behind each source: nothing is fitted to the reference."""

  def _sources(self, split):
    """Returns the sources of marked images, and the latents of the fits."""
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
    sample_fn = lambda num, seed: np.zeros((num, 4), np.float32)
    with mock.patch.object(registry, 'fit', return_value=sample_fn) as fit:
      sources = sources_lib.make_sources(
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

  def test_of_large_sets_only_a_part_is_used(self):
    with (
      mock.patch.object(sources_lib, '_MAX_POSTERIORS', 500),
      mock.patch.object(datasets, '_MAX_REFERENCE', 250),
    ):
      sources, fitted = self._sources('test')
    self.assertLen(sources.train.z, 500)
    self.assertLen(sources.test_images, 250)
    self.assertSetEqual({len(z) for z in fitted}, {500})
    for rows in (sources.latents['aggregate'], sources.other_aggregate):
      self.assertLessEqual(set(_number(rows)), set(_number(sources.train.z)))
    np.testing.assert_array_equal(
      sources.images['real'][:, 0, 0], sources.latents['aggregate'][:, :3]
    )

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


class LogTest(parameterized.TestCase):
  def test_a_caution_is_said_with_its_mark(self):
    results = {
      'frechet_classifier/generator': 3.0,
      f'{names.CAUTION}frechet_classifier': 'few images',
    }
    with self.assertLogs(level='INFO') as logs:
      evaluate._log(results)
    self.assertIn('⚠ frechet_classifier: few images', logs.output[-1])

  @parameterized.parameters(('mnist:ldc,debug', 1), ('mnist:ldc', 0))
  def test_samplers_that_debug_leaves_out_are_said(self, spec, count):
    with mock.patch.object(evaluate.logging, 'info') as info:
      evaluate._log_left_out(config_lib.load(spec))
    self.assertLen(info.mock_calls, count)
    self.assertEqual(count, 'gmm_10, gmm_200, gmm_50' in str(info.mock_calls))


if __name__ == '__main__':
  absltest.main()
