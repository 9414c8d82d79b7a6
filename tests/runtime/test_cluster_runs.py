"""Tests of runs of several processes: stopped, killed, and as exact as one."""

import os
import pathlib
import signal
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
from tests.runtime import process_case
from tests.runtime import test_torture

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
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
from ldc_vae import run as run_lib
from ldc_vae.runtime import cluster
cluster.HEARTBEAT = 12
restore = run_lib.Run.restore_trained

def restore_and_say(*args):
  restored = restore(*args)
  print('evaluating', flush=True)
  time.sleep({seconds})
  return restored

run_lib.Run.restore_trained = restore_and_say
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

_NUM_STEPS = 20


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
    experiment.dataset.images['train'],
    config.train.batch_size,
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
    # float32 sums of 32 images in another order, 1e-7, through 20 steps; found
    # were 3e-7 in `vae`, and in `ldc` 1.4e-5, which are 6e-7 with Adam: Muon
    # scales the smallest directions of an update to the size of the largest
    np.testing.assert_allclose(
      actual[name],
      expected[name],
      rtol=0.0,
      atol=(1e-4 if method == 'ldc' else 1e-5) * largest,
      err_msg=f'{method} {name}',
    )
    difference = np.abs(actual[name] - expected[name]).max()
    worst = max(worst, difference / largest if difference else 0.0)
  print(f'{method}: they differ by {worst:.1e} of the largest at most')


class StopTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.dir = self.create_tempdir().full_path

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
    with process_case.Processes(2, self.dir, before=_COMPILE_FOR_EVER) as run:
      run.await_line('(?m)^compiling$')
      self._stop(run, signum, which)
      for text in run.printed:
        self.assertIn(
          'in the middle of its work: the same command continues', text
        )
    self.assertEmpty(os.listdir(pathlib.Path(self.dir) / 'checkpoints'))

  @parameterized.parameters((signal.SIGTERM, 1), (signal.SIGINT, 0))
  @pytest.mark.slow
  def test_a_compilation_may_be_stopped_and_one_process_goes_on(
    self, signum, which
  ):
    argv = [f'--config.train.num_steps={_NUM_STEPS}']
    with mock.patch.dict(os.environ, JAX_ENABLE_COMPILATION_CACHE='false'):
      with process_case.Processes(
        2, self.dir, before=_COMPILE, argv=argv
      ) as run:
        run.await_line('(?m)^compiling$')
        self._stop(run, signum, which)
    # where it ends in time, its step is done and saved
    saved = os.listdir(pathlib.Path(self.dir) / 'checkpoints')
    self.assertIn(saved, ([], ['1']))
    with process_case.Processes(1, self.dir, _TRAIN, argv=argv) as run:
      self.assertEqual(run.wait(), [0], run.printed)
    step, values = process_case.final_values(self.dir)
    self.assertEqual(step, _NUM_STEPS)
    expected = _trained(config_lib.read(self.dir), 1)
    _assert_close(values, expected, 'ldc')

  @pytest.mark.slow
  def test_an_evaluation_may_be_stopped_and_is_that_of_one_process(self):
    workdir = pathlib.Path(self.dir) / 'run'
    argv = [f'--config.train.num_steps={_NUM_STEPS}']

    def pair(before):
      return process_case.Processes(
        2, workdir, before=before, devices=2, argv=argv
      )

    with pair(_EVALUATE.format(seconds=0)) as run:
      run.await_line('(?m)^evaluating$')
      self._stop(run, signal.SIGTERM, 1)
    trained, values = process_case.final_values(workdir)
    self.assertEqual(trained, _NUM_STEPS)
    for victim in 0, 1:
      with pair(_EVALUATE.format(seconds=30)) as run:
        run.await_line('(?m)^evaluating$')
        run.running[victim].kill()
        start = time.monotonic()
        code = run.wait(60)[1 - victim]
        self.assertEqual(code, (-signal.SIGABRT, 1)[victim], run.printed)
        self.assertLess(time.monotonic() - start, 30.0)
        self.assertIn(process_case.DEATHS[victim], run.printed[1 - victim])
    self.assertFalse((workdir / 'results.json').exists())
    with pair(_BLIND) as run:  # process 0 alone needs the workdir
      self.assertEqual(run.wait(), [0, 0], run.printed)
    step, unchanged = process_case.final_values(workdir)
    self.assertEqual(step, trained)
    for name, value in values.items():
      np.testing.assert_array_equal(unchanged[name], value, err_msg=name)
    of_two = test_torture.outcome(workdir)
    self.assertIsNotNone(of_two['results']['frechet_classifier/generator'])
    for name in 'results.json', 'samples.npz', 'report.html':
      (workdir / name).unlink()
    flags = ['--mode=evaluate']
    with process_case.Processes(1, workdir, argv=flags, config=False) as run:
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
    with process_case.Processes(2, directory, _TRAIN, before=late) as run:
      self.assertEqual(run.wait(), [0, 0], run.printed)


class TrainTest(parameterized.TestCase):
  def _assert_same_as_here(self, method, count, devices, here, fields=()):
    """Trains in `count` processes, and in this one on `here` devices each."""
    directory = self.create_tempdir().full_path
    argv = [
      f'--config=configs/digits.py:{method},debug',
      f'--config.train.num_steps={_NUM_STEPS}',
      *fields,
    ]
    with process_case.Processes(
      count, directory, _TRAIN, devices=devices, argv=argv
    ) as run:
      self.assertEqual(run.wait(), [0] * count, run.printed)
    step, actual = process_case.final_values(directory)
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
      '--config=configs/digits.py:ldc,debug',
      '--config.train.num_steps=300',
      '--config.train.checkpoint_every=50',
    ]

    def pair(name):
      return process_case.Processes(2, directory / name, devices=2, argv=argv)

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
    saved, _ = process_case.final_values(directory / 'parts')
    self.assertNotEqual(saved % 50, 0)  # where it was stopped
    for victim, step in ((0, 110), (1, 210)):
      with pair('parts') as run:
        run_to(run, step)
        start = time.monotonic()
        run.running[victim].kill()
        code = run.wait(100)[1 - victim]
        self.assertEqual(code, (-signal.SIGABRT, 1)[victim], run.printed)
        self.assertLess(time.monotonic() - start, 60.0)
        self.assertIn(process_case.DEATHS[victim], run.printed[1 - victim])
    with pair('parts') as run:
      self.assertEqual(run.wait(), [0, 0], run.printed)
    whole, parts = (
      test_torture.outcome(directory / name) for name in ('whole', 'parts')
    )
    for name, value in whole.items():
      self.assertEqual(parts[name], value, name)


if __name__ == '__main__':
  absltest.main()
