"""Kills runs at random moments; what resumes must end bit-identical.

The long form kills 50 times, ten times in each phase of a run:

  python -m pytest -m slow -s tests/test_torture.py
"""

import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import manifest
from tests import device_case

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_SECONDS = 600  # of one attempt, on a busy machine
_NUM_STEPS = 120
_SAVE_EVERY = 20
_COMMAND = (
  sys.executable,
  '-m',
  'ldc_vae.main',
  f'--config.train.num_steps={_NUM_STEPS}',
  f'--config.train.checkpoint_every={_SAVE_EVERY}',
  '--config.train.log_every=1',
  '--config.evaluate.num_samples=64',
  '--config.evaluate.num_nll_images=32',
)
_LONG = ('--config=configs/digits.py:ldc,debug',)
_SHORT = (
  '--config=configs/digits.py:vae,debug',
  '--config.evaluate.samplers=prior',
  '--config.evaluate.importance_samples=0',
)
# Of time, not of the run.
_CLOCKS = (
  'train/images_per_sec',
  'wall_seconds',
  'digests',
  'time/sample_10k_latents_seconds',
  'time/sample_10k_seconds',
)


class Attempt:
  """One process of a run, and the phase that its files say it is in.

  They are
    'start'     imports and data, until `config.json` is written;
    'compile'   initial state, restore, and compilation, until the first line of
                `metrics.jsonl`;
    'step'      steps and validations, while no save is under way;
    'save'      a checkpoint is being written, beside the steps;
    'evaluate'  from the last checkpoint on.
  """

  def __init__(self, workdir, fields, *, use_cache=True):
    """Starts, or continues, a run; what it says goes to a file beside it.

    Args:
      workdir: The workdir of the run.
      fields: Further arguments.
      use_cache: Of compiled programs; without it, each is compiled.
    """
    self._workdir = workdir
    self._begun = time.time_ns()
    self._resumed = max([0, *checkpoint_folder.steps(workdir / 'checkpoints')])
    self._rows, self._inode = self.step(), self._metrics_inode()
    env = dict(
      os.environ,
      NPROC='32',
      JAX_PLATFORMS='cpu',
      XLA_FLAGS=device_case.xla_flags(1),
      JAX_ENABLE_COMPILATION_CACHE=str(use_cache).lower(),
    )
    with open(f'{workdir}.log', 'ab') as log:
      self.process = subprocess.Popen(
        (*_COMMAND, *fields, f'--workdir={workdir}'),
        cwd=_ROOT,
        env=env,
        stderr=log,
      )

  def wait(self):
    """Waits for its end; returns the exit code."""
    return self.process.wait()

  def step(self):
    """The step of the last line of `metrics.jsonl`; 0 without any."""
    with contextlib.suppress(FileNotFoundError):
      with open(self._workdir / 'metrics.jsonl', 'rb') as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
        lines = file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b'\n'):
          lines.pop()  # torn
        return json.loads(lines[-1])['step'] if lines else 0
    return 0

  def phase(self):
    """The phase; None after the end."""
    if self.process.poll() is not None:
      return None
    if not self._is_new(self._workdir / 'config.json'):
      return 'start'
    checkpoints = self._workdir / 'checkpoints'
    if any(self._is_new(path) for path in checkpoints.glob('*-tmp*')):
      return 'save'
    if (checkpoints / str(_NUM_STEPS)).exists():
      return 'evaluate'
    # lines after the checkpoint are those of the process before, until dropped
    dropped = self._metrics_inode() != self._inode
    old = self._resumed if dropped else self._rows
    return 'step' if self.step() > old else 'compile'

  def kill_in(self, wanted, generator, seconds):
    """Kills the process at a random moment of a phase.

    Args:
      wanted: The phase.
      generator: The generator of random numbers.
      seconds: How long a phase takes, by phase.

    Returns:
      Whether it was killed there; if not, the process goes on.
    """
    if wanted in ('step', 'save'):
      last = self.step()
      target = generator.randint(last, max(last, _NUM_STEPS - _SAVE_EVERY))
      self._await(lambda: self.step() >= target)
    self._await(lambda: self.phase() == wanted)
    time.sleep(generator.uniform(0.0, seconds[wanted]))
    while self.phase() is not None:
      self.process.send_signal(signal.SIGSTOP)  # to look where it is
      where = self.phase()
      if where == wanted:
        self.process.kill()
        return self.wait() == -signal.SIGKILL
      self.process.send_signal(signal.SIGCONT)
      if wanted not in ('step', 'save') or where not in ('step', 'save'):
        return False  # they alternate, the others come once
      time.sleep(generator.uniform(0.001, 0.01))
    return False

  def phase_seconds(self):
    """Waits for the end; returns the seconds spent in each phase."""
    seconds, before = collections.Counter(), time.monotonic()
    while (phase := self.phase()) is not None:
      time.sleep(0.005)
      now = time.monotonic()
      seconds[phase] += now - before
      before = now
    return seconds

  def _await(self, is_reached):
    """Waits for something, or for the end."""
    deadline = time.monotonic() + _SECONDS
    while self.process.poll() is None and not is_reached():
      assert time.monotonic() < deadline, f'see {self._workdir}.log'
      time.sleep(0.002)

  def _is_new(self, path):
    """Whether a file was made or replaced by this process."""
    with contextlib.suppress(FileNotFoundError):
      return path.stat().st_ctime_ns > self._begun
    return False

  def _metrics_inode(self):
    """Another one where lines were dropped; None without the file."""
    path = self._workdir / 'metrics.jsonl'
    return path.stat().st_ino if path.exists() else None


