"""A learned energy of the latents; Langevin dynamics draws from it.

The model is p(u) ~ exp(-f(u)) N(u; 0, I) of whitened latents u. It is the prior
of Pang et al. (2020), https://arxiv.org/abs/2006.08205, fitted after training.
The chains are short and always start from N(0, I). The training therefore fits
the distribution at the end of these short chains, not their equilibrium
(Nijkamp et al. (2019), https://arxiv.org/abs/1904.09770).

Letters: N latents, D latent size, A directions in which latents vary, n latents
and chains of an update.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from ldc_vae import energy
from ldc_vae.models import latent_nets
from ldc_vae.samplers import training

Array = jax.Array

_CHAIN_STEPS = 30  # Langevin steps of a chain, which starts from N(0, I)
# The first and the last step size, in standard deviations of a latent; those
# between are geometric. A chain first finds a cluster, then a place inside it.
_STEP_SIZES = (0.3, 0.05)
# Clusters of standard deviation s need E|grad f|^2 of D / s^2 at the latents,
# which is some hundreds. An R1 of 0.1 would not let f become so steep.
_R1_WEIGHT = 1e-3

NET = latent_nets.LatentEnergy(width=128, num_blocks=1)


def whitened_energy(params: chex.ArrayTree, u: Array) -> Array:
  """Returns f(u) + |u|^2 / 2 of one whitened latent [A], in nats."""
  return NET.apply(params, u) + 0.5 * jnp.sum(jnp.square(u))


def loss(params: chex.ArrayTree, rows: Array, key: Array) -> Array:
  """Returns `energy.contrastive_loss` of whitened latents [n, A] and chains."""
  # no gradient along the chains
  samples = draws(jax.lax.stop_gradient(params), key, rows.shape)
  # |u|^2 / 2 is left out: it has no weights to train
  f = functools.partial(NET.apply, params)
  return energy.contrastive_loss(f, rows, samples, _R1_WEIGHT)[0]


@functools.partial(jax.jit, static_argnames='shape')
def draws(params: chex.ArrayTree, key: Array, shape: tuple[int, int]) -> Array:
  """Returns the ends of short Langevin chains from N(0, I), shape [n, A]."""
  start_key, chain_key = jax.random.split(key)
  start = jax.random.normal(start_key, shape)
  chain = functools.partial(
    energy.langevin,
    energy_fn=functools.partial(whitened_energy, params),
    step_size=jnp.geomspace(*_STEP_SIZES, _CHAIN_STEPS),
    num_steps=_CHAIN_STEPS,
  )
  return jax.vmap(chain)(jax.random.split(chain_key, shape[0]), start)


SAMPLER = training.NetSampler(
  name='latent energy',
  init_fn=lambda key, u: NET.init(key, u),
  loss_fn=loss,
  draws_fn=draws,
  num_steps=1000,  # half a minute on one core at D = 8
  batch_size=256,
  learning_rate=3e-3,  # 1e-3 is too slow
  ema_decay=0.99,
  final_fraction=0.1,
  b1=0.5,  # Adam's momentum is low, because the target moves
)
