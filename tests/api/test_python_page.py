"""The examples of docs/python.md work, one after another."""

import contextlib
import re
import shutil

from absl.testing import absltest

from ldc_vae.runtime import provenance
from tests import evaluate_case

_PAGE = provenance.ROOT / 'docs' / 'python.md'
_BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)


class PythonPageTest(evaluate_case.RunTest):
  def test_every_block_runs(self):
    folder = self.workdir.parent / 'here'
    shutil.copytree(self.evaluated, folder / 'runs' / 'digits')
    names = {}
    with contextlib.chdir(folder):
      for index, block in enumerate(_BLOCK.findall(_PAGE.read_text())):
        code = compile(block, f'{_PAGE.name}, block {index}', 'exec')
        exec(code, names)
    self.assertEqual(names['decoded'].shape, (1797, 8, 8, 1))
    self.assertEqual(names['nats'].shape, (100,))
    self.assertEqual(names['new'].shape, (16, 8, 8, 1))


if __name__ == '__main__':
  absltest.main()
