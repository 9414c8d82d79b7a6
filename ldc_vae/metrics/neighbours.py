"""Metrics from nearest neighbours: fidelity, diversity, memorisation.

Letters: n, m vectors of a set, F features, B rows of a block. Distances are
Euclidean.
"""

from collections.abc import Iterator

import chex
import numpy as np

from ldc_vae.metrics import frechet

_BLOCK_SIZE = 1000  # rows of the distance matrix at once: 80 MB at m = 10,000
_BLOCK_NUMBERS = 2**24  # numbers of the reference at once: 64 MB
_NUM_GROUPS = 128  # of the numbers of a row, of which few groups are sorted


def precision_recall_density_coverage(
  real: chex.Array, fake: chex.Array, num_neighbours: int
) -> dict[str, float]:
  """Returns the fidelity and the diversity of a set of features.

  Each vector has a ball, whose radius is the distance to the k-th nearest
  neighbour in its own set. This neighbour itself is outside the ball, as in
  Naeem et al.'s code. If more than k vectors of a set are equal, their balls
  are empty.

  Precision and recall: Kynkaanniemi et al. (2019), equations 1 and 2,
  https://arxiv.org/abs/1904.06991. Density and coverage: Naeem et al. (2020),
  section 3.2, https://arxiv.org/abs/2002.09797; outliers change them less.

  Args:
    real: Features of the reference, shape [n, F], n > k.
    fake: Features of the samples, shape [m, F], m > k.
    num_neighbours: k, at least 1.

  Returns:
    A dict with four numbers. Compare them only at equal n and m.
      'precision': The share of fake vectors that are in a real ball.
      'recall': The share of real vectors that are in a fake ball.
      'density': The mean number of real balls that contain a fake vector,
        divided by k. It is 1 in expectation for equal distributions, and may
        be larger than 1.
      'coverage': The share of real balls that contain a fake vector.
  """
  real, fake = frechet.as_finite(real), frechet.as_finite(fake)
  chex.assert_equal(real.shape[1], fake.shape[1])
  if not 1 <= num_neighbours < min(len(real), len(fake)):
    raise ValueError(
      f'num_neighbours={num_neighbours} must be at least 1 and less than the'
      f' sizes of the two sets, {len(real)} and {len(fake)}'
    )
  real_radii = _neighbour_distances(real, num_neighbours)
  fake_radii = _neighbour_distances(fake, num_neighbours)
  # the number of real balls that contain each fake vector
  num_balls = np.zeros(len(fake), np.int64)
  recalled, covered = [], []
  for rows, squared in _blocks(real, fake):
    inside = squared < real_radii[rows, None]
    num_balls += np.sum(inside, axis=0)
    covered.append(np.any(inside, axis=1))
    recalled.append(np.any(squared < fake_radii[None], axis=1))
  return {
    'precision': float(np.mean(num_balls > 0)),
    'recall': float(np.mean(np.concatenate(recalled))),
    'density': float(np.mean(num_balls)) / num_neighbours,
    'coverage': float(np.mean(np.concatenate(covered))),
  }


def nearest_distances(x: chex.Array, reference: chex.Array) -> np.ndarray:
  """Returns the distance of each vector from its nearest reference vector.

  A model copies if its samples are nearer to the training images than the test
  images are. Meehan et al. (2020), section 4.1,
  https://arxiv.org/abs/2004.05675, compare the distributions of the distances.

  Args:
    x: Shape [n, F].
    reference: Shape [m, F], m at least 1.

  Returns:
    Shape [n], in units of x. The neighbour is searched in float32, so among
    near-duplicates it may not be the nearest one. Its distance is exact.
  """
  x, reference = np.asarray(x), np.asarray(reference)
  chex.assert_rank([x, reference], 2)
  chex.assert_equal(x.shape[1], reference.shape[1])
  if not len(reference):
    raise ValueError('an empty reference set has no nearest vector')
  # A matmul in float32 finds the neighbour. The distance is then computed from
  # the two vectors in float64.
  nearest = np.zeros(len(x), np.int64)
  best = np.full(len(x), np.inf, np.float32)
  x32 = x.astype(np.float32)
  step = max(1, _BLOCK_NUMBERS // max(1, *reference.shape[1:], len(x)))
  for start in range(0, len(reference), step):
    part = reference[start : start + step].astype(np.float32)
    # |x|^2 is left out, because it does not change the minimum
    squared = np.sum(np.square(part), axis=1)[None] - 2.0 * (x32 @ part.T)
    rows = np.argmin(squared, axis=1)
    smallest = np.take_along_axis(squared, rows[:, None], axis=1)[:, 0]
    nearest = np.where(smallest < best, start + rows, nearest)
    best = np.minimum(smallest, best)
  differences = x.astype(np.float64) - reference[nearest].astype(np.float64)
  return np.sqrt(np.sum(np.square(differences), axis=1))


def _neighbour_distances(x: np.ndarray, num_neighbours: int) -> np.ndarray:
  """Returns squared distances [n] to the k-th nearest other vector of x."""
  radii = []
  for rows, squared in _blocks(x, x):
    # the vector itself is sorted before all others
    squared[np.arange(len(rows)), rows] = -1.0
    radii.append(_kth_smallest(squared, num_neighbours))
  return np.concatenate(radii)


def _kth_smallest(x: np.ndarray, k: int) -> np.ndarray:
  """Returns the k-th smallest number of each row of x [B, m], from k = 0.

  The numbers up to it are in the k + 1 groups with the smallest minima, and
  among those of no group. So only a few numbers of a long row are sorted.
  """
  size = x.shape[1] // _NUM_GROUPS
  if k < _NUM_GROUPS and size > 1:
    groups = x[:, : size * _NUM_GROUPS].reshape(len(x), size, _NUM_GROUPS)
    chosen = np.argpartition(groups.min(axis=1), k, axis=1)[:, None, : k + 1]
    few = np.take_along_axis(groups, chosen, axis=2).reshape(len(x), -1)
    x = np.concatenate([few, x[:, size * _NUM_GROUPS :]], axis=1)
  return np.partition(x, k, axis=1)[:, k]


def _blocks(
  x: np.ndarray, y: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields row numbers [B] of x [n, F] and their squared distances [B, m]."""
  # Both are centred: far from 0, distances from a matmul lose digits.
  center = np.mean(y, axis=0, keepdims=True)
  x, y = x - center, y - center
  squared_x, squared_y = np.sum(x**2, axis=1), np.sum(y**2, axis=1)
  for start in range(0, len(x), _BLOCK_SIZE):
    rows = np.arange(start, min(start + _BLOCK_SIZE, len(x)))
    squared = squared_x[rows, None] + squared_y[None]
    squared -= (2.0 * x[rows]) @ y.T  # exact: a power of two
    yield rows, np.maximum(squared, 0.0, out=squared)  # rounding
