"""A net that a kernel flow drifts onto latents, as a law with one pass.

The drifting model of Deng et al. (2026), https://arxiv.org/abs/2602.04770: in
training, what the net makes moves by the field of `svgd.smoothed_flow`, toward
latents and away from each other, and the net follows. It has neither an energy
nor an adversary.

Letters: N latents, D latent size, A of its directions that vary, n points of an
update.
"""

from collections.abc import Callable
import functools

import chex
import jax
import numpy as np

from ldc_vae import svgd
from ldc_vae.models import latent_nets
from ldc_vae.samplers import training

Array = jax.Array

NUM_STEPS = 6000  # updates

_BATCH_SIZE = 512  # n, of the net's points and of the latents
# of the flow, in distances of two points of N(0, I)
_SCALES = (0.02, 0.05, 0.2)
_LEARNING_RATE = 1e-3  # at the start of a cosine to 0
_EMA_DECAY = 0.999
_WIDTH, _NUM_BLOCKS = 256, 3  # of the residual blocks of the net


def fit(
    latents: np.ndarray, *, seed: int, num_steps: int = NUM_STEPS
) -> Callable[[int, int], np.ndarray]:
  """Trains the net on latents.

  Args:
    latents: Draws of the aggregate posterior, shape [N, D].
    seed: Of the weights, the batches and the noise.
    num_steps: Updates of Adam, at least 1.

  Returns:
    A function `(num, seed) -> float32 [num, D]`.

  Raises:
    ValueError: The training diverged, or has no steps.
  """
  training.check_steps(num_steps, 'drifting net')
  return training.fit(
      _train,
      draws,
      latents,
      seed=seed,
      num_steps=num_steps,
      what='drifting net',
  )


def drifting_loss(points: Array, latents: Array) -> Array:
  """A loss whose descent moves points [n, A] along their drift to latents.

  Deng et al. (2026), equation 6, with the field of `svgd.smoothed_flow`: its
  gradient is theirs, up to a factor.

  Args:
    points: What the net makes, shape [n, A], n >= 2.
    latents: Whitened latents, shape [m, A]; no gradient flows into them.

  Returns:
    A scalar. Its value means nothing.
  """
  chex.assert_rank([points, latents], 2)
  return svgd.follow(points, svgd.smoothed_flow(points, latents, _SCALES))


@functools.partial(jax.jit, static_argnames='shape')
def draws(
    params: chex.ArrayTree, key: Array, shape: tuple[int, int]
) -> Array:
  """Whitened latents of a shape [n, A], each from noise of its own."""
  return create_net().apply(params, jax.random.normal(key, shape))


def create_net() -> latent_nets.SamplerNet:
  """The net, from noise [..., A] to whitened latents [..., A]."""
  return latent_nets.SamplerNet(_WIDTH, _NUM_BLOCKS)


@functools.partial(jax.jit, static_argnames='num_steps')
def _train(u: Array, key: Array, num_steps: int) -> chex.ArrayTree:
  """The averaged weights after `num_steps` updates on u [N, A]."""
  init_key, steps_key = jax.random.split(key)

  def loss_fn(params, rows, key):
    noise = jax.random.normal(key, rows.shape)
    return drifting_loss(create_net().apply(params, noise), rows)

  return training.train(
      loss_fn,
      create_net().init(init_key, u[:1]),
      u,
      steps_key,
      num_steps,
      batch_size=_BATCH_SIZE,
      learning_rate=_LEARNING_RATE,
      ema_decay=_EMA_DECAY,
  )
