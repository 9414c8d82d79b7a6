"""Tests of ldc_vae.data.image_folder."""

import os
import threading
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.data import image_folder
from tests.data import dataset_case

_SPLITS = dataset_case.SPLITS


class SearchTest(dataset_case.FolderTestCase):
  def count(self, **options):
    dataset = self.load(**options)
    return sum(len(dataset.images[split]) for split in _SPLITS)

  def test_is_recursive_by_suffix(self):
    for name in ('a/1.png', 'b/2.JPG', '3.jpeg', '.4.png', 'notes.txt.png'):
      self.write(name)
    (self.folder / 'readme.txt').write_text('not an image')
    self.write('.thumbnails/5.png')
    self.assertEqual(self.count(), 4)

  @parameterized.parameters(
    'apng avif bmp dib gif ico jfif jp2 jpe mpo pcx pgm png ppm qoi sgi tga'
    ' tif tiff webp'.split()
  )
  def test_every_format_of_pillow_is_read(self, suffix):
    formats = dict(apng='PNG', jfif='JPEG', jpe='JPEG', mpo='MPO')
    for i in range(3):
      kind = {'format': formats[suffix]} if suffix in formats else {}
      self.write(f'{i}.{suffix}', size=(16, 16), mode='RGB', **kind)
    self.assertEqual(self.count(), 3)

  def test_what_is_left_out_is_counted_by_suffix_in_one_warning(self):
    self.write_greys(5, 200)
    for name in ('1.HEIC', '2.heic', 'x/3.heic', '4.CR2', 'IMG_5'):
      (self.folder / name).parent.mkdir(exist_ok=True)
      (self.folder / name).write_bytes(b'x')
    _, warned = self.messages()
    self.assertEqual(
      warned,
      [f'{self.folder}: left out 3 .heic, 1 .cr2, 1 without suffix'],
    )

  @parameterized.parameters(
    '@eaDir/000.png/x.png',
    '__MACOSX/000.png',
    '#recycle/000.png',
    '$RECYCLE.BIN/000.png',
    '.ipynb_checkpoints/000.png',
    '._000.png',
  )
  def test_pictures_of_operating_systems_are_not_read(self, name):
    self.write_greys(5, 200)
    self.write(name)
    dataset, warned = self.messages()
    self.assertLen(np.concatenate(list(dataset.images.values())), 5)
    self.assertEmpty(warned)

  @parameterized.parameters(
    'Thumbs.db', '.DS_Store', 'desktop.ini', 'Icon\r', '0.png:Zone.Identifier'
  )
  def test_files_of_operating_systems_are_not_mentioned(self, name):
    self.write_greys(5, 200)
    (self.folder / name).write_bytes(b'x')
    _, warned = self.messages()
    self.assertEmpty(warned)

  def test_a_pipe_is_not_waited_for(self):
    self.write_greys(5, 200)
    os.mkfifo(self.folder / 'x.png')
    thread = threading.Thread(target=self.count, daemon=True)
    thread.start()
    thread.join(30)
    self.assertFalse(thread.is_alive())
    _, warned = self.messages()
    self.assertIn('left out 1 .png that is no regular file', warned[0])

  def test_a_folder_of_other_files_says_what_it_has(self):
    for name in ('1.heic', '2.heic', 'a.npz'):
      (self.folder / name).write_bytes(b'x')
    with self.assertRaisesRegex(
      ValueError,
      '^config.dataset.path=.*pictures holds no image that Pillow reads; it has'
      ' 2 .heic, 1 .npz: name the folder .* or the .npz or .npy file itself$',
    ):
      self.load()

  def test_empty_folder_is_named(self):
    with self.assertRaisesRegex(ValueError, 'pictures holds no image that .*:'):
      self.load()

  def test_folder_that_may_not_be_read_is_named(self):
    self.write_greys(5, 200)
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
        r'^config.dataset.path=.* has a folder .*pictures/locked that cannot be'
        r' read \(Permission denied\): make it readable, or move it away$',
      ),
    ):
      self.load()

  def test_links_to_nothing_are_named_at_once(self):
    self.write_greys(5, 200)
    (self.folder / 'x.png').symlink_to('nowhere.png')
    with self.assertRaisesRegex(
      ValueError,
      r'has files that cannot be read, 1 in all: x.png \(No such file or'
      r' directory\): remove or replace it$',
    ):
      self.load()
    for i in range(7):
      (self.folder / f'y{i}.png').symlink_to('nowhere.png')
    with self.assertRaisesRegex(
      ValueError, r', 8 in all: .* y3.png \(.*\), \.\.\.: .* replace them$'
    ):
      self.load()

  def test_folders_behind_links_are_read_once(self):
    self.write_greys(5, 200)
    elsewhere = self.root / 'elsewhere'
    self.folder.rename(elsewhere)
    self.folder.mkdir()
    (self.folder / 'link').symlink_to(elsewhere)
    (self.folder / 'again').symlink_to(elsewhere)
    (elsewhere / 'loop').symlink_to(self.folder)
    self.assertEqual(self.count(), 5)

  def test_a_name_need_not_be_utf_8(self):
    self.write_greys(5, 200)
    source = os.fsencode(next(self.folder.iterdir()))
    os.rename(source, os.path.join(os.path.dirname(source), b'caf\xe9.png'))
    self.assertEqual(self.count(), 5)


