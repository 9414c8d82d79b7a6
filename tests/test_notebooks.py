"""Tests of the notebooks in docs/notebooks/.

The long form runs them from the start:

  python -m pytest -m slow tests/test_notebooks.py
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from ldc_vae.runtime import provenance

_FOLDER = provenance.ROOT / 'docs' / 'notebooks'
_NAMES = sorted(path.name for path in _FOLDER.glob('*.ipynb'))
_LONGEST = 100  # characters of a line


def _cells(name, kind):
  notebook = json.loads((_FOLDER / name).read_text())
  return [cell for cell in notebook['cells'] if cell['cell_type'] == kind]


def _program(name):
  return '\n\n'.join(''.join(x['source']) for x in _cells(name, 'code'))


class NotebooksTest(parameterized.TestCase):
  def test_they_are_there(self):
    self.assertEqual(
      _NAMES, ['digits.ipynb', 'own_latents.ipynb', 'posterior.ipynb']
    )

  @parameterized.parameters(*_NAMES)
  def test_it_was_run_in_order_without_an_error(self, name):
    cells = _cells(name, 'code')
    self.assertEqual(
      [cell['execution_count'] for cell in cells],
      list(range(1, len(cells) + 1)),
    )
    kinds = [each['output_type'] for cell in cells for each in cell['outputs']]
    self.assertNotIn('error', kinds)
    self.assertIn('display_data', kinds)  # pictures

  @parameterized.parameters(*_NAMES)
  def test_it_names_no_place_of_a_machine(self, name):
    text = (_FOLDER / name).read_text()
    for place in ('/home/', '/root/', '/tmp/', '/work/'):
      self.assertNotIn(place, text)

  @parameterized.parameters(*_NAMES)
  def test_lines_are_short(self, name):
    for kind in ('code', 'markdown'):
      for cell in _cells(name, kind):
        for line in ''.join(cell['source']).splitlines():
          self.assertLessEqual(len(line), _LONGEST, line)

  @parameterized.parameters(*_NAMES)
  @pytest.mark.slow
  def test_it_runs(self, name):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, 'notebook.py')
      path.write_text(_program(name))
      subprocess.run(
        (sys.executable, str(path)),
        cwd=folder,
        env={
          **os.environ,
          'PYTHONPATH': str(provenance.ROOT),
          'JAX_PLATFORMS': 'cpu',
          'MPLBACKEND': 'Agg',
        },
        check=True,
      )


if __name__ == '__main__':
  absltest.main()
