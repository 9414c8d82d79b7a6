r"""The Gibbs energy of one image's posterior, and the latent energy.

The Gibbs posterior of an image is p(z|x) ~ exp(-U(z; x)) with

    U(z; x) = lambda (-log p(x|z)) + |z|^2 / 2 [+ w f(u)].

lambda is the inverse temperature: 1 gives the Bayes posterior, and 1/beta gives
that of a beta-VAE. f is the learned latent energy of standardised latents u,
with p(u) ~ exp(-f(u)). In `paired_loss`, f only learns to tell the aggregate's
latents from the sampler's. All energies are in nats.
"""

from collections.abc import Callable
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp

Array = jax.Array


def gibbs_energy(
  log_likelihood: Array,
  z: Array,
  inverse_temperature: Array | float,
  latent_energy: Array | float = 0.0,
  prior_weight: Array | float = 1.0,
) -> Array:
  """Returns U(z; x) = lambda (-log p(x|z)) + b |z|^2 / 2 + latent_energy.

  Args:
    log_likelihood: log p(x|z) in nats, a scalar.
    z: One latent, shape [D].
    inverse_temperature: lambda > 0.
    latent_energy: w f(u) in nats, already weighted, a scalar.
    prior_weight: b, which is below 1 only during a warm-up of the prior.

  Returns:
    The energy in nats, a scalar.
  """
  chex.assert_rank(z, 1)
  chex.assert_rank([log_likelihood, latent_energy], 0)
  prior = prior_weight * 0.5 * jnp.sum(jnp.square(z))
  return -inverse_temperature * log_likelihood + prior + latent_energy


def standardise(z: Array, mean: Array, std: Array) -> Array:
  """Returns u = (z - mu) / sigma, for z [..., D] and mu, sigma [D]."""
  # explicit, because tests forbid an implicit promotion of ranks
  mean, std = jnp.broadcast_to(mean, z.shape), jnp.broadcast_to(std, z.shape)
  return (z - mean) / std


def unstandardise(u: Array, mean: Array, std: Array) -> Array:
  """Returns z = mu + sigma u, for u [..., D] and mu, sigma [D]."""
  mean, std = jnp.broadcast_to(mean, u.shape), jnp.broadcast_to(std, u.shape)
  return mean + std * u


def contrastive_loss(
  energy_fn: Callable[[Array], Array],
  aggregate: Array,
  samples: Array,
  r1_weight: Array | float,
) -> tuple[Array, dict[str, Array]]:
  """Returns L = E_agg f - E_S f + (R1 / 2) E_agg |grad f|^2.

  f is a latent energy. If the sampler is in equilibrium, the gradient of L is
  that of the negative log likelihood of exp(-f). This is contrastive
  divergence; Wang and Liu (2016), https://arxiv.org/abs/1611.01722, use it with
  an SVGD sampler. The penalty is R1 of Mescheder et al. (2018),
  https://arxiv.org/abs/1801.04406.

  Args:
    energy_fn: Maps one latent [D] to a scalar in nats.
    aggregate: Standardised posterior latents, shape [n, D].
    samples: Standardised latents of the sampler, shape [m, D].
    r1_weight: R1 >= 0.

  Returns:
    The loss, a scalar, and its terms: 'energy_gap' = E_S f - E_agg f (0 if f
    cannot tell the sets apart) and 'gradient_penalty' = E_agg |grad f|^2.
  """
  chex.assert_rank([aggregate, samples], 2)
  # no gradient into the latents: this loss trains f only
  aggregate, samples = jax.lax.stop_gradient((aggregate, samples))
  values, grads = jax.vmap(jax.value_and_grad(energy_fn))(aggregate)
  penalty = jnp.mean(jnp.sum(jnp.square(grads), axis=-1))
  gap = jnp.mean(jax.vmap(energy_fn)(samples)) - jnp.mean(values)
  loss = -gap + 0.5 * r1_weight * penalty
  return loss, {'energy_gap': gap, 'gradient_penalty': penalty}


