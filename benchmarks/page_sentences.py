"""Where the numbers in sentences come from, as page_tables.py for tables.

A key is a page and its words, with {} for each number; the value gives the
numbers. Line ends, bold and code marks do not count.
"""

from collections.abc import Callable, Mapping, Sequence
import operator
import statistics
from typing import Any

from benchmarks import page_tables
from benchmarks import page_tables_speed
from benchmarks import svgd_directions_tables
from benchmarks.page_tables import Read

_README, _RESULTS, _NOTES = 'README.md', 'docs/results.md', 'docs/lab-notes.md'


def _cell(name: Callable[[Read], list[page_tables.Row]], label: str, *at: int):
  """Some numbers of a row, from the columns `at`."""

  def find(read: Read) -> list[float]:
    row = dict(name(read))[label]
    numbers = []
    for column in at:
      cell = row[column]
      numbers += cell if isinstance(cell, Sequence) else [cell]
    return numbers

  return find


def _first(*found: Callable[[Read], Sequence[float]]):
  """The first number of each: the mean without its spread."""
  return lambda read: [each(read)[0] for each in found]


def _gmm_is_nearer(read: Read) -> list[float]:
  mean, (low, high) = dict(page_tables.gmm_beside_net(read))['Fashion-MNIST']
  return [-mean, -high, -low]


def _toys(read: Read) -> list[float]:
  ratios = [cells[0] for _, cells in page_tables.toys(read)]
  return [min(ratios), max(ratios)]


def _of_ten_thousand(read: Read) -> list[float]:
  return [
    statistics.mean(
      run['results']['time/sample_10k_latents_seconds']
      for name in ('mnist', 'fashion_mnist')
      for run in read(f'latents_{name}')['runs']
    )
  ]


def _epochs(name: str, *parts: tuple[str, str]):
  """Parts of the summary of a file of vae_epoch.py."""
  return lambda read: [read(name)['summary'][x][y] for x, y in parts]


def _floor_shares(read: Read) -> list[float]:
  shares = [
    svgd_directions_tables.floor_share(row)
    for row in read('svgd_directions')['one target']
    if row['n'] in (2048, 8192) and row['dim'] in (32, 256)
  ]
  return [min(shares), max(shares)]


def _batches(name: str):
  """How many times as long blackjax takes: least, most, and at 16 x 16."""

  def find(read: Read) -> list[float]:
    ratio = svgd_directions_tables.median_ratio
    ratios = {
      (row['n'], row['dim']): ratio(row, 'blackjax')
      for row in read(name)['batched']
    }
    smallest = ratios.pop((16, 16))
    return [min(ratios.values()), max(ratios.values()), smallest]

  return find


def _syncing(name: str):
  """Milliseconds of a save with and without syncing, the median of turns."""

  def find(read: Read) -> list[float]:
    saves = read('syncing')['median']['saves']
    return [1e3 * saves[x][name] for x in ('synced', 'not synced')]

  return find


_behind = _cell(
  page_tables.encoders,
  'one bandwidth for all dimensions (`method.whiten=false`)',
  0,
)
_level = _cell(
  page_tables.encoders, "in the posterior's own standard deviations", 0
)
_of_the_net = _cell(page_tables.readme, 'sampler net of `ldc`, one pass', 0)
_of_gmm = _cell(
  page_tables.readme, 'mixture of 200 Gaussians, fitted afterwards', 0
)
_of_ae = _cell(page_tables.latent_sources, '`ae` + GMM-200', 1)


def _one_target(read: Read) -> Sequence[Any]:
  peers = ('blackjax', 'numpyro')
  return page_tables_speed.directions(
    read, 'svgd_directions', 'one target', 2048, 32, peers
  )


SENTENCES: Mapping[tuple[str, str], Callable[[Read], Sequence[float]]] = {
  (
    _README,
    'a mixture of 200 Gaussians is {} nearer (95 % interval {} to {})',
  ): _gmm_is_nearer,
  (_README, 'that mixture reaches {} ± {}, ahead of'): _of_ae,
  (_README, 'its draws are {} to {} times as far away'): _toys,
  (
    _RESULTS,
    'ahead of every rival here: {}, where GMM-200 on the same latents has {}.',
  ): _first(_of_the_net, _of_gmm),
  (_RESULTS, 'GMM-200 is {} nearer'): _first(_gmm_is_nearer),
  (_RESULTS, 'a plain autoencoder with GMM-200 reach {} ± {}.'): _of_ae,
  (
    _RESULTS,
    'ends at {} times the distance of fresh posterior draws, SVGD at {} times',
  ): _first(
    _cell(page_tables.svgd_acts, 'plain gradient of the energy', 0),
    _cell(page_tables.svgd_acts, 'SVGD', 0),
  ),
  (_RESULTS, '10,000 latents take {} s by the sampler net'): _of_ten_thousand,
  ('docs/running.md', 'makes a save of mnist:vae {} ms longer'): (
    lambda read: [operator.sub(*_syncing('seconds')(read))]
  ),
  ('docs/running.md', 'waits {} ms for a save either way'): _first(
    _syncing('loop_seconds')
  ),
  (_NOTES, 'too narrow: {} ± {} nats behind the ELBO'): _behind,
  (_NOTES, 'SVGD is level with the ELBO, {} ± {}'): _level,
  (_NOTES, 'svgd is at {} to {} times the distance of fresh draws'): _toys,
  (
    _NOTES,
    "An epoch takes {} of Pythae's by the wall clock and {} by CPU time, and"
    " {} of the same model's in a bare loop of PyTorch. These are medians of"
    ' seven turns, {} to {},',
  ): _epochs(
    'vae_epoch',
    ('ldc_vae / pythae', 'median'),
    ('ldc_vae / pythae, CPU', 'median'),
    ('ldc_vae / torch', 'median'),
    ('ldc_vae / pythae', 'min'),
    ('ldc_vae / pythae', 'max'),
  ),
  (
    _NOTES,
    "An epoch of iwae with 8 samples takes {} of Pythae's and {} of the bare"
    " loop's",
  ): _epochs(
    'vae_epoch_iwae',
    ('ldc_vae / pythae', 'median'),
    ('ldc_vae / torch', 'median'),
  ),
  (
    _NOTES,
    "One of ldc with 8 particles takes {} of Pythae's IWAE",
  ): _epochs('vae_epoch_ldc', ('ldc_vae / pythae', 'median')),
  (_NOTES, 'One target reaches {} to {} of the floor'): _floor_shares,
  (
    _NOTES,
    'it is {} times as fast as blackjax and {} times as numpyro',
  ): _one_target,
  (
    _NOTES,
    'a batch of 128 is {} to {} times as fast as blackjax ({} times at',
  ): _batches('svgd_directions'),
  (
    _NOTES,
    'It is {} to {} times as fast as blackjax ({} times at',
  ): _batches('svgd_directions_python311'),
  (_NOTES, 'A warm start takes {} s, where'): (
    lambda read: [read('start')['median']['warm']['seconds']]
  ),
}
