"""Seconds of one training epoch: this project beside Pythae and PyTorch.

python benchmarks/vae_epoch.py --peer_python=PYTHON_WITH_PYTHAE --data=synthetic

All train a 784-512-16 MLP on the same images on the CPU, in turn, each in a
process of its own that stays alive. What is compared is the ratio within a
turn, which a busy machine disturbs less than the seconds. `--method=iwae` has
K posterior samples for each image in all of them; `ldc`, which no peer has, is
put beside their IWAE with as many samples as it has particles.
"""

import argparse
from collections.abc import Mapping, Sequence
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the script's own folder is there instead

from benchmarks import common  # pylint: disable=g-import-not-at-top
import ldc_vae
from ldc_vae.data import datasets
from ldc_vae.runtime import files

BATCH_SIZE = 128
NUM_IMAGES = 60_000
LIKELIHOODS = ('gaussian', 'bernoulli')  # Pythae's mse and bce
METHODS = ('vae', 'iwae', 'ldc')

# Threads of the one library may spin for a while after its turn.
_PAUSE_SECONDS = 0.5

# Load per core up to which a machine counts as quiet.
_QUIET_LOAD = 0.25

_CPU_ONLY = {'CUDA_VISIBLE_DEVICES': '', 'JAX_PLATFORMS': 'cpu'}


class WorkerError(OSError):
  """A worker ended before its work was done."""


class Worker:
  """A process that works when told to, and says how long it took.

  The process prints a line of JSON that describes it when it is ready, and one
  for each line that it reads. It ends when there are no more lines.
  """

  def __init__(
    self,
    name: str,
    command: Sequence[str],
    log: pathlib.Path,
    environment: Mapping[str, str] = _CPU_ONLY,
  ):
    """Starts the process and waits until it is ready.

    Args:
      name: For messages.
      command: The program and its arguments.
      log: A file for what the process prints to stderr.
      environment: Variables beside those of this process.
    """
    self._name, self._log = name, log
    environment = {
      **os.environ,
      # ldc_vae sets a flag for its own jax: others are to run as they come
      'XLA_FLAGS': ldc_vae.GIVEN_XLA_FLAGS,
      **environment,
      'PYTHONPATH': str(ROOT),
    }
    try:
      with open(log, 'wb') as file:
        self._process = subprocess.Popen(
          command,
          stdin=subprocess.PIPE,
          stdout=subprocess.PIPE,
          stderr=file,
          env=environment,
          text=True,
        )
    except OSError as error:
      raise WorkerError(
        f'{name}: {command[0]} cannot be run ({error.strerror}); give a'
        ' Python interpreter'
      ) from error
    self.description = self._read()

  def __enter__(self) -> 'Worker':
    return self

  def __exit__(self, *unused_exc_info) -> None:
    self._process.kill()
    self._process.communicate()

  def run_epoch(self) -> dict[str, float]:
    """Trains one epoch, where that is the process's work.

    Returns:
      'seconds', 'cpu_seconds' of all threads, and 'loss', the mean over the
      epoch in nats per image.

    Raises:
      WorkerError: The process has ended.
    """
    return self.ask('epoch')

  def ask(self, request: str) -> dict[str, Any]:
    """Sends a line and waits for the answer.

    Args:
      request: A line without its end.

    Returns:
      The answer, parsed.

    Raises:
      WorkerError: The process has ended.
    """
    try:
      self._process.stdin.write(f'{request}\n')
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # it has ended, and reading says why
    return self._read()

  def _read(self):
    """Returns the next answer of the process."""
    line = self._process.stdout.readline()
    if not line:
      code = self._process.wait()
      lines = self._log.read_text(errors='replace').strip().splitlines()
      reason = lines[-1] if lines else 'it printed nothing'
      raise WorkerError(
        f'the worker of {self._name} ended with exit code {code}: {reason}'
      )
    return json.loads(line)


def measure(
  workers: dict[str, Worker], rounds: int, pause_seconds: float
) -> dict[str, list[dict[str, float]]]:
  """Times epochs of the workers in turn, after one untimed epoch of each.

  Args:
    workers: By name.
    rounds: Timed epochs of each.
    pause_seconds: Between two epochs.

  Returns:
    The answers of each worker.
  """
  for worker in workers.values():
    worker.run_epoch()  # compiles, and touches the memory
  answers = {name: [] for name in workers}
  for _ in range(rounds):
    for name, worker in workers.items():
      time.sleep(pause_seconds)
      answers[name].append(worker.run_epoch())
  return answers


def summarise(values: Sequence[float]) -> dict[str, float]:
  """The smallest, the median and the largest of some numbers."""
  return {
    'min': min(values),
    'median': statistics.median(values),
    'max': max(values),
  }


def paired_ratios(ours: Sequence[float], peer: Sequence[float]) -> list[float]:
  """Ours over the peer's, turn by turn."""
  return [a / b for a, b in zip(ours, peer, strict=True)]


def format_table(result: dict) -> str:
  """The result as lines for the terminal; loss is that of the last epoch."""
  lines = [f'{"seconds":20}{"min":>8}{"median":>8}{"max":>8}{"loss":>8}']
  for name, row in result['summary'].items():
    cells = [f'{row[key]:8.3f}' for key in ('min', 'median', 'max')]
    if name in result['epochs']:
      cells.append(f'{result["epochs"][name][-1]["loss"]:8.2f}')
    lines.append(f'{name:20}' + ''.join(cells))
  return '\n'.join(lines)


