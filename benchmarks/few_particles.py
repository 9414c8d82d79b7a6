"""Measures how well SVGD of a few particles finds a known posterior.

python -m benchmarks.few_particles --output=OUTPUT.json

The target is N(0, C) in D dimensions. Half of its standard deviations are 1,
and half are from 0.15 to 0.6. Particles are m + L noise, fresh at every step. L
(and C) is diagonal, like a gaussian encoder, or full, like an implicit one.
They start too narrow, or as wide as the widest. They follow the direction of
SVGD over the pairs j != i, with the bandwidth of `stein_vae`. For comparison,
they follow the gradient of the ELBO, which knows the entropy. The table has the
remaining KL divergence, and the mean ratio of the standard deviations to the
right ones.
"""

import argparse
from collections.abc import Sequence
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import common
from ldc_vae import svgd
from ldc_vae.methods import moments
from ldc_vae.metrics import intervals
from ldc_vae.reporting import tables

Array = jax.Array

MODULE = 'benchmarks.few_particles'
_BATCH_SIZE = 100  # particle sets of a step: images
_LEARNING_RATE = 2e-3  # to 0 by a cosine; that of the binarised digits


class Target(NamedTuple):
  """N(0, C) by its precision and covariance, [D, D], in float64."""

  precision: np.ndarray
  covariance: np.ndarray


def create_target(dim: int, correlated: bool) -> Target:
  """Returns the distribution that is to be found.

  Args:
    dim: D.
    correlated: Turn the axes of C a little.
  """
  rng = np.random.default_rng(0)
  wide = dim // 2
  std = np.concatenate([np.ones(wide), np.linspace(0.15, 0.6, dim - wide)])
  turn = np.eye(dim)
  if correlated:
    turn += 0.3 * rng.normal(size=(dim, dim)) / math.sqrt(dim)
  turn = np.linalg.qr(turn)[0]
  return Target(turn / std**2 @ turn.T, turn * std**2 @ turn.T)


def kl_divergence(
  mean: np.ndarray, factor: np.ndarray, target: Target
) -> float:
  """KL(N(mean, L L') || target) in nats, for mean [D] and L [D, D]."""
  covariance = factor @ factor.T
  logdet = lambda matrix: np.linalg.slogdet(matrix)[1]
  return 0.5 * float(
    np.trace(target.precision @ covariance)
    - len(mean)
    + logdet(target.covariance)
    - logdet(covariance)
    + mean @ target.precision @ mean
  )


def train(
  target: Target,
  encoder: str,
  factor: float | None,
  num_particles: int,
  *,
  start: float,
  num_steps: int,
  seed: int,
) -> dict[str, float]:
  """Trains the particles and returns how far they are from the target.

  Args:
    target: The target of D dimensions.
    encoder: 'diagonal' or 'full'.
    factor: The bandwidth factor of SVGD; None for the gradient of the ELBO.
    num_particles: K of each set.
    start: The standard deviations at the beginning.
    num_steps: The number of steps of Adam.
    seed: The seed of the noise.

  Returns:
    'kl', the remaining divergence in nats; 'width', the mean of the standard
    deviations over the right ones.
  """
  dim = len(target.covariance)
  precision = jnp.asarray(target.precision, jnp.float32)
  if encoder == 'diagonal':
    scale, factor_fn = jnp.full((dim,), math.log(start)), _diagonal
  else:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(dim, dim)))[0]
    scale, factor_fn = jnp.asarray(start * turn, jnp.float32), lambda x: x
  params = {'mean': jnp.full((dim,), 0.5), 'scale': scale}
  loss_fn = functools.partial(
    _loss, precision=precision, factor_fn=factor_fn, factor=factor
  )
  tx = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, num_steps))

  def step(carry, key):
    params, state, distance = carry
    noise = jax.random.normal(key, (_BATCH_SIZE, num_particles, dim))
    h = svgd.expected_bandwidth(moments.mean_distance(distance, dim), dim)
    grads, z = jax.grad(loss_fn, has_aux=True)(params, noise, h)
    updates, state = tx.update(grads, state)
    distance = moments.update_distance(distance, z)
    return (optax.apply_updates(params, updates), state, distance), None

  keys = jax.random.split(jax.random.key(seed), num_steps)
  first = params, tx.init(params), moments.init_distance()
  (params, _, _), _ = jax.jit(lambda first: jax.lax.scan(step, first, keys))(
    first
  )
  mean = np.asarray(params['mean'], np.float64)
  root = np.asarray(factor_fn(params['scale']), np.float64)
  variances = np.diag(root @ root.T) / np.diag(target.covariance)
  return {
    'kl': kl_divergence(mean, root, target),
    'width': float(np.mean(np.sqrt(variances))),
  }


