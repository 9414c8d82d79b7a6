"""Tests of several processes, and of signals and deaths, with real ones."""

import contextlib
import fnmatch
import gc
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import step as step_lib
from ldc_vae.data import datasets
from ldc_vae.runtime import manifest
from ldc_vae.runtime import metric_writer
from ldc_vae.runtime import processes
from tests import device_case
from tests.runtime import test_torture

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_NUM_STEPS = 20

# A run of nothing but steps, to the command line's own handling of its end.
_STEPS = """
import sys, time
from ldc_vae import main
from ldc_vae.runtime import processes
import jax, numpy as np

def job(*unused):
  sum_fn = jax.pmap(lambda x: jax.lax.psum(x, 'i'), axis_name='i')
  with processes.watch() as watch, watch.stepping(10**6):
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
from ldc_vae import main
from ldc_vae.runtime import processes

def job(*unused):
  if not processes.is_first():
    raise ValueError('dataset.path=x is empty')
  processes.barrier('never')

main._JOBS['train'] = job
"""

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

# Compiles the train step, as long as it takes.
_COMPILE = """
from ldc_vae import step
train_step = step.train_step

def slow_train_step(*args, **kwargs):
  print('compiling', flush=True)
  return train_step(*args, **kwargs)

step.train_step = slow_train_step
"""

# Compiles it for ever: a mutex that is locked twice hears no signal.
_COMPILE_FOR_EVER = """
import ctypes
from ldc_vae import step

def slow_train_step(*unused_args, **unused_kwargs):
  print('compiling', flush=True)
  mutex = ctypes.create_string_buffer(256)
  for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(mutex)

step.train_step = slow_train_step
"""

# Says when it evaluates, for so many seconds more; a death is noticed early.
_EVALUATE = """
import time
from ldc_vae import evaluate
from ldc_vae.runtime import processes
processes.SILENCE = 8.0
restore = evaluate._restore

def restore_and_say(*args):
  restored = restore(*args)
  print('evaluating', flush=True)
  time.sleep({seconds})
  return restored

evaluate._restore = restore_and_say
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

# Process 1 sees nothing of the workdir, and could not make it.
_BLIND = """
import sys
if sys.argv[-1] == '--process_id=1':
  sys.argv = ['--workdir=/proc/none/run' if x.startswith('--workdir') else x
              for x in sys.argv]
