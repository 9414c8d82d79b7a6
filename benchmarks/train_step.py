"""Measures the time of a train step of each method, and of host and input.

python -m benchmarks.train_step --output=benchmarks/results/train_step.json

Each method runs its own `step.train_step` on random images, a few steps at a
time and in turn, so that whatever else the machine does meets all of them.
`iwae` with the same K is what `ldc` is measured against: it makes as many
decoder evaluations, and no SVGD. `ldc_autoencoder` is the first phase of `ldc`
alone, its encoder and decoder; `ldc` adds the sampler net and the latent
energy. The utilisation is of the rate of a large matmul in the same precision,
measured in the same process, and of the data sheet's where it is known.
"""

import argparse
from collections.abc import Mapping, Sequence
import itertools
import os
import statistics
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common
from benchmarks import operations as operations_lib
from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import run_files
from ldc_vae import step as step_lib
from ldc_vae.data import datasets
from ldc_vae.models import model as model_lib

_REFERENCE = 'iwae'
_IN_FLIGHT = 8  # as in ldc_vae.train
_FLAGS = {
  'model.architecture': '--architectures',
  'model.dtype': '--dtypes',
  'train.batch_size': '--batch_sizes',
}


class Case(NamedTuple):
  """A method to be measured.

  Attributes:
    method: The method of the config.
    fields: The fields of `config.method`; K stands for the number of particles.
    phases: The first so many phases of the method; 0 for all.
  """

  method: str
  fields: Mapping[str, Any]
  phases: int = 0


CASES = {
  'vae': Case('vae', {}),
  'iwae': Case('iwae', {'num_samples': 'K'}),
  'ldc_autoencoder': Case('ldc', {'num_particles': 'K'}, 1),
  'ldc': Case('ldc', {'num_particles': 'K'}),
}


