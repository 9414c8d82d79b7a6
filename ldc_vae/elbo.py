r"""Likelihoods, KL divergences and evidence bounds, in nats.

Images are in [0, 1]; a function takes one image (or one latent) and is lifted
by `vmap`. The bounds: Kingma and Welling (2014),
https://arxiv.org/abs/1312.6114; Burda et al. (2016),
https://arxiv.org/abs/1509.00519.
"""

from collections.abc import Callable
import math

import chex
import jax
import jax.numpy as jnp

Array = jax.Array

_LOG_2PI = math.log(2.0 * math.pi)
# Half the distance of two grey levels, pixels in [0, 1].
_HALF_BIN = 0.5 / 255.0


def bernoulli_log_likelihood(logits: Array, image: Array) -> Array:
  """log p(x) = sum_i x_i log sigmoid(l_i) + (1 - x_i) log sigmoid(-l_i).

  For grey values it is the cross entropy, which is no normalised density.

  Args:
    logits: Shape [H, W, C].
    image: Shape [H, W, C], in [0, 1].

  Returns:
    A scalar in nats.
  """
  chex.assert_equal_shape([logits, image])
  return jnp.sum(image * logits - jax.nn.softplus(logits))


def gaussian_log_likelihood(
    mean: Array, image: Array, log_scale: Array | float
) -> Array:
  """log N(x; mean, scale^2), the normaliser included.

  Args:
    mean: Shape [H, W, C].
    image: Shape [H, W, C].
    log_scale: Log standard deviation, a scalar or [H, W, C]; pixels in [0, 1].

  Returns:
    A scalar in nats.
  """
  chex.assert_equal_shape([mean, image])
  residual = (image - mean) * jnp.exp(-jnp.asarray(log_scale))
  normaliser = jnp.broadcast_to(log_scale, image.shape) + 0.5 * _LOG_2PI
  # two sums: all in one, XLA's on a CPU takes ten times as long
  return -0.5 * jnp.sum(jnp.square(residual)) - jnp.sum(normaliser)


def discretized_logistic_log_likelihood(
    mean: Array, image: Array, log_scale: Array | float
) -> Array:
  """log probability of 256 grey levels under a logistic with open end bins.

  Salimans et al. (2017), https://arxiv.org/abs/1701.05517, eq. 2, of one
  logistic; Kingma et al. (2016), https://arxiv.org/abs/1606.04934, had it from
  a level to the next instead of around it.

  Args:
    mean: Shape [H, W, C], in the units of the image.
    image: Shape [H, W, C], multiples of 1/255 in [0, 1].
    log_scale: Log of the logistic's scale, a scalar or [H, W, C].

  Returns:
    A scalar in nats, at most 0.
  """
  chex.assert_equal_shape([mean, image])
  inverse = jnp.exp(-jnp.broadcast_to(log_scale, image.shape))
  upper = (image - mean + _HALF_BIN) * inverse
  lower = (image - mean - _HALF_BIN) * inverse
  # log(sigmoid(a) - sigmoid(b)) = log sigmoid(a) + log sigmoid(-b)
  #   + log(1 - exp(b - a)), exact also where both sigmoids round to 0 or 1.
  inner = (
      jax.nn.log_sigmoid(upper)
      + jax.nn.log_sigmoid(-lower)
      + jnp.log(-jnp.expm1(-2.0 * _HALF_BIN * inverse))
  )
  darkest = image < _HALF_BIN
  brightest = image > 1.0 - _HALF_BIN
  log_probs = jnp.where(
      darkest,
      jax.nn.log_sigmoid(upper),
      jnp.where(brightest, jax.nn.log_sigmoid(-lower), inner),
  )
  return jnp.sum(log_probs)


def gaussian_log_prob(z: Array, mean: Array, logvar: Array) -> Array:
  """log N(z; mean, exp(logvar)), for shapes [D]; a scalar in nats."""
  chex.assert_equal_shape([z, mean, logvar])
  chex.assert_rank(z, 1)
  residual = jnp.square(z - mean) * jnp.exp(-logvar)
  return -0.5 * jnp.sum(residual + logvar + _LOG_2PI)


