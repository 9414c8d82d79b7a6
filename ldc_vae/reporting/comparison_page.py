"""The text and the pictures of a comparison."""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from absl import logging
import numpy as np

from ldc_vae import names
from ldc_vae.data import datasets
from ldc_vae.metrics import intervals
from ldc_vae.reporting import comparison_figures
from ldc_vae.reporting import tables
from ldc_vae.runtime import durable
from ldc_vae.runtime import files

FINISHED, FAILED, WAITING = 'finished', 'failed', 'waiting'
_SHOWN = 10  # samples of a method
_OF_A_RUN = ('protocol/left_out', 'protocol/not_measured')


def to_markdown(
  record: Mapping[str, Any], columns: Sequence[names.Metric]
) -> str:
  """Returns the text of comparison.md."""
  runs, seeds = record['runs'], record['seeds']
  results = [run['results'] for run in runs if run['results']]
  finished = f'{len(results)} of {len(runs)} runs are finished'
  failed = [run for run in runs if run['status'] == FAILED]
  if failed:
    finished += f', {len(failed)} failed'
  parts = ['# Methods side by side\n', f'`{record["command"]}`\n']
  parts.append(f'{finished}. {_explanation(len(seeds))}\n')
  if results:
    parts.append(tables.to_markdown(record['rows'], columns, len(seeds)))
  parts += _protocol(runs)
  commits = {run['git_commit'] for run in runs if run['results']}
  if len(commits) > 1:
    parts.append(
      f'* The runs were made by {len(commits)} different commits, which stand'
      ' in the last table.'
    )
  parts.append('')
  if failed:
    parts.append('### Runs that failed\n')
    parts.append(
      tables.markdown_table(
        ('run', 'seconds', 'why'),
        (
          (run['name'], _seconds(run), (run['error'] or '').replace('|', r'\|'))
          for run in failed
        ),
      )
    )
  parts.append('### Runs\n')
  parts.append(
    tables.markdown_table(
      ('run', 'status', 'seconds of its commands', 'commit'),
      (
        (run['name'], run['status'], _seconds(run), (run['git_commit'] or '–'))
        for run in runs
      ),
    )
  )
  versions = ', '.join(f'{k} {v}' for k, v in record['versions'].items())
  parts.append(f'{versions}; commit {record["git_commit"]}.\n')
  return '\n'.join(parts)


def _protocol(runs: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns a line for each 'protocol/*', with the methods of what differs."""
  finished = [run for run in runs if run['results']]
  found = {name for run in finished for name in run['results']}
  lines = []
  for name in sorted(x for x in found if x.startswith('protocol/')):
    is_of_a_run = name.startswith((names.CAUTION, *_OF_A_RUN))
    values: dict[str, dict[str, None]] = {}  # value -> labels of methods
    for run in finished:
      # earlier versions told less of theirs
      value = run['results'].get(name, '' if is_of_a_run else 'not told')
      label = tables.method_label(run['method'])
      values.setdefault(str(value), {})[label] = None
    texts = [
      f'{value} ({", ".join(labels)})'
      if is_of_a_run and len(values) > 1
      else value
      for value, labels in values.items()
      if value
    ]
    lines.append(f'* {name.partition("/")[2]}: {"; ".join(texts)}')
  return lines


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


def _seconds(run: Mapping[str, Any]) -> str:
  return '–' if run['seconds'] is None else f'{run["seconds"]:,.0f}'


def draw(
  workdir: pathlib.Path,
  record: Mapping[str, Any],
  dataset: datasets.Dataset,
) -> None:
  """Writes the figures of the runs that have results."""
  runs = [run for run in record['runs'] if run['results']]
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
  split = runs[0]['results'].get('protocol/split', 'test')
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
      with np.load(path) as samples:
        own = {name: samples[name] for name in samples.files}
      images[label] = own['images'][:_SHOWN]
    except files.NPZ_ERRORS as error:
      logging.warning(
        '%s is damaged (%s) and not shown; its run evaluates again where its'
        ' results.json is removed',
        path,
        error,
      )
      continue
    if 'aggregate_latents' in own:
      points[label] = {
        'aggregate': own['aggregate_latents'],
        'generator': own['latents'],
      }
    details[label] = run['results'].get(f'{family}/generator')
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
      if group == family and value is not None:
        values.setdefault(source, []).append(value)
  return {
    source: (float(np.mean(each)), intervals.standard_error(each))
    for source, each in values.items()
  }
