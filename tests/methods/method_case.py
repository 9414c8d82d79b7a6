"""Shared by the tests of objectives: weights, images, keys, gradients."""

import jax
import jax.numpy as jnp
import numpy as np


def params(model, *names):
  """Random weights of the shapes that `init` gives, without compiling it."""
  shapes = jax.eval_shape(lambda key: model.init(key, names), jax.random.key(0))
  rng = np.random.default_rng(7)

  def draw(leaf):
    fan_in = leaf.size / leaf.shape[-1] if leaf.shape else 1.0
    draws = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
    return jnp.asarray(draws.astype(leaf.dtype))

  return jax.tree.map(draw, shapes)


def images(shape: tuple[int, int, int, int]) -> np.ndarray:
  """Random images in [0, 1], float32 of a shape [B, H, W, C]."""
  return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def keys(batch_size: int, seed: int = 1) -> jax.Array:
  """Keys [B]."""
  return jax.random.split(jax.random.key(seed), batch_size)


def unpack(output):
  """(loss, (metrics, updates)): updates are the latents and stats it has."""
  updates = {'latents': output.latents, 'stats': output.stats}
  updates = {k: v for k, v in updates.items() if v is not None}
  return output.loss, (output.metrics, updates)


def run(objective_fn, weights, *args):
  """(loss, (metrics, updates)) and the gradient by `weights`, in NumPy.

  Args:
    objective_fn: Of a phase, see `methods.base`.
    weights: The `params` of the objective.
    *args: What follows them: images, keys, context.
  """

  @jax.jit
  def value_and_grad(weights):
    loss_fn = lambda weights: unpack(objective_fn(weights, *args))
    return jax.value_and_grad(loss_fn, has_aux=True)(weights)

  return jax.device_get(value_and_grad(weights))


def norm(tree) -> float:
  """Largest absolute value in a tree."""
  return max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(tree))
