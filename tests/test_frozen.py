"""Tests that the configs of all run files stay the same.

The files in `tests/frozen/` hold the accepted values. After a change that is
meant, write them again and read the difference before it is committed:

python -m tests.test_frozen --write
"""

import json
import pathlib
import sys

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import config as config_lib
from ldc_vae import methods
from ldc_vae.runtime import provenance

_FOLDER = pathlib.Path(__file__).resolve().parent / 'frozen'
_CONFIGS = _FOLDER / 'configs.json'
_RUN_FILES = sorted(
  path.stem
  for path in (provenance.ROOT / 'configs').glob('*.py')
  if path.stem not in ('default', '__init__')
)


def _fields(name, arg):
  has_path = name in ('images', 'latents')
  overrides = {'dataset.path': name} if has_path else {}
  config = config_lib.load(f'configs/{name}.py:{arg}', overrides)
  return json.loads(json.dumps(config_lib.flatten(config)))


def resolved_configs():
  """Returns every run file's fields by method; of most, the differences.

  `digits:METHOD` has all fields. Each other entry has those that differ from
  it, so that a change of a default shows in one place.
  """
  stored = {}
  for method in sorted(methods.METHODS):
    base = _fields('digits', method)
    stored[f'digits:{method}'] = base
    args = [(name, method) for name in _RUN_FILES if name != 'digits']
    args += [(name, f'{method},debug') for name in _RUN_FILES]
    for name, arg in args:
      fields = _fields(name, arg)
      assert set(fields) == set(base)
      stored[f'{name}:{arg}'] = {
        field: value for field, value in fields.items() if value != base[field]
      }
  return stored


class ConfigsTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls._found = resolved_configs()
    cls._stored = json.loads(_CONFIGS.read_text(encoding='utf-8'))

  def test_run_files_and_methods_are_those_stored(self):
    self.assertCountEqual(self._found, self._stored)

  @parameterized.parameters(sorted(methods.METHODS))
  def test_fields_are_those_stored(self, method):
    for name, stored in self._stored.items():
      if name.partition(':')[2].partition(',')[0] == method:
        self.assertEqual(self._found[name], stored, name)


def _write():
  stored = resolved_configs()
  lines = [
    f'{json.dumps(name)}: {json.dumps(fields, indent=1)}'
    for name, fields in stored.items()
  ]
  _CONFIGS.write_text('{' + ',\n'.join(lines) + '}\n', encoding='utf-8')


if __name__ == '__main__':
  if sys.argv[1:] == ['--write']:
    _write()
  else:
    absltest.main()
