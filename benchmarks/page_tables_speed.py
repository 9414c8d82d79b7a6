"""Where the numbers of speed come from: as page_tables.py, for times."""

from collections.abc import Callable, Mapping, Sequence
import statistics
from typing import Any

from benchmarks import svgd_directions_tables
from benchmarks.page_tables import Cell
from benchmarks.page_tables import Read
from benchmarks.page_tables import Row
from benchmarks.page_tables import UNKEPT

_SPEED, _NOTES = 'docs/speed.md', 'docs/lab-notes.md'


def _train_step(read: Read, name: str, *fields: tuple[str, Any]) -> dict:
  """The rows of a file of train_step.py with some fields, by method."""
  return {
    row['case']: row
    for row in read(name)['rows']
    if all(row[field] == value for field, value in fields)
  }


def _mlp_on_gpu(read: Read) -> list[Row]:
  found = [
    _train_step(read, 'train_step_gpu_mlp', ('train.batch_size', size))
    for size in (128, 2048)
  ]
  return [
    *(
      (f'`{x}`, images/s', [rows[x]['images_per_second'] for rows in found])
      for x in ('vae', 'ldc')
    ),
    (
      'step of `ldc`, in IWAE steps',
      [rows['ldc']['wall_ratio'] for rows in found],
    ),
  ]


def _train_step_page(read: Read) -> list[Row]:
  names = ('wall_ms', 'cpu_ms', 'host_ms', 'images_per_second')
  return [
    (
      f'{row["architecture"]} | `{row["case"]}`',
      [row[x] for x in (*names, 'wall_ratio', 'cpu_ratio')],
    )
    for row in read('train_step')['rows']
  ]


def _ratio(read: Read, name: str, images: str, worker: str) -> float:
  """The median ratio of the first worker's step to another's."""
  return statistics.median(read(name)['results'][images][worker]['ratios'])


def _convolutions(read: Read) -> list[Row]:
  peers = (
    ("PyTorch's eager loop", 'torch'),
    ("PyTorch's `channels_last`", 'torch_channels_last'),
    ("Pythae's trainer", 'pythae'),
  )
  sizes = ('28x28x1', '32x32x3')
  results = read('conv_step')['results']
  times = [results[x]['patches']['milliseconds'] for x in sizes]
  return [('ms a step', [statistics.median(x) for x in times])] + [
    (label, [_ratio(read, 'conv_step', x, worker) for x in sizes])
    for label, worker in peers
  ]


def directions(
  read: Read, name: str, part: str, num: int, dim: int, peers: Sequence[str]
) -> list[Cell]:
  """How many times as long each peer takes."""
  (row,) = (x for x in read(name)[part] if (x['n'], x['dim']) == (num, dim))
  return [svgd_directions_tables.median_ratio(row, peer) for peer in peers]


def _inverse(ratios):
  """The median of others' times in units of ours."""
  return statistics.median(1.0 / ratio for ratio in ratios)