def mixture_log_prob(z: Array, means: Array, logvars: Array) -> Array:
  """log (1/C) sum_c N(z; mean_c, exp(logvar_c)), equal weights.

  With the posteriors of C pseudo-inputs, the VampPrior: Tomczak and Welling
  (2018), https://arxiv.org/abs/1705.07120.

  Args:
    z: One latent, shape [D].
    means: Shape [C, D].
    logvars: Shape [C, D].

  Returns:
    A scalar in nats.
  """
  chex.assert_rank([z, means, logvars], [1, 2, 2])
  log_probs = jax.vmap(gaussian_log_prob, (None, 0, 0))(z, means, logvars)
  return jax.nn.logsumexp(log_probs) - math.log(means.shape[0])


def standard_normal_log_prob(z: Array) -> Array:
  """log N(z; 0, I), for z [D]; a scalar in nats."""
  chex.assert_rank(z, 1)
  return -0.5 * jnp.sum(jnp.square(z) + _LOG_2PI)


def gaussian_kl(mean: Array, logvar: Array) -> Array:
  """KL(N(mean, exp(logvar)) || N(0, I)) in closed form.

  Kingma and Welling (2014), appendix B.

  Args:
    mean: Shape [D].
    logvar: Shape [D].

  Returns:
    A scalar in nats, at least 0.
  """
  chex.assert_equal_shape([mean, logvar])
  chex.assert_rank(mean, 1)
  # expm1: exp(l) - 1 - l loses its digits at l near 0
  return 0.5 * jnp.sum(jnp.square(mean) + jnp.expm1(logvar) - logvar)


def elbo(
    log_likelihoods: Array,
    mean: Array,
    logvar: Array,
    beta: Array | float = 1.0,
) -> Array:
  """E_q log p(x|z) - beta KL(q(z|x) || N(0, I)) of one image.

  beta = 1 is a lower bound of log p(x); other values: Higgins et al. (2017),
  https://openreview.net/forum?id=Sy2fzU9gl.

  Args:
    log_likelihoods: log p(x|z_k) of K posterior samples, shape [K], in nats.
    mean: Of the posterior, shape [D].
    logvar: Of the posterior, shape [D].
    beta: Weight of the KL divergence.

  Returns:
    A scalar in nats.
  """
  chex.assert_rank(log_likelihoods, 1)
  return jnp.mean(log_likelihoods) - beta * gaussian_kl(mean, logvar)


def log_weight(
    log_likelihood: Array,
    z: Array,
    mean: Array,
    logvar: Array,
    log_prior_fn: Callable[[Array], Array] = standard_normal_log_prob,
    beta: Array | float = 1.0,
) -> Array:
  """log p(x|z) + beta log [ p(z) / q(z|x) ] of one latent.

  Args:
    log_likelihood: log p(x|z), a scalar in nats.
    z: One draw of q, shape [D].
    mean: Of q, shape [D].
    logvar: Of q, shape [D].
    log_prior_fn: Maps z [D] to log p(z); N(0, I) if it is left out.
    beta: 1 gives the importance weight p(x, z) / q(z|x).

  Returns:
    A scalar in nats; its mean over draws of q is the ELBO of that beta.
  """
  log_ratio = log_prior_fn(z) - gaussian_log_prob(z, mean, logvar)
  return log_likelihood + beta * log_ratio


def importance_weighted_bound(log_weights: Array) -> Array:
  """log (1/K) sum_k w_k, Burda et al. (2016), eq. 8.

  Args:
    log_weights: log w_k of K independent posterior samples, shape [K].

  Returns:
    A scalar in nats: a lower bound of log p(x), tighter with K.
  """
  chex.assert_rank(log_weights, 1)
  count = log_weights.shape[0]
  return jax.nn.logsumexp(log_weights) - jnp.log(float(count))
