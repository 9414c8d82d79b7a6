"""Tests of ldc_vae.runtime.writer."""

import errno
import io
import json
import os
import subprocess
import sys
import textwrap
import time

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae.runtime import files
from ldc_vae.runtime import writer
from tests.runtime import folder_case


class _Terminal(io.StringIO):

  def isatty(self):
    return True


class ProgressBarTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.now = 100.0
    self.enter_context(
        absltest.mock.patch('time.monotonic', side_effect=lambda: self.now)
    )

  def run_steps(self, file, num_steps=100, seconds=1.0, **kwargs):
    """Runs `num_steps` steps of so many seconds; the first takes 50."""
    with writer.ProgressBar(
        num_steps, batch_size=256, file=file, **kwargs
    ) as progress:
      self.now += 50.0
      for step in range(kwargs.get('initial', 0) + 1, num_steps + 1):
        progress.set_loss(1000.0 / step)
        progress.update(step)
        self.now += seconds

  def test_away_from_a_terminal_a_line_every_ten_seconds(self):
    file = io.StringIO()
    self.run_steps(file)
    lines = file.getvalue().splitlines()
    self.assertLen(lines, 10)  # steps 11, 21, ..., 91 and the last
    self.assertEqual(
        lines[0], 'step 11/100  256 images/s  01:29 left  loss 90.91'
    )
    self.assertEqual(
        lines[-1], 'step 100/100  256 images/s  00:00 left  loss 10'
    )

  def test_first_step_does_not_count(self):
    file = io.StringIO()
    self.run_steps(file, interval=0.0, num_steps=3, initial=1)
    self.assertEqual(
        file.getvalue(), 'step 3/3  256 images/s  00:00 left  loss 333.3\n'
    )

  def test_a_run_of_one_step_says_so(self):
    file = io.StringIO()
    self.run_steps(file, num_steps=1)
    self.assertEqual(file.getvalue(), 'step 1/1  loss 1000\n')

  def test_nothing_to_do_says_nothing(self):
    file = io.StringIO()
    self.run_steps(file, num_steps=5, initial=5)
    self.assertEmpty(file.getvalue())

  def test_terminal_shows_a_bar(self):
    file = _Terminal()
    self.run_steps(file)
    last = file.getvalue().split('\r')[-1]
    self.assertIn('100%', last)
    self.assertIn('100/100', last)
    self.assertIn('256 images/s', last)
    self.assertIn('loss 10', last)
    self.assertEndsWith(file.getvalue(), '\n')

  def test_terminal_is_redrawn_at_most_ten_times_a_second(self):
    file = _Terminal()
    self.run_steps(file, num_steps=1000, seconds=0.001)
    self.assertLess(file.getvalue().count('\r'), 20)

  def test_only_process_0_shows(self):
    file = _Terminal()
    with absltest.mock.patch('jax.process_index', return_value=1):
      self.run_steps(file)
    self.assertEmpty(file.getvalue())


