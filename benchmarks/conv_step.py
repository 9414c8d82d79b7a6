"""Time of a training step of a convolutional VAE: this project beside PyTorch.

python benchmarks/conv_step.py --peer_python=PYTHON_WITH_PYTHAE

All train the same networks (channels 32-64-128) with batch 128 on noise, on the
CPU, some steps in turn, each in a process of its own that stays alive. What is
compared is the ratio within a turn. Without --peer_python this project's own
two kinds of convolutions are compared.
"""

import argparse
from collections.abc import Sequence
import contextlib
import os
import pathlib
import statistics
import sys
import tempfile

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the script's own folder is there instead

from benchmarks import common  # pylint: disable=g-import-not-at-top
from benchmarks import vae_epoch
from ldc_vae.reporting import tables

CHANNELS = (32, 64, 128)
BATCH_SIZE = 128
IMAGES = {'28x28x1': (28, 28, 1), '32x32x3': (32, 32, 3)}

# Threads of the one library may spin for a while after its turn.
_PAUSE_SECONDS = 0.5


def commands(peer_python: str, channels: Sequence[int]) -> dict[str, list[str]]:
  """The workers by name, ours with patches first.

  Args:
    peer_python: A Python that can import pythae; '' leaves the peers out.
    channels: The channels of the encoder.

  Returns:
    Programs and their arguments, without those of the images.
  """
  folder = pathlib.Path(__file__).resolve().parent
  given = f'--channels={",".join(map(str, channels))}'
  ours = [sys.executable, str(folder / 'conv_step_ldc_vae.py'), given]
  found = {
    'patches': [*ours, '--convolution=patches'],
    'native': [*ours, '--convolution=native'],
  }
  if peer_python:
    peers = [peer_python, str(folder / 'conv_step_peers.py'), given]
    found['torch'] = [*peers, '--trainer=torch']
    found['torch_channels_last'] = [*found['torch'], '--channels_last']
    found['pythae'] = [*peers, '--trainer=pythae']
  return found


def run(
  workers: dict[str, Sequence[str]],
  image_shape: tuple[int, int, int],
  *,
  batch_size: int,
  steps: int,
  rounds: int,
  pause_seconds: float = _PAUSE_SECONDS,
) -> dict:
  """Measures the workers on images of one shape.

  Args:
    workers: The result of `commands`.
    image_shape: (H, W, C).
    batch_size: Images per step.
    steps: Steps of a turn.
    rounds: Timed turns of each.
    pause_seconds: Between two turns.

  Returns:
    By worker its description, the 'milliseconds' of a step in each turn, the
    'ratios' of the first worker's to them, both also of the CPU time of all
    threads ('cpu_'), and the 'loss' of the last turn.

  Raises:
    ValueError: The workers do not train equal networks.
  """
  rng = np.random.default_rng(0)
  shape = (steps * batch_size, *image_shape)
  images = rng.integers(0, 256, size=shape, dtype=np.uint8)
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    folder = pathlib.Path(folder)
    np.save(folder / 'images.npy', images)
    arguments = (
      f'--images={folder / "images.npy"}',
      f'--batch_size={batch_size}',
    )
    running = {}
    for number, (name, command) in enumerate(workers.items()):
      log = folder / f'{number}.log'
      worker = vae_epoch.Worker(name, (*command, *arguments), log)
      running[name] = stack.enter_context(worker)
    descriptions = {name: each.description for name, each in running.items()}
    _check_equal(descriptions)
    turns = vae_epoch.measure(running, rounds, pause_seconds)
  rows = {}
  first = next(iter(turns.values()))
  for name, answers in turns.items():
    rows[name] = {**descriptions[name], 'loss': answers[-1]['loss']}
    for prefix in ('', 'cpu_'):
      own, other = (
        [turn[f'{prefix}seconds'] for turn in each] for each in (first, answers)
      )
      rows[name][f'{prefix}milliseconds'] = [
        1e3 * each / steps for each in other
      ]
      ratios = vae_epoch.paired_ratios(own, other)
      rows[name][f'{prefix}ratios'] = ratios
  return rows


def format_table(results: dict[str, dict]) -> str:
  """Markdown: the median step, its ratio and work, by images and worker."""
  header = (
    'images, trained by',
    'ms a step',
    'CPU ms a step',
    'first ÷ this',
    'by CPU time',
    'parameters',
    'multiply-adds an image',
    'loss',
  )
  rows = []
  for images, result in results.items():
    for name, row in result.items():
      rows.append(
        (
          f'{images}, {name}',
          common.show(statistics.median(row['milliseconds'])),
          common.show(statistics.median(row['cpu_milliseconds'])),
          common.show(statistics.median(row['ratios'])),
          common.show(statistics.median(row['cpu_ratios'])),
          f'{row["num_parameters"]:,}',
          f'{row["multiply_adds"]:,}',
          common.show(row['loss']),
        )
      )
  return tables.markdown_table(header, rows)


def main(argv: Sequence[str]) -> int:
  """Measures, prints the table, and writes the result."""
  parser = argparse.ArgumentParser(prog='conv_step', description=__doc__)
  parser.add_argument(
    '--peer_python', default='', help='a Python that can import pythae'
  )
  parser.add_argument(
    '--images', default=','.join(IMAGES), help='of ' + ', '.join(IMAGES)
  )
  parser.add_argument(
    '--workers',
    default='',
    help='some of patches, native and, with a peer_python, torch,'
    ' torch_channels_last, pythae; ratios are those of the first',
  )
  parser.add_argument(
    '--rounds', type=common.positive, default=7, help='timed turns of each'
  )
  parser.add_argument(
    '--steps', type=common.positive, default=8, help='steps of a turn'
  )
  parser.add_argument(
    '--debug', action='store_true', help='two small steps, to see it work'
  )
  parser.add_argument(
    '--output', default='', help='a JSON file; the table is written beside it'
  )
  args = common.parse_args(parser, argv)
  chosen = common.names(args.images)
  common.choose('images', chosen, IMAGES, required=True)
  jax.config.update('jax_platforms', 'cpu')
  channels, batch_size = CHANNELS, BATCH_SIZE
  if args.debug:
    channels, batch_size = (4,), 8
    args.rounds, args.steps = 1, 2
  workers = commands(args.peer_python, channels)
  if args.workers:
    names = common.names(args.workers)
    common.choose('workers', names, workers, required=True)
    workers = {name: workers[name] for name in names}
  load_before = os.getloadavg()[0]
  results = {
    name: run(
      workers,
      IMAGES[name],
      batch_size=batch_size,
      steps=args.steps,
      rounds=args.rounds,
    )
    for name in chosen
  }
  table = format_table(results)
  print(table, end='')
  if args.output:
    record = common.create_record('benchmarks.conv_step', argv, [0])
    record['config'] = {
      'channels': channels,
      'batch_size': batch_size,
      'steps': args.steps,
      'rounds': args.rounds,
    }
    record['load_before'] = load_before
    record['results'] = results
    common.write(args.output, record, table)
  return 0


def _check_equal(descriptions):
  """Raises ValueError unless weights and multiply-adds are the same."""
  for key in ('num_parameters', 'multiply_adds'):
    found = {name: each[key] for name, each in descriptions.items()}
    if len(set(found.values())) > 1:
      raise ValueError(f'the networks differ in {key}: {found}')


if __name__ == '__main__':
  common.run(main)
