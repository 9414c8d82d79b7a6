"""The InfoVAE with a maximum mean discrepancy (MMD-VAE at alpha = 1).

Zhao et al. (2019), https://arxiv.org/abs/1706.02262, the family L_InfoVAE:

    L = E[-log p(x|z)] + (1 - alpha) KL(q(z|x) || p(z))
        + (alpha + lambda - 1) D(q(z) || p(z)).

The paper does not choose the kernel of D. Here it is the kernel of `wae_mmd`,
so that the two methods can be compared.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ldc_vae import elbo
from ldc_vae import fields
from ldc_vae.methods import base
from ldc_vae.methods import wae_mmd
from ldc_vae.models import model as model_lib

Array = jax.Array


def objective(
  params,
  images: Array,
  keys: Array,
  context: base.Context,
  *,
  model: model_lib.Model,
  alpha: float,
  mmd_scaling: float,
) -> base.Output:
  """Returns L of the module's docstring, with one posterior draw per image.

  Args:
    params: Weights with 'encoder' and 'decoder'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: PRNG keys, shape [B].
    context: The context; only `axis_name` is used.
    model: The networks, with a gaussian encoder.
    alpha: The weight of the mutual information between x and z.
    mmd_scaling: lambda.

  Returns:
    The loss in nats, and the metrics.
  """
  z, mean, logvar = model.gaussian_particles(params, images, keys, 1)
  reconstruction = -jnp.mean(model.log_likelihood(params, images, z))
  kl = jnp.mean(jax.vmap(elbo.gaussian_kl)(mean, logvar))
  # new keys, because the noise of the posterior has used the others
  mmd = wae_mmd.prior_mmd(z[:, 0], base.fold_in(keys, 1), context.axis_name)
  loss = reconstruction + (1.0 - alpha) * kl + (alpha + mmd_scaling - 1.0) * mmd
  metrics = {
    'loss': loss,
    'reconstruction': reconstruction,
    'kl': kl,
    'mmd': mmd,
    **base.posterior_metrics(logvar, z),
  }
  return base.Output(loss, metrics)


@dataclasses.dataclass(frozen=True)
class InfoVae(base.Method):
  """The InfoVAE with a maximum mean discrepancy. Zhao et al. (2019)."""

  name: ClassVar[str] = 'info_vae'
  label: ClassVar[str] = 'InfoVAE'
  encoders: ClassVar[tuple[str, ...]] = ('gaussian',)
  encoder_reason: ClassVar[str] = (
    'its KL divergence needs the density of the posterior'
  )
  compares_sets: ClassVar[bool] = True

  alpha: float = fields.at_most(
    1,
    default=0.0,
    help='1 - alpha is the weight of the KL term; 1 is the MMD-VAE',
  )
  mmd_scaling: float = fields.at_least(
    0,
    default=1000.0,
    help='lambda; alpha + lambda - 1 is the weight of the MMD, in nats',
  )

  def check(self) -> None:
    if self.alpha + self.mmd_scaling < 1:
      raise self.conflict(
        ('alpha', 'mmd_scaling'),
        'gives the MMD a negative weight; use alpha + mmd_scaling of 1 or more',
      )

  def build(self, model: model_lib.Model) -> base.Algorithm:
    return base.with_normal_prior(model, self.first_phase(model, objective))
