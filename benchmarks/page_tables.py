"""Where the numbers of the pages come from: one function for each table.

`TABLES` has the tables that are made from files of benchmarks/results; those of
speed are in `page_tables_speed.py`. `NOT_KEPT` names those whose files are not
kept. A table of measured numbers must be in one of them, and `check_tables.py`
sees to it.

A function takes `read`, which returns the content of a file by its name, and
returns the rows: a label, and what each further column must say. That is a
number, some numbers ('1.2 ± 0.1', '3 to 4'), None for an empty cell, or
`UNKEPT` for a number whose file is not kept.
"""

from collections.abc import Callable, Mapping, Sequence
import statistics
from typing import Any

from benchmarks import encoder_bound
from ldc_vae.metrics import intervals
from ldc_vae.reporting import tables

Read = Callable[[str], Any]
Cell = float | Sequence[float] | str | None
Row = tuple[str, Sequence[Cell]]  # labels of several columns have ' | '

UNKEPT = 'not kept'
TEST = 'the test split'
_RESULTS, _NOTES = 'docs/results.md', 'docs/lab-notes.md'
_FIRST, _SECOND = 'frechet_classifier', 'frechet_classifier_seed_1'
_SETS = ('mnist', 'fashion_mnist')
_COLUMNS = [(name, family) for family in (_FIRST, _SECOND) for name in _SETS]
_AE_FILES = {
  'mnist': ('latents_mnist_ae',),
  'fashion_mnist': (
    'latents_fashion_mnist_ae',
    'latents_fashion_mnist_ae_seeds_1_2',
  ),
}


def _by_seed(read: Read, names: Sequence[str], metric: str) -> dict[int, float]:
  """A metric of the runs of some comparisons, by seed."""
  return {
    run['seed']: run['results'][metric]
    for name in names
    for run in read(name)['runs']
  }


def _spread(values: Mapping[int, float]) -> Sequence[float]:
  """The mean and the standard deviation over seeds, or the only value."""
  numbers = list(values.values())
  if len(numbers) == 1:
    return numbers
  return [statistics.mean(numbers), statistics.stdev(numbers)]


def _interval(one: Mapping[int, float], other: Mapping[int, float]) -> list:
  """The mean of one - other and its interval, as two cells."""
  found = intervals.paired_difference(one, other, tables.CONFIDENCE)
  return [found.mean, (found.low, found.high)]


def _ldc(read: Read, name: str, metric: str) -> dict[int, float]:
  return _by_seed(read, (f'latents_{name}',), metric)


def readme(read: Read) -> list[Row]:
  labels = {
    'none: real training images': 'real',
    'posterior samples: what a perfect sampler reaches': 'aggregate',
    'sampler net of `ldc`, one pass': 'generator',
    'mixture of 200 Gaussians, fitted afterwards': 'gmm_200',
    'flow matching, 50 evaluations of its net': 'flow_matching',
    'mixture of 50 Gaussians': 'gmm_50',
    'N(0, I), as a VAE does': 'prior',
  }
  return [
    (x, [_spread(_ldc(read, name, f'{_FIRST}/{source}')) for name in _SETS])
    for x, source in labels.items()
  ]


def latent_sources(read: Read) -> list[Row]:
  labels = {
    'none: real training images (one set)': 'real',
    'posterior samples (what a perfect sampler reaches)': 'aggregate',
    '`ldc`: the sampler net, one pass': 'generator',
    'GMM-200, fitted afterwards': 'gmm_200',
    'GMM-50': 'gmm_50',
    'flow matching, 50 evaluations of its net': 'flow_matching',
    'N(0, I), as a VAE': 'prior',
  }
  of_ae = {
    '`ae`: codes of training images': 'aggregate',
    '`ae` + GMM-200': 'gmm_200',
    '`ae` + GMM-50': 'gmm_50',
    '`ae` + flow matching': 'flow_matching',
  }
  return [
    (x, [_spread(_ldc(read, name, f'{y}/{source}')) for name, y in _COLUMNS])
    for x, source in labels.items()
  ] + [
    (
      x,
      [
        _spread(_by_seed(read, _AE_FILES[name], f'{y}/{source}'))
        for name, y in _COLUMNS
      ],
    )
    for x, source in of_ae.items()
  ]


