"""Distances of a sampler's latents from a set, and what fresh draws get.

Letters: R independent draws, n latents of each, D latent size, P projections.
"""

from collections.abc import Mapping, Sequence
import math
from typing import Any
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
from sklearn import exceptions
from sklearn import neural_network

from benchmarks import latent_bench_sets
from ldc_vae.metrics import latent as latent_metrics
from ldc_vae.metrics import stein

# Distances that are printed with their floor and the ratio to it.
RATIOS = ('sliced', 'sliced_plane', 'mmd', 'ksd', 'classifier', 'frechet')
# Beside those of fresh draws, without a ratio.
OTHERS = ('nll', 'smallest', 'largest', 'far')
LIMIT = 1.3  # of the verdict
_MASS_LIMITS = (0.5, 2.0)  # of every mode, in units of the right mass
_PAIRS = 2000  # latents of an MMD or a KSD: all pairs of them
_STEIN_SCALE = 1.0  # as in an evaluation
_CLASSIFIED = 2  # draws that a classifier compares with the reference; slow
_discrepancy = jax.jit(stein.kernel_stein_discrepancy)


def measure(
  latent_set: latent_bench_sets.LatentSet,
  draws: Sequence[np.ndarray],
  references: Sequence[np.ndarray],
  *,
  num_projections: int,
  image_draws: int,
  seed: int,
) -> dict[str, float | None]:
  """Distances of draws from reference draws, over R of each.

  Args:
    latent_set: That both should be of.
    draws: R draws, each [n, D].
    references: R draws of the set, each [n, D].
    num_projections: P.
    image_draws: So many draws are decoded.
    seed: The seed of the projections and the classifier.

  Returns:
    What applies of these, the others None:
    'sliced': the sliced Wasserstein distance, in latent units.
    'sliced_plane': the same in the plane of the distribution.
    'mmd', 'ksd': the root mean squares of unbiased estimates, which are around
      0 for fresh draws.
    'classifier': the accuracy of a classifier of draws and reference.
    'nll': minus the mean log density of the draws, in nats.
    'smallest', 'largest': of the modes' masses, in units of the right ones.
      Modes of a decoder's set are the classes.
    'far': the share of the draws far from every mode.
    'frechet': the Frechet distance of decoded draws from real images.
    All are None where a latent is not finite.
  """
  results: dict[str, float | None] = dict.fromkeys((*RATIOS, *OTHERS))
  if not all(np.isfinite(z).all() for z in draws):
    return results
  pairs = list(zip(draws, references, strict=True))
  rng = np.random.default_rng(seed)
  dim = draws[0].shape[1]
  results['sliced'] = sliced_wasserstein(
    draws, references, directions(num_projections, dim, rng)
  )
  few = [(x[:_PAIRS], y[:_PAIRS]) for x, y in pairs]
  results['mmd'] = _root_mean_square(
    [float(latent_metrics.mmd(x, y)) for x, y in few]
  )
  if latent_set.score_fn is not None:
    results['ksd'] = _root_mean_square(
      [
        float(
          _discrepancy(
            jnp.asarray(x, jnp.float32),
            jnp.asarray(latent_set.score_fn(x), jnp.float32),
            _STEIN_SCALE,
          )
        )
        for x, _ in few
      ]
    )
  results['classifier'] = float(
    np.mean(
      [
        two_sample_accuracy(x, y, seed=seed + index)
        for index, (x, y) in enumerate(pairs[:_CLASSIFIED])
      ]
    )
  )
  distribution = latent_set.distribution
  if distribution is not None:
    plane = distribution.plane
    if plane is not None and dim > 2:
      results['sliced_plane'] = sliced_wasserstein(
        draws, references, plane @ directions(num_projections, 2, rng)
      )
    results['nll'] = -float(
      np.mean([distribution.log_density(x) for x in draws])
    )
    masses, far = zip(*(distribution.masses(x) for x in draws), strict=True)
    results.update(_extremes(masses), far=float(np.mean(far)))
  if latent_set.images_fn is not None:
    frechet, masses = zip(
      *(latent_set.images_fn(x) for x in draws[:image_draws]), strict=True
    )
    results.update(_extremes(masses), frechet=float(np.mean(frechet)))
  return results


