"""Tables of methods side by side: means over seeds, differences by seed.

Pure: results in, rows and text out. A row is a method with its own generator,
or a method whose decoder is fed by a latent sampler that was fitted after
training ('VAE + GMM-10'). Rows are compared within a scope: 'own', the
generators of the methods alone, or 'all', with the fitted samplers.
"""

from collections.abc import Iterable, Mapping, Sequence
import csv
import dataclasses
import io
import math
from typing import Any, NamedTuple

from ldc_vae import formats
from ldc_vae import methods
from ldc_vae import names
from ldc_vae.metrics import intervals
from ldc_vae.runtime import console

CONFIDENCE = 0.95  # of the intervals


def method_label(method: str) -> str:
  """The words for a method, 'ldc' -> 'LDC-VAE'."""
  known = methods.METHODS.get(method)
  return known.label if known else method


def label(method: str, source: str = 'generator') -> str:
  """The words for a row: 'LDC-VAE', 'VAE + GMM-10'."""
  name = method_label(method)
  if source == 'generator':
    return name
  return f'{name} + {names.find_source(source).label}'


def columns(runs: Iterable[Mapping[str, Any]]) -> list[names.Metric]:
  """The compared metrics for which a run has a number, in their order.

  The label of one with a caution in any run has a mark.

  Args:
    runs: Each with 'results', the content of its results.json or None.
  """
  found = [run['results'] for run in runs if run['results']]
  measured = {
    name
    for results in found
    for name, value in results.items()
    if formats.is_number(value)
  }
  metrics = {}
  for name in sorted(measured, key=names.metric_rank):
    metric, _ = names.find_metric(name)
    if metric.compared:
      mark = max(names.mark(name, results) for results in found)
      metric = dataclasses.replace(metric, label=f'{metric.label}{mark}')
      metrics.setdefault(column_name(metric), metric)
  return list(metrics.values())


def column_name(metric: names.Metric) -> str:
  """The key of a metric in a row, its name without the source."""
  return metric.name.removesuffix('/{source}')


