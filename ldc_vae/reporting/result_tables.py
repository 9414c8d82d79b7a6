"""What the report says of results.json: headlines, tables and their notes."""

from collections.abc import Callable, Mapping, Sequence
import functools
import re
from typing import Any, NamedTuple

from ldc_vae import formats
from ldc_vae import names

# Families of metrics, and their headings.
HEADINGS = {
  'prdc': 'Fidelity and diversity',
  'classifier': 'Predicted classes of the samples',
  'nearest': 'Copies of training images',
  'nll': 'Likelihood of held-out images (nats per image)',
  'latent': 'Latents compared with the aggregate posterior',
  'eval': 'Reconstruction',
  'time': 'Cost',
  'protocol': 'How the numbers were made',
}
# Sources in the headlines, in the order of what is expected of them.
_HEADLINE_SOURCES = ('real', 'aggregate', 'generator', 'prior')
_FEW_ERRORS = 2.0  # standard errors within which means are not told apart
_LATENT = 'latent/'


class Headline(NamedTuple):
  """A number to read first, and the words for it."""

  label: str
  value: str


class BySource(NamedTuple):
  """A table with latent sources down and metrics across.

  Attributes:
    heading: Its words.
    header: The metrics.
    rows: Each a label, what it means, or '', and cells.
    notes: Labels, each with its meaning.
  """

  heading: str
  header: list[str]
  rows: list[tuple[str, str, list[str]]]
  notes: list[tuple[str, str]]


def headlines(results: Mapping[str, Any]) -> list[Headline]:
  """Returns the numbers to read first, ten at most."""
  family = names.main_distance(results)
  found = []
  for source in _HEADLINE_SOURCES:
    if not formats.is_number(results.get(f'{family}/{source}')):
      continue
    metric, _ = names.find_metric(f'{family}/{source}')
    label = f'{metric.label}: {names.find_source(source).label}'
    value = _distance(results, family, source)
    mark = names.mark(family, results)
    found.append(Headline(label, f'{value}{mark}'))
  for name in (
    'prdc/precision',
    'prdc/recall',
    'eval/reconstruction_mse',
    'nll/importance',
    'time/sample_10k_seconds',
  ):
    if formats.is_number(results.get(name)):
      metric, _ = names.find_metric(name)
      text = metric.text(results[name]) + names.mark(name, results)
      found.append(Headline(metric.label, text))
  own, unit = (results.get(f'nearest/train_{x}') for x in ('generator', 'test'))
  if formats.is_number(own) and formats.is_number(unit) and unit > 0:
    # a bare distance has no scale
    label = 'distance to training images (held-out images: 1, copies: 0)'
    found.append(Headline(label, formats.format_number(own / unit)))
  return found


def chance(results: Mapping[str, Any]) -> str:
  """Says how much of a distance is chance; '' without a distance."""
  family = names.main_distance(results)
  if not formats.is_number(results.get(f'{family}/generator')):
    return ''
  num_samples = results.get('num_samples')
  size = 'images'
  if formats.is_number(num_samples):
    size = f'{num_samples:,.0f} images'
  num_draws = _num_draws(results)
  if num_draws > 1:
    return (
      f'Fréchet distances are means over {num_draws} sets of {size}; ± is the'
      ' standard deviation between the sets. Another training seed changes'
      ' them too: --mode=compare trains several.'
    )
  return (
    f'Each distance is that of one set of {size}, and another set has another'
    ' distance: by about a tenth with 10,000 images, by up to a quarter with a'
    ' few hundred, by more with fewer. Sources that differ by less cannot be'
    ' ranked by these numbers. An evaluation with'
    ' config.evaluate.num_draws=10 averages ten sets.'
  )


def cautions(results: Mapping[str, Any]) -> list[str]:
  """Returns why not to rely on the numbers that are marked with ⚠."""
  return [
    f'{name.removeprefix(names.CAUTION)}: {text}'
    for name, text in results.items()
    if name.startswith(names.CAUTION)
  ]


def by_source(results: Mapping[str, Any]) -> list[BySource]:
  """Returns the tables of distances and of latents, each if it has rows."""
  distances: dict[str, names.Metric] = {}
  values: dict[str, dict[str, Any]] = {}
  for name in sorted(results, key=names.metric_rank):
    metric, source = names.find_metric(name)
    is_shown = metric.is_per_source and not (
      metric.unscaled or metric.family.endswith('_deviation')
    )
    if is_shown and results[name] is not None:
      distances[metric.family] = metric
      values.setdefault(source, {})[metric.family] = results[name]
  columns = [
    (
      f'{metric.label}{names.mark(family, results)}{metric.arrow}',
      metric.meaning,
      functools.partial(_distance, results, family),
    )
    for family, metric in distances.items()
  ]
  if _num_draws(results) > 1:
    columns.append(
      (
        'beside the generator',
        'Nearer or further than the generator, where the means in the first'
        f' column differ by more than {_FEW_ERRORS:.0f} standard errors. With'
        ' less, chance alone may have made the difference. A source with one'
        ' set of images only has no verdict.',
        functools.partial(_verdict, results),
      )
    )
  tables = [
    _by_source(
      'Distance from the reference, by source of the images', columns, values
    ),
    _latents(results),
  ]
  return [table for table in tables if table.rows]


