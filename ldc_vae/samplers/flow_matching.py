"""Flow matching: a distribution of latents that an ODE draws from.

A net learns the velocity of straight paths from noise to latents, Lipman et al.
(2023), https://arxiv.org/abs/2210.02747, and Liu et al. (2023),
https://arxiv.org/abs/2209.03003. A draw starts from noise and follows the
velocity by Heun's method. It takes `NUM_EVALUATIONS` passes of the net, where a
sampler net takes one.

Letters: N latents, D latent size, A directions in which latents vary, B latents
of a batch.
"""

from collections.abc import Callable
import functools

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from ldc_vae.models import latent_nets
from ldc_vae.samplers import training

Array = jax.Array

_HEUN_STEPS = 25
NUM_EVALUATIONS = 2 * _HEUN_STEPS  # passes of the net for one latent

_NUM_FREQUENCIES = 4  # frequencies of the time input; each doubles the last


class Velocity(nn.Module):
  """Maps whitened latents u [..., A] at times t [...] to velocities [..., A].

  It starts as the velocity that takes N(0, I) to N(0, I), (2t - 1) u / s^2 with
  s^2 = t^2 + (1 - t)^2. The net learns the rest in units of its standard
  deviation 1 / s, and its inputs have standard deviation 1. This is the
  preconditioning of Karras et al. (2022), https://arxiv.org/abs/2206.00364, for
  straight paths.
  """

  width: int
  num_blocks: int

  @nn.compact
  def __call__(self, u: Array, t: Array) -> Array:
    t = t[..., None]
    scale = jnp.sqrt(jnp.square(t) + jnp.square(1.0 - t))
    angles = jnp.pi * t * 2.0 ** jnp.arange(_NUM_FREQUENCIES)
    inputs = [u / scale, t, jnp.sin(angles), jnp.cos(angles)]
    x = latent_nets.ResidualMlp(self.width, self.num_blocks)(
      jnp.concatenate(inputs, axis=-1)
    )
    rest = nn.Dense(u.shape[-1], kernel_init=nn.initializers.zeros_init())(x)
    return (2.0 * t - 1.0) / jnp.square(scale) * u + rest / scale


NET = Velocity(width=256, num_blocks=3)


def matching_loss(
  velocity_fn: Callable[[Array, Array], Array],
  noise: Array,
  latents: Array,
  times: Array,
) -> Array:
  """Returns the mean of |v((1 - t) noise + t latent, t) - (latent - noise)|^2.

  Lipman et al. (2023), equation 23 with sigma_min = 0.

  Args:
    velocity_fn: Maps points [B, A] at times [B] to velocities [B, A].
    noise: The start of each path, shape [B, A].
    latents: The end of each path, shape [B, A].
    times: t in [0, 1], shape [B].

  Returns:
    A scalar, in squared units of the latents.
  """
  chex.assert_equal_shape([noise, latents])
  chex.assert_rank([noise, times], [2, 1])
  t = times[:, None]
  points = (1.0 - t) * noise + t * latents
  errors = velocity_fn(points, times) - (latents - noise)
  return jnp.mean(jnp.sum(jnp.square(errors), axis=1))


def heun(
  velocity_fn: Callable[[Array, Array], Array], start: Array, num_steps: int
) -> Array:
  """Solves du/dt = v(u, t) from t = 0 to 1 by Heun's method.

  Args:
    velocity_fn: See `matching_loss`; each step evaluates it twice.
    start: u at t = 0, shape [B, A].
    num_steps: Steps of equal length.

  Returns:
    u at t = 1, shape [B, A].
  """
  chex.assert_rank(start, 2)
  length = 1.0 / num_steps

  def step(u, index):
    t = jnp.full(u.shape[0], index * length)
    first = velocity_fn(u, t)
    second = velocity_fn(u + length * first, t + length)
    return u + 0.5 * length * (first + second), None

  return jax.lax.scan(step, start, jnp.arange(num_steps))[0]


def loss(params: chex.ArrayTree, rows: Array, key: Array) -> Array:
  """Returns `matching_loss` of fresh noise and whitened latents [B, A]."""
  noise_key, time_key = jax.random.split(key)
  # one time in each of B equal parts of [0, 1] gives less noise
  parts = jnp.arange(rows.shape[0]) + jax.random.uniform(
    time_key, rows.shape[:1]
  )
  return matching_loss(
    functools.partial(NET.apply, params),
    jax.random.normal(noise_key, rows.shape),
    rows,
    parts / rows.shape[0],
  )


@functools.partial(jax.jit, static_argnames='shape')
def draws(params: chex.ArrayTree, key: Array, shape: tuple[int, int]) -> Array:
  """Draws whitened latents of shape [n, A], each from its own noise."""
  velocity_fn = functools.partial(NET.apply, params)
  return heun(velocity_fn, jax.random.normal(key, shape), _HEUN_STEPS)


SAMPLER = training.NetSampler(
  name='velocity',
  init_fn=lambda key, u: NET.init(key, u, jnp.zeros(())),
  loss_fn=loss,
  draws_fn=draws,
  num_steps=6000,
  batch_size=512,
  learning_rate=1e-3,
  ema_decay=0.999,
)
