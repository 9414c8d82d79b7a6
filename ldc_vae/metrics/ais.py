r"""Annealed importance sampling with Hamiltonian Monte Carlo.

Neal (2001), https://arxiv.org/abs/physics/9803008; for decoders: Wu et al.
(2017), https://arxiv.org/abs/1611.04273. A chain starts from a draw of the
normalised p_0 and moves along

    p_b(z) ~ p_0(z)^{1 - b} p_1(z)^b,   0 = b_0 < ... < b_T = 1.

Its weight is an unbiased estimate of the normaliser of p_1, even if the chain
mixes badly. For p_1(z) = p(x, z) this normaliser is p(x). No density of an
encoder is needed. Each function takes one chain; lift it by `vmap`:

    z = jax.random.normal(z_key, (num_chains, latent_size))
    step_sizes = adapt_step_sizes(adapt_key, z, ...)
    fresh_z = jax.random.normal(fresh_key, z.shape)
    weights = vmap(lambda key, z: ais(key, z, ...).log_weight)(keys, fresh_z)
    log_evidence = elbo.importance_weighted_bound(weights)

A chain can also run backwards, from an exact draw of p_1 to p_0. Its mean
weight estimates the inverse normaliser, which gives an upper bound. For an
image drawn from the model, the latent is known, so two bounds enclose log p(x):
Grosse et al. (2015), https://arxiv.org/abs/1511.02543.

Letters: T temperatures after the first, D latent size, n chains.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

Array = jax.Array
LogDensityFn = Callable[[Array], Array]

# Of `adapt_step_sizes`: the first step size in latent units, the wanted
# acceptance, and the gain. 0.65 is the optimum of Beskos et al. (2013),
# https://doi.org/10.3150/12-BEJ414.
_FIRST_STEP, _ACCEPTANCE, _GAIN = 0.5, 0.65, 0.2


class Result(NamedTuple):
  """The result of a chain.

  Attributes:
    log_weight: Log of the importance weight, a scalar in nats.
    z: The last position of the chain, shape [D].
    acceptance: Mean probability that a move is accepted, a scalar.
  """

  log_weight: Array
  z: Array
  acceptance: Array


class _Point(NamedTuple):
  """A position z [D], and both log densities and their gradients at z."""

  z: Array
  initial: Array
  initial_grad: Array
  target: Array
  target_grad: Array

  def log_density(self, b: Array) -> Array:
    return (1.0 - b) * self.initial + b * self.target

  def score(self, b: Array) -> Array:
    return (1.0 - b) * self.initial_grad + b * self.target_grad


def sigmoid_schedule(num_temperatures: int) -> Array:
  """Returns b_0 = 0 to b_T = 1, dense at both ends.

  Wu et al. (2017), section 5.

  Args:
    num_temperatures: T, at least 1.

  Returns:
    Shape [T + 1].
  """
  if num_temperatures < 1:
    raise ValueError(
      f'num_temperatures={num_temperatures} gives no path; use 1 or more'
    )
  b = jax.nn.sigmoid(jnp.linspace(-4.0, 4.0, num_temperatures + 1))
  return (b - b[0]) / (b[-1] - b[0])


def ais(
  key: Array,
  z: Array,
  log_initial_fn: LogDensityFn,
  log_target_fn: LogDensityFn,
  inverse_temperatures: Array,
  step_sizes: Array,
  num_leapfrog: int,
) -> Result:
  """Runs one chain along the inverse temperatures, in their order.

  At each of them, the chain first adds (b_t - b_{t-1}) log [p_1(z) / p_0(z)] to
  the log weight. Then it moves z by one step of Hamiltonian Monte Carlo, which
  leaves p_{b_t} invariant.

  Args:
    key: PRNG key.
    z: A draw of the distribution at the first inverse temperature, shape [D].
    log_initial_fn: Maps z [D] to log p_0(z), normalised, in nats.
    log_target_fn: Maps z [D] to log p_1(z), in nats.
    inverse_temperatures: b, shape [T + 1], from 0 to 1. It may also go from 1
      to 0; then z must be a draw of p_1.
    step_sizes: Leapfrog step sizes at b_1 ... b_T, shape [T], in latent units.
      The weight is unbiased if they do not depend on this chain.
    num_leapfrog: Leapfrog steps of one move, at least 1.

  Returns:
    The result. Its weight estimates the normaliser of the last distribution,
    divided by that of the first.
  """
  chex.assert_rank([z, inverse_temperatures, step_sizes], 1)
  chex.assert_equal(inverse_temperatures.shape[0], step_sizes.shape[0] + 1)
  point_fn = _make_point_fn(log_initial_fn, log_target_fn)

  def step(carry, inputs):
    point, log_weight, total = carry
    previous, b, step_size, key = inputs
    log_weight += (b - previous) * (point.target - point.initial)
    point, acceptance = _hmc(key, point, point_fn, b, step_size, num_leapfrog)
    return (point, log_weight, total + acceptance), None

  keys = jax.random.split(key, step_sizes.shape[0])
  inputs = (
    inverse_temperatures[:-1],
    inverse_temperatures[1:],
    step_sizes,
    keys,
  )
  zero = jnp.zeros((), z.dtype)
  (point, log_weight, total), _ = jax.lax.scan(
    step, (point_fn(z), zero, zero), inputs
  )
  return Result(log_weight, point.z, total / step_sizes.shape[0])


def adapt_step_sizes(
  key: Array,
  z: Array,
  log_initial_fn: LogDensityFn,
  log_target_fn: LogDensityFn,
  inverse_temperatures: Array,
  num_leapfrog: int,
) -> Array:
  """Finds step sizes with a separate run of chains.

  Along the path, log step size += gain (mean acceptance - wanted acceptance).
  The mean is over the chains. The weights of these chains would be biased, so
  use the step sizes for other chains, which have other keys.

  Args:
    key: PRNG key; it must differ from the key of the measured chains.
    z: Draws of p_0, shape [n, D].
    log_initial_fn: See `ais`.
    log_target_fn: See `ais`.
    inverse_temperatures: b from 0 to 1, shape [T + 1].
    num_leapfrog: See `ais`.

  Returns:
    The step sizes, shape [T].
  """
  chex.assert_rank([z, inverse_temperatures], [2, 1])
  point_fn = _make_point_fn(log_initial_fn, log_target_fn)

  def step(carry, inputs):
    points, log_size = carry
    b, key = inputs
    size = jnp.exp(log_size)
    move = lambda key, point: _hmc(key, point, point_fn, b, size, num_leapfrog)
    points, rates = jax.vmap(move)(jax.random.split(key, z.shape[0]), points)
    log_size += _GAIN * (jnp.mean(rates) - _ACCEPTANCE)
    return (points, log_size), size

  b = inverse_temperatures[1:]
  start = (jax.vmap(point_fn)(z), jnp.log(jnp.asarray(_FIRST_STEP, z.dtype)))
  keys = jax.random.split(key, b.shape[0])
  _, sizes = jax.lax.scan(step, start, (b, keys))
  return sizes


def reverse_path(
  inverse_temperatures: Array, step_sizes: Array
) -> tuple[Array, Array]:
  """Returns the path from 1 to 0: b [T + 1] and its step sizes [T]."""
  # The first move is at b_{T-1}. The last one is at b_0, which has no step size
  # of its own and takes that of b_1.
  sizes = jnp.concatenate([step_sizes[:-1][::-1], step_sizes[:1]])
  return inverse_temperatures[::-1], sizes


def _make_point_fn(log_initial_fn, log_target_fn) -> Callable[[Array], _Point]:
  """Returns a function that maps z [D] to its `_Point`."""

  def point_fn(z):
    initial, initial_grad = jax.value_and_grad(log_initial_fn)(z)
    target, target_grad = jax.value_and_grad(log_target_fn)(z)
    return _Point(z, initial, initial_grad, target, target_grad)

  return point_fn


def _hmc(
  key: Array,
  point: _Point,
  point_fn: Callable[[Array], _Point],
  b: Array,
  step_size: Array,
  num_leapfrog: int,
) -> tuple[_Point, Array]:
  """Makes one step of Hamiltonian Monte Carlo; also returns its acceptance."""
  momentum_key, accept_key = jax.random.split(key)
  start = jax.random.normal(momentum_key, point.z.shape, point.z.dtype)

  def leapfrog(_, carry):
    point, momentum = carry
    momentum += 0.5 * step_size * point.score(b)
    point = point_fn(point.z + step_size * momentum)
    return point, momentum + 0.5 * step_size * point.score(b)

  proposal, momentum = jax.lax.fori_loop(
    0, num_leapfrog, leapfrog, (point, start)
  )
  kinetic = lambda momentum: 0.5 * jnp.sum(jnp.square(momentum))
  log_ratio = (
    proposal.log_density(b)
    - point.log_density(b)
    + kinetic(start)
    - kinetic(momentum)
  )
  # a move that overflowed is rejected
  log_ratio = jnp.where(jnp.isfinite(log_ratio), log_ratio, -jnp.inf)
  accepted = jnp.log(jax.random.uniform(accept_key)) < log_ratio
  point = jax.tree.map(
    lambda new, old: jnp.where(accepted, new, old), proposal, point
  )
  return point, jnp.exp(jnp.minimum(log_ratio, 0.0))
