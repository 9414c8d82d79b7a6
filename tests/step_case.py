"""Small methods, and their steps in each form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import methods
from ldc_vae import step as step_lib
from ldc_vae.configs import default
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib

SHAPE = (4, 4, 1)
BATCH = 8
NUM_STEPS = 40
METHODS = {
  'aae': ('aae', dict(num_discriminator_updates=2)),
  'ae': ('ae', {}),
  'beta_vae': ('beta_vae', {}),
  'info_vae': ('info_vae', {}),
  'iwae': ('iwae', {}),
  'lebm': ('lebm', dict(posterior_steps=2, prior_steps=2)),
  'rae_gp': ('rae_gp', {}),
  'rae_l2': ('rae_l2', {}),
  'stein_vae': ('stein_vae', {}),
  'vamp': ('vamp', {}),
  # a weight whose rounding is not larger than the rest
  'wae_mmd': ('wae_mmd', dict(mmd_weight=10.0)),
  'vae': ('vae', dict(num_samples=2)),
  'ldc': (
    'ldc',
    dict(
      num_particles=3,
      num_latent_updates=2,
      latents_per_image=2,
      latent_energy_weight=0.5,
    ),
  ),
  'ldc_default': ('ldc', {}),
}


@functools.cache
def create_model(name: str = 'vae') -> model_lib.Model:
  """Small networks for 4x4 images, with the encoder of a method."""
  encoder = default.create(METHODS[name][0]).model.encoder
  return model_lib.create_model(
    SHAPE,
    latent_size=2,
    hidden_sizes=(12,),
    sampler_width=8,
    sampler_blocks=1,
    energy_width=8,
    energy_blocks=1,
    noise_size=3,
    num_pseudo_inputs=3,
    scale=0.5,
    encoder=encoder,
  )


@functools.cache
def create_algorithm(name: str) -> base.Algorithm:
  """The algorithm of an entry of `METHODS`."""
  key, overrides = METHODS[name]
  return methods.METHODS[key](**overrides).build(create_model(name))


@functools.cache
def set_up(name: str, optimizer: str):
  """The algorithm, its optimisers, and `train_step` but for the axis."""
  algorithm = create_algorithm(name)
  if optimizer == 'sgd':
    txs = {name: optax.sgd(0.02) for name in algorithm.trained}
  else:
    txs = {name: optax.adam(1e-3) for name in algorithm.trained}
  train_step = functools.partial(
    step_lib.train_step,
    algorithm=algorithm,
    txs=txs,
    num_steps=NUM_STEPS,
    log_every=4,
    non_finite='stop',
    ema_decay=0.15,
    binarize=False,
    flip=False,
    accumulate=1,
  )
  return algorithm, txs, train_step


def create_state(name: str, optimizer: str) -> step_lib.TrainState:
  """The state before the first step."""
  algorithm, txs, _ = set_up(name, optimizer)
  return step_lib.create_train_state(
    jax.random.key(0), create_model(name), algorithm, txs
  )


@functools.cache
def first_state(name: str, optimizer: str = 'sgd') -> step_lib.TrainState:
  """`create_state`, compiled once, as NumPy arrays."""
  return jax.device_get(create_state(name, optimizer))


def fresh_state(name: str, optimizer: str = 'sgd') -> step_lib.TrainState:
  """A fresh state, the same each time."""
  return jax.tree.map(jnp.array, first_state(name, optimizer))


def batch_images(index: int = 0) -> np.ndarray:
  """The batch of a step, uint8 [8, H, W, C]."""
  rng = np.random.default_rng((0, index))
  return rng.integers(0, 256, size=(BATCH, *SHAPE), dtype=np.uint8)


def split_batch(images: np.ndarray, num_devices: int) -> np.ndarray:
  """[B, ...] -> [num_devices, B / num_devices, ...]."""
  return images.reshape(num_devices, -1, *images.shape[1:])


def make_step(train_step, kind: str):
  """`(state, images [8, ...], key) -> (state, metrics)` in one of its forms.

  Args:
    train_step: But for the axis.
    kind: 'single' (no axis), 'pmap_N' (N devices) or 'vmap_N' (emulated).
  """
  if kind == 'single':
    return jax.jit(functools.partial(train_step, axis_name=None))
  form, num_devices = kind.split('_')
  num_devices = int(num_devices)
  if form == 'pmap':
    mapped = step_lib.pmap_train_step(train_step, num_devices)
  else:
    mapped = jax.jit(
      jax.vmap(
        functools.partial(train_step, axis_name=step_lib.AXIS_NAME),
        axis_name=step_lib.AXIS_NAME,
        in_axes=(None, 0, None),
        out_axes=None,
      )
    )
  return lambda state, images, key: mapped(
    state, split_batch(images, num_devices), key
  )


def run_steps(step_fn, state, num_steps: int):
  """The state after some steps, and each step's metrics."""
  history = []
  for index in range(num_steps):
    state, metrics = step_fn(state, batch_images(index), jax.random.key(5))
    history.append(jax.device_get(metrics))  # blocks, too
  return jax.device_get(state), history


@functools.cache
def compiled_step(name: str, optimizer: str, kind: str):
  """The step of a method in one of its forms, compiled once."""
  _, _, train_step = set_up(name, optimizer)
  return make_step(train_step, kind)


@functools.cache
def run_single(name: str, optimizer: str, num_steps: int):
  """`run_steps` of the step without an axis."""
  step_fn = compiled_step(name, optimizer, 'single')
  return run_steps(step_fn, fresh_state(name, optimizer), num_steps)


def largest_change(before, after) -> float:
  """Largest absolute difference of two trees."""
  before, after = jax.device_get((before, after))
  differences = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), before, after)
  return float(max(jax.tree.leaves(differences)))
