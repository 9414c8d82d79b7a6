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

from ldc_vae import svgd
from ldc_vae.models import latent_nets
from ldc_vae.samplers import training

Array = jax.Array

# scales of the flow; the unit is the distance of two points of N(0, I)
_SCALES = (0.02, 0.05, 0.2)

# maps noise [..., A] to whitened latents [..., A]
NET = latent_nets.SamplerNet(width=256, num_blocks=3)


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


def loss(params: chex.ArrayTree, rows: Array, key: Array) -> Array:
  """Returns `drifting_loss` of fresh draws and whitened latents [B, A]."""
  noise = jax.random.normal(key, rows.shape)
  return drifting_loss(NET.apply(params, noise), rows)


@functools.partial(jax.jit, static_argnames='shape')
def draws(params: chex.ArrayTree, key: Array, shape: tuple[int, int]) -> Array:
  """Draws whitened latents of shape [n, A], each from its own noise."""
  return NET.apply(params, jax.random.normal(key, shape))


SAMPLER = training.NetSampler(
  name='drifting net',
  init_fn=lambda key, u: NET.init(key, u),
  loss_fn=loss,
  draws_fn=draws,
  num_steps=6000,
  batch_size=512,  # n, the number of the net's points and of latents
  learning_rate=1e-3,
  ema_decay=0.999,
)
