"""Tests of ldc_vae.evaluation.classifier."""

from concurrent import futures
import pathlib
import tempfile
import threading
import time

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier
from ldc_vae.evaluation import classifier_net
from tests import device_case


def _stripes(num: int, size: int, channels: int, seed: int = 0):
  """Horizontal and vertical stripes in noise, images and labels."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 2, num).astype(np.int32)
  wave = np.arange(size) % 4 // 2 * 128
  images = np.where(labels[:, None, None] == 0, wave[:, None], wave[None])
  images = images[..., None] + rng.integers(0, 100, (num, size, size, channels))
  return images.astype(np.uint8), labels


def _dataset(size: int = 8, channels: int = 1, **fields) -> datasets.Dataset:
  """A small data set with two classes."""
  splits = {
    split: _stripes(num, size, channels, seed)
    for seed, (split, num) in enumerate(
      [('train', 64), ('validation', 8), ('test', 32)]
    )
  }
  dataset = datasets.Dataset(
    name='stripes',
    images={split: images for split, (images, _) in splits.items()},
    labels={split: labels for split, (_, labels) in splits.items()},
    num_classes=2,
  )
  return dataset._replace(**fields)


class _FewStepsTest(parameterized.TestCase):
  """Trains for 5 steps."""

  def setUp(self):
    super().setUp()
    self.enter_context(
      absltest.mock.patch.multiple(classifier, _MIN_STEPS=5, _NUM_EPOCHS=1)
    )
    self.cache_dir = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )

  def load_or_train(self, dataset, seed=0):
    """The classifier, and whether it was trained by this call."""
    with absltest.mock.patch.object(
      classifier, 'train', wraps=classifier.train
    ) as train:
      model = classifier.load_or_train(
        dataset, seed=seed, cache_dir=self.cache_dir
      )
    return model, train.called

  def cached(self):
    return sorted((self.cache_dir / 'classifiers').glob('*.npz'))


class PatchConvTest(parameterized.TestCase):
  @parameterized.product(size=(7, 8), kernel_size=(3, 5), stride=(1, 2))
  def test_is_the_convolution(self, size, kernel_size, stride):
    x = np.random.default_rng(0).normal(size=(2, size, size + 1, 3))
    x = x.astype(np.float32)
    layer = classifier_net.PatchConv(4, kernel_size, stride)

    @jax.jit
    def both(x):
      actual, params = layer.init_with_output(jax.random.key(0), x)
      kernel = params['params']['Dense_0']['kernel']
      expected = jax.lax.conv_general_dilated(
        x,
        kernel.reshape(kernel_size, kernel_size, 3, 4),
        (stride, stride),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      return actual, expected

    actual, expected = both(x)
    # float32, sums of 75 terms of size 1
    np.testing.assert_allclose(actual, expected, atol=2e-6)


class NetworkTest(parameterized.TestCase):
  @parameterized.parameters(
    (4, 1, 32),
    (8, 1, 32),
    (16, 1, 64),
    (28, 1, 64),
    (32, 3, 64),
    (64, 3, 64),
  )
  def test_has_features_and_logits(self, size, channels, num_features):
    network = classifier_net.create_network((size, size, channels), 7)
    images = jax.ShapeDtypeStruct((2, size, size, channels), jnp.float32)
    (features, logits), params = jax.eval_shape(
      lambda x: network.init_with_output(jax.random.key(0), x), images
    )
    chex.assert_shape(features, (2, num_features))
    chex.assert_shape(logits, (2, 7))
    num_params = sum(x.size for x in jax.tree.leaves(params))
    self.assertLess(num_params, 600_000)

  def test_tiny_images_are_refused(self):
    with self.assertRaisesRegex(ValueError, '8x3 pixels .* use at least 4x4'):
      classifier_net.create_network((8, 3, 1), 2)


class DigitsTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.dataset = datasets.load('digits')
    with device_case.quick_classifier():
      cls.model = classifier.train(cls.dataset, seed=0)

  def test_recognises_digits(self):
    self.assertGreaterEqual(self.model.test_accuracy, 0.95)

  def test_its_test_accuracy_is_that_of_its_probabilities(self):
    probabilities = self.model.probabilities(self.dataset.images['test'])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-5)
    accuracy = np.mean(
      probabilities.argmax(axis=1) == self.dataset.labels['test']
    )
    self.assertEqual(self.model.test_accuracy, accuracy)

  def test_every_feature_varies(self):
    features = self.model.features(self.dataset.images['test'])
    self.assertEqual(features.shape[1], self.model.num_features)
    self.assertEqual(features.dtype, np.float32)
    # Typical standard deviations are about 4; that of a dead unit is 0.
    self.assertGreater(features.std(axis=0).min(), 0.1)

  def test_the_nearest_class_mean_in_features_is_the_class(self):
    images, labels = self.dataset.images, self.dataset.labels
    features = self.model.features(images['train'])
    means = np.stack(
      [features[labels['train'] == k].mean(axis=0) for k in range(10)]
    )
    features = self.model.features(images['test'])
    squared = np.sum((features[:, None] - means[None]) ** 2, axis=-1)
    accuracy = np.mean(squared.argmin(axis=1) == labels['test'])
    self.assertGreater(accuracy, 0.95)


class ClassifierTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.dataset = _dataset()
    with absltest.mock.patch.object(classifier, '_MIN_STEPS', 5):
      cls.model = classifier.train(cls.dataset, seed=0)

  def test_bytes_and_floats_are_one_image(self):
    images = self.dataset.images['test']
    floats = images.astype(np.float32) / np.float32(255)
    expected = self.model.features(images)
    np.testing.assert_array_equal(self.model.features(floats), expected)
    np.testing.assert_array_equal(
      self.model.features(jnp.asarray(floats)), expected
    )
    np.testing.assert_allclose(
      self.model.features(jnp.asarray(floats, jnp.bfloat16)),
      expected,
      atol=0.1,  # bfloat16 keeps 3 digits of pixels
    )

  @parameterized.parameters(1, 9, 10, 11, 20, 31)
  def test_no_image_is_lost_in_batches(self, num):
    images = self.dataset.images['test'][:num]
    expected = self.model.features(images)
    self.assertEqual(expected.shape, (num, self.model.num_features))
    with absltest.mock.patch.object(classifier, '_EVAL_BATCH', 10):
      actual = self.model.features(images)
    # float32: another batch shape may sum in another order
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)

  def test_no_images_have_no_features(self):
    images = self.dataset.images['test'][:0]
    self.assertEqual(self.model.features(images).shape, (0, 32))
    self.assertEqual(self.model.probabilities(images).shape, (0, 2))

  @parameterized.named_parameters(
    ('rank', np.zeros((8, 8, 1)), r'shape \(8, 8, 1\)'),
    ('size', np.zeros((2, 9, 8, 1)), r'needs shape \[N, 8, 8, 1\]'),
    ('integers', np.zeros((2, 8, 8, 1), np.int32), 'dtype int32'),
    ('range', np.full((2, 8, 8, 1), 255.0), r'floats in \[0, 1\]'),
    ('sign', np.full((2, 8, 8, 1), -1.0), r'are in \[-1, -1\]'),
    ('nan', np.full((2, 8, 8, 1), np.nan), r'floats in \[0, 1\]'),
  )
  def test_other_images_are_refused(self, images, message):
    with self.assertRaisesRegex(ValueError, message):
      self.model.features(images)


class LoadOrTrainTest(_FewStepsTest):
  def test_the_second_call_loads_the_same_classifier(self):
    dataset = _dataset()
    model, trained = self.load_or_train(dataset)
    again, trained_again = self.load_or_train(dataset)
    self.assertTrue(trained)
    self.assertFalse(trained_again)
    chex.assert_trees_all_equal(model.params, again.params)
    self.assertEqual(model.test_accuracy, again.test_accuracy)
    images = dataset.images['test']
    np.testing.assert_array_equal(
      model.features(images), again.features(images)
    )
    self.assertLen(self.cached(), 1)  # and no temporary file

  def test_processes_share_one_classifier(self):
    started = threading.Barrier(2)
    trained = []

    def slow(dataset, *, seed):
      trained.append(seed)
      time.sleep(0.3)
      return whole(dataset, seed=seed)

    def load():
      started.wait()
      return classifier.load_or_train(_dataset(), cache_dir=self.cache_dir)

    whole = classifier.train
    with absltest.mock.patch.object(classifier, 'train', slow):
      with futures.ThreadPoolExecutor(2) as pool:
        first, second = [pool.submit(load) for _ in range(2)]
        jax.tree.map(
          np.testing.assert_array_equal,
          first.result().params,
          second.result().params,
        )
    self.assertLen(trained, 1)

  def test_the_cache_is_for_whoever_may_read_its_folder(self):
    self.load_or_train(_dataset())
    (path,) = self.cached()
    (path.parent / 'other').touch()
    self.assertEqual(
      path.stat().st_mode, (path.parent / 'other').stat().st_mode
    )

  def test_training_is_deterministic(self):
    first = classifier.train(_dataset(), seed=3)
    again = classifier.train(_dataset(), seed=3)
    chex.assert_trees_all_equal(first.params, again.params)

  def test_colour_images_learn(self):
    with absltest.mock.patch.object(classifier, '_MIN_STEPS', 20):
      model, _ = self.load_or_train(_dataset(size=16, channels=3))
    self.assertGreater(model.test_accuracy, 0.9)

  def test_another_seed_is_another_classifier(self):
    model, _ = self.load_or_train(_dataset())
    other, trained = self.load_or_train(_dataset(), seed=1)
    self.assertTrue(trained)
    kernels = [m.params['params']['features']['kernel'] for m in (model, other)]
    self.assertGreater(np.abs(kernels[0] - kernels[1]).max(), 0.01)
    self.assertLen(self.cached(), 2)

  @parameterized.parameters('images', 'labels')
  def test_other_data_is_another_classifier(self, field):
    dataset = _dataset()
    self.load_or_train(dataset)
    changed = getattr(dataset, field)['train'].copy()
    changed[0] = 1 - changed[0]
    splits = dict(getattr(dataset, field), train=changed)
    _, trained = self.load_or_train(dataset._replace(**{field: splits}))
    self.assertTrue(trained)

  def test_every_image_counts(self):
    images = np.zeros((2500, 4, 4, 1), np.uint8)
    labels = {split: np.zeros(2500, np.int32) for split in ('train', 'test')}
    names = set()
    for i in range(3):
      changed = images.copy()
      changed[i] = i
      dataset = _dataset(images=dict(train=changed, test=images), labels=labels)
      names.add(classifier._fingerprint(dataset))
    self.assertLen(names, 3)

  def test_another_version_is_another_classifier(self):
    self.load_or_train(_dataset())
    with absltest.mock.patch.object(classifier, 'VERSION', 10**6):
      _, trained = self.load_or_train(_dataset())
    self.assertTrue(trained)

  @parameterized.named_parameters(
    ('empty', lambda data: b''),
    ('truncated', lambda data: data[: len(data) // 2]),
    ('no_archive', lambda data: b'x' * 100),
    ('flipped', lambda data: data[:3000] + b'\xff\x00' + data[3002:]),
  )
  def test_a_damaged_file_is_replaced(self, damage):
    model, _ = self.load_or_train(_dataset())
    (path,) = self.cached()
    path.write_bytes(damage(path.read_bytes()))
    with self.assertLogs(level='WARNING') as logs:
      again, trained = self.load_or_train(_dataset())
    self.assertIn('it is trained again', logs.output[0])
    self.assertTrue(trained)
    chex.assert_trees_all_equal(model.params, again.params)
    self.assertFalse(self.load_or_train(_dataset())[1])

  def test_a_well_formed_file_with_other_weights_is_replaced(self):
    self.load_or_train(_dataset())
    (path,) = self.cached()
    with np.load(path) as file:
      arrays = dict(file)
    arrays['params/features/bias'][0] += 1e-3
    with open(path, 'wb') as file:
      np.savez(file, **arrays)
    with self.assertLogs(level='WARNING') as logs:
      _, trained = self.load_or_train(_dataset())
    self.assertIn('digest', logs.output[0])
    self.assertTrue(trained)

  def test_a_cache_that_cannot_be_written_only_warns(self):
    blocker = self.cache_dir / 'classifiers'
    blocker.write_text('a file where the folder should be')
    with self.assertLogs(level='WARNING') as logs:
      model, _ = self.load_or_train(_dataset())
    self.assertIn('Cannot write the feature classifier', logs.output[0])
    self.assertLen(model.features(_dataset().images['test']), 32)

  def test_the_default_cache_is_that_of_the_data_sets(self):
    with absltest.mock.patch.dict(
      'os.environ', {'LDC_VAE_CACHE': str(self.cache_dir)}
    ):
      classifier.load_or_train(_dataset())
    self.assertLen(self.cached(), 1)

  @parameterized.parameters(
    dict(labels=None), dict(num_classes=0), dict(labels=None, num_classes=0)
  )
  def test_data_without_labels_is_sent_to_frechet_pca(self, **fields):
    with self.assertRaisesRegex(
      ValueError, 'config.dataset.name=stripes has no labels.*_pca'
    ):
      classifier.load_or_train(_dataset(**fields), cache_dir=self.cache_dir)

  def test_an_empty_training_split_is_refused(self):
    dataset = _dataset()
    images = dict(dataset.images, train=dataset.images['train'][:0])
    with self.assertRaisesRegex(ValueError, 'empty training split'):
      self.load_or_train(dataset._replace(images=images))


if __name__ == '__main__':
  absltest.main()
