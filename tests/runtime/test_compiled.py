"""Tests of ldc_vae.runtime.compiled."""

import os
import stat
import subprocess
import sys
import textwrap
from unittest import mock
import warnings

from absl.testing import absltest
import jax

from ldc_vae.runtime import compiled
from tests.runtime import folder_case

_PROGRAM = textwrap.dedent("""
    import pathlib, sys
    import jax
    import jax.numpy as jnp
    from ldc_vae.runtime import compiled
    compiled.use_cache(pathlib.Path(sys.argv[1]))
    @jax.jit
    def some_program(x):
      return jnp.sin(x) + 1
    print(float(some_program(0.0)))
""")


class UseCacheTest(folder_case.FolderTestCase):
  def setUp(self):
    super().setUp()
    self.cache = self.directory / 'cache' / 'xla'
    self.update = self.enter_context(mock.patch.object(jax.config, 'update'))
    self.enter_context(warnings.catch_warnings())  # puts the function back

  def _mode(self):
    return stat.S_IMODE(self.cache.stat().st_mode)

  def test_it_is_private(self):
    compiled.use_cache(self.cache)
    self.assertEqual(self._mode(), 0o700)
    self.cache.chmod(0o777)
    compiled.use_cache(self.cache)
    self.assertEqual(self._mode(), 0o700)
    self.update.assert_any_call('jax_compilation_cache_dir', str(self.cache))

  def test_that_of_another_user_is_not_used(self):
    self.cache.mkdir(parents=True)
    if os.geteuid() == 0:  # root's own may be used by all
      os.chown(self.cache, 5, 5)
    with mock.patch.object(os, 'geteuid', return_value=7):
      with self.assertLogs('absl', 'WARNING') as logs:
        compiled.use_cache(self.cache)
    self.assertIn('belongs to another user', logs.output[0])
    self.update.assert_not_called()

  def test_a_link_is_not_followed(self):
    other = self.directory / 'other'
    other.mkdir(mode=0o755)
    self.cache.parent.mkdir()
    self.cache.symlink_to(other)
    with self.assertLogs('absl', 'WARNING'):
      compiled.use_cache(self.cache)
    self.assertEqual(stat.S_IMODE(other.stat().st_mode), 0o755)
    self.update.assert_not_called()

  def test_the_oldest_entries_make_room(self):
    self.cache.mkdir(parents=True)
    for age in range(5):
      path = self.cache / f'jit_{age}-0-cache'
      path.write_bytes(bytes(10))
      os.utime(path, (1000 - age, 1000 - age))
    (self.cache / 'notes').write_bytes(bytes(100))
    with mock.patch.object(compiled, '_MAX_BYTES', 30):
      compiled.use_cache(self.cache)
    self.assertEqual(
      {path.name for path in self.cache.iterdir()},
      {'jit_0-0-cache', 'jit_1-0-cache', 'jit_2-0-cache', 'notes'},
    )


class DamagedEntryTest(folder_case.FolderTestCase):
  def _run(self):
    """Runs the program in a new process; returns what it prints on stderr."""
    done = subprocess.run(
      [sys.executable, '-c', _PROGRAM, self.directory / 'xla'],
      capture_output=True,
      check=True,
      text=True,
    )
    self.assertEqual(float(done.stdout), 1.0)
    return done.stderr

  def test_it_is_told_once_and_made_again(self):
    self.assertNotIn('damaged', self._run())
    (path,) = (self.directory / 'xla').glob('jit_some_program-*')
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    self.assertIn('compiling jit_some_program again', self._run())
    self.assertLen(path.read_bytes(), len(whole))
    self.assertEmpty(self._run())


if __name__ == '__main__':
  absltest.main()
