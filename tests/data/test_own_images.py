"""Tests of ldc_vae.data.own_images."""

import os
import pathlib
import shutil
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from ldc_vae.data import array_cache
from ldc_vae.data import datasets
from ldc_vae.data import own_images
from tests.data import dataset_case

_SPLITS = dataset_case.SPLITS


class ImagesFolderTest(dataset_case.DatasetTestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.root / 'pictures'
    self.folder.mkdir()

  def write(self, name, size=(10, 10), value=0, mode='L'):
    path = self.folder / name
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, size, value).save(path)

  def write_greys(self, count, **kwargs):
    for i in range(count):
      self.write(f'{i:03d}.png', value=i, **kwargs)

  def load(self, **kwargs):
    return datasets.load('images', path=os.fspath(self.folder), **kwargs)

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

  def test_is_searched_recursively_by_suffix(self):
    for name in ('a/1.png', 'b/2.JPG', '3.jpeg', '.4.png', 'notes.txt.png'):
      self.write(name)
    (self.folder / 'readme.txt').write_text('not an image')
    (self.folder / '.thumbnails').mkdir()
    self.write('.thumbnails/5.png')
    dataset = self.load()
    self.assertEqual(sum(len(dataset.images[s]) for s in _SPLITS), 4)

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

  @parameterized.parameters(
    (1, (255, 255, 255), 'RGB', [255]),
    (3, 77, 'L', [77, 77, 77]),
    (3, (1, 2, 3, 0), 'RGBA', [1, 2, 3]),
  )
  def test_colour_as_asked(self, num_channels, value, mode, pixel):
    for i in range(3):
      self.write(f'{i}.png', value=value, mode=mode)
    dataset = self.load(num_channels=num_channels)
    np.testing.assert_array_equal(dataset.images['train'][0, 4, 4], pixel)

  def test_sixteen_bit_grey_keeps_its_levels(self):
    values = np.full((4, 4), 0x8080, np.uint16)
    for i in range(3):
      Image.fromarray(values).save(self.folder / f'{i}.png')
    dataset = self.load()
    self.assertEqual(dataset.image_shape, (4, 4, 1))
    np.testing.assert_array_equal(dataset.images['train'], 0x80)

  def test_photograph_is_turned_upright(self):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter
    for i in range(3):
      Image.new('L', (20, 10)).save(self.folder / f'{i}.jpg', exif=exif)
    self.assertEqual(self.load().image_shape, (20, 10, 1))

  def test_two_sizes_name_both_files_and_the_remedy(self):
    self.write_greys(4)
    self.write('9.png', size=(12, 10))
    with self.assertRaisesRegex(
      ValueError, '000.png is 10x10.*9.png is 12x10.*set dataset.image_size'
    ):
      self.load()
    self.assertEqual(self.load(image_size=8).image_shape, (8, 8, 1))

  def test_grey_and_colour_name_both_files_and_the_remedy(self):
    self.write_greys(4)
    self.write('9.png', mode='RGB')
    with self.assertRaisesRegex(
      ValueError, '000.png.*grey.*9.png.*colour.*set dataset.num_channels'
    ):
      self.load()

  @parameterized.parameters(b'', b'not an image', None)
  def test_broken_file_is_named(self, content):
    self.write_greys(5)
    path = self.folder / '002.png'
    path.write_bytes(path.read_bytes()[:50] if content is None else content)
    with self.assertRaisesRegex(ValueError, '002.png cannot be decoded'):
      self.load()
    self.assertEmpty(list(self.cache.glob('arrays/*/*')))

  def test_folder_that_may_not_be_read_is_named(self):
    self.write_greys(5)
    self.write('locked/1.png')
    plain = os.scandir

    def scandir(path):  # root may read every folder
      if os.path.basename(path) == 'locked':
        raise PermissionError(13, 'Permission denied', path)
      return plain(path)

    with (
      mock.patch.object(os, 'scandir', scandir),
      self.assertRaisesRegex(
        ValueError,
        r'^dataset.path: the folder .*pictures/locked cannot be read'
        r' \(Permission denied\): make it readable, or move it away$',
      ),
    ):
      self.load()

  def test_link_to_nothing_is_named(self):
    self.write_greys(5)
    (self.folder / 'x.png').symlink_to('nowhere.png')
    with self.assertRaisesRegex(
      ValueError,
      r'^dataset.path: .*pictures/x.png cannot be read \(No such file or'
      r' directory\): remove or replace it$',
    ):
      self.load()

  def test_folders_behind_links_are_read_once(self):
    self.write_greys(5)
    elsewhere = self.root / 'elsewhere'
    self.folder.rename(elsewhere)
    self.folder.mkdir()
    (self.folder / 'link').symlink_to(elsewhere)
    (self.folder / 'again').symlink_to(elsewhere)
    (elsewhere / 'loop').symlink_to(self.folder)
    dataset = self.load()
    self.assertEqual(sum(len(dataset.images[s]) for s in _SPLITS), 5)

  def test_a_name_need_not_be_utf_8(self):
    self.write_greys(5)
    source = os.fsencode(next(self.folder.iterdir()))
    os.rename(source, os.path.join(os.path.dirname(source), b'caf\xe9.png'))
    dataset = self.load()
    self.assertEqual(sum(len(dataset.images[s]) for s in _SPLITS), 5)

  def test_images_that_the_disk_cannot_hold_are_refused_unmade(self):
    self.write_greys(5)
    with self.assertRaisesRegex(
      ValueError, '^dataset.image_size=10000000: 5 images need 500,000,000,0'
    ):
      self.load(image_size=10_000_000)

  def test_empty_folder_is_named(self):
    with self.assertRaisesRegex(ValueError, 'pictures.*no PNG or JPEG'):
      self.load()

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
      with self.assertRaisesRegex(ValueError, f"path='{path}' cannot be read"):
        datasets.load('images', path=path)
    with self.assertRaisesRegex(ValueError, "dataset.path=''"):
      datasets.load('images')
    (self.root / 'x.csv').touch()
    with self.assertRaisesRegex(ValueError, 'x.csv.*must be a folder'):
      datasets.load('images', path=os.fspath(self.root / 'x.csv'))

  def test_unknown_number_of_channels_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'num_channels=4'):
      self.load(num_channels=4)

  def test_cache_follows_the_files(self):
    self.write_greys(5)
    decode = self.count_calls(own_images, '_decode_files')
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


