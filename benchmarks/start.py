"""Measures the time of a run to its first training step, cold and warm.

python -m benchmarks.start --output=benchmarks/results/start.json

Each turn starts `ldc_vae.main --mode=train` in a process and a workdir of its
own, waits for the first line of `metrics.jsonl`, which is that of step 1, and
kills the process. The first turn finds an empty cache and compiles; the others
find what it compiled. The CPU time of a process is that of all its threads; it
hardly depends on what else the machine does, which the wall clock does.
"""

import argparse
from collections.abc import Mapping, Sequence
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import common
from ldc_vae.runtime import files
from ldc_vae.runtime import provenance

_SECONDS_AT_MOST = 600.0
_POLL_SECONDS = 0.01


def main(argv: Sequence[str]) -> int:
  """Measures, prints a table and writes the JSON file."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/digits.py')
  parser.add_argument('--turns', type=common.positive, default=7)
  parser.add_argument('--output', default='')
  args, overrides = common.parse_overrides(parser, argv)
  record = common.create_record('benchmarks.start', argv, seeds=[0])
  record['load_before'] = os.getloadavg()[0]
  with tempfile.TemporaryDirectory() as folder:
    turns = [
      first_step(args.config, overrides, pathlib.Path(folder), str(turn))
      for turn in range(args.turns + 1)
    ]
  record['turns'] = {'cold': turns[:1], 'warm': turns[1:]}
  record['median'] = {
    name: median(each) for name, each in record['turns'].items()
  }
  for name, each in record['median'].items():
    print(
      f'{name}: {each["seconds"]:.2f} s, {each["cpu_seconds"]:.2f} s of CPU'
      ' time to the first step'
    )
  if args.output:
    files.write_json(pathlib.Path(args.output), record)
  return 0


def first_step(
  spec: str, overrides: Sequence[str], folder: pathlib.Path, name: str
) -> dict[str, float]:
  """Starts a run, and kills it after its first step.

  Args:
    spec: The spec of the config.
    overrides: As `--config.train.batch_size=32`.
    folder: Holds the cache, which all turns share, and the workdirs.
    name: The name of the workdir.

  Returns:
    'seconds' by the wall clock and 'cpu_seconds' of the process, from its start
    until its first line of metrics is there.

  Raises:
    OSError: It ended before its first step, or took ten minutes.
  """
  metrics = folder / name / 'metrics.jsonl'
  words = (
    sys.executable,
    '-m',
    'ldc_vae.main',
    f'--config={spec}',
    *overrides,
    f'--workdir={folder / name}',
  )
  log = folder / f'{name}.log'
  start = time.monotonic()
  with (
    log.open('w') as output,
    subprocess.Popen(
      words,
      cwd=provenance.ROOT,
      env={**os.environ, 'LDC_VAE_CACHE': str(folder / 'cache')},
      stdout=output,
      stderr=subprocess.STDOUT,
    ) as process,
  ):
    try:
      while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None:
          last = (log.read_text().splitlines() or [''])[-1]
          raise OSError(
            f'{" ".join(words[1:-1])} ended with exit code'
            f' {process.returncode} before its first step: {last}'
          )
        if time.monotonic() - start > _SECONDS_AT_MOST:
          raise OSError(f'no step within {_SECONDS_AT_MOST:.0f} s: {log}')
        time.sleep(_POLL_SECONDS)
      seconds, cpu = time.monotonic() - start, cpu_seconds(process.pid)
    finally:
      process.kill()
  return {'seconds': seconds, 'cpu_seconds': cpu}


def cpu_seconds(pid: int) -> float:
  """CPU time of a process so far, user and system, in seconds; Linux."""
  fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2]
  user, system = fields.split()[11:13]  # the 14th and 15th, counted from 1
  return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')


def median(turns: Sequence[Mapping[str, float]]) -> dict[str, Any]:
  """The median of each figure over turns."""
  return {
    name: statistics.median(turn[name] for turn in turns) for name in turns[0]
  }


if __name__ == '__main__':
  common.run(main)
