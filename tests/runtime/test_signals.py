"""Tests of ldc_vae.runtime.signals."""

import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from ldc_vae.runtime import signals
from tests.runtime import process_case
from tests.runtime import test_torture

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_NUM_STEPS = 20

# The main thread is inside a library and does not come back.
_BUSY = """
import ctypes
import threading
from ldc_vae import main

def job(*unused):
  # Locked twice, it waits for ever, and no signal ends the wait. A thread tells
  # of it only when it has begun: before, Python would handle the signal.
  lock = ctypes.CDLL(None).pthread_mutex_lock
  mutex = ctypes.create_string_buffer(256)
  lock(mutex)
  tell = lambda: print('running', flush=True)
  threading.Timer(0.5, tell).start()
  lock(mutex)

main._JOBS['train'] = job
"""

# Sends itself a signal after some call of a function.
_SIGNAL = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run in nohup
from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier
from ldc_vae.runtime import progress
real, calls = {owner}.{name}, []

def call_and_signal(*args, **kwargs):
  result = real(*args, **kwargs)
  calls.append(None)
  if len(calls) == {call}:
    print('signal at', {call}, flush=True)
    os.kill(os.getpid(), signal.{sig})
  return result

{owner}.{name} = call_and_signal
"""


class StopTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.dir = self.create_tempdir().full_path

  def test_a_signal_ends_a_process_that_is_inside_a_library(self):
    short = 'from ldc_vae.runtime import signals\nsignals.GRACE = 1.0'
    with process_case.Processes(1, self.dir, _BUSY, before=short) as run:
      run.await_line('running')
      run.running[0].send_signal(signal.SIGTERM)
      start = time.monotonic()
      codes = run.wait(30)
      self.assertLess(time.monotonic() - start, 10.0)
    self.assertEqual(codes, [143])
    self.assertIn('interrupted: stopped by SIGTERM in the middle', *run.printed)
    self.assertLess(signals.GRACE, 9.0)

  def test_a_run_stops_when_what_started_it_has_died(self):
    run = """
import os, time
from ldc_vae.runtime import signals
with signals.watch():
  print(os.getpid(), flush=True)
  try:
    time.sleep(60)
  finally:
    print('stopped', flush=True)
"""
    starter = f"""
