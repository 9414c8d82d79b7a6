"""The Wasserstein autoencoder with a maximum mean discrepancy.

Tolstikhin et al. (2018), https://arxiv.org/abs/1711.01558, algorithm 2, with
the kernels of their code, https://github.com/tolstikhin/wae: inverse
multiquadrics of seven scales.
"""

import functools

import jax
import jax.numpy as jnp

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


def create(model: model_lib.Model, *, mmd_weight: float) -> base.Method:
  """The method `wae_mmd`.

  Args:
    model: With an encoder of any kind.
    mmd_weight: Of the squared MMD, in nats.

  Returns:
    The method.

  Raises:
    ValueError: There is no encoder.
  """
  base.require_encoder(
      'wae_mmd',
      model,
      'deterministic',
      'gaussian',
      'implicit',
      'warped',
      reason='its codes are matched with the prior',
  )

  def penalty_fn(params, z, keys, context):
    del params
    mmd = prior_mmd(z, keys, context['axis_name'])
    return mmd_weight * mmd, {'mmd': mmd}

  objective_fn = functools.partial(
      ae.objective, model=model, penalty_fn=penalty_fn
  )
  # the discrepancy is one of sets, not a mean over images
  phase = base.Phase(objective_fn, model.autoencoder_names(), per_image=False)
  return base.with_normal_prior(model, phase)
