"""Methods side by side: trains, evaluates and tabulates them over seeds.

Every run is `ldc_vae.main --mode=train` in a process and a workdir of its own,
WORKDIR/METHOD_seedN, so that it is what a user would get of it alone. What is
finished is kept, what was interrupted continues, what fails is reported while
the others go on.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
import re
import signal
import sys
from typing import Any, NamedTuple

from absl import logging
from ml_collections import config_dict

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import formats
from ldc_vae import plans
from ldc_vae import run as run_lib
from ldc_vae import run_files
from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier as classifier_lib
from ldc_vae.reporting import comparison_page
from ldc_vae.reporting import style
from ldc_vae.reporting import tables
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs as jobs_lib
from ldc_vae.runtime import lock
from ldc_vae.runtime import provenance
from ldc_vae.runtime import signals

FINISHED = comparison_page.FINISHED
FAILED = comparison_page.FAILED
WAITING = comparison_page.WAITING

_LONGER = 1.5  # extra seconds for the runs to stop
_RAISED = re.compile(r'[\w.]+(Error|Exception)(: |$)')
_COST = 'command.json'  # in a run's workdir: the seconds of all its commands
# Fields that must be equal, or numbers cannot be compared; and exceptions.
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

  Writes comparison.json, .html, .md and .csv after each run, and figures/ at
  the end.

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
    run_lib.check_same(run.workdir, run.config)
  with signals.watch() as watch, lock.lock_workdir(workdir):
    watch.grace = signals.GRACE + _LONGER
    dataset = _load_data(plans)
    table = _RunTable(runs, plans, seeds, workdir, dataset)
    table.write()
    waiting = table.waiting()
    if waiting and dataset.num_classes:  # once for all runs
      for seed in next(iter(plans.values())).config.evaluate.classifier_seeds:
        classifier_lib.load_or_train(dataset, seed=seed)
    logging.info(
      '%d of %d runs are finished; %d to do, %d at once',
      len(runs) - len(waiting),
      len(runs),
      len(waiting),
      num_jobs,
    )
    root = str(provenance.ROOT)
    path = os.pathsep.join(filter(None, (root, os.environ.get('PYTHONPATH'))))
    jobs_lib.run_all(
      [_job(run) for run in waiting],
      num_jobs,
      on_start=table.start,
      on_end=table.end,
      env={**os.environ, 'PYTHONPATH': path},
    )
    comparison_page.draw(workdir, table.write(), dataset)
    record = table.write()  # with the pictures
    logging.info('report: %s', (workdir / 'comparison.html').absolute())
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


def failure(end: jobs_lib.End) -> str:
  """Why a run failed, in one line: its error, its signal or its exit code."""
  lines = [line.strip() for line in end.output.splitlines() if line.strip()]
  reported = [line for line in lines if line.startswith('error: ')]
  if reported:
    return reported[-1].removeprefix('error: ')
  if end.code is not None and end.code < 0:
    return f'ended by {signal.Signals(-end.code).name}'
  # a traceback ends with its error, below which jax adds a note
  raised = [line for line in lines if _RAISED.match(line)]
  last = ''.join(f': {line}' for line in (raised or lines)[-1:])
  return f'exit code {end.code}{last}'


class _RunTable:
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
    self._data = datasets.descriptions(dataset, datasets.fingerprint(dataset))
    self._errors = {}
    # by name; looked up once, because the digests of the results take time
    self._finished = {
      name: self._is_finished(run) for name, run in self._by_name.items()
    }
    self._versions = provenance.describe()

  def waiting(self) -> list[Run]:
    """The runs that have no results of their config."""
    return [run for run in self._runs if not self._finished[run.workdir.name]]

  def start(self, job: jobs_lib.Job) -> None:
    """Says that a run begins."""
    logging.info('%s begins; its output goes to %s', job.name, job.log)

  def end(self, end: jobs_lib.End) -> None:
    """Notes how a run ended."""
    run = self._by_name[end.job.name]
    if run.workdir.is_dir():
      path = run.workdir / _COST
      seconds = (_seconds(path) or 0.0) + end.seconds
      files.write_json(path, {'seconds': seconds})
    if end.code is None:  # we are being stopped
      return
    self._finished[end.job.name] = self._is_finished(run)
    if end.code == 0 and self._finished[end.job.name]:
      self._errors.pop(end.job.name, None)
      logging.info(
        '%s is finished, %.0f s (%d of %d)',
        end.job.name,
        end.seconds,
        sum(self._finished.values()),
        len(self._runs),
      )
    else:
      values = config_lib.flatten(run.config)
      places = {
        str(values[name]): name.rpartition('.')[2].upper()
        for name in config_lib.HOST_FIELDS
      }
      self._errors[end.job.name] = provenance.public(failure(end), places)
      logging.warning('%s failed: %s', end.job.name, self._errors[end.job.name])
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
    comparison_page.write(self._workdir, record, columns)
    text = tables.to_csv(record['rows'], columns)
    style.write_bytes(self._workdir / 'comparison.csv', text.encode())
    return record

  def _is_finished(self, run: Run) -> bool:
    """Whether the results of a run are there, and are of its own config."""
    num_steps = self._num_steps[run.method]
    return run_lib.is_evaluated(run.workdir, run.config, num_steps, self._data)

  def _entry(self, run: Run) -> dict[str, Any]:
    """A run in comparison.json."""
    name = run.workdir.name
    done = self._finished[name]
    status = FINISHED if done else FAILED if name in self._errors else WAITING
    stored = files.read_json(run.workdir / 'config.json') or {}
    return {
      'name': name,
      'method': run.method,
      'seed': run.seed,
      'status': status,
      'error': None if done else self._errors.get(name),
      'seconds': _seconds(run.workdir / _COST),
      'git_commit': stored.get('git_commit'),
      'versions': stored.get('versions'),
      'results': (
        files.read_json(run.workdir / 'results.json') if done else None
      ),
    }


def _seconds(path: pathlib.Path) -> float | None:
  """The seconds that all commands of a run have taken, if they are known."""
  seconds = (files.read_json(path) or {}).get('seconds')
  return seconds if formats.is_number(seconds) else None


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


def _command(plans: Mapping[str, plans.Plan], seeds: Sequence[int]) -> str:
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
    x
    for x in first.overrides
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