class _FilledTestCase(dataset_case.FolderTestCase):
  def fill(self, **folders):
    """Writes a number of pictures into each folder; their value tells which."""
    for value, (folder, count) in enumerate(folders.items()):
      for i in range(count):
        name = f'{folder.replace("__", "/")}/{i:02d}.png'
        self.write(name, value=100 + 10 * value + i % 2)

  def values(self, dataset):
    return {
      split: sorted(
        set((dataset.images[split][:, 0, 0, 0] // 10 - 10).tolist())
      )
      for split in _SPLITS
    }


class SplitsTest(_FilledTestCase):
  @parameterized.parameters(
    ('train', 'val', 'test'),
    ('TRAIN', 'Valid', 'Test'),
    ('train', 'dev', 'test'),
    ('training', 'validation', 'testing'),
    ('train2017', 'val2017', 'test2017'),
    ('images__train', 'images__val', 'images__test'),  # YOLO
    ('train__images', 'valid__images', 'test__images'),  # Roboflow
    ('data__seg_train', 'data__seg_val', 'data__seg_test'),
    ('trainingSet', 'validationSet', 'testSet'),
  )
  def test_folders_of_splits_are_respected(self, train, validation, test):
    self.fill(**{train: 20, validation: 5, test: 4})
    dataset, told = self.messages('INFO')
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [20, 5, 4])
    self.assertEqual(
      self.values(dataset), dict(train=[0], validation=[1], test=[2])
    )
    self.assertIsNone(dataset.labels)
    self.assertEqual(
      told[-1],
      f'{self.folder}: 20 train as given, 5 validation as given, 4 test as'
      ' given; 10x10 pixels, grey; no labels',
    )

  def test_a_split_without_folder_is_cut_from_train(self):
    self.fill(train=20, test=4)
    dataset = self.load()
    self.assertEqual(
      [len(dataset.images[split]) for split in _SPLITS], [18, 2, 4]
    )
    self.assertEqual(
      self.values(dataset), dict(train=[0], validation=[0], test=[1])
    )

  def test_the_test_is_cut_from_train_too(self):
    self.fill(train=20, val=4)
    dataset = self.load(num_test=3)
    self.assertEqual(
      [len(dataset.images[split]) for split in _SPLITS], [17, 4, 3]
    )
    self.assertEqual(
      self.values(dataset), dict(train=[0], validation=[1], test=[0])
    )

  def test_num_test_beside_a_test_folder_is_refused(self):
    self.fill(train=20, test=4)
    with self.assertRaisesRegex(ValueError, 'num_test=3 .*test split of 4 im'):
      self.load(num_test=3)

  def test_pictures_beside_the_splits_are_left_out_and_counted(self):
    self.fill(train=20, test=4, extra=7)
    self.write('preview.png')
    dataset, warned = self.messages()
    self.assertLen(np.concatenate(list(dataset.images.values())), 24)
    self.assertEqual(warned, [f'{self.folder}: left out 8 beside the splits'])

  def test_one_folder_of_a_split_is_none(self):
    self.fill(train=20)
    sizes = [len(self.load().images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [16, 2, 2])

  def test_splits_without_train_are_classes(self):
    self.fill(val=6, test=6)
    self.assertEqual(self.load().num_classes, 2)


class ClassesTest(_FilledTestCase):
  def test_subfolders_are_classes(self):
    self.fill(circles=12, squares__big=6, squares__small=6)
    dataset, told = self.messages('INFO')
    self.assertEqual(dataset.num_classes, 2)
    for split in _SPLITS:
      values = dataset.images[split][:, 0, 0, 0] // 10 - 10
      np.testing.assert_array_equal(dataset.labels[split], values > 0)
    self.assertEqual(
      told[-1],
      f'{self.folder}: 20 train, 2 validation, 2 test; 10x10 pixels,'
      ' grey; 2 classes: circles, squares',
    )

  def test_splits_have_the_same_classes(self):
    self.fill(
      train__cat=9, train__dog=9, train__eel=2, test__dog=3, test__cat=3
    )
    dataset = self.load()
    self.assertEqual(dataset.num_classes, 3)
    values = dataset.images['test'][:, 0, 0, 0] // 10 - 10
    np.testing.assert_array_equal(dataset.labels['test'], values == 3)

  @parameterized.parameters(
    dict(bus=6, car=6, train=6),
    dict(train_station=6, test_tube=6, valley=6),
  )
  def test_classes_may_be_called_as_splits(self, **folders):
    self.fill(**folders)
    self.assertEqual(self.load().num_classes, 3)

  def test_folders_around_all_pictures_mean_nothing(self):
    self.fill(archive__data__a=6, archive__data__b=6)
    self.assertEqual(self.load().num_classes, 2)

  @parameterized.parameters(
    (dict(a=6, b=6, train=0), 'x.png'),
    (dict(train__a=6, train__b=6, test=4), 'test/00.png'),
    (dict(train__a=6, train__b=6, test__c=4), 'test/c/00.png'),
  )
  def test_a_picture_without_class_leaves_no_labels(self, folders, stray):
    self.fill(**folders)
    if not (self.folder / stray).exists():
      self.write(stray)
    dataset, told = self.messages('INFO')
    self.assertIsNone(dataset.labels)
    self.assertRegex(
      ' '.join(told), f'no labels: . files, as .*{stray}, are in none of .*a, b'
    )


class FindTest(dataset_case.FolderTestCase):
  def test_only_named_files_are_told(self):
    reasons = {self.folder / f'{i}.png': 'why' for i in range(9)}
    self.assertEqual(
      image_folder.name_some(self.folder, reasons),
      '0.png (why), 1.png (why), 2.png (why), 3.png (why), 4.png (why), ...:'
      ' remove or replace them',
    )


if __name__ == '__main__':
  absltest.main()
