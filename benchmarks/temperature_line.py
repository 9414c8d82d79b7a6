"""The line of lambda: how sharp the posteriors are, and which sampler follows.

python -m benchmarks.temperature_line --config=configs/mnist.py --data_dir=DATA

`ldc` is trained at each inverse temperature lambda of the Gibbs energy and
compared with the *validation* split: the test split chooses nothing. A small
lambda gives wide posteriors near N(0, I), a large one a plain autoencoder.
Started again, it continues where it was stopped. `--config.GROUP.FIELD=VALUE`
goes to every run.
"""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

from absl import logging
from matplotlib import ticker
import matplotlib.figure as mpl_figure
import numpy as np

from benchmarks import common
from ldc_vae import names
from ldc_vae.reporting import style
from ldc_vae.reporting import tables
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs as jobs_lib

MODULE = 'benchmarks.temperature_line'
_FIELD = 'method.inverse_temperature'
_DISTANCE = 'frechet_classifier'
_SOURCES = ('reconstruction', 'aggregate', 'generator', 'gmm_200')
_OTHERS = ('nll/importance', 'eval/reconstruction_mse')
_FIXED = {
  'evaluate.split': 'validation',
  'evaluate.samplers': 'prior,gmm_200',
  'evaluate.num_draws': 5,
}


def create_arguments(
  config: str, value: float, seed: int, overrides: Sequence[str]
) -> list[str]:
  """The arguments of `ldc_vae.main` for one lambda and seed."""
  fields = {'seed': seed, _FIELD: value, **_FIXED}
  return [
    f'--config={config}:ldc',
    *(f'--config.{field}={each}' for field, each in fields.items()),
    *overrides,
  ]


def read_row(
  workdir: pathlib.Path, value: float, seed: int
) -> dict[str, Any] | None:
  """A run's distances and likelihood; None if it is not finished."""
  results = files.read_json(workdir / 'results.json')
  if results is None:
    return None
  distances = {name: results[f'{_DISTANCE}/{name}'] for name in _SOURCES}
  return {
    'lambda': value,
    'seed': seed,
    'git_commit': common.commit_of(workdir),
    **distances,
    **{name: results[name] for name in _OTHERS},
  }


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows as a table, one for each run."""
  columns = {name: names.find_source(name).label for name in _SOURCES}
  columns.update({x: names.find_metric(x)[0].label for x in _OTHERS})
  return tables.markdown_table(
    ('λ', 'seed', *columns.values()),
    [
      (
        f'{row["lambda"]:g}',
        f'{row["seed"]}',
        *(common.show(row[name]) for name in columns),
      )
      for row in rows
    ],
  )


def draw(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Draws the mean distance of each source over lambda, both logarithmic."""
  values = sorted({row['lambda'] for row in rows})
  with style.applied():
    fig = mpl_figure.Figure(figsize=(5.5, 3.8), layout='constrained')
    axes = fig.add_subplot()
    for name in _SOURCES:
      found = [[r[name] for r in rows if r['lambda'] == x] for x in values]
      axes.plot(
        values,
        [np.mean(x) for x in found],
        marker='o',
        linestyle='dashed' if name == 'reconstruction' else 'solid',
        color=style.source_colour(name),
        label=names.find_source(name).label,
      )
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    axes.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    axes.yaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_yticks([y for y in (0.2, 0.5, 1, 2, 5, 10) if _shows(axes, y)])
    axes.set_xticks(values)
    axes.set_xlabel('inverse temperature λ')
    axes.set_ylabel('Fréchet distance, validation split')
    axes.legend()
    style.write_figure(fig, path)


def _shows(axes, y: float) -> bool:
  """Whether a height is inside the axes."""
  low, high = axes.get_ylim()
  return low <= y <= high


def main(argv: Sequence[str]) -> int:
  """Trains and collects; 0 if every run has results."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--config', default='configs/mnist.py')
  parser.add_argument(
    '--values', type=common.numbers, default=(0.5, 1.0, 2.0, 4.0, 8.0)
  )
  parser.add_argument('--seeds', type=common.integers, default=(0,))
  args, overrides = common.parse_runs(
    parser,
    argv,
    workdir='runs/temperature_line',
    output='runs/temperature_line.json',
    own_fields=('seed', _FIELD, *_FIXED),
  )
  common.distinct('values', args.values)
  common.set_up_jax()
  root = pathlib.Path(args.workdir)
  runs = {
    root / f'lambda_{value:g}_seed_{seed}': (value, seed)
    for value in args.values
    for seed in args.seeds
  }
  if not args.collect_only:
    root.mkdir(parents=True, exist_ok=True)
    waiting = [
      common.job(
        workdir,
        [
          *create_arguments(args.config, value, seed, overrides),
          f'--workdir={workdir}',
        ],
      )
      for workdir, (value, seed) in runs.items()
    ]
    jobs_lib.run_all(
      waiting,
      args.jobs,
      on_end=lambda end: logging.info(
        '%s: exit code %s, %.0f s', end.job.name, end.code, end.seconds
      ),
    )
  found = [read_row(workdir, *run) for workdir, run in runs.items()]
  rows = [row for row in found if row is not None]
  if not rows:
    raise ValueError(f'--workdir={root} holds no finished run')
  record = common.create_record(MODULE, argv, args.seeds)
  record['rows'] = rows
  text = to_markdown(rows)
  print(text)
  common.write(args.output, record, text)
  draw(rows, pathlib.Path(args.output).with_suffix('.png'))
  return 0 if len(rows) == len(runs) else 1


if __name__ == '__main__':
  common.run(main)
