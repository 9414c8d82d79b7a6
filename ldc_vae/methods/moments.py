"""Running mean and covariance of latents, which a method keeps in its stats.

A dict of decaying sums: 'first' [D] and 'second' [D, D] of the moments, and
'weight' [], their total weight, by which they are divided. The running mean of
squared distances within the posteriors has 'distance' [] and 'weight' [].
"""

import jax
import jax.numpy as jnp

from ldc_vae import fields
from ldc_vae import svgd

Array = jax.Array

# Keeps sigma > 0 for a latent dimension that the encoder does not use.
_MIN_STD = 1e-3
# Of a squared mean: what float32 leaves of it in a difference of moments.
_ROUNDING = 1e-5
# Of the sum of all variances: what it leaves of a narrow direction beside them.
_ROUNDING_OF_SUMS = 1e-6
# Of the distances, by step. A long memory would keep the kernel too wide while
# posteriors shrink, and they become too narrow.
_DISTANCE_DECAY = 0.9


def decay_field(of: str) -> float:
  """Returns the field `moments_decay`, see `update`."""
  return fields.fraction(
      high=False,
      default=0.99,
      help=f'decay of the running mean and covariance of {of}',
  )


def init(latent_size: int) -> dict[str, Array]:
  """Running sums of first and second moments, with no weight yet."""
  return {
      'first': jnp.zeros(latent_size),
      'second': jnp.zeros((latent_size, latent_size)),
      'weight': jnp.zeros(()),
  }


def update(
    moments: dict[str, Array], points: Array, decay: float
) -> dict[str, Array]:
  """Moves the running moments towards those of points [n, D]."""
  mix = lambda old, new: decay * old + (1.0 - decay) * new
  # in full float32: the covariance is a difference of two such moments
  second = jnp.matmul(points.T, points, precision=jax.lax.Precision.HIGHEST)
  return {
      'first': mix(moments['first'], jnp.mean(points, axis=0)),
      'second': mix(moments['second'], second / points.shape[0]),
      'weight': mix(moments['weight'], 1.0),
  }


def mean_and_covariance(moments: dict[str, Array]) -> tuple[Array, Array]:
  """Mean [D] and covariance [D, D]; 0 and I before the first update."""
  seen = moments['weight'] > 0.0
  weight = jnp.where(seen, moments['weight'], 1.0)
  mean = moments['first'] / weight
  covariance = moments['second'] / weight - mean[:, None] * mean[None, :]
  return mean, jnp.where(seen, covariance, jnp.eye(mean.shape[0]))


def mean_and_std(moments: dict[str, Array]) -> tuple[Array, Array]:
  """Mean and standard deviation [D]; 0 and 1 before the first update."""
  mean, covariance = mean_and_covariance(moments)
  variance = jnp.diagonal(covariance)
  return mean, jnp.sqrt(jnp.maximum(variance, _MIN_STD**2))


def root(moments: dict[str, Array]) -> Array:
  """Cholesky factor L [D, D] of the covariance, L L^T; I before any update."""
  mean, covariance = mean_and_covariance(moments)
  # a covariance that is lost in the rounding has no root otherwise: in that of
  # the mean's square, or of the widest directions where others are narrow
  floor = _MIN_STD**2 + _ROUNDING * jnp.square(mean)
  floor += _ROUNDING_OF_SUMS * jnp.trace(covariance)
  return jnp.linalg.cholesky(covariance + jnp.diag(floor))


def affine_match(
    u: Array, own: dict[str, Array], wanted: dict[str, Array]
) -> Array:
  """The affine map that gives points the mean and covariance of others.

  u -> mean_w + L_w L_o^{-1} (u - mean_o), with L L^T the covariances. The
  averages of SVGD leave the sampler a few percent too narrow; its first two
  moments are known, so that they are set, not learned.

  Args:
    u: Points, shape [n, D].
    own: Moments of the law of u.
    wanted: Moments of the law that u should have, in the same units.

  Returns:
    Shape [n, D].
  """
  own_mean, _ = mean_and_covariance(own)
  mean, _ = mean_and_covariance(wanted)
  white = jax.scipy.linalg.solve_triangular(
      root(own), (u - own_mean).T, lower=True
  )
  highest = jax.lax.Precision.HIGHEST  # a latent keeps all its digits
  return mean + jnp.matmul(root(wanted), white, precision=highest).T


def init_distance() -> dict[str, Array]:
  """Running sums of squared pair distances, with no weight yet."""
  return {'distance': jnp.zeros(()), 'weight': jnp.zeros(())}


def update_distance(distances: dict[str, Array], z: Array) -> dict[str, Array]:
  """Moves the running mean towards that of particles z [B, K, D], K >= 2."""
  new = jnp.mean(jax.vmap(svgd.mean_square_distance)(z))
  mix = lambda old, new: _DISTANCE_DECAY * old + (1.0 - _DISTANCE_DECAY) * new
  return {
      'distance': mix(distances['distance'], new),
      'weight': mix(distances['weight'], 1.0),
  }


def mean_distance(distances: dict[str, Array], latent_size: int) -> Array:
  """E|x - y|^2 of two particles of an image; of N(0, I) before any update."""
  seen = distances['weight'] > 0.0
  weight = jnp.where(seen, distances['weight'], 1.0)
  return jnp.where(seen, distances['distance'] / weight, 2.0 * latent_size)
