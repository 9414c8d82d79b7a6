"""What a train step costs: methods beside each other, host and input beside it.

python -m benchmarks.train_step --output=benchmarks/results/train_step.json

Each method runs its own `step.train_step` on random images of MNIST's size, a
few steps at a time and in turn, so that whatever else the machine does meets
all of them. `iwae` with the same K is what `ldc` is measured against: it makes
as many decoder evaluations, and no SVGD. `ldc_autoencoder` is the first phase
of `ldc` alone, its encoder and decoder; `ldc` adds the sampler net and the
latent energy.
"""

import argparse
from collections.abc import Mapping, Sequence
import functools
import os
import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common
from ldc_vae import config as config_lib
from ldc_vae import datasets
from ldc_vae import experiment as experiment_lib
from ldc_vae import step as step_lib

_IMAGE_SHAPE = (28, 28, 1)
_REFERENCE = 'iwae'
_IN_FLIGHT = 8  # as in ldc_vae.train


class Case(NamedTuple):
  """A method to be measured.

  Attributes:
    method: Of the config.
    fields: Of `config.objective`; K stands for the number of particles.
    phases: The first so many phases of the method; 0 for all.
  """

  method: str
  fields: Mapping[str, Any]
  phases: int = 0


CASES = {
    'vae': Case('vae', {}),
    'iwae': Case('iwae', {'num_samples': 'K'}),
    'ldc_autoencoder': Case(
        'ldc', {'num_particles': 'K', 'match_moments': False}, 1
    ),
    'ldc': Case('ldc', {'num_particles': 'K'}),
}