def _ratios(read: Read) -> list[Row]:
  rows = []
  for label, family in (('first', _FIRST), ('second', _SECOND)):
    cells = []
    for name in _SETS:
      net = _ldc(read, name, f'{family}/generator')
      limit = _ldc(read, name, f'{family}/aggregate')
      each = [net[seed] / limit[seed] for seed in net]
      cells.append((min(each), max(each)))
    rows.append((f'{label} classifier', cells))
  return rows


def gmm_beside_net(read: Read) -> list[Row]:
  rows = []
  for name, title in zip(_SETS, ('MNIST', 'Fashion-MNIST'), strict=True):
    for label, family in (('', _FIRST), (', second classifier', _SECOND)):
      gmm = _ldc(read, name, f'{family}/gmm_200')
      net = _ldc(read, name, f'{family}/generator')
      rows.append((title + label, _interval(gmm, net)))
  return rows


def _ae_beside_net(read: Read) -> list[Row]:
  rows = []
  for label, family in (('first', _FIRST), ('second', _SECOND)):
    net = _ldc(read, 'fashion_mnist', f'{family}/generator')
    ae = _by_seed(read, _AE_FILES['fashion_mnist'], f'{family}/gmm_200')
    rows.append((f'{label} classifier', _interval(net, ae)))
  return rows


def _discrepancies(read: Read) -> list[Row]:
  rows = []
  for label, source in (('sampler net', 'generator'), ('GMM-200', 'gmm_200')):
    found = [_ldc(read, name, f'latent/ksd_{source}') for name in _SETS]
    rows.append((label, [(min(x.values()), max(x.values())) for x in found]))
  return rows


def svgd_acts(read: Read) -> list[Row]:
  files = {
    'SVGD': 'latent_bench_svgd',
    'plain gradient of the energy': 'latent_bench_plain_gradient',
  }
  return [
    (label, [read(name)['rows'][0]['frechet_ratio']])
    for label, name in files.items()
  ]


def encoders(read: Read) -> list[Row]:
  files = {
    "in the posterior's own standard deviations": (
      'encoder_bound',
      'svgd, whitened',
    ),
    'one bandwidth for all dimensions (`method.whiten=false`)': (
      'encoder_bound_scalar',
      'svgd',
    ),
  }
  rows = []
  for label, (name, case) in files.items():
    found = encoder_bound.summarise(read(name)['rows'])
    difference = found[f'{case}/test/negative_elbo']
    cell = (difference['mean'], difference['standard_error'])
    rows.append((label, [cell]))
  return rows


def _annealing(read: Read) -> list[Row]:
  record = read('ais')
  return [
    (
      name.capitalize(),
      [
        record[name]['nll/ais'] - record[name]['nll/ais_importance'],
        record[name]['nll/ais_gap'],
      ],
    )
    for name in ('bernoulli', 'gaussian')
  ]


def _annealing_page(read: Read) -> list[Row]:
  labels = {'bernoulli': 'bernoulli', 'gaussian, scale 0.12': 'gaussian'}
  rows = []
  for label, name in labels.items():
    found = read('ais')[name]
    annealed, importance = found['nll/ais'], found['nll/ais_importance']
    cells = [annealed, importance, annealed - importance, found['nll/ais_gap']]
    rows.append((label, cells))
  return rows


