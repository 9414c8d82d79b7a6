"""The train state, the train step, and the only `pmap`.

`train_step` is (state, images, key) -> (state, metrics) for one device and
speaks of an axis name. `pmap_train_step` maps it over the devices; the same
function under `jax.vmap(axis_name=...)` is the one-device reference.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import chex
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import streams
from ldc_vae.data import pixels
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib
from ldc_vae.runtime import health

Array = jax.Array
AXIS_NAME = 'devices'


@struct.dataclass
class TrainState:
  """The state that a step reads and writes.

  Attributes:
    step: Train steps done, int32 [].
    params: Weights by network name.
    ema_params: Their exponential moving averages, which are evaluated.
    opt_state: Optimiser states by network name.
    stats: Statistics without a gradient, such as moments of the latents.
    skipped: Steps whose update was not finite, int32 [].
  """

  step: Array
  params: dict[str, chex.ArrayTree]
  ema_params: dict[str, chex.ArrayTree]
  opt_state: dict[str, optax.OptState]
  stats: Any
  skipped: Array


def create_train_state(
  key: Array,
  model: model_lib.Model,
  algorithm: base.Algorithm,
  txs: Mapping[str, optax.GradientTransformation],
) -> TrainState:
  """Returns the state before the first step, on the default device.

  Args:
    key: PRNG key of the weights.
    model: The networks.
    algorithm: It says which of them are trained.
    txs: One optimiser per trained network.
  """

  def create(key):
    params = model.init(key, algorithm.trained)
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      # copies: donating a buffer that occurs twice fails
      ema_params=jax.tree.map(jnp.copy, params),
      opt_state={name: txs[name].init(params[name]) for name in params},
      stats=algorithm.init_stats(),
      skipped=jnp.zeros((), jnp.int32),
    )

  # one program instead of one per array saves a second of a warm start
  return jax.jit(create)(key)


def is_logged(step: Array | int, log_every: int, num_steps: int):
  """Returns whether the metrics of a step, counted from 1, are logged.

  Args:
    step: A number, or an array of numbers.
    log_every: Steps between two lines of the log.
    num_steps: Train steps in all; the first and the last are logged too.
  """
  return (step % log_every == 0) | (step == 1) | (step == num_steps)


def prepare_images(images: Array, keys: Array, binarize: bool) -> Array:
  """Returns images [B, H, W, C] as float32 in [0, 1], drawn binary if asked.

  Args:
    images: uint8, or floats in [0, 1].
    keys: PRNG keys of the binary pixels, [B].
    binarize: Whether pixels are drawn binary, with their value as probability.
  """
  images = pixels.to_unit(images)
  if binarize:
    images = jax.vmap(jax.random.bernoulli)(keys, images)
  return images.astype(jnp.float32)


def eval_images(
  images: Array, key: Array, binarize: bool, first: Array | int
) -> tuple[Array, Array]:
  """Returns images for an evaluation, and one key per image for other noise.

  Args:
    images: uint8, or floats in [0, 1], [B, H, W, C].
    key: The key of all images.
    binarize: See `prepare_images`.
    first: The position of the first image among all.

  Returns:
    The images in [0, 1], and keys [B]. Pixels are drawn with other keys, so
    that the noise of an encoder does not depend on them.
  """
  keys = streams.image_keys(key, images.shape[0], None, first)
  pixel_keys = base.fold_in(keys, streams.Stream.PIXELS.value)
  return prepare_images(images, pixel_keys, binarize), keys


def train_step(
  state: TrainState,
  images: Array,
  key: Array,
  *,
  algorithm: base.Algorithm,
  txs: Mapping[str, optax.GradientTransformation],
  num_steps: int,
  log_every: int,
  ema_decay: float,
  binarize: bool,
  flip: bool,
  accumulate: int,
  non_finite: str,
  axis_name: str | None,
) -> tuple[TrainState, dict[str, Array]]:
  """Does one train step on one device: all phases, then the average.

  Args:
    state: The state.
    images: This device's part of the batch, uint8 [B, H, W, C].
    key: The run's base key, the same in every step and on every device.
    algorithm: The phases.
    txs: Optimisers by network name.
    num_steps: Train steps in all, for `progress`.
    log_every: Gradient norms take a tenth of a small step's time. So they are
      computed in logged steps only (see `is_logged`), and are -1 in the others.
      If updates may be skipped, they are computed in every step.
    ema_decay: The decay of the averaged weights, in [0, 1).
    binarize: Whether to draw binary images from the grey ones.
    flip: Whether to mirror half of the images, see `pixels.flip`.
    accumulate: Micro-batches of the per-image phases; it divides B.
    non_finite: 'stop' or 'skip', see `keep_finite`.
    axis_name: The device axis.

  Returns:
    The next state and the metrics, averaged over devices.
  """
  keys = streams.image_keys(
    jax.random.fold_in(key, state.step), images.shape[0], axis_name
  )
  if flip:
    images = pixels.flip(images, base.fold_in(keys, streams.Stream.FLIPS.value))
  images = prepare_images(images, base.fold_in(keys, 0), binarize)
  context = base.Context(
    progress=state.step / num_steps,
    stats=state.stats,
    ema_params=state.ema_params,
    axis_name=axis_name,
  )
  with_norms = is_logged(state.step + 1, log_every, num_steps)
  if non_finite == 'skip':
    with_norms = True
  params, opt_state = dict(state.params), dict(state.opt_state)
  metrics = {}
  for index, phase in enumerate(algorithm.phases):
    update_fn = functools.partial(
      _phase_update,
      phase=phase,
      txs=txs,
      images=images,
      keys=base.fold_in(keys, index + 1),
      accumulate=accumulate if phase.per_image else 1,
      with_norms=with_norms,
    )
    if phase.num_updates == 1:
      params, opt_state, output = update_fn(
        params, opt_state, context, jnp.zeros((), jnp.int32)
      )
      context = _following(context, output)
      phase_metrics = output.metrics
    else:
      params, opt_state, phase_metrics = _scan_updates(
        update_fn, params, opt_state, context, phase.num_updates
      )
    metrics.update(phase_metrics)
  decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
  ema_params = optax.incremental_update(params, state.ema_params, 1.0 - decay)
  new_state = TrainState(
    step=state.step + 1,
    params=params,
    ema_params=ema_params,
    opt_state=opt_state,
    stats=context.stats,
    skipped=state.skipped,
  )
  return keep_finite(state, new_state, metrics, non_finite=non_finite)


def keep_finite(
  state: TrainState,
  new_state: TrainState,
  metrics: Mapping[str, Array],
  *,
  non_finite: str,
) -> tuple[TrainState, dict[str, Array]]:
  """Counts an update that is not finite, and with 'skip' leaves it out.

  Args:
    state: The state before the step.
    new_state: The state after it.
    metrics: The metrics of the step. They are equal on all devices, and so is
      the choice.
    non_finite: What to do if a metric or a statistic is not finite. 'skip'
      keeps the old state. (The new weights are finite if the loss, the
      statistics and all gradient norms are.) 'stop' only counts: the loop ends
      there and saves nothing more. A gradient that is not finite then shows in
      the loss of the next step.

  Returns:
    The state, with the step counted in any case, and the metrics with
    'skipped', the number of updates so far that were not finite.
  """
  checked = health.checked(metrics, non_finite)
  finite = all_finite((checked, new_state.stats))
  if non_finite == 'skip':
    new_state = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old), new_state, state
    )
  skipped = state.skipped + (1 - finite.astype(jnp.int32))
  new_state = dataclasses.replace(
    new_state, step=state.step + 1, skipped=skipped
  )
  return new_state, {**metrics, health.SKIPPED: skipped}


def all_finite(tree: chex.ArrayTree) -> Array:
  """Returns whether all numbers of a tree are finite, a bool []."""
  leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
  return jnp.stack(leaves).all()


def pmap_train_step(
  train_step_fn: Callable[..., tuple[TrainState, dict[str, Array]]],
  num_devices: int | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
  """Maps a train step over the devices of all processes.

  The devices are in the order of the processes. So the part of the batch that
  a process passes has consecutive positions.

  Args:
    train_step_fn: `train_step` with all keywords except `axis_name`.
    num_devices: Devices to use, if there is one process; None for all.

  Returns:
    `(state, images [num_devices, B, H, W, C], key) -> (state, metrics)`. State
    and metrics have no device axis. The given state is donated.
  """
  devices = None  # all of them, of every process
  if num_devices is not None:
    devices = jax.local_devices()[:num_devices]
  if len(devices or jax.devices()) == 1:
    # one device needs no axis, and a call by jit costs less
    step_fn = jax.jit(
      functools.partial(train_step_fn, axis_name=None), donate_argnums=0
    )
    return lambda state, images, key: step_fn(state, images[0], key)
  mapped_fn = jax.pmap(
    functools.partial(train_step_fn, axis_name=AXIS_NAME),
    axis_name=AXIS_NAME,
    in_axes=(None, 0, None),
    out_axes=None,
    donate_argnums=0,
    devices=devices,
  )
  if jax.process_count() == 1:
    return mapped_fn
  # With several processes, pmap deletes a donated argument that it must move
  # before it is read. So it is moved here first, once: the state that a step
  # returns is already in place.
  mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS_NAME,))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def moved_step_fn(state, images, key):
    if not state.step.sharding.is_equivalent_to(everywhere, 0):
      state = jax.device_put(state, everywhere)
    return mapped_fn(state, images, key)

  return moved_step_fn


def _following(context: base.Context, output: base.Output) -> base.Context:
  """Returns the context of the next phase."""
  changes = {'latents': output.latents, 'stats': output.stats}
  return dataclasses.replace(
    context, **{k: v for k, v in changes.items() if v is not None}
  )


def _phase_update(
  params,
  opt_state,
  context,
  update,
  *,
  phase,
  txs,
  images,
  keys,
  accumulate,
  with_norms,
):
  """Does one optimiser update of the networks that a phase trains."""
  if phase.num_updates > 1:
    keys = base.fold_in(keys, update)
  context = dataclasses.replace(context, update=update)
  trained = {name: params[name] for name in phase.trains}

  def loss_fn(trained, images, keys):
    output = phase.objective_fn({**params, **trained}, images, keys, context)
    return output.loss, output

  grads, output = _accumulated_grad(loss_fn, trained, images, keys, accumulate)
  if context.axis_name is not None:
    grads, metrics, stats = jax.lax.pmean(
      (grads, output.metrics, output.stats), context.axis_name
    )
    # each device keeps the latents of its own images
    output = output.replace(metrics=metrics, stats=stats)
  norms = jax.lax.cond(
    with_norms,
    lambda: {name: optax.tree.norm(grads[name]) for name in phase.trains},
    # not NaN, which JAX_DEBUG_NANS would report as a failure
    lambda: {name: jnp.full((), -1.0, jnp.float32) for name in phase.trains},
  )
  norms = {f'{health.GRAD_NORM}{name}': x for name, x in norms.items()}
  output = output.replace(metrics={**output.metrics, **norms})
  params, opt_state = dict(params), dict(opt_state)
  for name in phase.trains:
    changes, opt_state[name] = txs[name].update(
      grads[name], opt_state[name], params[name]
    )
    params[name] = optax.apply_updates(params[name], changes)
  return params, opt_state, output


def _accumulated_grad(loss_fn, trained, images, keys, accumulate):
  """Returns the gradient of the mean loss over micro-batches, one by one."""
  grad_fn = jax.grad(loss_fn, has_aux=True)
  if accumulate == 1:
    return grad_fn(trained, images, keys)
  size = images.shape[0] // accumulate
  parts, latents = [], []
  # unrolled: convolutions inside lax.scan are several times slower on CPU
  for start in range(0, images.shape[0], size):
    rows = slice(start, start + size)
    grads, output = grad_fn(trained, images[rows], keys[rows])
    latents.append(output.latents)
    parts.append((grads, output.replace(latents=None)))
  grads, output = jax.tree.map(lambda *x: sum(x) / accumulate, *parts)
  if latents[0] is not None:
    output = output.replace(latents=jnp.concatenate(latents))
  return grads, output


def _scan_updates(update_fn, params, opt_state, context, num_updates):
  """Does several updates of a phase; metrics are means over them."""

  def body(carry, update):
    params, opt_state, output = update_fn(*carry, context, update)
    return (params, opt_state), output.metrics

  (params, opt_state), metrics = jax.lax.scan(
    body, (params, opt_state), jnp.arange(num_updates)
  )
  return params, opt_state, jax.tree.map(jnp.mean, metrics)
