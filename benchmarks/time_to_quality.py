"""Seconds from the images to a generator of a given quality, by each route.

python -m benchmarks.time_to_quality --config=configs/mnist.py \\
  --output=benchmarks/results/time_to_quality.json

A route is a method and, where it is named after a +, a latent sampler that is
fitted to the trained method's latents. Each method is trained anew for every
number of epochs, with its whole schedule. The target is a factor of a limit:
the distance of the decoded training latents of `ae` with the most epochs. A
route reaches it with the fewest epochs whose distance is at most the target.
Distances are those of the first feature classifier from the *validation* split,
means over draws. `--config.GROUP.FIELD=VALUE` goes to every run.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import pathlib
import tempfile
import time
from typing import Any

from absl import logging
import numpy as np

from benchmarks import common
from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import train
from ldc_vae.api import trained_run
from ldc_vae.evaluation import classifier as classifier_lib
from ldc_vae.metrics import frechet
from ldc_vae.reporting import style
from ldc_vae.reporting import tables
from ldc_vae.samplers import registry

_SAMPLERS = ('gmm_50', 'gmm_200', 'flow_matching', 'flow')
_ROUTES = (
  'ldc',
  *(f'{method}+{name}' for method in ('vae', 'ae') for name in _SAMPLERS),
  'vamp',
  'lebm',
)
_NUM_SAMPLES = 10_000
_LIMIT = 'limit'  # the name of the rows of ae's own latents
DistanceFn = Callable[[np.ndarray], float]


def main(argv: Sequence[str]) -> int:
  """Trains, fits, prints a table and writes the result and a picture."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--config', default='configs/digits.py')
  add('--data_dir', default='', help='prepared TFDS data')
  add('--routes', type=common.names, default=_ROUTES)
  add('--epochs', type=common.integers, default=(1, 2, 4, 8, 16, 32))
  add('--factors', type=common.numbers, default=(1.5, 1.1))
  add('--seeds', type=common.integers, default=(0,))
  add('--draws', type=common.positive, default=5, help='sets of samples')
  add('--output', default='')
  args, overrides = common.parse_overrides(parser, argv)
  common.choose('routes', args.routes, _ROUTES, required=True)
  if args.data_dir:
    overrides.append(f'--config.dataset.data_dir={args.data_dir}')
  common.set_up_jax()
  record = common.create_record('benchmarks.time_to_quality', argv, args.seeds)
  record['rows'] = [
    row
    for seed in args.seeds
    for epochs in sorted(args.epochs)
    for row in measure(args, epochs, seed, overrides)
  ]
  record['summary'] = summarise(record['rows'], args.factors)
  markdown = to_markdown(record['summary'])
  print(markdown)
  if args.output:
    common.write(args.output, record, markdown)
    draw(record['rows'], pathlib.Path(args.output).with_suffix('.png'))
  return 0


def measure(
  args, epochs: int, seed: int, overrides: Sequence[str]
) -> Iterator[dict[str, Any]]:
  """Yields a row for each route, and one for the limit."""
  routes = [route.partition('+')[::2] for route in args.routes]
  for method in dict.fromkeys([*(method for method, _ in routes), 'ae']):
    config = config_lib.load(
      f'{args.config}:{method}',
      [
        f'--config.seed={seed}',
        *overrides,
        f'--config.train.num_epochs={epochs}',
      ],
    )
    with tempfile.TemporaryDirectory() as workdir:
      start = time.monotonic()
      train.train_and_evaluate(config, workdir, with_evaluation=False)
      train_seconds = time.monotonic() - start
      run = trained_run.load(workdir)
    dataset = experiment_lib.load_dataset(config)
    distance_fn = make_distance_fn(dataset)
    z = run.encode(dataset.images['train'], seed=seed)
    own = {'epochs': epochs, 'seed': seed, 'train_seconds': train_seconds}
    if method == 'ae':
      rng = np.random.default_rng(seed)
      limits = [
        distance_fn(run.decode(rng.permutation(z)[: _num_real(dataset)]))
        for _ in range(args.draws)
      ]
      yield {'route': _LIMIT, **own, 'distance': float(np.mean(limits))}
    for sampler in [sampler for name, sampler in routes if name == method]:
      start = time.monotonic()
      if sampler:
        sample_fn = registry.fit(sampler, z, seed=seed)
      else:
        sample_fn = lambda num, seed, run=run: run.sample_latents(
          num, seed=seed
        )
      fit_seconds = time.monotonic() - start if sampler else 0.0
      distances = []
      for draw_seed in range(args.draws):
        start = time.monotonic()
        images = run.decode(sample_fn(_NUM_SAMPLES, draw_seed))
        sample_seconds = time.monotonic() - start  # the last: compiled before
        distances.append(distance_fn(images[: _num_real(dataset)]))
      route = f'{method}+{sampler}' if sampler else method
      logging.info('%s, %d epochs: %.4g', route, epochs, np.mean(distances))
      yield {
        'route': route,
        **own,
        'fit_seconds': fit_seconds,
        'sample_seconds': sample_seconds,
        'distance': float(np.mean(distances)),
      }