def _widths(read: Read) -> list[Row]:
  rows = read('encoder_width')['rows']
  labels: dict[str, tuple[int, float | None]] = {
    '2 | ELBO': (2, None),
    '2 | SVGD, 7.28: the mean distance over log(K + 1)': (2, 7.28),
    **{f'2 | SVGD, {factor:g}': (2, factor) for factor in (2.0, 1.0, 0.5)},
    '4 | SVGD, 1': (4, 1.0),
  }
  found = {(row['particles'], row['factor']): row for row in rows}
  names = ('unused', 'used_geometric')
  return [
    (label, [statistics.mean(found[key][name]) for name in names])
    for label, key in labels.items()
  ]


def _few_particles(read: Read) -> list[Row]:
  cases = (
    *(('full', '0.3', '1'), ('full', '1', '1'), ('full', '0.3', '0.35')),
    *(('full', '1', '0.35'), ('diagonal', '0.3', '1'), ('diagonal', '1', '1')),
  )
  found = {
    (row['encoder'], row['start'], row['direction'], row['particles']): row
    for row in read('few_particles')['rows']
  }
  rows = []
  for encoder, start, factor in cases:
    key = (encoder, start, f'`rbf`, {factor} of the rule')
    label = f'{encoder} L, starts at {start} | {factor} of the rule'
    rows.append(
      (label, [statistics.mean(found[*key, num]['kl']) for num in (4, 8)])
    )
  return rows


def _narrowing(read: Read) -> list[Row]:
  labels = {
    '`rbf`, 0.3 of the mean rule': 'rbf, 0.3 of the rule',
    '`rbf`, the mean rule': 'rbf, 1 of the rule',
    '`rbf`, 4 times the mean rule': 'rbf, 4 of the rule',
    **{f'`{name}`': name for name in ('multi_scale', 'imq', 'linear')},
    **{
      f'`rbf`, noise of weight {weight}': f'rbf, noise {weight}'
      for weight in ('0.01', '0.1', '1')
    },
  }
  found = {
    (row['kernel'], row['weights']): statistics.mean(row['width'])
    for row in read('variance_collapse')['rows']
  }
  return [
    (label, [found[kernel, each] for each in ('as they are', 'whitened')])
    for label, kernel in labels.items()
  ]


def toys(read: Read) -> list[Row]:
  labels = {
    'ring': ('ring_2', 'sliced_ratio'),
    'grid': ('grid_2', 'sliced_ratio'),
    'modes of unequal weight, in the plane': ('unequal_2', 'sliced_ratio'),
    'ring in 64 dimensions, in its plane': ('ring_64', 'sliced_plane_ratio'),
    'moons': ('moons_2', 'sliced_ratio'),
    '20 Gaussians in 16 dimensions': ('mixture_16', 'sliced_ratio'),
  }
  found = {
    row['set']: row
    for part in (1, 2)
    for row in read(f'latent_bench_toys_{part}')['rows']
  }
  return [(label, [found[x][y]]) for label, (x, y) in labels.items()]


def _temperatures(read: Read) -> list[Row]:
  rows: dict[str, list[Cell]] = {}
  for name in _SETS:
    for row in read(f'temperature_line_{name}')['rows']:
      cells = rows.setdefault(f'{row["lambda"]:g}', [])
      cells += [row[x] for x in ('aggregate', 'generator', 'gmm_200')]
  return list(rows.items())


def _penalties(read: Read) -> list[Row]:
  return [
    (
      label,
      [
        _spread(_by_seed(read, (f'latents_{name}{end}',), f'{_FIRST}/{source}'))
        for name in _SETS
        for source in ('generator', 'gmm_200')
      ],
    )
    for label, end in (
      ('1, 0.2', '_lambda_1'),
      ('8, 1', '_lambda_8'),
      ('8, 1, Muon, T ends at 0.01', ''),
    )
  ]


# (page, heading, number of the table under it) -> its rows
def _cifar10(read: Read) -> list[Row]:
  labels = {
    'none: real images': 'real',
    'reconstructions': 'reconstruction',
    'posterior samples': 'aggregate',
    'sampler net of `ldc`': 'generator',
    'GMM-50': 'gmm_50',
    'GMM-10': 'gmm_10',
    'one Gaussian': 'gaussian',
    'N(0, I)': 'prior',
  }
  (run,) = read('latents_cifar10_validation')['runs']
  return [
    (label, [run['results'][f'{_FIRST}/{source}']])
    for label, source in labels.items()
  ]


