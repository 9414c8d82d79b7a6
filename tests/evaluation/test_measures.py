"""Tests of ldc_vae.measures, on random images without labels."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
from ml_collections import config_dict
import numpy as np

from ldc_vae import errors
from ldc_vae import names
from ldc_vae.data import datasets
from ldc_vae.evaluation import measures
from ldc_vae.methods import base


def _images(seed, num, highest=256):
  """Random images, uint8 [num, 4, 3, 1]."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, highest, (num, 4, 3, 1), np.uint8)


def _dataset():
  images = {name: _images(i, 60) for i, name in enumerate(('train', 'test'))}
  return datasets.Dataset(
    name='images', images=images, labels=None, num_classes=0
  )


def _config(inception=False, num_draws=1, num_samples=60):
  config = config_dict.ConfigDict()
  config.evaluate = {
    'classifier_seeds': (0,),
    'inception': inception,
    'imagenet': False,
    'split': 'test',
    'num_samples': num_samples,
    'num_draws': num_draws,
  }
  return config


class ImageMeasuresTest(parameterized.TestCase):
  def test_the_test_split_itself_is_perfect(self):
    dataset = _dataset()
    images = {
      'generator': dataset.images['test'],
      'prior': _images(2, 60, highest=100),  # darker
    }
    results = measures.image_measures(_config(), dataset, images)
    self.assertAlmostEqual(results['frechet_pca/generator'], 0.0, places=6)
    self.assertGreater(results['frechet_pca/prior'], 0.1)
    for name in ('precision', 'recall', 'coverage'):
      self.assertEqual(results[f'prdc/{name}'], 1.0, name)
    self.assertEqual(
      results['nearest/train_generator'], results['nearest/train_test']
    )

  def test_floats_are_refused(self):
    dataset = _dataset()
    images = {'generator': dataset.images['test'] / np.float32(255)}
    with self.assertRaisesRegex(
      errors.UserError, r'generator are float32\[60, 4, 3, 1\]; give uint8'
    ):
      measures.image_measures(_config(), dataset, images)

  def test_of_every_source_as_many_images_are_compared(self):
    dataset = _dataset()
    many = _images(3, 240)
    results = [
      measures.image_measures(
        _config(),
        dataset,
        {'generator': dataset.images['test'], 'reconstruction': images},
      )['frechet_pca/reconstruction']
      for images in (many, many[np.linspace(0, 239, 60).astype(int)])
    ]
    self.assertEqual(results[0], results[1])

  def test_copies_of_training_images_are_found(self):
    dataset = _dataset()
    images = {'generator': dataset.images['train'][::-1]}
    results = measures.image_measures(_config(), dataset, images)
    self.assertEqual(results['nearest/train_generator'], 0.0)
    distances = [
      min(
        np.sqrt(np.sum((x / 255 - y / 255) ** 2))
        for y in dataset.images['train'].astype(np.float64)
      )
      for x in dataset.images['test'].astype(np.float64)
    ]
    self.assertAlmostEqual(
      results['nearest/train_test'], np.median(distances), places=6
    )

  def test_other_features_are_a_family_of_their_own(self):
    dataset = _dataset()
    mean_and_first = lambda images: np.stack(
      [images.mean(axis=(1, 2, 3)), images[:, 0, 0, 0]], axis=1
    )
    images = {'generator': _images(2, 60), 'aggregate': dataset.images['test']}
    network_fns = {'inception': mean_and_first, 'imagenet': mean_and_first}
    results = measures.image_measures(_config(), dataset, images, network_fns)
    for name in network_fns:
      self.assertGreater(results[f'frechet_{name}/generator'], 1.0)
      self.assertAlmostEqual(
        results[f'frechet_{name}/aggregate'], 0.0, places=6
      )
    self.assertIn('kid_imagenet/generator', results)
    self.assertNotIn('kid_inception/generator', results)

  def test_distances_are_means_over_the_draws(self):
    dataset = _dataset()
    draws = [
      {
        'generator': _images(10 + index, 60, highest=150 + 20 * index),
        'reconstruction': _images(20, 60),
      }
      for index in range(3)
    ]
    del draws[1]['reconstruction'], draws[2]['reconstruction']  # not drawn
    one_by_one = [
      measures.image_measures(_config(), dataset, {**draws[0], **draw})[
        'frechet_pca/generator'
      ]
      for draw in draws
    ]
    together = measures.image_measures(
      _config(num_draws=3), dataset, draws[0], redraw_fn=draws.__getitem__
    )
    self.assertGreater(np.ptp(one_by_one), 0.01)
    self.assertAlmostEqual(
      together['frechet_pca/generator'], np.mean(one_by_one), places=6
    )
    self.assertAlmostEqual(
      together['frechet_pca_deviation/generator'],
      np.std(one_by_one, ddof=1),
      places=6,
    )
    first = measures.image_measures(_config(), dataset, draws[0])
    for name in ('frechet_pca/reconstruction', 'prdc/recall'):
      self.assertEqual(together[name], first[name])
    self.assertNotIn('frechet_pca_deviation/reconstruction', together)
    self.assertNotIn('frechet_pca_deviation/generator', first)

  def test_too_few_images_have_no_neighbours(self):
    dataset = _dataset()
    few = dataset._replace(
      images={**dataset.images, 'test': dataset.images['test'][:5]}
    )
    results = measures.image_measures(
      _config(), few, {'generator': _images(2, 5)}
    )
    self.assertNotIn('prdc/precision', results)
    self.assertIn('frechet_pca/generator', results)


