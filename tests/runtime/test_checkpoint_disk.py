"""Tests of folders and disks that checkpoints cannot be written to."""

from concurrent import futures
import errno
import json
import resource
import signal
import subprocess
import sys
import textwrap
import threading

from absl.testing import absltest
import numpy as np

from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import manifest
from ldc_vae.runtime import orbax_writer
from tests.runtime import checkpoint_case as case
from tests.runtime import rights_case


class DirectoryTest(case.CheckpointTestCase):
  def test_missing_parent(self):
    with self.assertRaisesRegex(
      manifest.CheckpointError, 'directory .*b cannot be used.*create .*a'
    ):
      checkpoint.Checkpointer(self.directory / 'a' / 'b')

  def test_file_in_its_place(self):
    self.directory.write_text('')
    with self.assertRaisesRegex(manifest.CheckpointError, 'move it away'):
      checkpoint.Checkpointer(self.directory)

  def test_directory_that_cannot_be_written(self):
    self.save(1)
    self.directory.chmod(0o555)
    with (
      self.assertRaisesRegex(
        manifest.CheckpointError,
        r'ckpt cannot be used \(Permission denied\); make .* writable',
      ),
      rights_case.as_nobody(self.directory),
    ):
      checkpoint.Checkpointer(self.directory)
    self.assertEqual([x.name for x in self.directory.iterdir()], ['1'])

  def test_only_what_a_failed_save_left_behind_is_silenced(self):
    shown = absltest.mock.Mock()
    self.enter_context(absltest.mock.patch.object(sys, 'excepthook', shown))
    with self.assertRaises(OSError), orbax_writer._silenced():
      raise OSError('full')
    closed = RuntimeError('Event loop is closed')
    sys.excepthook(RuntimeError, closed, None)
    shown.assert_not_called()
    sys.excepthook(RuntimeError, RuntimeError('else'), None)
    sys.excepthook(OSError, OSError('Event loop is closed'), None)
    self.assertEqual(shown.call_count, 2)
    sys.excepthook = shown
    with orbax_writer._silenced():
      pass
    self.assertIs(sys.excepthook, shown)

  def test_full_disk_keeps_the_last_good_one(self):
    self.directory.mkdir()
    size = 2**20
    options = ('-t', 'tmpfs', '-o', f'size={size}', 'tmpfs')
    mounted = subprocess.run(
      ('mount', *options, self.directory), capture_output=True, check=False
    )
    if mounted.returncode:
      self.skipTest('only root mounts a disk of its own')
    self.addCleanup(
      subprocess.run, ('umount', '-l', self.directory), check=True
    )
    self.save(1)
    noise = np.random.default_rng(0).normal(size=2 * size // 8)
    checkpointer = checkpoint.Checkpointer(self.directory)
    checkpointer.save(2, {'x': noise}, metrics={}, meta={})
    with (
      self.assertNoLogs(level='ERROR'),
      self.assertRaisesRegex(
        manifest.CheckpointError,
        r'^checkpoint 2 could not be saved in .*ckpt \(No space left on'
        r' device\); free some disk space and run again: earlier'
        r' checkpoints are whole$',
      ),
    ):
      checkpointer.wait()
    self.assertEqual([x.name for x in self.directory.iterdir()], ['1'])
    case.assert_identical(
      checkpointer.restore(case.train_state()).state, case.train_state(1)
    )
    checkpointer.close()

  def test_failed_save_surfaces_and_keeps_the_last_good_one(self):
    self.save(1)
    state = {'x': np.random.default_rng(0).normal(size=100_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    checkpointer = checkpoint.Checkpointer(self.directory)
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
      checkpointer.save(2, state, metrics={}, meta={})
      with (
        self.assertNoLogs(level='ERROR'),
        self.assertRaisesRegex(
          OSError, 'checkpoint 2 could not be saved in .*ckpt'
        ) as caught,
      ):
        checkpointer.wait()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
      signal.signal(signal.SIGXFSZ, handler)
    self.assertEqual(caught.exception.errno, errno.EFBIG)
    self.assertNotIn('\n', str(caught.exception))
    self.assertEqual({x.name for x in self.directory.iterdir()}, {'1'})
    self.assertEqual(checkpointer.restore(case.train_state()).step, 1)
    checkpointer.save(2, state, metrics={}, meta={})  # when there is room
    checkpointer.close()
    self.assertEqual(self.steps(), {1, 2})

  def test_a_failure_is_reported_as_soon_as_it_is_asked_for(self):
    checkpointer = checkpoint.Checkpointer(self.directory)
    finish = threading.Event()

    def write(*unused_args, **unused_kwargs):
      finish.wait(10)
      raise OSError(28, 'full')

    self.enter_context(
      absltest.mock.patch.object(orbax_writer, 'write', side_effect=write)
    )
    checkpointer.check()  # nothing to tell
    checkpointer.save(1, {'x': 1}, metrics={}, meta={})
    checkpointer.check()  # nothing yet
    finish.set()
    futures.wait([checkpointer._saving])
    with self.assertRaisesRegex(OSError, 'free some disk space'):
      checkpointer.check()
    checkpointer.check()  # it was told
    checkpointer.close()

  def test_failed_replacement_puts_the_old_one_back(self):
    self.save(1)
    checkpointer = checkpoint.Checkpointer(self.directory)
    self.enter_context(
      absltest.mock.patch.object(
        orbax_writer, 'write', side_effect=OSError(28, 'full')
      )
    )
    checkpointer.save(1, case.train_state(9), metrics={}, meta={})
    with self.assertRaisesRegex(OSError, 'free some disk space'):
      checkpointer.close()
    case.assert_identical(self.restore().state, case.train_state(1))

  def test_kill_during_a_save_leaves_the_last_good_one(self):
    # The child kills itself at the moment when Orbax would commit.
    child = textwrap.dedent(f"""
        import os, signal, sys
        import numpy as np
        from ldc_vae.runtime import checkpoint
        checkpointer = checkpoint.Checkpointer({str(self.directory)!r})
        checkpointer.save(1, {{'x': np.ones(9)}}, metrics={{}}, meta={{}})
        checkpointer.wait()
        def kill(audit_event, args):
          if audit_event == 'os.rename' and str(args[1]).endswith('/2'):
            os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill)
        checkpointer.save(2, {{'x': np.zeros(9)}}, metrics={{}}, meta={{}})
        checkpointer.wait()
    """)
    done = subprocess.run([sys.executable, '-c', child], check=False)
    self.assertEqual(done.returncode, -signal.SIGKILL)
    self.assertLen(list(self.directory.glob('2.*tmp*')), 1)
    with checkpoint.Checkpointer(self.directory) as checkpointer:
      restored = checkpointer.restore({'x': np.zeros(9)})
      self.assertEqual(restored.step, 1)
      np.testing.assert_array_equal(restored.state['x'], np.ones(9))
      checkpointer.save(2, {'x': np.zeros(9)}, metrics={}, meta={})
    self.assertEqual({x.name for x in self.directory.iterdir()}, {'1', '2'})

  def test_save_returns_before_it_has_written(self):
    started = threading.Event()
    finish = threading.Event()

    def write(*unused_args, **unused_kwargs):
      started.set()
      finish.wait(10)

    checkpointer = checkpoint.Checkpointer(self.directory)
    self.enter_context(
      absltest.mock.patch.object(orbax_writer, 'write', side_effect=write)
    )
    checkpointer.save(1, {'x': 1}, metrics={}, meta={})
    self.assertTrue(started.wait(10))
    finish.set()
    checkpointer.close()

  def test_manifest_is_readable_json(self):
    self.save(3)
    path = self.directory / '3' / 'manifest' / 'metadata'
    leaves = json.loads(path.read_text())['leaves']
    self.assertEqual(leaves['params.encoder.kernel']['shape'], [4, 8])
    self.assertEqual(leaves['params.encoder.kernel']['dtype'], 'float32')


if __name__ == '__main__':
  absltest.main()
