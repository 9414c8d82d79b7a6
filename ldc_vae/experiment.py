"""From a config to the objects of a run: data, networks, method, optimisers.

Config objects are read here and in the loops, and go no further down.
"""

from collections.abc import Callable, Mapping
import functools
import math
import os
from typing import NamedTuple

from absl import logging
import jax
from ml_collections import config_dict
import optax

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import optimizers
from ldc_vae import sections
from ldc_vae import step as step_lib
from ldc_vae import streams
from ldc_vae.data import datasets
from ldc_vae.data import pixels
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib

# Checkpoints and validations of a run whose config does not say how many.
_DEFAULT_CHECKPOINTS = 20


class Experiment(NamedTuple):
  """The objects that a config describes.

  Attributes:
    dataset: All splits.
    model: The networks.
    algorithm: The method with these networks.
    txs: One optimiser per trained network.
    num_steps: Train steps in all.
    steps_per_epoch: Whole batches in the training split.
    validate_every: Steps between validations.
    checkpoint_every: Steps between checkpoints.
    key: The base key of the run.
  """

  dataset: datasets.Dataset
  model: model_lib.Model
  algorithm: base.Algorithm
  txs: dict[str, optax.GradientTransformation]
  num_steps: int
  steps_per_epoch: int
  validate_every: int
  checkpoint_every: int
  key: jax.Array

  def init_state(self) -> step_lib.TrainState:
    """Returns the state before the first step."""
    init_key = jax.random.fold_in(self.key, streams.Stream.INIT.value)
    return step_lib.create_train_state(
      init_key, self.model, self.algorithm, self.txs
    )

  def abstract_state(self) -> step_lib.TrainState:
    """Returns the shapes and dtypes of a state; computes nothing."""
    return jax.eval_shape(self.init_state)


def abstract_state(
  config: config_dict.ConfigDict,
  model: model_lib.Model,
  algorithm: base.Algorithm,
) -> step_lib.TrainState:
  """Returns the shapes and dtypes of a state, for which no data are needed.

  Args:
    config: A validated config.
    model: Its networks.
    algorithm: Its method with these networks.
  """
  txs = optimizers.create_optimizers(
    algorithm,
    sections.Optimizer.from_config(config.optimizer),
    num_steps=1,  # no shape depends on it
  )
  return jax.eval_shape(
    lambda key: step_lib.create_train_state(key, model, algorithm, txs),
    jax.random.key(0),
  )


def create(config: config_dict.ConfigDict) -> Experiment:
  """Loads the data and builds everything that `config` names.

  Args:
    config: A validated config.

  Returns:
    The experiment.

  Raises:
    UserError: A field does not fit the data or the devices.
    OSError: The data cannot be read or downloaded.
  """
  dataset = load_dataset(config)
  model = create_model(config, dataset.image_shape)
  algorithm = create_algorithm(config, model)

  batch_size = config.train.batch_size
  num_train = len(dataset.images['train'])
  num_steps = count_steps(config, num_train)
  steps_per_epoch = num_train // batch_size
  often = max(1, math.ceil(num_steps / _DEFAULT_CHECKPOINTS))
  txs = optimizers.create_optimizers(
    algorithm,
    sections.Optimizer.from_config(config.optimizer),
    num_steps=num_steps,
  )
  return Experiment(
    dataset=dataset,
    model=model,
    algorithm=algorithm,
    txs=txs,
    num_steps=num_steps,
    steps_per_epoch=steps_per_epoch,
    validate_every=config.train.validate_every or often,
    checkpoint_every=config.train.checkpoint_every or often,
    key=jax.random.key(config.seed),
  )


