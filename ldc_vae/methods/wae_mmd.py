"""The Wasserstein autoencoder with a maximum mean discrepancy.

Tolstikhin et al. (2018), https://arxiv.org/abs/1711.01558, algorithm 2, with
the kernels of their code, https://github.com/tolstikhin/wae: inverse
multiquadrics of seven scales.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ldc_vae import fields
from ldc_vae.methods import ae
from ldc_vae.methods import base
from ldc_vae.metrics import latent as latent_metrics
from ldc_vae.models import model as model_lib

Array = jax.Array


def prior_mmd(z: Array, keys: Array, axis_name: str | None) -> Array:
  """Squared MMD between codes z [B, D] of all devices and as many prior draws.

  Args:
    z: This device's codes.
    keys: Of the prior's draws, shape [B].
    axis_name: The device axis.

  Returns:
    The unbiased estimate of `metrics.latent.mmd`, the same on every device; 0
    for a lone code, which has no pairs (a validation split of one image).
  """
  draws = base.draw_normal(keys, z.shape[1:])
  z, draws = base.gather(z, axis_name), base.gather(draws, axis_name)
  if len(z) < 2:
    return jnp.zeros(())
  return latent_metrics.mmd(z, draws)


@dataclasses.dataclass(frozen=True)
class WaeMmd(base.Method):
  """The Wasserstein autoencoder with an MMD. Tolstikhin et al. (2018)."""

  name: ClassVar[str] = 'wae_mmd'
  label: ClassVar[str] = 'WAE-MMD'
  encoders: ClassVar[tuple[str, ...]] = (
      'deterministic', 'gaussian', 'implicit', 'warped'
  )
  encoder_reason: ClassVar[str] = 'its codes are matched with the prior'
  defaults: ClassVar[Mapping[str, Any]] = {'model.encoder': 'deterministic'}
  compares_sets: ClassVar[bool] = True

  # The code weighs 10 times the sum over 7 scales against 0.05 |x - y|^2. Here
  # -log p is |x - y|^2 / (2 scale^2), or 5 |x - y|^2 at scale^2 = 0.1, and the
  # MMD is a mean: 10 * 7 * 5 / 0.05 = 7000.
  mmd_weight: float = fields.at_least(
      0, default=7000.0, help='weight of the squared MMD, in nats'
  )

  def build(self, model: model_lib.Model) -> base.Algorithm:
    self.require_encoder(model.encoder)

    def penalty_fn(params, z, keys, context):
      del params
      mmd = prior_mmd(z, keys, context.axis_name)
      return self.mmd_weight * mmd, {'mmd': mmd}

    objective_fn = functools.partial(
        ae.objective, model=model, penalty_fn=penalty_fn
    )
    # the discrepancy is one of sets, not a mean over images
    phase = base.Phase(objective_fn, model.autoencoder_names(), per_image=False)
    return base.with_normal_prior(model, phase)
