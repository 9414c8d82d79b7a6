"""Measures how much SVGD narrows a posterior in 31 dimensions, beside NUTS.

python -m benchmarks.variance_collapse --output=OUTPUT.json

Bayesian logistic regression of scikit-learn's breast cancer data: 30
standardised features and a constant, prior N(0, I). One set of particles starts
as draws of Laplace's approximation, whose standard deviations are right within
a hundredth, and follows all-pairs SVGD until it rests. The kernel sees the
weights as they are, or whitened by Laplace's covariance. That covariance also
preconditions every step, which moves no resting point. A row also has twice
the steps, which should change nothing. Rows with noise are of noisy SVGD
(`svgd.Noise`), whose steps are small because their size widens the result.
"""

import argparse
from collections.abc import Sequence
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

from benchmarks import common
from ldc_vae import svgd
from ldc_vae.reporting import tables

Array = jax.Array

MODULE = 'benchmarks.variance_collapse'
_NUM_CHAINS, _NUM_WARMUP = 4, 1000  # of NUTS
_NEWTON_STEPS = 20
# Of the steps: near the largest for which the linear kernel is stable.
_RATE, _LINEAR_RATE, _NOISY_RATE = 0.5, 0.05, 0.1

# name -> kernel, rate and weight of the noise
CASES = {
  **{
    f'rbf, {factor:g} of the rule': (
      svgd.rbf('mean', factor=factor),
      _RATE,
      0.0,
    )
    for factor in (0.05, 0.3, 1.0, 4.0)
  },
  'imq': (svgd.imq('mean'), _RATE, 0.0),
  'multi_scale': (svgd.multi_scale('mean'), _RATE, 0.0),
  'linear': (svgd.linear(1.0), _LINEAR_RATE, 0.0),
  **{
    f'rbf, noise {weight:g}': (svgd.rbf('mean'), _NOISY_RATE, weight)
    for weight in (0.01, 0.1, 1.0)
  },
}


class Posterior(NamedTuple):
  """A posterior of weights [D] and Laplace's approximation of it.

  Attributes:
    features: Features of N patients, times their class -1 or 1, [N, D].
    mode: The likeliest weights, shape [D].
    factor: L of the covariance L L' at the mode, shape [D, D].
  """

  features: Array
  mode: Array
  factor: Array


def log_density(weights: Array, features: Array) -> Array:
  """log p(weights | data) up to a constant, a scalar; features as above."""
  likelihood = jnp.sum(jax.nn.log_sigmoid(features @ weights))
  return likelihood - 0.5 * jnp.sum(jnp.square(weights))


def create_posterior() -> Posterior:
  """The regression's posterior, its mode by Newton's method."""
  x, labels = datasets.load_breast_cancer(return_X_y=True)
  x = (x - x.mean(axis=0)) / x.std(axis=0)
  x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
  features = jnp.asarray(x * (2.0 * labels[:, None] - 1.0), jnp.float32)

  def step(mode, _):
    gradient = jax.grad(log_density)(mode, features)
    hessian = jax.hessian(log_density)(mode, features)
    return mode - jnp.linalg.solve(hessian, gradient), None

  @jax.jit
  def approximate():
    start = jnp.zeros(x.shape[1])
    mode, _ = jax.lax.scan(step, start, length=_NEWTON_STEPS)
    precision = -jax.hessian(log_density)(mode, features)
    return mode, jnp.linalg.cholesky(jnp.linalg.inv(precision))

  return Posterior(features, *approximate())


