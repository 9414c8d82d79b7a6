"""The search for each method's options: as many trials each, one file.

python -m benchmarks.search --config=configs/mnist.py --data_dir=DATA

A trial is a training with the options of one entry of `TRIALS`. It is judged by
the distance of the method's own generator from the *validation* split, with a
seed that no table uses; the test split is not looked at. Started again, it
continues where it was stopped.
`--config.GROUP.FIELD=VALUE` goes to every trial.
"""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from absl import logging

from benchmarks import common
from ldc_vae import config as config_lib
from ldc_vae import methods
from ldc_vae import run_files
from ldc_vae.reporting import tables
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs as jobs_lib

MODULE = 'benchmarks.search'

_RATES = tuple({'optimizer.learning_rate': rate} for rate in (1e-3, 2e-3, 5e-4))


def _values(field: str, *values: float) -> tuple[dict[str, float], ...]:
  """One trial for each value of an option of the objective."""
  return tuple({f'method.{field}': value} for value in values)


# Method -> the options of its trials, that of `configs/default.py` first. What
# is varied is the option that the method adds; where it adds none, the rate.
TRIALS = {
  'ae': _RATES,
  'vae': _RATES,
  'beta_vae': _values('beta', 4.0, 2.0, 0.5),
  'iwae': _RATES,
  'wae_mmd': _values('mmd_weight', 7000.0, 2000.0, 20000.0),
  'info_vae': _values('mmd_scaling', 1000.0, 300.0, 3000.0),
  'aae': _values('adversarial_weight', 10.0, 3.0, 30.0),
  'rae_l2': _values('embedding_weight', 0.05, 0.5, 0.005),
  'rae_gp': _values('gradient_weight', 0.05, 0.5, 0.005),
  'vamp': _RATES,
  'stein_vae': (
    {'method.num_particles': 4, 'optimizer.learning_rate': 1e-3},
    {'method.num_particles': 4, 'optimizer.learning_rate': 2e-3},
    {'method.num_particles': 8, 'optimizer.learning_rate': 1e-3},
  ),
  'lebm': (
    {'method.r1_weight': 0.1, 'optimizer.latent_learning_rate': 2e-4},
    {'method.r1_weight': 0.02, 'optimizer.latent_learning_rate': 2e-4},
    {'method.r1_weight': 0.1, 'optimizer.latent_learning_rate': 5e-4},
  ),
  'ldc': _values('inverse_temperature', 1.0, 1.5, 2.0),
}
_METRICS = {  # of results.json, in the table
  'frechet_classifier/generator': 'Fréchet, own generator',
  'frechet_classifier/gmm_10': '+ GMM-10',
  'frechet_classifier/aggregate': 'aggregate',
  'frechet_classifier/reconstruction': 'reconstruction',
}
_CRITERION = 'frechet_classifier/generator'
_MEANT = 'trial.json'  # in a workdir: the arguments that it was finished with


class Trial(NamedTuple):
  """One training.

  Attributes:
    method: Its name.
    options: Fields of the config to their values.
    arguments: The arguments of `ldc_vae.main`.
    workdir: Where it lives.
  """

  method: str
  options: Mapping[str, Any]
  arguments: tuple[str, ...]
  workdir: pathlib.Path


def create_trials(
  config: str,
  methods: Sequence[str],
  seed: int,
  root: str,
  overrides: Sequence[str] = (),
) -> list[Trial]:
  """The trials of all methods.

  Args:
    config: A run file, perhaps with ':debug'.
    methods: Names in `TRIALS`.
    seed: The seed of all trials.
    root: The folder of their workdirs.
    overrides: Overrides as on the command line, for every trial.

  Returns:
    `len(TRIALS[method])` trials of each method.

  Raises:
    ValueError: The config names a method, or a field or value is wrong.
  """
  path, arg = run_files.split(config)
  if arg not in ('', 'debug'):
    raise ValueError(f'--config={config} names a method; --methods does that')
  trials = []
  for method in methods:
    for number, options in enumerate(TRIALS[method]):
      workdir = pathlib.Path(root) / f'{method}_{number}'
      spec = f'{path}:{method}{"," if arg else ""}{arg}'
      fields = (
        f'--config.seed={seed}',
        '--config.evaluate.split=validation',
        '--config.evaluate.samplers=prior,gmm_10',
        '--config.evaluate.importance_samples=0',
        *overrides,
        *(f'--config.{field}={value}' for field, value in options.items()),
      )
      config_lib.load(spec, fields)
      arguments = (f'--config={spec}', *fields, f'--workdir={workdir}')
      trials.append(Trial(method, options, arguments, workdir))
  return trials


