"""The kernelised Stein discrepancy between a sample and a known score.

Letters: n points of a sample, N components of a mixture, D latent size, B rows
of a block.
"""

import functools

import chex
import jax
import jax.numpy as jnp

Array = jax.Array

# in full float32: both functions are differences of large terms
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def kernel_stein_discrepancy(
  points: Array, scores: Array, scale: Array | float
) -> Array:
  """Returns the unbiased squared Stein discrepancy of a sample and p.

  It is the mean over pairs of different points x, y of the Stein kernel
  s_x^T s_y k + s_x^T grad_y k + s_y^T grad_x k + tr grad_x grad_y k.
  Liu et al. (2016), theorem 3.6 and equation 14,
  https://arxiv.org/abs/1602.03253. Only the score s of p is needed, without its
  normaliser or draws from it.

  The kernel is k(x, y) = (c^2 + ||x - y||^2)^{-1/2}. With this kernel the
  discrepancy detects convergence: Gorham and Mackey (2017), theorem 8,
  https://arxiv.org/abs/1703.01717.

  Args:
    points: The sample, shape [n, D], n at least 2.
    scores: grad log p at the points, shape [n, D].
    scale: c > 0, in units of the points.

  Returns:
    A scalar. It is unbiased: 0 in expectation for a sample of p, and often
    negative.
  """
  num = _num_points(points, scores)
  stein_kernel = _stein_kernel(points, scores, scale)
  rows = jnp.arange(num)
  stein_kernel = jnp.where(rows[:, None] == rows[None], 0.0, stein_kernel)
  # row by row, as one sum of millions of terms loses digits
  return jnp.mean(jnp.sum(stein_kernel, axis=1) / (num - 1))


def effective_sample_size(
  points: Array, scores: Array, scale: Array | float
) -> Array:
  """Returns how many independent draws of p are as good as a sample.

  The mean of the Stein kernel over all pairs, x = y among them, is the squared
  discrepancy of the sample's points and p. For n independent draws of p, its
  expectation is the mean of the kernel at x = y, over n. The result is the n
  for which both are equal, with the mean at x = y taken over the sample.

  Points that coincide count as 1. Particles of SVGD repel each other, so they
  may count as more than they are.

  Args:
    points: The sample, shape [n, D], n at least 2.
    scores: grad log p at the points, shape [n, D].
    scale: c > 0 of `kernel_stein_discrepancy`.

  Returns:
    A scalar, at least 1.
  """
  num = _num_points(points, scores)
  stein_kernel = _stein_kernel(points, scores, scale)
  whole = jnp.mean(jnp.sum(stein_kernel, axis=1) / num)
  return jnp.mean(jnp.diagonal(stein_kernel)) / whole


def _num_points(points: Array, scores: Array) -> int:
  """Returns n, at least 2, of points [n, D] and their scores."""
  chex.assert_equal_shape([points, scores])
  chex.assert_rank(points, 2)
  num = points.shape[0]
  if num < 2:
    raise ValueError(f'{num} points have no pairs; give at least 2')
  return num


def _stein_kernel(points: Array, scores: Array, scale: Array | float) -> Array:
  """Returns the Stein kernel of all pairs of points, shape [n, n]."""
  dim = points.shape[1]
  # the points are centred: far from 0, distances from a matmul lose digits
  x = points - jnp.mean(points, axis=0, keepdims=True)
  norms = jnp.sum(jnp.square(x), axis=1)
  squared = norms[:, None] + norms[None] - 2.0 * _matmul(x, x.T)
  squared = jnp.maximum(squared, 0.0)  # rounding may be negative
  inverse = 1.0 / (scale**2 + squared)
  kernel = jnp.sqrt(inverse)
  # (s_x - s_y)^T (x - y), with grad_x k = -(x - y) k inverse = -grad_y k
  own = jnp.sum(scores * x, axis=1)
  across = _matmul(scores, x.T)
  drift = own[:, None] + own[None] - across - across.T
  return kernel * (
    _matmul(scores, scores.T)
    + inverse * (drift + dim - 3.0 * inverse * squared)
  )


def mixture_score(
  points: Array, means: Array, logvars: Array, *, block_size: int = 128
) -> Array:
  """Returns grad log (1/N) sum_i N(z; m_i, diag exp(l_i)) at points z.

  For the posteriors of N images, it is the score of the aggregate posterior.

  Args:
    points: z, shape [n, D].
    means: m, shape [N, D].
    logvars: l, shape [N, D].
    block_size: B, points at a time; memory is O(B N).

  Returns:
    Shape [n, D], in nats per unit of z.
  """
  chex.assert_rank([points, means, logvars], 2)
  chex.assert_equal_shape([means, logvars])
  chex.assert_equal(points.shape[1], means.shape[1])
  center = jnp.mean(means, axis=0, keepdims=True)
  points, means = points - center, means - center
  precisions = jnp.exp(-logvars)
  pulls = means * precisions
  offsets = jnp.sum(means * pulls + logvars, axis=1)  # [N]

  both = jnp.concatenate([pulls, precisions], axis=1)  # [N, 2 D]

  def score(z):
    # one product for both terms, and the small vector takes the factor -1/2
    log_weights = (
      _matmul(both, jnp.concatenate([z, -0.5 * jnp.square(z)])) - 0.5 * offsets
    )
    pull, precision = jnp.split(_matmul(jax.nn.softmax(log_weights), both), 2)
    return pull - z * precision

  return jax.lax.map(score, points, batch_size=block_size)
