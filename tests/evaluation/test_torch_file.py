"""Tests of ldc_vae.evaluation.torch_file, with files that need no PyTorch."""

import collections
import io
import pickle
import sys
import types
from unittest import mock

from absl.testing import absltest
import numpy as np

from ldc_vae.evaluation import torch_file


class _Tensor:
  """A tensor, as torch.save writes one."""

  def __init__(self, key, offset, shape, strides):
    self.key, self.rest = key, (offset, shape, strides, False, {})

  def __reduce__(self):
    return sys.modules['torch._utils']._rebuild_tensor_v2, (
      _Storage(self.key),
      *self.rest,
    )


class _Storage:
  """The reference to a storage."""

  def __init__(self, key):
    self.key = key


class _Pickler(pickle.Pickler):
  def persistent_id(self, value):
    if isinstance(value, _Storage):
      kind = sys.modules['torch'].FloatStorage
      return 'storage', kind, value.key, 'cpu', 6, None
    return None


def _file(tensors, magic=torch_file._MAGIC):
  """A file of torch.save, with one storage of 0 to 5."""
  torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  torch.FloatStorage = type('FloatStorage', (), {'__module__': 'torch'})

  def _rebuild_tensor_v2():
    pass

  _rebuild_tensor_v2.__module__ = 'torch._utils'
  _rebuild_tensor_v2.__qualname__ = '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  file = io.BytesIO()
  with mock.patch.dict(sys.modules, {'torch': torch, 'torch._utils': utils}):
    for each in (magic, 1001, {'little_endian': True}, tensors, ['7']):
      _Pickler(file, 2).dump(each)
  file.write(np.int64(6).tobytes() + np.arange(6, dtype=np.float32).tobytes())
  return file.getvalue()


class ReadTest(absltest.TestCase):
  def test_tensors_are_read_by_their_strides(self):
    read = torch_file.read(
      _file(
        collections.OrderedDict(
          rows=_Tensor('7', 0, (2, 3), (3, 1)),
          columns=_Tensor('7', 0, (2, 3), (1, 2)),
          part=_Tensor('7', 4, (2,), (1,)),
          scalar=_Tensor('7', 3, (), ()),
        )
      )
    )
    np.testing.assert_array_equal(read['rows'], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read['columns'], [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(read['part'], [4, 5])
    self.assertEqual(read['scalar'], 3.0)

  def test_a_tensor_outside_its_storage_is_refused(self):
    for tensor in (
      _Tensor('7', 1, (6,), (1,)),
      _Tensor('7', -1, (2,), (1,)),
      _Tensor('7', 5, (2,), (-1,)),
      _Tensor('7', 0, (10**9,), (0,)),
    ):
      with self.assertRaisesRegex(ValueError, 'its storage'):
        torch_file.read(_file({'x': tensor}))

  def test_no_code_of_a_file_runs(self):
    ran = []
    with mock.patch('os.getcwd', lambda: ran.append(1)):
      for name in ('os.getcwd', 'builtins.eval', 'torch.load'):
        module, _, function = name.partition('.')
        call = f'c{module}\n{function}\n(tR.'.encode()
        with self.assertRaisesRegex(ValueError, rf'names {name}, which is no'):
          torch_file.read(call)
    self.assertEmpty(ran)

  def test_another_format_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'no file of torch.save'):
      torch_file.read(_file({}, magic=5))


if __name__ == '__main__':
  absltest.main()
