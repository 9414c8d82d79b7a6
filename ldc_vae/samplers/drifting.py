"""The drifting model: a net that makes a latent in one pass.

Deng et al. (2026), https://arxiv.org/abs/2602.04770. In training, the net's
outputs move by the field of `svgd.smoothed_flow`: toward latents and away from
each other. The net learns to follow them. It needs no energy and no adversary.

Letters: N latents, D latent size, A directions in which latents vary, n points
of an update.
"""

import functools

import chex
import jax
import numpy as np

from ldc_vae import svgd
from ldc_vae.models import latent_nets
from ldc_vae.samplers import training

Array = jax.Array

NUM_STEPS = 6000  # updates

_BATCH_SIZE = 512  # n, the number of the net's points and of latents
# scales of the flow; the unit is the distance of two points of N(0, I)
_SCALES = (0.02, 0.05, 0.2)
_LEARNING_RATE = 1e-3  # the initial rate; it falls to 0 along a cosine
_EMA_DECAY = 0.999
_WIDTH, _NUM_BLOCKS = 256, 3  # residual blocks of the net


def fit(
  latents: np.ndarray, *, seed: int, num_steps: int = NUM_STEPS
) -> training.SampleFn:
  """Trains the net on latents; see `training.NetSampler.fit`."""
  net = training.NetSampler(
    name='drifting net',
    init_fn=init,
    loss_fn=loss,
    draws_fn=draws,
    batch_size=_BATCH_SIZE,
    learning_rate=_LEARNING_RATE,
    ema_decay=_EMA_DECAY,
  )
  return net.fit(latents, seed=seed, num_steps=num_steps)


def drifting_loss(points: Array, latents: Array) -> Array:
  """Returns a loss whose gradient moves points along their drift to latents.

  Deng et al. (2026), equation 6, with the field of `svgd.smoothed_flow`. The
  gradient is theirs, up to a factor.

  Args:
    points: The net's outputs, shape [n, A], n >= 2.
    latents: Whitened latents, shape [m, A]; no gradient flows into them.

  Returns:
    A scalar. Only its gradient has a meaning.
  """
  chex.assert_rank([points, latents], 2)
  return svgd.follow(points, svgd.smoothed_flow(points, latents, _SCALES))


def init(key: Array, u: Array) -> chex.ArrayTree:
  """Returns the initial weights for one whitened latent [A]."""
  return create_net().init(key, u)


def loss(params: chex.ArrayTree, rows: Array, key: Array) -> Array:
  """Returns `drifting_loss` of fresh draws and whitened latents [B, A]."""
  noise = jax.random.normal(key, rows.shape)
  return drifting_loss(create_net().apply(params, noise), rows)


@functools.partial(jax.jit, static_argnames='shape')
def draws(params: chex.ArrayTree, key: Array, shape: tuple[int, int]) -> Array:
  """Draws whitened latents of shape [n, A], each from its own noise."""
  return create_net().apply(params, jax.random.normal(key, shape))


def create_net() -> latent_nets.SamplerNet:
  """Returns the net, which maps noise [..., A] to whitened latents [..., A]."""
  return latent_nets.SamplerNet(_WIDTH, _NUM_BLOCKS)