def main(argv: Sequence[str]) -> int:
  """Trains every case, prints the table and writes it with the JSON file."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--dim', type=common.positive, default=40)
  add('--particles', type=common.integers, default=(4, 8))
  add('--factors', type=common.numbers, default=(1.0, 0.35))
  add('--starts', type=common.numbers, default=(0.3, 1.0))
  add('--num_steps', type=common.positive, default=5000)
  add('--seeds', type=common.integers, default=(0, 1, 2))
  add('--output', default='')
  args = common.parse_args(parser, argv)
  if min(args.particles) < 2:
    raise ValueError('--particles needs numbers of at least 2, as 4,8')
  if min(*args.starts, *args.factors) <= 0.0:
    raise ValueError('--starts and --factors need positive numbers')
  cases: list[tuple[str, float | None]] = [('ELBO', None)]
  cases += [
    (f'`rbf`, {factor:g} of the rule', factor) for factor in args.factors
  ]
  common.set_up_jax()
  record = common.create_record(MODULE, argv, args.seeds)
  record['rows'] = []
  for encoder, start, (name, factor), num_particles in itertools.product(
    ('diagonal', 'full'), args.starts, cases, args.particles
  ):
    target = create_target(args.dim, correlated=encoder == 'full')
    runs = [
      train(
        target,
        encoder,
        factor,
        num_particles,
        start=start,
        num_steps=args.num_steps,
        seed=seed,
      )
      for seed in args.seeds
    ]
    record['rows'].append(
      {
        'encoder': encoder,
        'start': f'{start:g}',
        'direction': name,
        'particles': num_particles,
        **{key: [run[key] for run in runs] for key in ('kl', 'width')},
      }
    )
  text = to_markdown(record['rows'])
  print(text)
  if args.output:
    common.write(args.output, record, text)
  return 0


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
  """The table: means over seeds and the largest divergence."""
  lines = [
    (
      f'{row["encoder"]} L from {row["start"]}, {row["direction"]}',
      str(row['particles']),
      f'{intervals.mean(row["kl"]):.2f}',
      f'{max(row["kl"]):.2f}',
      f'{intervals.mean(row["width"]):.3f}',
    )
    for row in rows
  ]
  columns = ('encoder, direction', 'K', 'KL, nats', 'largest', 'width')
  return tables.markdown_table(columns, lines)


def _diagonal(log_std: Array) -> Array:
  """Returns L [D, D] for log standard deviations [D]."""
  return jnp.diag(jnp.exp(log_std))


def _loss(params, noise, bandwidth, *, precision, factor_fn, factor):
  """A loss whose gradient is the ELBO's, or SVGD's for the particles; and z."""
  root = factor_fn(params['scale'])
  z = params['mean'] + jnp.einsum('bkd,ed->bke', noise, root)
  moved, entropy = z, 0.0
  if factor is None:
    entropy = jnp.linalg.slogdet(root)[1]
  else:
    moved = svgd.stein_particles(
      z, svgd.rbf(), off_diagonal=True, bandwidth=factor * bandwidth
    )
  energies = 0.5 * jnp.einsum('bkd,de,bke->bk', moved, precision, moved)
  return jnp.mean(energies) - entropy, z


if __name__ == '__main__':
  common.run(main)
