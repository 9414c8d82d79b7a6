r"""Gibbs energies: of one image's posterior, and of the aggregate latents.

The Gibbs posterior of an image is p(z|x) ~ exp(-U(z; x)) with

    U(z; x) = lambda (-log p(x|z)) + |z|^2 / 2 [+ w f(u)],

lambda the inverse temperature: 1 is the Bayes posterior, 1/beta that of a
beta-VAE. f is the learned latent energy, p(u) ~ exp(-f(u)), of standardised
latents u; in `paired_loss` it only tells the aggregate's from the sampler's.
All energies are in nats.
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
  """U(z; x) = lambda (-log p(x|z)) + b |z|^2 / 2 + latent_energy.

  Args:
    log_likelihood: log p(x|z) in nats, a scalar.
    z: One latent, shape [D].
    inverse_temperature: lambda > 0.
    latent_energy: w f(u) in nats, already weighted, a scalar.
    prior_weight: b; 1 but while a prior is let in slowly.

  Returns:
    The energy in nats, a scalar.
  """
  chex.assert_rank(z, 1)
  chex.assert_rank([log_likelihood, latent_energy], 0)
  prior = prior_weight * 0.5 * jnp.sum(jnp.square(z))
  return -inverse_temperature * log_likelihood + prior + latent_energy


def gibbs_score(
    log_likelihood_fn: Callable[[Array], Array],
    z: Array,
    inverse_temperature: Array | float,
    latent_energy_fn: Callable[[Array], Array] | None = None,
) -> Array:
  """The score of the Gibbs posterior, -grad_z U(z; x).

  Args:
    log_likelihood_fn: Maps z [D] to log p(x|z), a scalar in nats.
    z: One latent, shape [D].
    inverse_temperature: lambda > 0.
    latent_energy_fn: Maps z [D] to w f(u), a scalar; None for none.

  Returns:
    Shape [D], in nats per unit of z.
  """
  chex.assert_rank(z, 1)

  def energy_fn(z):
    latent = 0.0 if latent_energy_fn is None else latent_energy_fn(z)
    return gibbs_energy(log_likelihood_fn(z), z, inverse_temperature, latent)

  return -jax.grad(energy_fn)(z)


def standardise(z: Array, mean: Array, std: Array) -> Array:
  """u = (z - mu) / sigma, for z [..., D] and mu, sigma [D]."""
  # broadcast in sight: no silent promotion of ranks
  mean, std = jnp.broadcast_to(mean, z.shape), jnp.broadcast_to(std, z.shape)
  return (z - mean) / std


def unstandardise(u: Array, mean: Array, std: Array) -> Array:
  """z = mu + sigma u, for u [..., D] and mu, sigma [D]."""
  mean, std = jnp.broadcast_to(mean, u.shape), jnp.broadcast_to(std, u.shape)
  return mean + std * u


def contrastive_loss(
    energy_fn: Callable[[Array], Array],
    aggregate: Array,
    samples: Array,
    r1_weight: Array | float,
) -> tuple[Array, dict[str, Array]]:
  """L = E_agg f - E_S f + (R1 / 2) E_agg |grad f|^2, of a latent energy f.

  At the sampler's equilibrium its gradient is that of the negative log
  likelihood of exp(-f) (contrastive divergence with an SVGD sampler: Wang and
  Liu (2016), https://arxiv.org/abs/1611.01722). The penalty is R1 of Mescheder
  et al. (2018), https://arxiv.org/abs/1801.04406.

  Args:
    energy_fn: Maps one latent [D] to a scalar in nats.
    aggregate: Standardised posterior latents, shape [n, D].
    samples: Standardised latents of the sampler, shape [m, D].
    r1_weight: R1 >= 0.

  Returns:
    The loss, a scalar, and its terms: 'energy_gap' = E_S f - E_agg f (0 where f
    cannot tell the sets apart) and 'gradient_penalty' = E_agg |grad f|^2.
  """
  chex.assert_rank([aggregate, samples], 2)
  # f is trained on where the latents are; they do not move to please it
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
  """L = E log(1 + exp(f(y) - f(u))) + (c / 2) E |grad f(v)|^2, of an energy f.

  y are draws of the aggregate, u of the sampler, taken in pairs, and v is one
  of each pair at random. The energy only has to tell the two of a pair apart,
  which keeps it from leaving a mode unseen, and the penalty on both sets makes
  the pair of nets settle: Huang et al. (2024), https://arxiv.org/abs/2501.05441
  (there R1 and R2, each of its own set).

  Args:
    energy_fn: Maps (params, one latent [D]) to a scalar in nats.
    params: Of f.
    aggregate: y, standardised posterior latents, shape [n, D]; no gradient.
    samples: u, standardised latents of the sampler, shape [n, D]; no gradient.
    at_aggregate: Whether v is y, bool [n].
    penalty: c >= 0.

  Returns:
    The loss, a scalar, and its terms: 'energy_gap' = E f(u) - E f(y) (0 where f
    cannot tell the sets apart) and 'gradient_penalty' = E |grad f(v)|^2.
  """
  chex.assert_rank([aggregate, samples], 2)
  chex.assert_equal_shape([aggregate, samples])
  chex.assert_shape(at_aggregate, (aggregate.shape[0],))
  # f is trained on where the latents are; they do not move to please it
  y, u = jax.lax.stop_gradient((aggregate, samples))
  rows = jnp.broadcast_to(at_aggregate[:, None], y.shape)
  one, other = jnp.where(rows, y, u), jnp.where(rows, u, y)
  f = functools.partial(energy_fn, params)
  values, grads = jax.vmap(jax.value_and_grad(f))(one)
  others = jax.vmap(f)(other)
  # f(u) - f(y) of each pair
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
  """Langevin dynamics of one chain, z <- z - (s^2 / 2) grad U(z) + s xi.

  Unadjusted: for U = z^2 / (2 v) the variance at rest is v / (1 - s^2 / (4 v)).
  Few steps from a fixed law are a sampler of their own, "short-run MCMC":
  Nijkamp et al. (2019), https://arxiv.org/abs/1904.09770.

  Args:
    key: PRNG key of the noise xi ~ N(0, I).
    z: Where the chain starts, shape [D].
    energy_fn: Maps z [D] to U(z), a scalar in nats.
    step_size: s > 0, in latent units; one for all, or one for each step,
      shape [num_steps].
    num_steps: Steps of the chain.

  Returns:
    Where the chain ends, shape [D].
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
