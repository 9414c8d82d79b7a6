"""Regularised autoencoders: a penalty on the decoder, and one on the codes.

Ghosh et al. (2020), https://arxiv.org/abs/1903.12436; code:
https://github.com/ParthaEth/Regularized_autoencoders-RAE-. L_RAE has the term
L_REG: |theta|^2 in `rae_l2`, or |grad D(E(x))|^2 in `rae_gp`. The text and the
code of the paper differ in this gradient. Here it is taken with respect to the
latent, as in the code. The image is differentiated, as in the text; the code
squares the pixels first.

The default weights come from their code. Its loss is the mean squared error of
a pixel, plus 1e-4 times the mean z_d^2, plus 1e-7 times the sum of squared
weights. Here -log p is 784 / (2 scale^2) = 3920 times that error at
scale^2 = 0.1. So with 16 dimensions, the weight of |z|^2 / 2 is
3920 * 1e-4 * 2 / 16.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp

from ldc_vae import fields
from ldc_vae.methods import ae
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib

Array = jax.Array


def embedding_penalty(z: Array) -> Array:
  """Returns the mean |z|^2 / 2 over codes z [B, D], which keeps codes small."""
  return 0.5 * jnp.mean(jnp.sum(jnp.square(z), axis=-1))


def weight_penalty(params) -> Array:
  """Returns the sum of squared weights without biases, as in their code."""
  kernels = [x for x in jax.tree.leaves(params) if x.ndim > 1]
  squares = (jnp.sum(jnp.square(kernel)) for kernel in kernels)
  return sum(squares, jnp.zeros(()))


def gradient_penalty(
  decode_fn: Callable[[Array], Array], z: Array, direction: Array
) -> Array:
  """Returns |J v|^2; its mean over v ~ N(0, I) is |J|^2 (Frobenius).

  J = dD / dz is the decoder's Jacobian. One forward derivative replaces one for
  each latent dimension, and the batch averages over directions. Hutchinson
  (1990), https://doi.org/10.1080/03610919008812866.

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


@dataclasses.dataclass(frozen=True)
class RaeL2(ae.Ae):
  """The regularised autoencoder with an L2 penalty on decoder weights."""

  name: ClassVar[str] = 'rae_l2'
  label: ClassVar[str] = 'RAE-L2'

  embedding_weight: float = fields.at_least(
    0, default=0.05, help='weight of |z|^2 / 2, in nats'
  )
  decoder_weight: float = fields.at_least(
    0, default=4e-4, help="weight of the decoder's |weights|^2, in nats"
  )

  def penalty_fn(self, model: model_lib.Model) -> ae.PenaltyFn:
    del model

    def penalty_fn(params, z, keys, context):
      del keys, context
      embedding = embedding_penalty(z)
      weights = weight_penalty(params['decoder'])
      penalty = (
        self.embedding_weight * embedding + self.decoder_weight * weights
      )
      return penalty, {'embedding': embedding, 'decoder_l2': weights}

    return penalty_fn


@dataclasses.dataclass(frozen=True)
class RaeGp(ae.Ae):
  """The regularised autoencoder with a gradient penalty on the decoder."""

  name: ClassVar[str] = 'rae_gp'
  label: ClassVar[str] = 'RAE-GP'

  embedding_weight: float = fields.at_least(
    0, default=0.05, help='weight of |z|^2 / 2, in nats'
  )
  # The default is the mean cost of noise in z with standard deviation 0.1: at
  # scale^2 = 0.1 this is 0.1^2 / (2 * 0.1) |J|^2.
  gradient_weight: float = fields.at_least(
    0, default=0.05, help='weight of |dD / dz|^2, in nats'
  )

  def penalty_fn(self, model: model_lib.Model) -> ae.PenaltyFn:

    def penalty_fn(params, z, keys, context):
      del context
      embedding = embedding_penalty(z)
      decode_fn = functools.partial(model.decode, params)
      directions = base.draw_normal(keys, z.shape[1:])
      gradient = jnp.mean(
        jax.vmap(functools.partial(gradient_penalty, decode_fn))(z, directions)
      )
      penalty = (
        self.embedding_weight * embedding + self.gradient_weight * gradient
      )
      return penalty, {'embedding': embedding, 'gradient_penalty': gradient}

    return penalty_fn
