"""The headline numbers over several seeds, by the product's own command.

python -m benchmarks.seeds --configs=configs/mnist.py,configs/fashion_mnist.py

Trains and evaluates every config with every seed, one run after the other, each
judged by two feature classifiers; the distance of a latent source is the mean
over ten sets of images, as that of one set of 10,000 varies by a tenth from
draw to draw. Started again, it continues where it was stopped.
`--config.GROUP.FIELD=VALUE` goes to every run; `--collect_only` makes the
tables of runs that are there.
"""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
import re
import sys
from typing import Any, NamedTuple

from absl import logging

from benchmarks import common
from ldc_vae import config as config_lib
from ldc_vae import run_files
from ldc_vae.metrics import intervals
from ldc_vae.reporting import tables
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs as jobs_lib

MODULE = 'benchmarks.seeds'

CLASSIFIERS = {
  'frechet_classifier': 'first classifier',
  'frechet_classifier_seed_1': 'second classifier',
}
# (numerator, denominator) of the distances of one run
RATIOS = (
  ('generator', 'aggregate'),
  ('generator', 'gmm_10'),
  ('generator', 'prior'),
)
_NEEDED = 'eval/reconstruction_mse'  # results.json without it is no result
_NUM_DRAWS = 10
_TIMING = 'benchmark.json'  # in a workdir: what this script knows of the run


class Run(NamedTuple):
  """One training.

  Attributes:
    name: The name of its config, as 'mnist'.
    spec: `FILE[:METHOD][,debug]`.
    seed: Its seed.
    workdir: Where it lives.
  """

  name: str
  spec: str
  seed: int
  workdir: pathlib.Path


def split_specs(text: str) -> tuple[str, ...]:
  """Splits 'a.py:ldc,debug,b.py' at the commas before a file: 2 parts."""
  return tuple(
    part.strip() for part in re.split(r',(?=[^,]*\.py)', text) if part.strip()
  )


def create_runs(
  specs: Sequence[str], seeds: Sequence[int], root: str
) -> list[Run]:
  """The runs, all seeds of a config together; workdirs are ROOT/NAME_SEED."""
  names = {}
  for spec in specs:
    path, arg = run_files.split(spec)
    name = re.sub(r'[^\w]+', '_', f'{pathlib.Path(path).stem} {arg}'.strip())
    if name in names:
      raise ValueError(f'--configs names {name} twice: {names[name]}, {spec}')
    names[name] = spec
  return [
    Run(name, spec, seed, pathlib.Path(root) / f'{name}_{seed}')
    for name, spec in names.items()
    for seed in seeds
  ]


def arguments(run: Run, overrides: Sequence[str]) -> list[str]:
  """The arguments of `ldc_vae.main` for a run."""
  return [
    f'--config={run.spec}',
    f'--workdir={run.workdir}',
    f'--config.seed={run.seed}',
    '--config.evaluate.classifier_seeds=0,1',
    f'--config.evaluate.num_draws={_NUM_DRAWS}',
    *overrides,
  ]


def is_finished(run: Run, overrides: Sequence[str]) -> bool:
  """Whether this script has brought the same run to its end before."""
  timing = files.read_json(run.workdir / _TIMING) or {}
  return (
    common.same_run(timing.get('finished'), arguments(run, overrides))
    and read_results(run) is not None
  )


def read_results(run: Run) -> dict[str, Any] | None:
  """results.json of a run; None if it has not been evaluated."""
  results = files.read_json(run.workdir / 'results.json')
  if results is None or _NEEDED not in results:
    return None
  if results['seed'] != run.seed:
    raise ValueError(
      f'{run.workdir} holds a run of seed {results["seed"]}, not {run.seed};'
      ' use another --workdir'
    )
  return results


def train_all(
  runs: Sequence[Run], overrides: Sequence[str], num_jobs: int
) -> list[Run]:
  """Trains what is not finished, `num_jobs` at once.

  With more than one job each has its own cores, where the system can pin them,
  and its output goes to WORKDIR.log.

  Args:
    runs: All of them.
    overrides: `--config.a.b=value` of every run.
    num_jobs: At least 1.

  Returns:
    The runs that failed.
  """
  waiting, failed = {}, []
  for run in runs:
    if is_finished(run, overrides):
      logging.info('%s is finished', run.workdir)
    else:
      waiting[run.workdir.name] = run

  def on_end(end: jobs_lib.End) -> None:
    run = waiting[end.job.name]
    succeeded = end.code == 0
    finished = arguments(run, overrides) if succeeded else None
    _add_seconds(run, end.seconds, finished)
    if end.code is None:  # we are being stopped
      return
    if not succeeded:
      failed.append(run)
    logging.info('%s: exit code %d', run.workdir, end.code)

  jobs_lib.run_all(
    [
      common.job(run.workdir, arguments(run, overrides), num_jobs > 1)
      for run in waiting.values()
    ],
    num_jobs,
    on_end=on_end,
  )
  return failed


