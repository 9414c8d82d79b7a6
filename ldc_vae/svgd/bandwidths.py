"""Rules for the bandwidth h of a kernel, in squared units of the particles."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from ldc_vae.svgd import arithmetic

Array = jax.Array

# Smaller than every squared distance of different float32 particles of unit
# scale. It keeps h > 0 if all particles coincide.
BANDWIDTH_FLOOR = 1e-8

# `mass_bandwidth` looks for h in this range, in octaves of the mean squared
# distance. It halves the range 14 times, to 1/500 of an octave. At D = 64 the
# mass changes six times as much as h.
_MASS_OCTAVES = (-20.0, 12.0)
_MASS_STEPS = 14
_MASS_QUERIES = 64  # more points change h by little

# Below this fraction of the mean, a median distance is rounding noise.
_COINCIDENT = 1e-6


def mean_square_distance(particles: Array) -> Array:
  """Mean of |z_i - z_j|^2 over the pairs i != j, exact in O(nD).

  It is 2n/(n-1) mean_i |z_i - mean z|^2, and 0 for a single particle.

  Args:
    particles: Shape [n, D].

  Returns:
    A scalar in squared units of the particles.
  """
  chex.assert_rank(particles, 2)
  particles = arithmetic.widened(particles)
  n = particles.shape[0]
  centred = particles - jnp.mean(particles, axis=0, keepdims=True)
  variance = jnp.mean(jnp.sum(jnp.square(centred), axis=1))
  return 2.0 * n / max(n - 1, 1) * variance


def mean_bandwidth(particles: Array, floor: float = BANDWIDTH_FLOOR) -> Array:
  """Mean squared pair distance / log(n + 1), see `mean_square_distance`.

  No gradient flows through it: h is a constant of the update.

  Do not use it for a few amortised particles. Their own distance would set h:
  two particles, for example, always have k = 1/3, so that only their repulsion
  decides how wide they are. Give such a set a bandwidth of the distribution
  that it is drawn from, see `expected_bandwidth`.

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

  For N(0, I) it is 2 sqrt(D), which is the standard deviation of |x - y|^2 over
  sqrt(2). Particles learn their width from pairs that are closer or farther
  than the mean. A kernel far wider than that standard deviation gives all pairs
  the same weight; a far narrower one gives most pairs none. The ratio of signal
  to noise of one pair is largest at h = 8 for D = 16 and at h = 18 for D = 64,
  for any number of particles (docs/lab-notes.md).

  Args:
    square_distance: E|x - y|^2 of two draws, a scalar; 2D for N(0, I).
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

  It holds and sorts all n^2 distances, also if the direction is computed in
  blocks. In a batch this costs 8 to 50 times the direction itself; prefer
  `mean_bandwidth`.

  If half of all pairs coincide, their median distance is rounding noise, and so
  would be their repulsion. The value is then that of `mean_bandwidth`.

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
  particles = arithmetic.widened(particles)
  centred = particles - jnp.mean(particles, axis=0, keepdims=True)
  distances = arithmetic.squared_distances(centred, centred)
  median = jnp.median(distances[jnp.triu_indices(n, k=1)])
  h, mean = median / jnp.log(n + 1.0), mean_bandwidth(particles, floor)
  coincide = h <= _COINCIDENT * mean
  return jax.lax.stop_gradient(jnp.where(coincide, mean, jnp.maximum(h, floor)))


def mass_bandwidth(
  points: Array, mass: float, floor: float = BANDWIDTH_FLOOR
) -> Array:
  """The h for which the kernel values of all other points have a given sum.

  It solves mean_i sum_{j != i} exp(-|y_i - y_j|^2 / h) = mass by bisection, to
  0.2 percent of h. At mass 1 a Gaussian kernel gives all other particles
  together the weight of the particle itself, in any number of dimensions. (With
  a fixed fraction of the mean distance they have 1e-48 of it at D = 16.)

  Take the points from the target. Particles that set their own kernel can
  shrink together with it.

  Args:
    points: y, shape [n, D], n >= 2. The mean over i is of at most 64 of them.
    mass: Between 0 and n - 1.
    floor: The least value returned.

  Returns:
    The bandwidth h, a scalar in squared units of the points, without gradient.

  Raises:
    ValueError: So many points cannot have this mass.
  """
  chex.assert_rank(points, 2)
  n = points.shape[0]
  if not 0.0 < mass < n - 1:
    raise ValueError(
      f'mass={mass} of {n} points: each feels at most {n - 1} others; use a'
      f' mass between 0 and {n - 1}'
    )
  points = jax.lax.stop_gradient(arithmetic.widened(points))  # h is a constant
  points = points - arithmetic.centre(points)
  rows = jnp.arange(0, n, max(1, n // _MASS_QUERIES))[:_MASS_QUERIES]
  distances = arithmetic.squared_distances(points[rows], points)
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
  """Returns the rule 'mean' or 'median', or a constant, as a function.

  Args:
    bandwidth: 'mean', 'median', or h > 0 (a number, or a string of one).
    floor: The least value that a rule returns.
    factor: Multiplies the value of a rule; below 1 for a narrower kernel.

  Returns:
    A function of the particles [n, D].

  Raises:
    ValueError: `bandwidth` is none of these, or too small for float32.
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
  return lambda particles: jnp.asarray(
    h, arithmetic.at_least_float32(particles)
  )
