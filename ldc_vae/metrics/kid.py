"""The kernel distance between two sets of features.

Letters: n, m vectors of a set, F features, S subsets, b vectors of a subset.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def kernel_distance(
  x: chex.Array,
  y: chex.Array,
  *,
  num_subsets: int,
  subset_size: int,
  seed: int,
) -> np.ndarray:
  """Returns kernel distances (KID) of random subsets of two sets of features.

  Binkowski et al. (2018), section 4, https://arxiv.org/abs/1801.01401. The mean
  over subsets is the distance; their standard deviation shows its error. Unlike
  the Frechet distance it is unbiased, so sets of different sizes can be
  compared.

  Args:
    x: Features, shape [n, F], n at least 2.
    y: Features, shape [m, F], m at least 2.
    num_subsets: S; it is 1 if a subset would be all of both sets.
    subset_size: b; reduced to n or m if these are smaller.
    seed: The seed of the subsets, which are drawn without replacement.

  Returns:
    float32 [S]. It is unbiased: 0 in expectation for equal distributions, and
    often negative.
  """
  x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
  chex.assert_rank([x, y], 2)
  chex.assert_equal(x.shape[1], y.shape[1])
  size = min(subset_size, len(x), len(y))
  if size < 2:
    raise ValueError(
      f'subsets of {size} vectors have no unbiased kernel distance; give at'
      ' least 2 vectors'
    )
  if size == len(x) == len(y):
    num_subsets = 1  # all subsets would be equal
  rng = np.random.default_rng(seed)
  distance_fn = jax.jit(polynomial_mmd)
  return np.array(
    [
      distance_fn(
        x[rng.choice(len(x), size, replace=False)],
        y[rng.choice(len(y), size, replace=False)],
      )
      for _ in range(num_subsets)
    ],
    np.float32,
  )


def polynomial_mmd(x: Array, y: Array) -> Array:
  """Returns the unbiased squared MMD with k(a, b) = (a^T b / F + 1)^3.

  Gretton et al. (2012), https://jmlr.org/papers/v13/gretton12a.html, eq. 3; the
  kernel is that of Binkowski et al. (2018).

  Args:
    x: Features, shape [n, F], n at least 2.
    y: Features, shape [m, F], m at least 2.

  Returns:
    A scalar, in the kernel's units; it may be negative.
  """
  chex.assert_rank([x, y], 2)
  chex.assert_equal(x.shape[1], y.shape[1])
  return (
    _mean_kernel(x, x, same=True)
    + _mean_kernel(y, y, same=True)
    - 2.0 * _mean_kernel(x, y, same=False)
  )


def _mean_kernel(a: Array, b: Array, *, same: bool) -> Array:
  """Returns the mean kernel of all pairs a [n, F], b [m, F].

  If `same`, a and b are one set, and pairs of a vector with itself are left
  out.
  """
  # in full float32: the distance is a small difference of large means
  products = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
  kernel = (products / a.shape[1] + 1.0) ** 3
  if same:
    rows = jnp.arange(a.shape[0])
    kernel = jnp.where(rows[:, None] == rows[None], 0.0, kernel)
  # row by row, because one sum of a million terms loses digits
  return jnp.mean(jnp.sum(kernel, axis=1) / (b.shape[0] - same))