TABLES: Mapping[tuple[str, str, int], Callable[[Read], list[Row]]] = {
  ('README.md', 'Results', 1): readme,
  (_RESULTS, 'Latent sources', 1): latent_sources,
  (_RESULTS, 'The sampler net beside its own posteriors', 1): _ratios,
  (_RESULTS, 'GMM-200 beside the sampler net', 1): gmm_beside_net,
  (_RESULTS, '`ae` with GMM-200 beside the sampler net', 1): _ae_beside_net,
  (
    _RESULTS,
    'Kernel Stein discrepancy from the posteriors',
    1,
  ): _discrepancies,
  (_RESULTS, 'Does SVGD act?', 1): svgd_acts,
  (_RESULTS, "SVGD against the ELBO as the encoder's training", 1): encoders,
  (_RESULTS, 'Likelihood by annealing', 1): _annealing,
  (_NOTES, "How wide the encoder's posteriors come out", 1): _widths,
  (_NOTES, 'Few particles', 1): _few_particles,
  (_NOTES, 'How much SVGD narrows a posterior', 1): _narrowing,
  (_NOTES, 'Latent samplers on sets with known answers', 1): toys,
  (_NOTES, 'A larger inverse temperature', 1): _temperatures,
  (_NOTES, 'The penalty of the latent energy', 1): _penalties,
  (_NOTES, 'CIFAR-10 in short form', 1): _cifar10,
  ('benchmarks/results/ais.md', '', 1): _annealing_page,
}

# (page, heading, number of the table under it) -> what the numbers are of
NOT_KEPT: Mapping[tuple[str, str, int], str] = {
  (_RESULTS, 'Published likelihoods, again', 1): TEST,
  (_NOTES, 'Latent samplers on sets with known answers', 2): TEST,
  (_NOTES, 'The penalty of the latent energy', 2): 'the validation split',
  (_NOTES, 'The penalty of the latent energy', 3): 'training images',
  **{
    (_NOTES, 'The optimiser of the sampler net', x): 'training images'
    for x in range(1, 4)
  },
  (_NOTES, 'The last temperature of the repulsion', 1): 'the validation split',
  (_NOTES, 'The last temperature of the repulsion', 2): 'the validation split',
  (
    _NOTES,
    'What does not close the gap on Fashion-MNIST',
    1,
  ): 'the validation split',
  (_NOTES, 'A better start for the sampler net', 1): 'the validation split',
  (_NOTES, 'A better start for the sampler net', 2): 'the validation split',
  (_NOTES, 'Likelihoods of binarised MNIST', 1): TEST,
  (_NOTES, 'Likelihoods of binarised MNIST', 2): TEST,
  (_NOTES, 'Likelihoods of binarised MNIST', 3): 'the validation split',
  (_NOTES, 'Likelihoods of binarised MNIST', 4): TEST,
  **{(_NOTES, 'An epoch of `vae` on the CPU', x): 'time' for x in range(1, 6)},
  (_NOTES, 'Convolutions on a GPU', 1): 'time',
  (_NOTES, 'SVGD on a GPU', 1): 'time',
  (_NOTES, 'One SVGD direction', 1): 'time',
  (_NOTES, 'A batch of SVGD directions', 1): 'time',
  (_NOTES, 'A batch of SVGD directions', 2): 'time',
  (_NOTES, 'The tests', 1): 'time',
  ('docs/svgd.md', 'Variances', 1): 'the example above the table',
  ('benchmarks/results/torture.md', '', 1): 'tests of reliability',
  (
    'benchmarks/results/torture.md',
    'Power cuts, damage and failing calls',
    1,
  ): 'tests of reliability',
}
