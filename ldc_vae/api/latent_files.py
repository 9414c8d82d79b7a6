"""The reading of latents from files of other programs."""

import os
import pathlib

import numpy as np

from ldc_vae import errors
from ldc_vae.data import array_cache
from ldc_vae.runtime import files

# Names of an array of latents, the most telling first.
_NAMES = ('latents', 'z', 'embeddings', 'codes', 'means')
_SUFFIXES = ('.npy', '.npz', '.safetensors')


def read(
  path: str | os.PathLike[str],
) -> tuple[np.ndarray, np.ndarray | None]:
  """Reads latents and, if there are any, their posterior standard deviations.

  An .npz or a .safetensors file has one array; or one that is named 'latents',
  'z', 'embeddings', 'codes' or 'means'. Beside 'means', 'stds' or 'logvars'
  give the standard deviations, as in a file of `--mode=encode`.

  Args:
    path: An .npy, .npz or .safetensors file; the last needs the package
      safetensors.

  Returns:
    The latents or means [N, D], and the standard deviations [N, D] or None.

  Raises:
    UserError: The file cannot be read, or has no such array.
  """
  path = pathlib.Path(path).expanduser()
  if path.suffix not in _SUFFIXES:
    raise errors.UserError(
      f'{path}: give an .npy, an .npz or a .safetensors file'
    )
  try:
    arrays = load_arrays(path)
  except errors.UserError:  # a package is missing
    raise
  except Exception as error:  # NumPy and zipfile raise many types
    reason = array_cache.first_line(error)
    raise errors.UserError(f'{path} cannot be read ({reason})') from error
  for name, convert in (('stds', lambda x: x), ('logvars', _std)):
    if 'means' in arrays and name in arrays:
      return arrays['means'], convert(arrays[name])
  if len(arrays) == 1:
    return next(iter(arrays.values())), None
  for name in _NAMES:
    if name in arrays:
      return arrays[name], None
  raise errors.UserError(
    f'{path} has the arrays {", ".join(sorted(arrays)) or "none"}; name one'
    f' of them {_NAMES[0]!r}'
  )


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the arrays of a file by name; its end says of which kind it is.

  Raises:
    UserError: The package safetensors is needed and missing.
    Exception: It cannot be read; NumPy and zipfile raise many types.
  """
  if path.suffix == '.safetensors':
    try:
      from safetensors import numpy as safetensors
    except ImportError:
      raise errors.UserError(
        f'{path}: the package safetensors is missing; pip install'
        " 'ldc_vae[safetensors]', or give an .npy or an .npz file"
      ) from None
    return safetensors.load_file(path)
  if path.suffix == '.npz':
    return files.read_npz(path)
  with open(path, 'rb') as file:
    return {'latents': np.lib.format.read_array(file, allow_pickle=False)}


def _std(logvar: np.ndarray) -> np.ndarray:
  """Returns standard deviations of log variances."""
  return np.exp(0.5 * np.asarray(logvar, np.float64))
