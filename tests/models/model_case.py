"""Small networks, and weights of them that need no compilation."""

import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.models import model as model_lib

SIZES = dict(
  latent_size=3,
  hidden_sizes=(16, 12),
  channels=(4, 8),
  sampler_width=8,
  sampler_blocks=1,
  energy_width=8,
  energy_blocks=1,
  noise_size=5,
)


def images(num: int, image_shape: tuple[int, int, int]) -> np.ndarray:
  """Random images in [0, 1], float32 [num, H, W, C]."""
  rng = np.random.default_rng(0)
  return rng.uniform(size=(num, *image_shape)).astype(np.float32)


def keys(num: int, seed: int = 0) -> jax.Array:
  """One key per image, shape [num]."""
  return jax.random.split(jax.random.key(seed), num)


def params(model: model_lib.Model, *names: str):
  """Random weights of the shapes that `init` gives, without compiling it."""
  shapes = jax.eval_shape(lambda key: model.init(key, names), jax.random.key(0))
  rng = np.random.default_rng(1)

  def draw(leaf):
    fan_in = leaf.size / leaf.shape[-1] if leaf.shape else 1.0
    draws = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
    return jnp.asarray(draws.astype(leaf.dtype))

  return jax.tree.map(draw, shapes)
