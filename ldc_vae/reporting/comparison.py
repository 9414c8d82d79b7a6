"""Tables of methods side by side: means over seeds, differences by seed.

Pure: results in, rows and text out. A row is a method with its own generator,
or a method whose decoder is fed by a latent law fitted after training ("VAE +
GMM-10"). Rows are compared within a scope: 'own', the generators of the
methods alone, or 'all', with the fitted laws.
"""

from collections.abc import Iterable, Mapping, Sequence
import csv
import io
import math
import re
from typing import Any, NamedTuple

from ldc_vae.metrics import spread
from ldc_vae.reporting import figures
from ldc_vae.reporting import report
from ldc_vae.samplers import latents

CONFIDENCE = 0.95  # of the intervals
LOWER, HIGHER = 'lower', 'higher'


class Metric(NamedTuple):
  """One column.

  Attributes:
    name: As in results.json, without the source of a distance.
    label: For people.
    better: LOWER or HIGHER.
    is_distance: Whether each latent source has its own.
  """

  name: str
  label: str
  better: str
  is_distance: bool = False


_DISTANCES = (
    Metric('frechet_classifier', 'Fréchet, classifier', LOWER, True),
    Metric('frechet_inception', 'Fréchet, Inception', LOWER, True),
    Metric('frechet_pca', 'Fréchet, PCA', LOWER, True),
    Metric('kid_classifier', 'KID, classifier', LOWER, True),
)
_OTHERS = (
    Metric('prdc/precision', 'precision', HIGHER),
    Metric('prdc/recall', 'recall', HIGHER),
    Metric('prdc/density', 'density', HIGHER),
    Metric('prdc/coverage', 'coverage', HIGHER),
    Metric('nll/elbo', '-ELBO, nats', LOWER),
    Metric('nll/importance', 'NLL by importance sampling, nats', LOWER),
    Metric('nll/ais', 'NLL by AIS, nats', LOWER),
    Metric('eval/reconstruction_mse', 'reconstruction MSE', LOWER),
    Metric('time/sample_10k_seconds', '10,000 images, s', LOWER),
    Metric('time/sample_10k_latents_seconds', '10,000 latents, s', LOWER),
)
_NOT_FITTED = ('prior', 'gaussian')  # and not worth a row
_SECOND_JUDGE = re.compile(r'(frechet_classifier_seed_(\d+))/generator')


def metrics(runs: Iterable[Mapping[str, Any]]) -> list[Metric]:
  """The columns for which any run has a number, in their order.

  Args:
    runs: Each with 'results', the content of its results.json or None.
  """
  found = {
      name
      for run in runs
      for name, value in (run['results'] or {}).items()
      if _is_number(value)
  }
  judges = sorted(
      (int(match[2]), match[1])
      for match in map(_SECOND_JUDGE.fullmatch, found)
      if match
  )
  seconds = [
      Metric(name, f'Fréchet, classifier of seed {seed}', LOWER, True)
      for seed, name in judges
  ]
  families = {name.rpartition('/')[0] for name in found}
  return [
      *(x for x in (_DISTANCES[0], *seconds, *_DISTANCES[1:])
        if x.name in families),
      *(x for x in _OTHERS if x.name in found),
  ]


