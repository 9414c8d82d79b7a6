"""Kills runs at random moments; what resumes must end bit-identical.

The long form kills 50 times and says where:

  python -m pytest -m slow -s tests/test_torture.py
"""

import collections
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from absl.testing import absltest
import pytest

from ldc_vae import checkpoint
from ldc_vae import writer

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SECONDS = 600  # of one attempt, on a busy machine
_PHASES = ('start', 'step', 'save', 'evaluate')
_NUM_STEPS = 60
_COMMAND = (
    sys.executable,
    '-m',
    'ldc_vae.main',
    '--config=configs/digits.py:ldc,debug',
    f'--config.train.num_steps={_NUM_STEPS}',
    '--config.train.checkpoint_every=10',
    '--config.train.log_every=1',
    '--config.evaluate.num_samples=64',
    '--config.evaluate.num_nll_images=32',
)
# Of time, not of the run.
_CLOCKS = (
    'train/images_per_sec',
    'wall_seconds',
    'time/sample_10k_latents_seconds',
    'time/sample_10k_seconds',
)


def start(workdir):
  """Starts, or continues, a run; what it says goes to a file beside it."""
  env = dict(
      os.environ,
      NPROC='32',
      JAX_PLATFORMS='cpu',
      XLA_FLAGS='--xla_force_host_platform_device_count=1',
  )
  with open(f'{workdir}.log', 'ab') as log:
    return subprocess.Popen(
        (*_COMMAND, f'--workdir={workdir}'), cwd=_ROOT, env=env, stderr=log
    )


def kill_in(phase, process, workdir, generator):
  """Kills a run at a random moment of a phase.

  Returns:
    The phase that it was in; None if it ended before.
  """
  checkpoints = workdir / 'checkpoints'
  reached = {
      'start': lambda: True,
      'step': lambda: _num_rows(workdir) > rows,
      'save': lambda: any(checkpoints.glob('*-tmp*')),
      'evaluate': lambda: (checkpoints / str(_NUM_STEPS)).exists(),
  }[phase]
  longest = {'start': 6.0, 'step': 0.3, 'save': 0.03, 'evaluate': 5.0}[phase]
  rows = _num_rows(workdir)
  deadline = time.monotonic() + _SECONDS
  while process.poll() is None and not reached():
    time.sleep(0.002)
    assert time.monotonic() < deadline, pathlib.Path(f'{workdir}.log')
  time.sleep(generator.uniform(0.0, longest))
  process.send_signal(signal.SIGSTOP)  # to look where it is
  where = 'start'
  if any(checkpoints.glob('*-tmp*')):
    where = 'save'
  elif (checkpoints / str(_NUM_STEPS)).exists():
    where = 'evaluate'
  elif _num_rows(workdir) > rows:
    where = 'step'
  process.kill()
  return where if process.wait() == -signal.SIGKILL else None


def outcome(workdir):
  """Everything of a finished run that must not depend on interruptions."""
  directory = workdir / 'checkpoints'
  path = directory / str(checkpoint._steps(directory)[-1])
  leaves = checkpoint._read_values(path, checkpoint._read_manifest(path))
  results = json.loads((workdir / 'results.json').read_text())
  rows = [
      json.loads(line)
      for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  for row in [results, *rows]:
    for name in _CLOCKS:
      row.pop(name, None)
  return {
      'step': path.name,
      'leaves': {name: x.tobytes() for name, x in leaves.items()},
      'results': results,
      'metrics': rows,
      'samples': (workdir / 'samples.npz').stat().st_size,
  }


def _num_rows(workdir):
  path = workdir / 'metrics.jsonl'
  return len(writer.read_metrics(path)) if path.exists() else 0


class TortureTest(absltest.TestCase):

  def _torture(self, num_kills, phases):
    """Kills `num_kills` times; finished runs are compared and begun anew."""
    directory = pathlib.Path(self.create_tempdir().full_path)
    whole = directory / 'whole'
    self.assertEqual(start(whole).wait(), 0, f'see {whole}.log')
    expected = outcome(whole)
    generator = random.Random(0)
    kills, compared, attempts = collections.Counter(), 0, 0
    workdir = directory / 'killed'
    while kills.total() < num_kills:
      process = start(workdir)
      phase = phases[attempts % len(phases)]
      where = kill_in(phase, process, workdir, generator)
      attempts += 1
      if where is not None:
        kills[where] += 1
        print(f'kill {kills.total()}: {where}', flush=True)
      else:
        self.assertEqual(process.returncode, 0)
        self._assert_same(workdir, expected)
        compared += 1
        shutil.rmtree(workdir)
    self.assertEqual(start(workdir).wait(), 0)
    self._assert_same(workdir, expected)
    print(f'{dict(kills)}; {compared + 1} finished runs, all bit-identical')
    return kills

  def _assert_same(self, workdir, expected):
    actual = outcome(workdir)
    for name, value in expected.items():
      self.assertEqual(actual[name], value, name)
    left = [path.name for path in workdir.iterdir() if '.tmp' in path.name]
    self.assertEmpty(left)

  def test_two_kills_leave_no_trace(self):
    self._torture(2, ('save', 'evaluate'))

  @pytest.mark.slow
  def test_fifty_kills_leave_no_trace(self):
    kills = self._torture(50, ('step', 'start', 'save', 'step', 'evaluate'))
    self.assertGreater(min(kills[phase] for phase in _PHASES), 2)


if __name__ == '__main__':
  absltest.main()