def outcome(workdir):
  """Everything of a finished run that must not depend on interruptions."""
  directory = workdir / 'checkpoints'
  path = directory / str(checkpoint_folder.steps(directory)[-1])
  leaves = manifest.read_values(path, manifest.read(path))
  results = json.loads((workdir / 'results.json').read_text())
  rows = [
    json.loads(line)
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  for row in [results, *rows]:
    for name in _CLOCKS:
      row.pop(name, None)
  with np.load(workdir / 'samples.npz') as file:
    samples = {name: (x.shape, x.tobytes()) for name, x in file.items()}
  return {
    # an older one, too, where a kill came before it was deleted
    'checkpoints': checkpoint_folder.steps(directory)[-2:],
    'no checkpoints': [
      each.name for each in directory.iterdir() if not each.name.isdecimal()
    ],
    'leaves': {name: x.tobytes() for name, x in leaves.items()},
    'results': results,
    'metrics': rows,
    'samples': samples,
    'files': sorted(each.name for each in workdir.iterdir()),
  }


class TortureTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    device_case.train_classifier('configs/digits.py:vae,debug')

  def _torture(self, phases, fields):
    """Kills once in each of `phases` of a run with `fields`.

    After one in 'evaluate', or where a phase was missed, the run goes on to its
    end, is compared, and a new one begins.
    """
    directory = pathlib.Path(self.create_tempdir().full_path)
    whole = Attempt(directory / 'whole', fields)
    seconds = whole.phase_seconds()
    self.assertEqual(whole.wait(), 0, f'see {directory}/whole.log')
    expected = outcome(directory / 'whole')
    seconds['save'] /= _NUM_STEPS // _SAVE_EVERY
    seconds['step'] = seconds['save']
    generator = random.Random(0)
    workdir = directory / 'killed'
    kills, compared, missed = collections.Counter(), 0, 0
    waiting = collections.deque(phases)
    while waiting:
      phase = waiting[0]
      # compiling takes its time where nothing is cached
      attempt = Attempt(workdir, fields, use_cache=phase != 'compile')
      if attempt.kill_in(phase, generator, seconds):
        kills[waiting.popleft()] += 1
        step = attempt.step()
        print(f'kill {kills.total()}: {phase}, step {step}', flush=True)
        if phase != 'evaluate' and waiting:
          continue
        attempt = Attempt(workdir, fields)
      else:
        missed += 1
        self.assertLess(missed, len(phases) + 5)
      # with what is cached by now
      seconds['evaluate'] = attempt.phase_seconds()['evaluate']
      self.assertEqual(attempt.wait(), 0, f'see {workdir}.log')
      actual = outcome(workdir)
      for name, value in expected.items():
        self.assertEqual(actual[name], value, name)
      compared += 1
      shutil.rmtree(workdir)
    self.assertEqual(kills, collections.Counter(phases))
    print(f'{dict(kills)}; {compared} finished runs, all bit-identical')

  def test_a_kill_leaves_no_trace(self):
    self._torture(('save',), _SHORT)

  @pytest.mark.slow
  def test_fifty_kills_leave_no_trace(self):
    cache = self.create_tempdir().full_path  # made in the midst of the kills
    self.enter_context(mock.patch.dict(os.environ, LDC_VAE_CACHE=cache))
    phases = ('compile', 'step', 'start', 'save', 'evaluate')
    self._torture(phases * 10, _LONG)


if __name__ == '__main__':
  absltest.main()
