"""Whether a run fits the memory, before anything is built.

The numbers are lower bounds: weights with what is kept beside them, and one
layer of the decoder for as many latents as are decoded at once. So a run that
is refused here would be killed, after minutes of compiling. A run whose decoder
keeps more for its gradient than is free gets a warning: the compiler may find a
way to keep less.
"""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any

from absl import logging
import jax
from ml_collections import config_dict

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import fields
from ldc_vae import step as step_lib
from ldc_vae.models import sizes
from ldc_vae.runtime import memory

_DRAWS = ('num_particles', 'num_samples')  # options of methods: draws per image


def check(
  config: config_dict.ConfigDict, experiment: experiment_lib.Experiment
) -> None:
  """Raises a `UserError` for a run that cannot fit the memory.

  Args:
    config: A validated config.
    experiment: What `experiment.create(config)` gives.
  """
  state = experiment.abstract_state()
  free = _free()
  copies = jax.local_device_count() if _on_cpu() else 1  # each has the state
  wanted = copies * (_bytes(state) + _bytes(state.params))  # with gradients
  if wanted > free:
    name = max(_sizes(config), key=lambda each: _largest(config.model[each]))
    raise _refusal({f'model.{name}': config.model[name]}, wanted, free)
  layer = _largest_layer(experiment, state)
  decoded = [
    ({name: config_lib.flatten(config)[name] for name in names}, count)
    for names, count in _decoded(config)
  ]
  for values, count in decoded:
    if count * layer > free:
      raise _refusal(values, count * layer, free)
  values, count = decoded[0]  # those of a step
  kept = wanted + copies * count * _kept(experiment, state)
  if kept > free:
    given = ', '.join(
      f'config.{name}={value}' for name, value in values.items()
    )
    logging.warning(
      '%s may not fit: a step keeps about %s of memory, of which %s are free;'
      ' %s, raise config.train.accumulate, or set'
      ' config.model.convolution=subpixel where the networks have convolutions',
      given,
      memory.gigabytes(kept),
      memory.gigabytes(free),
      _lower(values),
    )


def _refusal(
  values: dict[str, Any], wanted: int, free: int
) -> errors.UserError:
  """Returns the error for fields that need too much memory."""
  return fields.conflict(
    values,
    f'needs {memory.gigabytes(wanted)} of memory at least, of which'
    f' {memory.gigabytes(free)} are free; {_lower(values)}, or use a larger'
    ' machine',
  )


def _lower(values: dict[str, Any]) -> str:
  """Returns the remedy for fields whose values are too large."""
  return f'lower {"it" if len(values) == 1 else "one of them"}'


def _on_cpu() -> bool:
  """Whether the devices are those of this host's memory."""
  return jax.local_devices()[0].platform == 'cpu'


def _free() -> int:
  """Returns the bytes of memory of a device, all of an accelerator's."""
  device = jax.local_devices()[0]
  stats = None if _on_cpu() else device.memory_stats()
  return (stats or {}).get('bytes_limit') or memory.available()


def _bytes(tree: Any) -> int:
  """Returns the bytes of a tree of arrays or their shapes."""
  return sum(map(_bytes_of, jax.tree.leaves(tree)))


def _bytes_of(leaf: Any) -> int:
  return math.prod(leaf.shape) * leaf.dtype.itemsize


def _sizes(config: config_dict.ConfigDict) -> list[str]:
  """Returns the fields of `config.model` that are sizes."""
  known = [each.name for each in dataclasses.fields(sizes.Sizes)]
  return [name for name in known if config.model[name]]


def _largest(value: int | tuple[int, ...]) -> int:
  return max(value) if isinstance(value, tuple) else value


def _largest_layer(
  experiment: experiment_lib.Experiment, state: step_lib.TrainState
) -> int:
  """Returns the bytes of the largest layer of the decoder, for one latent."""
  decoder = experiment.model.modules['decoder']
  z = jax.ShapeDtypeStruct((1, experiment.model.latent_size), 'float32')

  def decode(params, z):
    return decoder.apply(
      params, z, capture_intermediates=True, mutable=['intermediates']
    )

  outputs = jax.eval_shape(decode, state.params['decoder'], z)
  return max(map(_bytes_of, jax.tree.leaves(outputs)))


def _kept(
  experiment: experiment_lib.Experiment, state: step_lib.TrainState
) -> int:
  """Returns the bytes that the decoder of one latent keeps for its gradient."""
  decoder = experiment.model.modules['decoder']

  def residuals(count):
    z = jax.ShapeDtypeStruct((count, experiment.model.latent_size), 'float32')
    gradient_fn = lambda *args: jax.vjp(decoder.apply, *args)[1]
    return _bytes(jax.eval_shape(gradient_fn, state.params['decoder'], z))

  return residuals(2) - residuals(1)  # without the weights


def _decoded(
  config: config_dict.ConfigDict,
) -> Iterator[tuple[tuple[str, ...], int]]:
  """Yields fields, and how many latents they decode at once on a device."""
  train, evaluate = config.train, config.evaluate
  draws = [name for name in _DRAWS if name in config.method]
  count = train.batch_size // jax.device_count() // train.accumulate
  for name in draws:
    count *= config.method[name]
  yield ('train.batch_size', *(f'method.{name}' for name in draws)), count
  yield ('evaluate.batch_size',), evaluate.batch_size
  if evaluate.num_nll_images:
    yield ('evaluate.importance_samples',), evaluate.importance_samples
  if evaluate.ais_images:
    yield ('evaluate.ais_chains',), evaluate.ais_chains