def create_rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The rows of the tables, with every number that stands in them.

  Args:
    runs: Each with 'method', 'seed' and 'results', None for one that has none.

  Returns:
    Rows with 'method', 'source' ('generator' or the fitted law), 'label' and
    'metrics': name -> 'values' (seed -> value), 'mean', 'standard_error' (None
    of one seed), 'num_seeds' and, in 'own' and 'all', for each scope that the
    row is in: 'best' (whether it is), 'reference' (the label of the best) and
    'difference' ('mean', 'low', 'high', 'num_pairs'; None of the best). The
    best has the best mean of those with the most seeds.
  """
  columns = metrics(runs)
  rows = []
  for method in dict.fromkeys(run['method'] for run in runs):
    group = [run for run in runs if run['method'] == method and run['results']]
    laws = {
        source
        for run in group
        for name, value in run['results'].items()
        for family, _, source in [name.partition('/')]
        if family.startswith('frechet_')
        and latents.is_known(source)
        and source not in _NOT_FITTED
        and _is_number(value)
    }
    laws = sorted(laws, key=_law_order)
    for source in ('generator', *laws):
      cells = {}
      for metric in columns:
        name = _name_of(metric, source)
        values = {
            run['seed']: float(run['results'][name])
            for run in group
            if name and _is_number(run['results'].get(name))
        }
        if values:
          cells[metric.name] = {
              'values': values,
              'mean': spread.mean(list(values.values())),
              'standard_error': spread.standard_error(list(values.values())),
              'num_seeds': len(values),
          }
      rows.append({
          'method': method,
          'source': source,
          'label': label(method, source),
          'metrics': cells,
      })
  for metric in columns:
    _compare(rows, metric, 'own')
    if metric.is_distance:
      _compare(rows, metric, 'all')
  return rows


def label(method: str, source: str = 'generator') -> str:
  """A row in words: 'LDC-VAE', 'VAE + GMM-10'."""
  name = report.method_label(method)
  if source == 'generator':
    return name
  return f'{name} + {figures.source_label(source)}'


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[Metric]) -> str:
  """One line per row; seven cells per metric, empty where there is nothing."""
  stream = io.StringIO()
  out = csv.writer(stream, lineterminator='\n')
  parts = (
      'mean', 'standard_error', 'num_seeds', 'best', 'difference',
      'difference_low', 'difference_high',
  )
  out.writerow([
      'method', 'source', 'label',
      *(f'{metric.name} {part}' for metric in columns for part in parts),
  ])
  for row in rows:
    line = [row['method'], row['source'], row['label']]
    for metric in columns:
      cell = row['metrics'].get(metric.name)
      if cell is None:
        line += [''] * len(parts)
        continue
      scope = cell['all'] if metric.is_distance else cell['own']
      difference = scope['difference'] or {}
      line += [
          cell['mean'], cell['standard_error'], cell['num_seeds'],
          int(scope['best']),
          *(difference.get(name) for name in ('mean', 'low', 'high')),
      ]
    out.writerow('' if value is None else value for value in line)
  return stream.getvalue()


def to_markdown(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Metric],
    num_seeds: int,
) -> str:
  """The tables, each with its differences to the best below it.

  Args:
    rows: From `create_rows`.
    columns: From `metrics`.
    num_seeds: That were asked for; rows with fewer say so.
  """
  own = [row for row in rows if row['source'] == 'generator']
  distances = [metric for metric in columns if metric.is_distance]
  others = [metric for metric in columns if not metric.is_distance]
  parts = [
      _section('Methods with their own generator: distance from held-out'
               ' images', own, distances, 'own', num_seeds),
      _section('With latent laws fitted after training', rows, distances,
               'all', num_seeds) if len(own) < len(rows) else '',
      _section('Samples, likelihood and time of the methods themselves', own,
               others, 'own', num_seeds),
  ]
  return '\n'.join(part for part in parts if part)


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]]
) -> str:
  """A Markdown table, numbers to the right.

  Args:
    header: Column names; the first column is text.
    rows: Cells as text, each row as long as the header.

  Returns:
    Lines, the last one ended.
  """
  rules = ['---'] + ['---:'] * (len(header) - 1)
  lines = []
  for row in (header, rules, *rows):
    if len(row) != len(header):
      raise ValueError(f'row {row} has {len(row)} cells, not {len(header)}')
    lines.append(f'| {" | ".join(row)} |')
  return '\n'.join(lines) + '\n'


def _is_number(value: Any) -> bool:
  """Whether a JSON value is a finite number."""
  is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
  return is_real and math.isfinite(value)


def _law_order(source: str) -> tuple:
  """Mixtures by their size, then the others."""
  is_mixture = source.startswith('gmm_')
  return (not is_mixture, int(source[4:]) if is_mixture else 0, source)


def _name_of(metric: Metric, source: str) -> str:
  """Where results.json has a cell; '' where it has none."""
  if metric.is_distance:
    return f'{metric.name}/{source}'
  return metric.name if source == 'generator' else ''


def _compare(rows, metric: Metric, scope: str) -> None:
  """Adds to the cells of a metric how they compare with the scope's best."""
  members = [
      row for row in rows
      if metric.name in row['metrics']
      and (scope == 'all' or row['source'] == 'generator')
  ]
  if not members:
    return
  cell = lambda row: row['metrics'][metric.name]
  most = max(cell(row)['num_seeds'] for row in members)
  sign = 1.0 if metric.better == LOWER else -1.0
  best = min(
      (row for row in members if cell(row)['num_seeds'] == most),
      key=lambda row: sign * cell(row)['mean'],
  )
  for row in members:
    difference = None
    if row is not best:
      difference = spread.paired_difference(
          cell(row)['values'], cell(best)['values'], CONFIDENCE
      )
    cell(row)[scope] = {
        'best': row is best,
        'reference': best['label'],
        'difference': difference and difference._asdict(),
    }


