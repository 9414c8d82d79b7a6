"""The SVGD direction of a set of particles, see `ldc_vae.svgd`."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ldc_vae.svgd import arithmetic
from ldc_vae.svgd import blocks
from ldc_vae.svgd import kernels

Array = jax.Array


def svgd_direction(
  particles: Array,
  scores: Array,
  kernel: kernels.Kernel | kernels.KernelFn,
  *,
  off_diagonal: bool,
  temperature: Array | float = 1.0,
  normalise: bool = False,
  block_size: int | None = None,
  bandwidth: Array | float | None = None,
  queries: Array | None = None,
  first_query: Array | int = 0,
) -> Array:
  """The SVGD direction phi of one particle set (see the module's docstring).

  Args:
    particles: Shape [n, D].
    scores: grad log p at the particles, shape [n, D].
    kernel: A `Kernel`, or a smooth function k(x [D], y [D]) -> [].
    off_diagonal: Leave out j = i, for amortised particles. Needs n >= 2.
    temperature: T >= 0, of the repulsion; at T < 1 the fixed point is p^(1/T).
    normalise: Divide each row by its own sum_j k(z_j, z_i) instead of by the
      number of pairs. The row is then the mean score of a particle's
      neighbours, minus T times the gradient of the log of their kernel density.
      Particles come to rest where they do without it, because the factor is
      positive; an isolated particle moves as fast as one in a crowd. Only for
      kernels without negative values.
    block_size: Compute so many rows at a time. Memory is then
      O(n * block_size), except with the median rule. None for `choose_block`.
    bandwidth: h, a scalar, which replaces the kernel's own rule or number; no
      gradient flows into it. None for the kernel's own.
    queries: The rows of `particles` whose direction is wanted, shape [m, D];
      None for all.
    first_query: The index in `particles` of the first query.

  Returns:
    Shape [m, D], to be followed uphill, without gradient. For particles in half
    precision it is computed in float32 and rounded at the end.

  Raises:
    ValueError: `off_diagonal` has fewer than two particles, `block_size` is
      below 1, `bandwidth` is given with a function, which has its own, or
      `normalise` is given with a kernel that has negative values, or the
      kernel is no kernel.
  """
  chex.assert_rank([particles, scores], 2)
  chex.assert_equal_shape([particles, scores])
  blocks.check_block_size(block_size)
  n = particles.shape[0]
  if off_diagonal and n < 2:
    raise ValueError(
      f'an off-diagonal SVGD direction needs 2 particles, got {n}'
    )
  numbers_per_pair = 1
  if not isinstance(kernel, kernels.Kernel):
    if bandwidth is not None:
      raise ValueError('a kernel that is a function has its own bandwidth')
    kernel = kernels.from_function(kernel)
    numbers_per_pair = particles.shape[1]  # a gradient
  if normalise and not kernel.positive:
    raise ValueError(
      'a kernel with negative values has no sum to normalise by; use'
      ' normalise=False, or rbf, imq or multi_scale'
    )
  queries = particles if queries is None else queries
  dtype = jnp.result_type(particles, scores, 0.0)  # 0.0: whole numbers too
  # float16 holds neither the floor of h nor the square of 256
  arrays = [arithmetic.widened(x) for x in (particles, scores, queries)]
  # phi is a constant of the update: SVGD does not use its derivative
  particles, scores, queries = jax.lax.stop_gradient(arrays)
  if bandwidth is None:
    h = kernel.bandwidth_fn(particles)
  else:
    chex.assert_rank(bandwidth, 0)
    # h is a constant of the update
    h = jax.lax.stop_gradient(jnp.asarray(bandwidth, particles.dtype))
  if kernel.centred:
    centre = arithmetic.centre(particles)
    particles, queries = particles - centre, queries - centre
  count = n - 1 if off_diagonal else n

  num_columns = n
  if block_size is None:
    block_size, num_columns = blocks.choose_block(
      queries.shape[0], n, jax.default_backend(), numbers_per_pair
    )

  def rows(queries_and_indices):
    block, indices = queries_and_indices

    def contract(part, its_scores, first, temperature=temperature):
      mask = None
      if off_diagonal:
        others = first + jnp.arange(part.shape[0])
        mask = (indices[:, None] != others[None, :]).astype(block.dtype)
      return kernel.contract_fn(block, part, its_scores, mask, h, temperature)

    total = blocks.sum_parts(contract, particles, scores, num_columns)
    if not normalise:
      return total / count
    # with scores of 1 and no repulsion, the result is the sum of the kernel
    mass_fn = functools.partial(contract, temperature=0.0)
    ones = jnp.ones_like(scores)
    mass = blocks.sum_parts(mass_fn, particles, ones, num_columns)
    return total / jnp.maximum(mass, jnp.finfo(mass.dtype).tiny)

  indices = first_query + jnp.arange(queries.shape[0])
  if block_size >= queries.shape[0]:
    return rows((queries, indices)).astype(dtype)
  return blocks.map_blocks(rows, queries, indices, block_size).astype(dtype)


class Update(NamedTuple):
  """A normalised SVGD direction, and whether its kernel has an effect.

  Attributes:
    direction: Shape [m, D], without gradient.
    kernel_mass: Sum of the kernel values of the other particles, in units of
      the particle's own, k(z, z); the mean over queries, a scalar. If it is far
      below 1, the direction is the plain score.
    repulsion_share: Root mean square of the repulsion (at T) over that of the
      averaged score, a scalar. If it is far below 1, particles only climb.
  """

  direction: Array
  kernel_mass: Array
  repulsion_share: Array


def normalised_update(
  particles: Array,
  scores: Array,
  kernel: kernels.Kernel,
  *,
  temperature: Array | float,
  bandwidth: Array | float,
  axis_name: str | None = None,
) -> Update:
  """The `svgd_direction` of all pairs with `normalise`, and diagnostics.

  Args:
    particles: Shape [n, D]; with `axis_name`, this device's part of the set.
    scores: grad log p at the particles, shape [n, D].
    kernel: One of the radial kernels: `rbf`, `imq`, `multi_scale`.
    temperature: T >= 0, of the repulsion.
    bandwidth: h, a scalar.
    axis_name: The axis over which the set is divided, or None.

  Returns:
    The update of this device's particles, and the diagnostics of these.
  """
  everyone = arithmetic.gather(particles, axis_name)
  all_scores = arithmetic.gather(scores, axis_name)
  direction_fn = functools.partial(
    svgd_direction,
    everyone,
    kernel=kernel,
    bandwidth=bandwidth,
    queries=particles,
    off_diagonal=False,
  )
  # XLA computes the kernel once for all three
  attraction = direction_fn(all_scores, temperature=0.0, normalise=True)
  repulsion = direction_fn(
    jnp.zeros_like(all_scores), temperature=temperature, normalise=True
  )
  sums = direction_fn(jnp.ones_like(all_scores), temperature=0.0)[:, 0]
  share = arithmetic.root_mean_square(repulsion) / jnp.maximum(
    arithmetic.root_mean_square(attraction), jnp.finfo(attraction.dtype).tiny
  )
  return Update(
    attraction + repulsion,
    jnp.mean(everyone.shape[0] * sums) - 1.0,  # k(z, z) = 1 for these kernels
    share,
  )