def create_rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The rows of the tables, with all numbers.

  Args:
    runs: Each with 'method', 'seed' and 'results', None for one that has none.

  Returns:
    Rows with 'method', 'source' ('generator' or the fitted sampler), 'label'
    and 'metrics': name -> 'values' (seed -> value), 'mean', 'standard_error'
    (None of one seed), 'num_seeds' and, in 'own' and 'all', for each scope that
    the row is in: 'best' (whether it is), 'clear' (whether it is, and no other
    row's interval reaches it), 'reference' (the label of the best) and
    'difference' ('mean', 'low', 'high', 'num_pairs'; None of the best). Only
    rows with the most seeds can be the best; all with the best mean are.
  """
  metrics = columns(runs)
  rows = []
  for method in dict.fromkeys(run['method'] for run in runs):
    group = [run for run in runs if run['method'] == method and run['results']]
    for source in ('generator', *_fitted_samplers(group)):
      cells = {}
      for metric in metrics:
        if not metric.is_per_source and source != 'generator':
          continue
        name = metric.name.replace('{source}', source)
        values = {
          run['seed']: float(run['results'][name])
          for run in group
          if formats.is_number(run['results'].get(name))
        }
        if values:
          cells[column_name(metric)] = {
            'values': values,
            'mean': intervals.mean(list(values.values())),
            'standard_error': intervals.standard_error(list(values.values())),
            'num_seeds': len(values),
          }
      rows.append(
        {
          'method': method,
          'source': source,
          'label': label(method, source),
          'metrics': cells,
        }
      )
  own = [row for row in rows if row['source'] == 'generator']
  for metric in metrics:
    _compare(own, metric, 'own')
    if metric.is_per_source:
      _compare(rows, metric, 'all')
  return rows


def to_csv(
  rows: Sequence[Mapping[str, Any]], metrics: Sequence[names.Metric]
) -> str:
  """One line per row; eight cells per metric, empty where there is nothing."""
  stream = io.StringIO()
  out = csv.writer(stream, lineterminator='\n')
  parts = (
    'mean',
    'standard_error',
    'num_seeds',
    'best',
    'clear',
    'difference',
    'difference_low',
    'difference_high',
  )
  out.writerow(
    [
      'method',
      'source',
      'label',
      *(f'{column_name(x)} {part}' for x in metrics for part in parts),
    ]
  )
  for row in rows:
    line = [row['method'], row['source'], row['label']]
    for metric in metrics:
      cell = row['metrics'].get(column_name(metric))
      if cell is None:
        line += [None] * len(parts)
        continue
      scope = cell['all' if metric.is_per_source else 'own']
      difference = scope['difference'] or {}
      line += [
        cell['mean'],
        cell['standard_error'],
        cell['num_seeds'],
        int(scope['best']),
        int(scope['clear']),
        *(difference.get(name) for name in ('mean', 'low', 'high')),
      ]
    out.writerow(line)
  return stream.getvalue()


class Section(NamedTuple):
  """Tables of one kind: means, and differences from the best.

  Attributes:
    title: Its heading.
    tables: Each a header and rows of cells, as long as the header. Bold cells
      are in asterisks, as in Markdown.
  """

  title: str
  tables: list[tuple[list[str], list[list[str]]]]


def sections(
  rows: Sequence[Mapping[str, Any]],
  metrics: Sequence[names.Metric],
  num_seeds: int,
) -> list[Section]:
  """The tables, each with its differences from the best below it.

  Args:
    rows: From `create_rows`.
    metrics: From `columns`; those without a scale are left out.
    num_seeds: The seeds of the comparison; rows with fewer say so.
  """
  metrics = [metric for metric in metrics if not metric.unscaled]
  own = [row for row in rows if row['source'] == 'generator']
  distances = [metric for metric in metrics if metric.is_per_source]
  others = [metric for metric in metrics if not metric.is_per_source]
  parts = [
    _section(
      'Methods with their own generator: distance from held-out images',
      own,
      distances,
      'own',
      num_seeds,
    ),
    _section(
      'With latent samplers fitted after training',
      rows,
      distances,
      'all',
      num_seeds,
    )
    if len(own) < len(rows)
    else None,
    _section(
      'Samples, likelihood and time of the methods themselves',
      own,
      others,
      'own',
      num_seeds,
    ),
  ]
  return [part for part in parts if part]


def to_markdown(
  rows: Sequence[Mapping[str, Any]],
  metrics: Sequence[names.Metric],
  num_seeds: int,
) -> str:
  """The `sections` as text."""
  return '\n'.join(
    f'### {title}\n\n' + '\n'.join(_escaped_table(*each) for each in tables)
    for title, tables in sections(rows, metrics, num_seeds)
  )


def escape_markdown(text: str) -> str:
  """Returns a text that is only text in Markdown, of which '**' stays bold.

  Names and texts come from files of results, which may be of others.
  """
  for old, new in (
    *(('&', '&amp;'), ('<', '&lt;'), ('>', '&gt;')),
    *(('\\', '\\\\'), ('](', ']\\('), ('`', "'"), ('|', '\\|')),
  ):
    text = text.replace(old, new)
  return console.printable(' '.join(text.split()))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
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


def _escaped_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A Markdown table whose cells are only text, or bold."""
  escape = lambda row: [escape_markdown(cell) for cell in row]
  return markdown_table(escape(header), map(escape, rows))


def _fitted_samplers(runs: Iterable[Mapping[str, Any]]) -> list[str]:
  """The samplers that a run of one method has a distance for."""
  found = set()
  for run in runs:
    for name, value in run['results'].items():
      metric, source = names.find_metric(name)
      if metric.compared and source and formats.is_number(value):
        found.add(source)
  is_sampler = lambda x: names.find_source(x).kind == names.SAMPLER
  return sorted(filter(is_sampler, found), key=names.source_rank)


def _compare(rows, metric: names.Metric, scope: str) -> None:
  """Adds to the cells of a metric how they compare with the scope's best."""
  name = column_name(metric)
  labels = [row['label'] for row in rows if name in row['metrics']]
  cells = [row['metrics'][name] for row in rows if name in row['metrics']]
  if not cells:
    return
  most = max(cell['num_seeds'] for cell in cells)
  sign = -1.0 if metric.better == names.HIGHER else 1.0
  first = min(
    (index for index, cell in enumerate(cells) if cell['num_seeds'] == most),
    key=lambda index: sign * cells[index]['mean'],
  )
  reference = cells[first]
  for cell in cells:
    # the mean of equal numbers in another order differs by rounding
    is_best = cell['num_seeds'] == most and math.isclose(
      cell['mean'], reference['mean'], rel_tol=1e-12
    )
    difference = None
    if not is_best:
      difference = intervals.paired_difference(
        cell['values'], reference['values'], CONFIDENCE
      )
    cell[scope] = {
      'best': is_best,
      'reference': labels[first],
      'difference': difference and difference._asdict(),
    }
  is_clear = not any(_holds_zero(cell[scope]['difference']) for cell in cells)
  for cell in cells:
    cell[scope]['clear'] = cell[scope]['best'] and is_clear


def _holds_zero(difference: Mapping[str, Any] | None) -> bool:
  """Whether a difference has an interval, and 0 is in it."""
  if difference is None or difference['low'] is None:
    return False
  return difference['low'] <= 0.0 <= difference['high']


def _section(title, rows, metrics, scope, num_seeds) -> Section | None:
  """A table of means and one of differences; None without a column."""
  metrics = [
    x for x in metrics if any(column_name(x) in row['metrics'] for row in rows)
  ]
  if not metrics:
    return None
  header = [f'{x.label}{x.arrow}' for x in metrics]
  tables = [
    (
      ['', *header],
      [
        [row['label'], *(_mean(row, x, scope, num_seeds) for x in metrics)]
        for row in rows
      ],
    )
  ]
  if len(rows) > 1:
    differences = [
      [row['label'], *(_difference(row, x, scope) for x in metrics)]
      for row in rows
    ]
    tables.append((['difference from the best', *header], differences))
  return Section(title, tables)


def _mean(row, metric: names.Metric, scope: str, num_seeds: int) -> str:
  """'mean ± standard error', bold for the best where it is clear."""
  cell = row['metrics'].get(column_name(metric))
  if cell is None:
    return '–'
  text = metric.text(cell['mean'])
  if cell['standard_error'] is not None:
    text += f' ± {metric.text(cell["standard_error"], digits=2)}'
  if cell[scope]['clear']:
    text = f'**{text}**'
  if cell['num_seeds'] < num_seeds:
    text += f' ({cell["num_seeds"]} of {num_seeds} seeds)'
  return text


def _difference(row, metric: names.Metric, scope: str) -> str:
  """'+1.2 [0.8, 1.6]'; 'best', or 'no common seed'."""
  cell = row['metrics'].get(column_name(metric))
  if cell is None:
    return '–'
  if cell[scope]['best']:
    return 'best'
  difference = cell[scope]['difference']
  if difference is None:
    return 'no common seed'
  text = metric.text(difference['mean'], sign='+')
  if difference['low'] is None:
    return text
  low, high = (metric.text(difference[x]) for x in ('low', 'high'))
  return f'{text} [{low}, {high}]'
