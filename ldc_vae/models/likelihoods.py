"""Likelihoods log p(x|z) of an image, from the logits of a decoder.

A new likelihood is one function and one line of `LIKELIHOODS`.
"""

import math

from flax import linen as nn
import jax

from ldc_vae import elbo

Array = jax.Array


def bernoulli(logits: Array, image: Array, log_scale: Array) -> Array:
  """See `elbo.bernoulli_log_likelihood`, which has no scale."""
  del log_scale
  return elbo.bernoulli_log_likelihood(logits, image)


def gaussian(logits: Array, image: Array, log_scale: Array) -> Array:
  """See `elbo.gaussian_log_likelihood`; the mean is the sigmoid of logits."""
  return elbo.gaussian_log_likelihood(jax.nn.sigmoid(logits), image, log_scale)


def discretized_logistic(
  logits: Array, image: Array, log_scale: Array
) -> Array:
  """See `elbo.discretized_logistic_log_likelihood`, likewise."""
  return elbo.discretized_logistic_log_likelihood(
    jax.nn.sigmoid(logits), image, log_scale
  )


# name -> (logits [H, W, C], image [H, W, C], log_scale []) -> nats []
LIKELIHOODS = {
  'bernoulli': bernoulli,
  'gaussian': gaussian,
  'discretized_logistic': discretized_logistic,
}


class ObservationScale(nn.Module):
  """The log scale [] of the likelihood, one for all pixels."""

  initial: float

  @nn.compact
  def __call__(self) -> Array:
    start = nn.initializers.constant(math.log(self.initial))
    return self.param('log_scale', start, ())
