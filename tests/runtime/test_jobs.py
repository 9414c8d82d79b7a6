"""Tests for commands in processes of their own."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

from absl.testing import absltest

from ldc_vae.runtime import jobs


def _job(name, code, log=None):
  return jobs.Job(name, (sys.executable, '-c', code), log)


class RunAllTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )

  def test_tells_how_each_ended(self):
    ends = {}
    jobs.run_all(
      [
        _job('good', 'print("x" * 3)', self.folder / 'good.log'),
        _job('bad', 'import sys; sys.exit("no")', self.folder / 'bad.log'),
        _job('dead', 'import os; os.kill(os.getpid(), 9)'),
      ],
      1,
      on_end=lambda end: ends.setdefault(end.job.name, end),
    )
    self.assertEqual(
      {name: (end.code, end.output) for name, end in ends.items()},
      {
        'good': (0, 'xxx\n'),
        'bad': (1, 'no\n'),
        'dead': (-signal.SIGKILL, ''),
      },
    )

  def test_a_log_grows_and_the_output_is_what_is_new(self):
    log = self.folder / 'x.log'
    outputs = []
    for word in ('first', 'second'):
      jobs.run_all(
        [_job('x', f'print("{word}")', log)],
        1,
        on_end=lambda end: outputs.append(end.output),
      )
    self.assertEqual(outputs, ['first\n', 'second\n'])
    self.assertEqual(log.read_text(), 'first\nsecond\n')

  def test_two_at_once_wait_for_each_other(self):
    if jobs.num_cores() < 2 or not hasattr(os, 'sched_setaffinity'):
      self.skipTest('one core, or cores that cannot be pinned')
    # each ends when it sees the other: one after the other they never would
    code = (
      'import os, pathlib, sys, time\n'
      'mine, other = map(pathlib.Path, {!r})\n'
      'mine.touch()\n'
      'for _ in range(300):\n'
      '  if other.exists(): break\n'
      '  time.sleep(0.05)\n'
      'else: sys.exit(1)\n'
      'print(*sorted(os.sched_getaffinity(0)))'
    )
    a, b = str(self.folder / 'a'), str(self.folder / 'b')
    ends = []
    jobs.run_all(
      [
        _job('a', code.format((a, b)), self.folder / 'a.log'),
        _job('b', code.format((b, a)), self.folder / 'b.log'),
      ],
      2,
      on_end=ends.append,
    )
    self.assertEqual([end.code for end in ends], [0, 0])
    first, second = (set(end.output.split()) for end in ends)
    self.assertEmpty(first & second)  # each has cores of its own

  def test_what_ends_it_stops_the_commands(self):
    if jobs.num_cores() < 2:
      self.skipTest('one core')
    ends, started = [], time.monotonic()

    def on_end(end):
      ends.append(end)
      if end.job.name == 'short':
        raise KeyboardInterrupt

    log = self.folder / 'long.log'
    with self.assertRaises(KeyboardInterrupt):
      jobs.run_all(
        [
          _job('long', 'import time; time.sleep(60)', log),
          _job('short', ''),
          _job('never', ''),
        ],
        2,
        on_end=on_end,
      )
    self.assertLess(time.monotonic() - started, 30.0)
    self.assertEqual(
      [(end.job.name, end.code) for end in ends],
      [('short', 0), ('long', None)],
    )

  def test_all_have_ended_even_if_on_end_raises(self):
    code = 'import time; time.sleep(60)'
    processes, popen = [], subprocess.Popen

    def on_end(end):
      del end
      raise OSError('disk full')

    def start(*args, **kwargs):
      processes.append(popen(*args, **kwargs))
      return processes[-1]

    with mock.patch.object(jobs, 'core_shares', return_value=[None] * 3):
      with mock.patch.object(jobs.subprocess, 'Popen', start):
        with self.assertRaisesRegex(OSError, 'disk full'):
          jobs.run_all(
            [_job('a', code), _job('b', code), _job('c', '')],
            3,
            on_end=on_end,
          )
    self.assertLen(processes, 3)
    for each in processes:
      self.assertIsNotNone(each.returncode)  # waited for

  def test_the_environment_is_passed_on(self):
    ends = []
    jobs.run_all(
      [_job('x', 'import os; print(os.environ["X_Y"])', self.folder / 'l')],
      1,
      on_end=ends.append,
      env={**os.environ, 'X_Y': 'z'},
    )
    self.assertEqual(ends[0].output, 'z\n')


class CoreSharesTest(absltest.TestCase):
  def test_are_disjoint(self):
    self.assertEqual(jobs.core_shares(1), [None])
    with (
      absltest.mock.patch.object(
        os, 'sched_getaffinity', lambda pid: {3, 1, 2, 0, 7}, create=True
      ),
      absltest.mock.patch.object(
        os, 'sched_setaffinity', lambda pid, cores: None, create=True
      ),
    ):
      self.assertEqual(jobs.core_shares(2), [(0, 1, 2), (3, 7)])

  def test_more_jobs_than_cores_are_refused(self):
    with self.assertRaisesRegex(ValueError, '--jobs=100000 is more than the'):
      jobs.core_shares(100_000)


if __name__ == '__main__':
  absltest.main()