def main(argv: Sequence[str]) -> int:
  """Measures, prints the table and writes it with the JSON file."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/mnist.py')
  parser.add_argument(
    '--architectures', type=common.names, help="the config's if not given"
  )
  parser.add_argument('--dtypes', type=common.names, default=('float32',))
  parser.add_argument('--cases', type=common.names, default=tuple(CASES))
  parser.add_argument('--batch_sizes', type=common.integers, default=(128,))
  parser.add_argument('--particles', type=common.positive, default=8)
  parser.add_argument('--steps', type=common.positive, default=32)
  parser.add_argument('--rounds', type=common.positive, default=9)
  parser.add_argument('--output', default='')
  args, overrides = common.parse_overrides(parser, argv)
  if args.architectures is None:
    args.architectures = (config_lib.load(args.config).model.architecture,)
  for flag, chosen, known in (
    ('architectures', args.architectures, model_lib.ARCHITECTURES),
    ('cases', args.cases, CASES),
    ('dtypes', args.dtypes, model_lib.DTYPES),
  ):
    common.choose(flag, chosen, known, required=True)
  if min(args.batch_sizes) < 1:
    raise ValueError('--batch_sizes needs positive numbers, as 128,2048')
  if run_files.split(args.config)[1]:
    raise ValueError(
      f'--config={args.config} names a method; --cases does that'
    )
  for field, flag in _FLAGS.items():
    if any(word.startswith(f'--config.{field}=') for word in overrides):
      raise ValueError(f'--config.{field} would not name its row; use {flag}')
  common.set_up_jax()
  record = common.create_record('benchmarks.train_step', argv, seeds=[0])
  record['load_before'] = os.getloadavg()[0]
  record['matmul_rates'] = {
    dtype: operations_lib.matmul_rate(dtype) for dtype in args.dtypes
  }
  record['rows'] = []
  for architecture, dtype, batch_size in itertools.product(
    args.architectures, args.dtypes, args.batch_sizes
  ):
    nets = {
      'model.architecture': architecture,
      'model.dtype': dtype,
      'train.batch_size': batch_size,
    }
    programs = {
      name: create_program(
        args.config, CASES[name], nets, args.particles, overrides
      )
      for name in args.cases
    }
    operations = {
      name: operations_lib.of_step(
        create_program(
          args.config,
          CASES[name],
          nets,
          args.particles,
          [*overrides, '--config.model.convolution=native'],
        ),
        batch_size,
      )
      for name in args.cases
    }
    times = measure(programs, batch_size, args.steps, args.rounds)
    record['rows'] += summarise(
      nets, times, operations, record['matmul_rates'][dtype]
    )
  shape = next(iter(programs.values())).model.image_shape
  record['input'] = input_seconds(args.batch_sizes[0], shape)
  text = to_markdown(record)
  print(text)
  if args.output:
    common.write(args.output, record, text)
  return 0


def create_program(
  spec: str,
  case: Case,
  nets: Mapping[str, Any],
  num_particles: int,
  overrides: Sequence[str],
) -> operations_lib.Program:
  """Returns the parts of the step of a case.

  Args:
    spec: The spec of the config.
    case: What to measure.
    nets: Fields of the config for every case.
    num_particles: K.
    overrides: Overrides as on the command line, for every case.
  """
  fields = {
    f'method.{name}': num_particles if value == 'K' else value
    for name, value in case.fields.items()
  }
  program = operations_lib.create_program(
    f'{spec}:{case.method}', {**nets, **fields}, overrides
  )
  algorithm = program.algorithm
  if case.phases:
    phases = algorithm.phases[: case.phases]
    algorithm = algorithm._replace(phases=phases)
  return program._replace(algorithm=algorithm)


def create_step(program: operations_lib.Program):
  """Returns `(state, images, key) -> (state, metrics)`, and a state."""
  config, algorithm, txs, model = program
  num_steps = operations_lib.NUM_STEPS
  step_fn = step_lib.pmap_train_step(
    experiment_lib.make_train_step(config, algorithm, txs, num_steps), 1
  )
  state = step_lib.create_train_state(jax.random.key(0), model, algorithm, txs)
  return step_fn, state


def measure(
  programs: Mapping[str, operations_lib.Program],
  batch_size: int,
  num_steps: int,
  num_rounds: int,
) -> dict[str, list[dict[str, float]]]:
  """Times every case, in turn.

  Args:
    programs: By case name.
    batch_size: B.
    num_steps: Steps of one case in one round.
    num_rounds: How often each case has its turn, after one untimed.

  Returns:
    Case name -> per round, the milliseconds of a step: 'wall', 'cpu' of all
    threads, and 'host', the CPU time of the thread that starts the steps.
  """
  running = {name: create_step(made) for name, made in programs.items()}
  shape = next(iter(programs.values())).model.image_shape
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (1, batch_size, *shape), dtype=np.uint8)
  key = jax.random.key(1)
  times = {name: [] for name in running}
  for turn in range(num_rounds + 1):
    for name, (step_fn, state) in running.items():
      under_way = []
      wall, cpu, host = (
        time.perf_counter(),
        time.process_time(),
        time.thread_time(),
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
  nets: Mapping[str, Any],
  times: Mapping[str, Sequence[Mapping[str, float]]],
  operations: Mapping[str, float],
  matmul_rate: float,
) -> list[dict[str, Any]]:
  """The rows of some networks: medians, and ratios within a round.

  Args:
    nets: Their fields, with 'train.batch_size'.
    times: The result of `measure`.
    operations: The operations of a step, by case name.
    matmul_rate: Operations per second of a matmul in their precision.
  """
  rows = []
  for name, rounds in times.items():
    row = {**nets, 'case': name, 'rounds': list(rounds)}
    for kind in ('wall', 'cpu', 'host'):
      row[f'{kind}_ms'] = statistics.median(each[kind] for each in rounds)
    row['images_per_second'] = 1e3 * nets['train.batch_size'] / row['wall_ms']
    row['operations'] = operations[name]
    rate = 1e3 * operations[name] / row['wall_ms']
    row['utilisation'] = rate / matmul_rate
    peak = operations_lib.peak(
      jax.devices()[0].device_kind, nets['model.dtype']
    )
    row['peak_utilisation'] = peak and rate / peak
    if _REFERENCE in times:
      for kind in ('wall', 'cpu'):
        row[f'{kind}_ratio'] = statistics.median(
          each[kind] / other[kind]
          for each, other in zip(rounds, times[_REFERENCE], strict=True)
        )
    rows.append(row)
  return rows


def input_seconds(
  batch_size: int, image_shape: Sequence[int], num_images: int = 60_000
) -> dict[str, Any]:
  """Measures the input path: one epoch of batches of images in memory.

  Args:
    batch_size: B.
    image_shape: H, W, C.
    num_images: N.

  Returns:
    'ms_per_batch' of making a batch, the permutation of the epoch shared
    among its batches, and 'images_per_second'.
  """
  # zeros would share one page of memory, and be read from the cache
  rng = np.random.default_rng(0)
  shape = (num_images, *image_shape)
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
    '| nets | precision | batch | method | ms per step | of CPU | of the host'
    f' thread | images/s | ÷ {_REFERENCE} | ÷ {_REFERENCE}, CPU | Gflop |'
    " of a matmul's rate | of the data sheet's |",
    '|---' * 13 + '|',
  ]
  for row in record['rows']:
    cells = (
      row['model.architecture'],
      row['model.dtype'],
      row['train.batch_size'],
      f'`{row["case"]}`',
      *(common.show(row[f'{kind}_ms']) for kind in ('wall', 'cpu', 'host')),
      f'{row["images_per_second"]:,.0f}',
      *(common.show(row.get(f'{kind}_ratio')) for kind in ('wall', 'cpu')),
      common.show(row['operations'] / 1e9),
      *(_percent(row[name]) for name in ('utilisation', 'peak_utilisation')),
    )
    lines.append(f'| {" | ".join(map(str, cells))} |')
  made = record['input']
  for dtype, rate in record['matmul_rates'].items():
    lines += ['', f'A large matmul in {dtype}: {rate / 1e12:.3g} TFLOP/s.']
  lines += [
    '',
    f'A batch is made in {common.show(made["ms_per_batch"])} ms'
    f' ({made["images_per_second"]:,.0f} images/s), while the device works.',
    f'Load before: {record["load_before"]:.1f}.',
    '',
  ]
  return '\n'.join(lines)


def _percent(share: float | None) -> str:
  """A share in per cent."""
  return 'n/a' if share is None else f'{share:.2%}'


if __name__ == '__main__':
  common.run(main)