def _beside_others(read: Read) -> list[Row]:
  rows: list[Row] = []

  def add(what: str, *others: tuple[str, Cell]) -> None:
    for index, (other, cell) in enumerate(others):
      rows.append((f'{what if index == 0 else "the same"} | {other}', [cell]))

  epochs = {
    'vae_epoch': 'epoch of an MLP VAE, batch 128',
    'vae_epoch_iwae': 'epoch of the same as an IWAE, K = 8',
    'vae_epoch_ldc': ('epoch of `ldc`, K = 8, sampler net and energy included'),
  }
  for name, what in epochs.items():
    ratios = read(name)['ratios']
    words = ("Pythae's trainer", 'a bare loop of PyTorch')
    if name == 'vae_epoch_ldc':
      words = ("Pythae's IWAE, K = 8", "the bare loop's IWAE, K = 8")
    add(
      what,
      (words[0], _inverse(ratios['pythae'])),
      (words[1], _inverse(ratios['torch'])),
    )
  found = _train_step(read, 'train_step')
  step = 'step of SVGD for encoder and decoder, MLP, batch 128, K = 8'
  add(
    step,
    (
      'our IWAE step with the same K',
      1.0 / found['ldc_autoencoder']['wall_ratio'],
    ),
  )
  add(
    'the same with sampler net and latent energy',
    ('the same', 1.0 / found['ldc']['wall_ratio']),
  )
  steps = read('conv_step')['results']
  again = read('conv_step_32x32x3')['results']['32x32x3']

  def conv(results, worker: str) -> float:
    return _inverse(results[worker]['ratios'])

  grey, colour = steps['28x28x1'], steps['32x32x3']
  add(
    'step of a convolutional VAE, 28x28x1, batch 128',
    ("XLA's convolutions", conv(grey, 'native')),
    ('PyTorch eager', conv(grey, 'torch')),
    ("Pythae's trainer", conv(grey, 'pythae')),
  )
  add(
    'the same, 32x32x3',
    ("XLA's convolutions", conv(colour, 'native')),
    (
      'PyTorch eager, two runs',
      [conv(colour, 'torch'), conv(again, 'torch')],
    ),
    (
      "Pythae's trainer, two runs",
      [conv(colour, 'pythae'), conv(again, 'pythae')],
    ),
  )
  peers = {'blackjax': 'blackjax', 'numpyro': 'numpyro', 'PyTorch': 'torch'}
  for what, name, part, num, dim in (
    (
      'SVGD direction, one target, 2048 particles, D = 32',
      'svgd_directions',
      'one target',
      2048,
      32,
    ),
    ('the same on an H100', 'svgd_directions_gpu', 'one target', 2048, 32),
    ('the same, 8192 particles', 'svgd_directions_gpu', 'one target', 8192, 32),
    (
      '128 targets at once, 64 particles, D = 64',
      'svgd_directions',
      'batched',
      64,
      64,
    ),
    (
      '128 targets at once, 16 particles, D = 16',
      'svgd_directions',
      'batched',
      16,
      16,
    ),
    (
      '64 particles, D = 64, on Python 3.11',
      'svgd_directions_python311',
      'batched',
      64,
      64,
    ),
    (
      '16 particles, D = 16, on Python 3.11',
      'svgd_directions_python311',
      'batched',
      16,
      16,
    ),
  ):
    cells = directions(read, name, part, num, dim, list(peers.values()))
    largest = what.startswith('SVGD')
    add(
      what,
      *(
        (f'{x} (its largest ratio)' if largest and x == 'blackjax' else x, cell)
        for x, cell in zip(peers, cells, strict=True)
        if cell is not None
      ),
    )
  return rows


def _large_sets(read: Read) -> list[Row]:
  (alone,) = read('svgd_large_alone')['one target']
  share = {
    (row['n'], row['dim']): svgd_directions_tables.floor_share(row)
    for row in read('svgd_large')['one target']
  }
  both = (svgd_directions_tables.floor_share(alone), share[32768, 32])
  return [
    ('8,192 x 32', [share[8192, 32], UNKEPT]),
    ('8,192 x 256', [share[8192, 256], None]),
    ('16,384 x 32', [None, UNKEPT]),
    ('32,768 x 32', [both, UNKEPT]),
    ('32,768 x 256', [share[32768, 256], UNKEPT]),
  ]


def _gpu(read: Read) -> list[Row]:
  rows: list[Row] = []
  for label, name, size, dtype in (
    ('MLP of MNIST | 128 | float32', 'mlp', 128, 'float32'),
    ('MLP of MNIST | 2,048 | float32', 'mlp', 2048, 'float32'),
    ('`conv`, 28x28 | 512 | bfloat16', 'conv', 512, 'bfloat16'),
    ('`conv64`, 64x64x3 | 256 | bfloat16', 'conv64', 256, 'bfloat16'),
  ):
    fields = (('train.batch_size', size), ('model.dtype', dtype))
    found = _train_step(read, f'train_step_gpu_{name}', *fields)
    each = [found.get(x) for x in ('vae', 'ldc')]
    rows.append((label, [x and x['images_per_second'] for x in each]))
  return rows


def _start(read: Read) -> list[Row]:
  median = read('start')['median']
  first = (
    'from the start of the process to the first step on `digits`, programs'
    ' compiled before'
  )
  debug = '`--mode=compare` of 13 methods in `debug` size, two seeds, on'
  return [
    (first, [median['warm']['seconds']]),
    ('the same with an empty cache', [median['cold']['seconds']]),
    ('`--mode=evaluate` of an MNIST run', [UNKEPT]),
    (f'{debug} `digits`', [UNKEPT]),
  ]


# As `page_tables.TABLES`.
TABLES: Mapping[tuple[str, str, int], Callable[[Read], list[Row]]] = {
  (_SPEED, 'Beside others', 1): _beside_others,
  (_SPEED, 'One H100', 1): _gpu,
  (_SPEED, 'Start and evaluation', 1): _start,
  (_NOTES, 'On a GPU', 1): _mlp_on_gpu,
  (_NOTES, 'Convolutions on the CPU', 1): _convolutions,
  (_NOTES, 'One SVGD direction', 2): _large_sets,
  ('benchmarks/results/train_step.md', '', 1): _train_step_page,
}
