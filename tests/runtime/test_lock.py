"""Tests of ldc_vae.runtime.lock."""

import errno
import os
import subprocess
import sys
import textwrap
import threading
import time

from absl.testing import absltest

from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from ldc_vae.runtime import lock
from tests.runtime import folder_case


class LockTest(folder_case.FolderTestCase):
  def test_workdir_is_made_and_left_clean(self):
    workdir = self.directory / 'runs' / 'digits'
    with lock.lock_workdir(workdir):
      self.assertTrue(workdir.is_dir())
      (workdir / 'config.json').write_text('{}')
    self.assertEqual([x.name for x in workdir.iterdir()], ['config.json'])

  def test_a_new_workdir_that_stayed_empty_is_taken_away(self):
    workdir = self.directory / 'runs' / 'digits'
    with lock.lock_workdir(workdir):
      pass
    self.assertFalse(workdir.exists())
    workdir.mkdir()
    with lock.lock_workdir(workdir):
      pass
    self.assertTrue(workdir.exists())  # the user's own

  def test_second_is_refused_by_name(self):
    with lock.lock_workdir(self.directory):
      with self.assertRaisesRegex(
        OSError, f'in use by process {os.getpid()} on .*another --workdir'
      ):
        with lock.lock_workdir(self.directory):
          self.fail('entered')

  def test_a_run_and_an_evaluation_do_not_keep_each_other_out(self):
    path = self.directory / lock.EVALUATION_LOCK_NAME
    with lock.lock_workdir(self.directory, path.name):
      with lock.lock_workdir(self.directory):
        pass
      self.assertTrue(path.exists())  # it is held
      with self.assertRaisesRegex(lock.LockedError, 'is being evaluated by'):
        with lock.lock_workdir(self.directory, path.name):
          self.fail('entered')
    self.assertEmpty(self.names())

  def test_a_patient_one_waits(self):
    done = []

    def wait():
      with lock.lock_workdir(self.directory, patient=True):
        done.append(None)

    with lock.lock_workdir(self.directory):
      thread = threading.Thread(target=wait)
      thread.start()
      time.sleep(0.2)
      self.assertEmpty(done)
    thread.join()
    self.assertLen(done, 1)
    self.assertEmpty(self.names())

  def test_a_link_in_place_of_the_lock_is_refused(self):
    target = self.directory / 'notes'
    target.write_text('mine')
    (self.directory / lock.LOCK_NAME).symlink_to(target)
    with self.assertRaises(durable.FileError):
      with lock.lock_workdir(self.directory):
        self.fail('entered')
    self.assertEqual(target.read_text(), 'mine')

  def test_released_after_an_error(self):
    with self.assertRaises(KeyError):
      with lock.lock_workdir(self.directory):
        raise KeyError('x')
    with lock.lock_workdir(self.directory):
      pass

  def test_other_process_is_refused_until_it_is_killed(self):
    child = textwrap.dedent(f"""
        import time
        from ldc_vae.runtime import lock
        with lock.lock_workdir({str(self.directory)!r}):
          print('locked', flush=True)
          time.sleep(60)
    """)
    with subprocess.Popen(
      [sys.executable, '-c', child], stdout=subprocess.PIPE, text=True
    ) as process:
      self.assertEqual(process.stdout.readline(), 'locked\n')
      with self.assertRaisesRegex(lock.LockedError, str(process.pid)):
        with lock.lock_workdir(self.directory):
          self.fail('entered')
      process.kill()
    self.assertEqual(self.names(), {lock.LOCK_NAME})  # stale
    with lock.lock_workdir(self.directory):
      pass

  def test_what_a_killed_process_was_writing_is_removed(self):
    (self.directory / 'figures').mkdir()
    for name in ('.results.json', 'figures/.comparison_samples.png'):
      (self.directory / f'{name}.0123456789ab.tmp').touch()
    # not ours
    (self.directory / 'notes.tmp').touch()
    (self.directory / '.bash_history-01234.tmp').touch()
    (self.directory / '.x.0123456789ab.tmp').mkdir()
    with lock.lock_workdir(self.directory):
      pass
    self.assertEqual(
      self.names(),
      {
        'figures',
        'notes.tmp',
        '.bash_history-01234.tmp',
        '.x.0123456789ab.tmp',
      },
    )
    self.assertEmpty(list((self.directory / 'figures').iterdir()))

  def test_what_is_being_written_is_left_alone(self):
    path = self.directory / 'generated.npz'
    with files.open_atomically(path) as file:
      file.write(b'samples')
      with lock.lock_workdir(self.directory):
        pass
    self.assertEqual(path.read_bytes(), b'samples')
    self.assertEqual(self.names(), {'generated.npz'})

  def test_where_files_cannot_be_locked_it_warns(self):
    error = OSError(errno.ENOLCK, 'No locks available')
    patch = absltest.mock.patch('fcntl.flock', side_effect=error)
    with patch, self.assertLogs('absl', 'WARNING') as logs:
      with lock.lock_workdir(self.directory):
        pass
    self.assertIn('is not protected', logs.output[0])
    self.assertEmpty(self.names())

  def test_file_in_place_of_the_workdir(self):
    path = self.directory / 'file'
    path.touch()
    with self.assertRaisesRegex(OSError, 'cannot be written.*move it away'):
      with lock.lock_workdir(path):
        self.fail('entered')

  def test_error_inside_is_passed_on(self):
    with self.assertRaisesRegex(OSError, '^inside$'):
      with lock.lock_workdir(self.directory):
        raise OSError('inside')

  def test_other_processes_of_the_run_do_not_lock(self):
    with lock.lock_workdir(self.directory):
      with absltest.mock.patch('jax.process_index', return_value=1):
        with lock.lock_workdir(self.directory):
          pass


if __name__ == '__main__':
  absltest.main()
