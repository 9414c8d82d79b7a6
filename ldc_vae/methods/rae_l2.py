"""The regularised autoencoder with an L2 penalty on the decoder's weights.

Ghosh et al. (2020), https://arxiv.org/abs/1903.12436, L_RAE with L_REG =
|theta|^2; code: https://github.com/ParthaEth/Regularized_autoencoders-RAE-.
"""

import jax
import jax.numpy as jnp

from ldc_vae.methods import ae
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib

Array = jax.Array


def embedding_penalty(z: Array) -> Array:
  """Mean |z|^2 / 2 over codes z [B, D]: keeps them from drifting apart."""
  return 0.5 * jnp.mean(jnp.sum(jnp.square(z), axis=-1))


def weight_penalty(params) -> Array:
  """Sum of squares of a network's kernels, biases left out, as in the code."""
  kernels = [x for x in jax.tree.leaves(params) if x.ndim > 1]
  return sum(jnp.sum(jnp.square(kernel)) for kernel in kernels)


def create(
    model: model_lib.Model,
    *,
    embedding_weight: float,
    decoder_weight: float,
    moments_decay: float,
) -> base.Method:
  """The method `rae_l2`.

  Args:
    model: With a deterministic encoder.
    embedding_weight: Of the mean |z|^2 / 2, in nats.
    decoder_weight: Of the sum of the decoder's squared weights, in nats.
    moments_decay: Of the codes' running mean and covariance.

  Returns:
    The method.
  """

  def penalty_fn(params, z, keys, context):
    del keys, context
    embedding = embedding_penalty(z)
    weights = weight_penalty(params['decoder'])
    penalty = embedding_weight * embedding + decoder_weight * weights
    return penalty, {'embedding': embedding, 'decoder_l2': weights}

  return ae.create_penalised(
      'rae_l2', model, penalty_fn, moments_decay=moments_decay
  )
