"""The adversarial autoencoder.

Makhzani et al. (2016), https://arxiv.org/abs/1511.05644, section 2: a
discriminator tells codes from draws of the prior, and the encoder learns to
confuse it. Reconstruction and confusion are one loss here, with a weight, as in
algorithm 1 of Tolstikhin et al. (2018), https://arxiv.org/abs/1711.01558.
"""

import functools

import jax
import jax.numpy as jnp

from ldc_vae.methods import ae
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib

Array = jax.Array


def discriminator_loss(prior_logits: Array, code_logits: Array) -> Array:
  """-E log D(prior) - E log(1 - D(code)), D = sigmoid(logit).

  Goodfellow et al. (2014), eq. 1, https://arxiv.org/abs/1406.2661.

  Args:
    prior_logits: Log odds of the prior's draws, shape [n].
    code_logits: Log odds of the codes, shape [n].

  Returns:
    A scalar in nats; 2 log 2 where D = 1/2.
  """
  return jnp.mean(jax.nn.softplus(-prior_logits)) + jnp.mean(
      jax.nn.softplus(code_logits)
  )


def confusion_loss(code_logits: Array) -> Array:
  """-E log D(code), the loss of a generator that does not saturate; nats."""
  return jnp.mean(jax.nn.softplus(-code_logits))


def discriminator_objective(
    params,
    images: Array,
    keys: Array,
    context: base.Context,
    *,
    model: model_lib.Model,
) -> tuple[Array, tuple[dict[str, Array], base.Context]]:
  """One update of the discriminator, on the codes of the first phase.

  Args:
    params: With 'discriminator'.
    images: Unused.
    keys: Shape [B].
    context: With 'latents' [B, 1, D].
    model: The networks.

  Returns:
    The loss and (metrics, updates), see `base`.
  """
  del images
  z = context['latents'][:, 0]
  draws = base.draw_normal(keys, z.shape[1:])
  logits_fn = functools.partial(
      model.modules['discriminator'].apply, params['discriminator']
  )
  prior_logits, code_logits = logits_fn(draws), logits_fn(z)
  loss = discriminator_loss(prior_logits, code_logits)
  accuracy = 0.5 * jnp.mean(prior_logits > 0) + 0.5 * jnp.mean(code_logits < 0)
  metrics = {'discriminator_loss': loss, 'discriminator_accuracy': accuracy}
  return loss, (metrics, {})


def create(
    model: model_lib.Model,
    *,
    adversarial_weight: float,
    num_discriminator_updates: int,
) -> base.Method:
  """The method `aae`.

  Args:
    model: With an encoder of any kind.
    adversarial_weight: Of -E log D(code), in nats.
    num_discriminator_updates: Per train step.

  Returns:
    The method.

  Raises:
    ValueError: There is no encoder.
  """
  base.require_encoder(
      'aae',
      model,
      'deterministic',
      'gaussian',
      'implicit',
      'warped',
      reason='its codes are matched with the prior',
  )

  def penalty_fn(params, z, keys, context):
    del keys, context
    # the encoder confuses the discriminator as it is
    frozen = jax.lax.stop_gradient(params['discriminator'])
    confusion = confusion_loss(model.modules['discriminator'].apply(frozen, z))
    return adversarial_weight * confusion, {'confusion': confusion}

  autoencoder_fn = functools.partial(
      ae.objective, model=model, penalty_fn=penalty_fn
  )
  discriminator_fn = functools.partial(discriminator_objective, model=model)
  return base.with_normal_prior(
      model,
      base.Phase(autoencoder_fn, model.autoencoder_names()),
      base.Phase(
          discriminator_fn,
          ('discriminator',),
          num_discriminator_updates,
          per_image=False,
      ),
  )
