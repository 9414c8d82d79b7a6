"""Tests of ldc_vae.runtime.caches."""

import os
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae.runtime import caches
from tests.runtime import folder_case

_HOLD = """
import pathlib, sys
from ldc_vae.runtime import caches
caches.hold(pathlib.Path(sys.argv[1]))
print(flush=True)
sys.stdin.read()
"""


class DropOldestTest(folder_case.FolderTestCase, parameterized.TestCase):
  def _entry(self, name, age, is_folder=True):
    """Makes an entry of 10 bytes."""
    path = self.directory / name
    if is_folder:
      path.mkdir()
      for part in ('x', 'y'):
        (path / part).write_bytes(bytes(5))
    else:
      path.write_bytes(bytes(10))
    os.utime(path, (1e9 - age, 1e9 - age))
    return path

  def _drop(self, max_bytes):
    caches.drop_oldest(list(self.directory.iterdir()), max_bytes)
    return sorted(self.names())

  @parameterized.parameters(True, False)
  def test_those_used_longest_ago_make_room(self, is_folder):
    for age, name in enumerate('dcba'):
      self._entry(name, age, is_folder)
    self.assertEqual(self._drop(40), ['a', 'b', 'c', 'd'])
    self.assertEqual(self._drop(39), ['b', 'c', 'd'])
    self.assertEqual(self._drop(20), ['c', 'd'])

  def test_the_newest_stays_however_large(self):
    for age, name in enumerate('ba'):
      self._entry(name, age)
    self.assertEqual(self._drop(1), ['b'])

  def test_one_that_was_used_again_stays(self):
    for age, name in enumerate('cba'):
      path = self._entry(name, age)
    caches.hold(path)
    self.assertEqual(self._drop(10), ['a'])

  @parameterized.parameters(True, False)
  def test_what_another_process_holds_stays(self, is_folder):
    for age, name in enumerate('cba'):
      path = self._entry(name, age, is_folder)
    with subprocess.Popen(
      [sys.executable, '-c', _HOLD, path],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
    ) as process:
      process.stdout.readline()
      os.utime(path, (0, 0))  # the oldest, as by a wrong clock
      self.assertEqual(self._drop(20), ['a', 'c'])
      process.stdin.close()
    self.assertEqual(self._drop(10), ['c'])

  def test_what_cannot_be_held_or_is_gone_is_left(self):
    caches.hold(self.directory / 'missing')
    caches.drop_oldest([self.directory / 'missing'], 0)


if __name__ == '__main__':
  absltest.main()
