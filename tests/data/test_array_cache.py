"""Tests of ldc_vae.data.array_cache."""

import os
import shutil
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.data import array_cache
from ldc_vae.data import datasets
from ldc_vae.data import tfds_sets
from tests.data import dataset_case


class ArrayCacheTest(dataset_case.PreparedTestCase):
  def test_second_load_does_not_decode(self):
    decode = self.count_calls(tfds_sets, '_decode_records')
    self.prepare(self.root)
    for num_validation in (8, 4):
      datasets.load(
        'mnist', data_dir=os.fspath(self.root), num_validation=num_validation
      )
    self.assertEqual(decode.call_count, 1)

  def test_changed_records_are_decoded_again(self):
    directory = self.prepare(self.root)
    load = lambda: datasets.load(
      'mnist', data_dir=os.fspath(self.root), num_validation=8
    )
    self.assertLen(load().images['train'], 32)
    shutil.rmtree(directory)
    self.prepare(self.root, num_train=50)
    self.assertLen(load().images['train'], 42)

  @parameterized.parameters('truncated', 'flipped', 'index', 'absent')
  def test_damaged_cache_is_made_again(self, damage):
    self.prepare(self.root)
    load = lambda: datasets.load(
      'mnist', data_dir=os.fspath(self.root), num_validation=8
    )
    expected = load().images['train'].copy()
    (path,) = self.cache.glob('arrays/mnist-*/train_images.npy')
    content = bytearray(path.read_bytes())
    if damage == 'truncated':
      path.write_bytes(content[:-100])
    elif damage == 'flipped':
      content[5000] ^= 1
      path.write_bytes(content)
    elif damage == 'index':
      path.with_name('index.json').write_text('{"finger')
    else:
      path.unlink()
    decode = self.count_calls(tfds_sets, '_decode_records')
    np.testing.assert_array_equal(load().images['train'], expected)
    self.assertEqual(decode.call_count, 1)

  def test_array_above_the_limit_stays_on_disk(self):
    self.prepare(self.root)
    self.enterContext(mock.patch.object(array_cache, '_MEMMAP_BYTES', 10_000))
    dataset = datasets.load(
      'mnist', data_dir=os.fspath(self.root), num_validation=8
    )
    self.assertIsInstance(dataset.images['train'], np.memmap)
    self.assertNotIsInstance(dataset.images['test'], np.memmap)
    batch = next(datasets.train_batches(dataset.images['train'], 4, seed=0))
    self.assertIs(type(batch), np.ndarray)

  def test_unwritable_cache_is_named(self):
    self.prepare(self.root)
    self.cache.write_text('a file where the folder should be')
    with self.assertRaisesRegex(OSError, 'cannot be written.*LDC_VAE_CACHE'):
      datasets.load('mnist', data_dir=os.fspath(self.root), num_validation=8)

  def test_full_disk_is_named(self):
    self.prepare(self.root)
    full = mock.patch.object(
      shutil, 'disk_usage', return_value=mock.Mock(free=100)
    )
    with full, self.assertRaisesRegex(OSError, '100 bytes free.*LDC_VAE_CACHE'):
      datasets.load('mnist', data_dir=os.fspath(self.root), num_validation=8)
    self.assertEmpty(list(self.cache.glob('arrays/*/*.npy')))


if __name__ == '__main__':
  absltest.main()
