"""Tests of ldc_vae.runtime.files."""

import errno
import json
import math
import pathlib
import re
import stat

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np

from ldc_vae import errors
from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from tests.runtime import folder_case


class AtomicFileTest(folder_case.FolderTestCase):
  def setUp(self):
    super().setUp()
    self.path = self.directory / 'file'

  def test_json_round_trips(self):
    obj = {
      'a': [1, 2.5, None, True, 'é'],
      'nan': {'x': math.nan, 'y': np.array([1.0, np.inf])},
      'numpy': np.float32(0.5),
      'jax': jnp.arange(2),
      'tuple': (1, 2),
      'path': pathlib.Path('runs'),
      3: np.int64(4),
    }
    files.write_json(self.path, obj)
    self.assertEqual(
      json.loads(self.path.read_text()),
      {
        'a': [1, 2.5, None, True, 'é'],
        'nan': {'x': None, 'y': [1.0, None]},
        'numpy': 0.5,
        'jax': [0, 1],
        'tuple': [1, 2],
        'path': 'runs',
        '3': 4,
      },
    )

  def test_json_refuses_what_it_cannot_hold(self):
    files.write_json(self.path, {'old': 1})
    with self.assertRaisesRegex(ValueError, 'file cannot be written as JSON'):
      files.write_json(self.path, {'x': object()})
    self.assertEqual(json.loads(self.path.read_text()), {'old': 1})

  def test_npz_round_trips(self):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    files.write_npz(self.path, images=images, latents=jnp.ones((2, 3)))
    self.assertEqual(self.names(), {'file'})  # no '.npz' put behind it
    with np.load(self.path) as arrays:
      np.testing.assert_array_equal(arrays['images'], images)
      self.assertEqual(arrays['images'].dtype, np.uint8)
      np.testing.assert_array_equal(arrays['latents'], np.ones((2, 3)))

  def test_npz_refuses_objects(self):
    with self.assertRaisesRegex(ValueError, 'array x of .* Python objects'):
      files.write_npz(self.path, x=np.array([None]))

  def test_failure_leaves_the_old_file_and_nothing_beside_it(self):
    self.path.write_text('old')
    with self.assertRaises(KeyError):
      with files.open_atomically(self.path) as file:
        file.write(b'new')
        raise KeyError('x')
    self.assertEqual(self.path.read_text(), 'old')
    self.assertEqual(self.names(), {'file'})

  def test_full_disk_names_the_file_and_keeps_the_old_one(self):
    self.path.write_text('old')
    self.limit_file_size(1000)
    noise = np.random.default_rng(0).bytes(10_000)
    with self.assertRaisesRegex(
      OSError, f'^{re.escape(str(self.path))} cannot be written'
    ) as caught:
      files.write_npz(self.path, x=np.frombuffer(noise, np.uint8))
    self.assertEqual(caught.exception.errno, errno.EFBIG)
    self.assertEqual(self.path.read_text(), 'old')
    self.assertEqual(self.names(), {'file'})

  def test_an_error_about_another_file_is_passed_on(self):
    with self.assertRaises(FileNotFoundError):
      with files.open_atomically(self.path):
        open(self.directory / 'other', 'rb')
    self.assertEmpty(self.names())

  @parameterized.named_parameters(
    ('missing_parent', 'a/b', 'create .*a first'),
    ('directory', '.', 'cannot be written.*move it away'),
  )
  def test_place_that_cannot_be_written(self, name, regex):
    with self.assertRaisesRegex(OSError, regex):
      files.write_json(self.directory / name, {})
    self.assertEmpty(self.names())

  def test_read_only_place(self):
    error = OSError(errno.EROFS, 'Read-only file system')
    with absltest.mock.patch('builtins.open', side_effect=error):
      with self.assertRaisesRegex(durable.FileError, 'that can be written to'):
        files.write_json(self.path, {})

  def test_permissions_are_those_of_any_new_file(self):
    files.write_json(self.path, {})
    plain = self.directory / 'plain'
    plain.touch()
    self.assertEqual(
      stat.S_IMODE(self.path.stat().st_mode),
      stat.S_IMODE(plain.stat().st_mode),
    )


class CheckWritableTest(folder_case.FolderTestCase):
  def test_what_cannot_be_written_is_known_before(self):
    path = self.directory / 'x.json'
    path.write_text('{}')
    files.check_writable(path)
    files.check_writable(self.directory / 'y.json')
    self.assertEqual([x.name for x in self.directory.iterdir()], ['x.json'])
    self.assertEqual(path.read_text(), '{}')
    for path, reason in (
      (self.directory / 'no' / 'x.json', 'create .*no first'),
      (self.directory, 'a directory has this name'),
    ):
      with self.assertRaisesRegex(durable.FileError, reason):
        files.check_writable(path)

  def test_what_a_killed_process_left_of_the_file_is_removed(self):
    path = self.directory / 'x[1].npz'
    own, other = (
      self.directory / f'.{name}.{"0" * 12}.tmp' for name in (path.name, 'x1')
    )
    own.touch()
    other.touch()
    files.check_writable(path)
    self.assertEqual(self.names(), {other.name})

  def test_other_processes_of_the_run_need_not_see_the_folder(self):
    with absltest.mock.patch('jax.process_index', return_value=1):
      files.check_writable(self.directory / 'no' / 'x.json')

  def test_records_of_a_newer_version_are_refused(self):
    for record in ({}, {'format': None}, {'format': files.FORMAT}):
      files.check_format(record)
    with self.assertRaisesRegex(
      errors.UserError, 'format 2 but this version reads format 1; use the'
    ):
      files.check_format({'format': 2})

  def test_json_that_holds_no_object_is_broken(self):
    path = self.directory / 'x.json'
    for text in ('[1]', '"a"', '3', 'null', '{', ''):
      path.write_text(text)
      self.assertIsNone(files.read_json(path))
      self.assertIsNone(files.read_record(path))

  def test_json_that_cannot_be_read_is_no_missing_file(self):
    with self.assertRaisesRegex(durable.FileError, r'\(Is a directory\)'):
      files.read_json(self.directory)


if __name__ == '__main__':
  absltest.main()