def families(
  results: Mapping[str, Any], latent_size: int | None = None
) -> dict[str, list[tuple[str, str, str, str]]]:
  """Returns the other numbers: heading -> (label, meaning, value, its class).

  Args:
    results: The content of results.json.
    latent_size: D, beside which active units are shown; None if unknown.
  """
  found: dict[str, list] = {each: [] for each in HEADINGS.values()}
  for name in sorted(results, key=names.metric_rank):
    metric, source = names.find_metric(name)
    value = results[name]
    family, slash, _ = name.partition('/')
    is_shown = not (
      metric.is_per_source
      or metric.unscaled
      or value is None
      or name in names.RUN_FIELDS
      or family == 'protocol'
      or _latent_column(name)
    )
    if not is_shown:
      continue
    heading = HEADINGS.get(family, (slash and family) or 'Other')
    kind = 'number whole' if formats.is_number(value) else 'text'
    better = f'{metric.better.capitalize()} is better.' if metric.better else ''
    text = metric.text(value) + names.mark(name, results)
    if name == 'latent/active_units' and latent_size:
      text += f' of {latent_size}'
    row = (metric.label, f'{metric.meaning} {better}'.strip(), text, kind)
    found.setdefault(heading, []).append(row)
  return {heading: rows for heading, rows in found.items() if rows}


def protocol(results: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns how the numbers were made: labels and texts."""
  return [
    (names.find_metric(name)[0].label.removeprefix('protocol/'), str(value))
    for name, value in sorted(
      results.items(), key=lambda item: names.metric_rank(item[0])
    )
    if name.startswith('protocol/')
  ]


def numbers(results: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns every name of results.json with its value."""
  return [
    (
      name,
      names.find_metric(name)[0].text(results[name])
      + names.mark(name, results),
    )
    for name in sorted(results, key=names.metric_rank)
  ]


def deviations(results: Mapping[str, Any], family: str) -> dict[str, float]:
  """Returns each source's standard deviation between sets of images."""
  start = f'{family}_deviation/'
  return {
    name.removeprefix(start): value
    for name, value in results.items()
    if name.startswith(start) and formats.is_number(value)
  }


def _num_draws(results: Mapping[str, Any]) -> int:
  """Returns over how many sets of images distances were averaged."""
  text = str(results.get('protocol/evaluate', ''))
  match = re.search(r'\bnum_draws=(\d+)', text)
  return int(match[1]) if match else 1


def _distance(results: Mapping[str, Any], family: str, source: str) -> str:
  """'13.3', or '13.3 ± 1.2' where there are several sets of images."""
  value = results.get(f'{family}/{source}')
  if value is None:
    return '–'
  metric, _ = names.find_metric(f'{family}/{source}')
  text = metric.text(value)
  deviation = deviations(results, family).get(source)
  if deviation is None:
    return text
  return f'{text} ± {metric.text(deviation, digits=2)}'


def _verdict(results: Mapping[str, Any], source: str) -> str:
  """Compares a source with the generator: 'nearer' or 'further', if sure."""
  family = names.main_distance(results)
  errors = deviations(results, family)
  if source == 'generator' or not {source, 'generator'} <= set(errors):
    return '–'
  own, other = (results.get(f'{family}/{x}') for x in ('generator', source))
  if not formats.is_number(own) or not formats.is_number(other):
    return '–'
  variance = (errors['generator'] ** 2 + errors[source] ** 2) / _num_draws(
    results
  )
  if abs(other - own) <= _FEW_ERRORS * variance**0.5:
    return 'not told apart'
  return 'nearer' if other < own else 'further'


def _by_source(
  heading: str,
  columns: Sequence[tuple[str, str, Callable[[str], str]]],
  sources: Mapping[str, Any],
) -> BySource:
  """Builds a table from columns: label, meaning, source -> cell."""
  rows = []
  for name in sorted(sources, key=names.source_rank):
    source = names.find_source(name)
    cells = [cell_fn(name) for _, _, cell_fn in columns]
    rows.append((source.label, source.meaning, cells))
  return BySource(
    heading,
    [label for label, _, _ in columns],
    rows,
    [(label.rstrip(' ⚠↓↑'), meaning) for label, meaning, _ in columns],
  )


def _latent_column(name: str) -> tuple[str, str] | None:
  """Splits 'latent/mmd_prior' into its metric's name and 'prior', or None."""
  for key, metric in names.METRICS.items():
    start = key.removesuffix('{source}')
    is_column = start != key and key.startswith(_LATENT)
    if is_column and not metric.unscaled and name.startswith(start):
      return key, name.removeprefix(start)
  return None


def _latent_cell(
  values: Mapping[str, Mapping[str, Any]], metric: names.Metric, source: str
) -> str:
  return metric.text(values[source].get(metric.name))


def _latents(results: Mapping[str, Any]) -> BySource:
  """Builds the table of latents; the aggregate's row is the scale."""
  values: dict[str, dict[str, Any]] = {}
  found: dict[str, dict[str, Any]] = {}
  for name, value in results.items():
    split = _latent_column(name)
    if split and value is not None:
      values.setdefault(split[1], {})[split[0]] = value
      found.setdefault(split[0], {})
  columns = []
  for key in sorted(found, key=list(names.METRICS).index):
    metric = names.METRICS[key]
    columns.append(
      (
        f'{metric.label}{names.mark(key, results)}{metric.arrow}',
        metric.meaning.replace('{source}', 'source'),
        functools.partial(_latent_cell, values, metric),
      )
    )
  table = _by_source('Latents by source', columns, values)
  if 'aggregate' in values:
    label = names.find_source('aggregate').label
    meaning = 'Other draws of it. A perfect sampler would have these numbers.'
    table.notes.append((label, meaning))
  rows = [(label, '', cells) for label, _, cells in table.rows]
  return table._replace(rows=rows)
