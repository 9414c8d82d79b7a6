"""The tables of svgd_directions.py: times, memory, errors."""

from collections.abc import Sequence
import statistics
from typing import Any

from benchmarks import common
from ldc_vae.reporting import tables

OURS = 'ldc_vae'


def median_ratio(
  row: dict[str, Any], name: str, other: str = OURS
) -> float | None:
  """The median over turns of one time over another; None if left out."""
  if name not in row['seconds']:
    return None
  pairs = zip(row['seconds'][name], row['seconds'][other], strict=True)
  return statistics.median(a / b for a, b in pairs)


def floor_share(row: dict[str, Any]) -> float:
  """The median over turns of the floor over our time."""
  pairs = zip(row['floor_seconds'], row['seconds'][OURS], strict=True)
  return statistics.median(a / b for a, b in pairs)


def format_tables(result: dict[str, Any]) -> str:
  """The result as Markdown; a table without cases is left out."""
  names = list(result['workers'])
  single, batched = result.get('one target', []), result.get('batched', [])
  parts = []
  if single:
    parts += ['One target, time:', _format_times(single, names)]
  if batched:
    title = f'{batched[0]["batch"]} targets at once, time:'
    parts += [title, _format_times(batched, names)]
  if result.get('memory'):
    header = ['n', 'D', *(f'{name} MB' for name in names)]
    rows = [
      _shape(row) + [_megabytes(row['bytes'].get(name)) for name in names]
      for row in result['memory']
    ]
    parts += [
      'One target, growth of the peak memory by one direction in a fresh'
      ' process:',
      tables.markdown_table(header, rows),
    ]
  timed = single + batched
  if timed:
    rows = [
      [str(max(row['batch'], 1)), *_shape(row)]
      + [common.show(row['errors'].get(name), 2) for name in names]
      for row in timed
    ]
    loads = [row['load'] for row in timed]
    parts += [
      'Largest error against float64, in units of the largest component:',
      tables.markdown_table(['targets', 'n', 'D', *names], rows),
      'Load of the machine before the cases, this benchmark included: median'
      f' {statistics.median(loads):.1f}, at most {max(loads):.1f}.',
    ]
  versions = [
    f'{name} {each["versions"][name]}'
    for name, each in result['workers'].items()
    if name in each['versions']
  ]
  parts.append(
    f'Peers: {", ".join(versions) or "none"}. n/a: left out, as arrays of'
    f' pairs would need more than {result["peer_gigabytes"]:g} GB.'
  )
  return '\n\n'.join(part.strip() for part in parts) + '\n'


def title(case: dict[str, int]) -> str:
  """A case in words."""
  sets = f'{case["batch"]} x ' if case['batch'] else ''
  return f'{sets}n={case["n"]}, D={case["dim"]}'


def _format_times(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
  """A table of times and their ratios."""
  others = [name for name in names if name != OURS]
  header = ['n', 'D', 'floor ms', f'{OURS} ms', f'floor ÷ {OURS}']
  header += [f'{name} ÷ {OURS}' for name in others]
  cells = [
    [
      *_shape(row),
      common.show(1e3 * statistics.median(row['floor_seconds'])),
      common.show(1e3 * statistics.median(row['seconds'][OURS])),
      f'{floor_share(row):.2f}',
      *(common.show(median_ratio(row, name)) for name in others),
    ]
    for row in rows
  ]
  return tables.markdown_table(header, cells)


def _shape(case: dict[str, int]) -> list[str]:
  """The cells of n and D."""
  return [str(case['n']), str(case['dim'])]


def _megabytes(count: int | None) -> str:
  """Bytes in whole MB."""
  return 'n/a' if count is None else f'{count / 1e6:.0f}'
