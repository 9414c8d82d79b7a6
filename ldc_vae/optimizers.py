"""Learning rate schedules, and an optimiser for each network."""

import optax

from ldc_vae import sections
from ldc_vae.methods import base
from ldc_vae.samplers import training


def learning_rate_schedule(
  name: str,
  peak: float,
  *,
  warmup_steps: int,
  num_steps: int,
  final_fraction: float = 0.0,
) -> optax.Schedule:
  """Returns a linear warm-up, then a cosine or a constant.

  Args:
    name: 'cosine' or 'constant'.
    peak: The rate after warm-up.
    warmup_steps: Updates of the warm-up from 0, limited to half of all.
    num_steps: Updates in all.
    final_fraction: The end of the cosine, as a fraction of the peak.

  Returns:
    A function of the number of updates done.

  Raises:
    ValueError: The name is unknown.
  """
  warmup_steps = min(warmup_steps, num_steps // 2)
  if name == 'cosine':
    rest = optax.cosine_decay_schedule(
      peak, max(num_steps - warmup_steps, 1), final_fraction
    )
  elif name == 'constant':
    rest = optax.constant_schedule(peak)
  else:
    raise ValueError(f'optimizer.schedule={name!r}; known: cosine, constant')
  warmup = optax.linear_schedule(0.0, peak, max(warmup_steps, 1))
  return optax.join_schedules([warmup, rest], [warmup_steps])


def create_optimizers(
  algorithm: base.Algorithm, options: sections.Optimizer, *, num_steps: int
) -> dict[str, optax.GradientTransformation]:
  """Returns an optimiser for each network: clip, then Adam (W) or Muon.

  Args:
    algorithm: Its phases say how many updates a network has per step. Phases
      with role LATENT have the `latent_` options.
    options: The options.
    num_steps: Train steps in all.

  Returns:
    A dict by network name.
  """
  txs = {}
  for phase in algorithm.phases:
    latent = phase.role == base.LATENT
    rate = learning_rate_schedule(
      options.schedule,
      options.latent_learning_rate if latent else options.learning_rate,
      warmup_steps=options.warmup_steps * phase.num_updates,
      num_steps=num_steps * phase.num_updates,
      final_fraction=options.latent_final_fraction if latent else 0.0,
    )
    b1 = options.latent_b1 if latent else options.b1
    decay = options.weight_decay
    if latent and options.latent_optimizer == 'muon':
      rule = training.muon(rate, b1, options.b2, weight_decay=decay)
    elif decay:
      rule = optax.adamw(rate, b1, options.b2, weight_decay=decay)
    else:
      rule = optax.adam(rate, b1, options.b2)
    clip = options.clip_norm
    clips = [optax.clip_by_global_norm(clip)] if clip else []
    txs.update({name: optax.chain(*clips, rule) for name in phase.trains})
  return txs
