"""The flow from particles to samples of a target, by kernel means."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from ldc_vae.svgd import arithmetic

Array = jax.Array


def smoothed_flow(
  particles: Array,
  targets: Array,
  scales: Sequence[float],
  *,
  axis_name: str | None = None,
) -> Array:
  """The kernel flow from particles to targets, summed over scales.

  For each scale t, let w and v be the row-wise softmax of -|.| / (t sqrt(2D)).
  The flow is V_i = sum_j w_ij y_j - sum_{j != i} v_ij u_j, divided by the root
  mean square of V over i. Particles rest where both sets have the same kernel
  means. The kink of |.| at 0 does not matter, because no gradient is taken.

  Args:
    particles: u, shape [n, D], n >= 2 (over all devices).
    targets: y, shape [m, D], samples of the target, in the same units.
    scales: t > 0, relative to the distance of two points of a unit Gaussian.
    axis_name: If given, `particles` and `targets` are this device's parts.

  Returns:
    Shape [n, D], an ascent direction, without gradient.

  Raises:
    ValueError: There are fewer than two particles.
  """
  chex.assert_rank([particles, targets], 2)
  dtype = jnp.result_type(particles, targets, 0.0)
  # the flow is data: no gradient flows through its weights or sets
  u, y = jax.lax.stop_gradient(
    (arithmetic.widened(particles), arithmetic.widened(targets))
  )
  all_u, all_y = (arithmetic.gather(x, axis_name) for x in (u, y))
  first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(u)
  if all_u.shape[0] < 2:
    raise ValueError(f'a smoothed flow needs 2 particles, got {all_u.shape[0]}')
  # one centre for all: the matmul form of distances loses digits far from 0
  centre = arithmetic.centre(all_y)
  u, all_u, all_y = u - centre, all_u - centre, all_y - centre
  unit = jnp.sqrt(2.0 * u.shape[1])
  to_targets = jnp.sqrt(arithmetic.squared_distances(u, all_y)) / unit
  to_particles = jnp.sqrt(arithmetic.squared_distances(u, all_u)) / unit
  rows = first + jnp.arange(u.shape[0])[:, None]
  own = rows == jnp.arange(all_u.shape[0])[None, :]
  to_particles = jnp.where(own, jnp.inf, to_particles)
  total = jnp.zeros_like(u)
  for scale in scales:
    pull = jax.nn.softmax(-to_targets / scale, axis=1)
    push = jax.nn.softmax(-to_particles / scale, axis=1)
    flow = arithmetic.matmul(pull, all_y) - arithmetic.matmul(push, all_u)
    mean_square = jnp.mean(jnp.sum(jnp.square(flow), axis=1))
    if axis_name is not None:
      mean_square = jax.lax.pmean(mean_square, axis_name)
    total += flow * jax.lax.rsqrt(mean_square + 1e-12)
  return total.astype(dtype)