class CautionsTest(parameterized.TestCase):
  def _measure(self, labels, num_test, accuracy):
    rng = np.random.default_rng(0)
    images = {'train': _images(0, 60), 'test': _images(1, num_test)}
    dataset = datasets.Dataset(
      'images',
      images,
      {name: labels[: len(each)] for name, each in images.items()},
      int(labels.max()) + 1,
    )
    classifier = mock.Mock(
      test_accuracy=accuracy,
      features=lambda images: rng.normal(size=(len(images), 32)),
      probabilities=lambda images: np.full((len(images), 2), 0.5),
      describe=lambda: 'stand-in',
    )
    with mock.patch.object(
      measures.classifier_lib, 'load_or_train', return_value=classifier
    ):
      results = measures.image_measures(
        _config(num_samples=num_test),
        dataset,
        {'generator': _images(2, num_test)},
      )
    return {
      name.removeprefix(names.CAUTION): value
      for name, value in results.items()
      if name.startswith(names.CAUTION)
    }

  def test_a_classifier_at_chance(self):
    found = self._measure(np.arange(120), 120, 0.0)
    self.assertSetEqual(
      set(found), {'frechet_classifier', 'kid_classifier', 'classifier', 'prdc'}
    )
    for why in found.values():
      self.assertStartsWith(why, 'the test accuracy 0.000 of')

  def test_four_test_images(self):
    found = self._measure(np.arange(60) % 2, 4, 1.0)
    self.assertStartsWith(
      found['frechet_classifier'], '4 images are too few for 32 features, so'
    )
    self.assertIn('4 images are too few, so', found['kid_classifier'])
    self.assertIn('prdc', found)

  def test_a_sound_classifier_and_enough_images(self):
    self.assertEqual(self._measure(np.arange(120) % 2, 120, 0.9), {})

  def test_few_images_for_the_components_of_their_pixels(self):
    dataset = _dataset()
    images = {name: x[:10] for name, x in dataset.images.items()}
    results = measures.image_measures(
      _config(), dataset._replace(images=images), {'generator': _images(2, 10)}
    )
    # 9 components are measured; with more images these would be all 12
    self.assertStartsWith(
      results['protocol/caution_frechet_pca'],
      '10 images are too few for 12 features, so that chance decides; use 24',
    )

  def test_thirty_images_without_labels(self):
    dataset = _dataset()
    images = {name: x[:30] for name, x in dataset.images.items()}
    results = measures.image_measures(
      _config(), dataset._replace(images=images), {'generator': _images(2, 30)}
    )
    # 12 pixels have 12 components, for which 24 images are enough
    self.assertNotIn('protocol/caution_frechet_pca', results)
    self.assertIn('30 images', results['protocol/caution_prdc'])
    self.assertNotIn('protocol/caution_kid_classifier', results)


