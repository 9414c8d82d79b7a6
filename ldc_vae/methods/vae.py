"""The variational autoencoder and the beta-VAE.

Kingma and Welling (2014), https://arxiv.org/abs/1312.6114; beta: Higgins et al.
(2017), https://openreview.net/forum?id=Sy2fzU9gl.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ldc_vae import elbo
from ldc_vae import fields
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
) -> base.Output:
  """Returns the mean of -ELBO over images.

  Args:
    params: Weights with 'encoder' and 'decoder'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: PRNG keys, shape [B].
    context: The context; only `progress` is used.
    model: The networks, with a gaussian encoder.
    beta: Weight of the KL divergence.
    num_samples: Posterior samples per image.
    kl_warmup: Fraction of the training until the weight is beta.

  Returns:
    The loss in nats, and the metrics.
  """
  z, mean, logvar = model.gaussian_particles(params, images, keys, num_samples)
  log_likelihoods = model.log_likelihood(params, images, z)  # [B, K]
  beta = beta * base.kl_weight(context.progress, kl_warmup)
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
  return base.Output(loss, metrics)


@dataclasses.dataclass(frozen=True)
class Vae(base.Method):
  """The variational autoencoder. Kingma and Welling (2014)."""

  name: ClassVar[str] = 'vae'
  label: ClassVar[str] = 'VAE'
  encoders: ClassVar[tuple[str, ...]] = ('gaussian',)
  encoder_reason: ClassVar[str] = (
    'its KL divergence needs the density of the posterior'
  )

  beta: float = fields.at_least(
    0, default=1.0, help='weight of the KL divergence; 1 is the ELBO'
  )
  num_samples: int = fields.at_least(
    1, default=1, help='posterior samples per image and step'
  )
  kl_warmup: float = base.kl_warmup_field()

  def build(self, model: model_lib.Model) -> base.Algorithm:
    return base.with_normal_prior(model, self.first_phase(model, objective))


@dataclasses.dataclass(frozen=True)
class BetaVae(Vae):
  """The VAE with another weight of the KL divergence.

  Higgins et al. (2017), eq. 4, https://openreview.net/forum?id=Sy2fzU9gl. Its
  posterior is the Gibbs posterior with inverse temperature 1 / beta.
  """

  name: ClassVar[str] = 'beta_vae'
  label: ClassVar[str] = 'Beta-VAE'

  beta: float = fields.at_least(
    0, default=4.0, help='weight of the KL divergence'
  )
