"""Tests of ldc_vae.data.datasets."""

import ast
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
import time
from unittest import mock
import zlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.data import datasets
from ldc_vae.data import request
from tests.data import dataset_case

_SPLITS = dataset_case.SPLITS


class LoadTest(dataset_case.DatasetTestCase):
  def test_unknown_name_lists_the_known_and_suggests_the_nearest(self):
    with self.assertRaisesRegex(
      ValueError,
      '^config.dataset.name=fashon_mnist .*mean fashion_mnist.*digits',
    ):
      datasets.load('fashon_mnist')

  @parameterized.parameters(
    dict(path='x'),
    dict(image_size=32),
    dict(num_channels=1),
    dict(num_test=5),
    dict(background=0),
  )
  def test_fields_of_images_are_refused_elsewhere(self, **field):
    with self.assertRaisesRegex(ValueError, f'dataset.{next(iter(field))}='):
      datasets.load('digits', **field)

  @parameterized.parameters(
    ('num_validation', 0),
    ('num_test', -1),
    ('image_size', -2),
    ('background', 256),
    ('background', -1),
  )
  def test_impossible_number_is_refused(self, field, value):
    with self.assertRaisesRegex(ValueError, f'dataset.{field}={value}'):
      datasets.load('images', path='x', **{field: value})


class RequestTest(dataset_case.DatasetTestCase):
  def test_a_request_is_a_source_and_a_seed(self):
    source = dataclasses.asdict(request.Source())
    self.assertEqual(
      dataclasses.asdict(request.Request()), {**source, 'seed': 0}
    )

  def test_messages_name_fields_as_the_command_line_does(self):
    names = '|'.join(each.name for each in dataclasses.fields(request.Request))
    bare = re.compile(rf'(?<!config\.)\bdataset\.({names})\b')
    for path in pathlib.Path(datasets.__file__).parent.parent.rglob('*.py'):
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
          for part in node.values:
            if isinstance(part, ast.Constant):
              self.assertNotRegex(part.value, bare, path)


class CacheDirTest(dataset_case.DatasetTestCase):
  def test_is_the_environment_variable_or_below_home(self):
    self.assertEqual(datasets.cache_dir(), self.cache)
    del os.environ['LDC_VAE_CACHE']
    expected = pathlib.Path.home() / '.cache/ldc_vae'
    self.assertEqual(datasets.cache_dir(), expected)


class DigitsTest(dataset_case.DatasetTestCase):
  def test_splits_hold_every_image_once(self):
    from sklearn import datasets as sklearn_datasets

    dataset = datasets.load('digits')
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [1257, 180, 360])
    self.assertEqual(dataset.image_shape, (8, 8, 1))
    self.assertEqual(dataset.num_classes, 10)
    rows = sorted(
      (int(label), image.tobytes())
      for split in _SPLITS
      for image, label in zip(dataset.images[split], dataset.labels[split])
    )
    digits = sklearn_datasets.load_digits()
    expected = sorted(
      (int(label), np.round(image * 255 / 16).astype(np.uint8).tobytes())
      for image, label in zip(digits.images, digits.target)
    )
    self.assertTrue(rows == expected)  # a diff of bytes takes minutes

  def test_full_ink_is_255(self):
    images = datasets.load('digits').images['train']
    self.assertEqual((images.dtype, images.max()), (np.uint8, 255))

  def test_fewer_validation_images_on_request(self):
    dataset = datasets.load('digits', num_validation=20)
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [1417, 20, 360])


class FingerprintTest(parameterized.TestCase):
  def _dataset(self, count=300):
    images = np.random.default_rng(0).integers(
      0, 256, (count, 5, 5, 1), dtype=np.uint8
    )
    return datasets.Dataset('mnist', {'train': images}, None, 0)

  def test_is_the_digest_of_the_digests_of_blocks(self):
    dataset = self._dataset()
    content = dataset.images['train'].tobytes()
    with mock.patch.object(datasets, '_BLOCK_BYTES', 1024):  # 40 images
      (value,) = datasets.fingerprint(dataset).values()
    digest = hashlib.sha256()
    for start in range(0, len(content), 1000):
      part = hashlib.sha256(content[start : start + 1000])
      digest.update(part.digest())
    self.assertEqual(value, [300, 5, 5, 1, digest.hexdigest()[:32]])

  @parameterized.parameters(0, 4321, 7499)
  def test_every_byte_counts(self, position):
    dataset = self._dataset()
    before = datasets.fingerprint(dataset), datasets.describe(dataset)
    dataset.images['train'].reshape(-1)[position] ^= 1
    self.assertNotEqual(datasets.fingerprint(dataset), before[0])
    self.assertNotEqual(datasets.describe(dataset), before[1])

  def test_a_set_as_large_as_mnist_takes_no_time(self):
    images = np.ones((70_000, 28, 28, 1), np.uint8)
    dataset = datasets.Dataset('mnist', {'train': images}, None, 0)
    seconds = []
    for _ in range(5):  # the best of some, as the machine may be busy
      start = time.monotonic()
      datasets.fingerprint(dataset)
      seconds.append(time.monotonic() - start)
    self.assertLess(min(seconds), 0.2)

  def test_results_of_a_version_that_sampled_are_known(self):
    dataset = self._dataset()
    seen = datasets.fingerprint(dataset)
    now, before = datasets.descriptions(dataset, seen)
    self.assertEqual(now, datasets.describe(dataset))
    sampled = [300, 5, 5, 1, zlib.crc32(dataset.images['train'].tobytes())]
    text = json.dumps({'train': sampled})
    self.assertEqual(before, f'{zlib.crc32(text.encode()):08x}')


