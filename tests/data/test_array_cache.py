"""Tests of ldc_vae.data.array_cache."""

import io
import os
import shutil
import tarfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from ldc_vae.data import array_cache
from ldc_vae.data import datasets
from ldc_vae.data import tfds_sets
from ldc_vae.runtime import caches
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

  def test_records_of_the_same_time_and_size_are_decoded_anew(self):
    directory = self.prepare(self.root)
    load = lambda: datasets.load(
      'mnist', data_dir=os.fspath(self.root), num_validation=8
    )
    before = load().images['train'].copy()
    for path in directory.glob('*train*.array_record*'):
      times = path.stat()
      other = self.root / 'other'
      other.mkdir()
      (replaced,) = self.prepare(other, labels=np.arange(40)[::-1] % 10).glob(
        '*train*.array_record*'
      )
      self.assertEqual(replaced.stat().st_size, times.st_size)
      os.utime(replaced, ns=(times.st_atime_ns, times.st_mtime_ns))
      os.replace(replaced, path)
    decode = self.count_calls(tfds_sets, '_decode_records')
    np.testing.assert_array_equal(load().images['train'], before)
    self.assertEqual(decode.call_count, 1)

  @parameterized.product(
    damage=('truncated', 'flipped', 'index', 'absent'), limit=(10_000, 2**30)
  )
  def test_damaged_cache_is_made_again(self, damage, limit):
    self.enterContext(mock.patch.object(array_cache, '_MEMMAP_BYTES', limit))
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

  def test_sets_used_longest_ago_make_room(self):
    self.prepare(self.root)
    load = lambda seed: datasets.load(
      'mnist', data_dir=os.fspath(self.root), num_validation=8, seed=seed
    )
    load(0)
    (oldest,) = array_cache.entries()
    while caches._held:  # as the end of the process does
      os.close(caches._held.popitem()[1])
    self.enterContext(mock.patch.object(array_cache, '_MAX_BYTES', 1))
    load(1)
    (kept,) = array_cache.entries()
    self.assertNotEqual(kept, oldest)
    load(2)  # the one before is in use
    self.assertLen(array_cache.entries(), 2)

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


class StampTest(dataset_case.DatasetTestCase):
  def load(self, path):
    """Returns the one value that all images of a file or folder have."""
    images = datasets.load('images', path=os.fspath(path)).images.values()
    (value,) = set(np.concatenate(list(images)).ravel().tolist())
    return value

  def save(self, path, value):
    np.save(path, np.full((40, 8, 8), value, np.uint8))

  def extract(self, value):
    """Extracts an archive whose files have a fixed time."""
    content = io.BytesIO()
    np.save(content, np.full((40, 8, 8), value, np.uint8))
    archive = self.root / 'x.tar'
    with tarfile.open(archive, 'w') as tar:
      member = tarfile.TarInfo('data.npy')
      member.size, member.mtime = len(content.getvalue()), 1_700_000_000
      tar.addfile(member, io.BytesIO(content.getvalue()))
    with tarfile.open(archive) as tar:
      tar.extractall(self.root, filter='data')

  def test_an_archive_that_is_extracted_again_is_seen(self):
    for value in (10, 200, 90):
      self.extract(value)
      self.assertEqual(self.load(self.root / 'data.npy'), value)

  @parameterized.parameters(os.replace, os.rename)
  def test_a_file_that_is_put_in_place_is_seen(self, move):
    path, other = self.root / 'a.npy', self.root / 'b.npy'
    self.save(path, 10)
    self.assertEqual(self.load(path), 10)
    self.save(other, 200)
    shutil.copystat(path, other)
    move(other, path)
    self.assertEqual(self.load(path), 200)

  def test_a_folder_that_is_put_in_place_is_seen(self):
    folder, other = self.root / 'a', self.root / 'b'
    for parent, value in ((folder, 10), (other, 200)):
      parent.mkdir()
      for i in range(5):
        Image.new('L', (8, 8), value).save(parent / f'{i}.bmp')
        os.utime(parent / f'{i}.bmp', (1_700_000_000,) * 2)
    self.assertEqual(self.load(folder), 10)
    folder.rename(self.root / 'c')
    other.rename(folder)
    self.assertEqual(self.load(folder), 200)

  def test_two_writes_at_the_same_time_are_seen(self):
    path = self.root / 'a.npy'
    plain = array_cache.stamp

    def stamp(path, status):  # a file system that counts in steps of days
      coarse = mock.Mock(wraps=status, st_size=1, st_ino=1, st_mtime_ns=1)
      coarse.st_ctime_ns, coarse.st_mode = 1, status.st_mode
      coarse.st_ctime = status.st_ctime
      return plain(path, coarse)

    with (
      mock.patch.object(array_cache, 'stamp', stamp),
      mock.patch.object(array_cache, 'FRESH_SECONDS', 3.0),
    ):
      for value in (10, 200):
        self.save(path, value)
        self.assertEqual(self.load(path), value)


if __name__ == '__main__':
  absltest.main()
