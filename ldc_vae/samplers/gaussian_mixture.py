"""A mixture of full-covariance Gaussians: a distribution of latents.

The mixture is fitted by expectation maximisation (EM), which starts from
k-means. The result is that of scikit-learn's `GaussianMixture`. But EM is
written as products of matrices here, which is several times faster with
hundreds of components. For this, each latent gets features: 1, its coordinates
and the products of their pairs. Log densities are linear in these features.

Letters: N latents, D latent size, A directions in which latents vary, K
components, F = 1 + A + A (A + 1) / 2 features of a latent.
"""

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple
import warnings

from absl import logging
import numpy as np
import threadpoolctl

from ldc_vae import errors
from ldc_vae.runtime import jobs
from ldc_vae.samplers import training

_TOLERANCE = 1e-3  # nats per latent; EM ends when an iteration gains less
_MAX_ITERATIONS = 1000
_MIN_VARIANCE = 1e-6  # added to each variance of the whitened latents
_BLOCK_ROWS = 1024  # latents at once; their numbers stay in the caches
_MOST_THREADS = 8  # each has a block's features, 70 MB with 128 directions


class Mixture(NamedTuple):
  """Shares [K], means [K, A] and covariances [K, A, A] of the components."""

  shares: np.ndarray
  means: np.ndarray
  covariances: np.ndarray


