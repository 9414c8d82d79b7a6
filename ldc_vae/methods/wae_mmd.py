"""The Wasserstein autoencoder with a maximum mean discrepancy.

Tolstikhin et al. (2018), https://arxiv.org/abs/1711.01558, algorithm 2. The
kernels are those of their code, https://github.com/tolstikhin/wae: inverse
multiquadrics with seven scales.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ldc_vae import fields
from ldc_vae import svgd
from ldc_vae.methods import ae
from ldc_vae.methods import base
from ldc_vae.metrics import latent as latent_metrics
from ldc_vae.models import model as model_lib

Array = jax.Array


def prior_mmd(z: Array, keys: Array, axis_name: str | None) -> Array:
  """Returns the squared MMD between all devices' codes and draws of the prior.

  Args:
    z: The codes of this device, shape [B, D].
    keys: PRNG keys of the draws, shape [B].
    axis_name: The name of the device axis, or None.

  Returns:
    The unbiased estimate of `metrics.latent.mmd`, equal on all devices. It is 0
    for a single code, which has no pairs.
  """
  draws = base.draw_normal(keys, z.shape[1:])
  z, draws = svgd.gather(z, axis_name), svgd.gather(draws, axis_name)
  if len(z) < 2:
    return jnp.zeros(())
  return latent_metrics.mmd(z, draws)


@dataclasses.dataclass(frozen=True)
class WaeMmd(base.Method):
  """The Wasserstein autoencoder with an MMD. Tolstikhin et al. (2018)."""

  name: ClassVar[str] = 'wae_mmd'
  label: ClassVar[str] = 'WAE-MMD'
  encoders: ClassVar[tuple[str, ...]] = (
    'deterministic',
    'gaussian',
    'implicit',
    'warped',
  )
  encoder_reason: ClassVar[str] = 'its codes are matched with the prior'
  compares_sets: ClassVar[bool] = True

  # Their code has 0.05 |x - y|^2 plus 10 times the sum of MMDs over 7 scales.
  # Here -log p is |x - y|^2 / (2 scale^2), or 5 |x - y|^2 at scale^2 = 0.1, and
  # the MMD is a mean over scales. So the weight is 10 * 7 * 5 / 0.05 = 7000.
  mmd_weight: float = fields.at_least(
    0, default=7000.0, help='weight of the squared MMD, in nats'
  )

  def build(self, model: model_lib.Model) -> base.Algorithm:

    def penalty_fn(params, z, keys, context):
      del params
      mmd = prior_mmd(z, keys, context.axis_name)
      return self.mmd_weight * mmd, {'mmd': mmd}

    phase = self.first_phase(model, ae.objective, penalty_fn=penalty_fn)
    return base.with_normal_prior(model, phase)
