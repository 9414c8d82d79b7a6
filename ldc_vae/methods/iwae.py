"""The importance weighted autoencoder.

Burda et al. (2016), https://arxiv.org/abs/1509.00519. With one sample it is the
VAE, its KL divergence estimated from that sample.
"""

import functools

import jax
import jax.numpy as jnp

from ldc_vae import elbo
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib

Array = jax.Array


def objective(
    params,
    images: Array,
    keys: Array,
    context: base.Context,
    *,
    model: model_lib.Model,
    num_samples: int,
    kl_warmup: float,
) -> tuple[Array, tuple[dict[str, Array], base.Context]]:
  """-log (1/K) sum_k w_k, eq. 8, the mean over images; nats.

  While the KL divergence warms up, w = p(x|z) [p(z) / q(z|x)]^weight.

  Args:
    params: With 'encoder' and 'decoder'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: Shape [B].
    context: With 'progress'.
    model: With a gaussian encoder.
    num_samples: K.
    kl_warmup: Fraction of the training until the weight is 1.

  Returns:
    The loss and (metrics, updates), see `base`.
  """
  z, mean, logvar = model.particles(params, images, keys, num_samples)
  log_likelihoods = model.log_likelihood(params, images, z)  # [B, K]
  weight = base.kl_weight(context['progress'], kl_warmup)
  log_weight_fn = functools.partial(elbo.log_weight, beta=weight)
  over_samples = jax.vmap(log_weight_fn, in_axes=(0, 0, None, None))
  log_weights = jax.vmap(over_samples)(log_likelihoods, z, mean, logvar)
  bounds = jax.vmap(elbo.importance_weighted_bound)(log_weights)
  loss = -jnp.mean(bounds)
  metrics = {
      'loss': loss,
      'reconstruction': -jnp.mean(log_likelihoods),
      'kl': jnp.mean(jax.vmap(elbo.gaussian_kl)(mean, logvar)),
      **base.posterior_metrics(logvar, z),
  }
  return loss, (metrics, {})


def create(
    model: model_lib.Model, *, num_samples: int, kl_warmup: float = 0.0
) -> base.Method:
  """The method `iwae`.

  Args:
    model: With a gaussian encoder.
    num_samples: K, posterior samples per image and step.
    kl_warmup: Fraction of the training until prior and posterior weigh fully
      in the importance weights, in [0, 1].

  Returns:
    The method.

  Raises:
    ValueError: The encoder has no density.
  """
  base.require_encoder(
      'iwae',
      model,
      'gaussian',
      reason='its weights need the density of the posterior',
  )
  objective_fn = functools.partial(
      objective, model=model, num_samples=num_samples, kl_warmup=kl_warmup
  )
  phase = base.Phase(objective_fn, model.autoencoder_names())
  return base.with_normal_prior(model, phase)
