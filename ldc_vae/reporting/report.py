"""The run report: one HTML page with the numbers and pictures of a workdir.

The page is self-contained: pictures are data URIs and the style is inline. It
shows what the workdir has, and says what is missing. `report.html.jinja` is
the page; this module gathers what stands on it.
"""

import base64
from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import re
import shlex
import statistics
import struct
from typing import Any, NamedTuple

import jinja2

from ldc_vae import config as config_lib
from ldc_vae import formats
from ldc_vae import names
from ldc_vae.reporting import style
from ldc_vae.reporting import tables

# Pictures in the order of the page; others follow by name.
_CAPTIONS = {
  'sample_grid': (
    "Images made by the method's own generator, in the order in which they"
    ' were drawn.'
  ),
  'source_grid': (
    'The same decoder with latents from different sources, and each'
    " source's distance from the reference."
  ),
  'decomposition_bars': (
    'Distance from the reference by source of latents. The decoder explains'
    ' the step from real images to the aggregate posterior. The latents'
    ' explain the step from there to the generator.'
  ),
  'reconstructions': 'Held-out images and their reconstructions.',
  'interpolations': (
    'Straight lines in latent space from one image (t = 0) to another'
    ' (t = 1); the ends are framed.'
  ),
  'latent_map': (
    'Latents by source under one linear projection, fitted to the aggregate'
    ' posterior. A good sampler fills the outlines as the aggregate'
    ' posterior does.'
  ),
  'training_curves': 'All logged scalars over the steps.',
}


class _Picture(NamedTuple):
  """A PNG file, shown at half its pixels."""

  name: str
  caption: str
  width: int
  height: int
  data: str  # base64