def _section(title, rows, columns, scope, num_seeds) -> str:
  """A table of means and one of differences; '' without a column."""
  columns = [
      metric for metric in columns
      if any(metric.name in row['metrics'] for row in rows)
  ]
  if not columns:
    return ''
  arrows = {LOWER: '↓', HIGHER: '↑'}
  header = [f'{x.label} {arrows[x.better]}' for x in columns]
  means = markdown_table(
      ['', *header],
      (
          [row['label'],
           *(_mean_text(row, metric, scope, num_seeds) for metric in columns)]
          for row in rows
      ),
  )
  if len(rows) < 2:
    return f'### {title}\n\n{means}'
  differences = markdown_table(
      ['difference to the best', *header],
      (
          [row['label'],
           *(_difference_text(row, metric, scope) for metric in columns)]
          for row in rows
      ),
  )
  return f'### {title}\n\n{means}\n{differences}'


def _mean_text(row, metric: Metric, scope: str, num_seeds: int) -> str:
  """'mean ± standard error', bold for the best."""
  cell = row['metrics'].get(metric.name)
  if cell is None:
    return '–'
  text = _show(cell['mean'], metric)
  if cell['standard_error'] is not None:
    text += f' ± {_show(cell["standard_error"], metric, digits=2)}'
  if cell[scope]['best']:
    text = f'**{text}**'
  if cell['num_seeds'] < num_seeds:
    text += f' ({cell["num_seeds"]} of {num_seeds} seeds)'
  return text


def _difference_text(row, metric: Metric, scope: str) -> str:
  """'+1.2 [0.8, 1.6]'; 'best', or – where no seed is common."""
  cell = row['metrics'].get(metric.name)
  if cell is None:
    return '–'
  if cell[scope]['best']:
    return 'best'
  difference = cell[scope]['difference']
  if difference is None:
    return 'no common seed'
  text = _show(difference['mean'], metric, plus=True)
  if difference['low'] is None:
    return text
  low, high = (_show(difference[x], metric) for x in ('low', 'high'))
  return f'{text} [{low}, {high}]'


def _show(
    value: float, metric: Metric, *, digits: int = 3, plus: bool = False
) -> str:
  """A number with some significant digits; nats with two decimals."""
  sign = '+' if plus else ''
  if metric.name.startswith('nll/'):
    return f'{value:{sign},.2f}'
  if value == 0.0:
    return '0'
  magnitude = math.floor(math.log10(abs(value)))
  if magnitude < -3:
    return f'{value:{sign}.{digits - 1}e}'
  return f'{value:{sign},.{max(digits - 1 - magnitude, 0)}f}'
