"""The latent space energy-based prior, by short-run Langevin dynamics.

Pang et al. (2020), https://arxiv.org/abs/2006.08205; code:
https://github.com/bpucla/latent-space-EBM-prior. The prior is
p(z) ~ exp(-f(z)) N(z; 0, I) with a net f. There is no encoder. Short Langevin
chains from N(0, I) draw from the posterior and from the prior, also after the
training.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ldc_vae import energy
from ldc_vae import fields
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib

Array = jax.Array

# The number of chains that estimate the posterior mean of an image.
_NUM_CHAINS = 4


def prior_energy(params, z: Array, *, model: model_lib.Model) -> Array:
  """Returns f(z) + |z|^2 / 2, which is -log p(z) up to a constant; nats."""
  f = model.modules['energy'].apply(params['energy'], z)
  return f + 0.5 * jnp.sum(jnp.square(z))


def posterior_energy(
  params, z: Array, image: Array, *, model: model_lib.Model
) -> Array:
  """Returns -log p(x, z) of z [D] and x [H, W, C], up to a constant; nats."""
  likelihood = model.log_likelihood(params, image[None], z[None, None])[0, 0]
  return prior_energy(params, z, model=model) - likelihood


def prior_draws(
  params,
  keys: Array,
  *,
  model: model_lib.Model,
  step_size: float,
  num_steps: int,
) -> Array:
  """Draws z [N, D] from the prior by Langevin chains from N(0, I)."""
  energy_fn = functools.partial(prior_energy, params, model=model)

  def draw(key, start):
    return energy.langevin(
      key, start, energy_fn, step_size=step_size, num_steps=num_steps
    )

  starts = base.draw_normal(keys, (model.latent_size,))
  return jax.vmap(draw)(base.fold_in(keys, 1), starts)


def posterior_draws(
  params,
  images: Array,
  keys: Array,
  *,
  model: model_lib.Model,
  step_size: float,
  num_steps: int,
) -> Array:
  """Draws z [B, D] from posteriors by Langevin chains from N(0, I)."""

  def draw(key, start, image):
    energy_fn = functools.partial(
      posterior_energy, params, image=image, model=model
    )
    return energy.langevin(
      key, start, energy_fn, step_size=step_size, num_steps=num_steps
    )

  starts = base.draw_normal(keys, (model.latent_size,))
  return jax.vmap(draw)(base.fold_in(keys, 1), starts, images)


def decoder_objective(
  params,
  images: Array,
  keys: Array,
  context: base.Context,
  *,
  model: model_lib.Model,
  posterior_fn: Callable[..., Array],
) -> base.Output:
  """Returns the mean of -log p(x|z) over images, at one posterior draw each.

  Args:
    params: Weights with 'decoder' and 'energy'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: PRNG keys, shape [B].
    context: Unused.
    model: The networks.
    posterior_fn: `posterior_draws` with its keyword arguments.

  Returns:
    The loss in nats, the metrics and latents [B, 1, D].
  """
  del context
  # no gradient along the chains: that of log p(x) needs only their ends
  frozen = jax.lax.stop_gradient(params)
  z = jax.lax.stop_gradient(posterior_fn(frozen, images, keys))[:, None]
  loss = -jnp.mean(model.log_likelihood(params, images, z))
  metrics = {
    'loss': loss,
    'reconstruction': loss,
    'latent_mean_square': jnp.mean(jnp.square(z)),
  }
  return base.Output(loss, metrics, latents=z)


def energy_objective(
  params,
  images: Array,
  keys: Array,
  context: base.Context,
  *,
  model: model_lib.Model,
  prior_fn: Callable[..., Array],
  r1_weight: float,
) -> base.Output:
  """Returns E f(posterior draws) - E f(prior draws) plus a gradient penalty.

  Args:
    params: Weights with 'energy'.
    images: Unused.
    keys: PRNG keys, shape [B].
    context: The context with posterior draws, `latents` [B, 1, D].
    model: The networks.
    prior_fn: `prior_draws` with its keyword arguments.
    r1_weight: The weight R1 in `energy.contrastive_loss`.

  Returns:
    The loss in nats, and the metrics.
  """
  del images
  assert context.latents is not None  # the first phase gave them
  # no gradient along the chains
  samples = prior_fn(jax.lax.stop_gradient(params), keys)
  energy_fn = functools.partial(model.modules['energy'].apply, params['energy'])
  loss, terms = energy.contrastive_loss(
    energy_fn, context.latents[:, 0], samples, r1_weight
  )
  terms['prior_mean_square'] = jnp.mean(jnp.square(samples))
  return base.Output(loss, terms)


def encode(
  params,
  stats,
  images: Array,
  keys: Array,
  *,
  posterior_fn: Callable[..., Array],
) -> Array:
  """Returns independent draws [B, K, D] of the posterior of each image."""
  del stats
  chains = [
    posterior_fn(params, images, base.fold_in(keys, index))
    for index in range(_NUM_CHAINS)
  ]
  return jnp.stack(chains, axis=1)


@dataclasses.dataclass(frozen=True)
class Lebm(base.Method):
  """The latent space energy-based prior. Pang et al. (2020).

  The numbers of steps and the step sizes are those of their code.
  """

  name: ClassVar[str] = 'lebm'
  label: ClassVar[str] = 'Latent energy-based prior'
  encoders: ClassVar[tuple[str, ...]] = ('none',)
  encoder_reason: ClassVar[str] = 'it infers by Langevin dynamics'
  defaults: ClassVar[Mapping[str, Any]] = {
    # a fifth of the decoder's, as in their code
    'optimizer.latent_learning_rate': 2e-4,
  }

  posterior_steps: int = fields.at_least(
    1, default=20, help='Langevin steps of a posterior draw, from N(0, I)'
  )
  posterior_step_size: float = fields.positive(
    default=0.1, help='step size of a posterior draw, in latent units'
  )
  prior_steps: int = fields.at_least(
    1, default=60, help='Langevin steps of a prior draw'
  )
  prior_step_size: float = fields.positive(
    default=0.4, help='step size of a prior draw, in latent units'
  )
  # The paper has no such penalty, and a learning rate of 2e-5. Here f without
  # the penalty became so steep that the chains diverged.
  r1_weight: float = fields.at_least(
    0, default=0.1, help='weight of E|grad f|^2 / 2 on posterior draws'
  )

  def build(self, model: model_lib.Model) -> base.Algorithm:
    self.require_encoder(model.encoder)
    posterior_fn = functools.partial(
      posterior_draws,
      model=model,
      step_size=self.posterior_step_size,
      num_steps=self.posterior_steps,
    )
    prior_fn = functools.partial(
      prior_draws,
      model=model,
      step_size=self.prior_step_size,
      num_steps=self.prior_steps,
    )
    decoder_fn = functools.partial(
      decoder_objective, model=model, posterior_fn=posterior_fn
    )
    energy_fn = functools.partial(
      energy_objective,
      model=model,
      prior_fn=prior_fn,
      r1_weight=self.r1_weight,
    )
    return base.Algorithm(
      phases=(
        base.Phase(decoder_fn, model.autoencoder_names()),
        base.Phase(energy_fn, ('energy',), per_image=False, role=base.LATENT),
      ),
      init_stats=tuple,
      generate=lambda params, stats, keys: prior_fn(params, keys),
      log_prior=None,  # its normaliser is not known
      encode=functools.partial(encode, posterior_fn=posterior_fn),
    )
