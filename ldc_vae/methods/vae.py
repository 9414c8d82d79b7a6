"""The variational autoencoder, with the KL weight of a beta-VAE.

Kingma and Welling (2014), https://arxiv.org/abs/1312.6114; beta: Higgins et al.
(2017), https://openreview.net/forum?id=Sy2fzU9gl.
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
    beta: float,
    num_samples: int,
    kl_warmup: float,
) -> tuple[Array, tuple[dict[str, Array], base.Context]]:
  """-ELBO, the mean over images; nats.

  Args:
    params: With 'encoder' and 'decoder'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: Shape [B].
    context: With 'progress'.
    model: With a gaussian encoder.
    beta: Weight of the KL divergence.
    num_samples: Posterior samples per image.
    kl_warmup: Fraction of the training until beta is reached.

  Returns:
    The loss and (metrics, updates), see `base`.
  """
  z, mean, logvar = model.particles(params, images, keys, num_samples)
  log_likelihoods = model.log_likelihood(params, images, z)  # [B, K]
  beta = beta * base.kl_weight(context['progress'], kl_warmup)
  bounds = jax.vmap(elbo.elbo, in_axes=(0, 0, 0, None))(
      log_likelihoods, mean, logvar, beta
  )
  loss = -jnp.mean(bounds)
  metrics = {
      'loss': loss,
      'reconstruction': -jnp.mean(log_likelihoods),
      'kl': jnp.mean(jax.vmap(elbo.gaussian_kl)(mean, logvar)),
      **base.posterior_metrics(logvar, z),
  }
  return loss, (metrics, {})


def create(
    model: model_lib.Model,
    *,
    beta: float,
    num_samples: int,
    kl_warmup: float = 0.0,
) -> base.Method:
  """The method `vae`.

  Args:
    model: With a gaussian encoder.
    beta: Weight of the KL divergence, at least 0.
    num_samples: Posterior samples per image and step.
    kl_warmup: Fraction of the training until beta is reached, in [0, 1].

  Returns:
    The method.

  Raises:
    ValueError: The encoder has no density.
  """
  base.require_encoder(
      'vae',
      model,
      'gaussian',
      reason='its KL divergence needs the density of the posterior',
  )
  objective_fn = functools.partial(
      objective,
      model=model,
      beta=beta,
      num_samples=num_samples,
      kl_warmup=kl_warmup,
  )
  phase = base.Phase(objective_fn, model.autoencoder_names())
  return base.with_normal_prior(model, phase)
