"""SVGD directions: this project beside blackjax, numpyro and PyTorch.

python -m benchmarks.svgd_directions --peer_python=PYTHON_WITH_THE_PEERS

Each library computes the directions of the same particles with the same
bandwidth in a process of its own, in turn. Before anything is timed the results
are compared with NumPy's in float64. Beside the times stands a floor: what the
matmuls and exponentials of a direction take at the rates that were measured in
the same turn.
"""

import argparse
from collections.abc import Sequence
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from benchmarks import common
from benchmarks import svgd_directions_tables as tables_lib
from benchmarks import svgd_directions_worker as worker_lib
from benchmarks import vae_epoch

OURS = tables_lib.OURS
RULE = 'ldc_vae_rule'
PEERS = ('blackjax', 'numpyro', 'torch')
TOLERANCE = 1e-3  # of the largest component: float32 far from rest

_MODULE = 'benchmarks.svgd_directions'

# Threads of the one library may spin for a while after its turn.
_PAUSE_SECONDS = 0.2

# Turns that even a slow case has.
_MIN_ROUNDS = 3

# Rows that are compared with float64.
_NUM_CHECKED = 128

# Arrays of n x n numbers, or n x n x D, that a library holds at once.
_PAIR_ARRAYS = {'torch': 1}
_PAIR_DIM_ARRAYS = {'blackjax': 1, 'numpyro': 1}

_ENVIRONMENTS = {
  'cpu': {'CUDA_VISIBLE_DEVICES': '', 'JAX_PLATFORMS': 'cpu'},
  'gpu': {'JAX_PLATFORMS': 'cuda', 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},
}


def make_cases(debug: bool) -> dict[str, list[dict[str, int]]]:
  """The cases by table: 'one target', 'batched' and 'memory'.

  Args:
    debug: Few and small ones.

  Returns:
    Cases, each with 'batch' (0 for one target), 'n' and 'dim'.
  """
  product = lambda batch, sizes, dims: [
    {'batch': batch, 'n': n, 'dim': dim} for n in sizes for dim in dims
  ]
  if debug:
    return {
      'one target': product(0, (16, 40), (2,)),
      'batched': product(2, (8,), (4,)),
      'memory': product(0, (64,), (2,)),
    }
  return {
    'one target': product(0, (128, 512, 2048, 8192, 32768), (2, 32, 256)),
    'batched': product(128, (16, 32, 64), (16, 32, 64)),
    'memory': [
      *product(0, (2048,), (32,)),
      *product(0, (8192,), (2, 32, 256)),
      *product(0, (32768,), (32,)),
    ],
  }


def floor_seconds(case: dict[str, int], rates: dict[str, float]) -> float:
  """Returns the time of the matmuls and exponentials of a case.

  Two products of n x n x D multiplications and as many additions, the
  distances' and the directions', and n^2 exponentials.

  Args:
    case: 'batch', 'n' and 'dim'.
    rates: 'matmul' and 'exp', operations per second.

  Returns:
    Seconds.
  """
  pairs = max(case['batch'], 1) * case['n'] ** 2
  return 4.0 * pairs * case['dim'] / rates['matmul'] + pairs / rates['exp']


def gigabytes_needed(name: str, case: dict[str, int]) -> float:
  """The size of the arrays of pairs that a library makes."""
  pairs = max(case['batch'], 1) * case['n'] ** 2
  arrays = _PAIR_ARRAYS.get(name, 0)
  arrays += _PAIR_DIM_ARRAYS.get(name, 0) * case['dim']
  return 4e-9 * pairs * arrays


def reference(
  case: dict[str, int], rows: np.ndarray, *, rule: bool
) -> np.ndarray:
  """Rows of the directions of a case's first set, in float64.

  Args:
    case: 'batch', 'n' and 'dim'.
    rows: Indices, shape [m].
    rule: The bandwidth by the mean rule from the particles, not the given one.

  Returns:
    float64, shape [m, D].
  """
  particles = worker_lib.make_particles(**case).astype(np.float64)
  z = particles[0] if case['batch'] else particles
  n = case['n']
  h = worker_lib.bandwidth(n, case['dim'])
  if rule:
    # the mean of |z_i - z_j|^2 over i != j, over log(n + 1)
    h = 2.0 * np.sum(np.var(z, axis=0, ddof=1)) / np.log(n + 1.0)
  directions = []
  for i in rows:
    differences = z[i] - z  # z_i - z_j
    values = np.exp(-np.sum(differences**2, axis=1) / h)
    # grad_{z_j} k = (2/h) (z_i - z_j) k
    terms = -z + 2.0 / h * differences
    directions.append(values @ terms / n)
  return np.stack(directions)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
  """The largest error, in units of the largest component."""
  return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))


