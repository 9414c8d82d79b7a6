"""Counts the operations of a train step, and those a device can do.

A step's operations are counted from its program before XLA optimises it:
products and convolutions, and everything elementwise, on which little depends.
"""

from collections.abc import Mapping, Sequence
import os
import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import optimizers
from ldc_vae import sections
from ldc_vae import step as step_lib
from ldc_vae.models import model as model_lib

IMAGE_SHAPES = {
  'digits': (8, 8, 1),
  'mnist': (28, 28, 1),
  'fashion_mnist': (28, 28, 1),
  'cifar10': (32, 32, 3),
  'celeba64': (64, 64, 3),
}
NUM_STEPS = 10_000  # of the schedules; more than are run

# Operations per second by the data sheets, without sparsity, by the beginning
# of the device's name: 'float32' is TF32, in which XLA multiplies by default.
PEAKS = {
  'NVIDIA H100 80GB': {'float32': 495e12, 'bfloat16': 989e12},
  'NVIDIA H200': {'float32': 495e12, 'bfloat16': 989e12},
}
_MATMUL_SIZES = {'cpu': 1536}
_OTHER_MATMUL_SIZE = 8192
_MATMUL_CALLS = 5


class Program(NamedTuple):
  """The parts of a train step."""

  config: Any
  algorithm: Any
  txs: Any
  model: Any


def create_program(
  spec: str,
  fields: Sequence[str] | Mapping[str, Any] = (),
  overrides: Sequence[str] = (),
) -> Program:
  """Config, algorithm, optimisers and networks of a config.

  Args:
    spec: The spec of the config.
    fields: The fields of the config, or as on the command line.
    overrides: Overrides as on the command line, after these.

  Raises:
    ValueError: A field is wrong, or the images of the data set may have any
      shape.
  """
  config = config_lib.override(config_lib.load(spec, fields), overrides)
  shape = IMAGE_SHAPES.get(config.dataset.name)
  if shape is None:
    raise ValueError(
      f'config.dataset.name={config.dataset.name} has images of any shape;'
      f' use one of {", ".join(IMAGE_SHAPES)}'
    )
  model = experiment_lib.create_model(config, shape)
  algorithm = experiment_lib.create_algorithm(config, model)
  txs = optimizers.create_optimizers(
    algorithm,
    sections.Optimizer.from_config(config.optimizer),
    num_steps=NUM_STEPS,
  )
  return Program(config, algorithm, txs, model)


def of_step(program: Program, batch_size: int) -> float:
  """Operations of a step of one device, every update of every phase.

  Convolutions are those of an accelerator where the program's config says
  `convolution=native`: those of the CPU make other products of them. Positions
  outside an image are not counted.

  Args:
    program: The step.
    batch_size: Images.
  """
  # a loop over updates would be counted once, whatever its length
  phases = tuple(
    phase._replace(num_updates=1)
    for phase in program.algorithm.phases
    for _ in range(phase.num_updates)
  )
  algorithm = program.algorithm._replace(phases=phases)
  return count(program._replace(algorithm=algorithm), batch_size)


def count(program: Program, batch_size: int) -> float:
  """Operations of one step of one device, from its program; loops once.

  Raises:
    ValueError: jax is not to use the CPU.
  """
  config, algorithm, txs, model = program
  step_fn = experiment_lib.make_train_step(config, algorithm, txs, NUM_STEPS)
  key = jax.random.key(0)
  state = jax.eval_shape(
    lambda key: step_lib.create_train_state(key, model, algorithm, txs), key
  )
  images = jax.ShapeDtypeStruct((batch_size, *model.image_shape), np.uint8)
  # a GPU's compiler does not count what it has not compiled
  try:
    (cpu, *_) = jax.local_devices(backend='cpu')
  except RuntimeError as error:
    platforms = os.environ.get('JAX_PLATFORMS', '')
    raise ValueError(
      f'JAX_PLATFORMS={platforms} leaves no CPU, where operations are'
      f' counted; set it to {platforms},cpu'
    ) from error
  with jax.default_device(cpu):
    lowered = jax.jit(lambda *args: step_fn(*args, axis_name=None)).lower(
      state, images, key
    )
  return float(lowered.cost_analysis()['flops'])


def num_weights(program: Program) -> dict[tuple[str, ...], int]:
  """The weights that each phase trains, by the names of its networks."""
  algorithm = program.algorithm
  params = jax.eval_shape(
    lambda: program.model.init(jax.random.key(0), algorithm.trained)
  )
  return {
    phase.trains: sum(
      model_lib.num_parameters(params[name]) for name in phase.trains
    )
    for phase in algorithm.phases
  }


def matmul_rate(dtype: str) -> float:
  """Operations per second of a large matmul here, in XLA's default precision.

  Args:
    dtype: The dtype of its arguments.

  Returns:
    By the median of some calls.
  """
  size = _MATMUL_SIZES.get(jax.default_backend(), _OTHER_MATMUL_SIZE)
  x = jax.random.normal(jax.random.key(0), (size, size), dtype)
  matmul = jax.jit(jnp.matmul)
  jax.block_until_ready(matmul(x, x))
  seconds = []
  for _ in range(_MATMUL_CALLS):
    start = time.perf_counter()
    jax.block_until_ready(matmul(x, x))
    seconds.append(time.perf_counter() - start)
  return 2.0 * size**3 / statistics.median(seconds)


def peak(device_kind: str, dtype: str) -> float | None:
  """Operations per second by the data sheet; None for an unlisted device."""
  for name, rates in PEAKS.items():
    if device_kind.startswith(name):
      return rates[dtype]
  return None