def load_images(data: str, data_dir: str) -> np.ndarray:
  """The images that both train on, a whole number of batches.

  Args:
    data: 'mnist', all 60,000 training images, or 'synthetic'.
    data_dir: The folder of prepared data.

  Returns:
    uint8, shape [59904, 28, 28, 1].
  """
  # Pythae trains on a last partial batch and we do not: leave it out of both.
  num_images = NUM_IMAGES // BATCH_SIZE * BATCH_SIZE
  if data == 'synthetic':
    rng = np.random.default_rng(0)
    shape = (num_images, 28, 28, 1)
    return rng.integers(0, 256, size=shape, dtype=np.uint8)
  dataset = datasets.load('mnist', data_dir=data_dir)
  splits = (dataset.images['train'], dataset.images['validation'])
  return np.concatenate(splits)[:num_images]


def run(
  commands: dict[str, Sequence[str]],
  images: np.ndarray,
  *,
  likelihood: str,
  rounds: int,
  method: str = 'vae',
  num_samples: int = 1,
  pause_seconds: float = _PAUSE_SECONDS,
) -> dict:
  """Starts the workers, measures, and describes everything.

  Args:
    commands: The worker to start by name, ours first, then the peers'.
    images: uint8, shape [N, H, W, C].
    likelihood: One of LIKELIHOODS.
    rounds: Timed epochs of each.
    method: One of METHODS.
    num_samples: K, of each image.
    pause_seconds: Between two epochs.

  Returns:
    What is written as JSON, beside what every record begins with.
  """
  load_before = os.getloadavg()[0]
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    np.save(folder / 'images.npy', images)
    arguments = (
      f'--images={folder / "images.npy"}',
      f'--batch_size={BATCH_SIZE}',
      f'--likelihood={likelihood}',
      f'--method={method}',
      f'--num_samples={num_samples}',
    )
    with contextlib.ExitStack() as stack:
      workers = {}
      for name, command in commands.items():
        log = folder / f'{name}.log'
        worker = Worker(name, (*command, *arguments), log)
        workers[name] = stack.enter_context(worker)
      epochs = measure(workers, rounds, pause_seconds)
  seconds, cpu_seconds = [
    {name: [epoch[key] for epoch in epochs[name]] for name in workers}
    for key in ('seconds', 'cpu_seconds')
  ]
  summary = {name: summarise(values) for name, values in seconds.items()}
  ours, *peers = workers
  floors = [epoch.get('matmul_seconds') for epoch in epochs[ours]]
  if None not in floors:
    summary['matmuls alone'] = summarise(floors)
  ratios = {}
  for peer in peers:
    ratios[peer] = paired_ratios(seconds[ours], seconds[peer])
    summary[f'{ours} / {peer}'] = summarise(ratios[peer])
    if None not in floors:
      summary[f'matmuls / {peer}'] = summarise(
        paired_ratios(floors, seconds[peer])
      )
    summary[f'{ours} / {peer}, CPU'] = summarise(
      paired_ratios(cpu_seconds[ours], cpu_seconds[peer])
    )
  return {
    'config': {
      'images': len(images),
      'batch_size': BATCH_SIZE,
      'likelihood': likelihood,
      'method': method,
      'num_samples': num_samples,
      'rounds': rounds,
    },
    'load_before': load_before,
    'workers': {name: each.description for name, each in workers.items()},
    'epochs': epochs,
    'ratios': ratios,
    'summary': summary,
  }


def main(argv: Sequence[str]) -> int:
  """Measures, prints the table, and writes the result."""
  parser = argparse.ArgumentParser(prog='vae_epoch', description=__doc__)
  parser.add_argument(
    '--peer_python', required=True, help='a Python that can import pythae'
  )
  parser.add_argument(
    '--data',
    choices=('mnist', 'synthetic'),
    default='mnist',
    help='the images, 28x28 grey',
  )
  parser.add_argument(
    '--data_dir', default='', help='prepared data, as config.dataset.data_dir'
  )
  parser.add_argument(
    '--likelihood',
    choices=LIKELIHOODS,
    default='gaussian',
    help='of a pixel; the Gaussian has variance 1',
  )
  parser.add_argument(
    '--method',
    choices=METHODS,
    default='vae',
    help="ours; the peers' is iwae for ldc",
  )
  parser.add_argument(
    '--num_samples',
    type=common.positive,
    default=8,
    help='posterior samples or particles of each image; a vae has 1',
  )
  parser.add_argument(
    '--rounds', type=common.positive, default=5, help='timed epochs of each'
  )
  parser.add_argument('--output', default='', help='a JSON file for the result')
  args = common.parse_args(parser, argv)
  jax.config.update('jax_platforms', 'cpu')
  folder = pathlib.Path(__file__).resolve().parent
  commands = {
    'ldc_vae': (sys.executable, str(folder / 'vae_epoch_ldc_vae.py')),
  }
  script = str(folder / 'vae_epoch_pythae.py')
  for trainer in ('pythae', 'torch'):
    commands[trainer] = (args.peer_python, script, f'--trainer={trainer}')
  result = run(
    commands,
    load_images(args.data, args.data_dir),
    likelihood=args.likelihood,
    rounds=args.rounds,
    method=args.method,
    num_samples=1 if args.method == 'vae' else args.num_samples,
  )
  result['config']['data'] = args.data
  result = {**common.create_record('benchmarks.vae_epoch', argv, [0]), **result}
  print(format_table(result))
  load, cores = result['load_before'], result['device']['cores']
  if load > _QUIET_LOAD * cores:
    print(
      f'the machine was busy before (load {load:.1f} on {cores} cores):'
      ' repeat this when it is quiet'
    )
  if args.output:
    files.write_json(args.output, result)
  return 0


if __name__ == '__main__':
  common.run(main)
