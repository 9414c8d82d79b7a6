"""Training latents with a little noise: the control for memorisation.

A draw is a training latent chosen at random, moved by less than what lies
between it and the nearest other one. That is no model of latents: it knows no
more than the training images. A law that is fitted to latents has to be judged
beside it. Where this one does as well, the measure does not tell what was
learned from what was stored; `nearest/train_generator` does.

Letters: N latents, D latent size, A of its directions that vary.
"""

from collections.abc import Callable

import numpy as np

from ldc_vae import errors
from ldc_vae.samplers import training

NOISE = 0.5  # of the distance to the nearest other latent

_NUM_PROBES = 1000  # latents whose nearest others are looked for


def fit(
    latents: np.ndarray, *, seed: int, noise: float = NOISE
) -> Callable[[int, int], np.ndarray]:
  """Chooses the noise of latents.

  Args:
    latents: Draws of the aggregate posterior, shape [N, D].
    seed: Of the choice of latents whose nearest others are looked for.
    noise: The root mean square of how far a draw is from its latent, in units
      of the median distance between a latent and the nearest other one; both of
      whitened latents. 0 gives the latents themselves.

  Returns:
    A function `(num, seed) -> float32 [num, D]`.

  Raises:
    UserError: A negative noise.
  """
  if not noise >= 0.0:
    raise errors.UserError(
        f'noise={noise} is no share of a distance; use 0 or more'
    )
  u, unwhiten = training.whiten(latents)
  rng = np.random.default_rng(seed)
  probes = u[rng.permutation(len(u))[:_NUM_PROBES]]
  deviation = noise * median_distance(probes, u) / np.sqrt(u.shape[1])

  def sample(num: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    chosen = u[rng.integers(len(u), size=num)]
    return unwhiten(chosen + deviation * rng.normal(size=chosen.shape))

  return sample


def median_distance(probes: np.ndarray, points: np.ndarray) -> float:
  """The median distance of probes from the nearest other point.

  Args:
    probes: Some of the points, shape [n, A].
    points: Shape [N, A].

  Returns:
    The distance; 0 for a single point.
  """
  from sklearn import neighbors  # a second, which most commands need not wait

  if len(points) < 2:
    return 0.0
  search = neighbors.NearestNeighbors(n_neighbors=2, algorithm='brute')
  distances, _ = search.fit(points).kneighbors(probes)
  return float(np.median(distances[:, 1]))  # [:, 0] is the probe itself
