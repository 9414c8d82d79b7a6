"""Tests of ldc_vae.data.own_images."""

import os
import shutil
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from ldc_vae import errors
from ldc_vae.data import datasets
from ldc_vae.data import own_images
from ldc_vae.runtime import memory
from tests.data import dataset_case

_SPLITS = dataset_case.SPLITS


class FolderTest(dataset_case.FolderTestCase):
  def test_splits_hold_every_image_once_and_no_labels(self):
    self.write_greys(25)
    dataset = self.load()
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [21, 2, 2])
    values = [dataset.images[split][:, 0, 0, 0] for split in _SPLITS]
    self.assertEqual(sorted(np.concatenate(values)), list(range(25)))
    self.assertIsNone(dataset.labels)
    self.assertEqual(dataset.image_shape, (10, 10, 1))

  def test_sizes_of_the_splits_on_request(self):
    self.write_greys(25)
    dataset = self.load(num_test=7, num_validation=1)
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [17, 1, 7])

  def test_split_is_the_same_in_every_cache_and_another_for_another_seed(self):
    self.write_greys(25)
    first = self.load().images['test'][:, 0, 0, 0]
    shutil.rmtree(self.cache)
    np.testing.assert_array_equal(first, self.load().images['test'][:, 0, 0, 0])
    other = self.load(seed=1).images['test'][:, 0, 0, 0]
    self.assertFalse(np.array_equal(first, other))

  def test_shorter_side_is_resized_and_the_centre_cropped(self):
    # Thirds of red, green and blue across; the centre square is green.
    for i in range(3):
      image = np.zeros((20, 60, 3), np.uint8)
      for third in range(3):
        image[:, 20 * third : 20 * (third + 1), third] = 255
      Image.fromarray(image).save(self.folder / f'{i}.png')
    dataset = self.load(image_size=10)
    self.assertEqual(dataset.image_shape, (10, 10, 3))
    # Away from the edges, where bicubic mixes a neighbour in.
    inner = dataset.images['train'][0][:, 2:-2]
    np.testing.assert_array_equal(
      inner, np.broadcast_to([0, 255, 0], inner.shape)
    )

  def test_downscaling_does_not_alias(self):
    # A checkerboard of single pixels averages to grey; without antialiasing
    # it would stay black and white.
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    for i in range(3):
      Image.fromarray(board.astype(np.uint8)).save(self.folder / f'{i}.png')
    image = self.load(image_size=8).images['train'][0].astype(int)
    # Bicubic rings by a few grey levels at the border.
    self.assertLess(np.abs(image - 127.5).max(), 16)

  def test_two_sizes_name_both_files_and_the_remedy(self):
    self.write_greys(4)
    self.write('9.png', size=(12, 10))
    with self.assertRaisesRegex(
      ValueError,
      '000.png is 10x10.*9.png is 12x10.*set config.dataset.image_size',
    ):
      self.load()
    self.assertEqual(self.load(image_size=8).image_shape, (8, 8, 1))

  def test_grey_and_colour_name_both_files_and_the_remedy(self):
    self.write_greys(4)
    self.write('9.png', mode='RGB')
    with self.assertRaisesRegex(
      ValueError,
      '000.png.*grey.*9.png.*colour.*set config.dataset.num_channels',
    ):
      self.load()

  def test_images_that_the_disk_cannot_hold_are_refused_unmade(self):
    self.write_greys(5)
    with self.assertRaisesRegex(
      ValueError,
      '^config.dataset.image_size=10000000 makes 5 images of 500,000,000,0',
    ):
      self.load(image_size=10_000_000)

  @parameterized.parameters((1, '1 image:'), (2, '2 images:'))
  def test_too_few_images_are_counted(self, count, message):
    self.write_greys(count)
    with self.assertRaisesRegex(ValueError, message):
      self.load()

  def test_three_images_are_one_for_each_split(self):
    self.write_greys(3)
    dataset = self.load()
    self.assertEqual([len(dataset.images[s]) for s in _SPLITS], [1, 1, 1])

  @parameterized.parameters(24, 25, 100)
  def test_too_large_test_split_is_refused(self, num_test):
    self.write_greys(25)
    with self.assertRaisesRegex(ValueError, f'num_test={num_test}.*25 images'):
      self.load(num_test=num_test)

  def test_missing_and_foreign_paths_are_named(self):
    for path in ('/no/such', '~nobody-of-this-name/x', 'x' * 300):
      with self.assertRaisesRegex(ValueError, f'path={path} cannot be read'):
        datasets.load('images', path=path)
    with self.assertRaisesRegex(ValueError, "dataset.path=''"):
      datasets.load('images')
    (self.root / 'x.csv').touch()
    with self.assertRaisesRegex(ValueError, 'x.csv.*must be a folder'):
      datasets.load('images', path=os.fspath(self.root / 'x.csv'))

  def test_unknown_number_of_channels_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'num_channels=4'):
      self.load(num_channels=4)

  @parameterized.parameters(((3000, 2000), 0), ((1, 5000), 32))
  def test_pictures_that_the_memory_cannot_hold_are_refused(self, size, side):
    self.write_greys(25)
    self.write('large.png', size)
    self.enterContext(
      mock.patch.object(memory, 'available', lambda: 100_000_000)
    )
    with self.assertRaisesRegex(
      errors.UserError, r'large.png \(\d+x\d+ pixels need 0.\d GB .*: crop it\)'
    ):
      self.load(image_size=side)

  def test_arrays_that_the_memory_cannot_hold_are_refused_packed(self):
    path = self.root / 'x.npz'
    np.savez_compressed(path, images=np.zeros((25, 200, 200), np.uint8))
    self.enterContext(mock.patch.object(memory, 'available', lambda: 900_000))
    with self.assertRaisesRegex(
      errors.UserError, r'arrays need 0.0 GB of memory.*np.save\(path, images'
    ):
      datasets.load('images', path=str(path))

  @parameterized.parameters('null', '[1]', '{"files": {"a": 3}}', '[' * 100_000)
  def test_a_cache_with_an_odd_index_is_made_again(self, index):
    self.write_greys(25)
    expected = self.load().images['train'].copy()
    (path,) = self.cache.glob('arrays/*/index.json')
    path.write_text(index)
    np.testing.assert_array_equal(self.load().images['train'], expected)
    self.assertNotEqual(path.read_text(), index)

  def test_a_cache_with_a_flipped_header_is_made_again(self):
    self.write_greys(25)
    expected = self.load().images['train'].copy()
    (path,) = self.cache.glob('arrays/*/images.npy')
    whole = path.read_bytes()
    for position in range(128):  # the header
      content = bytearray(whole)
      content[position] ^= 1 << position % 8
      path.write_bytes(content)
      np.testing.assert_array_equal(self.load().images['train'], expected)

  def test_cache_follows_the_files(self):
    self.write_greys(5)
    decode = self.count_calls(own_images, '_write_entry')
    self.load()
    self.load(num_test=2)
    self.assertEqual(decode.call_count, 1)
    self.write('005.png', value=5)
    dataset = self.load()
    self.assertEqual(sum(len(dataset.images[s]) for s in _SPLITS), 6)
    self.load(image_size=6)
    self.assertEqual(decode.call_count, 3)
    # One entry for each image_size: the stale one is gone.
    self.assertLen(list(self.cache.glob('arrays/images-*/index.json')), 2)


