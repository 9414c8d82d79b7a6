"""The regularised autoencoder with a gradient penalty on the decoder.

Ghosh et al. (2020), https://arxiv.org/abs/1903.12436, L_RAE with L_REG = |grad
D(E(x))|^2. The derivative is by the latent, as in their code (the text could be
read as one by the image), and of the image as in their text (the code squares
the pixels first).
"""

from collections.abc import Callable
import functools

import chex
import jax
import jax.numpy as jnp

from ldc_vae.methods import ae
from ldc_vae.methods import base
from ldc_vae.methods import rae_l2
from ldc_vae.models import model as model_lib

Array = jax.Array


def gradient_penalty(
    decode_fn: Callable[[Array], Array], z: Array, direction: Array
) -> Array:
  """|J v|^2, whose mean over v ~ N(0, I) is |J|^2 (Frobenius), J = dD / dz.

  One forward derivative instead of D; the batch averages over directions.
  Hutchinson (1990), https://doi.org/10.1080/03610919008812866.

  Args:
    decode_fn: Maps z [D] to an array of any shape.
    z: One latent, shape [D].
    direction: v, shape [D].

  Returns:
    A scalar of at least 0.
  """
  chex.assert_equal_shape([z, direction])
  chex.assert_rank(z, 1)
  _, tangent = jax.jvp(decode_fn, (z,), (direction,))
  return jnp.sum(jnp.square(tangent))


def create(
    model: model_lib.Model,
    *,
    embedding_weight: float,
    gradient_weight: float,
    moments_decay: float,
) -> base.Method:
  """The method `rae_gp`.

  Args:
    model: With a deterministic encoder.
    embedding_weight: Of the mean |z|^2 / 2, in nats.
    gradient_weight: Of the mean |dD / dz|^2, pixels in [0, 1], in nats.
    moments_decay: Of the codes' running mean and covariance.

  Returns:
    The method.
  """

  def penalty_fn(params, z, keys, context):
    del context
    embedding = rae_l2.embedding_penalty(z)
    decode_fn = functools.partial(model.decode, params)
    directions = base.draw_normal(keys, z.shape[1:])
    gradient = jnp.mean(
        jax.vmap(functools.partial(gradient_penalty, decode_fn))(z, directions)
    )
    penalty = embedding_weight * embedding + gradient_weight * gradient
    return penalty, {'embedding': embedding, 'gradient_penalty': gradient}

  return ae.create_penalised(
      'rae_gp', model, penalty_fn, moments_decay=moments_decay
  )
