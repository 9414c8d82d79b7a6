"""The examples of docs/python.md work, one after another."""

import contextlib
import os
import re
from unittest import mock

from absl.testing import absltest

from ldc_vae.runtime import provenance

_PAGE = provenance.ROOT / 'docs' / 'python.md'
_BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)


class PythonPageTest(absltest.TestCase):
  def test_every_block_runs(self):
    folder = self.create_tempdir().full_path
    names = {}
    cache = mock.patch.dict(os.environ, LDC_VAE_CACHE=f'{folder}/cache')
    with cache, contextlib.chdir(folder):
      for index, block in enumerate(_BLOCK.findall(_PAGE.read_text())):
        code = compile(block, f'{_PAGE.name}, block {index}', 'exec')
        exec(code, names)
    self.assertEqual(names['decoded'].shape, (1797, 8, 8, 1))
    self.assertEqual(names['nats'].shape, (100,))
    self.assertEqual(names['new'].shape, (16, 8, 8, 1))


if __name__ == '__main__':
  absltest.main()
