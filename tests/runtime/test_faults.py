"""A run in which one call of the system fails, and the start after it.

As SQLite is tested: https://www.sqlite.org/testing.html, section 3.2.
"""

import builtins
import contextlib
import errno
import io
import os
import random
import threading
from unittest import mock

from absl.testing import absltest

from ldc_vae import errors
from ldc_vae import train
from ldc_vae.runtime import checkpoint_folder
from tests import train_case

_CALLS = (
  'open',
  'fsync',
  'mkdir',
  'rename',
  'replace',
  'rmdir',
  'scandir',
  'unlink',
)


class _File:
  """A file whose reads and writes are counted too."""

  def __init__(self, file, count_fn):
    self._file, self._count_fn = file, count_fn

  def __getattr__(self, name):
    if name in ('read', 'write', 'truncate'):
      self._count_fn(name)
    return getattr(self._file, name)

  def __enter__(self):
    self._file.__enter__()
    return self

  def __exit__(self, *exc_info):
    return self._file.__exit__(*exc_info)

  def __iter__(self):
    return iter(self._file)


class _Faults:
  """Counts the calls that touch a folder, and lets one of them fail."""

  def __init__(self, folder, number=None):
    """Lets call `number` fail, from 1; None lets none."""
    self._folder, self._number = os.fspath(folder), number
    self._lock = threading.Lock()  # a save has a thread of its own
    self.names, self.failed = [], None

  def _count(self, name):
    with self._lock:
      self.names.append(name)
      if len(self.names) == self._number:
        self.failed = name
        raise OSError(errno.EIO, os.strerror(errno.EIO))

  def _is_ours(self, path, dir_fd=None):
    if isinstance(path, int):
      path = os.readlink(f'/proc/self/fd/{path}')
    elif dir_fd is not None:
      path = os.readlink(f'/proc/self/fd/{dir_fd}')
    return os.fspath(path).startswith(self._folder)

  def _call(self, name, real):
    def call(path, *args, dir_fd=None, **kwargs):
      if self._is_ours(path, dir_fd):
        self._count(name)
      if dir_fd is not None:
        kwargs['dir_fd'] = dir_fd
      return real(path, *args, **kwargs)

    return call

  def _open(self, real):
    def open_(path, *args, **kwargs):
      if isinstance(path, int) or not self._is_ours(path):
        return real(path, *args, **kwargs)
      self._count('open')
      return _File(real(path, *args, **kwargs), self._count)

    return open_

  @contextlib.contextmanager
  def active(self):
    """Counts while it is open."""
    open_ = self._open(builtins.open)
    calls = {name: self._call(name, getattr(os, name)) for name in _CALLS}
    with (
      mock.patch.multiple(os, **calls),
      mock.patch.object(builtins, 'open', open_),
      mock.patch.object(io, 'open', open_),
    ):
      yield self


class FaultsTest(train_case.TrainTest):
  def _left_by(self, workdir):
    """What a run left that must not depend on faults."""
    verdicts = checkpoint_folder.verify(workdir / 'checkpoints')
    self.assertTrue(verdicts[-1].ok)
    restored = train_case.final_state(self.config, workdir)
    return restored.step, restored.state, train_case.rows(workdir)

  def _run_with_faults(self, choose_fn):
    """Lets the calls fail whose numbers `choose_fn(their names)` gives."""
    self.config = train_case.load_config(**{'train.checkpoint_every': 4})
    # compiled by now, and the caches are there
    train.train_and_evaluate(self.config, self.dir / 'first')
    with _Faults(self.dir / 'whole').active() as faults:
      train.train_and_evaluate(self.config, self.dir / 'whole')
    step, state, rows = self._left_by(self.dir / 'whole')
    numbers, failed = choose_fn(faults.names), set()
    for number in numbers:
      workdir = self.dir / f'fault_{number}'
      with _Faults(workdir, number).active() as faults:
        try:
          train.train_and_evaluate(self.config, workdir)
        except (OSError, errors.UserError) as error:
          self.assertNotIn('\n', str(error))
      failed.add(faults.failed)
      train.train_and_evaluate(self.config, workdir)
      actual = self._left_by(workdir)
      self.assertEqual((actual[0], actual[2]), (step, rows), number)
      train_case.assert_same(actual[1], state)
      left = [path.name for path in (workdir / 'checkpoints').iterdir()]
      self.assertTrue(all(name.isdecimal() for name in left), left)
    return failed

  def test_the_start_after_a_fault_ends_bit_identical(self):
    generator = random.Random(0)

    def choose(names):
      """Two calls of each kind, or all where there are fewer."""
      numbers = []
      for kind in sorted(set(names)):
        own = [i for i, name in enumerate(names, start=1) if name == kind]
        numbers += generator.sample(own, min(2, len(own)))
      return numbers

    self.assertGreater(len(self._run_with_faults(choose)), 3)


if __name__ == '__main__':
  absltest.main()
