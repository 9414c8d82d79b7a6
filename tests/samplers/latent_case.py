"""What every law that is fitted to latents has to pass."""

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
    draws: Of a law fitted to `two_clusters`, shape [n, 3].
    share: How far a share may be off.
    mean: How far a mean may be off.
    covariance: How far an entry of a covariance may be off.
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


def check_seeds(case, fit_fn) -> None:
  """Asserts that draws depend on the seeds alone.

  Args:
    case: The test case.
    fit_fn: Maps latents and a seed to a function `(num, seed) -> draws`.
  """
  z = two_clusters(100)
  draws = fit_fn(z, 1)(20, 3)
  case.assertEqual(draws.dtype, np.float32)
  case.assertEqual(draws.shape, (20, 3))
  np.testing.assert_array_equal(draws, fit_fn(z, 1)(20, 3))
  case.assertFalse(np.array_equal(draws, fit_fn(z, 1)(20, 4)))
  case.assertFalse(np.array_equal(draws, fit_fn(z, 2)(20, 3)))
  case.assertEqual(fit_fn(z, 1)(0, 3).shape, (0, 3))


def check_odd_latents(case, fit_fn) -> None:
  """Asserts that a latent may be constant, and that there may be few.

  Args:
    case: The test case.
    fit_fn: As in `check_seeds`.
  """
  z = two_clusters(50)
  constant = np.concatenate([z[:, :2], np.full((50, 1), 7.0)], axis=1)
  draws = fit_fn(constant, 0)(100, 0)
  np.testing.assert_allclose(draws[:, 2], 7.0, atol=1e-4)
  case.assertGreater(np.min(np.std(draws[:, :2], axis=0)), 0.1)
  # on a line: one direction is left
  line = z[:, :1] * np.array([[1.0, -2.0, 0.5]])
  draws = fit_fn(line, 0)(100, 0)
  np.testing.assert_allclose(draws[:, 1], -2.0 * draws[:, 0], atol=1e-3)
  same = fit_fn(z[:1], 0)(5, 0)
  np.testing.assert_allclose(same, np.tile(z[:1], (5, 1)), rtol=1e-4)
