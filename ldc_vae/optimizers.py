"""Learning rate schedules, and an optimiser for each network."""

import optax

from ldc_vae.methods import base


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
  algorithm: base.Algorithm,
  *,
  num_steps: int,
  learning_rate: float,
  latent_learning_rate: float,
  latent_final_fraction: float,
  schedule: str,
  warmup_steps: int,
  b1: float,
  latent_b1: float,
  b2: float,
  weight_decay: float,
  clip_norm: float,
) -> dict[str, optax.GradientTransformation]:
  """Returns an optimiser for each network: clip, then Adam (W).

  Args:
    algorithm: Its phases say how many updates a network has per step.
    num_steps: Train steps in all.
    learning_rate: Peak rate of phases with role AUTOENCODER.
    latent_learning_rate: Peak rate of phases with role LATENT.
    latent_final_fraction: Where the cosine of that rate ends, as a fraction of
      its peak.
    schedule: 'cosine' or 'constant'.
    warmup_steps: In train steps.
    b1: Adam's first decay, role AUTOENCODER.
    latent_b1: Adam's first decay, role LATENT.
    b2: Adam's second decay.
    weight_decay: Decoupled; 0 for none.
    clip_norm: Bound on the norm of each network's gradient; 0 for none.

  Returns:
    A dict by network name.
  """
  txs = {}
  for phase in algorithm.phases:
    is_autoencoder = phase.role == base.AUTOENCODER
    peak = learning_rate if is_autoencoder else latent_learning_rate
    rate = learning_rate_schedule(
      schedule,
      peak,
      warmup_steps=warmup_steps * phase.num_updates,
      num_steps=num_steps * phase.num_updates,
      final_fraction=0.0 if is_autoencoder else latent_final_fraction,
    )
    decay1 = b1 if is_autoencoder else latent_b1
    if weight_decay:
      adam = optax.adamw(rate, decay1, b2, weight_decay=weight_decay)
    else:
      adam = optax.adam(rate, decay1, b2)
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    txs.update({name: optax.chain(*clip, adam) for name in phase.trains})
  return txs
