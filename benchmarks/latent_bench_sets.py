"""Sets of latents whose density, moments and modes are known.

A distribution in few dimensions (a mixture, or a shell around the origin) is
put into D dimensions. The other coordinates are Gaussians of their own widths,
and everything is rotated. A moon or a roll is a mixture of Gaussians in a row,
so close together that their sum has no ripple.

Letters: n points, D latent size, d dimensions of the distribution that is put
into D, K components, G modes.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import special
from scipy import stats

# Sets of the bench where none is named.
DEFAULT_SETS = (
  'ring_2',
  'grid_2',
  'moons_2',
  'unequal_2',
  'ring_16',
  'grid_16',
  'mixture_16',
  'swiss_roll_16',
  'shell_16',
  'ring_64',
  'grid_64',
  'mixture_64',
)
_FAR_SHARE = 1e-4  # of a component's own draws: these pass for far from it
_TINY = 1e-9  # a radius: the origin has no direction
_ARCS = 4  # modes of a moon, so that a lost end is seen; twice that of a roll


class Mixture:
  """sum_k w_k N(y; m_k, L_k L_k'), whose components make up G modes."""

  def __init__(
    self,
    weights: Sequence[float],
    means: np.ndarray,
    roots: np.ndarray,
    modes: Sequence[int] | None = None,
  ):
    """Takes the components.

    Args:
      weights: w, shape [K], of any sum.
      means: m, shape [K, d].
      roots: L, shape [K, d, d].
      modes: The mode 0, ..., G - 1 of each component; None: each its own.
    """
    self.weights = np.asarray(weights, np.float64) / np.sum(weights)
    self.means, self.roots = means, roots
    self.dim = means.shape[1]
    modes = np.arange(len(means)) if modes is None else np.asarray(modes)
    self._members = np.eye(modes.max() + 1)[modes]  # [K, G]
    self._inverse = np.linalg.inv(roots)
    self._white_means = np.einsum('kab,kb->ka', self._inverse, means).ravel()
    self._precisions = np.einsum('kab,kac->kbc', self._inverse, self._inverse)
    self._offsets = (
      np.log(self.weights)
      + np.linalg.slogdet(self._inverse)[1]
      - 0.5 * self.dim * math.log(2.0 * math.pi)
    )
    self._far = stats.chi2.ppf(1.0 - _FAR_SHARE, self.dim)

  def draw(self, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draws [num, d]."""
    chosen = rng.choice(len(self.weights), num, p=self.weights)
    y = rng.normal(size=(num, self.dim))
    for k in np.unique(chosen):
      rows = chosen == k
      y[rows] = self.means[k] + y[rows] @ self.roots[k].T
    return y

  def moments(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and covariance [d, d]."""
    mean = self.weights @ self.means
    centered = self.means - mean
    within = np.einsum('k,kab,kcb->ac', self.weights, self.roots, self.roots)
    return mean, within + (self.weights * centered.T) @ centered

  def log_density(self, y: np.ndarray) -> np.ndarray:
    """log p at y [n, d], shape [n], in nats."""
    return special.logsumexp(self._terms(y)[1], axis=1)

  def score(self, y: np.ndarray) -> np.ndarray:
    """grad log p at y [n, d], shape [n, d]."""
    shares = special.softmax(self._terms(y)[1], axis=1)
    pulls = np.einsum('kab,kb->ka', self._precisions, self.means)
    matrices = np.einsum('nk,kab->nab', shares, self._precisions)
    return shares @ pulls - np.einsum('nab,nb->na', matrices, y)

  def masses(self, y: np.ndarray) -> tuple[np.ndarray, float]:
    """How much of y [n, d] is at each mode.

    A point counts for each mode by its posterior probability, the mean of which
    is exactly the mode's weight under the distribution itself. A point far from
    every component counts for none.

    Returns:
      The masses in units of the right ones, shape [G], and the share of the
      points that are far. For draws of the distribution it is at most 1e-4.
    """
    squared, terms = self._terms(y)
    near = np.min(squared, axis=1) <= self._far
    found = near @ special.softmax(terms, axis=1) / len(y)
    masses = (found @ self._members) / (self.weights @ self._members)
    return masses, 1.0 - float(np.mean(near))

  def _terms(self, y):
    """Squared Mahalanobis distances and log w_k N(y; ...), both [n, K]."""
    white = y @ self._inverse.reshape(-1, self.dim).T - self._white_means
    squared = np.sum(
      np.square(white, out=white).reshape(len(y), -1, self.dim), axis=2
    )
    return squared, self._offsets - 0.5 * squared


class Shell:
  """A sphere of radius R with noise: |y| ~ N(R, s^2), any direction.

  It is one mode: a point is there if its radius is.
  """

  def __init__(self, dim: int, radius: float, std: float):
    """d, R and s, of which R must be many s."""
    self.dim, self._radius, self._std = dim, radius, std

  def draw(self, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draws [num, d]."""
    y = rng.normal(size=(num, self.dim))
    radii = self._radius + self._std * rng.normal(size=(num, 1))
    return radii * y / np.linalg.norm(y, axis=1, keepdims=True)

  def moments(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d] and covariance [d, d]."""
    variance = (self._radius**2 + self._std**2) / self.dim
    return np.zeros(self.dim), variance * np.eye(self.dim)

  def log_density(self, y: np.ndarray) -> np.ndarray:
    """log p at y [n, d], shape [n], in nats: of |y|, over the sphere's area."""
    radii = np.maximum(np.linalg.norm(y, axis=1), _TINY)
    log_area = (
      math.log(2.0)
      + 0.5 * self.dim * math.log(math.pi)
      - math.lgamma(0.5 * self.dim)
      + (self.dim - 1) * np.log(radii)
    )
    return stats.norm.logpdf(radii, self._radius, self._std) - log_area

  def score(self, y: np.ndarray) -> np.ndarray:
    """grad log p at y [n, d], shape [n, d]."""
    radii = np.maximum(np.linalg.norm(y, axis=1, keepdims=True), _TINY)
    slopes = (self._radius - radii) / self._std**2 - (self.dim - 1) / radii
    return slopes * y / radii

  def masses(self, y: np.ndarray) -> tuple[np.ndarray, float]:
    """See `Mixture.masses`; there is one mode."""
    widths = (np.linalg.norm(y, axis=1) - self._radius) / self._std
    far = float(np.mean(widths**2 > stats.chi2.ppf(1.0 - _FAR_SHARE, 1)))
    return np.array([1.0 - far]), far


class Embedded:
  """A distribution in d dimensions, N(0, diag w^2) in the others, rotated."""

  def __init__(self, distribution: Mixture | Shell, turn: np.ndarray, widths):
    """Takes a distribution, a rotation [D, D] and the widths w [D - d]."""
    self._distribution, self._turn = distribution, turn
    self._widths = np.asarray(widths, np.float64)

  @property
  def plane(self) -> np.ndarray | None:
    """The plane of the distribution, orthonormal [D, 2]; None if d != 2."""
    return self._turn[:, :2] if self._distribution.dim == 2 else None

  def draw(self, num: int, rng: np.random.Generator) -> np.ndarray:
    """Draws, float32 [num, D]."""
    others = self._widths * rng.normal(size=(num, len(self._widths)))
    y = np.concatenate([self._distribution.draw(num, rng), others], axis=1)
    return (y @ self._turn.T).astype(np.float32)

  def moments(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and covariance [D, D]."""
    own_mean, own_cov = self._distribution.moments()
    dim = self._distribution.dim
    cov = np.diag(np.concatenate([np.zeros(dim), self._widths**2]))
    cov[:dim, :dim] = own_cov
    return self._turn[:, :dim] @ own_mean, self._turn @ cov @ self._turn.T

  def log_density(self, x: np.ndarray) -> np.ndarray:
    """log p at x [n, D], shape [n], in nats."""
    own, others = self._split(x)
    normals = stats.norm.logpdf(others, scale=self._widths)
    return self._distribution.log_density(own) + np.sum(normals, axis=1)

  def score(self, x: np.ndarray) -> np.ndarray:
    """grad log p at x [n, D], shape [n, D]."""
    own, others = self._split(x)
    parts = [self._distribution.score(own), -others / self._widths**2]
    return np.concatenate(parts, axis=1) @ self._turn.T

  def masses(self, x: np.ndarray) -> tuple[np.ndarray, float]:
    """See `Mixture.masses`; only the d dimensions count."""
    return self._distribution.masses(self._split(x)[0])

  def _split(self, x):
    """Returns the d coordinates of the distribution, and the others, of x."""
    y = np.asarray(x, np.float64) @ self._turn
    return y[:, : self._distribution.dim], y[:, self._distribution.dim :]


def ring(num_modes: int = 8, radius: float = 2.0, std: float = 0.1) -> Mixture:
  """Narrow Gaussians on a circle, of equal weights."""
  angles = 2.0 * np.pi * np.arange(num_modes) / num_modes
  return _round(radius * _on_circle(angles), std)


def grid(side: int = 5, std: float = 0.05) -> Mixture:
  """Narrow Gaussians one apart on a square grid around 0."""
  line = np.arange(side) - 0.5 * (side - 1)
  return _round(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), std)


def moons(std: float = 0.1, num_components: int = 40) -> Mixture:
  """Two interleaved half circles; each is cut into arcs, the modes."""
  angles = np.pi * (np.arange(num_components) + 0.5) / num_components
  upper = _on_circle(angles)
  means = np.concatenate([upper, np.array([1.0, 0.5]) - upper])
  modes = np.arange(2 * num_components) * _ARCS // num_components
  return _round(means - np.array([0.5, 0.25]), std, modes)


def unequal() -> Mixture:
  """Six Gaussians of weights from 0.5 to 0.02 and different covariances."""
  means = [(0, 0), (2.5, 0.5), (-2, 1.5), (0.5, -2.5), (-2.5, -1.5), (1.5, 2.5)]
  stds = [
    (0.6, 0.2),
    (0.3, 0.3),
    (0.1, 0.5),
    (0.4, 0.1),
    (0.2, 0.2),
    (0.3, 0.1),
  ]
  turns = [_on_circle(angle) for angle in (0.5, 0.0, 0.3, 1.0, 0.0, 2.0)]
  roots = [
    np.array([[c, -s], [s, c]]) * std
    for (c, s), std in zip(turns, stds, strict=True)
  ]
  weights = (0.5, 0.25, 0.12, 0.07, 0.04, 0.02)
  return Mixture(weights, np.array(means, np.float64), np.stack(roots))


def random_mixture(dim: int, num_components: int = 20) -> Mixture:
  """Gaussians at random places, of unequal weights and turned covariances.

  The heaviest is ten times the lightest. The standard deviations along the axes
  of each are from 0.1 to 0.8.
  """
  rng = np.random.default_rng(20)
  roots = np.stack(
    [
      _rotation(dim, rng) * rng.permutation(np.geomspace(0.1, 0.8, dim))
      for _ in range(num_components)
    ]
  )
  means = rng.normal(size=(num_components, dim))
  return Mixture(np.geomspace(1.0, 0.1, num_components), means, roots)


def swiss_roll(std: float = 0.06, num_components: int = 240) -> Mixture:
  """One and a half turns of a spiral, even along its length, cut into arcs."""
  angles = np.linspace(1.5 * np.pi, 4.5 * np.pi, 20 * num_components)
  steps = np.hypot(1.0, angles[1:]) * np.diff(angles)
  length = np.concatenate([[0.0], np.cumsum(steps)])
  where = (np.arange(num_components) + 0.5) / num_components * length[-1]
  angles = np.interp(where, length, angles)
  means = 0.15 * angles[:, None] * _on_circle(angles)
  modes = np.arange(num_components) * 2 * _ARCS // num_components
  return _round(means, std, modes)


_IN_PLANE = {
  'ring': ring,
  'grid': grid,
  'moons': moons,
  'unequal': unequal,
  'swiss_roll': swiss_roll,
}
FAMILIES = (*_IN_PLANE, 'mixture', 'shell')


@functools.cache
def create_distribution(name: str) -> Embedded:
  """Returns the distribution of a name FAMILY_D, such as 'ring_16'."""
  family, _, number = name.rpartition('_')
  if family not in FAMILIES or not number.isdigit() or int(number) < 2:
    raise ValueError(
      f'--sets={name} is unknown; known: {", ".join(FAMILIES)}, each with a'
      ' dimension of at least 2, as ring_16'
    )
  dim = int(number)
  if family == 'mixture':
    distribution = random_mixture(dim)
  elif family == 'shell':
    distribution = Shell(max(2, dim // 2), radius=2.0, std=0.1)
  else:
    distribution = _IN_PLANE[family]()
  widths = np.geomspace(1.0, 0.05, dim - distribution.dim)
  rng = np.random.default_rng(dim)
  turn = np.eye(dim) if distribution.dim == dim else _rotation(dim, rng)
  return Embedded(distribution, turn, widths)


class LatentSet(NamedTuple):
  """The latents that a sampler is fitted to, and those it is compared with.

  Attributes:
    name: As in the table.
    train_fn: `rng -> [N, D]`, what the sampler sees.
    fresh_fn: `(num, rng) -> [num, D]`, draws of the set as a perfect sampler
      would make them.
    reference_fn: Alike, what both are compared with; they share no draw.
    distribution: Where density, score and modes are known.
    score_fn: Latents [n, D] to grad log density [n, D], where it is known.
    images_fn: Latents [n, D] to the Frechet distance of what they decode to
      from real images, and the masses of the classes in units of the right
      ones; where there is a decoder.
    git_commit: That the run behind it was trained by.
  """

  name: str
  train_fn: Callable[[np.random.Generator], np.ndarray]
  fresh_fn: Callable[[int, np.random.Generator], np.ndarray]
  reference_fn: Callable[[int, np.random.Generator], np.ndarray]
  distribution: Embedded | None = None
  score_fn: Callable[[np.ndarray], np.ndarray] | None = None
  images_fn: Callable[[np.ndarray], tuple[float, np.ndarray]] | None = None
  git_commit: str | None = None


def create_set(name: str, num_train: int) -> LatentSet:
  """The set of a known distribution."""
  distribution = create_distribution(name)
  train_fn = functools.partial(distribution.draw, num_train)
  return LatentSet(
    name,
    train_fn,
    distribution.draw,
    distribution.draw,
    distribution=distribution,
    score_fn=distribution.score,
  )


def _round(means, std, modes=None) -> Mixture:
  """Equal round Gaussians at means [K, d]."""
  num, dim = means.shape
  roots = np.broadcast_to(std * np.eye(dim), (num, dim, dim))
  return Mixture(np.ones(num), means, roots, modes)


def _on_circle(angles) -> np.ndarray:
  """Points of the unit circle, [..., 2]."""
  return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _rotation(dim: int, rng: np.random.Generator) -> np.ndarray:
  """A random orthonormal matrix [dim, dim]."""
  return np.linalg.qr(rng.normal(size=(dim, dim)))[0]
