r"""Stein variational gradient descent: kernels, directions, particles.

For particles z_1..z_n with scores s_j = grad log p(z_j) and a repulsion
temperature T, the SVGD direction (an ascent direction) is

    phi_i = c sum_j [ k(z_j, z_i) s_j + T grad_{z_j} k(z_j, z_i) ],

c = 1/n over all pairs, 1/(n-1) over the pairs j != i. Liu and Wang (2016),
Algorithm 1, https://arxiv.org/abs/1608.04471.

Which pairs: an amortised set (fresh noise at every step) wants the pairs
j != i, which estimate the population's direction without bias; with the
diagonal each particle also climbs its own score, and the set collapses. A
persistent set wants all pairs and diverges without the diagonal.

A persistent set underestimates variances where dimensions are many: take no
error bars from it. All pairs with the mean rule end at the variance
log(n + 1) / D of N(0, I_D) for n <= D + 1, and with a factor f far below 1 near
none, as each particle climbs to the mode alone (`LawTest` in
tests/test_svgd.py). On a logistic regression of 31 weights 100 particles have
0.49 of the deviations of NUTS with `rbf('mean')`, 0.01 with the factor 0.3,
0.65 with `multi_scale`, 0.82 with `imq` and 0.95 with the factor 4; whitening
does not help, and the means are right within 0.14 deviations
(benchmarks/results/variance_collapse.md). Use `linear(1.0)` with n > D instead
(1.04): it is exact in a Gaussian's mean and covariance, and blind to all else.
Or train something that draws new particles at every step, over the pairs
j != i, or sample by NUTS.

Here k(x, y) = exp(-|x - y|^2 / h) has no factor 2 in front of h. All functions
are pure, batch by `vmap`, and know no network, config or device.
"""

from collections.abc import Callable, Sequence
import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

Array = jax.Array
KernelFn = Callable[[Array, Array], Array]

# Below every distance that float32 particles of unit scale can have; it keeps
# h > 0 where all particles coincide.
BANDWIDTH_FLOOR = 1e-8

# Numbers of a block of the kernel matrix, by platform: 8 MB stay in a CPU's
# caches between the two products; elsewhere 256 MB only bound the memory.
_BLOCK_NUMBERS = {'cpu': 2**21}
_OTHER_BLOCK_NUMBERS = 2**26

# Where `mass_bandwidth` looks for h, in octaves of the mean squared distance,
# and how often it halves that: to 1/500 of an octave. At D = 64 the mass
# changes six times as much as h.
_MASS_OCTAVES = (-20.0, 12.0)
_MASS_STEPS = 14
_MASS_QUERIES = 64  # points that feel all others; more change h by little

# A median of distances in units of their mean, of which only rounding is left.
_COINCIDENT = 1e-6

# Rows of a block at least, below which the products become slow.
_MIN_BLOCK_ROWS = 64

# Particles of a block, by platform, where they are more than can be taken at
# once without blocks of too few rows; elsewhere all of them.
_BLOCK_COLUMNS = {'cpu': 2048}
_MAX_WHOLE_ROW = 4096

# Particles from which on a row is summed by a matrix product.
_LONG_ROW = 1024

# Particles below which numbers of a row are multiplied before they are summed.
# XLA's CPU library takes a batch of directions as one operation, a fifth to a
# third faster (but for jax 0.10, see ldc_vae/__init__.py), if no product is of
# an array under 4096 numbers; a batch of 128 has as many row sums from 32
# particles on.
_SHORT_ROW = 32


class Kernel(NamedTuple):
  """A kernel in the two forms that an SVGD direction needs.

  Attributes:
    bandwidth_fn: Maps all particles [n, D] to the bandwidth h [], in squared
      units of the particles.
    contract_fn: `(queries [m, D], particles [n, D], scores [n, D], mask, h, T)
      -> [m, D]`, row i being sum_j mask_ij [k(z_j, q_i) s_j + T grad_{z_j}
      k(z_j, q_i)]; `mask` [m, n] of zeros and ones, or None for all ones.
    centred: Whether k(x + a, y + a) = k(x, y), so that particles may be
      centred first, which saves digits in the matmul form.
    positive: Whether k(x, y) > 0 for all x and y.
  """

  bandwidth_fn: Callable[[Array], Array]
  contract_fn: Callable[..., Array]
  centred: bool
  positive: bool


