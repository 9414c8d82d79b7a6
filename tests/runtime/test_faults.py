"""A run in which one call of the system fails, and the start after it.

As SQLite is tested: https://www.sqlite.org/testing.html, section 3.2. The long
form lets each of some 800 calls fail in turn, in parts of some minutes:

  python -m pytest -m slow -s tests/runtime/test_faults.py
"""

import builtins
import collections
import contextlib
import errno
import io
import os
import random
import shutil
import threading
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from ldc_vae import errors
from ldc_vae import train
from tests.runtime import outcome_case

_CALLS = (
  'open',
  'fsync',
  'listdir',
  'mkdir',
  'rename',
  'replace',
  'rmdir',
  'scandir',
  'unlink',
)

_NUM_PARTS = 8  # of the long form


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


class FaultsTest(outcome_case.OutcomeTest):
  def setUp(self):
    super().setUp()
    # a run that was stopped in its middle, with one bad checkpoint
    self.stopped = self.dir / 'stopped'
    shutil.copytree(self.whole, self.stopped)
    path = self.stopped / 'checkpoints' / str(self.config.train.num_steps)
    (path / 'manifest' / 'metadata').write_bytes(b'torn')
    (self.stopped / 'results.json').unlink()

  def _run_with_faults(self, choose_fn, start=None):
    """Lets the calls fail whose numbers `choose_fn(their names)` gives.

    Returns:
      How often each call has failed.
    """
    workdir = self.copy('counted', start)
    with _Faults(workdir).active() as faults:
      train.train_and_evaluate(self.config, workdir)
    shutil.rmtree(workdir)
    failed = collections.Counter()
    for number in choose_fn(faults.names):
      workdir = self.copy(f'fault_{number}', start)
      with _Faults(workdir, number).active() as faults:
        try:
          train.train_and_evaluate(self.config, workdir)
        except (OSError, errors.UserError) as error:
          self.assertNotIn('\n', str(error))
      failed[faults.failed] += 1
      train.train_and_evaluate(self.config, workdir)
      self.assert_as_expected(workdir)
      left = [path.name for path in (workdir / 'checkpoints').iterdir()]
      left = [name for name in left if '.corrupt' not in name]
      self.assertTrue(all(name.isdecimal() for name in left), left)
      shutil.rmtree(workdir)
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

  @parameterized.parameters(*range(_NUM_PARTS))
  @pytest.mark.slow
  def test_no_fault_of_any_call_leaves_a_trace(self, part):
    def choose(names):
      return range(part + 1, len(names) + 1, _NUM_PARTS)

    for what, start in (('a run', None), ('one that goes on', self.stopped)):
      failed = self._run_with_faults(choose, start)
      print(f'{failed.total()} calls of {what} have failed: {dict(failed)}')
      # a save has a thread of its own: the last numbers may not be reached
      self.assertLessEqual(failed[None], 0.05 * failed.total())


if __name__ == '__main__':
  absltest.main()
