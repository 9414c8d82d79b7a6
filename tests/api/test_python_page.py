"""The examples of docs/python.md work, one after another."""

import ast
import contextlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import unittest
from unittest import mock

from absl.testing import absltest

import ldc_vae
from ldc_vae.runtime import provenance

_PAGE = provenance.ROOT / 'docs' / 'python.md'
_EXAMPLE = provenance.ROOT / 'docs' / 'pytorch_autoencoder.py'
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
    self.assertTrue((names['same_as_more'] == names['more']).all())
    self.assertEqual(names['nats'].shape, (100,))
    self.assertEqual(names['new'].shape, (16, 8, 8, 1))
    self.assertTrue((names['again'].sample(9) == names['run'].sample(9)).all())
    self.assertEqual(names['new_digits'].shape, (100, 8, 8))


class PytorchExampleTest(absltest.TestCase):
  def test_it_uses_public_names_only(self):
    tree = ast.parse(_EXAMPLE.read_text(), _EXAMPLE.name)
    used = {
      node.attr
      for node in ast.walk(tree)
      if isinstance(node, ast.Attribute)
      and isinstance(node.value, ast.Name)
      and node.value.id == 'ldc_vae'
    }
    self.assertEqual(used, {'fit_sampler'})
    self.assertContainsSubset(used, ldc_vae._PUBLIC)

  @unittest.skipUnless(
    importlib.util.find_spec('torch'), 'PyTorch is not installed'
  )
  def test_it_makes_a_picture(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    subprocess.run(
      (sys.executable, _EXAMPLE),
      check=True,
      cwd=folder,
      env=dict(os.environ, PYTHONPATH=str(provenance.ROOT)),
    )
    self.assertTrue((folder / 'generated.png').is_file())


if __name__ == '__main__':
  absltest.main()
