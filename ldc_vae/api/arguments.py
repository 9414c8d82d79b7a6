"""The arguments of a notebook's calls; a mistake raises a `UserError`."""

from collections.abc import Callable
import functools
import operator
import re
from typing import Any, ParamSpec, TypeVar

import jax.numpy as jnp
import numpy as np

from ldc_vae import errors
from ldc_vae.data import array_cache

_P = ParamSpec('_P')
_T = TypeVar('_T')

# What stands before a name on the command line; config.json is a file.
_FLAG = re.compile(
  r'(?<![\w./])(--config\.|config\.(?!json\b)|--(?=(config|workdir)=))'
)


def naming_arguments(fit_fn: Callable[_P, _T]) -> Callable[_P, _T]:
  """Has the errors of a function name its arguments instead of flags."""

  @functools.wraps(fit_fn)
  def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
    try:
      return fit_fn(*args, **kwargs)
    except (errors.UserError, FloatingPointError) as error:
      # --config.train.num_epochs is train={'num_epochs': ...}
      error.args = (_FLAG.sub('', str(error)),)
      raise

  return wrapped


def array(name: str, values: Any) -> np.ndarray:
  """Returns values as an array; a memory map stays one."""
  try:
    return np.asanyarray(values)
  except Exception as error:  # rows that differ, or a tensor with gradients
    reason = array_cache.first_line(error)
    raise errors.UserError(
      f'{name} make no NumPy array ({reason}); give one array'
    ) from error


def points(
  name: str, values: Any, *, size: int | None = None, fewest: int = 1
) -> np.ndarray:
  """Returns finite real numbers of shape [N, D].

  Args:
    name: What they are, for the message.
    values: The numbers.
    size: D; None for any.
    fewest: The least N.
  """
  values = array(name, values)
  fits = values.ndim == 2 and values.shape[1] and len(values) >= fewest
  if not fits or size not in (None, values.shape[1]):
    raise errors.UserError(
      f'{name} have shape {values.shape}; give shape [N, {size or "D"}], N at'
      f' least {fewest}'
    )
  is_real = jnp.issubdtype(values.dtype, jnp.floating)  # also bfloat16
  if not is_real and values.dtype.kind not in 'biu':
    raise errors.UserError(
      f'{name} have dtype {values.dtype}; give numbers, as float32'
    )
  num_bad = int(np.sum(~np.isfinite(values).all(axis=1)))
  if num_bad:  # decoded, they would look like black images
    raise errors.UserError(
      f'{num_bad} of {len(values)} {name} are not finite; leave them out'
    )
  return values


def number(name: str, value: Any, least: int) -> int:
  """Returns a whole number of at least `least`."""
  try:
    found = operator.index(value)
  except TypeError:
    found = -1
  if isinstance(value, bool) or not least <= found < 2**32:
    raise errors.UserError(
      f'{name}={value!r}: give a whole number from {least} to 2**32 - 1'
    )
  return found
