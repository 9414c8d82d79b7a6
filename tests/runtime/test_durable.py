"""Tests of ldc_vae.runtime.durable: power cuts, and links."""

from collections.abc import Iterable
import errno
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from ldc_vae.runtime import metric_writer
from tests.runtime import folder_case
from tests.runtime import power_case
from tests.runtime import rights_case


class PowerCutTest(folder_case.FolderTestCase):
  """Cuts the power before each deletion and each rename."""

  def setUp(self):
    super().setUp()
    self.workdir = self.directory / 'run'
    self.workdir.mkdir()
    self.disk = power_case.Disk(self.workdir)
    self.num_cuts = 0

  def _each_cut(self, check_fn):
    """A function that calls `check_fn` on what a cut leaves, in two ways."""

    def cut():
      for names_synced in (True, False):
        left = self.directory / 'left'
        self.disk.cut(left, names_synced=names_synced)
        check_fn(left)
        shutil.rmtree(left)
      self.num_cuts += 1

    return cut

  def _save_all(self, losses):
    """Saves a checkpoint for each loss, with a row of metrics for each."""
    done = []

    def check(left):
      if not done:
        return
      durable.recover(left / 'checkpoints')  # as the next start does
      whole = [
        verdict.step
        for verdict in checkpoint_folder.verify(left / 'checkpoints')
        if verdict.ok
      ]
      self.assertGreaterEqual(max(whole, default=-1), done[-1])
      rows = checkpoint_folder.read_meta(left / 'checkpoints')['rows']
      self.assertEmpty(metric_writer.damage(left / 'metrics.jsonl', rows))

    with (
      self.disk.watched(self._each_cut(check)),
      metric_writer.MetricWriter(self.workdir / 'metrics.jsonl') as writer,
      checkpoint.Checkpointer(self.workdir / 'checkpoints') as checkpointer,
    ):
      for step, loss in enumerate(losses):
        writer.write(step, {'loss': loss})
        checkpointer.save(
          step,
          {'x': np.full(9, loss), 'y': {'z': np.arange(step)}},
          metrics={'validation/loss': loss},
          meta={'rows': writer.record},
          before_fn=writer.sync,
        )
        checkpointer.wait()
        done.append(step)
      checkpointer.save(  # replaces it
        step,
        {'x': np.zeros(9)},
        metrics={},
        meta={'rows': writer.record},
        before_fn=writer.sync,
      )
    check_end = self._each_cut(check)
    check_end()
    return checkpoint_folder.steps(self.workdir / 'checkpoints')

  def test_the_checkpoint_before_is_always_left(self):
    kept = self._save_all((5.0, 1.0, 4.0, 3.0, 2.0))
    self.assertEqual(kept, [1, 3, 4])
    self.assertGreater(self.num_cuts, 20)

  def test_a_save_that_syncs_nothing_is_found(self):
    with mock.patch.object(durable, 'sync'):
      with self.assertRaises(OSError):  # the assertion, as save's error
        self._save_all((5.0, 1.0, 4.0))

  def test_a_save_that_leaves_its_folder_unsynced_is_found(self):
    real = durable.sync

    def sync(path):
      if pathlib.Path(path).name != 'checkpoints':
        real(path)

    with mock.patch.object(durable, 'sync', sync):
      with self.assertRaises(OSError):
        self._save_all((5.0, 1.0, 4.0))

  def test_a_file_is_the_old_one_or_the_new_one(self):
    path = self.workdir / 'results.json'

    def check(left):
      self.assertIn(
        files.read_json(left / 'results.json'), ({'old': 1}, {'new': 2})
      )

    cut = self._each_cut(check)
    with self.disk.watched(lambda: None):
      files.write_json(path, {'old': 1})
    with self.disk.watched(cut):
      files.write_json(path, {'new': 2})
      cut()
    self.assertEqual(self.num_cuts, 3)


class ReplaceTest(folder_case.FolderTestCase):
  def _folder(self, name, text):
    path = self.directory / name
    path.mkdir()
    (path / 'x').write_text(text)
    return path

  def test_a_folder_is_put_back_where_it_cannot_be_replaced(self):
    old, new = self._folder('a', 'old'), self._folder('b', 'new')
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    with mock.patch.object(os, 'replace', side_effect=error):
      with self.assertRaises(OSError):
        durable.replace(new, old)
    self.assertEqual((old / 'x').read_text(), 'old')
    durable.replace(new, old)
    self.assertEqual((old / 'x').read_text(), 'new')
    self.assertEqual(self.names(), {'a'})

  def test_a_link_is_replaced_and_not_followed(self):
    kept, new = self._folder('kept', 'mine'), self._folder('b', 'new')
    link = self.directory / 'a'
    link.symlink_to(kept)
    durable.replace(new, link)
    self.assertFalse(link.is_symlink())
    self.assertEqual((link / 'x').read_text(), 'new')
    self.assertEqual((kept / 'x').read_text(), 'mine')
    self.assertEqual(self.names(), {'a', 'kept'})

  def test_a_broken_link_and_a_file_are_replaced_and_leave_nothing(self):
    broken, file = self.directory / 'a', self.directory / 'b'
    broken.symlink_to(self.directory / 'missing')
    file.write_text('old')
    for path in (broken, file):
      durable.replace(self._folder('new', 'new'), path)
      self.assertEqual((path / 'x').read_text(), 'new')
    self.assertEqual(self.names(), {'a', 'b'})

  def test_what_killed_processes_left_is_completed(self):
    self._folder('1.replaced', 'old')
    self._folder('2', 'new')
    self._folder('2.replaced', 'old')
    self._folder('3.deleted', 'old')
    durable.recover(self.directory)
    self.assertEqual(self.names(), {'1', '2'})
    self.assertEqual((self.directory / '2' / 'x').read_text(), 'new')

  def test_a_folder_that_cannot_be_synced_passes_and_a_file_does_not(self):
    path = self._folder('a', 'new')
    error = OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    with mock.patch.object(os, 'fsync', side_effect=error):
      durable.sync(path)
      with self.assertRaises(OSError):
        durable.sync(path / 'x')

  def test_a_folder_that_cannot_be_read_passes(self):
    path = self._folder('a', 'new')
    path.chmod(0o333)
    self.addCleanup(path.chmod, 0o755)
    with rights_case.as_nobody(path):
      durable.sync(path)