def load_dataset(config: config_dict.ConfigDict) -> datasets.Dataset:
  """Returns all splits of the data set that `config` names.

  Raises:
    UserError: A data set of a user's own is no uint8 [N, H, W, C], or its
      images cannot be mirrored.
  """
  options = config.dataset.to_dict()
  for of_the_train_step in ('binarize', 'flip'):
    del options[of_the_train_step]
  dataset = datasets.load(options.pop('name'), **options)
  for split, images in dataset.images.items():
    pixels.check_uint8(
      images, f'config.dataset.name={dataset.name}: {split} images'
    )
  if config.dataset.flip and dataset.image_shape[1] == 1:
    raise errors.UserError(
      f'config.dataset.flip=True: images of shape {dataset.image_shape} have'
      ' one column, which has no mirror image; use flip=false'
    )
  return dataset


def count_steps(config: config_dict.ConfigDict, num_train: int) -> int:
  """Returns the number of train steps; fails if no batch can be filled.

  Args:
    config: A validated config.
    num_train: Images of the training split.
  """
  batch_size = config.train.batch_size
  if batch_size > num_train:
    raise errors.UserError(
      f'config.train.batch_size={batch_size} is more than the {num_train}'
      f' training images of {config.dataset.name}; lower it'
    )
  steps_per_epoch = num_train // batch_size
  epochs = config.train.num_epochs
  num_steps = config.train.num_steps or epochs * steps_per_epoch
  if num_steps >= 2**31:  # they are counted in int32
    raise errors.UserError(
      f'config.train.num_epochs={epochs} is {num_steps} steps, too many to'
      ' count; lower it'
    )
  return num_steps


def create_model(
  config: config_dict.ConfigDict, image_shape: tuple[int, int, int]
) -> model_lib.Model:
  """Returns the networks of `config.model` for images of a shape."""
  return model_lib.create_model(image_shape, **config.model.to_dict())


def create_algorithm(
  config: config_dict.ConfigDict, model: model_lib.Model
) -> base.Algorithm:
  """Returns the method of `config.method` with these networks."""
  return config_lib.create_method(config).build(model)


def make_train_step(
  config: config_dict.ConfigDict,
  algorithm: base.Algorithm,
  txs: Mapping[str, optax.GradientTransformation],
  num_steps: int,
) -> Callable[..., tuple[step_lib.TrainState, dict[str, jax.Array]]]:
  """Returns `step.train_step` with all keywords except `axis_name`."""
  return functools.partial(
    step_lib.train_step,
    algorithm=algorithm,
    txs=txs,
    num_steps=num_steps,
    log_every=config.train.log_every,
    ema_decay=config.train.ema_decay,
    binarize=config.dataset.binarize,
    flip=config.dataset.flip,
    accumulate=config.train.accumulate,
    non_finite=config.train.non_finite,
  )


def log_parameters(state: step_lib.TrainState) -> None:
  """Logs how many weights each network has."""
  counts = {
    name: model_lib.num_parameters(params)
    for name, params in state.params.items()
  }
  listed = ', '.join(f'{name} {count:,}' for name, count in counts.items())
  logging.info('parameters: %s; in all %s', listed, f'{sum(counts.values()):,}')


def require_float32() -> None:
  """Raises a `UserError` if jax has 64 bits: a run has the numbers of 32."""
  if jax.config.read('jax_enable_x64'):
    given = os.environ.get('JAX_ENABLE_X64', 'True')
    raise errors.UserError(
      f'JAX_ENABLE_X64={given}: runs and their checkpoints are in float32;'
      ' unset JAX_ENABLE_X64'
    )


def check_batch_size(batch_size: int, accumulate: int) -> None:
  """Raises unless every device gets the same number of whole micro-batches.

  Args:
    batch_size: Images of a step.
    accumulate: Micro-batches of a device.

  Raises:
    UserError: They do not fit the devices.
  """
  devices = jax.device_count()
  if batch_size % devices:
    raise errors.UserError(
      f'config.train.batch_size={batch_size} is not divisible by {devices}'
      f' devices; use a multiple of {devices}'
    )
  if batch_size // devices % accumulate:
    raise errors.UserError(
      f'config.train.accumulate={accumulate} does not divide the'
      f' {batch_size // devices} images of each of {devices} devices'
      f' (config.train.batch_size={batch_size}); use one that does'
    )