class ImagesArrayTest(dataset_case.DatasetTestCase):
  def save(self, array, name='x.npy', **others):
    path = self.root / name
    if name.endswith('.npy'):
      np.save(path, array)
    else:
      np.savez(path, images=array, **others)
    return os.fspath(path)

  def test_float_images_become_uint8(self):
    values = np.linspace(0, 1, 30, dtype=np.float32)
    array = np.broadcast_to(values[:, None, None], (30, 4, 5))
    dataset = datasets.load('images', path=self.save(array))
    self.assertEqual(dataset.image_shape, (4, 5, 1))
    pixels = [dataset.images[split][:, 0, 0, 0] for split in _SPLITS]
    self.assertEqual(
      sorted(np.concatenate(pixels)), np.round(values * 255).tolist()
    )

  def test_labels_stay_with_their_images(self):
    values = np.arange(30, dtype=np.uint8)
    array = np.broadcast_to(values[:, None, None], (30, 4, 4))
    path = self.save(array, 'x.npz', labels=np.arange(30) % 7)
    dataset = datasets.load('images', path=path)
    self.assertEqual(dataset.num_classes, 7)
    for split in _SPLITS:
      np.testing.assert_array_equal(
        dataset.images[split][:, 0, 0, 0] % 7, dataset.labels[split]
      )

  def test_labels_of_one_class_are_left_aside(self):
    array = np.zeros((30, 4, 4), np.uint8)
    path = self.save(array, 'x.npz', labels=np.full(30, 3))
    with self.assertLogs('absl', 'WARNING') as logs:
      dataset = datasets.load('images', path=path)
    self.assertIn('all labels are 3', logs.output[0])
    self.assertIsNone(dataset.labels)

  def test_only_array_of_an_npz_needs_no_name(self):
    np.savez(self.root / 'x.npz', np.zeros((5, 4, 4, 3), np.uint8))
    dataset = datasets.load('images', path=os.fspath(self.root / 'x.npz'))
    self.assertEqual(dataset.image_shape, (4, 4, 3))

  def test_two_nameless_arrays_are_refused(self):
    np.savez(self.root / 'x.npz', a=np.zeros(3), b=np.zeros(3))
    with self.assertRaisesRegex(ValueError, "'a', 'b'.*none named"):
      datasets.load('images', path=os.fspath(self.root / 'x.npz'))

  def test_resize_and_colour_apply_to_arrays(self):
    array = np.full((5, 12, 18), 90, np.uint8)
    dataset = datasets.load(
      'images', path=self.save(array), image_size=6, num_channels=3
    )
    self.assertEqual(dataset.image_shape, (6, 6, 3))
    np.testing.assert_array_equal(dataset.images['train'], 90)

  @parameterized.named_parameters(
    ('nan', np.nan, 'image 3 of .* holds NaN'),
    ('infinity', np.inf, r'image 3 of .* holds \[0, inf\]'),
    ('bytes', 255, r'image 3 of .* holds \[0, 255\]'),
    ('negative', -1, r'image 3 of .* holds \[-1, 0\]'),
  )
  def test_float_outside_the_unit_interval_is_named(self, value, message):
    array = np.zeros((8, 4, 4), np.float32)
    array[3, 2, 2] = array[6, 0, 0] = value
    with self.assertRaisesRegex(ValueError, message):
      datasets.load('images', path=self.save(array))

  def test_first_bad_image_is_counted_over_chunks(self):
    array = np.zeros((20, 4, 4), np.float32)
    array[13] = np.nan
    chunks = mock.patch.object(array_cache, 'CHUNK', 4)
    with chunks, self.assertRaisesRegex(ValueError, 'image 13 of'):
      datasets.load('images', path=self.save(array))

  @parameterized.parameters(
    (np.zeros((5, 4, 4), np.int64), 'holds int64 images'),
    (np.zeros((5, 4, 4), bool), 'holds bool images'),
    (np.zeros((5, 16), np.uint8), r'shape \(5, 16\)'),
    (np.zeros((5, 4, 4, 4), np.uint8), r'shape \(5, 4, 4, 4\)'),
    (np.zeros((0, 4, 4), np.uint8), r'shape \(0, 4, 4, 1\)'),
  )
  def test_other_arrays_are_refused(self, array, message):
    with self.assertRaisesRegex(ValueError, message):
      datasets.load('images', path=self.save(array))

  @parameterized.parameters(
    (np.zeros(4, int),),
    (np.full(5, -1),),
    (np.zeros(5),),
    (np.full(5, 2**40),),
  )
  def test_labels_that_are_no_classes_are_refused(self, labels):
    array = np.zeros((5, 4, 4), np.uint8)
    with self.assertRaisesRegex(ValueError, r'labels of .*x.npz are'):
      datasets.load('images', path=self.save(array, 'x.npz', labels=labels))

  def test_pickles_are_never_run(self):
    marker = self.root / 'ran'

    class Malicious:
      def __reduce__(self):
        return pathlib.Path.touch, (marker,)

    array = np.empty(3, object)
    array[:] = [Malicious()] * 3
    for name in ('x.npy', 'x.npz'):
      with self.assertRaisesRegex(ValueError, 'cannot be read as an array'):
        datasets.load('images', path=self.save(array, name))
    self.assertFalse(marker.exists())

  @parameterized.parameters('x.npy', 'x.npz')
  def test_broken_array_file_is_named(self, name):
    path = self.root / name
    path.write_bytes(b'broken')
    with self.assertRaisesRegex(ValueError, f'{name} cannot be read'):
      datasets.load('images', path=os.fspath(path))


if __name__ == '__main__':
  absltest.main()