def fit(
  latents: np.ndarray, num_components: int, *, seed: int
) -> Callable[[int, int], np.ndarray]:
  """Fits a mixture to latents.

  Args:
    latents: Draws of the aggregate posterior, shape [N, D].
    num_components: K, from 1 to N.
    seed: The seed of k-means.

  Returns:
    A function `(num, seed) -> float32 [num, D]`.

  Raises:
    UserError: K is less than 1 or more than N.
  """
  if not 1 <= num_components <= len(latents):
    raise errors.UserError(
      f'gmm_{num_components} cannot be fitted to {len(latents)} latents; the'
      f' number of components must be between 1 and {len(latents)}'
    )
  from sklearn import cluster  # a slow import, which few commands need
  from sklearn import exceptions

  u, unwhiten = training.whiten(latents)
  k_means = cluster.KMeans(num_components, n_init=1, random_state=seed)
  # it warns if there are fewer different latents than components
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    labels = k_means.fit(latents).labels_
  mixture, gain = maximise(np.asarray(u, np.float64), labels, num_components)
  if gain >= _TOLERANCE:
    logging.warning(
      'gmm_%d: EM was stopped after %d iterations before it converged; the'
      ' last one gained %.2g nats per latent, the limit is %g',
      num_components,
      _MAX_ITERATIONS,
      gain,
      _TOLERANCE,
    )
  roots = np.linalg.cholesky(mixture.covariances)  # [K, A, A]
  cumulative = np.cumsum(mixture.shares)

  def sample(num: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    uniform = rng.random(num) * cumulative[-1]
    components = np.searchsorted(cumulative, uniform, side='right')
    draws = rng.normal(size=(num, u.shape[1]))
    for k in range(num_components):
      rows = components == k
      draws[rows] = mixture.means[k] + draws[rows] @ roots[k].T
    return unwhiten(draws)

  return sample


def maximise(
  u: np.ndarray, labels: np.ndarray, num_components: int
) -> tuple[Mixture, float]:
  """Fits a mixture by expectation maximisation, which starts from a clustering.

  Args:
    u: Latents with standard deviations of about 1, shape [N, A].
    labels: The component of each latent at the start, shape [N].
    num_components: K.

  Returns:
    The mixture, and the gain of the last iteration in nats per latent.
  """
  sums = np.zeros((num_components, _num_features(u.shape[1])))
  for start in range(0, len(u), _BLOCK_ROWS):
    rows = slice(start, start + _BLOCK_ROWS)
    own = labels[rows][None] == np.arange(num_components)[:, None]
    sums += own.astype(np.float64) @ _features(u[rows])
  mixture, gain, last = _from_sums(sums, u.shape[1]), np.inf, -np.inf
  for _ in range(_MAX_ITERATIONS):
    mean_log_prob, sums = _expectations(mixture, u)
    gain, last = mean_log_prob - last, mean_log_prob
    mixture = _from_sums(sums, u.shape[1])
    if gain < _TOLERANCE:
      break
  return mixture, gain


def _expectations(mixture, u) -> tuple[float, np.ndarray]:
  """Returns the mean log density of u, and each component's feature sums."""
  coefficients = _coefficients(mixture)

  def block(rows: slice) -> tuple[float, np.ndarray]:
    features = _features(u[rows])
    joint = features @ coefficients.T
    # in place, with one exponential of each number
    largest = np.max(joint, axis=1, keepdims=True)
    joint -= largest
    np.exp(joint, out=joint)
    norms = np.sum(joint, axis=1, keepdims=True)
    joint /= norms
    return np.sum(largest) + np.sum(np.log(norms)), joint.T @ features

  total, sums = 0.0, np.zeros_like(coefficients)
  for own_total, own_sums in _map_blocks(block, len(u)):
    total += own_total
    sums += own_sums
  return total / len(u), sums


def _map_blocks(fn: Callable[[slice], Any], num_rows: int) -> Iterator[Any]:
  """Yields `fn` of each block of rows in order, computed on several cores.

  BLAS has one thread: its own would mostly wait for each other in products of
  matrices as small as these.
  """
  blocks = [
    slice(start, start + _BLOCK_ROWS)
    for start in range(0, num_rows, _BLOCK_ROWS)
  ]
  num_threads = min(_MOST_THREADS, jobs.num_cores())
  with (
    threadpoolctl.threadpool_limits(1, 'blas'),
    futures.ThreadPoolExecutor(num_threads) as pool,
  ):
    step = 2 * num_threads  # the results that are in memory
    for start in range(0, len(blocks), step):
      yield from pool.map(fn, blocks[start : start + step])


def _num_features(size: int) -> int:
  """Returns F, the number of features of a latent."""
  return 1 + size + size * (size + 1) // 2


def _features(u: np.ndarray) -> np.ndarray:
  """Returns the features 1, u_i, and u_i u_j for i <= j of u [N, A], [N, F]."""
  size = u.shape[1]
  features = np.empty((len(u), _num_features(size)))
  features[:, 0], features[:, 1 : 1 + size] = 1.0, u
  first = 1 + size
  for i in range(size):
    own = features[:, first : first + size - i]
    np.multiply(u[:, i : i + 1], u[:, i:], out=own)
    first += size - i
  return features


def _from_sums(sums: np.ndarray, size: int) -> Mixture:
  """Returns the mixture whose components have these feature sums [K, F]."""
  # the small number avoids a division by 0 where a component is empty
  counts = sums[:, 0] + 10 * np.finfo(np.float64).eps
  means = sums[:, 1 : 1 + size] / counts[:, None]
  rows, columns = np.triu_indices(size)
  covariances = np.zeros((len(sums), size, size))
  covariances[:, rows, columns] = sums[:, 1 + size :] / counts[:, None]
  covariances[:, columns, rows] = covariances[:, rows, columns]
  covariances -= means[:, :, None] * means[:, None, :]
  covariances += _MIN_VARIANCE * np.eye(size)
  return Mixture(counts / np.sum(counts), means, covariances)


def _coefficients(mixture: Mixture) -> np.ndarray:
  """Returns the weights of the features in log p(u, k), shape [K, F]."""
  size = mixture.means.shape[1]
  precisions = np.linalg.inv(mixture.covariances)
  linear = np.einsum('kij,kj->ki', precisions, mixture.means)
  constant = np.log(mixture.shares) - 0.5 * (
    size * np.log(2.0 * np.pi)
    + np.linalg.slogdet(mixture.covariances)[1]
    + np.sum(linear * mixture.means, axis=1)
  )
  rows, columns = np.triu_indices(size)
  # u_i u_j with i < j stands for both (i, j) and (j, i)
  factors = np.where(rows == columns, -0.5, -1.0)
  quadratic = precisions[:, rows, columns] * factors
  return np.concatenate([constant[:, None], linear, quadratic], axis=1)
