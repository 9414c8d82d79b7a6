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


def _convolutions_beside(read: Read) -> list[Row]:
  rows: list[Row] = []
  peers = {
    "XLA's convolutions": 'native',
    'PyTorch eager': 'torch',
    "Pythae's trainer": 'pythae',
  }
  for label, name, images in (
    ('28x28x1', 'conv_step', '28x28x1'),
    ('32x32x3', 'conv_step', '32x32x3'),
    ('32x32x3, a second run', 'conv_step_32x32x3', '32x32x3'),
  ):
    for beside, worker in peers.items():
      if worker in read(name)['results'][images]:
        ratio = _ratio(read, name, images, worker)
        rows.append((f'{label} | {beside}', [ratio]))
  return rows


def _training(read: Read) -> list[Row]:
  epoch = 'epoch of an MLP VAE, batch 128'
  same = 'epoch of the same as an IWAE, K = 8'
  whole = 'epoch of `ldc`, K = 8, sampler net and energy included'
  trainer, loop = "Pythae's trainer", 'a bare loop of PyTorch'
  rows: list[Row] = []
  for name, what, besides in (
    ('vae_epoch', epoch, (trainer, loop)),
    ('vae_epoch_iwae', same, (trainer, loop)),
    (
      'vae_epoch_ldc',
      whole,
      ("Pythae's IWAE, K = 8", "the bare loop's IWAE, K = 8"),
    ),
  ):
    ratios = read(name)['ratios']
    for label, beside, peer in zip(
      (what, 'the same'), besides, ('pythae', 'torch'), strict=True
    ):
      cell = statistics.median(ratios[peer])
      rows.append((f'{label} | {beside}', [cell]))
  found = _train_step(read, 'train_step')
  step = 'step of SVGD for encoder and decoder, MLP, batch 128, K = 8'
  return rows + [
    (
      f'{step} | an IWAE step with the same K',
      [found['ldc_autoencoder']['wall_ratio']],
    ),
    (
      'the same with sampler net and latent energy | the same',
      [found['ldc']['wall_ratio']],
    ),
  ]


def directions(
  read: Read, name: str, part: str, num: int, dim: int, peers: Sequence[str]
) -> list[Cell]:
  """How many times as long each peer takes."""
  (row,) = (x for x in read(name)[part] if (x['n'], x['dim']) == (num, dim))
  return [svgd_directions_tables.median_ratio(row, peer) for peer in peers]


def _one_target(read: Read) -> list[Row]:
  labels = (
    (
      '2048, one target (the largest ratio to blackjax)',
      'svgd_directions',
      2048,
    ),
    ('2048, on an H100', 'svgd_directions_gpu', 2048),
    ('8192, on an H100', 'svgd_directions_gpu', 8192),
  )
  peers = ('blackjax', 'numpyro', 'torch')
  return [
    (
      f'{label} | 32',
      directions(read, name, 'one target', num, 32, peers),
    )
    for label, name, num in labels
  ]


def _many_targets(read: Read) -> list[Row]:
  peers = ('blackjax', 'numpyro', 'torch')
  return [
    (
      f'{num} | {num} | {python}',
      directions(read, name, 'batched', num, num, peers),
    )
    for python, name in (
      ('3.12, 3.13', 'svgd_directions'),
      ('3.11', 'svgd_directions_python311'),
    )
    for num in (64, 16)
  ]


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
  (_SPEED, 'Training', 1): _training,
  (_SPEED, 'Convolutions', 1): _convolutions_beside,
  (_SPEED, 'SVGD directions', 1): _one_target,
  (_SPEED, 'A batch of SVGD directions', 1): _many_targets,
  (_SPEED, 'One H100', 1): _gpu,
  (_SPEED, 'Start and evaluation', 1): _start,
  (_NOTES, 'On a GPU', 1): _mlp_on_gpu,
  (_NOTES, 'Convolutions on the CPU', 1): _convolutions,
  (_NOTES, 'One SVGD direction', 2): _large_sets,
  ('benchmarks/results/train_step.md', '', 1): _train_step_page,
}