def main(argv: Sequence[str]) -> int:
  """Measures, prints the table and writes it with the JSON file."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--architectures', type=common.names, default=('mlp',))
  parser.add_argument('--cases', type=common.names, default=tuple(CASES))
  parser.add_argument('--batch_size', type=common.positive, default=128)
  parser.add_argument('--particles', type=common.positive, default=8)
  parser.add_argument('--steps', type=common.positive, default=32)
  parser.add_argument('--rounds', type=common.positive, default=9)
  parser.add_argument('--output', default='')
  args, overrides = parser.parse_known_args(argv)
  common.choose('cases', args.cases, CASES)
  common.set_up_jax()
  record = common.create_record('benchmarks.train_step', argv, seeds=[0])
  record['load_before'] = os.getloadavg()[0]
  record['rows'] = []
  for architecture in args.architectures:
    makers = {
        name: functools.partial(
            create_step,
            CASES[name],
            architecture,
            args.batch_size,
            args.particles,
            overrides,
        )
        for name in args.cases
    }
    times = measure(makers, args.batch_size, args.steps, args.rounds)
    record['rows'] += summarise(architecture, args.batch_size, times)
  record['input'] = input_seconds(args.batch_size)
  text = to_markdown(record)
  print(text)
  if args.output:
    common.write(args.output, record, text)
  return 0


def create_step(
    case: Case,
    architecture: str,
    batch_size: int,
    num_particles: int,
    overrides: Sequence[str],
):
  """The step function of a case and its first state.

  Args:
    case: What to measure.
    architecture: Of `config.model`.
    batch_size: B.
    num_particles: K.
    overrides: As on the command line, for every case.

  Returns:
    `(state, images, key) -> (state, metrics)` and the state.
  """
  fields = {
      f'objective.{name}': num_particles if value == 'K' else value
      for name, value in case.fields.items()
  }
  config = config_lib.load(
      f'configs/mnist.py:{case.method}',
      {
          'model.architecture': architecture,
          'train.batch_size': batch_size,
          **fields,
      },
  )
  config = config_lib.override(config, overrides)
  model = experiment_lib.create_model(config, _IMAGE_SHAPE)
  method = experiment_lib.create_method(config, model)
  if case.phases:
    method = method._replace(phases=method.phases[: case.phases])
  num_steps = 10_000
  txs = step_lib.create_optimizers(
      method, num_steps=num_steps, **config.optimizer.to_dict()
  )
  step_fn = step_lib.pmap_train_step(
      experiment_lib.make_train_step(config, method, txs, num_steps), 1
  )
  state = step_lib.create_train_state(jax.random.key(0), model, method, txs)
  return step_fn, state


def measure(
    makers, batch_size: int, num_steps: int, num_rounds: int
) -> dict[str, list[dict[str, float]]]:
  """Times every case, in turn.

  Args:
    makers: Case name -> function that returns its step and state.
    batch_size: B.
    num_steps: Steps of one case in one round.
    num_rounds: How often each case has its turn, after one untimed.

  Returns:
    Case name -> per round, the milliseconds of a step: 'wall', 'cpu' of all
    threads, and 'host', the CPU time of the thread that starts the steps.
  """
  rng = np.random.default_rng(0)
  images = rng.integers(
      0, 256, (1, batch_size, *_IMAGE_SHAPE), dtype=np.uint8
  )
  key = jax.random.key(1)
  running = {name: maker() for name, maker in makers.items()}
  times = {name: [] for name in makers}
  for turn in range(num_rounds + 1):
    for name, (step_fn, state) in running.items():
      under_way = []
      wall, cpu, host = (
          time.perf_counter(), time.process_time(), time.thread_time()
      )
      for _ in range(num_steps):
        state, metrics = step_fn(state, images, key)
        under_way.append(metrics['skipped'])
        if len(under_way) > _IN_FLIGHT:
          under_way.pop(0).block_until_ready()
      host = time.thread_time() - host
      jax.block_until_ready(state)
      row = {
          'wall': 1e3 * (time.perf_counter() - wall) / num_steps,
          'cpu': 1e3 * (time.process_time() - cpu) / num_steps,
          'host': 1e3 * host / num_steps,
      }
      running[name] = step_fn, state
      if turn:
        times[name].append(row)
  return times


def summarise(
    architecture: str,
    batch_size: int,
    times: Mapping[str, Sequence[Mapping[str, float]]],
) -> list[dict[str, Any]]:
  """The rows of one architecture: medians, and ratios within a round."""
  rows = []
  for name, rounds in times.items():
    row = {'architecture': architecture, 'case': name, 'rounds': list(rounds)}
    for kind in ('wall', 'cpu', 'host'):
      row[f'{kind}_ms'] = statistics.median(each[kind] for each in rounds)
    row['images_per_second'] = 1e3 * batch_size / row['wall_ms']
    if _REFERENCE in times:
      for kind in ('wall', 'cpu'):
        row[f'{kind}_ratio'] = statistics.median(
            each[kind] / other[kind]
            for each, other in zip(rounds, times[_REFERENCE], strict=True)
        )
    rows.append(row)
  return rows


def input_seconds(batch_size: int, num_images: int = 60_000) -> dict[str, Any]:
  """What the input path costs: one epoch of batches of images in memory.

  Args:
    batch_size: B.
    num_images: N.

  Returns:
    'ms_per_batch' of making a batch, the permutation of the epoch shared
    among its batches, and 'images_per_second'.
  """
  # zeros would share one page of memory, and be read from the cache
  rng = np.random.default_rng(0)
  shape = (num_images, *_IMAGE_SHAPE)
  images = rng.integers(0, 256, shape, dtype=np.uint8)
  batches = datasets.train_batches(images, batch_size, seed=0)
  count = num_images // batch_size
  next(batches)
  start = time.perf_counter()
  for _ in range(count):
    next(batches)
  seconds = time.perf_counter() - start
  return {
      'ms_per_batch': 1e3 * seconds / count,
      'images_per_second': count * batch_size / seconds,
  }


def to_markdown(record: Mapping[str, Any]) -> str:
  """The table of a record."""
  lines = [
      '| nets | method | ms per step | of CPU | of the host thread | images/s |'
      f' ÷ {_REFERENCE} | ÷ {_REFERENCE}, CPU |',
      '|---|---|---|---|---|---|---|---|',
  ]
  for row in record['rows']:
    lines.append(
        f'| {row["architecture"]} | `{row["case"]}` |'
        f' {common.show(row["wall_ms"])} | {common.show(row["cpu_ms"])} |'
        f' {common.show(row["host_ms"])} | {row["images_per_second"]:,.0f} |'
        f' {common.show(row.get("wall_ratio"))} |'
        f' {common.show(row.get("cpu_ratio"))} |'
    )
  made = record['input']
  lines += [
      '',
      f'A batch is made in {common.show(made["ms_per_batch"])} ms'
      f' ({made["images_per_second"]:,.0f} images/s), while the device works.',
      f'Load before: {record["load_before"]:.1f}.',
      '',
  ]
  return '\n'.join(lines)


if __name__ == '__main__':
  common.run(main)