def check(
  workers: dict[str, vae_epoch.Worker],
  case: dict[str, int],
  folder: pathlib.Path,
) -> dict[str, float]:
  """Lets every library compute a case, and compares with float64.

  Args:
    workers: By name.
    case: 'batch', 'n' and 'dim'.
    folder: For the results, which are removed.

  Returns:
    The relative error of each.

  Raises:
    ValueError: A library computes something else.
  """
  rng = np.random.default_rng(1)
  num_rows = min(_NUM_CHECKED, case['n'])
  rows = rng.choice(case['n'], size=num_rows, replace=False)
  expected = {
    rule: reference(case, rows, rule=rule)
    for rule in {name == RULE for name in workers}
  }
  errors = {}
  for name, worker in workers.items():
    path = folder / f'{name}.npy'
    _ask(worker, 'compute', case=case, path=str(path))
    actual = np.load(path)
    path.unlink()
    actual = actual[0] if case['batch'] else actual
    errors[name] = relative_error(actual[rows], expected[name == RULE])
    if not errors[name] <= TOLERANCE:
      raise ValueError(
        f'{name} computes another direction at {tables_lib.title(case)}:'
        f' relative error {errors[name]:.2g}'
      )
  return errors


def measure(
  workers: dict[str, vae_epoch.Worker],
  case: dict[str, int],
  *,
  rounds: int,
  seconds: float,
  pause_seconds: float = _PAUSE_SECONDS,
) -> dict[str, Any]:
  """Times a case in turns.

  Args:
    workers: By name; that of OURS also measures the rates.
    case: 'batch', 'n' and 'dim'.
    rounds: Turns at most.
    seconds: After which only the least number of turns is completed.
    pause_seconds: Between two libraries.

  Returns:
    'seconds' of a call by library and turn, and the 'rates' and the
    'floor_seconds' by turn.
  """
  result = {'seconds': {name: [] for name in workers}, 'rates': []}
  start = time.monotonic()
  for turn in range(rounds):
    if turn >= _MIN_ROUNDS and time.monotonic() - start > seconds:
      break
    for name, worker in workers.items():
      time.sleep(pause_seconds)
      if name == OURS:
        result['rates'].append(_ask(worker, 'rates'))
      answer = _ask(worker, 'time', case=case)
      result['seconds'][name].append(answer['seconds'])
  result['floor_seconds'] = [
    floor_seconds(case, rates) for rates in result['rates']
  ]
  return result


def run(
  commands: dict[str, Sequence[str]],
  cases: dict[str, list[dict[str, int]]],
  *,
  device: str,
  rounds: int,
  seconds: float,
  peer_gigabytes: float,
  pause_seconds: float = _PAUSE_SECONDS,
) -> dict[str, Any]:
  """Starts the workers and measures everything.

  Args:
    commands: The worker to start by name.
    cases: The result of `make_cases`.
    device: 'cpu' or 'gpu'.
    rounds: Turns at most.
    seconds: For a case, about.
    peer_gigabytes: A library that needs more for a case is left out of it.
    pause_seconds: Between two libraries.

  Returns:
    The 'workers', and a list of rows for each table.
  """
  result = {table: [] for table in cases}
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))

    def start(name):
      log = folder / f'{name}.log'
      return vae_epoch.Worker(name, commands[name], log, _ENVIRONMENTS[device])

    workers = {name: stack.enter_context(start(name)) for name in commands}
    result['workers'] = {
      name: worker.description for name, worker in workers.items()
    }
    for table, its_cases in cases.items():
      for case in its_cases:
        able = [
          name
          for name in commands
          if gigabytes_needed(name, case) <= peer_gigabytes
        ]
        row = {**case, 'load': os.getloadavg()[0]}
        if table == 'memory':
          row['bytes'] = {}
          for name in able:
            with start(name) as worker:  # what was held before would be reused
              answer = _ask(worker, 'memory', case=case)
            row['bytes'][name] = answer['bytes']
        else:
          chosen = {name: workers[name] for name in able}
          row['errors'] = check(chosen, case, folder)
          row |= measure(
            chosen,
            case,
            rounds=rounds,
            seconds=seconds,
            pause_seconds=pause_seconds,
          )
        result[table].append(row)
        done = f'{table}: {tables_lib.title(case)} done'
        print(done, file=sys.stderr, flush=True)
  return result


