"""A learned energy of the latents; Langevin dynamics draws from it.

The model is p(u) ~ exp(-f(u)) N(u; 0, I) of whitened latents u. It is the prior
of Pang et al. (2020), https://arxiv.org/abs/2006.08205, fitted after training.
The chains are short and always start from N(0, I). The training therefore fits
the distribution at the end of these short chains, not their equilibrium
(Nijkamp et al. (2019), https://arxiv.org/abs/1904.09770).

Letters: N latents, D latent size, n latents and chains of an update.
"""

from collections.abc import Callable
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import energy
from ldc_vae import errors
from ldc_vae.models import latent_nets

Array = jax.Array

NUM_STEPS = 1000  # updates; half a minute on one core at D = 8

_BATCH_SIZE = 256
_CHAIN_STEPS = 30  # Langevin steps of a chain, which starts from N(0, I)
# The first and the last step size, in standard deviations of a latent; those
# between are geometric. A chain first finds a cluster, then a place inside it.
_STEP_SIZES = (0.3, 0.05)
# The initial rate, which falls to a tenth along a cosine; 1e-3 is too slow.
_LEARNING_RATE = 3e-3
_B1 = 0.5  # Adam's momentum is low, because the target moves
# Clusters of standard deviation s need E|grad f|^2 of D / s^2 at the latents,
# which is some hundreds. An R1 of 0.1 would not let f become so steep.
_R1_WEIGHT = 1e-3
_EMA_DECAY = 0.99
_WIDTH, _NUM_BLOCKS = 128, 1  # residual blocks of the energy
_MIN_STD = 1e-6  # added to all; avoids a division by 0 for unused directions


def fit(
  latents: np.ndarray, *, seed: int, num_steps: int = NUM_STEPS
) -> Callable[[int, int], np.ndarray]:
  """Trains the energy on latents.

  Args:
    latents: Draws of the aggregate posterior, shape [N, D].
    seed: The seed of the weights, the batches and the chains.
    num_steps: Updates of Adam, at least 1.

  Returns:
    A function `(num, seed) -> float32 [num, D]`.

  Raises:
    UserError: The training diverged, or has no steps.
  """
  latents = np.asarray(latents, np.float64)
  chex.assert_rank(latents, 2)
  if num_steps < 1:
    raise errors.UserError(
      f'num_steps={num_steps} trains no latent energy; use 1 or more'
    )
  mean = latents.mean(axis=0)
  centered = latents - mean
  # The latents are whitened, so that one step size fits all directions.
  values, vectors = np.linalg.eigh(centered.T @ centered / len(latents))
  std = np.sqrt(np.maximum(values, 0.0)) + _MIN_STD
  u = jnp.asarray(centered @ vectors / std, jnp.float32)
  params = _train(u, jax.random.key(seed), num_steps)
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
    raise errors.UserError(
      f'the latent energy diverged within num_steps={num_steps}; use fewer'
    )

  def sample(num: int, seed: int) -> np.ndarray:
    # training has used the keys of its own seed, which may be equal
    key = jax.random.fold_in(jax.random.key(seed), 2**31)
    u = draws(params, key, (num, latents.shape[1]))
    return (mean + (np.asarray(u) * std) @ vectors.T).astype(np.float32)

  return sample


def whitened_energy(params: chex.ArrayTree, u: Array) -> Array:
  """Returns f(u) + |u|^2 / 2 of one whitened latent [D], in nats."""
  return create_net().apply(params, u) + 0.5 * jnp.sum(jnp.square(u))


@functools.partial(jax.jit, static_argnames='shape')
def draws(params: chex.ArrayTree, key: Array, shape: tuple[int, int]) -> Array:
  """Returns the ends of short Langevin chains from N(0, I), shape [n, D]."""
  start_key, chain_key = jax.random.split(key)
  start = jax.random.normal(start_key, shape)
  chain = functools.partial(
    energy.langevin,
    energy_fn=functools.partial(whitened_energy, params),
    step_size=jnp.geomspace(*_STEP_SIZES, _CHAIN_STEPS),
    num_steps=_CHAIN_STEPS,
  )
  return jax.vmap(chain)(jax.random.split(chain_key, shape[0]), start)


def create_net() -> latent_nets.LatentEnergy:
  """Returns the net f for whitened latents [..., D]."""
  return latent_nets.LatentEnergy(_WIDTH, _NUM_BLOCKS)


@functools.partial(jax.jit, static_argnames='num_steps')
def _train(u: Array, key: Array, num_steps: int) -> chex.ArrayTree:
  """Returns the averaged weights after `num_steps` updates on u [N, D]."""
  init_key, steps_key = jax.random.split(key)
  params = create_net().init(init_key, u[0])
  rate = optax.cosine_decay_schedule(_LEARNING_RATE, num_steps, alpha=0.1)
  tx = optax.adam(rate, b1=_B1)

  def step(carry, key):
    params, opt_state, average = carry
    rows_key, chains_key = jax.random.split(key)
    rows = jax.random.randint(rows_key, (_BATCH_SIZE,), 0, u.shape[0])
    samples = draws(params, chains_key, (_BATCH_SIZE, u.shape[1]))

    def loss_fn(params):
      # |u|^2 / 2 is left out: it has no weights to train
      f = functools.partial(create_net().apply, params)
      return energy.contrastive_loss(f, u[rows], samples, _R1_WEIGHT)[0]

    grads = jax.grad(loss_fn)(params)
    updates, opt_state = tx.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    average = optax.incremental_update(params, average, 1.0 - _EMA_DECAY)
    return (params, opt_state, average), None

  keys = jax.random.split(steps_key, num_steps)
  carry = (params, tx.init(params), params)
  (_, _, average), _ = jax.lax.scan(step, carry, keys)
  return average
