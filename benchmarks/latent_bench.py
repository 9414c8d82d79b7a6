"""Measures how well a latent sampler finds a known distribution.

python -m benchmarks.latent_bench --samplers=gmm_50,two_stage

A sampler of ldc_vae/samplers/registry.py is fitted to draws of a set and
compared with fresh ones. Every distance stands beside that of *fresh draws* of
the same set, the floor, which a perfect sampler has. The sets are

  --sets      distributions of known density, score and modes
              (latent_bench_sets.py),
  --workdirs  the aggregate posteriors of trained runs, whose decoders turn
              samples into images, to compare with the validation split,
  --pca       the principal components of a data set's images.

One verdict a row, 'within 1.3x'. Of a run, the decoded Frechet distance is at
most 1.3 times that of fresh posterior draws: images are what the sampler is
for. Elsewhere the sliced Wasserstein distance is, in all dimensions and in the
plane of the distribution, which random directions in 64 dimensions hardly see,
and every mode has between half and twice its mass. It is the root mean square
over all pairs of 16 samples and 16 reference draws, of 10,000 each. One pair of
fresh draws varies by a quarter on the ring and 0.4 on the moons, at 1,000 as at
10,000, because it depends on few counts. With this mean, the ratio of a perfect
sampler has a standard deviation of 0.02 to 0.06.
"""

import argparse
import ast
from collections.abc import Callable, Sequence
import functools
import pathlib
import time
from typing import Any

from absl import logging
import numpy as np

from benchmarks import common
from benchmarks import latent_bench_distances as distances
from benchmarks import latent_bench_frozen as frozen_lib
from benchmarks import latent_bench_sets as sets_lib
from ldc_vae.reporting import tables
from ldc_vae.samplers import registry

MODULE = 'benchmarks.latent_bench'
_TRAIN, _REFERENCE, _FRESH = range(3)  # streams of a seed's random numbers
_TIMED = 10_000  # draws


def run_set(
  latent_set: sets_lib.LatentSet,
  samplers: Sequence[str],
  seed: int,
  *,
  options: dict[str, Any],
  num_samples: int,
  num_draws: int,
  num_projections: int,
  image_draws: int,
  add_fn: Callable[[dict[str, Any]], None],
) -> None:
  """Rows of all samplers on one set and seed.

  Args:
    latent_set: The set.
    samplers: Names, as of `registry.fit`.
    seed: The seed of the set's draws, the fits and the samples.
    options: The options of the samplers.
    num_samples: The number of samples of a draw.
    num_draws: Independent draws of the distances.
    num_projections: Directions of a sliced distance, for each draw.
    image_draws: So many draws are decoded, where there is a decoder.
    add_fn: Called with each row.
  """
  draws_of = lambda draw_fn, stream: [
    draw_fn(num_samples, np.random.default_rng((seed, stream, index)))
    for index in range(num_draws)
  ]
  train = latent_set.train_fn(np.random.default_rng((seed, _TRAIN)))
  references = draws_of(latent_set.reference_fn, _REFERENCE)
  fresh = draws_of(latent_set.fresh_fn, _FRESH)
  num_samples = min(len(references[0]), len(fresh[0]))  # of a small set, fewer
  measure_fn = functools.partial(
    distances.measure,
    latent_set,
    references=[z[:num_samples] for z in references],
    num_projections=num_projections,
    image_draws=image_draws,
    seed=seed,
  )
  floor = measure_fn([z[:num_samples] for z in fresh])
  for name in samplers:
    start = time.monotonic()
    sample_fn = _fit(name, train, seed, options)
    fit_seconds = time.monotonic() - start
    draws = [sample_fn(num_samples, num_draws * seed)]  # it may compile
    start = time.monotonic()
    draws += [
      sample_fn(num_samples, num_draws * seed + index)
      for index in range(1, num_draws)
    ]
    seconds = (time.monotonic() - start) / max(1, num_draws - 1)
    row = {
      'set': latent_set.name,
      'sampler': name,
      'seed': seed,
      **distances.compare(measure_fn(draws), floor),
      'fit_seconds': fit_seconds,
      'draw_seconds': seconds * _TIMED / num_samples,
      'git_commit': latent_set.git_commit,
    }
    logging.info(
      '%s, %s, seed %d: %s of the floor, %s',
      latent_set.name,
      name,
      seed,
      common.show(row['verdict_ratio']),
      'within' if row['within'] else 'not within',
    )
    add_fn(row)


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
  """Counts the rows of each sampler that are 'within', and all, 'of'."""
  summary = {}
  for row in rows:
    counts = summary.setdefault(row['sampler'], {'within': 0, 'of': 0})
    counts['within'] += bool(row['within'])
    counts['of'] += 1
  return summary


