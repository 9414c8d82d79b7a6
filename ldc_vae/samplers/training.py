"""The whitening and the training that several latent samplers share.

Letters: N latents, D latent size, A directions in which latents vary, B latents
of a batch.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

from ldc_vae import errors

Array = jax.Array
LossFn = Callable[[chex.ArrayTree, Array, Array], Array]

# Latents vary in a direction if its standard deviation is above this part of
# the largest one.
_MIN_STD = 1e-6


def whiten(
  latents: np.ndarray,
) -> tuple[np.ndarray, Callable[[ArrayLike], np.ndarray]]:
  """Makes latents uncorrelated, with mean 0 and standard deviation 1.

  Directions in which the latents do not vary are removed, because a density is
  not defined there. One direction is always kept, even if all latents are
  equal.

  Args:
    latents: Shape [N, D].

  Returns:
    u float32 [N, A], and the function that maps u [n, A] to float32 [n, D].
  """
  latents = np.asarray(latents, np.float64)
  chex.assert_rank(latents, 2)
  mean = latents.mean(axis=0)
  centered = latents - mean
  values, vectors = np.linalg.eigh(centered.T @ centered / len(latents))
  std = np.sqrt(np.maximum(values, 0.0))  # ascending
  used = std > _MIN_STD * std[-1]
  used[-1] = True
  std, vectors = std[used], vectors[:, used]
  u = centered @ (vectors / np.where(std > 0.0, std, 1.0))

  def unwhiten(u: ArrayLike) -> np.ndarray:
    z = mean + (np.asarray(u, np.float64) * std) @ vectors.T
    return z.astype(np.float32)

  return u.astype(np.float32), unwhiten


def check_steps(num_steps: int, what: str) -> None:
  """Raises a `UserError` if `num_steps` is less than 1."""
  if num_steps < 1:
    raise errors.UserError(
      f'num_steps={num_steps} trains no {what}; use 1 or more'
    )


def check_trained(params: chex.ArrayTree, num_steps: int, what: str) -> None:
  """Raises a `UserError` if a weight is not finite."""
  if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
    raise errors.UserError(
      f'the {what} diverged within num_steps={num_steps}; use fewer steps'
    )


def draw_key(seed: int) -> Array:
  """Returns the key of draws; no key of the training is equal to it."""
  return jax.random.fold_in(jax.random.key(seed), 2**31)


def fit(
  train_fn: Callable[[Array, Array, int], chex.ArrayTree],
  draws_fn: Callable[[chex.ArrayTree, Array, tuple[int, int]], Array],
  latents: np.ndarray,
  *,
  seed: int,
  num_steps: int,
  what: str,
) -> Callable[[int, int], np.ndarray]:
  """Trains a net on whitened latents; returns a function that draws latents.

  Args:
    train_fn: Maps whitened latents [N, A], a key and `num_steps` to weights.
    draws_fn: Maps weights, a key and a shape (n, A) to whitened latents.
    latents: Shape [N, D].
    seed: The seed of the training.
    num_steps: The number of updates.
    what: The net's name, for an error message.

  Returns:
    A function `(num, seed) -> float32 [num, D]`.

  Raises:
    UserError: The training diverged.
  """
  u, unwhiten = whiten(latents)
  params = train_fn(jnp.asarray(u), jax.random.key(seed), num_steps)
  check_trained(params, num_steps, what)

  def sample(num: int, seed: int) -> np.ndarray:
    return unwhiten(draws_fn(params, draw_key(seed), (num, u.shape[1])))

  return sample


def train(
  loss_fn: LossFn,
  params: chex.ArrayTree,
  u: Array,
  key: Array,
  num_steps: int,
  *,
  batch_size: int,
  learning_rate: float,
  ema_decay: float,
) -> chex.ArrayTree:
  """Trains by Adam on random batches; the rate falls to 0 along a cosine.

  Args:
    loss_fn: Maps weights, rows [B, A] and a PRNG key to a scalar.
    params: The initial weights.
    u: Whitened latents, shape [N, A]; batches are drawn with replacement.
    key: PRNG key.
    num_steps: The number of updates.
    batch_size: B.
    learning_rate: The initial rate.
    ema_decay: The decay of the average of the weights. In the first steps it
      is limited to (1 + step) / (10 + step).

  Returns:
    The averaged weights.
  """
  tx = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

  def step(carry, index):
    params, opt_state, average = carry
    rows_key, loss_key = jax.random.split(jax.random.fold_in(key, index))
    rows = jax.random.randint(rows_key, (batch_size,), 0, u.shape[0])
    grads = jax.grad(loss_fn)(params, u[rows], loss_key)
    updates, opt_state = tx.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    decay = jnp.minimum(ema_decay, (1.0 + index) / (10.0 + index))
    average = optax.incremental_update(params, average, 1.0 - decay)
    return (params, opt_state, average), None

  carry = (params, tx.init(params), params)
  (_, _, average), _ = jax.lax.scan(step, carry, jnp.arange(num_steps))
  return average
