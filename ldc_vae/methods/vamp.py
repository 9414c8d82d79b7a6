"""The VAE with a VampPrior, a mixture of the posteriors of pseudo-inputs.

Tomczak and Welling (2018), https://arxiv.org/abs/1705.07120; code:
https://github.com/jmtomczak/vae_vampprior.

Letters: C pseudo-inputs.
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


def prior_components(params, *, model: model_lib.Model) -> tuple[Array, Array]:
  """Returns means and logvars [C, D] of the posteriors of pseudo-inputs."""
  inputs = model.modules['pseudo_inputs'].apply(params['pseudo_inputs'])
  return model.modules['encoder'].apply(params['encoder'], inputs)


def log_prior(params, stats, z: Array, *, model: model_lib.Model) -> Array:
  """Returns log p(z) of one latent z [D] under the VampPrior, in nats."""
  del stats
  means, logvars = prior_components(params, model=model)
  return elbo.mixture_log_prob(z, means, logvars)


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
  """Returns the mean of -ELBO over images, under the VampPrior.

  The prior is part of the bound. So the gradient flows through it into the
  pseudo-inputs, and into the encoder a second time.

  Args:
    params: Weights with 'encoder', 'decoder' and 'pseudo_inputs'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: PRNG keys, shape [B].
    context: The context; only `stats` and `progress` are used.
    model: The networks, with a gaussian encoder.
    num_samples: K, posterior samples per image.
    kl_warmup: Fraction of the training until the weight of the KL divergence is
      1.

  Returns:
    The loss in nats, and the metrics.
  """
  z, mean, logvar = model.gaussian_particles(params, images, keys, num_samples)
  log_likelihoods = model.log_likelihood(params, images, z)  # [B, K]
  log_prior_fn = functools.partial(
    log_prior, params, context.stats, model=model
  )
  log_weights = jax.vmap(
    functools.partial(elbo.log_weights, log_prior_fn=log_prior_fn)
  )(log_likelihoods, z, mean, logvar)
  reconstruction = -jnp.mean(log_likelihoods)
  kl = -jnp.mean(log_weights) - reconstruction  # estimated from the samples
  weight = base.kl_weight(context.progress, kl_warmup)
  loss = reconstruction + weight * kl
  metrics = {
    'loss': loss,
    'reconstruction': reconstruction,
    'kl': kl,
    **base.posterior_metrics(logvar, z),
  }
  return base.Output(loss, metrics)


def generate(params, stats, keys: Array, *, model: model_lib.Model) -> Array:
  """Draws z [N, D] from the posteriors of random pseudo-inputs."""
  del stats
  means, logvars = prior_components(params, model=model)
  chosen = jax.vmap(lambda key: jax.random.randint(key, (), 0, means.shape[0]))(
    base.fold_in(keys, 1)
  )
  noise = base.draw_normal(keys, means.shape[1:])
  return means[chosen] + jnp.exp(0.5 * logvars[chosen]) * noise


@dataclasses.dataclass(frozen=True)
class Vamp(base.Method):
  """The VAE with a VampPrior. Tomczak and Welling (2018)."""

  name: ClassVar[str] = 'vamp'
  label: ClassVar[str] = 'VampPrior'
  encoders: ClassVar[tuple[str, ...]] = ('gaussian',)
  encoder_reason: ClassVar[str] = (
    'its prior is a mixture of posterior densities'
  )

  num_samples: int = fields.at_least(
    1, default=1, help='posterior samples per image and step'
  )
  kl_warmup: float = base.kl_warmup_field()

  def build(self, model: model_lib.Model) -> base.Algorithm:
    phase = self.first_phase(model, objective)
    return base.Algorithm(
      phases=(phase._replace(trains=(*phase.trains, 'pseudo_inputs')),),
      init_stats=tuple,
      generate=functools.partial(generate, model=model),
      log_prior=functools.partial(log_prior, model=model),
    )
