"""Measures what it costs that files outlast a power cut: of a save and a run.

TFDS_DATA_DIR=DATA python -m benchmarks.syncing \\
    --output=benchmarks/results/syncing.json

Saves, and then runs, take turns: one waits until its files are on the disk, the
next one does not. A save is in the background of the loop over steps, which
waits only while the state is copied. A run is a whole command in a process of
its own, from the start to the report. On a busy machine the least of some turns
says most.
"""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import common
from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from ldc_vae.runtime import memory
from ldc_vae.runtime import metric_writer
from ldc_vae.runtime import provenance

_WAYS = {'synced': True, 'not synced': False}
_UNSYNCED = """
from ldc_vae.runtime import durable
durable.sync = lambda path: None
"""
_RUN = """
from ldc_vae import main
main.run()
"""


def main(argv: Sequence[str]) -> int:
  """Measures, prints a table and writes the JSON file."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/mnist.py:vae')
  parser.add_argument('--saves', type=common.positive, default=20)
  parser.add_argument('--turns', type=common.positive, default=3)
  parser.add_argument('--output', default='')
  args, overrides = common.parse_overrides(parser, argv)
  memory.keep_freed_memory()  # as the command does, or copies take longer
  record = common.create_record('benchmarks.syncing', argv, seeds=[0])
  config = config_lib.load(args.config, overrides)
  record['load_before'] = os.getloadavg()[0]
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    record['saves'] = save_seconds(config, args.saves, path / 'saves')
    runs = record['runs'] = {way: [] for way in _WAYS}
    for turn in range(args.turns):
      for way, is_synced in _WAYS.items():
        seconds = run_seconds(
          [f'--config={args.config}', *overrides],
          path / f'{turn}_{way}',
          is_synced,
        )
        runs[way].append({'seconds': seconds})
  record['least'] = {
    what: {
      way: {name: min(each[name] for each in turns) for name in turns[0]}
      for way, turns in record[what].items()
    }
    for what in ('saves', 'runs')
  }
  record['median'] = {
    what: {
      way: {
        name: statistics.median(each[name] for each in turns)
        for name in turns[0]
      }
      for way, turns in record[what].items()
    }
    for what in ('saves', 'runs')
  }
  least = record['least']
  record['cost_percent'] = 100.0 * (
    least['runs']['synced']['seconds'] / least['runs']['not synced']['seconds']
    - 1.0
  )
  for way in _WAYS:
    save, run = least['saves'][way], least['runs'][way]
    print(
      f'{way}: the loop waits {1e3 * save["loop_seconds"]:.1f} ms for a save of'
      f' {1e3 * save["seconds"]:.0f} ms; a run takes {run["seconds"]:.1f} s'
    )
  print(f'cost of a run: {record["cost_percent"]:.1f} %')
  if args.output:
    files.write_json(pathlib.Path(args.output), record)
  return 0


@contextlib.contextmanager
def syncing(is_synced: bool) -> Iterator[None]:
  """Waits for the disk inside, or does not."""
  real = durable.sync
  if not is_synced:
    durable.sync = lambda path: None
  try:
    yield
  finally:
    durable.sync = real


def save_seconds(
  config, num_saves: int, folder: pathlib.Path
) -> dict[str, list[dict[str, float]]]:
  """Saves the initial state of a run, with and without syncing in turn.

  Args:
    config: The config of the run.
    num_saves: How often in each way; one more is not counted.
    folder: A new folder.

  Returns:
    For each way and save the seconds that the loop waits, and the seconds until
    the checkpoint is there.
  """
  folder.mkdir()
  state = experiment_lib.create(config).init_state()
  turns = {way: [] for way in _WAYS}
  step = 0
  with (
    checkpoint.Checkpointer(folder / 'checkpoints') as checkpointer,
    metric_writer.MetricWriter(folder / metric_writer.NAME) as writer,
  ):
    for _ in range(num_saves + 1):
      for way, is_synced in _WAYS.items():
        step += 1
        writer.write(step, {'loss': 1.0})
        with syncing(is_synced):
          start = time.monotonic()
          checkpointer.save(
            step, state, metrics={}, meta={}, before_fn=writer.sync
          )
          loop_seconds = time.monotonic() - start
          checkpointer.wait()
        seconds = time.monotonic() - start
        turns[way].append({'loop_seconds': loop_seconds, 'seconds': seconds})
  return {way: found[1:] for way, found in turns.items()}


def run_seconds(
  argv: Sequence[str], workdir: pathlib.Path, is_synced: bool
) -> float:
  """Trains and evaluates in a process of its own; returns its seconds.

  Args:
    argv: The arguments of `ldc_vae.main`, but for the workdir.
    workdir: A new folder.
    is_synced: Whether it waits for the disk.

  Raises:
    OSError: It failed.
  """
  code = ('' if is_synced else _UNSYNCED) + _RUN
  start = time.monotonic()
  done = subprocess.run(
    (sys.executable, '-c', code, *argv, f'--workdir={workdir}'),
    cwd=provenance.ROOT,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
  )
  seconds = time.monotonic() - start
  if done.returncode:
    last = (done.stderr.strip().splitlines() or [''])[-1]
    raise OSError(f'a run ended with exit code {done.returncode}: {last}')
  return seconds


if __name__ == '__main__':
  common.run(main)
