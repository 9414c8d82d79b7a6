"""Tests of data that are larger than the memory they may use."""

import itertools
import tracemalloc
from unittest import mock

from absl.testing import absltest
import numpy as np

from ldc_vae.data import array_cache
from ldc_vae.data import datasets
from tests.data import dataset_case

_NUM_IMAGES, _SIZE = 6000, 64
_BYTES = _NUM_IMAGES * _SIZE**2  # 25 MB
_LIMIT = _BYTES // 3


class LargeSetTest(dataset_case.DatasetTestCase):
  def setUp(self):
    super().setUp()
    self.path = self.root / 'images.npy'
    rng = np.random.default_rng(0)
    shape = (_NUM_IMAGES, _SIZE, _SIZE, 1)
    np.save(self.path, rng.integers(0, 256, shape, dtype=np.uint8))

  def load(self, mapped=True):
    limit = 0 if mapped else 2 * _BYTES
    with mock.patch.object(array_cache, '_MEMMAP_BYTES', limit):
      return datasets.load('images', path=str(self.path))

  def batches(self, dataset, start=0, stop=5, **options):
    found = datasets.train_batches(
      dataset.images['train'], 1000, seed=1, start_step=start, **options
    )
    return list(itertools.islice(found, stop - start))

  def test_neither_decoding_nor_training_holds_all_images(self):
    for _ in ('decode', 'read the cache'):
      tracemalloc.start()
      dataset = self.load()
      datasets.fingerprint(dataset)
      batches = datasets.train_batches(dataset.images['train'], 100, seed=0)
      for _ in range(2 * len(dataset.images['train']) // 100):  # two epochs
        next(batches)
      _, peak = tracemalloc.get_traced_memory()
      tracemalloc.stop()
      self.assertLess(peak, _LIMIT)

  def test_batches_are_those_of_images_in_memory(self):
    mapped, loaded = self.load(), self.load(mapped=False)
    self.assertIsInstance(mapped.images['train'], np.memmap)
    self.assertNotIsInstance(loaded.images['train'], np.memmap)
    self.assertEqual(datasets.fingerprint(mapped), datasets.fingerprint(loaded))
    np.testing.assert_array_equal(self.batches(mapped), self.batches(loaded))

  def test_batches_of_a_resumed_run_are_those_of_one_that_was_not(self):
    dataset = self.load()
    resumed = self.batches(dataset, 0, 2) + self.batches(dataset, 2)
    np.testing.assert_array_equal(resumed, self.batches(self.load()))

  def test_processes_share_the_images_of_a_batch(self):
    dataset = self.load()
    parts = [
      self.batches(dataset, process_index=index, process_count=2)
      for index in range(2)
    ]
    np.testing.assert_array_equal(
      np.concatenate(parts, axis=1), self.batches(dataset)
    )


if __name__ == '__main__':
  absltest.main()
