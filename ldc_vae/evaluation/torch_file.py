"""Reads the tensors of an old PyTorch file without PyTorch.

Before version 1.6, `torch.save` wrote three pickles (a magic number, a version
and the system), a pickle of tensors that refer to storages by key, a pickle of
these keys, and the numbers of each storage. No code of the file is run: the
unpickler knows four names and refuses all others.
"""

import collections
import io
import math
import pickle
from typing import Any

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C


def read(content: bytes) -> dict[str, np.ndarray]:
  """Returns the tensors of a state dict by name.

  Args:
    content: The bytes of the file.

  Raises:
    ValueError: The file has another format, or names something else.
  """
  file = io.BytesIO(content)
  if _Unpickler(file).load() != _MAGIC:
    raise ValueError('this is no file of torch.save before version 1.6')
  for _ in range(2):  # the version, and the system's sizes and byte order
    _Unpickler(file).load()
  tensors = _Unpickler(file).load()
  dtypes = {key: dtype for (dtype, key), *_ in tensors.values()}
  storages = {}
  for key in _Unpickler(file).load():
    count = int(np.frombuffer(file.read(8), '<i8')[0])
    size = count * dtypes[key].itemsize
    storages[key] = np.frombuffer(file.read(size), dtypes[key])
  return {
    name: _tensor(storages[key], *rest)
    for name, ((_, key), *rest) in tensors.items()
  }


class _Unpickler(pickle.Unpickler):
  """Reads dicts of tensors, each as `_rebuild` has it, and nothing else."""

  def find_class(self, module: str, name: str) -> Any:
    known = {
      ('collections', 'OrderedDict'): collections.OrderedDict,
      ('torch', 'FloatStorage'): np.dtype('<f4'),
      ('torch', 'LongStorage'): np.dtype('<i8'),
      ('torch._utils', '_rebuild_tensor_v2'): _rebuild,
    }
    if (module, name) not in known:
      raise ValueError(f'the file names {module}.{name}, which is no tensor')
    return known[module, name]

  def persistent_load(self, pid: Any) -> tuple[np.dtype, str]:
    _, dtype, key, *_ = pid
    return dtype, key


def _rebuild(storage, offset, shape, strides, *unused):
  """The parts of a tensor: its storage (type and key), and where it is."""
  return storage, offset, shape, strides


def _tensor(storage, offset, shape, strides) -> np.ndarray:
  """Returns a copy of a tensor, whose strides count numbers.

  Raises:
    ValueError: It reaches out of its storage.
  """
  last = offset + sum((n - 1) * s for n, s in zip(shape, strides))
  if offset < 0 or min(strides, default=0) < 0 or last >= len(storage):
    raise ValueError(f'a tensor of shape {shape} reaches out of its storage')
  if math.prod(shape) > len(storage):
    raise ValueError(f'a tensor of shape {shape} is larger than its storage')
  return np.lib.stride_tricks.as_strided(
    storage[offset:], shape, [each * storage.itemsize for each in strides]
  ).copy()