def is_finished(trial: Trial) -> bool:
  """Whether this very trial has been trained and evaluated before."""
  meant = files.read_json(trial.workdir / _MEANT) or {}
  same = common.same_run(meant.get('arguments'), trial.arguments)
  return same and _results(trial) is not None


def run(trials: Sequence[Trial], num_jobs: int) -> list[str]:
  """Trains what is not finished; returns the names of those that failed."""
  waiting = {
    trial.workdir.name: trial for trial in trials if not is_finished(trial)
  }
  logging.info('%d of %d trials to do', len(waiting), len(trials))
  failed = []

  def on_end(end: jobs_lib.End) -> None:
    trial = waiting[end.job.name]
    if end.code == 0:
      meant = {'arguments': trial.arguments}
      files.write_json(trial.workdir / _MEANT, meant)
    elif end.code is not None:
      failed.append(end.job.name)
    logging.info(
      '%s: exit code %s, %.0f s', end.job.name, end.code, end.seconds
    )

  jobs_lib.run_all(
    [common.job(each.workdir, each.arguments) for each in waiting.values()],
    num_jobs,
    on_end=on_end,
  )
  return failed


def collect(trials: Sequence[Trial]) -> list[dict[str, Any]]:
  """A row for each finished trial: its options and its distances.

  'chosen' marks the smallest distance of a method's own generator; a method
  whose trials are not all finished has none.
  """
  rows = []
  for trial in trials:
    if not is_finished(trial):
      name = trial.workdir.name
      logging.warning('%s is not finished with these arguments', name)
      continue
    results = _results(trial)
    rows.append(
      {
        'method': trial.method,
        'options': dict(trial.options),
        'git_commit': common.commit_of(trial.workdir),
        **{name: results.get(name) for name in _METRICS},
        'chosen': False,
      }
    )
  for method in dict.fromkeys(row['method'] for row in rows):
    group = [row for row in rows if row['method'] == method]
    if any(row[_CRITERION] is None for row in group):
      logging.warning('%s has no %s to choose by', method, _CRITERION)
    elif len(group) == sum(trial.method == method for trial in trials):
      min(group, key=lambda row: row[_CRITERION])['chosen'] = True
  return rows


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """The table of all trials; those chosen are bold."""
  lines = []
  for row in rows:
    options = ', '.join(f'`{k}={v:g}`' for k, v in row['options'].items())
    text = f'`{row["method"]}` {options}'
    lines.append(
      (
        f'**{text}**' if row['chosen'] else text,
        *(common.show(row[name]) for name in _METRICS),
      )
    )
  return tables.markdown_table(('trial', *_METRICS.values()), lines)


def main(argv: Sequence[str]) -> int:
  """Trains and collects; 0 if every trial has results."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--config', default='configs/mnist.py')
  add('--methods', type=common.names, default=tuple(methods.METHODS))
  add('--seed', type=int, default=100)
  args, overrides = common.parse_runs(
    parser,
    argv,
    workdir='runs/search',
    output='runs/search.json',
    own_fields=('seed', 'evaluate.split'),
  )
  common.choose('methods', args.methods, TRIALS)
  trials = create_trials(
    args.config, args.methods, args.seed, args.workdir, overrides
  )
  common.set_up_jax()
  failed = []
  if not args.collect_only:
    pathlib.Path(args.workdir).mkdir(parents=True, exist_ok=True)
    failed = run(trials, args.jobs)
  rows = collect(trials)
  if not rows:
    raise ValueError(f'--workdir={args.workdir} holds no finished trial')
  record = common.create_record(MODULE, argv, [args.seed])
  record['rows'] = rows
  text = to_markdown(rows)
  print(text)
  common.write(args.output, record, text)
  for name in failed:
    logging.error('%s failed; see %s/%s.log', name, args.workdir, name)
  return 0 if len(rows) == len(trials) and not failed else 1


def _results(trial: Trial) -> dict[str, Any] | None:
  """results.json of a trial, judged on the validation split."""
  results = files.read_json(trial.workdir / 'results.json')
  if results is None or results.get('protocol/split') != 'validation':
    return None
  return results


if __name__ == '__main__':
  common.run(main)