def mean_square_distance(particles: Array) -> Array:
  """Mean of |z_i - z_j|^2 over the pairs i != j, exact in O(nD).

  It is 2n/(n-1) mean_i |z_i - mean z|^2; 0 of a lone particle.

  Args:
    particles: Shape [n, D].

  Returns:
    A scalar in squared units of the particles.
  """
  chex.assert_rank(particles, 2)
  particles = _widened(particles)
  n = particles.shape[0]
  deviations = particles - jnp.mean(particles, axis=0, keepdims=True)
  spread = jnp.mean(jnp.sum(jnp.square(deviations), axis=1))
  return 2.0 * n / max(n - 1, 1) * spread


def mean_bandwidth(particles: Array, floor: float = BANDWIDTH_FLOOR) -> Array:
  """Mean squared pair distance / log(n + 1), see `mean_square_distance`.

  No gradient flows through it: h is a constant of the update. Of a few
  amortised particles it is a wrong constant: their own distance sets it, so
  that two of them always have k = 1/3, and nothing but their repulsion is left
  to decide how wide they are. Pass such a set a `bandwidth` of the law that
  they are drawn from, see `expected_bandwidth`.

  Args:
    particles: Shape [n, D].
    floor: The least value returned.

  Returns:
    The bandwidth h, a scalar in squared units of the particles.
  """
  distance = mean_square_distance(particles)
  h = distance / jnp.log(particles.shape[0] + 1.0)
  return jax.lax.stop_gradient(jnp.maximum(h, floor))


def expected_bandwidth(
    square_distance: Array | float,
    latent_size: int,
    *,
    factor: float = 1.0,
    floor: float = BANDWIDTH_FLOOR,
) -> Array:
  """factor * E|x - y|^2 / sqrt(D), of a distribution, not of a set of draws.

  Of N(0, I) it is 2 sqrt(D), the standard deviation of |x - y|^2 over sqrt(2).
  Particles learn their width from pairs that are closer or farther than the
  mean: a kernel far wider than that standard deviation weighs all pairs alike,
  and a narrower one takes most of them away. The signal of one pair for its
  noise is largest at h = 8 for D = 16 and 18 for D = 64, whatever the number of
  particles (benchmarks/README.md).

  Args:
    square_distance: E|x - y|^2 of two draws, a scalar; 2D of N(0, I).
    latent_size: D.
    factor: Below 1 for a narrower kernel.
    floor: The least value returned.

  Returns:
    The bandwidth h, a scalar without gradient.
  """
  h = factor * square_distance / jnp.sqrt(1.0 * latent_size)
  # h is a constant of the update
  return jax.lax.stop_gradient(jnp.maximum(h, floor))


def median_bandwidth(particles: Array, floor: float = BANDWIDTH_FLOOR) -> Array:
  """Median squared distance over pairs i < j / log(n + 1); O(n^2 (D + log n)).

  It holds and sorts all n^2 distances, whatever the blocks of a direction,
  which in a batch costs 8 to 50 times the direction itself; prefer
  `mean_bandwidth`. That is what it returns where half of all pairs coincide:
  a kernel as wide as rounding would push them apart by what rounding left.

  Args:
    particles: Shape [n, D], n >= 2.
    floor: The least value returned.

  Returns:
    The bandwidth h, a scalar in squared units of the particles.
  """
  chex.assert_rank(particles, 2)
  n = particles.shape[0]
  if n < 2:
    raise ValueError(f'the median bandwidth needs 2 particles, got {n}')
  particles = _widened(particles)
  centred = particles - jnp.mean(particles, axis=0, keepdims=True)
  distances = squared_distances(centred, centred)
  median = jnp.median(distances[jnp.triu_indices(n, k=1)])
  h, mean = median / jnp.log(n + 1.0), mean_bandwidth(particles, floor)
  coincide = h <= _COINCIDENT * mean
  return jax.lax.stop_gradient(
      jnp.where(coincide, mean, jnp.maximum(h, floor))
  )