def run_nuts(
  posterior: Posterior, num_samples: int, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
  """Draws by NUTS, shape [chains, num_samples, D], and what they are worth."""
  # It uses jax as it is imported, and ldc_vae has to come before that.
  import blackjax

  log_density_fn = functools.partial(log_density, features=posterior.features)

  @jax.jit
  @jax.vmap
  def run(key):
    start_key, warmup_key, key = jax.random.split(key, 3)
    noise = jax.random.normal(start_key, posterior.mode.shape)
    warmup = blackjax.window_adaptation(blackjax.nuts, log_density_fn)
    (state, parameters), _ = warmup.run(
      warmup_key, posterior.mode + posterior.factor @ noise, _NUM_WARMUP
    )
    nuts = blackjax.nuts(log_density_fn, **parameters)

    def step(state, key):
      state, _ = nuts.step(key, state)
      return state, state.position

    return jax.lax.scan(step, state, jax.random.split(key, num_samples))[1]

  chains = run(jax.random.split(jax.random.key(seed), _NUM_CHAINS))
  effective = blackjax.diagnostics.effective_sample_size(chains)
  reduction = blackjax.diagnostics.potential_scale_reduction(chains)
  return np.asarray(chains), {
    'effective_samples': float(np.min(effective)),
    'potential_scale_reduction': float(np.max(reduction)),
  }


def run_svgd(
  posterior: Posterior,
  kernel: svgd.Kernel,
  *,
  whiten: bool,
  num_particles: int,
  num_steps: int,
  rate: float,
  seeds: Sequence[int],
  noise: float = 0.0,
) -> np.ndarray:
  """Sets of particles after `num_steps` and after twice as many.

  Args:
    posterior: The posterior of D weights.
    kernel: The kernel of SVGD over all pairs.
    whiten: Whether it sees whitened weights.
    num_particles: n.
    num_steps: The number of steps of each half.
    rate: The rate of the steps.
    seeds: The seeds of the particles at the start, and of their noise.
    noise: The weight of the noise, see `svgd.Noise`.

  Returns:
    Shape [2, seeds, n, D].
  """
  mode, factor = posterior.mode, posterior.factor
  weights_fn = lambda u: mode[None] + u @ factor.T
  score_fn = jax.vmap(jax.grad(log_density), in_axes=(0, None))

  def step(u, key):  # u: whitened particles [n, D]
    weights = weights_fn(u)
    scores = score_fn(weights, posterior.features)
    if whiten:
      direction = svgd.svgd_direction(
        u, scores @ factor, kernel, off_diagonal=False
      )
    else:  # L L' times it, in whitened units
      direction = (
        factor.T
        @ svgd.svgd_direction(weights, scores, kernel, off_diagonal=False).T
      )
      direction = direction.T
    if noise:
      direction += noise * scores @ factor
      jump = jax.random.normal(key, u.shape)
      u += jnp.sqrt(2.0 * noise * rate) * jump
    return u + rate * direction, None

  @jax.jit
  @jax.vmap
  def run(u, key):
    keys = jax.random.split(key, 2 * num_steps)
    half, _ = jax.lax.scan(step, u, keys[:num_steps])
    whole, _ = jax.lax.scan(step, half, keys[num_steps:])
    return weights_fn(half), weights_fn(whole)

  starts = [
    jax.random.normal(jax.random.key(seed), (num_particles, len(mode)))
    for seed in seeds
  ]
  keys = jnp.stack([jax.random.key(seed + 1) for seed in seeds])
  return np.stack(run(jnp.stack(starts), keys))


def measure(particles: np.ndarray, draws: np.ndarray) -> dict[str, float]:
  """Particles [n, D] beside the reference's draws [N, D].

  Returns:
    'width', the mean standard deviation over the reference's; 'error', the mean
    absolute error of the means, in the reference's standard deviations.
  """
  std = draws.std(axis=0, ddof=1)
  error = np.abs(particles.mean(axis=0) - draws.mean(axis=0)) / std
  width = particles.std(axis=0, ddof=1).mean() / std.mean()
  return {'width': float(width), 'error': float(error.mean())}


def main(argv: Sequence[str]) -> int:
  """Runs every case, prints the table and writes it with the JSON file."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--particles', type=common.positive, default=100)
  add('--num_steps', type=common.positive, default=4000)
  add('--nuts_samples', type=common.positive, default=5000, help='of a chain')
  add('--seeds', type=common.integers, default=(0, 1, 2))
  add('--output', default='')
  args = common.parse_args(parser, argv)
  if args.particles < 2:
    raise ValueError('--particles=1 has no standard deviation; use 2 or more')
  common.set_up_jax()
  posterior = create_posterior()
  record = common.create_record(MODULE, argv, args.seeds)
  chains, record['nuts'] = run_nuts(posterior, args.nuts_samples, args.seeds[0])
  draws = chains.reshape(-1, chains.shape[-1])
  record['rows'] = []
  for whiten, (name, (kernel, rate, noise)) in itertools.product(
    (False, True), CASES.items()
  ):
    half, whole = run_svgd(
      posterior,
      kernel,
      whiten=whiten,
      num_particles=args.particles,
      num_steps=args.num_steps,
      rate=rate,
      seeds=args.seeds,
      noise=noise,
    )
    found = [measure(particles, draws) for particles in half]
    record['rows'].append(
      {
        'kernel': name,
        'weights': 'whitened' if whiten else 'as they are',
        **{key: [row[key] for row in found] for key in ('width', 'error')},
        'width_at_twice_the_steps': [
          measure(particles, draws)['width'] for particles in whole
        ],
      }
    )
  text = to_markdown(record)
  print(text)
  if args.output:
    common.write(args.output, record, text)
  return 0


def to_markdown(record: dict[str, Any]) -> str:
  """Returns the table: means and stds over seeds, and the line of NUTS."""
  lines = [
    (
      row['kernel'],
      row['weights'],
      *(
        common.show_spread(row[key])
        for key in ('width', 'width_at_twice_the_steps', 'error')
      ),
    )
    for row in record['rows']
  ]
  columns = (
    'kernel',
    'weights',
    'std ÷ NUTS',
    'at twice the steps',
    'error of means, stds',
  )
  nuts = record['nuts']
  return (
    f'{tables.markdown_table(columns, lines)}\n'
    f'NUTS: least effective sample size {nuts["effective_samples"]:.0f},'
    f' largest R-hat {nuts["potential_scale_reduction"]:.4f}.\n'
  )


if __name__ == '__main__':
  common.run(main)
