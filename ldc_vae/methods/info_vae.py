"""The InfoVAE with a maximum mean discrepancy (MMD-VAE at alpha = 1).

Zhao et al. (2019), https://arxiv.org/abs/1706.02262, the family L_InfoVAE:

    L = E[-log p(x|z)] + (1 - alpha) KL(q(z|x) || p(z))
        + (alpha + lambda - 1) D(q(z) || p(z)).

The paper leaves the kernel of D open; it is that of `wae_mmd` here, so that the
two can be compared.
"""

import dataclasses
import functools
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
  """L of the module's docstring, one posterior draw per image; nats.

  Args:
    params: With 'encoder' and 'decoder'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: Shape [B].
    context: With 'axis_name'.
    model: With a gaussian encoder.
    alpha: Of the information between x and z.
    mmd_scaling: lambda.

  Returns:
    The loss and the metrics.
  """
  z, mean, logvar = model.gaussian_particles(params, images, keys, 1)
  reconstruction = -jnp.mean(model.log_likelihood(params, images, z))
  kl = jnp.mean(jax.vmap(elbo.gaussian_kl)(mean, logvar))
  # the posterior's noise has used the keys
  mmd = wae_mmd.prior_mmd(
      z[:, 0], base.fold_in(keys, 1), context.axis_name
  )
  loss = (
      reconstruction + (1.0 - alpha) * kl + (alpha + mmd_scaling - 1.0) * mmd
  )
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
      1, default=0.0, help='1 - alpha weighs the KL term; 1 is the MMD-VAE'
  )
  mmd_scaling: float = fields.at_least(
      0,
      default=1000.0,
      help='lambda; alpha + lambda - 1 weighs the MMD, in nats',
  )

  def check(self) -> None:
    if self.alpha + self.mmd_scaling < 1:
      raise fields.conflict(
          {
              'method.alpha': self.alpha,
              'method.mmd_scaling': self.mmd_scaling,
          },
          'rewards a discrepancy; use alpha + mmd_scaling of 1 or more',
      )

  def build(self, model: model_lib.Model) -> base.Algorithm:
    self.require_encoder(model.encoder)
    objective_fn = functools.partial(
        objective, model=model, **dataclasses.asdict(self)
    )
    # the discrepancy is one of sets, not a mean over images
    phase = base.Phase(objective_fn, model.autoencoder_names(), per_image=False)
    return base.with_normal_prior(model, phase)