import sys
from ldc_vae.runtime import jobs
jobs.run_all([jobs.Job('run', (sys.executable, '-c', {run!r}))], 1)
"""
    with subprocess.Popen(
      (sys.executable, '-c', starter),
      cwd=_ROOT,
      stdout=subprocess.PIPE,
      text=True,
    ) as process:
      self.assertGreater(int(process.stdout.readline()), 0)
      process.kill()
      start = time.monotonic()
      # until the run, too, has closed its end
      self.assertEqual(process.stdout.read(), 'stopped\n')
    self.assertLess(time.monotonic() - start, 10.0)

  @parameterized.parameters(
    ('progress.ProgressBar', 'update', 3, 'SIGHUP', 3),
    ('datasets', 'eval_batches', 1, 'SIGTERM', 7),
    # XLA is at work when the interpreter is to end
    ('classifier', '_train_step', 9, 'SIGINT', _NUM_STEPS),
  )
  @pytest.mark.slow
  def test_a_run_that_is_stopped_ends_in_order_and_continues(
    self, owner, name, call, signame, saved
  ):
    argv = [
      f'--config.train.num_steps={_NUM_STEPS}',
      '--config.train.validate_every=7',
      '--config.train.checkpoint_every=20',
    ]
    folder = pathlib.Path(self.dir)

    def run(workdir, code, before=''):
      with process_case.Processes(
        1, folder / workdir, argv=argv, before=before
      ) as run:
        run.await_line('signal at' if before else '')
        start = time.monotonic()
        self.assertEqual(run.wait(), [code], run.printed)
      return time.monotonic() - start, run.printed[0]

    with mock.patch.dict(os.environ, LDC_VAE_CACHE=str(folder / 'cache')):
      run('whole', 0)
      shutil.rmtree(folder / 'cache')
      before = _SIGNAL.format(owner=owner, name=name, call=call, sig=signame)
      seconds, printed = run('parts', 128 + getattr(signal, signame), before)
      self.assertLess(seconds, 10.0)
      self.assertRegex(printed, '(?m)^interrupted.*same command continues')
      self.assertNotRegex(printed, 'Traceback|terminate called')
      self.assertEqual(process_case.final_values(folder / 'parts')[0], saved)
      run('parts', 0)
    whole, parts = (
      test_torture.outcome(folder / name) for name in ('whole', 'parts')
    )
    del whole['checkpoints'], parts['checkpoints']  # one more, of the stop
    self.assertEqual(parts, whole)


class WatchTest(absltest.TestCase):
  def test_watches_nest(self):
    before = signal.getsignal(signal.SIGTERM)
    with signals.watch() as outer, signals.watch() as inner:
      self.assertIs(outer, inner)
      self.assertNotEqual(signal.getsignal(signal.SIGTERM), before)
    self.assertEqual(signal.getsignal(signal.SIGTERM), before)
    with signals.watch() as another:
      self.assertIsNot(another, outer)

  def test_a_signal_between_steps_waits_for_the_step(self):
    done = []
    with self.assertRaises(KeyboardInterrupt):
      with signals.watch() as watch, watch.stepping(9):
        while watch.begin(len(done) + 1):
          done.append(None)
          if len(done) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)  # the first one counts
        self.assertTrue(watch.is_stopping)
        self.assertEqual(watch.exit_code, 130)
    self.assertLen(done, 3)

  def test_processes_that_stop_catch_up_with_the_furthest(self):
    with self.assertRaises(SystemExit):
      with signals.watch() as watch, watch.stepping(9):
        self.assertTrue(watch.begin(4))
        # at first, one of them has yet to say where it is
        watch.others_fn = iter([[None, 5], [6, 5], [6, 5], [6, 5]]).__next__
        signal.raise_signal(signal.SIGTERM)
        self.assertTrue(watch.begin(5))
        self.assertTrue(watch.begin(6))
        self.assertFalse(watch.begin(7))

  def test_no_step_is_done_where_a_process_has_not_begun(self):
    with self.assertRaises(SystemExit):
      with signals.watch() as watch, watch.stepping(9):
        self.assertTrue(watch.begin(4))
        watch.others_fn = lambda: [-1]
        signal.raise_signal(signal.SIGTERM)
        watch.begin(5)
        self.fail('begun')

  def test_a_signal_is_raised_once(self):
    with self.assertRaises(SystemExit) as raised:
      with signals.watch():
        try:
          signal.raise_signal(signal.SIGTERM)
        finally:
          signal.raise_signal(signal.SIGINT)  # must not disturb the cleaning up
    self.assertEqual(raised.exception.code, 143)

  def test_a_signal_is_noted_where_python_drops_exceptions(self):
    sent = []

    def callback(unused_phase, unused_info):
      if not sent:
        sent.append(None)
        signal.raise_signal(signal.SIGINT)

    self.enter_context(mock.patch.object(sys, 'unraisablehook'))
    with signals.watch() as watch:
      gc.callbacks.append(callback)
      self.addCleanup(gc.callbacks.remove, callback)
      gc.collect()
      self.assertLen(sent, 1)
      self.assertTrue(watch.is_stopping)

  def test_a_signal_at_the_end_of_a_watch_leaves_nothing_behind(self):
    before = [signal.getsignal(signum) for signum in signals._SIGNALS]
    num_threads, join = threading.active_count(), threading.Thread.join

    def join_and_signal(thread):
      if thread.name == 'signals':
        signal.raise_signal(signal.SIGTERM)
      join(thread)

    with mock.patch.object(threading.Thread, 'join', join_and_signal):
      with self.assertRaises(SystemExit) as raised:
        with signals.watch():
          pass
    self.assertEqual(raised.exception.code, 143)
    after = [signal.getsignal(signum) for signum in signals._SIGNALS]
    self.assertEqual(after, before)
    self.assertEqual(threading.active_count(), num_threads)
    self.assertIsNone(signals._active)


if __name__ == '__main__':
  absltest.main()
