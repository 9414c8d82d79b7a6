"""References by loops, and what the tests of SVGD share."""

import functools
import math

import chex
import jax
import numpy as np

from ldc_vae import svgd

SCALES = (0.5, 1.0, 3.0)
FUNCTIONS = {
  'rbf': svgd.rbf_kernel,
  'imq': svgd.imq_kernel,
  'multi_scale': functools.partial(svgd.multi_scale_kernel, scales=SCALES),
  'linear': svgd.linear_kernel,
}
OBJECTS = {
  'rbf': svgd.rbf,
  'imq': svgd.imq,
  'multi_scale': functools.partial(svgd.multi_scale, scales=SCALES),
  'linear': svgd.linear,
}


def _rbf_reference(x, y, h):
  """k(x, y) and its gradient by x."""
  value = math.exp(-np.sum((x - y) ** 2) / h)
  return value, -2.0 * (x - y) / h * value


def _imq_reference(x, y, h):
  """k(x, y) and its gradient by x."""
  base = 1.0 + np.sum((x - y) ** 2) / h
  return base**-0.5, -(x - y) / h * base**-1.5


def _multi_scale_reference(x, y, h):
  """k(x, y) and its gradient by x."""
  parts = [_rbf_reference(x, y, scale * h) for scale in SCALES]
  return tuple(sum(part) / len(SCALES) for part in zip(*parts))


def _linear_reference(x, y, h):
  """k(x, y) and its gradient by x."""
  return float(x @ y) / h + 1.0, y / h


REFERENCES = {
  'rbf': _rbf_reference,
  'imq': _imq_reference,
  'multi_scale': _multi_scale_reference,
  'linear': _linear_reference,
}


def direction_reference(
  particles, scores, name, h, *, off_diagonal, temperature=1.0
):
  """The equation of the module's docstring as a double loop in float64."""
  z, s = particles.astype(np.float64), scores.astype(np.float64)
  n = len(z)
  directions = []
  for i in range(n):
    total = np.zeros(z.shape[1])
    for j in range(n):
      if off_diagonal and i == j:
        continue
      value, gradient = REFERENCES[name](z[j], z[i], h)
      total += value * s[j] + temperature * gradient
    directions.append(total / (n - 1 if off_diagonal else n))
  return np.stack(directions)


def mean_bandwidth_reference(particles):
  """Mean squared distance over pairs i != j, over log(n + 1), float64 loop."""
  z = particles.astype(np.float64)
  n = len(z)
  total = sum(np.sum((z[i] - z[j]) ** 2) for i in range(n) for j in range(n))
  return total / (n * (n - 1)) / math.log(n + 1)


def row_sums(particles, name, h, *, off_diagonal=False):
  """sum_j k(z_j, z_i) of each i, shape [n, 1], by loops."""
  z = particles.astype(np.float64)
  sums = [
    sum(
      REFERENCES[name](z[j], z[i], h)[0]
      for j in range(len(z))
      if not (off_diagonal and i == j)
    )
    for i in range(len(z))
  ]
  return np.array(sums)[:, None]


def normal(seed: int, *shape: int) -> np.ndarray:
  """Draws of N(0, I), float32."""
  draws = np.random.default_rng(seed).normal(size=shape)
  return draws.astype(np.float32)


def direction(particles, scores, kernel, **options):
  """`svgd.svgd_direction`, compiled as one."""
  direction_fn = functools.partial(
    svgd.svgd_direction, kernel=kernel, **options
  )
  return jax.jit(direction_fn)(particles, scores)


def assert_products_are_exact(test, program) -> None:
  """Fails for a lowered program with a matrix product below float32."""
  products = [
    line
    for line in program.as_text().splitlines()
    if 'stablehlo.dot_general' in line
  ]
  test.assertNotEmpty(products)
  for line in products:
    test.assertIn('precision = [HIGHEST, HIGHEST]', line)


class StrictTest(chex.TestCase):
  """Raises where arrays of different ranks are combined unseen."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.numpy_rank_promotion('raise'))