class LockTest(folder_case.FolderTestCase):

  def test_workdir_is_made_and_left_clean(self):
    workdir = self.directory / 'runs' / 'digits'
    with writer.lock_workdir(workdir):
      self.assertTrue(workdir.is_dir())
      (workdir / 'config.json').write_text('{}')
    self.assertEqual([x.name for x in workdir.iterdir()], ['config.json'])

  def test_a_new_workdir_that_stayed_empty_is_taken_away(self):
    workdir = self.directory / 'runs' / 'digits'
    with writer.lock_workdir(workdir):
      pass
    self.assertFalse(workdir.exists())
    workdir.mkdir()
    with writer.lock_workdir(workdir):
      pass
    self.assertTrue(workdir.exists())  # the user's own

  def test_second_is_refused_by_name(self):
    with writer.lock_workdir(self.directory):
      with self.assertRaisesRegex(
          OSError, f'in use by process {os.getpid()} on .*another --workdir'
      ):
        with writer.lock_workdir(self.directory):
          self.fail('entered')

  def test_a_run_and_an_evaluation_do_not_keep_each_other_out(self):
    path = self.directory / writer.EVALUATION_LOCK_NAME
    with writer.lock_workdir(self.directory, path.name):
      with writer.lock_workdir(self.directory):
        pass
      self.assertTrue(path.exists())  # it is held
      with self.assertRaisesRegex(writer.LockedError, 'is being evaluated by'):
        with writer.lock_workdir(self.directory, path.name):
          self.fail('entered')
    self.assertEmpty(self.names())
    path.touch()  # of a process that was killed
    with writer.lock_workdir(self.directory):
      pass
    self.assertEmpty(self.names())

  def test_released_after_an_error(self):
    with self.assertRaises(KeyError):
      with writer.lock_workdir(self.directory):
        raise KeyError('x')
    with writer.lock_workdir(self.directory):
      pass

  def test_other_process_is_refused_until_it_is_killed(self):
    child = textwrap.dedent(f"""
        import time
        from ldc_vae.runtime import writer
        with writer.lock_workdir({str(self.directory)!r}):
          print('locked', flush=True)
          time.sleep(60)
    """)
    with subprocess.Popen(
        [sys.executable, '-c', child], stdout=subprocess.PIPE, text=True
    ) as process:
      self.assertEqual(process.stdout.readline(), 'locked\n')
      with self.assertRaisesRegex(writer.LockedError, str(process.pid)):
        with writer.lock_workdir(self.directory):
          self.fail('entered')
      process.kill()
    self.assertEqual(self.names(), {writer.LOCK_NAME})  # stale
    with writer.lock_workdir(self.directory):
      pass

  def test_another_host_is_refused_as_long_as_it_is_alive(self):
    # on a file system that keeps locks to each host
    self.enter_context(absltest.mock.patch.object(writer, 'BEAT', 0.2))
    child = textwrap.dedent(f"""
        import fcntl, socket, time
        from ldc_vae.runtime import writer
        fcntl.flock = lambda *unused_args: None
        socket.gethostname = lambda: 'elsewhere'
        writer.BEAT = 0.2
        with writer.lock_workdir({str(self.directory)!r}):
          print('locked', flush=True)
          time.sleep(60)
    """)
    with subprocess.Popen(
        [sys.executable, '-c', child], stdout=subprocess.PIPE, text=True
    ) as process:
      self.assertEqual(process.stdout.readline(), 'locked\n')
      with self.assertRaisesRegex(
          writer.LockedError, f'in use by process {process.pid} on elsewhere;'
      ):
        with writer.lock_workdir(self.directory):
          self.fail('entered')
      process.kill()
    with writer.lock_workdir(self.directory):
      pass
    self.assertEmpty(self.names())

  def test_the_lock_tells_who_holds_it_and_that_it_lives(self):
    path = self.directory / writer.LOCK_NAME
    with absltest.mock.patch.object(writer, 'BEAT', 0.01):
      with writer.lock_workdir(self.directory):
        first = json.loads(path.read_bytes())
        self.assertEqual(first['pid'], os.getpid())
        deadline = time.monotonic() + 10
        while json.loads(path.read_bytes()) == first:
          self.assertLess(time.monotonic(), deadline)

  def test_what_a_killed_process_was_writing_is_removed(self):
    (self.directory / '.results.json.0123456789ab.tmp').touch()
    # not ours
    (self.directory / 'notes.tmp').touch()
    (self.directory / '.bash_history-01234.tmp').touch()
    (self.directory / '.x.0123456789ab.tmp').mkdir()
    with writer.lock_workdir(self.directory):
      pass
    self.assertEqual(
        self.names(),
        {'notes.tmp', '.bash_history-01234.tmp', '.x.0123456789ab.tmp'},
    )

  def test_what_is_being_written_is_left_alone(self):
    path = self.directory / 'generated.npz'
    with files.open_atomically(path) as file:
      file.write(b'samples')
      with writer.lock_workdir(self.directory):
        pass
    self.assertEqual(path.read_bytes(), b'samples')
    self.assertEqual(self.names(), {'generated.npz'})

  @parameterized.parameters(True, False)
  def test_where_files_cannot_be_locked_it_warns(self, has_fcntl):
    if has_fcntl:
      error = OSError(errno.ENOLCK, 'No locks available')
      patch = absltest.mock.patch('fcntl.flock', side_effect=error)
    else:
      patch = absltest.mock.patch.object(writer, 'fcntl', None)
    with patch, self.assertLogs('absl', 'WARNING') as logs:
      with writer.lock_workdir(self.directory):
        pass
    self.assertIn('is not protected', logs.output[0])
    self.assertEmpty(self.names())

  def test_file_in_place_of_the_workdir(self):
    path = self.directory / 'file'
    path.touch()
    with self.assertRaisesRegex(OSError, 'cannot be written.*move it away'):
      with writer.lock_workdir(path):
        self.fail('entered')

  def test_error_inside_is_passed_on(self):
    with self.assertRaisesRegex(OSError, '^inside$'):
      with writer.lock_workdir(self.directory):
        raise OSError('inside')

  def test_other_processes_of_the_run_do_not_lock(self):
    with writer.lock_workdir(self.directory):
      with absltest.mock.patch('jax.process_index', return_value=1):
        with writer.lock_workdir(self.directory):
          pass


if __name__ == '__main__':
  absltest.main()
