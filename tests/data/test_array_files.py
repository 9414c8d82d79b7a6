"""Tests of ldc_vae.data.array_files."""

import io
import os
import pathlib
from unittest import mock
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.data import array_cache
from ldc_vae.data import array_files
from ldc_vae.data import datasets
from ldc_vae.data import request
from tests.data import dataset_case

_SPLITS = dataset_case.SPLITS


class ArrayFileTest(dataset_case.DatasetTestCase):
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

  def test_only_array_of_an_npz_needs_no_name(self):
    np.savez(self.root / 'x.npz', np.zeros((5, 4, 4, 3), np.uint8))
    dataset = datasets.load('images', path=os.fspath(self.root / 'x.npz'))
    self.assertEqual(dataset.image_shape, (4, 4, 3))

  def test_two_nameless_arrays_are_refused(self):
    np.savez(self.root / 'x.npz', a=np.zeros(3), b=np.zeros(3))
    with self.assertRaisesRegex(ValueError, 'it has a, b, but none named'):
      datasets.load('images', path=os.fspath(self.root / 'x.npz'))

  def test_resize_and_colour_apply_to_arrays(self):
    array = np.full((5, 12, 18), 90, np.uint8)
    dataset = datasets.load(
      'images', path=self.save(array), image_size=6, num_channels=3
    )
    self.assertEqual(dataset.image_shape, (6, 6, 3))
    np.testing.assert_array_equal(dataset.images['train'], 90)

  @parameterized.named_parameters(
    ('nan', np.nan, 'in image 3 NaN, where floats must be in'),
    ('infinity', np.inf, 'in image 3 values from 0 to inf, where'),
    ('bytes', 255, 'in image 3 values from 0 to 255, where .* or write uint8'),
    ('negative', -1, 'in image 3 values from -1 to 0, where'),
    ('beyond_rounding', 1.0011, 'in image 3 values from 0 to 1.0011, where'),
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
    with chunks, self.assertRaisesRegex(ValueError, 'image 13 NaN'):
      datasets.load('images', path=self.save(array))

  @parameterized.parameters(
    (np.zeros((5, 4, 4), np.int64), 'holds int64 images'),
    (np.zeros((5, 4, 4), np.uint16), 'holds uint16 images'),
    (np.zeros((5, 4, 4), complex), 'holds complex128 images'),
    (np.zeros(5, [('a', 'u1')]), r"holds \[\('a', 'u1'\)\] images"),
    (np.zeros((5, 16), np.uint8), r'shape \(5, 16\)'),
    (np.float32(3), r'shape \(\): expected'),
    (np.zeros((5, 4, 4, 4), np.uint8), r'shape \(5, 4, 4, 4\)'),
    (np.zeros((5, 3, 9, 9), np.uint8), r'9\): .*images.transpose\(0, 2, 3, 1'),
    (np.zeros((9, 9, 3), np.uint8), r'shape \(9, 9, 3\): .*, not one image'),
    (np.zeros((0, 4, 4), np.uint8), r'shape \(0, 4, 4\)'),
  )
  def test_other_arrays_are_refused(self, array, message):
    with self.assertRaisesRegex(ValueError, message):
      datasets.load('images', path=self.save(array))

  @parameterized.parameters(np.float16, np.float32, '>f4', np.longdouble)
  def test_a_rounding_outside_the_unit_interval_is_clipped(self, dtype):
    array = np.full((5, 4, 4), 0.5, dtype)
    array[0, 0, 0] = np.nextafter(array.dtype.type(1), array.dtype.type(2))
    array[0, 0, 1] = -9e-4
    images = datasets.load('images', path=self.save(array)).images.values()
    values = np.concatenate(list(images)).ravel()
    self.assertEqual(sorted(set(values.tolist())), [0, 128, 255])

  def test_booleans_are_black_and_white(self):
    array = np.zeros((5, 4, 4), bool)
    array[:, 0] = True
    images = datasets.load('images', path=self.save(array)).images['train']
    np.testing.assert_array_equal(images[..., 0], array[:3] * 255)

  @parameterized.parameters(
    (np.zeros(4, int),),
    (np.full(5, 0.5),),
    (np.full(5, np.nan),),
    (np.ones((5, 3), int),),
    (np.zeros((5, 4, 4), np.uint8),),
  )
  def test_labels_that_are_no_classes_are_refused(self, labels):
    array = np.zeros((5, 4, 4), np.uint8)
    with self.assertRaisesRegex(
      ValueError, r'has labels of type .* and shape .*: expected .* \(5,\)'
    ):
      datasets.load('images', path=self.save(array, 'x.npz', labels=labels))

  @parameterized.named_parameters(
    ('far_apart', np.array([3, 60000])),
    ('huge', np.array([0, 2**40])),
    ('negative', np.array([-1, 1])),
    ('floats', np.array([0.0, 1.0])),
    ('booleans', np.array([False, True])),
    ('texts', np.array(['cat', 'dog'])),
    ('bytes', np.array([b'cat', b'dog'])),
    ('column', np.array([[0], [1]], np.uint8)),
    ('one_hot', np.eye(2)),
  )
  def test_labels_are_numbered(self, values):
    numbers = np.arange(30) % 3 % 2
    array = np.zeros((30, 4, 4), np.uint8)
    array[:] = 200 + numbers[:, None, None]
    path = self.save(array, 'x.npz', labels=values[numbers])
    dataset = datasets.load('images', path=path)
    self.assertEqual(dataset.num_classes, 2)
    for split in _SPLITS:
      np.testing.assert_array_equal(
        dataset.images[split][:, 0, 0, 0], 200 + dataset.labels[split]
      )

  @parameterized.parameters(
    ('image', 'label'),
    ('X', 'y'),
    ('data', 'targets'),
    ('arr_0', 'arr_1'),
    ('x_train', 'y_train'),
    ('something', 'labels'),
  )
  def test_other_names_are_read(self, images, labels):
    numbers = np.arange(30) % 7
    array = np.zeros((30, 4, 4), np.uint8) + numbers[:, None, None]
    path = self.root / 'x.npz'
    np.savez(path, **{labels: numbers, images: array.astype(np.uint8)})
    dataset = datasets.load('images', path=os.fspath(path))
    self.assertEqual(dataset.num_classes, 7)
    np.testing.assert_array_equal(
      dataset.images['test'][:, 0, 0, 0], dataset.labels['test']
    )

  @parameterized.parameters(
    ('x_train', 'y_train', 'x_test', 'y_test'),
    ('train_images', 'train_labels', 'test_images', 'test_labels'),
    ('trainX', 'trainY', 'testX', 'testY'),
    ('images', 'labels', 'images_test', 'labels_test'),
  )
  def test_splits_are_respected(self, x_train, y_train, x_test, y_test):
    make = lambda count, value: np.full((count, 4, 4), value, np.uint8)
    path = self.root / 'x.npz'
    np.savez(
      path,
      **{
        x_train: make(20, 100),
        y_train: np.arange(20)[:, None] % 2,
        x_test: make(6, 200),
        y_test: np.ones((6, 1), int),
      },
    )
    dataset = datasets.load('images', path=os.fspath(path))
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [18, 2, 6])
    for split, value in zip(_SPLITS, (100, 100, 200)):
      np.testing.assert_array_equal(dataset.images[split], value)
    np.testing.assert_array_equal(dataset.labels['test'], 1)

  def test_only_the_arrays_in_use_are_loaded(self):
    path = self.root / 'x.npz'
    images = np.zeros((5, 4, 4), np.uint8)
    np.savez(path, images=images, names=np.array([{}], object))
    source = array_files.read(
      path, request.Request(name='images', path=os.fspath(path))
    )
    self.assertEqual(source.sizes.tolist(), [5, 0, 0])

  def test_three_splits_without_labels_for_one(self):
    path = self.root / 'x.npz'
    arrays = {
      f'{kind}_{split}': np.full(shape, value, np.uint8)
      for value, split in enumerate(('train', 'val', 'test'))
      for kind, shape in (('x', (9, 4, 4)), ('y', (9,)))
    }
    del arrays['y_val']
    np.savez(path, **arrays)
    dataset = datasets.load('images', path=os.fspath(path))
    for value, split in enumerate(_SPLITS):
      self.assertLen(dataset.images[split], 9)
      np.testing.assert_array_equal(dataset.images[split], value)
    self.assertIsNone(dataset.labels)

  def test_splits_of_other_shapes_are_refused(self):
    path = self.root / 'x.npz'
    np.savez(path, train=np.zeros((9, 4, 4)), test=np.zeros((9, 4, 5)))
    with self.assertRaisesRegex(ValueError, r'\(4, 4, 1\) and \(4, 5, 1\)'):
      datasets.load('images', path=os.fspath(path))

  @parameterized.parameters(
    ('x.npz', 'y.npy'), ('x.npy', 'y.npz'), ('x.npz', 'Y.NPZ')
  )
  def test_the_content_tells_the_kind_of_a_file(self, name, other):
    self.save(np.full((5, 4, 4), 9, np.uint8), name)
    path = (self.root / name).rename(self.root / other)
    images = datasets.load('images', path=os.fspath(path)).images['train']
    np.testing.assert_array_equal(images, 9)

  @parameterized.named_parameters(
    (
      'pictures',
      {'a.png': b'x', 'b.png': b'y'},
      'it has a.png, b.png, but none',
    ),
    ('text', {'images.npy': b'hello'}, 'its member images is no array'),
    ('nothing', {}, 'it has no member, but none named images'),
    (
      'many',
      {f'{i}.png': b'' for i in range(99)},
      'it has 0.png, .*, ..., but',
    ),
  )
  def test_an_archive_of_other_things_is_named(self, members, message):
    path = self.root / 'x.npz'
    with zipfile.ZipFile(path, 'w') as archive:
      for name, content in members.items():
        archive.writestr(name, content)
    with self.assertRaisesRegex(ValueError, message):
      datasets.load('images', path=os.fspath(path))

  def test_a_text_is_not_called_a_pickle(self):
    path = self.root / 'x.npy'
    path.write_text('1,2,3')
    with self.assertRaisesRegex(
      ValueError, 'its content is neither an .npz nor an .npy file'
    ):
      datasets.load('images', path=os.fspath(path))

  def test_a_damaged_archive_is_named(self):
    file = io.BytesIO()
    np.savez(file, images=np.zeros((5, 40, 40), np.uint8))
    content = bytearray(file.getvalue())
    content[4000] ^= 1
    path = self.root / 'x.npz'
    path.write_bytes(content)
    with self.assertRaisesRegex(ValueError, "Bad CRC-32 for file 'images.npy'"):
      datasets.load('images', path=os.fspath(path))

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