def to_markdown(record: dict[str, Any]) -> str:
  """The verdicts, a line for each set and sampler, and the floors."""
  rows = record['rows']
  lines = [
    f'**{name}: {counts["within"]} of {counts["of"]} within'
    f' {distances.LIMIT:g}x**'
    for name, counts in summarise(rows).items()
  ]
  parts = [
    '\n\n'.join(lines) + '\n',
    f'{record["num_train"]} draws to fit; {record["num_draws"]} samples of'
    f' {record["num_samples"]}, beside as many draws. ÷: in units of the'
    ' same distance of fresh draws, the floor; ± is the standard deviation'
    ' over seeds.'
    ' Accuracy: of a classifier that tells samples from draws, 0.5 is'
    ' perfect. Nats: of -log density, above that of fresh draws. Modes (of'
    ' runs, classes): their masses in units of the right ones. Far: the'
    ' share of samples far from every mode. Seconds: of the fit, and of'
    f' {_TIMED} draws.\n',
    _table(rows, _COLUMNS, ('set', 'sampler')),
    'The floors: fresh draws, as many as the samples.\n',
    _table(_one_each(rows), _FLOOR_COLUMNS, ('set',)),
  ]
  return '\n'.join(parts)


_COLUMNS = {
  'Fréchet ÷': 'frechet_ratio',
  'sliced ÷': 'sliced_ratio',
  'in plane ÷': 'sliced_plane_ratio',
  'MMD ÷': 'mmd_ratio',
  'KSD ÷': 'ksd_ratio',
  'accuracy': 'classifier',
  'nats': 'nll_excess',
  'smallest mode': 'smallest',
  'largest': 'largest',
  'far': 'far',
  'fit, s': 'fit_seconds',
  'draw, s': 'draw_seconds',
}
_FLOOR_COLUMNS = {
  'Fréchet': 'frechet_floor',
  'sliced': 'sliced_floor',
  'in plane': 'sliced_plane_floor',
  'MMD': 'mmd_floor',
  'KSD': 'ksd_floor',
  'accuracy': 'classifier_floor',
  '-log density, nats': 'nll_floor',
  'smallest mode': 'smallest_floor',
  'largest': 'largest_floor',
  'far': 'far_floor',
}


def main(argv: Sequence[str]) -> int:
  """Runs the bench; 0 is success, whatever the verdicts."""
  args = _parse(argv)
  common.set_up_jax()
  record = common.create_record(MODULE, argv, args.seeds)
  fields = (
    'num_train',
    'num_samples',
    'num_draws',
    'num_projections',
    'image_draws',
    'options',
  )
  record.update({name: getattr(args, name) for name in fields}, rows=[])

  def add(row):
    record['rows'].append(row)
    record['summary'] = summarise(record['rows'])
    if args.output:
      common.write(args.output, record, to_markdown(record))

  for create_fn in _set_makers(args):
    latent_set = create_fn()
    for seed in args.seeds:
      run_set(
        latent_set,
        args.samplers,
        seed,
        options=args.options,
        num_samples=args.num_samples,
        num_draws=args.num_draws,
        num_projections=args.num_projections,
        image_draws=args.image_draws,
        add_fn=add,
      )
  print(to_markdown(record))
  return 0


