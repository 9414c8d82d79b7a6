"""Running mean and covariance of latents, which a method keeps in its stats.

They are a dict of decaying sums: 'first' [D] and 'second' [D, D] of the first
and second moments, and 'weight' []. A moment is its sum divided by the weight.
The running mean of squared distances within posteriors is a dict of 'distance'
[] and 'weight' [].
"""

import jax
import jax.numpy as jnp

from ldc_vae import fields
from ldc_vae import svgd

Array = jax.Array

# The smallest sigma, for a latent dimension that the encoder does not use.
_MIN_STD = 1e-3
# The rounding error of a variance in float32, relative to the squared mean.
_ROUNDING = 1e-5
# The same error, relative to the sum of all variances.
_ROUNDING_OF_SUMS = 1e-6
# The decay of the distances per step. With a larger decay the kernel would stay
# too wide while posteriors shrink, and they would become too narrow.
_DISTANCE_DECAY = 0.9


def decay_field(of: str) -> float:
  """Returns the field `moments_decay`, see `update`."""
  return fields.fraction(
    high=False,
    default=0.99,
    help=f'decay of the running mean and covariance of {of}',
  )


def init(latent_size: int) -> dict[str, Array]:
  """Returns running sums of first and second moments, with weight 0."""
  return {
    'first': jnp.zeros(latent_size),
    'second': jnp.zeros((latent_size, latent_size)),
    'weight': jnp.zeros(()),
  }


def update(
  moments: dict[str, Array], points: Array, decay: float
) -> dict[str, Array]:
  """Moves the running moments towards those of points [n, D]."""
  # in full float32, because the covariance is a difference of two moments
  second = jnp.matmul(points.T, points, precision=jax.lax.Precision.HIGHEST)
  first, second = jnp.mean(points, axis=0), second / points.shape[0]
  return _mix(moments, decay, first=first, second=second)


def _mix(
  sums: dict[str, Array], decay: float, **new: Array | float
) -> dict[str, Array]:
  """Returns the decaying sums after new values, with weight 1."""
  new['weight'] = 1.0
  return {name: decay * sums[name] + (1.0 - decay) * new[name] for name in new}


def mean_and_covariance(moments: dict[str, Array]) -> tuple[Array, Array]:
  """Returns mean [D] and covariance [D, D]; 0 and I before any update."""
  seen = moments['weight'] > 0.0
  weight = jnp.where(seen, moments['weight'], 1.0)
  mean = moments['first'] / weight
  covariance = moments['second'] / weight - mean[:, None] * mean[None, :]
  return mean, jnp.where(seen, covariance, jnp.eye(mean.shape[0]))


def mean_and_std(moments: dict[str, Array]) -> tuple[Array, Array]:
  """Returns mean and standard deviation [D]; 0 and 1 before any update."""
  mean, covariance = mean_and_covariance(moments)
  variance = jnp.diagonal(covariance)
  return mean, jnp.sqrt(jnp.maximum(variance, _MIN_STD**2))


def root(moments: dict[str, Array]) -> Array:
  """Returns L [D, D] with L L^T the covariance; I before any update."""
  mean, covariance = mean_and_covariance(moments)
  # A rounding error could make a narrow direction's variance negative, and then
  # there is no Cholesky factor. The floor is above that error.
  floor = _MIN_STD**2 + _ROUNDING * jnp.square(mean)
  floor += _ROUNDING_OF_SUMS * jnp.trace(covariance)
  return jnp.linalg.cholesky(covariance + jnp.diag(floor))


def affine_match(
  u: Array, own: dict[str, Array], wanted: dict[str, Array]
) -> Array:
  """Maps points to the wanted mean and covariance.

  The map is u -> mean_w + L_w L_o^{-1} (u - mean_o), with L L^T the
  covariances, w for wanted and o for own. SVGD leaves the sampler a few percent
  too narrow. The wanted moments are known, so they are set instead of learned.

  Args:
    u: Points, shape [n, D].
    own: Moments of the distribution of u.
    wanted: Moments that the mapped points should have.

  Returns:
    The mapped points, shape [n, D].
  """
  own_mean, _ = mean_and_covariance(own)
  mean, _ = mean_and_covariance(wanted)
  white = jax.scipy.linalg.solve_triangular(
    root(own), (u - own_mean).T, lower=True
  )
  highest = jax.lax.Precision.HIGHEST  # latents in full float32
  return mean + jnp.matmul(root(wanted), white, precision=highest).T


def init_distance() -> dict[str, Array]:
  """Returns running sums of squared pair distances, with weight 0."""
  return {'distance': jnp.zeros(()), 'weight': jnp.zeros(())}


def update_distance(distances: dict[str, Array], z: Array) -> dict[str, Array]:
  """Moves the running mean towards that of particles z [B, K, D], K >= 2."""
  new = jnp.mean(jax.vmap(svgd.mean_square_distance)(z))
  return _mix(distances, _DISTANCE_DECAY, distance=new)


def mean_distance(distances: dict[str, Array], latent_size: int) -> Array:
  """Returns E|x - y|^2 of two particles of an image.

  Before any update it is the value for N(0, I), 2 D.
  """
  seen = distances['weight'] > 0.0
  weight = jnp.where(seen, distances['weight'], 1.0)
  return jnp.where(seen, distances['distance'] / weight, 2.0 * latent_size)
