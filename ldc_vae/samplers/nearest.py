"""Training latents with a little noise: the control for memorisation.

A draw is a random training latent plus noise. The noise is smaller than the
distance to the nearest other latent. So this sampler only stores the training
set and learns nothing. Compare other samplers with it: a metric on which this
one is as good cannot tell learning from storing. `nearest/train_generator` can.

Letters: N latents, D latent size, A directions in which latents vary.
"""

from collections.abc import Callable

import numpy as np

from ldc_vae import errors
from ldc_vae.samplers import training

NOISE = 0.5  # fraction of the distance to the nearest other latent

_NUM_PROBES = 1000  # latents whose nearest neighbour is searched


def fit(
  latents: np.ndarray, *, seed: int, noise: float = NOISE
) -> Callable[[int, int], np.ndarray]:
  """Returns a sampler of stored latents with noise.

  Args:
    latents: Draws of the aggregate posterior, shape [N, D].
    seed: The seed of the choice of probes.
    noise: The root mean square distance between a draw and its latent. The unit
      is the median distance between a latent and its nearest neighbour. Both
      distances are those of whitened latents. 0 returns the latents themselves.

  Returns:
    A function `(num, seed) -> float32 [num, D]`.

  Raises:
    UserError: The noise is negative.
  """
  if not noise >= 0.0:
    raise errors.UserError(
      f'noise={noise} is not a fraction of a distance; use 0 or more'
    )
  u, unwhiten = training.whiten(latents)
  rng = np.random.default_rng(seed)
  probes = u[rng.permutation(len(u))[:_NUM_PROBES]]
  std = noise * median_distance(probes, u) / np.sqrt(u.shape[1])

  def sample(num: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    chosen = u[rng.integers(len(u), size=num)]
    return unwhiten(chosen + std * rng.normal(size=chosen.shape))

  return sample


def median_distance(probes: np.ndarray, points: np.ndarray) -> float:
  """Returns the median distance of probes from their nearest other point.

  Args:
    probes: Some of the points, shape [n, A].
    points: All points, shape [N, A].

  Returns:
    The distance; 0 for a single point.
  """
  from sklearn import neighbors  # a slow import, which few commands need

  if len(points) < 2:
    return 0.0
  search = neighbors.NearestNeighbors(n_neighbors=2, algorithm='brute')
  distances, _ = search.fit(points).kneighbors(probes)
  return float(np.median(distances[:, 1]))  # [:, 0] is the probe itself
