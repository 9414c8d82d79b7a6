"""Methods side by side: trains, evaluates and tabulates them over seeds.

Every run is `ldc_vae.main --mode=train` in a process and a workdir of its own,
WORKDIR/METHOD_seedN, so that it is what a user would get of it alone. What is
finished is kept, what was interrupted continues, what fails is reported while
the others go on.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
import signal
import sys
from typing import Any, NamedTuple

from absl import logging
from ml_collections import config_dict
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import evaluate
from ldc_vae import experiment as experiment_lib
from ldc_vae import names
from ldc_vae import plans
from ldc_vae import run_files
from ldc_vae import train
from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier as classifier_lib
from ldc_vae.metrics import spread
from ldc_vae.reporting import comparison_figures
from ldc_vae.reporting import tables
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs as jobs_lib
from ldc_vae.runtime import lock
from ldc_vae.runtime import provenance
from ldc_vae.runtime import signals

FINISHED, FAILED, WAITING = 'finished', 'failed', 'waiting'

_LONGER = 1.5  # seconds that the runs' ends are waited for after theirs
_COST = 'command.json'  # in a run's workdir: the seconds of all its commands
_SHOWN = 10  # samples of a method
# What would make the numbers of two methods no comparison, and what would not.
_SAME_FOR_ALL = ('dataset.', 'evaluate.', 'model.likelihood')
_MAY_DIFFER = ('evaluate.batch_size', 'evaluate.samplers')


class RunsFailedError(OSError):
  """Some runs of a comparison failed; the others have their results."""


class Run(NamedTuple):
  """One training.

  Attributes:
    method: Its name.
    seed: Its seed.
    workdir: Where it lives.
    config: Its config.
    arguments: Of `ldc_vae.main`, but for the workdir.
  """

  method: str
  seed: int
  workdir: pathlib.Path
  config: config_dict.ConfigDict
  arguments: tuple[str, ...]


def compare(
    plans: Mapping[str, plans.Plan],
    seeds: Sequence[int],
    workdir: str | os.PathLike[str],
    *,
    num_jobs: int = 1,
) -> dict[str, Any]:
  """Runs every method with every seed, and writes the tables and figures.

  Writes comparison.json, .md and .csv after each run, and figures/ at the end.

  Args:
    plans: From `config.load_each`, by method.
    seeds: Of the runs; all methods have the same.
    workdir: Made if it is missing; holds a folder for each run.
    num_jobs: Runs at once, each on its own cores.

  Returns:
    The content of comparison.json.

  Raises:
    ValueError: A run's folder holds another config, or the data do not fit.
    OSError: A file cannot be read or written.
    RunsFailedError: A run failed; everything else is done and written.
  """
  workdir = pathlib.Path(workdir)
  jobs_lib.core_shares(num_jobs)  # refuses before a file is made
  runs = create_runs(plans, seeds, workdir)
  for run in runs:
    train.check_same_run(run.workdir, run.config)
  with signals.watch() as watch, lock.lock_workdir(workdir):
    watch.grace = signals.GRACE + _LONGER
    dataset = _load_data(plans)
    book = _Book(runs, plans, seeds, workdir, dataset)
    book.write()
    waiting = book.waiting()
    if waiting and dataset.num_classes:  # once for all runs
      for seed in next(iter(plans.values())).config.evaluate.classifier_seeds:
        classifier_lib.load_or_train(dataset, seed=seed)
    logging.info(
        '%d of %d runs are finished; %d to do, %d at once',
        len(runs) - len(waiting), len(runs), len(waiting), num_jobs,
    )
    root = str(provenance.ROOT)
    path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
    jobs_lib.run_all(
        [_job(run) for run in waiting],
        num_jobs,
        on_start=book.start,
        on_end=book.end,
        env={**os.environ, 'PYTHONPATH': path},
    )
    record = book.write()
    _draw(workdir, record, dataset)
    logging.info('see %s', workdir / 'comparison.md')
  failed = [run for run in record['runs'] if run['status'] != FINISHED]
  if failed:
    raise RunsFailedError(
        f'{len(failed)} of {len(runs)} runs failed, as {failed[0]["name"]}'
        f' ({failed[0]["error"]}); see {workdir}/comparison.md and'
        f' {workdir}/{failed[0]["name"]}.log; the same command tries them again'
    )
  return record


def create_runs(
    plans: Mapping[str, plans.Plan],
    seeds: Sequence[int],
    workdir: str | os.PathLike[str],
) -> list[Run]:
  """The runs, seed by seed, so that a table has all methods early.

  Args:
    plans: From `config.load_each`, by method.
    seeds: Of the runs.
    workdir: Of the comparison.
  """
  return [
      Run(
          method,
          seed,
          pathlib.Path(workdir) / f'{method}_seed{seed}',
          config_lib.override(plan.config, {'seed': seed}),
          (
              f'--config={plan.spec}',
              f'--config.seed={seed}',
              *plan.overrides,
          ),
      )
      for seed in seeds
      for method, plan in plans.items()
  ]


def is_finished(run: Run, num_steps: int, data: str) -> bool:
  """Whether the results of a run are there, and are of its own config.

  Args:
    run: The run; its folder may be missing.
    num_steps: Of its training.
    data: What `datasets.describe` says of it.
  """
  return evaluate.is_evaluated(run.workdir, run.config, num_steps, data)


def failure(end: jobs_lib.End) -> str:
  """Why a run failed, in one line: its error, its signal or its exit code."""
  lines = [line.strip() for line in end.output.splitlines() if line.strip()]
  told = [line for line in lines if line.startswith('error: ')]
  if told:
    return told[-1].removeprefix('error: ')
  if end.code is not None and end.code < 0:
    return f'ended by {signal.Signals(-end.code).name}'
  last = f': {lines[-1]}' if lines else ''
  return f'exit code {end.code}{last}'


class _Book:
  """What is known of the runs, and the files that say it."""

  def __init__(self, runs, plans, seeds, workdir, dataset):
    self._runs, self._plans, self._seeds = runs, plans, seeds
    self._workdir = workdir
    self._by_name = {run.workdir.name: run for run in runs}
    num_train = len(dataset.images['train'])
    self._num_steps = {
        method: experiment_lib.count_steps(plan.config, num_train)
        for method, plan in plans.items()
    }
    self._data = datasets.describe(dataset)
    self._errors = {}
    self._versions = provenance.describe()

  def waiting(self) -> list[Run]:
    """The runs that have no results of their config."""
    return [run for run in self._runs if not self._is_finished(run)]

  def start(self, job: jobs_lib.Job) -> None:
    """Says that a run begins."""
    logging.info('%s begins; its output goes to %s', job.name, job.log)

  def end(self, end: jobs_lib.End) -> None:
    """Notes how a run ended."""
    run = self._by_name[end.job.name]
    if run.workdir.is_dir():
      path = run.workdir / _COST
      before = (files.read_json(path) or {}).get('seconds', 0.0)
      files.write_json(path, {'seconds': before + end.seconds})
    if end.code is None:  # we are being stopped
      return
    if end.code == 0 and self._is_finished(run):
      self._errors.pop(end.job.name, None)
      logging.info('%s is finished, %.0f s', end.job.name, end.seconds)
    else:
      self._errors[end.job.name] = failure(end)
      logging.warning(
          '%s failed: %s', end.job.name, self._errors[end.job.name]
      )
    self.write()

  def write(self) -> dict[str, Any]:
    """Writes the tables of what there is; returns comparison.json."""
    record = {
        'command': _command(self._plans, self._seeds),
        'methods': list(self._plans),
        'seeds': list(self._seeds),
        **self._versions,
        'confidence': tables.CONFIDENCE,
        'configs': {
            method: config_lib.public(plan.config)
            for method, plan in self._plans.items()
        },
        'runs': [self._entry(run) for run in self._runs],
    }
    record['rows'] = tables.create_rows(record['runs'])
    columns = tables.columns(record['runs'])
    files.write_json(self._workdir / 'comparison.json', record)
    text = _markdown(record, columns)
    _write_text(self._workdir / 'comparison.md', text)
    text = tables.to_csv(record['rows'], columns)
    _write_text(self._workdir / 'comparison.csv', text)
    return record

  def _is_finished(self, run: Run) -> bool:
    return is_finished(run, self._num_steps[run.method], self._data)

  def _entry(self, run: Run) -> dict[str, Any]:
    """A run in comparison.json."""
    done = self._is_finished(run)
    name = run.workdir.name
    status = FINISHED if done else FAILED if name in self._errors else WAITING
    stored = files.read_json(run.workdir / 'config.json') or {}
    cost = files.read_json(run.workdir / _COST) or {}
    return {
        'name': name,
        'method': run.method,
        'seed': run.seed,
        'status': status,
        'error': None if done else self._errors.get(name),
        'seconds': cost.get('seconds'),
        'git_commit': stored.get('git_commit'),
        'versions': stored.get('versions'),
        'results': (
            files.read_json(run.workdir / 'results.json') if done else None
        ),
    }


def _load_data(plans: Mapping[str, plans.Plan]) -> datasets.Dataset:
  """Loads the data once for all runs; refuses what would fail every run."""
  configs = [plan.config for plan in plans.values()]
  first = configs[0]
  for config in configs[1:]:
    other = config_lib.flatten(config)
    for name, value in config_lib.flatten(first).items():
      is_shared = name.startswith(_SAME_FOR_ALL) and name not in _MAY_DIFFER
      if is_shared and other[name] != value:
        raise errors.UserError(
            f'config.{name} is {value!r} for {first.method.name} and'
            f' {other[name]!r} for {config.method.name}; compare methods on'
            ' the same data and by the same protocol'
        )
  dataset = experiment_lib.load_dataset(first)
  for config in configs:  # refuses a batch that is too large
    experiment_lib.count_steps(config, len(dataset.images['train']))
  return dataset


def _job(run: Run) -> jobs_lib.Job:
  """The command of a run."""
  return jobs_lib.Job(
      name=run.workdir.name,
      words=(
          sys.executable,
          '-P',  # a module of the current directory hides none of ours
          '-m',
          'ldc_vae.main',
          *run.arguments,
          f'--workdir={run.workdir}',
      ),
      log=run.workdir.with_name(f'{run.workdir.name}.log'),
  )


def _command(
    plans: Mapping[str, plans.Plan], seeds: Sequence[int]
) -> str:
  """The command that makes the same comparison, without places."""
  words = ['python -m ldc_vae.main']
  first = next(iter(plans.values()))
  path, arg = run_files.split(first.spec)
  debug = ',debug' if 'debug' in arg.split(',') else ''
  words += [
      f'--config={path}{debug}',
      '--mode=compare',
      f'--methods={",".join(plans)}',
      f'--seeds={",".join(map(str, seeds))}',
  ]
  common = [
      x for x in first.overrides
      if all(x in plan.overrides for plan in plans.values())
  ]
  for x in common:
    words.append(config_lib.public_override(x))
  for method, plan in plans.items():
    for x in plan.overrides:
      if x not in common:
        own = x.replace('--config.', f'--config.{method}.', 1)
        words.append(config_lib.public_override(own))
  return ' '.join(words)


def _markdown(
    record: Mapping[str, Any], columns: Sequence[names.Metric]
) -> str:
  """comparison.md."""
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
  protocol = {x for each in results for x in each if x.startswith('protocol/')}
  for name in sorted(protocol):
    # earlier versions told less of theirs
    values = dict.fromkeys(str(each.get(name, 'not told')) for each in results)
    parts.append(f'* {name.partition("/")[2]}: {"; ".join(values)}')
  commits = {run['git_commit'] for run in runs if run['results']}
  if len(commits) > 1:
    parts.append(
        f'* The runs were made by {len(commits)} different commits, which stand'
        ' in the last table.'
    )
  parts.append('')
  if failed:
    parts.append('### Runs that failed\n')
    parts.append(tables.markdown_table(
        ('run', 'seconds', 'why'),
        (
            (run['name'], _seconds(run),
             (run['error'] or '').replace('|', r'\|'))
            for run in failed
        ),
    ))
  parts.append('### Runs\n')
  parts.append(tables.markdown_table(
      ('run', 'status', 'seconds of its commands', 'commit'),
      (
          (run['name'], run['status'], _seconds(run),
           (run['git_commit'] or '–'))
          for run in runs
      ),
  ))
  versions = ', '.join(f'{k} {v}' for k, v in record['versions'].items())
  parts.append(f'{versions}; commit {record["git_commit"]}.\n')
  return '\n'.join(parts)


def _explanation(num_seeds: int) -> str:
  """How to read the tables."""
  if num_seeds == 1:
    return (
        'One seed: there is no standard error and no interval, and differences'
        ' may be chance. The best of each column is bold.'
    )
  return (
      f'Mean ± standard error over {num_seeds} seeds; the best of each column'
      ' is bold. Differences to the best are paired by seed, with their'
      f' {100 * tables.CONFIDENCE:.0f} % interval (Student\'s t,'
      f' {num_seeds - 1} degrees of freedom where all seeds are there); a lone'
      ' common seed has none, and they are not corrected for the number of'
      ' comparisons. The protocol, and where hyper-parameters come from:'
      ' docs/comparison-protocol.md.'
  )


def _seconds(run: Mapping[str, Any]) -> str:
  return '–' if run['seconds'] is None else f'{run["seconds"]:,.0f}'


def _write_text(path: pathlib.Path, text: str) -> None:
  """Writes a text file, atomically."""
  with files.open_atomically(path) as file:
    file.write(text.encode())


def _draw(
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
          ' results.json is removed', path, error,
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
      title=f'Samples of each method\'s own generator on {name}, first seed',
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
          label: tuple((x['mean'], x['standard_error']) for x in pair)
          for label, pair in cells.items()
          if None not in pair
      },
      folder / 'comparison_time.png',
      family=family,
      title=f'Quality against sampling time on {name}, {over}',
  )


def _by_source(
    runs: Sequence[Mapping[str, Any]], family: str
) -> dict[str, tuple[float, float | None]]:
  """Source -> mean and standard error over the runs of a method."""
  values = {}
  for run in runs:
    for name, value in run['results'].items():
      group, _, source = name.partition('/')
      if group == family and value is not None:
        values.setdefault(source, []).append(value)
  return {
      source: (spread.mean(each), spread.standard_error(each))
      for source, each in values.items()
  }
