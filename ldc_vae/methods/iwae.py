"""The importance weighted autoencoder.

Burda et al. (2016), https://arxiv.org/abs/1509.00519. With one sample it is the
VAE, but its KL divergence is estimated from that sample.
"""

import dataclasses
import functools
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
  num_samples: int,
  kl_warmup: float,
) -> base.Output:
  """Returns -log (1/K) sum_k w_k, eq. 8, as a mean over images.

  While the KL divergence warms up, w = p(x|z) [p(z) / q(z|x)]^weight.

  Args:
    params: Weights with 'encoder' and 'decoder'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: PRNG keys, shape [B].
    context: The context; only `progress` is used.
    model: The networks, with a gaussian encoder.
    num_samples: K.
    kl_warmup: Fraction of the training until the weight is 1.

  Returns:
    The loss in nats, and the metrics.
  """
  z, mean, logvar = model.gaussian_particles(params, images, keys, num_samples)
  log_likelihoods = model.log_likelihood(params, images, z)  # [B, K]
  weight = base.kl_weight(context.progress, kl_warmup)
  log_weights = jax.vmap(functools.partial(elbo.log_weights, beta=weight))(
    log_likelihoods, z, mean, logvar
  )
  bounds = jax.vmap(elbo.importance_weighted_bound)(log_weights)
  loss = -jnp.mean(bounds)
  metrics = {
    'loss': loss,
    'reconstruction': -jnp.mean(log_likelihoods),
    'kl': jnp.mean(jax.vmap(elbo.gaussian_kl)(mean, logvar)),
    **base.posterior_metrics(logvar, z),
  }
  return base.Output(loss, metrics)


@dataclasses.dataclass(frozen=True)
class Iwae(base.Method):
  """The importance weighted autoencoder. Burda et al. (2016)."""

  name: ClassVar[str] = 'iwae'
  label: ClassVar[str] = 'IWAE'
  encoders: ClassVar[tuple[str, ...]] = ('gaussian',)
  encoder_reason: ClassVar[str] = (
    'its weights need the density of the posterior'
  )

  num_samples: int = fields.at_least(
    1,
    default=5,
    help='K, posterior samples per image; the paper uses 1, 5 and 50',
  )
  kl_warmup: float = base.kl_warmup_field()

  def build(self, model: model_lib.Model) -> base.Algorithm:
    return base.with_normal_prior(model, self.first_phase(model, objective))
