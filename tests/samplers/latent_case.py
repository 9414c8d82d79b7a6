"""Two clusters of latents."""

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
