"""Losses whose gradient moves particles: by SVGD, or by a direction."""

import functools

import chex
import jax
import jax.numpy as jnp

from ldc_vae.svgd import arithmetic
from ldc_vae.svgd import blocks
from ldc_vae.svgd import directions
from ldc_vae.svgd import kernels

Array = jax.Array


def stein_particles(
  particles: Array,
  kernel: kernels.Kernel | kernels.KernelFn,
  *,
  off_diagonal: bool,
  temperature: Array | float = 1.0,
  block_size: int | None = None,
  bandwidth: Array | float | None = None,
  axis_name: str | None = None,
) -> Array:
  """The identity whose backward pass is SVGD.

  Pass the particles z through it, then take the mean of an energy U(z) over all
  of them as the loss. The backward pass receives its gradient
  g = grad U / count, so that the scores are s = -count * g. It passes
  -phi / count on to the network that made the particles. One `grad` of the mean
  energy so gives both the gradients of the energy's own weights and the
  amortised SVGD gradient of that network. Feng, Wang and Liu (2017),
  https://arxiv.org/abs/1707.06626.

  The loss must be the *mean* over all particles of this call. Only U may use
  the result; every other loss must use `stop_gradient` of it.

  Args:
    particles: Independent sets of n particles, shape [..., n, D].
    kernel: See `svgd_direction`.
    off_diagonal: See `svgd_direction`.
    temperature: See `svgd_direction`; may be traced, has no gradient.
    block_size: See `svgd_direction`.
    bandwidth: See `svgd_direction`; one for all sets, may be traced.
    axis_name: If given, `particles` [n, D] is this device's part of one set
      that is divided over the axis. Every particle sees those of all devices,
      and the mean of the devices' gradients is the gradient of the whole set.

  Returns:
    `particles`, unchanged.

  Raises:
    ValueError: See `svgd_direction`; too few particles are found in the
      backward pass only.
  """
  chex.assert_scalar_non_negative(particles.ndim - 2)
  blocks.check_block_size(block_size)
  if axis_name is not None:
    chex.assert_rank(particles, 2)
  dtype = arithmetic.at_least_float32(particles)
  temperature = jnp.asarray(temperature, dtype)
  if bandwidth is not None:
    bandwidth = jnp.asarray(bandwidth, dtype)

  @jax.custom_vjp
  def identity(particles, scalars):
    del scalars
    return particles

  def forward(particles, scalars):
    return particles, (particles, scalars)

  def backward(residuals, cotangent):
    particles, scalars = residuals
    temperature, bandwidth = scalars
    n, dim = particles.shape[-2:]
    count = particles.size // dim
    # scores are differences: float32, also if the network computes in bfloat16
    dtype = arithmetic.at_least_float32(particles)
    z = particles.reshape(-1, n, dim).astype(dtype)
    scores = -count * cotangent.reshape(-1, n, dim).astype(dtype)
    direction_fn = functools.partial(
      directions.svgd_direction,
      kernel=kernel,
      off_diagonal=off_diagonal,
      temperature=temperature,
      block_size=block_size,
      bandwidth=bandwidth,
    )
    if axis_name is None:
      direction = jax.vmap(direction_fn)(z, scores)
    else:
      everyone, all_scores = jax.lax.all_gather(
        (z[0], scores[0]), axis_name, tiled=True
      )
      direction = direction_fn(
        everyone,
        all_scores,
        queries=z[0],
        first_query=jax.lax.axis_index(axis_name) * n,
      )
    gradient = (-direction / count).reshape(particles.shape)
    no_gradient = jax.tree.map(jnp.zeros_like, scalars)
    return gradient.astype(particles.dtype), no_gradient

  identity.defvjp(forward, backward)
  return identity(particles, (temperature, bandwidth))


def follow(particles: Array, direction: Array) -> Array:
  """A loss whose gradient descent moves particles along a direction.

  Args:
    particles: Shape [n, D].
    direction: Shape [n, D]; no gradient flows into it.

  Returns:
    A scalar whose gradient by `particles` is -direction / n. Its value means
    nothing.
  """
  chex.assert_equal_shape([particles, direction])
  # the direction is data, as in the backward pass of `stein_particles`
  direction = jax.lax.stop_gradient(direction)
  return -jnp.mean(jnp.sum(particles * direction, axis=-1))