def _num_real(dataset) -> int:
  """Returns how many images are compared: a distance depends on it."""
  return min(_NUM_SAMPLES, len(dataset.images['validation']))


def make_distance_fn(dataset) -> DistanceFn:
  """Returns the distance of images from the validation split."""
  classifier = classifier_lib.load_or_train(dataset, seed=0)
  moments_fn = lambda images: frechet.moments(classifier.features(images))
  reference = moments_fn(dataset.images['validation'][: _num_real(dataset)])
  return lambda images: frechet.frechet_from_moments(
    *moments_fn(images), *reference
  )


def summarise(
  rows: Sequence[Mapping[str, Any]], factors: Sequence[float]
) -> list[dict[str, Any]]:
  """Returns an entry for each route and factor, the fastest first.

  Its seconds are medians over seeds of the runs that reach the target with the
  fewest epochs; None where a seed never reaches it.
  """
  most = max(row['epochs'] for row in rows)
  limits = {
    row['seed']: row['distance']
    for row in rows
    if row['route'] == _LIMIT and row['epochs'] == most
  }
  entries = []
  routes = dict.fromkeys(row['route'] for row in rows)
  for factor in factors:
    found = []
    for route in routes:
      if route == _LIMIT:
        continue
      first = []
      for seed, limit in limits.items():
        reached = [
          row
          for row in rows
          if (row['route'], row['seed']) == (route, seed)
          and row['distance'] <= factor * limit
        ]
        first.append(min(reached, key=lambda row: row['epochs'], default=None))
      entry = {'factor': factor, 'route': route}
      for name in ('epochs', 'train_seconds', 'fit_seconds', 'sample_seconds'):
        values = [row[name] for row in first if row]
        is_reached = len(values) == len(limits)
        entry[name] = float(np.median(values)) if is_reached else None
      entry['seconds'] = None
      if entry['epochs'] is not None:
        entry['seconds'] = entry['train_seconds'] + entry['fit_seconds']
      found.append(entry)
    entries += sorted(
      found, key=lambda entry: (entry['seconds'] is None, entry['seconds'] or 0)
    )
  return entries


def to_markdown(summary: Sequence[Mapping[str, Any]]) -> str:
  """Returns the summary as a table; n/a is a target that was not reached."""
  columns = {
    'factor': 'distance ÷ limit',
    'route': 'route',
    'epochs': 'epochs',
    'seconds': 'to the quality, s',
    'train_seconds': 'training, s',
    'fit_seconds': 'fitting, s',
    'sample_seconds': '10,000 samples, s',
  }
  rows = [
    tuple(
      entry[name] if name == 'route' else common.show(entry[name])
      for name in columns
    )
    for entry in summary
  ]
  return tables.markdown_table(tuple(columns.values()), rows)


def draw(rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Draws the distance over the seconds of training and fitting."""
  with style.applied():
    fig, (panel,) = style.panels(1, 1, (6.6, 3.6))
    for route in dict.fromkeys(row['route'] for row in rows):
      own = [row for row in rows if row['route'] == route]
      seconds = [
        row['train_seconds'] + row.get('fit_seconds', 0) for row in own
      ]
      is_limit = route == _LIMIT
      look = dict(color='black' if is_limit else None)
      look['linestyle'] = '--' if is_limit else '-'
      distances = [row['distance'] for row in own]
      panel.plot(
        seconds, distances, marker='o', markersize=3, label=route, **look
      )
    panel.set_xscale('log')
    panel.set_yscale('log')
    panel.set_xlabel('seconds of training and fitting')
    panel.set_ylabel('Fréchet distance, classifier')
    panel.legend(ncols=2)
    style.set_title(fig, 'Time to quality')
    style.write_figure(fig, path)


if __name__ == '__main__':
  common.run(main)
