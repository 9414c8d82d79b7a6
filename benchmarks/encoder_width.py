"""Measures how wide posteriors are after a short run, with known answers.

python -m benchmarks.encoder_width --output=OUTPUT.json

An MLP encoder of D latents is trained by the first phase of `ldc`, for a
decoder that stays as it is. A few latents are linear in the image, known with
standard deviations from 0.05 to 0.5. The others are not used, so that their
posterior is the prior. The result is the excess: the standard deviation over
the right one, for used and unused latents, as a mean and as a geometric mean
over images and latents, and how it varies from image to image.
"""

import argparse
from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import common
from ldc_vae import optimizers
from ldc_vae.methods import base
from ldc_vae.methods import gibbs
from ldc_vae.models import encoders
from ldc_vae.models import mlp
from ldc_vae.reporting import tables

Array = jax.Array

MODULE = 'benchmarks.encoder_width'
_SHAPE = (8, 8, 1)
_LEARNING_RATE = 1e-3  # the default's, with its warm-up and cosine
_COLUMNS = ('unused', 'unused_geometric', 'over_images', 'used_geometric')


class Linear:
  """An encoder, and log p(x|z) = -sum_d (z_d - a_d x)^2 / (2 tau_d^2)."""

  def __init__(self, dim: int, num_used: int, hidden_sizes: Sequence[int]):
    torso = mlp.MlpTorso(tuple(hidden_sizes))
    self._encoder = encoders.GaussianEncoder(torso, dim)
    rng = np.random.default_rng(0)
    self._slopes = jnp.asarray(rng.normal(size=(64, num_used)) / 8, jnp.float32)
    self._tau = jnp.geomspace(0.05, 0.5, num_used)
    self.right = jnp.concatenate(
      [1.0 / jnp.sqrt(1.0 + self._tau**-2), jnp.ones(dim - num_used)]
    )

  def init(self, key: Array):
    return {'encoder': self._encoder.init(key, jnp.zeros((1, *_SHAPE)))}

  def encode(self, params, images: Array) -> tuple[Array, Array]:
    return self._encoder.apply(params['encoder'], images)

  def particles(self, params, images: Array, keys: Array, num_particles: int):
    mean, logvar = self.encode(params, images)
    noise = base.draw_normal(keys, (num_particles, mean.shape[-1]))
    z = mean[:, None] + jnp.exp(0.5 * logvar)[:, None] * noise
    return z, mean, logvar

  def log_likelihood(self, params, images: Array, z: Array) -> Array:
    del params
    flat = images.reshape(len(images), 1, -1)
    errors = (z[..., : len(self._tau)] - flat @ self._slopes) / self._tau
    return -0.5 * jnp.sum(jnp.square(errors), axis=-1)


def train(
  model: Linear,
  num_particles: int,
  factor: float | None,
  *,
  batch_size: int,
  num_steps: int,
  seed: int,
) -> dict[str, float]:
  """Trains the encoder and measures its standard deviations.

  Args:
    model: What to train.
    num_particles: K.
    factor: The factor of the bandwidth; None for the gradient of the ELBO.
    batch_size: Images of a step, each seen once.
    num_steps: The number of steps of Adam.
    seed: The seed of weights, images and noise.
  """
  objective_fn = functools.partial(
    gibbs.autoencoder_objective,
    model=model,
    inverse_temperature=1.0,
    num_particles=num_particles,
    kernel=gibbs.encoder_kernel('rbf', 'expected'),
    bandwidth='expected',
    bandwidth_factor=factor,
    off_diagonal=True,
    whiten=True,
    latent_energy_weight=0.0,
    kl_warmup=0.0,
  )

  def loss_fn(params, key):
    image_key, noise_key = jax.random.split(key)
    images = jax.random.normal(image_key, (batch_size, *_SHAPE))
    keys = jax.random.split(noise_key, batch_size)
    if factor is not None:
      context = base.Context(progress=1.0)
      return objective_fn(params, images, keys, context).loss
    z, _, logvar = model.particles(params, images, keys, num_particles)
    log_joint = model.log_likelihood(params, images, z)
    log_joint -= 0.5 * jnp.sum(jnp.square(z), axis=-1)
    return -jnp.mean(log_joint) - 0.5 * jnp.mean(jnp.sum(logvar, axis=-1))

  rate = optimizers.learning_rate_schedule(
    'cosine', _LEARNING_RATE, warmup_steps=100, num_steps=num_steps
  )
  tx = optax.adam(rate)

  def step(carry, key):
    params, state = carry
    updates, state = tx.update(jax.grad(loss_fn)(params, key), state)
    return (optax.apply_updates(params, updates), state), None

  @jax.jit
  def run(key):
    init_key, train_key, test_key = jax.random.split(key, 3)
    params = model.init(init_key)
    keys = jax.random.split(train_key, num_steps)
    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    images = jax.random.normal(test_key, (1000, *_SHAPE))
    return 0.5 * model.encode(params, images)[1] - jnp.log(model.right)

  excess = np.asarray(run(jax.random.key(seed)), np.float64)  # of log sigma
  is_used = np.asarray(model.right) < 1.0
  unused = np.exp(excess[:, ~is_used])
  return {
    'unused': float(np.mean(unused)),
    'unused_geometric': float(np.exp(np.mean(excess[:, ~is_used]))),
    'over_images': float(np.mean(np.std(unused, axis=0))),
    'used_geometric': float(np.exp(np.mean(excess[:, is_used]))),
  }


def main(argv: Sequence[str]) -> int:
  """Trains every case, prints the table and writes it with the JSON file."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--dim', type=common.positive, default=64)
  add('--used', type=common.positive, default=16)
  add('--hidden_sizes', type=common.integers, default=(512, 512))
  add('--particles', type=common.integers, default=(2, 4))
  add('--factors', type=common.numbers, default=(1.0, 0.35, 0.2))
  add('--batch_size', type=common.positive, default=256)
  add('--num_steps', type=common.positive, default=1000)
  add('--seeds', type=common.integers, default=(0,))
  add('--output', default='')
  args = common.parse_args(parser, argv)
  if args.used >= args.dim or min(args.particles) < 2:
    raise ValueError('--used needs less than --dim, --particles at least 2')
  if min(args.factors) <= 0.0:
    raise ValueError('--factors needs positive numbers')
  common.set_up_jax()
  model = Linear(args.dim, args.used, args.hidden_sizes)
  record = common.create_record(MODULE, argv, args.seeds)
  record['rows'] = []
  for num_particles in args.particles:
    for factor in (None, *args.factors):
      runs = [
        train(
          model,
          num_particles,
          factor,
          batch_size=args.batch_size,
          num_steps=args.num_steps,
          seed=seed,
        )
        for seed in args.seeds
      ]
      record['rows'].append(
        {
          'particles': num_particles,
          'factor': factor,
          **{key: [run[key] for run in runs] for key in _COLUMNS},
        }
      )
  text = to_markdown(record['rows'])
  print(text)
  if args.output:
    common.write(args.output, record, text)
  return 0


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
  """The table: means over seeds."""
  lines = [
    (
      str(row['particles']),
      'ELBO' if row['factor'] is None else f'`rbf`, {row["factor"]:g}',
      *(f'{np.mean(row[key]):.3f}' for key in _COLUMNS),
    )
    for row in rows
  ]
  columns = (
    'K',
    'direction, bandwidth factor',
    'unused',
    'geometric mean',
    'std over images',
    'used, geometric mean',
  )
  return tables.markdown_table(columns, lines)


if __name__ == '__main__':
  common.run(main)