"""

# Trains without the evaluation.
_TRAIN = """
from ldc_vae import evaluate
evaluate.evaluate = lambda *args, **kwargs: None
"""


class Processes:
  """The processes of one run on this machine, and what they print."""

  def __init__(
      self, count, workdir, program='', *, devices=1, argv=(), before='',
      config=True,
  ):
    """Starts `count` processes.

    Args:
      count: How many.
      workdir: Of the run.
      program: Code before the command line is run; '' for the real thing.
      devices: Emulated devices of each.
      argv: Further flags.
      before: Code before that.
      config: Whether to give one, by default that of digits.
    """
    flags = [f'--workdir={workdir}', *argv]
    if config and not any(flag.startswith('--config=') for flag in argv):
      flags.append('--config=configs/digits.py:ldc,debug')
    if count > 1:
      with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
      flags += [
          f'--coordinator_address=localhost:{port}', f'--num_processes={count}'
      ]
    env = dict(
        os.environ,
        NPROC='32',
        JAX_PLATFORMS='cpu',
        XLA_FLAGS=device_case.xla_flags(devices),
        PYTHONPATH=str(_ROOT),
    )
    code = f'{before}\n{program}\nfrom ldc_vae import main\nmain.run()\n'
    self.printed = ['' for _ in range(count)]
    self.running = []
    for index in range(count):
      own = [*flags, f'--process_id={index}'] if count > 1 else flags
      self.running.append(
          subprocess.Popen(
              [sys.executable, '-c', code, *own],
              cwd=_ROOT,
              env=env,
              stdout=subprocess.PIPE,
              stderr=subprocess.STDOUT,
              text=True,
          )
      )
    self._readers = [
        threading.Thread(target=self._read, args=(index,), daemon=True)
        for index in range(count)
    ]
    for reader in self._readers:
      reader.start()

  def __enter__(self):
    return self

  def __exit__(self, *unused_exc_info):
    for process in self.running:
      process.kill()
      process.wait()
      process.stdout.close()

  def await_line(self, pattern, seconds=120):
    """Waits until every process has printed a line with `pattern`."""
    deadline = time.monotonic() + seconds
    while not all(re.search(pattern, text) for text in self.printed):
      if time.monotonic() > deadline or all(
          process.poll() is not None for process in self.running
      ):
        raise AssertionError(f'no {pattern!r} in {self.printed}')
      time.sleep(0.02)

  def wait(self, seconds=600):
    """Waits for all to end; returns their exit codes."""
    deadline = time.monotonic() + seconds
    codes = [
        process.wait(max(deadline - time.monotonic(), 0.01))
        for process in self.running
    ]
    for reader in self._readers:
      reader.join(10)
    return codes

  def _read(self, index):
    with contextlib.suppress(ValueError):  # closed in the middle
      for line in self.running[index].stdout:
        self.printed[index] += line


def final_values(workdir):
  """The step and the leaves, by name, of the newest checkpoint."""
  directory = pathlib.Path(workdir) / 'checkpoints'
  step = max(int(path.name) for path in directory.iterdir()
             if path.name.isdecimal())
  path = directory / str(step)
  return step, manifest.read_values(path, manifest.read(path))


def _trained(config, num_devices):
  """The leaves after training in this process on some of its devices."""
  experiment = experiment_lib.create(config)
  train_step = step_lib.pmap_train_step(
      experiment_lib.make_train_step(
          config, experiment.algorithm, experiment.txs, experiment.num_steps
      ),
      num_devices,
  )
  state = experiment.init_state()
  batches = datasets.train_batches(
      experiment.dataset.images['train'], config.train.batch_size,
      seed=config.seed,
  )
  for _ in range(_NUM_STEPS):
    images = next(batches)
    images = images.reshape(num_devices, -1, *images.shape[1:])
    state, _ = train_step(state, images, experiment.key)
    jax.block_until_ready(state)
  return manifest.to_host(state)[0]


def _assert_close(actual, expected, method):
  """Weights, their averages and moments agree to the rounding of sums."""
  compared = [x for x in expected if 'params.' in x or x.startswith('stats.')]
  assert any('ema_params' in name for name in compared)
  worst = 0.0
  for name in compared:
    largest = np.abs(expected[name]).max()
    # float32 sums of 32 images in another order, 1e-7, through 20 steps of
    # Adam; found were 1e-6 in `ldc` and 3e-7 in `vae`
    np.testing.assert_allclose(
        actual[name], expected[name], rtol=0.0, atol=1e-5 * largest,
        err_msg=f'{method} {name}',
    )
    difference = np.abs(actual[name] - expected[name]).max()
    worst = max(worst, difference / largest if difference else 0.0)
  print(f'{method}: they differ by {worst:.1e} of the largest at most')


class StopTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.dir = self.create_tempdir().full_path

  @parameterized.parameters((signal.SIGTERM, 1), (signal.SIGINT, 0))
  def test_a_signal_to_one_process_stops_all_at_one_step(self, signum, which):
    with Processes(2, self.dir, _STEPS) as run:
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

  def test_a_signal_ends_a_process_that_is_inside_a_library(self):
    short = 'from ldc_vae.runtime import processes\nprocesses.GRACE = 1.0'
    with Processes(1, self.dir, _BUSY, before=short) as run:
      run.await_line('running')
      run.running[0].send_signal(signal.SIGTERM)
      start = time.monotonic()
      codes = run.wait(30)
      self.assertLess(time.monotonic() - start, 10.0)
    self.assertEqual(codes, [143])
    self.assertIn('interrupted: stopped by SIGTERM in the middle', *run.printed)
    self.assertLess(processes.GRACE, 9.0)

  @parameterized.parameters(0.0, 0.2)
  def test_a_signal_is_not_lost_where_python_drops_exceptions(self, seconds):
    # within the hook that is told of them, the thread has its turn
    real_wake = processes.Watch._wake

    def wake(watch):
      real_wake(watch)
      time.sleep(seconds)

    sent = []

    def callback(unused_phase, unused_info):
      if not sent:
        sent.append(None)
        signal.raise_signal(signal.SIGINT)

    with absltest.mock.patch.object(processes, 'GRACE', 60.0):
      with absltest.mock.patch.object(processes.Watch, '_wake', wake):
        start = time.monotonic()
        with self.assertRaises(KeyboardInterrupt):
          with processes.watch():
            gc.callbacks.append(callback)
            self.addCleanup(gc.callbacks.remove, callback)
            gc.collect()
            for _ in range(2000):  # a signal just before a sleep outlasts it
              time.sleep(0.01)
    self.assertLen(sent, 1)
    self.assertLess(time.monotonic() - start, 5.0)

  def test_a_signal_at_the_end_of_a_watch_leaves_nothing_behind(self):
    before = [signal.getsignal(signum) for signum in processes._SIGNALS]
    real_stop, threads = processes.Watch.stop_thread, threading.active_count()

    def stop(watch):
      if not watch.has_late_signal:
        signal.raise_signal(signal.SIGTERM)
      real_stop(watch)

    with absltest.mock.patch.object(processes.Watch, 'stop_thread', stop):
      with self.assertRaises(SystemExit) as raised:
        with processes.watch():
          pass
    self.assertEqual(raised.exception.code, 143)
    after = [signal.getsignal(signum) for signum in processes._SIGNALS]
    self.assertEqual(after, before)
    self.assertEqual(threading.active_count(), threads)
    self.assertIsNone(processes._active)

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
        '--config.train.validate_every=7', '--config.train.checkpoint_every=20',
    ]
    folder = pathlib.Path(self.dir)

    def run(workdir, code, before=''):
      with Processes(1, folder / workdir, argv=argv, before=before) as run:
        run.await_line('signal at' if before else '')
        start = time.monotonic()
        self.assertEqual(run.wait(), [code], run.printed)
      return time.monotonic() - start, run.printed[0]

    with mock.patch.dict(os.environ, LDC_VAE_CACHE=str(folder / 'cache')):
      run('whole', 0)
      shutil.rmtree(folder / 'cache')
      before = _SIGNAL.format(owner=owner, name=name, call=call, sig=signame)
      seconds, printed = run(
          'parts', 128 + getattr(signal, signame), before
      )
      self.assertLess(seconds, 10.0)
      self.assertRegex(printed, '(?m)^interrupted.*same command continues')
      self.assertNotRegex(printed, 'Traceback|terminate called')
      self.assertEqual(final_values(folder / 'parts')[0], saved)
      run('parts', 0)
    whole, parts = (
        test_torture.outcome(folder / name) for name in ('whole', 'parts')
    )
    del whole['checkpoints'], parts['checkpoints']  # one more, of the stop
    self.assertEqual(parts, whole)

  def test_a_run_stops_when_what_started_it_has_died(self):
    run = '''
import os, time
from ldc_vae.runtime import processes
with processes.watch():
  print(os.getpid(), flush=True)
  try:
    time.sleep(60)
  finally:
    print('stopped', flush=True)
'''
    starter = f'''
import sys
from ldc_vae.runtime import jobs
jobs.run_all([jobs.Job('run', (sys.executable, '-c', {run!r}))], 1)
'''
    with subprocess.Popen(
        (sys.executable, '-c', starter),
        cwd=_ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:
      self.assertGreater(int(process.stdout.readline()), 0)
      process.kill()
      start = time.monotonic()
      # until the run, too, has closed its end
      self.assertEqual(process.stdout.read(), 'stopped\n')
    self.assertLess(time.monotonic() - start, 10.0)

  def _stop(self, run, signum, which):
    """Stops a pair by a signal to one of its processes."""
    run.running[which].send_signal(signum)
    start = time.monotonic()
    codes = run.wait(60)
    self.assertLess(time.monotonic() - start, 10.0)
    self.assertEqual(codes, [128 + signum] * 2, run.printed)
    for text in run.printed:
      self.assertNotIn('Traceback', text)
      self.assertRegex(text, '(?m)^interrupted')

  @parameterized.parameters((signal.SIGTERM, 0), (signal.SIGINT, 1))
  @pytest.mark.slow
  def test_a_long_compilation_is_ended_and_nothing_saved(self, signum, which):
    with Processes(2, self.dir, before=_COMPILE_FOR_EVER) as run:
      run.await_line('compiling')
      self._stop(run, signum, which)
      for text in run.printed:
        self.assertIn('in the middle of its work: the same command on', text)
    self.assertEmpty(os.listdir(pathlib.Path(self.dir) / 'checkpoints'))

  @parameterized.parameters((signal.SIGTERM, 1), (signal.SIGINT, 0))
  @pytest.mark.slow
  def test_a_compilation_may_be_stopped_and_one_process_goes_on(
      self, signum, which
  ):
    argv = [f'--config.train.num_steps={_NUM_STEPS}']
    with mock.patch.dict(os.environ, JAX_ENABLE_COMPILATION_CACHE='false'):
      with Processes(2, self.dir, before=_COMPILE, argv=argv) as run:
        run.await_line('compiling')
        self._stop(run, signum, which)
    # where it ends in time, its step is done and saved
    saved = os.listdir(pathlib.Path(self.dir) / 'checkpoints')
    self.assertIn(saved, ([], ['1']))
    with Processes(1, self.dir, _TRAIN, argv=argv) as run:
      self.assertEqual(run.wait(), [0], run.printed)
    step, values = final_values(self.dir)
    self.assertEqual(step, _NUM_STEPS)
    expected = _trained(config_lib.read(self.dir), 1)
    _assert_close(values, expected, 'ldc')

  @pytest.mark.slow
  def test_an_evaluation_may_be_stopped_and_is_that_of_one_process(self):
    workdir = pathlib.Path(self.dir) / 'run'
    argv = [f'--config.train.num_steps={_NUM_STEPS}']

    def pair(before):
      return Processes(2, workdir, before=before, devices=2, argv=argv)

    with pair(_EVALUATE.format(seconds=0)) as run:
      run.await_line('evaluating')
      self._stop(run, signal.SIGTERM, 1)
    trained, values = final_values(workdir)
    self.assertEqual(trained, _NUM_STEPS)
    for victim in 0, 1:
      with pair(_EVALUATE.format(seconds=30)) as run:
        run.await_line('evaluating')
        run.running[victim].kill()
        start = time.monotonic()
        self.assertEqual(run.wait(60)[1 - victim], 1, run.printed)
        self.assertLess(time.monotonic() - start, 30.0)
        self.assertIn(f'process {victim} of 2 has', run.printed[1 - victim])
    self.assertFalse((workdir / 'results.json').exists())
    with pair(_BLIND) as run:  # process 0 alone needs the workdir
      self.assertEqual(run.wait(), [0, 0], run.printed)
    step, unchanged = final_values(workdir)
    self.assertEqual(step, trained)
    for name, value in values.items():
      np.testing.assert_array_equal(unchanged[name], value, err_msg=name)
    of_two = test_torture.outcome(workdir)
    self.assertIsNotNone(of_two['results']['frechet_classifier/generator'])
    for name in 'results.json', 'samples.npz', 'report.html':
      (workdir / name).unlink()
    flags = ['--mode=evaluate']
    with Processes(1, workdir, argv=flags, config=False) as run:
      self.assertEqual(run.wait(), [0], run.printed)
    of_one = test_torture.outcome(workdir)
    devices = [x['results'].pop('protocol/device') for x in (of_two, of_one)]
    self.assertEqual([x.partition(' ')[0] for x in devices], ['4', '1'])
    self.assertEqual(of_one, of_two)


class SlowProcessTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_process_may_be_late_to_the_first_step(self):
    late = """