def mass_bandwidth(
    points: Array, mass: float, floor: float = BANDWIDTH_FLOOR
) -> Array:
  """The h for which a point feels a given sum of kernel values of the others.

  It solves mean_i sum_{j != i} exp(-|y_i - y_j|^2 / h) = mass by bisection, to
  0.2 percent of h. At mass 1 a Gaussian kernel gives all others together as
  much weight as the particle itself, at every number of dimensions, where a
  fixed fraction of the mean distance gives them 1e-48 at D = 16. Take the
  points from the target: particles that set their own kernel can shrink with
  it.

  Args:
    points: y, shape [n, D], n >= 2. At most 64 of them are queries.
    mass: Between 0 and n - 1.
    floor: The least value returned.

  Returns:
    The bandwidth h, a scalar in squared units of the points, without gradient.

  Raises:
    ValueError: The mass cannot be reached by so many points.
  """
  chex.assert_rank(points, 2)
  n = points.shape[0]
  if not 0.0 < mass < n - 1:
    raise ValueError(
        f'mass={mass} of {n} points: each feels at most {n - 1} others; use a'
        f' mass between 0 and {n - 1}'
    )
  points = jax.lax.stop_gradient(_widened(points))  # h is a constant
  points = points - _centre(points)
  rows = jnp.arange(0, n, max(1, n // _MASS_QUERIES))[:_MASS_QUERIES]
  distances = squared_distances(points[rows], points)
  own = rows[:, None] == jnp.arange(n)[None, :]
  distances = jnp.where(own, jnp.inf, distances)
  mean = mean_square_distance(points)

  def halve(_, bounds):
    low, high = bounds
    middle = 0.5 * (low + high)
    h = jnp.maximum(mean * jnp.exp2(middle), floor)
    reached = jnp.mean(jnp.sum(jnp.exp(-distances / h), axis=1)) >= mass
    return jnp.where(reached, low, middle), jnp.where(reached, middle, high)

  bounds = jax.lax.fori_loop(0, _MASS_STEPS, halve, _MASS_OCTAVES)
  return jnp.maximum(mean * jnp.exp2(bounds[1]), floor)


def make_bandwidth_fn(
    bandwidth: float | str,
    floor: float = BANDWIDTH_FLOOR,
    factor: float = 1.0,
) -> Callable[[Array], Array]:
  """Returns the rule named 'mean' or 'median', or a constant.

  Args:
    bandwidth: 'mean', 'median', or h > 0 (a number, or its spelling).
    floor: The least value that a rule returns.
    factor: Multiplies a rule's value: below 1 for a narrower kernel.

  Returns:
    A function of the particles [n, D].

  Raises:
    ValueError: `bandwidth` is neither, or less than float32 holds.
  """
  rules = {'mean': mean_bandwidth, 'median': median_bandwidth}
  if bandwidth in rules:
    rule = rules[bandwidth]
    return lambda particles: jnp.maximum(factor * rule(particles, floor), floor)
  try:
    h = float(bandwidth)
  except (TypeError, ValueError):
    h = 0.0
  if not float(jnp.finfo(jnp.float32).tiny) <= h < float('inf'):
    raise ValueError(
        f"bandwidth={bandwidth!r} is neither 'mean', 'median' nor a positive"
        ' number of float32'
    )
  return lambda particles: jnp.asarray(h, _at_least_float32(particles))


def _centre(points: Array) -> Array:
  """The mean [1, D] of points [n, D], to be taken off them."""
  # Not jnp.mean: where XLA fuses its last product into some of the uses of
  # `points - centre` only, these differ by its rounding, which a narrow kernel
  # takes for a distance.
  return jnp.sum(points / points.shape[0], axis=0, keepdims=True)


def squared_distances(x: Array, y: Array) -> Array:
  """Pairwise |x_i - y_j|^2 in matmul form, clamped at 0.

  Centre x and y by one common vector first: an offset of 100 spreads costs
  four digits in float32.

  Args:
    x: Shape [m, D].
    y: Shape [n, D].

  Returns:
    Shape [m, n].
  """
  chex.assert_rank([x, y], 2)
  # twice x, and not twice the m n products
  products = _matmul(2.0 * x, y.T)
  norms_x = jnp.sum(jnp.square(x), axis=1)[:, None]
  norms_y = jnp.sum(jnp.square(y), axis=1)[None, :]
  return -jnp.minimum(products - norms_x - norms_y, 0.0)


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

  Gorham and Mackey (2017), https://arxiv.org/abs/1703.01717: its tails control
  convergence where the Gaussian's do not.

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
  return sum(rbf_kernel(x, y, scale * bandwidth) for scale in scales) / len(
      scales
  )


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


def rbf(
    bandwidth: float | str = 'mean',
    *,
    floor: float = BANDWIDTH_FLOOR,
    factor: float = 1.0,
    exact: bool = False,
) -> Kernel:
  """`rbf_kernel` in matmul form: 2 n^2 D multiply-adds and n^2 exponentials.

  Args:
    bandwidth: 'mean', 'median' or a positive number.
    floor: The least bandwidth of a rule.
    factor: Multiplies the bandwidth of a rule.
    exact: Distances and repulsion from differences, for tight clusters far
      apart; O(mnD) memory.

  Returns:
    A kernel for `svgd_direction`.
  """
  bandwidth_fn = make_bandwidth_fn(bandwidth, floor, factor)
  if exact:

    def profile(distances, h):
      values = jnp.exp(-distances)
      return values, 2.0 / h * values

    return _radial(profile, bandwidth_fn, exact)

  def contract(queries, particles, scores, mask, h, temperature):
    values = _masked(jnp.exp(-_distances(queries, particles, h)), mask)
    # grad_x k(x, y) = (2/h) (y - x) k folds into the one product with K.
    weight = 2.0 * temperature / h
    pulled = _matmul(values, scores - weight * particles)
    return pulled + queries * _row_sums(values, weight)

  return Kernel(bandwidth_fn, contract, centred=True, positive=True)


def imq(
    bandwidth: float | str = 'mean',
    *,
    floor: float = BANDWIDTH_FLOOR,
    factor: float = 1.0,
    exact: bool = False,
) -> Kernel:
  """`imq_kernel` in matmul form; arguments as `rbf`."""

  def profile(distances, h):
    values = jax.lax.rsqrt(1.0 + distances)
    return values, values**3 / h

  return _radial(profile, make_bandwidth_fn(bandwidth, floor, factor), exact)


def multi_scale(
    bandwidth: float | str = 'mean',
    *,
    scales: Sequence[float] = (0.25, 0.5, 1.0, 2.0, 4.0),
    floor: float = BANDWIDTH_FLOOR,
    factor: float = 1.0,
    exact: bool = False,
) -> Kernel:
  """`multi_scale_kernel` in matmul form; further arguments as `rbf`."""
  scales = tuple(scales)

  def profile(distances, h):
    values, slopes = 0.0, 0.0
    for scale in scales:
      value = jnp.exp(-distances / scale) / len(scales)
      values += value
      slopes += 2.0 / (scale * h) * value
    return values, slopes

  return _radial(profile, make_bandwidth_fn(bandwidth, floor, factor), exact)


def linear(
    bandwidth: float | str = 1.0,
    *,
    floor: float = BANDWIDTH_FLOOR,
    factor: float = 1.0,
) -> Kernel:
  """`linear_kernel` in matmul form; it sees only two moments.

  Its repulsion does not vanish between particles that coincide, or of a lone
  one, whose h by a rule says nothing: h is then 1.
  """

  def contract(queries, particles, scores, mask, h, temperature):
    values = _masked(_matmul(queries, particles.T) / h + 1.0, mask)
    if mask is None:
      count = particles.shape[0]
    else:
      count = jnp.sum(mask, axis=1, keepdims=True)
    return _matmul(values, scores) + temperature * count * queries / h

  rule_fn = make_bandwidth_fn(bandwidth, floor, factor)

  def bandwidth_fn(particles):
    h = rule_fn(particles)
    return jnp.where(h > floor, h, 1.0) if isinstance(bandwidth, str) else h

  return Kernel(bandwidth_fn, contract, centred=False, positive=False)


def from_function(kernel_fn: KernelFn, *, positive: bool = False) -> Kernel:
  """Any smooth k(x [D], y [D]) -> [] by autodiff: O(mnD) memory, slower.

  Args:
    kernel_fn: Differentiable, also at x = y.
    positive: Whether all its values are positive, for `normalise`.

  Returns:
    A kernel for `svgd_direction`.
  """

  def contract(queries, particles, scores, mask, h, temperature):
    del h
    value_and_grad = jax.value_and_grad(kernel_fn)  # of the first: grad_x
    over_particles = jax.vmap(value_and_grad, in_axes=(0, None))
    values, grads = jax.vmap(over_particles, in_axes=(None, 0))(
        particles, queries
    )  # [m, n], [m, n, D]
    values = _masked(values, mask)
    if mask is not None:
      grads = grads * mask[:, :, None]
    return _matmul(values, scores) + temperature * jnp.sum(grads, axis=1)

  no_bandwidth = lambda particles: jnp.ones((), particles.dtype)
  return Kernel(no_bandwidth, contract, centred=False, positive=positive)


KERNELS = {
    'rbf': rbf,
    'imq': imq,
    'multi_scale': multi_scale,
    'linear': linear,
}


def choose_block(
    num_queries: int,
    num_particles: int,
    platform: str,
    numbers_per_pair: int = 1,
) -> tuple[int, int]:
  """The part of the kernel matrix that is computed at a time.

  As many rows as have 2^21 numbers (8 MB) on a CPU and 2^26 elsewhere, or 64 if
  that is more, split into blocks of one size. On a CPU all rows of up to 1,448
  particles, 1,024 of 2,048, 512 of 4,096; of more, at most 2,048 at a time.

  Args:
    num_queries: m, the rows that are wanted.
    num_particles: n.
    platform: As `jax.default_backend` names it.
    numbers_per_pair: D for a kernel that is a function, which has gradients.

  Returns:
    The rows, at most m, and the particles, at most n, of a block.
  """
  numbers = _BLOCK_NUMBERS.get(platform, _OTHER_BLOCK_NUMBERS)
  columns = num_particles
  if (
      platform in _BLOCK_COLUMNS
      and num_particles > _MAX_WHOLE_ROW
      and num_queries * num_particles * numbers_per_pair > numbers
  ):
    columns = _equal_part(num_particles, _BLOCK_COLUMNS[platform])
  rows = max(numbers // max(columns * numbers_per_pair, 1), _MIN_BLOCK_ROWS)
  return _equal_part(num_queries, rows), columns


def _equal_part(total: int, most: int) -> int:
  """The size of equal parts of about `most`, in whole vectors of 8."""
  if most >= total:
    return total
  num_parts = -(-total // most)
  return min(8 * -(-total // (8 * num_parts)), total)


def svgd_direction(
    particles: Array,
    scores: Array,
    kernel: Kernel | KernelFn,
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
    off_diagonal: Leave out j = i: for amortised particles. Needs n >= 2.
    temperature: T >= 0, of the repulsion; at T < 1 the fixed point is p^(1/T).
    normalise: Divide each row by its own sum_j k(z_j, z_i) instead of by the
      number of pairs: the mean score of a particle's neighbours, and -T times
      the gradient of the log of their kernel density. The factor is positive,
      so that the points of rest are those of SVGD; a lone particle moves as
      fast as one in a crowd. For kernels without negative values.
    block_size: Rows of all particles computed at a time; memory is then
      O(n * block_size), but for the median rule. None for `choose_block`.
    bandwidth: h, a scalar, in place of the kernel's own rule or number; no
      gradient flows into it. None for the kernel's.
    queries: The rows of `particles` whose direction is wanted, shape [m, D];
      None for all.
    first_query: The index in `particles` of the first query.

  Returns:
    Shape [m, D], to be followed uphill. No gradient flows through it. That of
    particles in half precision is computed in float32, and rounded at the end.

  Raises:
    ValueError: `off_diagonal` with fewer than two particles, a `block_size`
      below 1, a `bandwidth` for a function, which has its own, or `normalise`
      with a kernel that has negative values.
  """
  chex.assert_rank([particles, scores], 2)
  chex.assert_equal_shape([particles, scores])
  _check_block_size(block_size)
  n = particles.shape[0]
  if off_diagonal and n < 2:
    raise ValueError(
        f'an off-diagonal SVGD direction needs 2 particles, got {n}'
    )
  numbers_per_pair = 1
  if not isinstance(kernel, Kernel):
    if bandwidth is not None:
      raise ValueError('a kernel that is a function has its own bandwidth')
    kernel = from_function(kernel)
    numbers_per_pair = particles.shape[1]  # a gradient
  if normalise and not kernel.positive:
    raise ValueError(
        'a kernel with negative values has no sum to normalise by; use'
        ' normalise=False, or rbf, imq or multi_scale'
    )
  queries = particles if queries is None else queries
  dtype = jnp.result_type(particles, scores, 0.0)  # 0.0: whole numbers too
  # float16 holds neither the floor of h nor the square of 256
  arrays = [_widened(x) for x in (particles, scores, queries)]
  # phi is a constant of the update: its own derivative is no part of SVGD.
  particles, scores, queries = jax.lax.stop_gradient(arrays)
  if bandwidth is None:
    h = kernel.bandwidth_fn(particles)
  else:
    chex.assert_rank(bandwidth, 0)
    # h is a constant of the update
    h = jax.lax.stop_gradient(jnp.asarray(bandwidth, particles.dtype))
  if kernel.centred:
    centre = _centre(particles)
    particles, queries = particles - centre, queries - centre
  count = n - 1 if off_diagonal else n

  num_columns = n
  if block_size is None:
    block_size, num_columns = choose_block(
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

    total = _sum_parts(contract, particles, scores, num_columns)
    if not normalise:
      return total / count
    # scores of 1 without repulsion leave the kernel's own sum
    mass_fn = functools.partial(contract, temperature=0.0)
    mass = _sum_parts(mass_fn, particles, jnp.ones_like(scores), num_columns)
    return total / jnp.maximum(mass, jnp.finfo(mass.dtype).tiny)

  indices = first_query + jnp.arange(queries.shape[0])
  if block_size >= queries.shape[0]:
    return rows((queries, indices)).astype(dtype)
  return _map_blocks(rows, queries, indices, block_size).astype(dtype)


class Update(NamedTuple):
  """A normalised SVGD direction, and whether its kernel acts.

  Attributes:
    direction: Shape [m, D], without gradient.
    kernel_mass: Sum of kernel values of the other particles, in units of the
      particle's own, k(z, z); the mean over queries, a scalar. Far below 1 the
      direction is the plain score.
    repulsion_share: Root mean square of the repulsion (at T) over that of the
      averaged score, a scalar. Far below 1 particles only climb.
  """

  direction: Array
  kernel_mass: Array
  repulsion_share: Array


def normalised_update(
    particles: Array,
    scores: Array,
    kernel: Kernel,
    *,
    temperature: Array | float,
    bandwidth: Array | float,
    axis_name: str | None = None,
) -> Update:
  """`svgd_direction` of all pairs with `normalise`, and its diagnostics.

  Args:
    particles: Shape [n, D]; with `axis_name`, this device's part of one set.
    scores: grad log p at the particles, shape [n, D].
    kernel: One of the radial kernels: `rbf`, `imq`, `multi_scale`.
    temperature: T >= 0, of the repulsion.
    bandwidth: h, a scalar.
    axis_name: The axis over which the set is spread, or None.

  Returns:
    The update of this device's particles; diagnostics are those of its part.
  """
  everyone, all_scores = particles, scores
  if axis_name is not None:
    everyone, all_scores = jax.lax.all_gather(
        (particles, scores), axis_name, tiled=True
    )
  direction_fn = functools.partial(
      svgd_direction,
      everyone,
      kernel=kernel,
      bandwidth=bandwidth,
      queries=particles,
      off_diagonal=False,
  )
  # XLA computes the kernel of all three once
  attraction = direction_fn(all_scores, temperature=0.0, normalise=True)
  repulsion = direction_fn(
      jnp.zeros_like(all_scores), temperature=temperature, normalise=True
  )
  sums = direction_fn(jnp.ones_like(all_scores), temperature=0.0)[:, 0]
  share = _root_mean_square(repulsion) / jnp.maximum(
      _root_mean_square(attraction), jnp.finfo(attraction.dtype).tiny
  )
  return Update(
      attraction + repulsion,
      jnp.mean(everyone.shape[0] * sums) - 1.0,  # k(z, z) is 1 of all three
      share,
  )


def stein_particles(
    particles: Array,
    kernel: Kernel | KernelFn,
    *,
    off_diagonal: bool,
    temperature: Array | float = 1.0,
    block_size: int | None = None,
    bandwidth: Array | float | None = None,
    axis_name: str | None = None,
) -> Array:
  """The identity whose backward pass is SVGD.

  Put the particles z through it, then take the mean of an energy U(z) over
  all of them as the loss. Its gradient g = grad U / count arrives here as the
  cotangent; the scores are s = -count * g, and what goes on to the network that
  made the particles is -phi / count. One `grad` of the mean energy so yields
  the energy's own gradients and the amortised SVGD gradient of the particles'
  source: Feng, Wang and Liu (2017), https://arxiv.org/abs/1707.06626.

  The loss must be the *mean* over all particles of this call, and only U may
  use what is returned; every other loss takes `stop_gradient` of it.

  Args:
    particles: Independent sets of n particles, shape [..., n, D].
    kernel: As in `svgd_direction`.
    off_diagonal: As in `svgd_direction`.
    temperature: As in `svgd_direction`; may be traced, has no gradient.
    block_size: As in `svgd_direction`.
    bandwidth: As in `svgd_direction`, of all sets; may be traced.
    axis_name: If given, `particles` [n, D] is this device's part of one set
      that is spread over the axis; every particle sees those of all devices,
      and the mean over devices of the gradients is that of the whole set.

  Returns:
    `particles`, unchanged.

  Raises:
    ValueError: As `svgd_direction`; of the particles' number in the backward
      pass.
  """
  chex.assert_scalar_non_negative(particles.ndim - 2)
  _check_block_size(block_size)
  if axis_name is not None:
    chex.assert_rank(particles, 2)
  dtype = _at_least_float32(particles)
  temperature = jnp.asarray(temperature, dtype)
  if bandwidth is not None:
    bandwidth = jnp.asarray(bandwidth, dtype)
  return _stein_particles(
      particles,
      (temperature, bandwidth),
      kernel,
      off_diagonal,
      block_size,
      axis_name,
  )


def follow(particles: Array, direction: Array) -> Array:
  """A loss whose descent moves particles along a direction.

  Args:
    particles: Shape [n, D].
    direction: Shape [n, D]; no gradient flows into it.

  Returns:
    A scalar whose gradient by `particles` is -direction / n. Its value means
    nothing.
  """
  chex.assert_equal_shape([particles, direction])
  # the direction is data here, as in the backward pass of stein_particles
  direction = jax.lax.stop_gradient(direction)
  return -jnp.mean(jnp.sum(particles * direction, axis=-1))


def smoothed_flow(
    particles: Array,
    targets: Array,
    scales: Sequence[float],
    *,
    axis_name: str | None = None,
) -> Array:
  """The kernel flow from particles to targets, summed over scales.

  For each scale t, with w and v the row-wise softmax of -|.| / (t sqrt(2D)):
  V_i = sum_j w_ij y_j - sum_{j != i} v_ij u_j, divided by the root mean square
  of V over i. At rest where both sets have the same kernel means. No kernel
  gradient is taken, so that the kink of |.| at 0 does not matter.

  Args:
    particles: u, shape [n, D], n >= 2 (over all devices).
    targets: y, shape [m, D], samples of the target, in the same units.
    scales: t > 0, relative to the distance of two points of a unit Gaussian.
    axis_name: If given, `particles` and `targets` are this device's parts.

  Returns:
    Shape [n, D], an ascent direction, without gradient.

  Raises:
    ValueError: Fewer than two particles: a lone one has no others to leave.
  """
  chex.assert_rank([particles, targets], 2)
  dtype = jnp.result_type(particles, targets, 0.0)
  # a direction is data: no gradient through weights or sets
  u, y = jax.lax.stop_gradient((_widened(particles), _widened(targets)))
  all_u, all_y, first = u, y, 0
  if axis_name is not None:
    all_u, all_y = jax.lax.all_gather((u, y), axis_name, tiled=True)
    first = jax.lax.axis_index(axis_name) * u.shape[0]
  if all_u.shape[0] < 2:
    raise ValueError(
        f'a smoothed flow needs 2 particles, got {all_u.shape[0]}'
    )
  # one centre for all: the matmul form of distances loses digits far from 0
  centre = _centre(all_y)
  u, all_u, all_y = u - centre, all_u - centre, all_y - centre
  unit = jnp.sqrt(2.0 * u.shape[1])
  to_targets = jnp.sqrt(squared_distances(u, all_y)) / unit
  to_particles = jnp.sqrt(squared_distances(u, all_u)) / unit
  rows = first + jnp.arange(u.shape[0])[:, None]
  own = rows == jnp.arange(all_u.shape[0])[None, :]
  to_particles = jnp.where(own, jnp.inf, to_particles)
  total = jnp.zeros_like(u)
  for scale in scales:
    flow = _matmul(jax.nn.softmax(-to_targets / scale, axis=1), all_y)
    flow -= _matmul(jax.nn.softmax(-to_particles / scale, axis=1), all_u)
    mean_square = jnp.mean(jnp.sum(jnp.square(flow), axis=1))
    if axis_name is not None:
      mean_square = jax.lax.pmean(mean_square, axis_name)
    total += flow * jax.lax.rsqrt(mean_square + 1e-12)
  return total.astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _stein_particles(
    particles, scalars, kernel, off_diagonal, block_size, axis_name
):
  """`stein_particles` with positional arguments, as custom_vjp wants them."""
  del scalars, kernel, off_diagonal, block_size, axis_name
  return particles


def _stein_forward(
    particles, scalars, kernel, off_diagonal, block_size, axis_name
):
  """The identity; keeps the particles, T and h for the backward pass."""
  del kernel, off_diagonal, block_size, axis_name
  return particles, (particles, scalars)


def _stein_backward(
    kernel, off_diagonal, block_size, axis_name, residuals, cotangent
):
  """Turns the gradient of the mean energy into that of SVGD."""
  particles, scalars = residuals
  temperature, bandwidth = scalars
  n, dim = particles.shape[-2:]
  count = particles.size // dim
  # also where the network computes in bfloat16: scores are differences
  dtype = _at_least_float32(particles)
  z = particles.reshape(-1, n, dim).astype(dtype)
  scores = -count * cotangent.reshape(-1, n, dim).astype(dtype)
  direction_fn = functools.partial(
      svgd_direction,
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


_stein_particles.defvjp(_stein_forward, _stein_backward)


def _root_mean_square(x: Array) -> Array:
  """Of the rows' lengths of [n, D], a scalar."""
  return jnp.sqrt(jnp.mean(jnp.sum(jnp.square(x), axis=-1)))


def _at_least_float32(x: Array) -> jnp.dtype:
  """What the directions of particles are computed in."""
  return jnp.promote_types(x.dtype, jnp.float32)


def _widened(x: Array) -> Array:
  """x in at least float32."""
  return jnp.asarray(x, _at_least_float32(x))


def _check_block_size(block_size: int | None) -> None:
  """Raises a ValueError for blocks without rows."""
  if block_size is not None and block_size < 1:
    raise ValueError(
        f'block_size={block_size} leaves a block without rows; use 1 or more,'
        ' or None to have it chosen'
    )


def _radial(profile, bandwidth_fn, exact) -> Kernel:
  """A kernel from `profile(|x-y|^2 / h, h) -> (k, w)`, grad_x k = w (y-x)."""

  def contract(queries, particles, scores, mask, h, temperature):
    if exact:
      differences = queries[:, None, :] - particles[None, :, :]
      distances = jnp.sum(jnp.square(differences), axis=-1) / h
    else:
      distances = _distances(queries, particles, h)
    values, slopes = profile(distances, h)
    values, slopes = _masked(values, mask), _masked(slopes, mask)
    if exact:
      repulsion = jnp.sum(slopes[:, :, None] * differences, axis=1)
    else:
      repulsion = queries * _row_sums(slopes) - _matmul(slopes, particles)
    return _matmul(values, scores) + temperature * repulsion

  # of centred particles the differences would be those of rounded ones
  return Kernel(bandwidth_fn, contract, centred=not exact, positive=True)


def _distances(x: Array, y: Array, h: Array) -> Array:
  """|x_i - y_j|^2 / h of x [m, D] and y [n, D]; shape [m, n]."""
  # `squared_distances` with h on one side: m D products, no m n divisions
  products = _matmul(x * (2.0 / h), y.T)
  products = products - _norms(x, h)[:, None] - _norms(y, h)[None, :]
  # `exp` of minus this has one operation less than of a maximum
  return -jnp.minimum(products, 0.0)


def _norms(x: Array, h: Array) -> Array:
  """|x_i|^2 / h of x [m, D], shape [m]."""
  if x.shape[0] < _SHORT_ROW:
    return jnp.sum(x * (x / h), axis=1)
  return jnp.sum(jnp.square(x), axis=1) / h


def _row_sums(values: Array, weight: Array | float = 1.0) -> Array:
  """The sums of the rows of [m, n] times a number, shape [m, 1]."""
  num = values.shape[1]
  if num < _SHORT_ROW:
    return jnp.sum(weight * values, axis=1, keepdims=True)
  if num < _LONG_ROW:
    return weight * jnp.sum(values, axis=1, keepdims=True)
  # XLA would fuse a sum with the products before and after it into one loop,
  # which is a tenth slower where these are large
  return _matmul(values, weight * jnp.ones((num, 1), values.dtype))


def _matmul(x: Array, y: Array) -> Array:
  """x @ y in full float32: distances and repulsions are small differences.

  The default on a TPU (bfloat16) or GPU (TF32) has 8 or 11 bits: a particle
  would repel itself by the rounding of its own coordinates.
  """
  return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _masked(values: Array, mask: Array | None) -> Array:
  """values * mask, or values where there is no mask."""
  return values if mask is None else values * mask


def _sum_parts(contract_fn, particles, scores, size) -> Array:
  """The sum of `contract_fn(particles, scores, first index)` over parts."""
  n, dim = particles.shape
  if size >= n:
    return contract_fn(particles, scores, 0)
  first = n - (n - 1) // size * size  # the odd part, of 1 to `size`
  total = contract_fn(particles[:first], scores[:first], 0)

  def add(total, part):
    return total + contract_fn(*part), None

  rest = [x[first:].reshape(-1, size, dim) for x in (particles, scores)]
  return jax.lax.scan(add, total, (*rest, jnp.arange(first, n, size)))[0]


def _map_blocks(rows_fn, queries, indices, block_size) -> Array:
  """Applies `rows_fn` to blocks of rows, one at a time; pads the last."""
  m, dim = queries.shape
  num_blocks = -(-m // block_size)
  padding = num_blocks * block_size - m
  queries = jnp.pad(queries, ((0, padding), (0, 0)))
  indices = jnp.pad(indices, (0, padding), constant_values=-1)
  blocks = jax.lax.map(
      rows_fn,
      (
          queries.reshape(num_blocks, block_size, dim),
          indices.reshape(num_blocks, block_size),
      ),
  )
  return blocks.reshape(-1, dim)[:m]
