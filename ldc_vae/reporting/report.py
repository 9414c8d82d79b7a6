"""The run report: one HTML page with the numbers and pictures of a workdir.

The page shows what the workdir has, and says what is missing.
`report.html.jinja` is the page; this module gathers what stands on it.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import re
import shlex
import statistics
from typing import Any

from ldc_vae import config as config_lib
from ldc_vae import formats
from ldc_vae.reporting import page
from ldc_vae.reporting import result_tables
from ldc_vae.reporting import tables
from ldc_vae.runtime import files
from ldc_vae.runtime import metric_writer

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
    ' (t = 1); the ends have orange frames.'
  ),
  'latent_map': (
    'Latents by source under one linear projection, fitted to the aggregate'
    ' posterior. A good sampler fills the outlines as the aggregate'
    ' posterior does.'
  ),
  'training_curves': (
    'The logged scalars over the steps. What never changed has no panel.'
  ),
}


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
  results = _read(files.read_json, folder / 'results.json', {}, missing)
  record = _read(files.read_json, workdir / 'config.json', {}, missing)
  metrics = workdir / metric_writer.NAME
  rows = _read(metric_writer.read_metrics, metrics, [], missing)
  num_torn = metric_writer.count_torn(metrics) if rows else 0
  if num_torn:
    missing.append(f'{num_torn} broken lines of {metrics.name} were left out.')
  pictures = page.read_pictures(folder / 'figures', _CAPTIONS, missing)
  config = record.get('config')
  config = config if isinstance(config, Mapping) else {}
  return page.write(
    folder / 'report.html',
    'report.html.jinja',
    title=_title(config, workdir),
    facts=_facts(results, workdir),
    headlines=result_tables.headlines(results),
    chance=result_tables.chance(results),
    cautions=result_tables.cautions(results),
    pictures=[x for x in pictures if x.name != 'training_curves'],
    curves=[x for x in pictures if x.name == 'training_curves'],
    training=_training(rows),
    by_source=result_tables.by_source(results),
    families=result_tables.families(results, _latent_size(config)),
    protocol=result_tables.protocol(results),
    numbers=result_tables.numbers(results),
    repetition=_repetition(config, record, results, workdir),
    fields={
      name: json.dumps(value, default=str)
      for name, value in config_lib.flatten(config).items()
    },
    missing=missing,
  )


def _read(read_fn, path: pathlib.Path, empty, missing: list[str]) -> Any:
  """Returns what a file holds; else `empty`, and says so in `missing`."""
  try:
    found = read_fn(path) if path.exists() else None
  except OSError as error:
    missing.append(f'{error}.')
    return empty
  if not found:
    missing.append(f'{path.name} was missing or broken.')
  return found or empty


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


def _latent_size(config: Mapping[str, Any]) -> int | None:
  """Returns config.model.latent_size, or None."""
  model = config.get('model')
  size = model.get('latent_size') if isinstance(model, Mapping) else None
  return size if isinstance(size, int) else None


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
  if command and 'protocol/evaluate' in results:
    notes.append(
      'A later evaluation may have other values of config.evaluate; those of'
      ' the results above are listed with them.'
    )
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
  values = config_lib.flatten(config)
  # a run file of the user's own images needs their path to be loaded
  needed = {k: v for k, v in values.items() if k == 'dataset.path' and v}
  try:
    standard = config_lib.flatten(config_lib.load(spec, needed))
  except Exception:  # a user's run file may raise anything
    note = (
      f'{spec} could not be loaded when this page was written, so the command'
      ' lacks overrides of its fields; the config below has every value.'
    )
  else:
    for name, value in values.items():
      known = standard.get(name)
      known = list(known) if isinstance(known, tuple) else known
      if known != value or name in needed:
        arguments.append(f'--config.{name}={_argument(value)}')
  words = ' \\\n    '.join(shlex.quote(argument) for argument in arguments)
  return f'python -m ldc_vae.main \\\n    {words}', note


def _argument(value: Any) -> str:
  """Returns a config value as it is written after '='."""
  if isinstance(value, (list, tuple)):
    comma = ',' if len(value) == 1 else ''
    return f'({",".join(str(each) for each in value)}{comma})'
  return str(value)