import sys, time
from ldc_vae import experiment
init_state = experiment.Experiment.init_state
def slow_init_state(self):
  state = init_state(self)
  if sys.argv[-1] == '--process_id=1':
    time.sleep(45)  # devices wait for 30 seconds
  return state
experiment.Experiment.init_state = slow_init_state
"""
    directory = self.create_tempdir().full_path
    with Processes(2, directory, _TRAIN, before=late) as run:
      self.assertEqual(run.wait(), [0, 0], run.printed)


class DeathTest(parameterized.TestCase):

  @parameterized.parameters(0, 1)
  def test_the_other_ends_with_one_sentence(self, victim):
    # waiting less than users' runs do; that theirs is short enough, below
    short = 'from ldc_vae.runtime import processes\nprocesses.SILENCE = 8.0'
    with Processes(
        2, self.create_tempdir().full_path, _STEPS, before=short
    ) as run:
      run.await_line('running')
      run.running[victim].kill()
      start = time.monotonic()
      codes = run.wait(60)
      self.assertLess(time.monotonic() - start, 30.0)
    self.assertEqual(codes[victim], -signal.SIGKILL)
    self.assertEqual(codes[1 - victim], 1, run.printed)
    self._assert_one_sentence(
        run.printed[1 - victim], f'process {victim} of 2 has died'
    )
    self.assertLess(processes.SILENCE, 50.0)

  def test_a_host_that_falls_silent_is_noticed(self):
    # process 0 holds the coordinator, whose answers the other one waits for
    short = 'from ldc_vae.runtime import processes\nprocesses.SILENCE = 8.0'
    with Processes(
        2, self.create_tempdir().full_path, _STEPS, before=short
    ) as run:
      run.await_line('running')
      run.running[0].send_signal(signal.SIGSTOP)
      start = time.monotonic()
      self.assertEqual(run.running[1].wait(60), 1, run.printed)
      self.assertLess(time.monotonic() - start, 30.0)
      run._readers[1].join(10)
      self._assert_one_sentence(
          run.printed[1], 'process 0 of 2 has died, or cannot be reached'
      )

  def test_a_failure_is_told_to_the_others(self):
    with Processes(2, self.create_tempdir().full_path, _FAILURE) as run:
      self.assertEqual(run.wait(60), [2, 2], run.printed)
    self._assert_one_sentence(
        run.printed[0],
        'process 1 of 2 has failed: ValueError: dataset.path=x is empty',
    )

  def _assert_one_sentence(self, printed, part):
    lines = [
        line
        for line in printed.splitlines()
        if not line.startswith(('[Gloo]', 'running'))
    ]
    self.assertLen(lines, 1, printed)
    self.assertStartsWith(lines[0], 'error (process ')
    self.assertIn(part, lines[0])


class TrainTest(parameterized.TestCase):

  def _assert_same_as_here(self, method, count, devices, here, fields=()):
    """Trains in `count` processes, and in this one on `here` devices each."""
    directory = self.create_tempdir().full_path
    argv = [
        f'--config=configs/digits.py:{method},debug',
        f'--config.train.num_steps={_NUM_STEPS}',
        *fields,
    ]
    with Processes(
        count, directory, _TRAIN, devices=devices, argv=argv
    ) as run:
      self.assertEqual(run.wait(), [0] * count, run.printed)
    step, actual = final_values(directory)
    self.assertEqual(step, _NUM_STEPS)
    config = config_lib.read(directory)
    for num_devices in here:
      _assert_close(actual, _trained(config, num_devices), method)

  def test_two_processes_train_as_four_devices(self):
    fewer = '--config.method.num_latent_updates=2'  # and collectives
    self._assert_same_as_here('ldc', 2, 2, (4,), [fewer])

  @parameterized.parameters(
      ('vae', 2, 2), ('ldc', 2, 2), ('vae', 4, 1), ('ldc', 4, 1)
  )
  @pytest.mark.slow
  def test_processes_train_as_devices_do(self, method, count, devices):
    self._assert_same_as_here(method, count, devices, (4, 1))


class ResumeTest(absltest.TestCase):

  @pytest.mark.slow
  def test_a_pair_that_was_stopped_and_killed_ends_bit_identical(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    argv = [
        '--config=configs/digits.py:ldc,debug', '--config.train.num_steps=300',
        '--config.train.checkpoint_every=50',
    ]

    def pair(name):
      return Processes(2, directory / name, devices=2, argv=argv)

    def run_to(run, step):
      rows = directory / 'parts' / 'metrics.jsonl'
      deadline = time.monotonic() + 300
      while time.monotonic() < deadline:
        last = metric_writer.read_metrics(rows)[-1:] if rows.exists() else []
        if last and last[0]['step'] >= step:
          return
        self.assertIsNone(run.running[0].poll(), run.printed)
        time.sleep(0.01)
      self.fail(run.printed)

    with pair('whole') as run:
      self.assertEqual(run.wait(), [0, 0], run.printed)
    with pair('parts') as run:
      run_to(run, 20)
      start = time.monotonic()
      run.running[1].send_signal(signal.SIGTERM)
      self.assertEqual(run.wait(60), [143, 143], run.printed)
      self.assertLess(time.monotonic() - start, 10.0)
    saved, _ = final_values(directory / 'parts')
    self.assertNotEqual(saved % 50, 0)  # where it was stopped
    for victim, step in ((0, 110), (1, 210)):
      with pair('parts') as run:
        run_to(run, step)
        start = time.monotonic()
        run.running[victim].kill()
        self.assertEqual(run.wait(100)[1 - victim], 1, run.printed)
        self.assertLess(time.monotonic() - start, 60.0)
        self.assertIn('has died', run.printed[1 - victim])
        self.assertNotIn('stack trace', run.printed[1 - victim])
    with pair('parts') as run:
      self.assertEqual(run.wait(), [0, 0], run.printed)
    whole, parts = (
        test_torture.outcome(directory / name) for name in ('whole', 'parts')
    )
    for name, value in whole.items():
      self.assertEqual(parts[name], value, name)


class KeepFreedMemoryTest(parameterized.TestCase):

  @parameterized.parameters(
      ('cpu', ['/dev/nvidiactl'], True),  # an accelerator that is not used
      ('', [], True),
      ('', ['/dev/nvidiactl'], False),
      ('cuda', [], False),
  )
  def test_only_where_the_cpu_computes(self, platforms, nodes, expected):
    options = []
    library = absltest.mock.Mock()
    library.mallopt = lambda *option: options.append(option) or 1
    self.enter_context(absltest.mock.patch.dict(
        os.environ, JAX_PLATFORMS=platforms
    ))
    for module, name, value in (
        (processes.glob, 'glob', lambda pattern: [
            node for node in nodes if fnmatch.fnmatch(node, pattern)
        ]),
        (processes.platform, 'libc_ver', lambda: ('glibc', '2.36')),
        (processes.ctypes, 'CDLL', lambda unused_name: library),
    ):
      self.enter_context(absltest.mock.patch.object(module, name, value))
    self.assertEqual(processes.keep_freed_memory(), expected)
    self.assertEqual(bool(options), expected)

  def test_freed_memory_costs_no_page_faults(self):
    if platform.libc_ver()[0] != 'glibc':
      self.skipTest('no glibc')
    code = (
        'import resource, numpy as np\n'
        'from ldc_vae.runtime import processes\n'
        'assert processes.keep_freed_memory()\n'
        'def faults():\n'
        '  np.ones(10**7)\n'  # 80 MB, which glibc would give back
        '  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n'
        'faults()\n'
        'before = faults()\n'
        'print(faults() - before)\n'
    )
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    output = subprocess.run(
        (sys.executable, '-c', code), cwd=_ROOT, env=environment, check=True,
        capture_output=True, text=True,
    ).stdout
    self.assertLess(int(output), 1000)  # of 19,532 pages


class BarrierTest(absltest.TestCase):

  def test_alone_returns_the_value_at_once(self):
    self.assertEqual(processes.barrier('here', {'a': 1}), [{'a': 1}])

  def test_watches_nest(self):
    before = signal.getsignal(signal.SIGTERM)
    with processes.watch() as outer, processes.watch() as inner:
      self.assertIs(outer, inner)
      self.assertNotEqual(signal.getsignal(signal.SIGTERM), before)
    self.assertEqual(signal.getsignal(signal.SIGTERM), before)
    with processes.watch() as another:
      self.assertIsNot(another, outer)


if __name__ == '__main__':
  absltest.main()
