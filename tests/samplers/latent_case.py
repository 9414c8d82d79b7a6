"""Two clusters of latents, and what a fitted sampler must find of them."""

import numpy as np

# Two clusters in 3-D: shares, means, and the axes of their Gaussians.
SHARES = (0.25, 0.75)
MEANS = np.array([[4.0, -6.0, 1.0], [10.0, -4.0, 1.0]])
AXES = np.array(
  [
    [[0.5, 0.0, 0.0], [0.4, 0.4, 0.0], [0.0, 0.0, 0.6]],
    [[0.8, 0.0, 0.3], [0.0, 0.7, 0.0], [0.0, 0.0, 0.5]],
  ]
)


def two_clusters(num: int, seed: int = 0) -> np.ndarray:
  """Latents [num, 3] of two Gaussians of different share and shape."""
  rng = np.random.default_rng(seed)
  k = (rng.random(num) >= SHARES[0]).astype(int)
  return MEANS[k] + np.einsum('nd,nde->ne', rng.normal(size=(num, 3)), AXES[k])


def check_clusters(
  case, draws: np.ndarray, *, share: float, mean: float, covariance: float
) -> None:
  """Asserts that draws have each cluster's share, mean and covariance.

  Args:
    case: The test case.
    draws: Draws of a sampler fitted to `two_clusters`, shape [n, 3].
    share: The largest error of a share.
    mean: The largest error of a mean.
    covariance: The largest error of an entry of a covariance.
  """
  distances = np.linalg.norm(draws[:, None] - MEANS[None], axis=2)
  nearest = np.argmin(distances, axis=1)
  for k in range(2):
    own = draws[nearest == k]
    case.assertAlmostEqual(len(own) / len(draws), SHARES[k], delta=share)
    np.testing.assert_allclose(own.mean(axis=0), MEANS[k], atol=mean)
    np.testing.assert_allclose(
      np.cov(own, rowvar=False), AXES[k].T @ AXES[k], atol=covariance
    )