def paired_loss(
  energy_fn: Callable[[Any, Array], Array],
  params: Any,
  aggregate: Array,
  samples: Array,
  at_aggregate: Array,
  penalty: Array | float,
) -> tuple[Array, dict[str, Array]]:
  """Returns L = E log(1 + exp(f(y) - f(u))) + (c / 2) E |grad f(v)|^2.

  f is a latent energy. The latents form pairs: y from the aggregate and u from
  the sampler; v is one of the two at random. f only learns to tell the two of a
  pair apart, so no mode is ignored. The penalty on both sets makes the training
  of the two nets converge. Huang et al. (2024),
  https://arxiv.org/abs/2501.05441, have one penalty for each set, R1 and R2.

  Args:
    energy_fn: Maps (params, one latent [D]) to a scalar in nats.
    params: The weights of f.
    aggregate: y, standardised posterior latents, shape [n, D]; no gradient.
    samples: u, standardised latents of the sampler, shape [n, D]; no gradient.
    at_aggregate: Whether v is y, bool [n].
    penalty: c >= 0.

  Returns:
    The loss, a scalar, and its terms: 'energy_gap' = E f(u) - E f(y) (0 if f
    cannot tell the sets apart) and 'gradient_penalty' = E |grad f(v)|^2.
  """
  chex.assert_rank([aggregate, samples], 2)
  chex.assert_equal_shape([aggregate, samples])
  chex.assert_shape(at_aggregate, (aggregate.shape[0],))
  # no gradient into the latents: this loss trains f only
  y, u = jax.lax.stop_gradient((aggregate, samples))
  rows = jnp.broadcast_to(at_aggregate[:, None], y.shape)
  one, other = jnp.where(rows, y, u), jnp.where(rows, u, y)
  f = functools.partial(energy_fn, params)
  values, grads = jax.vmap(jax.value_and_grad(f))(one)
  others = jax.vmap(f)(other)
  # f(u) - f(y) for each pair
  gaps = jnp.where(at_aggregate, others - values, values - others)
  square = jnp.mean(jnp.sum(jnp.square(grads), axis=-1))
  loss = jnp.mean(jax.nn.softplus(-gaps)) + 0.5 * penalty * square
  return loss, {'energy_gap': jnp.mean(gaps), 'gradient_penalty': square}


def langevin(
  key: Array,
  z: Array,
  energy_fn: Callable[[Array], Array],
  *,
  step_size: Array | float,
  num_steps: int,
) -> Array:
  """Runs one Langevin chain, z <- z - (s^2 / 2) grad U(z) + s xi.

  No step is rejected. So for U = z^2 / (2 v), the variance in equilibrium is
  v / (1 - s^2 / (4 v)) instead of v. A few steps from a fixed distribution are
  a sampler too, "short-run MCMC": Nijkamp et al. (2019),
  https://arxiv.org/abs/1904.09770.

  Args:
    key: PRNG key of the noise xi ~ N(0, I).
    z: The start of the chain, shape [D].
    energy_fn: Maps z [D] to U(z), a scalar in nats.
    step_size: s > 0, in latent units: one for all steps, or one for each step,
      shape [num_steps].
    num_steps: Steps of the chain.

  Returns:
    The end of the chain, shape [D].
  """
  chex.assert_rank(z, 1)
  grad_fn = jax.grad(energy_fn)

  def step(z, inputs):
    key, step_size = inputs
    noise = jax.random.normal(key, z.shape, z.dtype)
    return z - 0.5 * step_size**2 * grad_fn(z) + step_size * noise, None

  sizes = jnp.broadcast_to(jnp.asarray(step_size, z.dtype), (num_steps,))
  z, _ = jax.lax.scan(step, z, (jax.random.split(key, num_steps), sizes))
  return z
