"""The adversarial autoencoder.

Makhzani et al. (2016), https://arxiv.org/abs/1511.05644, section 2. A
discriminator learns to tell codes from draws of the prior, and the encoder
learns to confuse it. Here reconstruction and confusion form one weighted loss,
as in algorithm 1 of Tolstikhin et al. (2018),
https://arxiv.org/abs/1711.01558.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from ldc_vae import fields
from ldc_vae.methods import ae
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib

Array = jax.Array


def discriminator_loss(prior_logits: Array, code_logits: Array) -> Array:
  """Returns -E log D(prior) - E log(1 - D(code)), with D = sigmoid(logit).

  Goodfellow et al. (2014), eq. 1, https://arxiv.org/abs/1406.2661.

  Args:
    prior_logits: Log odds for draws of the prior, shape [n].
    code_logits: Log odds for codes, shape [n].

  Returns:
    A scalar in nats; 2 log 2 if D = 1/2 everywhere.
  """
  return jnp.mean(jax.nn.softplus(-prior_logits)) + jnp.mean(
    jax.nn.softplus(code_logits)
  )


def confusion_loss(code_logits: Array) -> Array:
  """Returns -E log D(code), a generator loss that does not saturate; nats."""
  return jnp.mean(jax.nn.softplus(-code_logits))


def discriminator_objective(
  params,
  images: Array,
  keys: Array,
  context: base.Context,
  *,
  model: model_lib.Model,
) -> base.Output:
  """Returns the loss of the discriminator on the codes of the first phase.

  Args:
    params: Weights with the key 'discriminator'.
    images: Unused.
    keys: PRNG keys, shape [B].
    context: The context with the codes, `latents` [B, 1, D].
    model: The networks.

  Returns:
    The loss and the metrics.
  """
  del images
  assert context.latents is not None  # the first phase gave them
  z = context.latents[:, 0]
  draws = base.draw_normal(keys, z.shape[1:])
  logits_fn = functools.partial(
    model.modules['discriminator'].apply, params['discriminator']
  )
  prior_logits, code_logits = logits_fn(draws), logits_fn(z)
  loss = discriminator_loss(prior_logits, code_logits)
  accuracy = 0.5 * jnp.mean(prior_logits > 0) + 0.5 * jnp.mean(code_logits < 0)
  metrics = {'discriminator_loss': loss, 'discriminator_accuracy': accuracy}
  return base.Output(loss, metrics)


@dataclasses.dataclass(frozen=True)
class Aae(base.Method):
  """The adversarial autoencoder. Makhzani et al. (2016)."""

  name: ClassVar[str] = 'aae'
  label: ClassVar[str] = 'Adversarial autoencoder'
  encoders: ClassVar[tuple[str, ...]] = (
    'deterministic',
    'gaussian',
    'implicit',
    'warped',
  )
  encoder_reason: ClassVar[str] = 'its codes are matched with the prior'

  # On digits, a weight of 100 is worse than 10: the codes are further from the
  # prior, and the reconstructions are worse.
  adversarial_weight: float = fields.at_least(
    0, default=10.0, help='weight of -log D(z), in nats'
  )
  num_discriminator_updates: int = fields.at_least(
    1, default=1, help='updates of the discriminator per step'
  )

  def build(self, model: model_lib.Model) -> base.Algorithm:

    def penalty_fn(params, z, keys, context):
      del keys, context
      # no gradient into the discriminator: this loss trains the encoder only
      frozen = jax.lax.stop_gradient(params['discriminator'])
      logits = model.modules['discriminator'].apply(frozen, z)
      confusion = confusion_loss(logits)
      return self.adversarial_weight * confusion, {'confusion': confusion}

    discriminator_fn = functools.partial(discriminator_objective, model=model)
    return base.with_normal_prior(
      model,
      self.first_phase(model, ae.objective, penalty_fn=penalty_fn),
      base.Phase(
        discriminator_fn,
        ('discriminator',),
        self.num_discriminator_updates,
        per_image=False,
        role=base.LATENT,
      ),
    )
