r"""Likelihoods, KL divergences and evidence bounds, in nats.

Images are in [0, 1]. Each function takes one image or one latent; lift it by
`vmap`. The bounds are those of Kingma and Welling (2014),
https://arxiv.org/abs/1312.6114, and Burda et al. (2016),
https://arxiv.org/abs/1509.00519.
"""

from collections.abc import Callable
import functools
import math

import chex
import jax
import jax.numpy as jnp

Array = jax.Array

_LOG_2PI = math.log(2.0 * math.pi)
# Half the distance between two grey levels of pixels in [0, 1].
_HALF_BIN = 0.5 / 255.0


def bernoulli_log_likelihood(logits: Array, image: Array) -> Array:
  """Returns the Bernoulli log likelihood of an image, given logits l.

  log p(x) = sum_i x_i log sigmoid(l_i) + (1 - x_i) log sigmoid(-l_i). For grey
  values this is the cross entropy, which is not a normalised density.

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
  """Returns log N(x; mean, scale^2), including the normaliser.

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
  # two sums, because XLA's single sum takes ten times as long on a CPU
  return -0.5 * jnp.sum(jnp.square(residual)) - jnp.sum(normaliser)


def discretized_logistic_log_likelihood(
  mean: Array, image: Array, log_scale: Array | float
) -> Array:
  """Returns the log probability of grey levels under a discretised logistic.

  There are 256 levels; the first and the last bin are open. Salimans et al.
  (2017), https://arxiv.org/abs/1701.05517, eq. 2, with one logistic. In Kingma
  et al. (2016), https://arxiv.org/abs/1606.04934, a bin reaches from a level to
  the next one; here it is centred at the level.

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
  #   + log(1 - exp(b - a)) is exact even if both sigmoids round to 0 or 1
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
  """Returns log N(z; mean, exp(logvar)) for shapes [D], a scalar in nats."""
  chex.assert_equal_shape([z, mean, logvar])
  chex.assert_rank(z, 1)
  residual = jnp.square(z - mean) * jnp.exp(-logvar)
  return -0.5 * jnp.sum(residual + logvar + _LOG_2PI)


def mixture_log_prob(z: Array, means: Array, logvars: Array) -> Array:
  """Returns log (1/C) sum_c N(z; mean_c, exp(logvar_c)), a mixture's density.

  With the posteriors of C pseudo-inputs this is the VampPrior: Tomczak and
  Welling (2018), https://arxiv.org/abs/1705.07120.

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
  """Returns log N(z; 0, I) for z [D], a scalar in nats."""
  chex.assert_rank(z, 1)
  return -0.5 * jnp.sum(jnp.square(z) + _LOG_2PI)


def gaussian_kl(mean: Array, logvar: Array) -> Array:
  """Returns KL(N(mean, exp(logvar)) || N(0, I)) in closed form.

  Kingma and Welling (2014), appendix B.

  Args:
    mean: Shape [D].
    logvar: Shape [D].

  Returns:
    A scalar in nats, at least 0.
  """
  chex.assert_equal_shape([mean, logvar])
  chex.assert_rank(mean, 1)
  # expm1, because exp(l) - 1 - l loses digits at l near 0
  return 0.5 * jnp.sum(jnp.square(mean) + jnp.expm1(logvar) - logvar)


def elbo(
  log_likelihoods: Array,
  mean: Array,
  logvar: Array,
  beta: Array | float = 1.0,
) -> Array:
  """Returns E_q log p(x|z) - beta KL(q(z|x) || N(0, I)) of one image.

  beta = 1 gives a lower bound of log p(x). For other values see Higgins et al.
  (2017), https://openreview.net/forum?id=Sy2fzU9gl.

  Args:
    log_likelihoods: log p(x|z_k) of K posterior samples, shape [K], in nats.
    mean: Mean of the posterior, shape [D].
    logvar: Log variance of the posterior, shape [D].
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
  """Returns log p(x|z) + beta log [ p(z) / q(z|x) ] of one latent.

  Args:
    log_likelihood: log p(x|z), a scalar in nats.
    z: One draw of q, shape [D].
    mean: Mean of q, shape [D].
    logvar: Log variance of q, shape [D].
    log_prior_fn: Maps z [D] to log p(z); the default is N(0, I).
    beta: The exponent; 1 gives the importance weight p(x, z) / q(z|x).

  Returns:
    A scalar in nats. Its mean over draws of q is the ELBO with this beta.
  """
  log_ratio = log_prior_fn(z) - gaussian_log_prob(z, mean, logvar)
  return log_likelihood + beta * log_ratio


def log_weights(
  log_likelihoods: Array,
  z: Array,
  mean: Array,
  logvar: Array,
  log_prior_fn: Callable[[Array], Array] = standard_normal_log_prob,
  beta: Array | float = 1.0,
) -> Array:
  """Returns `log_weight` [K] of K draws z [K, D] of one image's q."""
  weight_fn = functools.partial(
    log_weight, log_prior_fn=log_prior_fn, beta=beta
  )
  over_draws = jax.vmap(weight_fn, in_axes=(0, 0, None, None))
  return over_draws(log_likelihoods, z, mean, logvar)


def importance_weighted_bound(log_weights: Array) -> Array:
  """Returns log (1/K) sum_k w_k, Burda et al. (2016), eq. 8.

  Args:
    log_weights: log w_k of K independent posterior samples, shape [K].

  Returns:
    A scalar in nats: a lower bound of log p(x), which is tighter for larger K.
  """
  chex.assert_rank(log_weights, 1)
  count = log_weights.shape[0]
  return jax.nn.logsumexp(log_weights) - jnp.log(float(count))
