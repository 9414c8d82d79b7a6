"""The text, the page and the pictures of a comparison."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from absl import logging
import numpy as np

from ldc_vae import formats
from ldc_vae import names
from ldc_vae import sections
from ldc_vae.data import datasets
from ldc_vae.metrics import intervals
from ldc_vae.reporting import comparison_figures
from ldc_vae.reporting import page
from ldc_vae.reporting import style
from ldc_vae.reporting import tables
from ldc_vae.runtime import durable
from ldc_vae.runtime import files

FINISHED, FAILED, WAITING = 'finished', 'failed', 'waiting'
_TITLE = 'Methods side by side'
_SHOWN = 10  # samples of a method
_OF_A_RUN = ('protocol/left_out', 'protocol/not_measured')
# Pictures in the order of the page.
_CAPTIONS = {
  'comparison_samples': (
    "Images made by each method's own generator, below real images."
  ),
  'comparison_bars': (
    'Distance from held-out images, by method and source of the latents.'
  ),
  'comparison_time': 'Distance from held-out images against sampling time.',
  'comparison_latents': (
    "Draws of each method's own generator over the latents of its encoder."
  ),
}


def write(
  workdir: pathlib.Path,
  record: Mapping[str, Any],
  columns: Sequence[names.Metric],
) -> None:
  """Writes comparison.md and comparison.html with the pictures that exist.

  Args:
    workdir: Of the comparison.
    record: The content of comparison.json.
    columns: From `tables.columns`.
  """
  missing: list[str] = []
  pictures = [
    picture
    for picture in page.read_pictures(workdir / 'figures', _CAPTIONS, missing)
    if picture.name in _CAPTIONS
  ]
  text = to_markdown(record, columns, pictures)
  style.write_bytes(workdir / 'comparison.md', text.encode())
  page.write(
    workdir / 'comparison.html',
    'comparison.html.jinja',
    title=_title(record),
    facts=_facts(record),
    explanation=_explanation(len(record['seeds'])),
    pictures=pictures,
    sections=[
      _by_metric(section)
      for section in tables.sections(
        record['rows'], columns, len(record['seeds'])
      )
    ],
    protocol=_protocol(record),
    failed=[
      (f'{run["name"]}, {_seconds(run)} s', run['error'] or '')
      for run in _failed(record)
    ],
    runs=[
      (
        run['name'],
        f'{run["status"]}, {_seconds(run)} s, commit {_commit(run)}',
      )
      for run in record['runs']
    ],
    command=record['command'],
    versions=_versions(record),
    missing=missing if _finished(record) else [],
  )


def to_markdown(
  record: Mapping[str, Any],
  columns: Sequence[names.Metric],
  pictures: Sequence[page.Picture],
) -> str:
  """Returns the text of comparison.md.

  Args:
    record: The content of comparison.json.
    columns: From `tables.columns`.
    pictures: Those that it shows.
  """
  num_seeds = len(record['seeds'])
  escape = tables.escape_markdown
  command = record['command'].replace('`', "'")
  parts = [f'# {escape(_title(record))}\n', f'`{command}`\n']
  parts.append(f'{". ".join(_facts(record))}. {_explanation(num_seeds)}\n')
  for picture in pictures:
    parts.append(f'![{picture.caption}](figures/{picture.name}.png)\n')
  if _finished(record):
    parts.append(tables.to_markdown(record['rows'], columns, num_seeds))
  parts += [
    f'* {escape(name)}: {escape(text)}' for name, text in _protocol(record)
  ]
  parts.append('')
  failed = [
    (run['name'], _seconds(run), escape(run['error'] or ''))
    for run in _failed(record)
  ]
  if failed:
    parts.append('### Runs that failed\n')
    parts.append(tables.markdown_table(('run', 'seconds', 'why'), failed))
  parts.append('### Runs\n')
  parts.append(
    tables.markdown_table(
      ('run', 'status', 'seconds of its commands', 'commit'),
      (
        (run['name'], run['status'], _seconds(run), escape(_commit(run)))
        for run in record['runs']
      ),
    )
  )
  parts.append(f'{escape(_versions(record))}.\n')
  return '\n'.join(parts)


def _title(record: Mapping[str, Any]) -> str:
  """'Methods side by side on digits'."""
  found = {each['dataset']['name'] for each in record['configs'].values()}
  return f'{_TITLE} on {", ".join(sorted(found))}'


def _finished(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """The runs that have results."""
  return [run for run in record['runs'] if run['results']]


def _failed(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  return [run for run in record['runs'] if run['status'] == FAILED]


def _facts(record: Mapping[str, Any]) -> list[str]:
  """How far the comparison is."""
  num_runs = len(record['runs'])
  finished = f'{len(_finished(record))} of {num_runs} runs are finished'
  num_failed = len(_failed(record))
  return [finished + (f', {num_failed} failed' if num_failed else '')]


def _protocol(record: Mapping[str, Any]) -> list[tuple[str, str]]:
  """How the numbers were made: labels and texts, with methods that differ."""
  finished = _finished(record)
  found = {name for run in finished for name in run['results']}
  lines = []
  for name in sorted(x for x in found if x.startswith('protocol/')):
    is_of_a_run = name.startswith((names.CAUTION, *_OF_A_RUN))
    values: dict[str, dict[str, None]] = {}  # value -> labels of methods
    for run in finished:
      # earlier versions recorded less of their protocol
      value = run['results'].get(name, '' if is_of_a_run else 'not recorded')
      label = tables.method_label(run['method'])
      values.setdefault(str(value), {})[label] = None
    texts = [
      f'{value} ({", ".join(labels)})'
      if is_of_a_run and len(values) > 1
      else value
      for value, labels in values.items()
      if value
    ]
    label = names.find_metric(name)[0].label.removeprefix('protocol/')
    lines.append((label, '; '.join(texts)))
  commits = {run['git_commit'] for run in finished}
  if len(commits) > 1:
    text = f'The runs were made by {len(commits)} different commits.'
    lines.append(('commits', text))
  return lines


def _by_metric(section: tables.Section) -> tables.Section:
  """A narrow table for each metric, with the differences beside the means."""
  (header, means), *rest = section.tables
  narrow = []
  for index, label in enumerate(header[1:], start=1):
    words, rows = [label, 'mean'], []
    for row in means:
      rows.append([row[0], row[index].replace(' ± ', '\u00a0±\u00a0')])
    for (what, *_), differences in rest:
      words.append(what)
      for row, difference in zip(rows, differences, strict=True):
        row.append(difference[index])
    narrow.append((words, rows))
  return section._replace(tables=narrow)


def _versions(record: Mapping[str, Any]) -> str:
  """The versions that made the comparison, and its commit."""
  versions = ', '.join(f'{k} {v}' for k, v in record['versions'].items())
  return f'{versions}; commit {record["git_commit"]}'


def _explanation(num_seeds: int) -> str:
  """How to read the tables."""
  if num_seeds == 1:
    return (
      'One seed: there is no standard error and no interval, and differences'
      ' may be chance. The best of each column is bold.'
    )
  return (
    f'Mean ± standard error over {num_seeds} seeds. The best of a column is'
    ' bold, unless another row cannot be told from it: its interval holds 0.'
    ' Differences to the best are paired by seed, with their'
    f" {100 * tables.CONFIDENCE:.0f} % interval (Student's t,"
    f' {num_seeds - 1} degrees of freedom where all seeds are there); a lone'
    ' common seed has none, and they are not corrected for the number of'
    ' comparisons. The protocol, and where hyper-parameters come from:'
    ' docs/comparison-protocol.md.'
  )


def _commit(run: Mapping[str, Any]) -> str:
  return str(run['git_commit'] or '–')


def _seconds(run: Mapping[str, Any]) -> str:
  return '–' if run['seconds'] is None else f'{run["seconds"]:,.0f}'


def draw(
  workdir: pathlib.Path,
  record: Mapping[str, Any],
  dataset: datasets.Dataset,
) -> None:
  """Writes the figures of the runs that have results."""
  runs = _finished(record)
  if not runs:
    return
  family = names.main_distance(*(run['results'] for run in runs))
  name = dataset.name
  num_seeds = len({run['seed'] for run in runs})
  over = f'mean over {num_seeds} seeds' if num_seeds > 1 else 'one seed'
  folder = workdir / 'figures'
  durable.refuse_link(folder)
  firsts = {}  # method -> its first run that has results
  for run in runs:
    firsts.setdefault(run['method'], run)
  split = runs[0]['results'].get('protocol/split')
  split = split if split in sections.SPLITS else 'test'  # it may be anything
  images = {f'{split} images': np.asarray(dataset.images[split][:_SHOWN])}
  details = {}
  points = {}
  for method in record['methods']:
    if method not in firsts:
      continue
    run = firsts[method]
    label = tables.label(method)
    path = workdir / run['name'] / 'samples.npz'
    if not path.exists():  # taken away, as it is large
      continue
    try:
      own = files.read_npz(path)
      if own['images'].shape[1:] != dataset.image_shape:
        raise ValueError('its images have another shape')
      images[label] = own['images'][:_SHOWN]
      if 'aggregate_latents' in own:
        points[label] = {
          'aggregate': own['aggregate_latents'],
          'generator': own['latents'],
        }
    except Exception as error:  # NumPy and zipfile raise many types
      logging.warning(
        '%s is damaged (%s) and not shown; its run evaluates again where its'
        ' results.json is removed',
        path,
        error,
      )
      continue
    distance = run['results'].get(f'{family}/generator')
    details[label] = distance if formats.is_number(distance) else None
  comparison_figures.samples(
    images,
    folder / 'comparison_samples.png',
    distances=details,
    title=f"Samples of each method's own generator on {name}, first seed",
  )
  comparison_figures.bars(
    {
      tables.label(method): _by_source(
        [run for run in runs if run['method'] == method], family
      )
      for method in firsts
    },
    folder / 'comparison_bars.png',
    family=family,
    title=(
      f'Distance from the {split} split of {name} by latent source, {over}'
    ),
  )
  comparison_figures.latents(
    points,
    folder / 'comparison_latents.png',
    title=f'Latents on {name}, first seed',
  )
  cells = {
    row['label']: (
      row['metrics'].get('time/sample_10k_seconds'),
      row['metrics'].get(family),
    )
    for row in record['rows']
    if row['source'] == 'generator'
  }
  comparison_figures.quality_and_time(
    {
      label: (_estimate(seconds), _estimate(distance))
      for label, (seconds, distance) in cells.items()
      if seconds and distance
    },
    folder / 'comparison_time.png',
    family=family,
    title=f'Quality against sampling time on {name}, {over}',
  )


def _estimate(cell: Mapping[str, Any]) -> comparison_figures.Estimate:
  """The mean and the standard error of a cell of the tables."""
  return cell['mean'], cell['standard_error']


def _by_source(
  runs: Sequence[Mapping[str, Any]], family: str
) -> dict[str, comparison_figures.Estimate]:
  """Source -> mean and standard error over the runs of a method."""
  values = {}
  for run in runs:
    for name, value in run['results'].items():
      group, _, source = name.partition('/')
      if group == family and formats.is_number(value):
        values.setdefault(source, []).append(value)
  return {
    source: (float(np.mean(each)), intervals.standard_error(each))
    for source, each in values.items()
  }
