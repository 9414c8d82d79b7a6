"""The Frechet distance between two sets of features, and features by PCA.

Letters: n, m vectors of a set, F features, P pixels of an image, K components.
All computations are in float64 with NumPy, because the distance is a small
difference of large traces.
"""

import chex
import numpy as np
import scipy.linalg

# Largest matrix that `fit_components` decomposes: a few seconds and 130 MB.
_MAX_SIZE = 4096


def frechet_distance(x: chex.Array, y: chex.Array) -> float:
  """Returns the squared Frechet distance between two sets of features.

  It is the distance between Gaussians fitted to the sets. Heusel et al. (2017),
  equation 6, https://arxiv.org/abs/1706.08500. On Inception features, this
  number is their FID.

  Args:
    x: Features, shape [n, F], n at least 2.
    y: Features, shape [m, F], m at least 2.

  Returns:
    A number of at least 0, in squared units of the features. It is biased
    upwards by O(1/n + 1/m), so compare distances only at equal n and m.
  """
  return frechet_from_moments(*moments(x), *moments(y))


def frechet_from_moments(
  mean1: chex.Array, cov1: chex.Array, mean2: chex.Array, cov2: chex.Array
) -> float:
  """Returns |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^{1/2}), at least 0.

  Dowson and Landau (1982), The Frechet distance between multivariate normal
  distributions, equation 4, https://doi.org/10.1016/0047-259X(82)90077-X. The
  trace of (S1 S2)^{1/2} is computed as the sum of the singular values of
  S1^{1/2} S2^{1/2}. This sum is real, and accurate if a covariance is singular.

  Args:
    mean1: Shape [F].
    cov1: Positive semi-definite, shape [F, F].
    mean2: Shape [F].
    cov2: Positive semi-definite, shape [F, F].

  Returns:
    The squared distance, in squared units of the features.
  """
  mean1, mean2 = np.asarray(mean1, np.float64), np.asarray(mean2, np.float64)
  cov1, cov2 = np.asarray(cov1, np.float64), np.asarray(cov2, np.float64)
  chex.assert_rank([mean1, mean2, cov1, cov2], [1, 1, 2, 2])
  chex.assert_equal_shape([mean1, mean2])
  chex.assert_shape([cov1, cov2], (mean1.size, mean1.size))
  cross = np.linalg.svd(
    _matrix_sqrt(cov1) @ _matrix_sqrt(cov2), compute_uv=False
  )
  squared = (
    np.sum(np.square(mean1 - mean2))
    + np.trace(cov1)
    + np.trace(cov2)
    - 2.0 * np.sum(cross)
  )
  return float(max(squared, 0.0))  # rounding makes it negative at equal moments


def moments(x: chex.Array) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean [F] and unbiased covariance [F, F] of features [n, F]."""
  x = as_finite(x)
  if len(x) < 2:
    raise ValueError(f'{len(x)} vectors have no covariance; give at least 2')
  mean = np.mean(x, axis=0)
  centered = x - mean[None]
  return mean, centered.T @ centered / (len(x) - 1)


def fit_components(
  reference: chex.Array, num_components: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the first principal components of a reference set.

  If both n and P are above 4096, only 4096 evenly spaced rows are used. The
  components are only a fixed choice of features, the same for all compared
  sets.

  Args:
    reference: Flattened images, shape [n, P], n at least 2.
    num_components: K; reduced to P or to n - 1 if these are smaller.

  Returns:
    The mean [P] and orthonormal components [K, P], largest variance first.
  """
  reference = np.asarray(reference)
  chex.assert_rank(reference, 2)
  if reference.shape[1] > _MAX_SIZE and len(reference) > _MAX_SIZE:
    rows = np.linspace(0, len(reference) - 1, _MAX_SIZE).astype(np.int64)
    reference = reference[rows]
  x = as_finite(reference)
  if len(x) < 2:
    raise ValueError(f'{len(x)} images have no components; give at least 2')
  mean = np.mean(x, axis=0)
  x = x - mean[None]
  num_components = min(num_components, x.shape[1], len(x) - 1)
  wide = x.shape[1] > len(x)
  gram = x @ x.T if wide else x.T @ x
  size = len(gram)
  _, vectors = scipy.linalg.eigh(
    gram, subset_by_index=[size - num_components, size - 1]
  )
  vectors = vectors[:, ::-1]  # eigh sorts in ascending order
  if wide:
    # A component is x^T v of a Gram eigenvector v. QR gives it length 1, also
    # where its variance is 0.
    vectors, _ = np.linalg.qr(x.T @ vectors)
  return mean, np.ascontiguousarray(vectors.T)


def project(
  x: chex.Array, mean: chex.Array, components: chex.Array
) -> np.ndarray:
  """Returns coordinates [n, K] of images x [n, P] on components [K, P]."""
  mean, components = np.asarray(mean), np.asarray(components)
  chex.assert_rank([x, mean, components], [2, 1, 2])
  chex.assert_equal(x.shape[1:], mean.shape)
  chex.assert_equal(components.shape[1:], mean.shape)
  return as_finite(x) @ components.T - (components @ mean)[None]


def as_finite(x: chex.Array) -> np.ndarray:
  """Returns x [n, F] in float64; raises ValueError if it is not finite."""
  x = np.asarray(x, np.float64)
  chex.assert_rank(x, 2)
  num_bad = int(np.sum(~np.isfinite(x)))
  if num_bad:
    raise ValueError(
      f'{num_bad} of {x.size} features are not finite; check whether their'
      ' images are finite'
    )
  return x


def _matrix_sqrt(cov: np.ndarray) -> np.ndarray:
  """Returns the symmetric square root of a positive semi-definite [F, F]."""
  values, vectors = np.linalg.eigh(cov)
  roots = np.sqrt(np.maximum(values, 0.0))  # rounding may make zeros negative
  return (vectors * roots[None]) @ vectors.T