def compare(
  own: Mapping[str, float | None], floor: Mapping[str, float | None]
) -> dict[str, Any]:
  """A row's numbers: of a sampler, of fresh draws, and what follows.

  Args:
    own: The result of `measure`, of a sampler.
    floor: The result of `measure`, of fresh draws and the same references.

  Returns:
    The distances; NAME_floor, those of fresh draws; NAME_ratio, how often the
    floor; 'nll_excess' in nats, which is below 0 where the draws keep to the
    peaks; and the verdict 'within', with 'within_distance' and 'within_modes'.
  """
  row: dict[str, Any] = dict(own)
  row.update({f'{name}_floor': value for name, value in floor.items()})
  for name in RATIOS:
    row[f'{name}_ratio'] = (
      None if None in (own[name], floor[name]) else own[name] / floor[name]
    )
  row['nll_excess'] = (
    None if None in (own['nll'], floor['nll']) else own['nll'] - floor['nll']
  )
  names = [
    name
    for name in ('frechet', 'sliced', 'sliced_plane')
    if floor[name] is not None
  ]
  if 'frechet' in names:
    names = ['frechet']
  ratios = [row[f'{name}_ratio'] for name in names]
  row['verdict_ratio'] = None if None in ratios else max(ratios)
  row['within_distance'] = None not in ratios and max(ratios) <= LIMIT
  if floor['smallest'] is None or 'frechet' in names:
    row['within_modes'] = None
  else:
    low, high = _MASS_LIMITS
    row['within_modes'] = (
      own['smallest'] is not None
      and own['smallest'] >= low
      and own['largest'] <= high
    )
  row['within'] = row['within_distance'] and row['within_modes'] is not False
  return row


def sliced_wasserstein(
  draws: Sequence[np.ndarray],
  references: Sequence[np.ndarray],
  slopes: np.ndarray,
) -> float:
  """The sliced 2-Wasserstein distance, over all pairs of draw and reference.

  As `ldc_vae.metrics.latent.sliced_wasserstein`, of as many latents: there
  W_2^2 is the mean squared difference of the sorted ones. Its mean over all
  pairs varies half as much as over one pair for each draw, and NumPy sorts
  several times faster than jax does on a CPU.

  Args:
    draws: Each [n, D].
    references: Each [n, D].
    slopes: Unit directions, shape [D, P].

  Returns:
    The root mean square over pairs and directions, in latent units.
  """
  chex.assert_equal_shape([*draws, *references])
  slopes = np.asarray(slopes, np.float32)
  quantiles = [np.sort(slopes.T @ y.T, axis=1) for y in references]  # [P, n]
  center = np.mean(quantiles, axis=0)
  # mean_ij |x_i - y_j|^2 = mean_i |x_i - m|^2 + mean_j |y_j - m|^2, m = mean y
  squared = np.mean([_mean_square(y - center) for y in quantiles])
  squared += np.mean(
    [_mean_square(np.sort(slopes.T @ x.T, axis=1) - center) for x in draws]
  )
  return math.sqrt(squared)


def directions(num: int, dim: int, rng: np.random.Generator) -> np.ndarray:
  """Unit vectors, uniform on the sphere, shape [dim, num]."""
  columns = rng.normal(size=(dim, num))
  return columns / np.linalg.norm(columns, axis=0)


def two_sample_accuracy(x: np.ndarray, y: np.ndarray, *, seed: int) -> float:
  """Returns how well a small net separates x [n, D] from y, held-out halves.

  Lopez-Paz and Oquab (2017), section 3, https://arxiv.org/abs/1610.06545. Half
  is perfect; with n = 10,000 it has a standard error of 0.005.
  """
  half = len(x) // 2
  mean, std = np.mean(y, axis=0), np.std(y, axis=0) + 1e-6
  fitted, held_out = (
    (np.concatenate([x[rows], y[rows]]) - mean) / std
    for rows in (slice(half), slice(half, 2 * half))
  )
  labels = np.repeat([0, 1], half)
  model = neural_network.MLPClassifier(
    (64, 64),
    batch_size=min(500, 2 * half),
    learning_rate_init=3e-3,
    max_iter=20,
    random_state=seed,
  )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    model.fit(fitted, labels)
  return float(model.score(held_out, labels))


def _extremes(masses) -> dict[str, float]:
  """The smallest and the largest of the mean masses [R, G]."""
  masses = np.mean(masses, axis=0)
  return {'smallest': float(masses.min()), 'largest': float(masses.max())}


def _mean_square(x: np.ndarray) -> float:
  """Returns the mean square of all entries, in float64."""
  return float(np.mean(np.square(x, dtype=np.float64)))


def _root_mean_square(values: Sequence[float]) -> float:
  """sqrt(mean of squares)."""
  return math.sqrt(np.mean(np.square(values)))