def write_report(
  workdir: str | os.PathLike[str],
  outputs: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """Writes report.html.

  Args:
    workdir: The folder of a run, with any of results.json, config.json,
      metrics.jsonl and figures/*.png.
    outputs: The folder of results.json, figures/ and the page; None is
      `workdir`.

  Returns:
    The path of the page.

  Raises:
    OSError: The workdir does not exist or cannot be written to.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise FileNotFoundError(
      f'{workdir}: no such folder; give the workdir of a run'
    )
  folder = workdir if outputs is None else pathlib.Path(outputs)
  missing = []
  results = _read_object(folder / 'results.json', missing)
  record = _read_object(workdir / 'config.json', missing)
  rows = _read_rows(workdir / 'metrics.jsonl', missing)
  pictures = _read_pictures(folder / 'figures', missing)
  config = record.get('config')
  config = config if isinstance(config, Mapping) else {}
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('ldc_vae', 'reporting'),
    autoescape=True,  # a config may hold any text
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
    lstrip_blocks=True,
  )
  page = environment.get_template('report.html.jinja').render(
    title=_title(config, workdir),
    facts=_facts(results, workdir),
    cards=_cards(results),
    distances=_distances(results),
    families=_families(results),
    not_measured=[name for name, value in results.items() if value is None],
    pictures=[x for x in pictures if x.name != 'training_curves'],
    curves=[x for x in pictures if x.name == 'training_curves'],
    training=_training(rows),
    repetition=_repetition(config, record, results, workdir),
    fields={
      name: json.dumps(value, default=str)
      for name, value in config_lib.flatten(config).items()
    },
    missing=missing,
  )
  data = page.encode('utf-8', 'replace')
  return style.write_bytes(folder / 'report.html', data)


# Reading the workdir.


def _read_text(path: pathlib.Path, missing: list[str]) -> str | None:
  """Returns the text of a file; None and a sentence without one."""
  try:
    return path.read_text(encoding='utf-8', errors='replace')
  except FileNotFoundError:
    missing.append(f'{path.name} was missing.')
  except OSError as error:
    missing.append(f'{path.name} could not be read ({error}).')
  return None


def _read_object(path: pathlib.Path, missing: list[str]) -> dict[str, Any]:
  """Returns the JSON object of a file; {} and a sentence without one."""
  text = _read_text(path, missing)
  if text is None:
    return {}
  try:
    value = json.loads(text)
  except (ValueError, RecursionError) as error:
    missing.append(f'{path.name} could not be read ({error}).')
    return {}
  if isinstance(value, dict):
    return value
  missing.append(f'{path.name} did not hold a JSON object.')
  return {}


def _read_rows(path: pathlib.Path, missing: list[str]) -> list[dict[str, Any]]:
  """Returns the lines of metrics.jsonl; counts the broken ones."""
  text = _read_text(path, missing)
  if text is None:
    return []
  rows, num_broken = [], 0
  for line in filter(str.strip, text.splitlines()):
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict):
      rows.append(row)
    else:
      num_broken += 1
  if num_broken:
    missing.append(f'{num_broken} broken lines of {path.name} were left out.')
  if not rows:
    missing.append(f'{path.name} held no lines.')
  return rows


def _read_pictures(folder: pathlib.Path, missing: list[str]) -> list[_Picture]:
  """Returns the whole PNG files of a folder in the order of the page."""
  order = [f'{name}.png' for name in _CAPTIONS]
  found = {path.name: path for path in sorted(folder.glob('*.png'))}
  pictures = []
  for name in sorted(found, key=(order + list(found)).index):
    try:
      data = found[name].read_bytes()
    except OSError as error:
      missing.append(f'figures/{name} could not be read ({error}).')
      continue
    whole = data[:8] == b'\x89PNG\r\n\x1a\n' and b'IEND' in data[-12:]
    if not whole or len(data) < 33:
      missing.append(f'figures/{name} was not a whole PNG file.')
      continue
    width, height = struct.unpack('>II', data[16:24])  # of the IHDR chunk
    stem = found[name].stem
    pictures.append(
      _Picture(
        stem,
        _CAPTIONS.get(stem, stem.replace('_', ' ')),
        max(1, width // 2),
        max(1, height // 2),
        base64.b64encode(data).decode('ascii'),
      )
    )
  absent = [x for x in _CAPTIONS if x not in {p.name for p in pictures}]
  if not pictures:
    missing.append('figures/ held no pictures.')
  elif absent:
    missing.append(f'figures/ had no {", ".join(absent)}.')
  return pictures


# The parts of the page.


def _title(config: Mapping[str, Any], workdir: pathlib.Path) -> str:
  """Returns 'METHOD on DATASET', or the workdir's name."""
  method, dataset = _name(config, 'method'), _name(config, 'dataset')
  if not method or not dataset:
    return workdir.resolve().name or 'run'
  return f'{tables.method_label(method)} on {dataset}'


def _name(config: Mapping[str, Any], group: str) -> str:
  """Returns config[group]['name'], or ''."""
  group = config.get(group)
  return str(group.get('name') or '') if isinstance(group, Mapping) else ''


def _facts(results: Mapping[str, Any], workdir: pathlib.Path) -> list[str]:
  """The run in a few words."""
  facts = [f'workdir {workdir}']
  for name, text in (
    ('seed', 'seed {:,.0f}'),
    ('step', 'evaluated at step {:,.0f}'),
    ('num_samples', '{:,.0f} samples'),
  ):
    if formats.is_number(results.get(name)):
      facts.append(text.format(results[name]))
  if formats.is_number(results.get('wall_seconds')):
    seconds = round(results['wall_seconds'])
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    duration = f'{seconds} s'
    if seconds >= 3600:
      duration = f'{hours} h {minutes} min'
    elif seconds >= 60:
      duration = f'{minutes} min {seconds % 60} s'
    facts.append(f'{duration} of evaluation')
  return facts


def _cards(results: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Labels and values of the numbers to read first."""
  numbers = {k: v for k, v in results.items() if formats.is_number(v)}
  family = names.main_distance(results)
  cards = []
  for name in (
    f'{family}/generator',
    f'{family}/aggregate',
    f'{family}/prior',
    'eval/reconstruction_mse',
    'nll/importance',
  ):
    if name in numbers:
      metric, source = names.find_metric(name)
      source = f': {names.find_source(source).label}' if source else ''
      value = metric.text(numbers[name]) + names.mark(name, results)
      cards.append((f'{metric.label}{source}', value))
  own = numbers.get(f'{family}/generator')
  bound = numbers.get(f'{family}/aggregate', 0.0)
  if own is not None and bound > 0.0:
    ratio = formats.format_number(own / bound)
    cards.append(('Generator ÷ aggregate posterior', f'{ratio}×'))
  return cards


def _distances(results: Mapping[str, Any]) -> dict[str, Any] | None:
  """The table with sources down and metrics across."""
  metrics, values = {}, {}
  for name in sorted(results, key=names.metric_rank):
    metric, source = names.find_metric(name)
    if metric.is_per_source and results[name] is not None:
      label = metric.label + names.mark(name, results)
      metrics[metric.name] = dataclasses.replace(metric, label=label)
      values.setdefault(source, {})[metric.name] = results[name]
  return values and {
    'metrics': list(metrics.values()),
    'rows': [
      (
        names.find_source(source),
        [x.text(values[source].get(x.name)) for x in metrics.values()],
      )
      for source in sorted(values, key=names.source_rank)
    ],
  }


def _families(results: Mapping[str, Any]) -> dict[str, list]:
  """Heading -> (name, metric, value, its class in the page's style)."""
  families = {heading: [] for heading in names.FAMILIES.values()}
  for name in sorted(results, key=names.metric_rank):
    metric, _ = names.find_metric(name)
    value = results[name]
    if metric.is_per_source or name in names.RUN_FIELDS or value is None:
      continue
    family, slash, _ = name.partition('/')
    heading = names.FAMILIES.get(family, (slash and family) or 'Other')
    kind = 'number' if formats.is_number(value) else 'text'
    text = metric.text(value) + names.mark(name, results)
    row = (name, metric, text, kind)
    families.setdefault(heading, []).append(row)
  return {heading: rows for heading, rows in families.items() if rows}


def _training(rows: Sequence[Mapping[str, Any]]) -> str:
  """The length and the speed of the training."""
  steps = [row['step'] for row in rows if formats.is_number(row.get('step'))]
  if not steps:
    return ''
  text = f'{len(rows):,} lines were logged, up to step {max(steps):,.0f}.'
  speeds = [row.get('train/images_per_sec') for row in rows]
  speeds = [x for x in speeds if formats.is_number(x)]
  if speeds:
    median = formats.format_number(statistics.median(speeds))
    text += f' The median speed was {median} images/s.'
  return text


def _repetition(
  config: Mapping[str, Any],
  record: Mapping[str, Any],
  results: Mapping[str, Any],
  workdir: pathlib.Path,
) -> dict[str, Any]:
  """The command that gives this config again, notes, and versions."""
  command, note = _command(config, workdir)
  notes = [note]
  commit = record.get('git_commit')
  if command and isinstance(commit, str) and commit:
    clean = commit.removesuffix('+dirty')
    command = f'git checkout {shlex.quote(clean)}\n{command}'
    if clean != commit:
      notes.append('The working tree had changes that were not committed.')
  evaluation = results.get('protocol/evaluate')
  if command and isinstance(evaluation, str):
    # The config is the training's; a later evaluation may have its own.
    notes.append(f'The results above have this config.evaluate: {evaluation}')
  versions = record.get('versions')
  versions = versions if isinstance(versions, Mapping) else {}
  return {
    'command': command,
    'notes': [x for x in notes if x],
    'versions': [f'{k} {v or "not installed"}' for k, v in versions.items()],
  }


def _command(
  config: Mapping[str, Any], workdir: pathlib.Path
) -> tuple[str, str]:
  """Returns the command line of a config, and a note on it."""
  method, dataset = _name(config, 'method'), _name(config, 'dataset')
  if not method or not re.fullmatch(r'\w+', dataset):
    return '', ''
  debug = ',debug' if config.get('debug') is True else ''
  spec = f'configs/{dataset}.py:{method}{debug}'
  arguments = [f'--config={spec}', f'--workdir={workdir}_again']
  note = ''
  try:
    standard = config_lib.flatten(config_lib.load(spec))
  except Exception:  # a user's run file may raise anything
    note = (
      f'{spec} could not be loaded when this page was written, so the command'
      ' lacks overrides of its fields; the config below has every value.'
    )
  else:
    for name, value in config_lib.flatten(config).items():
      known = standard.get(name)
      known = list(known) if isinstance(known, tuple) else known
      if known != value:
        arguments.append(f'--config.{name}={_argument(value)}')
  words = ' \\\n    '.join(shlex.quote(argument) for argument in arguments)
  return f'python -m ldc_vae.main \\\n    {words}', note


def _argument(value: Any) -> str:
  """Returns a config value as it is written after '='."""
  if isinstance(value, (list, tuple)):
    comma = ',' if len(value) == 1 else ''
    return f'({",".join(str(each) for each in value)}{comma})'
  return str(value)