class LatentMeasuresTest(parameterized.TestCase):
  def _measure(self, logvars):
    rng = np.random.default_rng(0)
    # aggregate posterior: N(0, 0.75 + 0.25) of 500 images, 3 latents, 1 unused
    means = np.sqrt(0.75) * rng.normal(size=(500, 4)).astype(np.float32)
    means[:, 3] = 0.0
    draws = lambda: means + 0.5 * rng.normal(size=means.shape)
    latents = {
      'aggregate': draws().astype(np.float32),
      'generator': draws().astype(np.float32),
      'prior': 2.0 * rng.normal(size=means.shape).astype(np.float32),
    }
    posterior = base.Posterior(draws(), means, logvars, None)
    other = draws().astype(np.float32)
    return measures.latent_measures(
      latents, other, posterior, jax.random.key(0)
    )

  def test_the_same_distribution_is_nearer_than_another(self):
    results = self._measure(np.full((500, 4), np.log(0.25), np.float32))
    self.assertEqual(results['latent/active_units'], 3)
    scale = results['latent/sliced_wasserstein_aggregate']
    self.assertBetween(
      scale,
      0.5 * results['latent/sliced_wasserstein_generator'],
      2.0 * results['latent/sliced_wasserstein_generator'],
    )
    for measure in ('mmd', 'sliced_wasserstein', 'ksd'):
      self.assertLess(
        abs(results[f'latent/{measure}_generator']),
        0.3 * results[f'latent/{measure}_prior'],
        measure,
      )
    self.assertLess(
      abs(results['latent/ksd_aggregate']), 0.1 * results['latent/ksd_prior']
    )

  def test_without_densities_there_is_no_stein_discrepancy(self):
    results = self._measure(None)
    self.assertFalse([name for name in results if 'ksd' in name])
    for name in ('aggregate', 'generator'):
      self.assertEqual(results[f'latent/missed_share_{name}'], 0.0)
    self.assertIn('latent/mmd_generator', results)


class ProtocolTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_says_what_is_compared(self, inception):
    data = _dataset()
    results = measures.protocol(_config(inception), 100, 200, data)
    self.assertEqual(results['protocol/data'], datasets.describe(data))
    self.assertStartsWith(results['protocol/distances'], '100 uint8 images')
    self.assertIn('test split of 200', results['protocol/distances'])
    self.assertEqual('protocol/inception' in results, inception)

  def test_says_where_only_a_part_of_the_split_is_compared(self):
    results = measures.protocol(_config(False), 100, 20, _dataset())
    self.assertIn('the first 20 of the test', results['protocol/distances'])

  def test_says_where_training_images_are_few(self):
    data = _dataset()
    few = {**data.images, 'train': data.images['train'][:9]}
    results = measures.protocol(
      _config(False), 100, 200, data._replace(images=few)
    )
    self.assertIn('aggregate 9, all', results['protocol/distances'])


class MeanSquaredErrorTest(absltest.TestCase):
  def test_is_that_of_all_pixels_at_once(self):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (2, 2500, 3, 2, 1), dtype=np.uint8)
    expected = np.mean(np.square((x / 255) - (y / 255)))  # float64
    actual = measures.mean_squared_error(x, y)
    self.assertAlmostEqual(actual, expected, places=12)


class RegisteredMeasuresTest(absltest.TestCase):
  def test_numbers_have_the_names_of_results(self):
    self.enter_context(absltest.mock.patch.dict(names.METRICS))
    names.register(
      names.Metric('mine/one', '', '', '', measure_fn=lambda x: x['one']),
      names.Metric('mine/none', '', '', '', measure_fn=lambda x: None),
      names.Metric(
        'own/{source}',
        '',
        '',
        '',
        measure_fn=lambda x: {'prior': np.float32(2.0), 'generator': None},
      ),
    )
    self.assertEqual(
      measures.registered_measures({'one': 1}),
      {
        'mine/one': 1.0,
        'mine/none': None,
        'own/prior': 2.0,
        'own/generator': None,
      },
    )


if __name__ == '__main__':
  absltest.main()