def collect(
  runs: Sequence[Run], overrides: Sequence[str]
) -> list[dict[str, Any]]:
  """A row for each run that this script has finished with these arguments.

  Args:
    runs: All of them.
    overrides: `--config.a.b=value` of every run.

  Returns:
    Rows with 'config', 'seed', 'git_commit' (of the training), 'wall_seconds'
    (of the whole command), 'evaluation_seconds', the distances, their
    'ratio/...' and the rest of `quantities`.
  """
  rows = []
  for run in runs:
    results = read_results(run)
    if not is_finished(run, overrides):
      logging.warning('%s is not finished with these arguments', run.workdir)
      continue
    timing = files.read_json(run.workdir / _TIMING) or {}
    rows.append(
      {
        'config': run.name,
        'seed': run.seed,
        'git_commit': common.commit_of(run.workdir),
        'step': results.get('step'),
        'num_samples': results.get('num_samples'),
        'wall_seconds': timing.get('wall_seconds'),
        'evaluation_seconds': results.get('wall_seconds'),
        _NEEDED: results[_NEEDED],
        **ratios(results),
        **{
          name: value
          for name, value in sorted(results.items())
          if name.partition('/')[0] in CLASSIFIERS and value is not None
        },
      }
    )
  return rows


def ratios(results: Mapping[str, Any]) -> dict[str, float]:
  """'ratio/FAMILY/a/b' of the distances of one run, where both are there."""
  values = {}
  for family in CLASSIFIERS:
    for a, b in RATIOS:
      above, below = (results.get(f'{family}/{name}') for name in (a, b))
      if above is not None and below:
        values[f'ratio/{family}/{a}/{b}'] = above / below
  return values


def summarise(
  rows: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, dict[str, Any]]]:
  """Statistics over seeds, for each config and quantity.

  Args:
    rows: The result of `collect`.

  Returns:
    config -> quantity -> 'mean', 'standard_deviation' (None of one seed),
    'worst' (the largest) and 'values', one per seed, None where it has none.
  """
  summary = {}
  for name in dict.fromkeys(row['config'] for row in rows):
    group = [row for row in rows if row['config'] == name]
    summary[name] = {}
    for quantity in dict.fromkeys(key for row in group for key in row):
      values = [row.get(quantity) for row in group]
      present = [value for value in values if isinstance(value, float)]
      if present:
        summary[name][quantity] = {
          'mean': intervals.mean(present),
          'standard_deviation': intervals.standard_deviation(present),
          'worst': max(present),
          'values': values,
        }
  return summary


def to_markdown(summary: Mapping[str, Mapping[str, Any]]) -> str:
  """One Markdown table per config: mean ± standard deviation, and each seed."""
  parts = []
  for name, quantities in summary.items():
    lines = []
    for quantity, entry in quantities.items():
      lines.append(
        (
          _label(quantity),
          common.show_spread(entry['values']),
          common.show(entry['worst']),
          ', '.join(map(common.show, entry['values'])),
        )
      )
    parts.append(f'**{name}**, mean ± standard deviation over seeds\n')
    header = ('quantity', 'mean', 'largest', 'each')
    parts.append(tables.markdown_table(header, lines))
  return '\n'.join(parts)


def main(argv: Sequence[str]) -> int:
  """Trains and collects; 0 if every run has results."""
  args, overrides = _parse(argv)
  runs = create_runs(args.configs, args.seeds, args.workdir)
  common.set_up_jax()
  failed = []
  if not args.collect_only:
    for run in runs:  # a mistake in the last config is told before the first
      config_lib.load(run.spec, [f'config.seed={run.seed}', *overrides])
    pathlib.Path(args.workdir).mkdir(parents=True, exist_ok=True)
    failed = train_all(runs, overrides, args.jobs)
  rows = collect(runs, overrides)
  if not rows:
    raise ValueError(
      f'--workdir={args.workdir} holds no finished run of'
      f' {", ".join(run.workdir.name for run in runs)}'
    )
  record = common.create_record(MODULE, argv, args.seeds)
  record['configs'] = {
    run.name: config_lib.public(config_lib.read(run.workdir))
    for run in reversed(runs)  # of the first seed
    if (run.workdir / 'config.json').exists()
  }
  record['rows'] = rows
  record['summary'] = summarise(rows)
  markdown = to_markdown(record['summary'])
  common.write(args.output, record, markdown)
  print(markdown)
  for run in failed:
    print(f'error: {run.workdir} failed; see its output', file=sys.stderr)
  return 0 if len(rows) == len(runs) and not failed else 1


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """The flags, and what goes to every run."""
  parser = argparse.ArgumentParser(
    prog=f'python -m {MODULE}',
    description=__doc__.partition('\n')[0],
    allow_abbrev=False,  # --config.a.b is no --configs
  )
  add = parser.add_argument
  add(
    '--configs',
    type=split_specs,
    default=('configs/mnist.py', 'configs/fashion_mnist.py'),
  )
  add('--seeds', type=common.integers, default=(0, 1, 2))
  return common.parse_runs(
    parser,
    argv,
    workdir='runs/seeds',
    output='runs/seeds.json',
    own_fields=('seed', 'evaluate.classifier_seeds', 'evaluate.num_draws'),
  )


def _add_seconds(run, seconds, finished) -> None:
  """Notes the time of one attempt; `finished` are its arguments, or None."""
  if not run.workdir.is_dir():
    return  # it failed before it began
  path = run.workdir / _TIMING
  timing = files.read_json(path) or {}
  total = timing.get('wall_seconds', 0.0) + seconds
  files.write_json(path, {'wall_seconds': total, 'finished': finished})


def _label(quantity: str) -> str:
  """A quantity in words, for the tables."""
  parts = quantity.split('/')
  if parts[0] == 'ratio':
    return f'{parts[2]} ÷ {parts[3]}, {CLASSIFIERS[parts[1]]}'
  if parts[0] in CLASSIFIERS:
    return f'{parts[1]}, {CLASSIFIERS[parts[0]]}'
  return quantity


if __name__ == '__main__':
  common.run(main)
