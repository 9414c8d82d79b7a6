"""The evidence bound of an encoder trained by SVGD against one by the ELBO.

python -m benchmarks.encoder_bound --data_dir=DATA_DIR

Both have the same networks, initial weights, images, noise, decoder evaluations
(K particles of each image) and steps, and the same target: the Bayes posterior,
inverse temperature 1. SVGD is the first phase of `ldc`; the ELBO is `vae` with
K samples. Bounds are in nats and include the likelihood's normaliser.
"""

import argparse
from collections.abc import Sequence
import math
import time
from typing import Any

from absl import logging
import chex
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from benchmarks import common
from benchmarks import encoder_bound_tables
from ldc_vae import config as config_lib
from ldc_vae import elbo
from ldc_vae import experiment as experiment_lib
from ldc_vae import step as step_lib
from ldc_vae import streams
from ldc_vae.data import datasets
from ldc_vae.metrics import intervals
from ldc_vae.models import model as model_lib

Array = jax.Array

MODULE = 'benchmarks.encoder_bound'

# Rows: the method's name in the tables, and whether SVGD leaves out j = i.
ELBO, OFF_DIAGONAL, ALL_PAIRS = 'elbo', 'svgd', 'svgd, all pairs'
WHITENED = 'svgd, whitened'

# Of both methods, whatever the run file says.
COMMON = {
  'model.architecture': 'mlp',
  'model.encoder': 'gaussian',
  'model.hidden_sizes': (512, 512),
  'model.latent_size': 16,
  'model.likelihood': 'gaussian',
  'model.scale': 0.1**0.5,
  'model.learn_scale': False,
  'train.batch_size': 128,
  'optimizer.learning_rate': 1e-3,
  'optimizer.schedule': 'cosine',
}

_MAX_IN_FLIGHT = 8  # steps; emulated CPU devices deadlock on long queues
_DECODES_AT_ONCE = 4_000  # latents in one decoder call of the bounds


def create_experiment(
  dataset: str,
  method: str,
  *,
  num_particles: int,
  seed: int,
  overrides: dict[str, Any],
) -> tuple[config_dict.ConfigDict, experiment_lib.Experiment]:
  """The run of a method, its first phase alone.

  Args:
    dataset: A run file of configs/, without '.py'.
    method: ELBO, OFF_DIAGONAL, ALL_PAIRS or WHITENED.
    num_particles: K.
    seed: The seed of weights, batches and noise.
    overrides: Further fields of the config.

  Returns:
    The config and the experiment.
  """
  if method == ELBO:
    name = 'vae'
    own = {'method.beta': 1.0, 'method.num_samples': num_particles}
  else:
    name = 'ldc'
    own = {
      'method.inverse_temperature': 1.0,
      'method.num_particles': num_particles,
      'method.off_diagonal': method != ALL_PAIRS,
      'method.whiten': method == WHITENED,
      'method.latent_energy_weight': 0.0,
    }
  config = config_lib.load(
    f'configs/{dataset}.py:{name}',
    {**COMMON, **own, 'seed': seed, **overrides},
  )
  experiment = experiment_lib.create(config)
  first = experiment.algorithm._replace(phases=experiment.algorithm.phases[:1])
  txs = {name: experiment.txs[name] for name in first.trained}
  return config, experiment._replace(algorithm=first, txs=txs)


def train(
  config: config_dict.ConfigDict, experiment: experiment_lib.Experiment
) -> tuple[step_lib.TrainState, float]:
  """Trains by the product's step; returns the state and seconds per step."""
  train_step = step_lib.pmap_train_step(
    experiment_lib.make_train_step(
      config, experiment.algorithm, experiment.txs, experiment.num_steps
    )
  )
  devices = jax.local_device_count()
  batches = datasets.train_batches(
    experiment.dataset.images['train'],
    config.train.batch_size,
    seed=config.seed,
  )
  state = experiment.init_state()
  start = time.monotonic()
  for step in range(1, experiment.num_steps + 1):
    images = next(batches)
    images = images.reshape(devices, -1, *images.shape[1:])
    state, metrics = train_step(state, images, experiment.key)
    if step % _MAX_IN_FLIGHT == 0 or step == 1:
      jax.block_until_ready(metrics)
    if step == 1:
      start = time.monotonic()  # compiled now
    if step % 200 == 0:
      logging.info(
        'step %d of %d: loss %.2f',
        step,
        experiment.num_steps,
        float(metrics['loss']),
      )
  jax.block_until_ready(state)
  seconds = time.monotonic() - start
  return state, seconds / max(experiment.num_steps - 1, 1)


