"""The whitening and the training that several latent samplers share.

Letters: N latents, D latent size, A directions in which latents vary, B latents
of a batch.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

from ldc_vae import errors

Array = jax.Array
SampleFn = Callable[[int, int], np.ndarray]

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


@dataclasses.dataclass(frozen=True)
class NetSampler:
  """A net that draws whitened latents, and how it is trained.

  Attributes:
    name: The net's name, for messages.
    init_fn: Maps a key and one whitened latent [A] to weights.
    loss_fn: Maps weights, rows [B, A] and a key to a scalar.
    draws_fn: Maps weights, a key and a shape (n, A) to whitened latents.
    num_steps: Updates of Adam, unless `fit` is given another number.
    batch_size: B; batches are drawn with replacement.
    learning_rate: Adam's initial rate, which falls along a cosine.
    final_fraction: The end of the cosine, as a fraction of the initial rate.
    b1: Adam's first decay.
    ema_decay: See `descend`.
  """

  name: str
  init_fn: Callable[[Array, Array], chex.ArrayTree]
  loss_fn: Callable[[chex.ArrayTree, Array, Array], Array]
  draws_fn: Callable[[chex.ArrayTree, Array, tuple[int, int]], Array]
  num_steps: int
  batch_size: int
  learning_rate: float
  ema_decay: float
  final_fraction: float = 0.0
  b1: float = 0.9

  def fit(
    self, latents: np.ndarray, *, seed: int, num_steps: int | None = None
  ) -> SampleFn:
    """Trains the net on whitened latents.

    Args:
      latents: Draws of the aggregate posterior, shape [N, D].
      seed: The seed of the weights, the batches and all other noise.
      num_steps: Updates of Adam, at least 1; None for those of the net.

    Returns:
      A function `(num, seed) -> float32 [num, D]`.

    Raises:
      UserError: The training diverged, or has no steps.
    """
    num_steps = self.num_steps if num_steps is None else num_steps
    check_steps(num_steps, self.name)
    u, unwhiten = whiten(latents)
    params = train(self, jnp.asarray(u), jax.random.key(seed), num_steps)
    check_trained(params, num_steps, self.name)

    def sample(num: int, seed: int) -> np.ndarray:
      shape = (num, u.shape[1])
      return unwhiten(self.draws_fn(params, draw_key(seed), shape))

    return sample


@functools.partial(jax.jit, static_argnames=('net', 'num_steps'))
def train(
  net: NetSampler, u: Array, key: Array, num_steps: int
) -> chex.ArrayTree:
  """Returns the averaged weights after `num_steps` updates on u [N, A]."""
  init_key, steps_key = jax.random.split(key)

  def loss_fn(params, index):
    rows_key, loss_key = jax.random.split(jax.random.fold_in(steps_key, index))
    rows = jax.random.randint(rows_key, (net.batch_size,), 0, u.shape[0])
    return net.loss_fn(params, u[rows], loss_key), ()

  rate = optax.cosine_decay_schedule(
    net.learning_rate, num_steps, net.final_fraction
  )
  return descend(
    loss_fn,
    net.init_fn(init_key, u[0]),
    optax.adam(rate, b1=net.b1),
    num_steps,
    ema_decay=net.ema_decay,
  )[0]


def descend(
  loss_fn: Callable[[chex.ArrayTree, Array], tuple[Array, Any]],
  params: chex.ArrayTree,
  tx: optax.GradientTransformation,
  num_steps: int,
  *,
  ema_decay: float,
) -> tuple[chex.ArrayTree, Any]:
  """Trains weights in one compiled loop.

  Args:
    loss_fn: Maps weights and the number of the update, from 0, to a scalar and
      metrics.
    params: The initial weights.
    tx: The optimiser.
    num_steps: The number of updates.
    ema_decay: The decay of the average of the weights. In the first steps it
      is limited to (1 + step) / (10 + step). 0 returns the last weights.

  Returns:
    The averaged weights, and the metrics of all updates.
  """

  def step(carry, index):
    params, opt_state, average = carry
    grads, metrics = jax.grad(loss_fn, has_aux=True)(params, index)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    decay = jnp.minimum(ema_decay, (1.0 + index) / (10.0 + index))
    average = optax.incremental_update(params, average, 1.0 - decay)
    return (params, opt_state, average), metrics

  carry = (params, tx.init(params), params)
  (_, _, average), metrics = jax.lax.scan(step, carry, jnp.arange(num_steps))
  return average, metrics


def muon(
  rate: optax.ScalarOrSchedule,
  b1: float,
  b2: float = 0.999,
  *,
  weight_decay: float = 0.0,
) -> optax.GradientTransformation:
  """Returns Muon for weight matrices, and Adam for all other weights.

  The change of a matrix is its mean gradient, made orthogonal: all directions
  get the same length. Jordan et al. (2024),
  https://kellerjordan.github.io/posts/muon. A change has the root mean square
  `rate`, about that of Adam, as in Liu et al. (2025),
  https://arxiv.org/abs/2502.16982. So both have one rate.

  Args:
    rate: The rate of both, or its schedule.
    b1: The decay of the mean gradient.
    b2: Adam's second decay.
    weight_decay: Decoupled weight decay; 0 for none.
  """
  return optax.contrib.muon(
    rate,
    beta=b1,
    adam_b1=b1,
    adam_b2=b2,
    weight_decay=weight_decay,
    adam_weight_decay=weight_decay,
    consistent_rms=1.0,
  )


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