class CautionTest(dataset_case.DatasetTestCase):
  def load(self, images, **others):
    """Loads an .npz file; returns the data set and the warnings."""
    path = self.root / 'x.npz'
    np.savez(path, images=images, **others)
    with self.assertLogs('absl', 'INFO') as logs:
      dataset = datasets.load('images', path=os.fspath(path))
    warned = [
      record.getMessage()
      for record in logs.records
      if record.levelname == 'WARNING'
    ]
    return dataset, warned

  def picture(self, dtype, highest):
    """Returns images of all whole values up to the highest."""
    values = np.arange(30 * 64).reshape(30, 8, 8) % (highest + 1)
    return values.astype(dtype)

  @parameterized.parameters(1, 2, 4, 15, 16)
  def test_nearly_black_data_are_told_once_a_start(self, highest):
    for _ in range(2):  # also where they are in the cache
      _, warned = self.load(self.picture(np.uint8, highest))
      self.assertLen(warned, 1)
      self.assertIn(f'brightest pixel of all is {highest} of 255', warned[0])
      self.assertIn('scale them to the full range', warned[0])

  def test_floats_that_were_divided_twice_are_told(self):
    _, warned = self.load(self.picture(np.float64, 255) / 255**2)
    self.assertIn('brightest pixel of all is 1 of 255', warned[0])

  @parameterized.parameters(30, 60, 255)
  def test_dark_photographs_are_not(self, highest):
    _, warned = self.load(self.picture(np.uint8, highest))
    self.assertEmpty(warned)

  @parameterized.parameters((10, 4), (12, 16), (14, 64))
  def test_unscaled_bits_of_16_are_told(self, bits, brightest):
    folder = self.root / 'pictures'
    folder.mkdir()
    for i, values in enumerate(self.picture(np.uint16, 2**bits - 1)):
      values[0, 0] = 2**bits - 1
      Image.fromarray(values).save(folder / f'{i}.png')
    with self.assertLogs('absl', 'WARNING') as logs:
      datasets.load('images', path=os.fspath(folder))
    self.assertLen(logs.output, 1)
    self.assertIn(f'brightest pixel of all is {brightest} of', logs.output[0])

  def test_one_value_for_all_is_told(self):
    _, warned = self.load(np.full((30, 8, 8), 200, np.uint8))
    self.assertLen(warned, 1)
    self.assertIn('every pixel of all images is 200 of 255', warned[0])

  def test_ids_are_no_labels(self):
    images = self.picture(np.uint8, 255)
    dataset, warned = self.load(images, labels=np.arange(30) // 1.5 // 1)
    self.assertIsNone(dataset.labels)
    self.assertIn('labels for 30 images are ids rather than', warned[0])
    dataset, warned = self.load(images, labels=np.arange(30) // 2)
    self.assertEqual(dataset.num_classes, 15)
    self.assertEmpty(warned)

  def test_labels_of_one_class_are_left_aside(self):
    images = self.picture(np.uint8, 255)
    dataset, warned = self.load(images, labels=np.full(30, 3))
    self.assertIn('all labels are 3', warned[0])
    self.assertIsNone(dataset.labels)


if __name__ == '__main__':
  absltest.main()
