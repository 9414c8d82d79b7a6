"""Tests of ldc_vae.run_files and of where pip puts the run files."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from ldc_vae import configs
from ldc_vae import errors
from ldc_vae import run_files

_ROOT = pathlib.Path(__file__).resolve().parent.parent

# A user's own run file, which starts from ours.
_OWN = """
from ldc_vae.configs import default
def get_config(arg):
  return default.__file__, arg
"""


class RunFilesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )
    self.addCleanup(os.chdir, os.getcwd())
    os.chdir(self.folder)

  def write(self, name, text):
    path = self.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)

  @parameterized.parameters(
    ('digits', ('digits', '')),
    ('digits:vae', ('digits', 'vae')),
    ('digits:vae,debug', ('digits', 'vae,debug')),
    ('digits,debug', ('digits', 'debug')),
    ('a/b.py', ('a/b.py', '')),
    ('a,b/c.py:vae,debug', ('a,b/c.py', 'vae,debug')),
    ('a:b/c.py,debug', ('a:b/c.py', 'debug')),
    ('', ('', '')),
  )
  def test_splits(self, spec, expected):
    self.assertEqual(run_files.split(spec), expected)

  @parameterized.parameters('digits', 'configs/digits.py')
  def test_ours_are_found_from_any_folder(self, name):
    path = run_files.find(name)
    self.assertEqual(path.resolve(), run_files.FOLDER / 'digits.py')

  @parameterized.parameters('digits.py', 'configs/digits.py')
  def test_a_file_of_the_user_comes_first(self, name):
    self.write(name, 'get_config = str.upper')
    self.assertEqual(run_files.call(f'{name}:vae'), 'VAE')

  def test_a_folder_does_not_hide_a_short_name(self):
    (self.folder / 'digits').mkdir()
    self.assertEqual(run_files.find('digits'), run_files.FOLDER / 'digits.py')

  def test_a_run_file_starts_from_ours(self):
    self.write('own.py', _OWN)
    file, arg = run_files.call('own.py,debug')
    self.assertTrue(os.path.samefile(file, _ROOT / 'configs/default.py'))
    self.assertEqual(arg, 'debug')

  def test_names(self):
    self.assertContainsSubset(('digits', 'mnist'), run_files.names())
    self.assertNotIn('default', run_files.names())

  @parameterized.parameters(
    ('digitz', '--config=digitz: there is no such file', 'mean digits?'),
    ('no/such.py', 'no such file', 'digits, '),
    ('.', 'this is a folder'),
    ('results.json', 'ends in .py', '--workdir'),
    ('default', 'does not define get_config'),
    ('syntax.py', 'syntax.py, line 1, raised SyntaxError'),
    ('name.py:vae', '--config=name.py:vae: ', 'line 3, raised NameError'),
    ('sentence.py', '--config=sentence.py: too odd'),
    ('later.py', 'line 2, raised AttributeError'),
    ('quits.py', 'line 1, raised SystemExit'),
    ('odd.py', 'line 3, raised Odd: '),
  )
  def test_a_mistake_is_reported(self, spec, *parts):
    self.write('results.json', '{}')
    self.write('syntax.py', 'x = (')
    self.write('name.py', '\n\nfoo.bar = 1')
    self.write(
      'sentence.py',
      'from ldc_vae import errors\nraise errors.UserError("too odd")',
    )
    self.write('quits.py', 'quit()')
    self.write(
      'odd.py',
      'class Odd(BaseException):\n  __str__ = None\nraise Odd()',
    )
    self.write('later.py', 'def get_config(arg):\n  return arg.x')
    with self.assertRaises(errors.UserError) as raised:
      run_files.call(spec)
    for part in parts:
      self.assertIn(part, str(raised.exception))


class InstalledTest(absltest.TestCase):
  def test_setup_names_every_package(self):
    setup = configparser.ConfigParser()
    setup.read(_ROOT / 'setup.cfg')
    folders = {path.parent for path in (_ROOT / 'ldc_vae').rglob('*.py')}
    found = {'.'.join(path.relative_to(_ROOT).parts) for path in folders}
    self.assertCountEqual(
      setup['options']['packages'].split(), {*found, 'ldc_vae.configs'}
    )

  def test_the_package_is_that_folder(self):
    self.assertEqual(list(configs.__path__), [str(run_files.FOLDER)])

  @pytest.mark.slow  # pip fetches setuptools to build with
  def test_pip_puts_the_run_files_inside_the_package(self):
    folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    copy, target = folder / 'copy', folder / 'target'
    for name in ('ldc_vae', 'configs'):
      shutil.copytree(_ROOT / name, copy / name)
    for name in ('setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
      shutil.copy(_ROOT / name, copy)
    (copy / 'configs/own.py').write_text(_OWN)
    subprocess.run(
      (
        sys.executable,
        '-m',
        'pip',
        'install',
        '--quiet',
        '--no-deps',
        f'--target={target}',
        copy,
      ),
      check=True,
    )
    shutil.rmtree(copy)
    code = (
      'from ldc_vae import run_files as r;'
      ' print(*r.call("own:vae"), *r.call("configs/own.py"))'
    )
    result = subprocess.run(
      (sys.executable, '-P', '-c', code),
      cwd=folder,
      check=True,
      text=True,
      capture_output=True,
      env={**os.environ, 'PYTHONPATH': str(target)},
    )
    default = str(target / 'ldc_vae/configs/default.py')
    self.assertEqual(result.stdout.split(), [default, 'vae', default])
    names = {path.name for path in target.iterdir()}
    self.assertEqual({x for x in names if '-' not in x}, {'bin', 'ldc_vae'})


if __name__ == '__main__':
  absltest.main()
