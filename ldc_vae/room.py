"""Whether a run fits the memory, before anything is built.

The numbers are lower bounds: weights with what is kept beside them, and one
matmul or convolution of the decoder for as many latents as are decoded at once.
So a run that is refused here would be killed, after minutes of compiling. A run
whose decoder keeps more for its gradient than is free gets a warning: the
compiler may find a way to keep less.
"""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any

from absl import logging
import jax
from jax.extend import core
from ml_collections import config_dict

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import fields
from ldc_vae import step as step_lib
from ldc_vae.models import sizes
from ldc_vae.runtime import memory

_DRAWS = ('num_particles', 'num_samples')  # options of methods: draws per image
_PRODUCTS = ('dot_general', 'conv_general_dilated')


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
  product = _largest_product(experiment, state)
  decoded = [
    ({name: config_lib.flatten(config)[name] for name in names}, count)
    for names, count in _decoded(config)
  ]
  for values, count in decoded:
    if count * product > free:
      raise _refusal(values, round(count * product), free)
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


def _largest_product(
  experiment: experiment_lib.Experiment, state: step_lib.TrainState
) -> float:
  """Returns the bytes of the decoder's largest product, for one latent.

  A product, a matmul or a convolution, has its operands and its output in
  memory at once. Those of a convolution by patches are far larger than a layer.
  """
  decoder = experiment.model.modules['decoder']
  many = 2**20  # latents, beside which the weights do not count
  z = jax.ShapeDtypeStruct((many, experiment.model.latent_size), 'float32')
  jaxpr = jax.make_jaxpr(decoder.apply)(state.params['decoder'], z)
  return max(_products(jaxpr.jaxpr)) / many


def _products(jaxpr: core.Jaxpr) -> Iterator[int]:
  """Yields the bytes of the operands and outputs of each product."""
  for equation in jaxpr.eqns:
    if equation.primitive.name in _PRODUCTS:
      variables = (*equation.invars, *equation.outvars)
      yield sum(_bytes_of(each.aval) for each in variables)
    for inner in core.jaxprs_in_params(equation.params):
      yield from _products(inner)


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
  per_image = math.prod(config.method[name] for name in draws)
  draws = [f'method.{name}' for name in draws]
  count = train.batch_size // jax.device_count() // train.accumulate
  yield ('train.batch_size', *draws), count * per_image
  # to validate, each image has its draws too
  yield ('evaluate.batch_size', *draws), evaluate.batch_size * per_image
  if evaluate.num_nll_images:
    yield ('evaluate.importance_samples',), evaluate.importance_samples
  if evaluate.ais_images:
    yield ('evaluate.ais_chains',), evaluate.ais_chains
