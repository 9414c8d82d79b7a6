"""Kernels k(x, y), each as a function and in the form that SVGD needs.

k(x, y) = exp(-|x - y|^2 / h) has no factor 2 in front of h. A new kernel is one
function like `rbf` and one line of `KERNELS`.
"""

from collections.abc import Callable, Sequence
import inspect
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ldc_vae.svgd import arithmetic
from ldc_vae.svgd import bandwidths

Array = jax.Array
KernelFn = Callable[[Array, Array], Array]


class Kernel(NamedTuple):
  """A kernel: its bandwidth, and its products with scores.

  Attributes:
    bandwidth_fn: Maps all particles [n, D] to the bandwidth h [], in squared
      units of the particles.
    contract_fn: `(queries [m, D], particles [n, D], scores [n, D], mask, h, T)
      -> [m, D]`. Row i is sum_j mask_ij [k(z_j, q_i) s_j + T grad_{z_j}
      k(z_j, q_i)]. `mask` [m, n] has zeros and ones; None stands for all ones.
    centred: Whether k(x + a, y + a) = k(x, y). Particles are then centred
      first, which saves digits in the matmul form.
    positive: Whether k(x, y) > 0 for all x and y.
  """

  bandwidth_fn: Callable[[Array], Array]
  contract_fn: Callable[..., Array]
  centred: bool
  positive: bool


def rbf_kernel(x: Array, y: Array, bandwidth: Array | float) -> Array:
  """Gaussian kernel, k(x, y) = exp(-|x - y|^2 / h).

  Args:
    x: One particle, shape [D].
    y: One particle, shape [D].
    bandwidth: h > 0, in squared units of x.

  Returns:
    A scalar in (0, 1].
  """
  chex.assert_equal_shape([x, y])
  chex.assert_rank([x, y], 1)
  return jnp.exp(-jnp.sum(jnp.square(x - y)) / bandwidth)


def imq_kernel(x: Array, y: Array, bandwidth: Array | float) -> Array:
  """Inverse multiquadric, k(x, y) = (1 + |x - y|^2 / h)^(-1/2).

  Its tails control convergence; those of the Gaussian kernel do not. Gorham and
  Mackey (2017), https://arxiv.org/abs/1703.01717.

  Args:
    x: One particle, shape [D].
    y: One particle, shape [D].
    bandwidth: h > 0, in squared units of x.

  Returns:
    A scalar in (0, 1].
  """
  chex.assert_equal_shape([x, y])
  chex.assert_rank([x, y], 1)
  return jax.lax.rsqrt(1.0 + jnp.sum(jnp.square(x - y)) / bandwidth)


def multi_scale_kernel(
  x: Array, y: Array, bandwidth: Array | float, scales: Sequence[float]
) -> Array:
  """Mean of Gaussian kernels of bandwidths `scale * h`.

  Args:
    x: One particle, shape [D].
    y: One particle, shape [D].
    bandwidth: h > 0, in squared units of x.
    scales: Positive factors of h.

  Returns:
    A scalar in (0, 1].
  """
  kernels = [rbf_kernel(x, y, scale * bandwidth) for scale in scales]
  return sum(kernels, jnp.zeros_like(kernels[0])) / len(scales)


def linear_kernel(x: Array, y: Array, bandwidth: Array | float = 1.0) -> Array:
  """Linear kernel, k(x, y) = x.y / h + 1: exact in mean and covariance.

  Liu and Wang (2018), https://arxiv.org/abs/1810.11693.

  Args:
    x: One particle, shape [D].
    y: One particle, shape [D].
    bandwidth: h > 0, in squared units of x.

  Returns:
    A scalar.
  """
  chex.assert_equal_shape([x, y])
  chex.assert_rank([x, y], 1)
  return jnp.sum(x * y) / bandwidth + 1.0


def radial(
  profile: Callable[[Array, Array], tuple[Array, Array]],
  bandwidth_fn: Callable[[Array], Array],
  exact: bool = False,
) -> Kernel:
  """A kernel that is a function of the distance |x - y|, in matmul form.

  Args:
    profile: Maps |x - y|^2 / h and h to k and w, where grad_x k = w (y - x).
    bandwidth_fn: See `Kernel`.
    exact: See `rbf`.

  Returns:
    A kernel for `svgd_direction`.
  """

  def contract(queries, particles, scores, mask, h, temperature):
    if exact:
      differences = queries[:, None, :] - particles[None, :, :]
      distances = jnp.sum(jnp.square(differences), axis=-1) / h
    else:
      distances = arithmetic.scaled_distances(queries, particles, h)
    values, slopes = profile(distances, h)
    values = arithmetic.masked(values, mask)
    slopes = arithmetic.masked(slopes, mask)
    if exact:
      repulsion = jnp.sum(slopes[:, :, None] * differences, axis=1)
    else:
      repulsion = queries * arithmetic.row_sums(slopes)
      repulsion -= arithmetic.matmul(slopes, particles)
    return arithmetic.matmul(values, scores) + temperature * repulsion

  # centring rounds the particles, and exact differences must not be rounded
  return Kernel(bandwidth_fn, contract, centred=not exact, positive=True)