class TrainBatchesTest(parameterized.TestCase):
  def take(self, count, batch_size=4, num_images=22, **kwargs):
    images = np.arange(num_images, dtype=np.uint8)[:, None, None, None]
    kwargs = dict(dict(seed=3), **kwargs)
    batches = datasets.train_batches(images, batch_size, **kwargs)
    return [b[:, 0, 0, 0] for b in itertools.islice(batches, count)]

  def test_follows_the_permutation_of_seed_and_epoch(self):
    batches = self.take(12)
    for step, batch in enumerate(batches):
      epoch, i = divmod(step, 5)  # 22 // 4 steps an epoch
      permutation = np.random.default_rng((3, epoch)).permutation(22)
      np.testing.assert_array_equal(batch, permutation[4 * i : 4 * i + 4])

  def test_epoch_repeats_no_image(self):
    self.assertLen(set(np.concatenate(self.take(5)).tolist()), 20)

  @parameterized.parameters(1, 4, 5, 11)
  def test_resumes_at_any_step(self, start_step):
    expected = self.take(start_step + 3)[start_step:]
    actual = self.take(3, start_step=start_step)
    np.testing.assert_array_equal(actual, expected)

  def test_processes_share_out_the_batch(self):
    whole = self.take(7)
    parts = [self.take(7, process_index=i, process_count=2) for i in range(2)]
    joined = [np.concatenate(pair) for pair in zip(*parts)]
    np.testing.assert_array_equal(joined, whole)

  def test_batch_of_all_images_is_allowed(self):
    self.assertCountEqual(self.take(1, batch_size=22)[0], range(22))

  @parameterized.parameters(0, 23)
  def test_impossible_batch_size_is_refused_at_once(self, batch_size):
    images = np.zeros((22, 2, 2, 1), np.uint8)
    with self.assertRaisesRegex(ValueError, f'batch_size={batch_size}.*22'):
      datasets.train_batches(images, batch_size, seed=0)

  def test_indivisible_batch_size_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'batch_size=5.*2 processes'):
      self.take(1, batch_size=5, process_count=2)

  @parameterized.parameters(
    dict(process_index=2, process_count=2), dict(start_step=-1), dict(seed=-1)
  )
  def test_impossible_argument_is_refused(self, **kwargs):
    with self.assertRaisesRegex(ValueError, next(iter(kwargs))):
      self.take(1, **kwargs)


class EvalBatchesTest(parameterized.TestCase):
  @parameterized.parameters(
    (10, 4, 3), (8, 4, 2), (3, 4, 1), (1, 1, 1), (0, 4, 0)
  )
  def test_every_image_comes_once_in_order(self, num_images, size, count):
    images = 1 + np.arange(num_images, dtype=np.uint8)[:, None, None, None]
    batches = list(datasets.eval_batches(images, size))
    self.assertLen(batches, count)
    for batch, mask in batches:
      self.assertEqual(batch.shape, (size, 1, 1, 1))
      self.assertEqual((batch.dtype, mask.dtype), (np.uint8, bool))
      np.testing.assert_array_equal(batch[~mask], 0)
    seen = [batch[mask][:, 0, 0, 0] for batch, mask in batches]
    np.testing.assert_array_equal(
      np.concatenate([[], *seen]), 1 + np.arange(num_images)
    )

  def test_impossible_batch_size_is_refused_at_once(self):
    with self.assertRaisesRegex(ValueError, 'evaluate.batch_size=0'):
      datasets.eval_batches(np.zeros((2, 1, 1, 1), np.uint8), 0)


if __name__ == '__main__':
  absltest.main()