def make_bounds_fn(model: model_lib.Model, num_samples: int):
  """Returns the evidence bounds of a batch, by posterior samples.

  Args:
    model: With a gaussian encoder.
    num_samples: Posterior samples of each image.

  Returns:
    A function `(params, images uint8 [B, H, W, C], key) -> dict` of arrays [B]:
    'elbo' and 'importance' (nats, to be maximised), 'kl' (nats) and
    'posterior_std'.
  """

  @jax.jit
  def bounds(params, images, key):
    keys = streams.image_keys(key, images.shape[0], None)
    images = step_lib.prepare_images(images, keys, False)
    z, mean, logvar = model.particles(params, images, keys, num_samples)
    log_likelihoods = model.log_likelihood(params, images, z)  # [B, K]
    log_weights = jax.vmap(elbo.log_weights)(log_likelihoods, z, mean, logvar)
    return {
      'elbo': jax.vmap(elbo.elbo)(log_likelihoods, mean, logvar),
      'importance': jax.vmap(elbo.importance_weighted_bound)(log_weights),
      'kl': jax.vmap(elbo.gaussian_kl)(mean, logvar),
      'posterior_std': jnp.mean(jnp.exp(0.5 * logvar), axis=1),
    }

  return bounds


def evaluate(
  experiment: experiment_lib.Experiment,
  state: step_lib.TrainState,
  num_samples: int,
) -> dict[str, float]:
  """Mean bounds over the test and the validation split, averaged weights.

  The noise depends on the run's seed and the image only, so that methods of one
  seed share it.

  Args:
    experiment: The run.
    state: At its end.
    num_samples: Posterior samples of each image.

  Returns:
    'SPLIT/negative_elbo', 'SPLIT/negative_importance', 'SPLIT/kl' (nats) and
    'SPLIT/posterior_std'.
  """
  bounds_fn = make_bounds_fn(experiment.model, num_samples)
  batch_size = max(1, _DECODES_AT_ONCE // num_samples)
  key = jax.random.fold_in(experiment.key, 2**31 + 5)  # no step has it
  results = {}
  for split in encoder_bound_tables.SPLITS:
    images, totals = experiment.dataset.images[split], {}
    for index, (batch, mask) in enumerate(
      datasets.eval_batches(images, batch_size)
    ):
      values = bounds_fn(
        state.ema_params, batch, jax.random.fold_in(key, index)
      )
      for name, value in jax.device_get(values).items():
        total = np.sum(value.astype(np.float64)[mask])
        totals[name] = totals.get(name, 0.0) + total / len(images)
    results.update(
      {
        f'{split}/negative_elbo': float(-totals['elbo']),
        f'{split}/negative_importance': float(-totals['importance']),
        f'{split}/kl': float(totals['kl']),
        f'{split}/posterior_std': float(totals['posterior_std']),
      }
    )
  return results


def normaliser(image_shape: Sequence[int], scale: float) -> float:
  """H W C (log scale + log(2 pi) / 2): the constant of -log p(x|z), in nats."""
  pixels = math.prod(image_shape)
  return pixels * (math.log(scale) + 0.5 * math.log(2.0 * math.pi))


def paired_differences(
  rows: Sequence[dict[str, Any]], method: str, baseline: str, name: str
) -> list[float]:
  """method - baseline of a quantity for each seed that both have.

  Args:
    rows: With 'method', 'seed' and `name`.
    method: The method of the minuend.
    baseline: The baseline of the subtrahend.
    name: The quantity.

  Returns:
    One difference per seed, in the order of the baseline's rows.
  """
  values = {(row['method'], row['seed']): row[name] for row in rows}
  return [
    values[method, seed] - value
    for (each, seed), value in values.items()
    if each == baseline and (method, seed) in values
  ]


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Mean and standard error of the paired differences from the ELBO's."""
  summary = {}
  for method in dict.fromkeys(row['method'] for row in rows):
    if method == ELBO:
      continue
    for split in encoder_bound_tables.SPLITS:
      for bound in ('negative_elbo', 'negative_importance'):
        differences = paired_differences(rows, method, ELBO, f'{split}/{bound}')
        summary[f'{method}/{split}/{bound}'] = {
          'differences': differences,
          'mean': intervals.mean(differences),
          'standard_error': intervals.standard_error(differences),
        }
  return summary


def main(argv: Sequence[str]) -> int:
  """Runs the comparison; 0 is success."""
  args = _parse(argv)
  methods = [ELBO]
  if False in args.whiten:
    methods += [
      OFF_DIAGONAL if off_diagonal else ALL_PAIRS
      for off_diagonal in args.off_diagonal
    ]
  if True in args.whiten:
    methods.append(WHITENED)
  common.set_up_jax()
  overrides = {
    'dataset.data_dir': args.data_dir,
    'train.num_epochs': args.epochs,
    'train.num_steps': args.num_steps,
  }
  record = common.create_record(MODULE, argv, args.seeds)
  record.update(
    importance_samples=args.importance_samples,
    configs={},
    rows=[],
    summary={},
  )
  for seed in args.seeds:
    initial = None
    for method in methods:
      config, experiment = create_experiment(
        args.dataset,
        method,
        num_particles=args.num_particles,
        seed=seed,
        overrides=overrides,
      )
      start = experiment.init_state().params
      initial = start if initial is None else initial
      chex.assert_trees_all_equal(start, initial)  # the comparison is paired
      state, seconds = train(config, experiment)
      row = {
        'method': method,
        'seed': seed,
        **evaluate(experiment, state, args.importance_samples),
        'num_steps': experiment.num_steps,
        'ms_per_step': 1e3 * seconds,
      }
      logging.info(
        '%s, seed %d: test -ELBO %.3f', method, seed, row['test/negative_elbo']
      )
      record['rows'].append(row)
      record['configs'][method] = config_lib.public(config)
      record['normaliser'] = normaliser(
        experiment.dataset.image_shape, config.model.scale
      )
      record['summary'] = summarise(record['rows'])
      common.write(
        args.output, record, encoder_bound_tables.to_markdown(record)
      )
  print(encoder_bound_tables.to_markdown(record))
  return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  """The flags."""
  parser = argparse.ArgumentParser(
    prog=f'python -m {MODULE}', description=__doc__.partition('\n')[0]
  )
  add = parser.add_argument
  add('--data_dir', default='', help='prepared TFDS data')
  add('--dataset', default='mnist', help='a run file of configs/')
  add('--epochs', type=common.positive, default=6)
  add('--num_steps', type=int, default=0, help='if positive, not --epochs')
  add('--seeds', type=common.integers, default=(0, 1, 2))
  add('--num_particles', type=common.positive, default=8, help='K')
  add('--importance_samples', type=common.positive, default=64)
  add(
    '--whiten',
    type=_booleans,
    default=(False, True),
    help='distances in posterior standard deviations',
  )
  add(
    '--off_diagonal',
    type=_booleans,
    default=(True,),
    help='true, false (all pairs) or true,false',
  )
  add('--output', default='runs/encoder_bound.json')
  return common.parse_args(parser, argv)


def _booleans(text: str) -> tuple[bool, ...]:
  """Parses 'true,false'."""
  values = {'true': True, 'false': False}
  return tuple(
    values[word] if word in values else _refuse(word)
    for word in common.names(text)
  )


def _refuse(word: str) -> bool:
  """Tells argparse that a word is wrong."""
  raise argparse.ArgumentTypeError(f'{word!r} is neither true nor false')


if __name__ == '__main__':
  common.run(main)