def main(argv: Sequence[str]) -> int:
  """Measures and writes the result."""
  parser = argparse.ArgumentParser(prog=_MODULE, description=__doc__)
  parser.add_argument(
    '--peers', default=','.join(PEERS), help='some of these; empty for none'
  )
  parser.add_argument(
    '--peer_python',
    default=sys.executable,
    help='a Python that can import the peers',
  )
  parser.add_argument(
    '--torch_python',
    default='',
    help='a Python that can import torch, if it is another',
  )
  parser.add_argument(
    '--tables', default=','.join(make_cases(True)), help='some of these'
  )
  parser.add_argument(
    '--sizes',
    type=common.integers,
    default=(),
    help='numbers of particles n; by default all',
  )
  parser.add_argument(
    '--dims',
    type=common.integers,
    default=(),
    help='dimensions D; by default all',
  )
  parser.add_argument('--device', choices=sorted(_ENVIRONMENTS), default='cpu')
  parser.add_argument(
    '--rounds',
    type=common.positive,
    default=7,
    help='turns of each case, at most',
  )
  parser.add_argument(
    '--seconds',
    type=float,
    default=20.0,
    help=f'of a case, about; {_MIN_ROUNDS} turns are always completed',
  )
  parser.add_argument(
    '--peer_gigabytes',
    type=float,
    default=5.0,
    help='a peer whose arrays of pairs need more is left out of a case',
  )
  parser.add_argument(
    '--debug', action='store_true', help='few and small cases'
  )
  parser.add_argument(
    '--output',
    default='runs/svgd_directions.json',
    help='the JSON file; the table is put beside it',
  )
  args = common.parse_args(parser, argv)
  peers = common.names(args.peers)
  common.choose('peers', peers, PEERS)
  cases = make_cases(args.debug)
  tables = common.names(args.tables)
  common.choose('tables', tables, cases, required=True)
  cases = {
    table: [
      case
      for case in cases[table]
      if (not args.sizes or case['n'] in args.sizes)
      and (not args.dims or case['dim'] in args.dims)
    ]
    for table in tables
  }
  if not any(cases.values()):
    raise ValueError(f'--sizes and --dims leave no case of {", ".join(tables)}')
  jax.config.update('jax_platforms', 'cpu')  # the device is the workers'
  script = str(pathlib.Path(worker_lib.__file__).resolve())
  pythons = {name: args.peer_python for name in peers}
  if 'torch' in peers and args.torch_python:
    pythons['torch'] = args.torch_python
  pythons = {OURS: sys.executable, RULE: sys.executable, **pythons}
  commands = {
    name: (python, script, f'--library={name}')
    for name, python in pythons.items()
  }
  record = common.create_record(_MODULE, argv, [0])
  result = run(
    commands,
    cases,
    device=args.device,
    rounds=args.rounds,
    seconds=args.seconds,
    peer_gigabytes=args.peer_gigabytes,
    pause_seconds=_PAUSE_SECONDS if args.device == 'cpu' else 0.0,
  )
  record['device']['kind'] = result['workers'][OURS]['device']
  record |= {**result, 'peer_gigabytes': args.peer_gigabytes}
  markdown = tables_lib.format_tables(record)
  print(markdown)
  common.write(args.output, record, markdown)
  return 0


def _ask(worker: vae_epoch.Worker, task: str, **fields) -> dict[str, Any]:
  """Sends a request to a worker."""
  return worker.ask(json.dumps({'task': task, **fields}))


if __name__ == '__main__':
  common.run(main)
