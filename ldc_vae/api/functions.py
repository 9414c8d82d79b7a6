"""The functions of a trained run as pure functions of its weights.

They can be jitted, differentiated and mapped; `TrainedRun.functions` has them:

    run = ldc_vae.load('runs/mnist')
    decode_fn = jax.jit(run.functions.decode)
    images = decode_fn(run.params, latents)

Letters: B images, N latents, D latent size, H W C image.
"""

import dataclasses
from typing import Any

import jax
from jax.typing import ArrayLike

from ldc_vae import elbo
from ldc_vae import errors
from ldc_vae import run as run_lib
from ldc_vae import step as step_lib
from ldc_vae import streams
from ldc_vae.evaluation import likelihood
from ldc_vae.methods import base

Array = jax.Array
Params = dict[str, Any]  # the weights by network name


@dataclasses.dataclass(frozen=True)
class Functions:
  """Pure functions of the weights; the method's statistics are constants.

  Attributes:
    trained: The networks, the method and its statistics.
  """

  trained: run_lib.Trained

  def encode(
    self, params: Params, images: ArrayLike, key: Array
  ) -> base.Posterior:
    """Returns the posteriors of images.

    Args:
      params: Weights like `TrainedRun.params`.
      images: uint8, or floats in [0, 1], shape [B, H, W, C].
      key: PRNG key of the draws; image i has the i-th key that follows from it.

    Returns:
      `z`, one draw of each posterior, and `mean`, both [B, D]; `logvar` [B, D]
      of a gaussian encoder, else None.
    """
    images, keys = self._prepare(images, key)
    trained = self.trained
    return base.encode(
      trained.algorithm, trained.model, params, trained.stats, images, keys
    )

  def decode(self, params: Params, latents: ArrayLike) -> Array:
    """Returns the mean images [..., H, W, C] in [0, 1] of latents [..., D]."""
    return self.trained.model.decode(params, jax.numpy.asarray(latents))

  def sample_latents(self, params: Params, key: Array, num: int) -> Array:
    """Draws latents [num, D] from the method's own generator.

    Args:
      params: Weights like `TrainedRun.params`.
      key: PRNG key.
      num: The number of latents; a constant under `jax.jit`.
    """
    keys = streams.image_keys(key, num, None)
    trained = self.trained
    return trained.algorithm.generate(params, trained.stats, keys)

  def sample(self, params: Params, key: Array, num: int) -> Array:
    """Draws images [num, H, W, C] in [0, 1]; see `sample_latents`."""
    return self.decode(params, self.sample_latents(params, key, num))

  def reconstruct(self, params: Params, images: ArrayLike, key: Array) -> Array:
    """Decodes the posterior means of images, [B, H, W, C] in [0, 1]."""
    return self.decode(params, self.encode(params, images, key).mean)

  def interpolate(
    self, params: Params, starts: ArrayLike, stops: ArrayLike, num_steps: int
  ) -> Array:
    """Decodes latents on the straight lines between latents.

    Args:
      params: Weights like `TrainedRun.params`.
      starts: Latents, shape [N, D].
      stops: Latents, shape [N, D].
      num_steps: S, with both ends; a constant under `jax.jit`.

    Returns:
      Images in [0, 1], shape [N, S, H, W, C].
    """
    t = jax.numpy.linspace(0.0, 1.0, num_steps)[:, None]
    starts, stops = jax.numpy.asarray(starts), jax.numpy.asarray(stops)
    walks = (1.0 - t) * starts[:, None] + t * stops[:, None]
    return self.decode(params, walks)

  def log_likelihood(
    self, params: Params, images: ArrayLike, key: Array, num_samples: int
  ) -> Array:
    """Estimates log p(x) of images by importance sampling, a lower bound.

    Burda et al. (2016), https://arxiv.org/abs/1509.00519, equation 8.

    Args:
      params: Weights like `TrainedRun.params`.
      images: uint8, or floats in [0, 1], shape [B, H, W, C].
      key: PRNG key.
      num_samples: Latents for each image; a constant under `jax.jit`.

    Returns:
      Nats, shape [B].

    Raises:
      UserError: The posterior or the prior has no density.
    """
    require_densities(self.trained)
    images, keys = self._prepare(images, key)
    weights = likelihood.log_weights(
      self.trained, params, self.trained.stats, images, keys, num_samples
    )
    return jax.vmap(elbo.importance_weighted_bound)(weights)

  def _prepare(self, images, key):
    """Returns images in [0, 1], binary if the run's are, and their keys."""
    return step_lib.eval_images(
      jax.numpy.asarray(images), key, self.trained.config.dataset.binarize, 0
    )


def require_densities(trained: run_lib.Trained) -> None:
  """Raises a `UserError` unless importance sampling can be used."""
  if not likelihood.has_densities(trained):
    raise errors.UserError(
      f"method='importance' needs a gaussian encoder and a prior with a"
      f' density; config.model.encoder={trained.model.encoder} with'
      f' config.method.name={trained.config.method.name} has not both: use'
      " method='ais', which needs the prior alone"
    )