def rbf(
  bandwidth: float | str = 'mean',
  *,
  floor: float = bandwidths.BANDWIDTH_FLOOR,
  factor: float = 1.0,
  exact: bool = False,
) -> Kernel:
  """`rbf_kernel` in matmul form: 2 n^2 D multiply-adds and n^2 exponentials.

  Args:
    bandwidth: 'mean', 'median' or a positive number.
    floor: The least bandwidth of a rule.
    factor: Multiplies the bandwidth of a rule.
    exact: Compute distances and repulsion from differences, for tight clusters
      far apart; O(mnD) memory.

  Returns:
    A kernel for `svgd_direction`.
  """
  bandwidth_fn = bandwidths.make_bandwidth_fn(bandwidth, floor, factor)
  if exact:

    def profile(distances, h):
      values = jnp.exp(-distances)
      return values, 2.0 / h * values

    return radial(profile, bandwidth_fn, exact)

  def contract(queries, particles, scores, mask, h, temperature):
    distances = arithmetic.scaled_distances(queries, particles, h)
    values = arithmetic.masked(jnp.exp(-distances), mask)
    # grad_x k(x, y) = (2/h) (y - x) k, so that one product with K has both
    weight = 2.0 * temperature / h
    pulled = arithmetic.matmul(values, scores - weight * particles)
    return pulled + queries * arithmetic.row_sums(values, weight)

  return Kernel(bandwidth_fn, contract, centred=True, positive=True)


def imq(
  bandwidth: float | str = 'mean',
  *,
  floor: float = bandwidths.BANDWIDTH_FLOOR,
  factor: float = 1.0,
  exact: bool = False,
) -> Kernel:
  """`imq_kernel` in matmul form; the arguments are those of `rbf`."""

  def profile(distances, h):
    values = jax.lax.rsqrt(1.0 + distances)
    return values, values**3 / h

  bandwidth_fn = bandwidths.make_bandwidth_fn(bandwidth, floor, factor)
  return radial(profile, bandwidth_fn, exact)


def multi_scale(
  bandwidth: float | str = 'mean',
  *,
  scales: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
  floor: float = bandwidths.BANDWIDTH_FLOOR,
  factor: float = 1.0,
  exact: bool = False,
) -> Kernel:
  """`multi_scale_kernel` in matmul form; the rest is as in `rbf`."""
  scales = tuple(scales)

  def profile(distances, h):
    values, slopes = 0.0, 0.0
    for scale in scales:
      value = jnp.exp(-distances / scale) / len(scales)
      values += value
      slopes += 2.0 / (scale * h) * value
    return values, slopes

  bandwidth_fn = bandwidths.make_bandwidth_fn(bandwidth, floor, factor)
  return radial(profile, bandwidth_fn, exact)


def linear(
  bandwidth: float | str = 1.0,
  *,
  floor: float = bandwidths.BANDWIDTH_FLOOR,
  factor: float = 1.0,
) -> Kernel:
  """`linear_kernel` in matmul form; it sees only two moments.

  Its repulsion is not 0 between particles that coincide, nor for a single
  particle. A rule has no distance to take h from in these cases: h is then 1.
  """

  def contract(queries, particles, scores, mask, h, temperature):
    products = arithmetic.matmul(queries, particles.T)
    values = arithmetic.masked(products / h + 1.0, mask)
    if mask is None:
      count = particles.shape[0]
    else:
      count = jnp.sum(mask, axis=1, keepdims=True)
    repulsion = temperature * count * queries / h
    return arithmetic.matmul(values, scores) + repulsion

  rule_fn = bandwidths.make_bandwidth_fn(bandwidth, floor, factor)

  def bandwidth_fn(particles):
    h = rule_fn(particles)
    return jnp.where(h > floor, h, 1.0) if isinstance(bandwidth, str) else h

  return Kernel(bandwidth_fn, contract, centred=False, positive=False)


def from_function(kernel_fn: KernelFn, *, positive: bool = False) -> Kernel:
  """Any smooth k(x [D], y [D]) -> [], by autodiff: slower, O(mnD) memory.

  Args:
    kernel_fn: k, which must be differentiable, also at x = y.
    positive: Whether all its values are positive, for `normalise`.

  Returns:
    A kernel for `svgd_direction`.

  Raises:
    ValueError: It does not take two particles, as `rbf` without a call.
  """
  try:
    inspect.signature(kernel_fn).bind(None, None)
  except TypeError as error:
    name = getattr(kernel_fn, '__name__', repr(kernel_fn))
    raise ValueError(
      f'kernel={name} takes no two particles ({error}); give a kernel, as'
      ' svgd.rbf(), or a function k(x, y)'
    ) from error

  def contract(queries, particles, scores, mask, h, temperature):
    del h
    value_and_grad = jax.value_and_grad(kernel_fn)  # by the first argument
    over_particles = jax.vmap(value_and_grad, in_axes=(0, None))
    values, grads = jax.vmap(over_particles, in_axes=(None, 0))(
      particles, queries
    )  # [m, n], [m, n, D]
    values = arithmetic.masked(values, mask)
    if mask is not None:
      grads = grads * mask[:, :, None]
    repulsion = temperature * jnp.sum(grads, axis=1)
    return arithmetic.matmul(values, scores) + repulsion

  no_bandwidth = lambda particles: jnp.ones((), particles.dtype)
  return Kernel(no_bandwidth, contract, centred=False, positive=positive)


KERNELS = {
  'rbf': rbf,
  'imq': imq,
  'multi_scale': multi_scale,
  'linear': linear,
}
