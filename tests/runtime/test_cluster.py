"""Tests of ldc_vae.runtime.cluster, with real processes."""

import re
import signal
import time

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae.runtime import cluster
from tests.runtime import process_case

# A run of nothing but steps, to the command line's own handling of its end.
_STEPS = """
import sys, time
from ldc_vae import main
from ldc_vae.runtime import signals
import jax, numpy as np

def job(*unused):
  sum_fn = jax.pmap(lambda x: jax.lax.psum(x, 'i'), axis_name='i')
  with signals.watch() as watch, watch.stepping(10**6):
    step = 0
    while watch.begin(step + 1):
      step += 1
      jax.block_until_ready(sum_fn(np.ones((jax.local_device_count(), 1))))
      if step == 3:
        print('running', flush=True)
      time.sleep(0.02)
    print(f'stopped after {step}', flush=True)

main._JOBS['train'] = job
"""

# One process fails, the other waits for it where files are made.
_FAILURE = """
import sys
from ldc_vae import errors
from ldc_vae import main
from ldc_vae.runtime import cluster

def job(*unused):
  if not cluster.is_first():
    raise errors.UserError('dataset.path=x is empty')
  cluster.barrier('never')

main._JOBS['train'] = job
"""


class StopTest(parameterized.TestCase):
  @parameterized.parameters((signal.SIGTERM, 1), (signal.SIGINT, 0))
  def test_a_signal_to_one_process_stops_all_at_one_step(self, signum, which):
    with process_case.Processes(
      2, self.create_tempdir().full_path, _STEPS
    ) as run:
      run.await_line('running')
      run.running[which].send_signal(signum)
      start = time.monotonic()
      codes = run.wait(60)
      self.assertLess(time.monotonic() - start, 10.0)
    self.assertEqual(codes, [128 + signum] * 2, run.printed)
    steps = [re.findall(r'stopped after (\d+)', x) for x in run.printed]
    self.assertLen(steps[0], 1, run.printed)
    self.assertEqual(steps[0], steps[1])
    for text in run.printed:
      self.assertIn('the same command continues', text)
      self.assertNotIn('Traceback', text)


def _assert_one_sentence(case, printed, part):
  """Asserts that a process has printed one error, with these words."""
  lines = [
    line
    for line in printed.splitlines()
    if not line.startswith(('[Gloo]', 'running'))
  ]
  case.assertLen(lines, 1, printed)
  case.assertStartsWith(lines[0], 'error (process ')
  case.assertIn(part, lines[0])


# Users' runs wait longer; that theirs wait short enough is tested below.
_SHORT = 'from ldc_vae.runtime import cluster\ncluster.HEARTBEAT = 24'


class DeathTest(parameterized.TestCase):
  def _kill(self, victim, signum):
    """Returns the exit code of the other process, and what it printed."""
    with process_case.Processes(
      2, self.create_tempdir().full_path, _STEPS, before=_SHORT
    ) as run:
      run.await_line('running')
      run.running[victim].send_signal(signum)
      start = time.monotonic()
      other = 1 - victim
      code = run.running[other].wait(60)
      self.assertLess(time.monotonic() - start, 30.0)
      run.await_end(other)
    return code, run.printed[other]

  @parameterized.parameters((1, signal.SIGKILL), (0, signal.SIGSTOP))
  def test_the_other_process_ends_with_a_sentence(self, victim, signum):
    code, printed = self._kill(victim, signum)
    self.assertEqual(code, 1, printed)
    _assert_one_sentence(
      self, printed, f'process {victim} of 2 has died, or does not answer'
    )

  def test_without_the_coordinator_jax_ends_the_other(self):
    code, printed = self._kill(0, signal.SIGKILL)
    self.assertEqual(code, -signal.SIGABRT)
    self.assertIn(process_case.DEATHS[0], printed)

  def test_a_death_is_noticed_within_a_minute(self):
    self.assertLessEqual(cluster.HEARTBEAT + 10, 60)


class FailureTest(absltest.TestCase):
  def test_a_failure_is_reported_to_the_others(self):
    with process_case.Processes(
      2, self.create_tempdir().full_path, _FAILURE
    ) as run:
      self.assertEqual(run.wait(60), [2, 2], run.printed)
    _assert_one_sentence(
      self,
      run.printed[0],
      'process 1 of 2 has failed: dataset.path=x is empty',
    )


class BarrierTest(absltest.TestCase):
  def test_alone_returns_the_value_at_once(self):
    self.assertEqual(cluster.barrier('here', {'a': 1}), [{'a': 1}])


if __name__ == '__main__':
  absltest.main()