class LinkTest(folder_case.FolderTestCase):
  """No link of a workdir or a cache that somebody else has made is followed."""

  def setUp(self):
    super().setUp()
    self.kept = self.directory / 'kept'
    self.kept.write_text('mine')

  def test_a_link_is_refused_for_reading_and_writing(self):
    link = self.directory / 'link'
    link.symlink_to(self.kept)
    for mode in ('rb', 'wb', 'ab', 'r+b'):
      with self.assertRaisesRegex(
        durable.FileError, 'link is a link or no regular file; move it away'
      ):
        open(link, mode, opener=durable.opener)
    link.unlink()
    link.symlink_to(self.directory / 'new')
    with self.assertRaises(durable.FileError):
      open(link, 'ab', opener=durable.opener)
    self.assertEqual(self.kept.read_text(), 'mine')
    self.assertEqual(self.names(), {'kept', 'link'})

  def test_a_pipe_is_refused_and_not_waited_for(self):
    pipe = self.directory / 'pipe'
    os.mkfifo(pipe)
    for mode in ('rb', 'ab'):
      with self.assertRaises(durable.FileError):
        open(pipe, mode, opener=durable.opener)

  def test_metrics_do_not_grow_in_another_file(self):
    link = self.directory / 'metrics.jsonl'
    link.symlink_to(self.kept)
    with self.assertRaisesRegex(durable.FileError, 'is a link'):
      metric_writer.MetricWriter(link)
    self.assertEqual(self.kept.read_text(), 'mine')

  def test_checkpoints_are_not_put_into_another_folder(self):
    other = self.directory / 'other'
    (other / '3.deleted').mkdir(parents=True)
    link = self.directory / 'checkpoints'
    link.symlink_to(other)
    with self.assertRaisesRegex(OSError, 'checkpoints is a link to another'):
      checkpoint.Checkpointer(link)
    self.assertTrue((other / '3.deleted').exists())


def _whole_calls(lines: Iterable[str]) -> list[str]:
  """Joins the calls that strace breaks in two where threads overlap.

  Each call stands where it has ended. Its thread is the first word of a line.
  """
  begun: dict[str, str] = {}
  whole = []
  for line in lines:
    thread = line.partition(' ')[0]
    start, is_begun, _ = line.partition(' <unfinished ...>')
    _, is_ended, end = line.partition(' resumed>')
    if is_begun:
      begun[thread] = start
    elif is_ended:
      whole.append(begun.pop(thread) + end)
    else:
      whole.append(line)
  return whole


class SystemCallsTest(absltest.TestCase):
  """The same by the system's own record, where it can be had."""

  @pytest.mark.slow
  def test_all_is_synced_before_anything_is_deleted(self):
    strace = shutil.which('strace')
    if strace is None:
      self.skipTest('strace is missing')
    directory = pathlib.Path(self.create_tempdir().full_path)
    child = textwrap.dedent(f"""
        import numpy as np
        from ldc_vae.runtime import checkpoint
        with checkpoint.Checkpointer({str(directory / 'checkpoints')!r}) as c:
          for step in range(4):
            c.save(step, {{'x': np.ones(9)}}, metrics={{}}, meta={{}})
            c.wait()
    """)
    log = directory / 'log'
    calls = 'fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,rmdir'
    done = subprocess.run(
      (strace, '-f', '-y', '-o', log, '-e', f'trace={calls}')
      + (sys.executable, '-c', child),
      capture_output=True,
      check=False,
      text=True,
    )
    if 'ptrace' in done.stderr:
      self.skipTest('processes cannot be traced')
    self.assertEqual(done.returncode, 0, done.stderr)
    lines = _whole_calls(log.read_text().splitlines())
    (deletion,) = (
      number
      for number, line in enumerate(lines)
      if f'rename("{directory}/checkpoints/1", ' in line
    )
    before = lines[:deletion]
    path = directory / 'checkpoints' / '3'
    renamed = f'rename("{path}.unfinished-tmp", "{path}") = 0'
    (commit,) = (i for i, line in enumerate(before) if renamed in line)
    for each in [path, *path.rglob('*')]:
      written = str(each).replace(str(path), f'{path}.unfinished-tmp')
      synced = rf'fsync\(\d+<{re.escape(written)}>\) += 0'
      self.assertRegex('\n'.join(before[:commit]), synced)
    synced = rf'fsync\(\d+<{re.escape(str(path.parent))}>\) += 0'
    self.assertRegex('\n'.join(before[commit:]), synced)


if __name__ == '__main__':
  absltest.main()