def parse_options(text: str) -> dict[str, Any]:
  """Parses 'num_steps=2000,kernel=imq'; a value may be a Python literal."""
  options = {}
  for word in common.names(text):
    name, equals, value = word.partition('=')
    if not (name and equals and value):
      raise argparse.ArgumentTypeError(
        f'{word!r} is no option; give NAME=VALUE, as num_steps=2000'
      )
    try:
      options[name] = ast.literal_eval(value)
    except (SyntaxError, ValueError):  # a word
      options[name] = value
  return options


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  """The flags."""
  parser = argparse.ArgumentParser(
    prog=f'python -m {MODULE}', description=__doc__.partition('\n')[0]
  )
  add = parser.add_argument
  add(
    '--sets',
    type=common.names,
    default=sets_lib.DEFAULT_SETS,
    help=f'FAMILY_D of {", ".join(sets_lib.FAMILIES)}; empty: none',
  )
  add('--samplers', type=common.names, default=('gmm_10', 'gmm_50'))
  add(
    '--options',
    type=parse_options,
    default={},
    help='of every sampler, as num_steps=2000',
  )
  add('--seeds', type=common.integers, default=(0, 1, 2, 3, 4))
  add('--workdirs', type=common.names, default=(), help='trained runs')
  add('--pca', type=common.names, default=(), help='data sets, as cifar10')
  add('--data_dir', default='', help="instead of a run's dataset.data_dir")
  add('--classifier_seed', type=int, default=0)
  add('--num_train', type=common.positive, default=50_000)
  add('--num_samples', type=common.positive, default=10_000)
  add('--num_draws', type=common.positive, default=16)
  add('--num_projections', type=common.positive, default=64)
  add(
    '--image_draws',
    type=common.positive,
    default=2,
    help='draws that are decoded; each takes seconds',
  )
  add('--output', default='runs/latent_bench.json')
  args = common.parse_args(parser, argv)
  common.distinct('sets', args.sets)
  common.distinct('samplers', args.samplers)
  common.distinct('workdirs', [pathlib.Path(x).name for x in args.workdirs])
  common.distinct('pca', args.pca)
  if not (args.sets or args.workdirs or args.pca):
    raise ValueError('--sets, --workdirs and --pca name nothing to find')
  if not args.samplers:
    raise ValueError('--samplers names nothing; give one, as gmm_50')
  for name in args.sets:
    sets_lib.create_distribution(name)  # fails before the work
  return args


def _set_makers(args) -> list[Callable[[], sets_lib.LatentSet]]:
  """Returns a function for each set, which makes it when it is needed."""
  makers = [
    functools.partial(sets_lib.create_set, name, args.num_train)
    for name in args.sets
  ]
  makers += [
    functools.partial(
      frozen_lib.load_run,
      workdir,
      data_dir=args.data_dir,
      num_train=args.num_train,
      classifier_seed=args.classifier_seed,
    )
    for workdir in args.workdirs
  ]
  makers += [
    functools.partial(
      frozen_lib.load_components,
      name,
      data_dir=args.data_dir,
      num_train=args.num_train,
    )
    for name in args.pca
  ]
  return makers


def _fit(name, latents, seed, options) -> registry.SampleFn:
  """A sampler; one that diverges makes latents that are not finite."""
  try:
    return registry.fit(name, latents, seed=seed, **options)
  except TypeError as error:
    raise ValueError(f'--options do not fit {name}: {error}') from error
  except (FloatingPointError, np.linalg.LinAlgError) as error:
    logging.warning('%s has diverged: %s', name, error)
    return lambda num, seed: np.full((num, latents.shape[1]), np.nan)


def _one_each(rows) -> list[dict[str, Any]]:
  """A row for each set and seed: its floor is that of all samplers."""
  return list({(row['set'], row['seed']): row for row in rows}.values())


def _table(rows, columns, names) -> str:
  """A line for each group of rows with the same names, over their seeds."""
  columns = {
    title: field
    for title, field in columns.items()
    if any(row[field] is not None for row in rows)
  }
  groups = {}
  for row in rows:
    groups.setdefault(', '.join(row[name] for name in names), []).append(row)
  lines = [
    (
      name,
      f'{sum(bool(row["within"]) for row in group)} of {len(group)}',
      *(
        common.show_spread([row[field] for row in group])
        for field in columns.values()
      ),
    )
    for name, group in groups.items()
  ]
  header = (', '.join(names), 'within', *columns)
  if 'sampler' not in names:  # the floor has no verdict
    header = (header[0], *header[2:])
    lines = [(line[0], *line[2:]) for line in lines]
  return tables.markdown_table(header, lines)


if __name__ == '__main__':
  common.run(main)
