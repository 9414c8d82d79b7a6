"""Each command of README.md and the pages is one that the programs take."""

import contextlib
import pathlib
import re
import shlex
import tempfile

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import cli
from ldc_vae import config as config_lib
from ldc_vae.runtime import provenance

_ROOT = provenance.ROOT
_BLOCK = re.compile(r'^```bash\n(.*?)^```', re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r'python -m ldc_vae\.main (.*)')
_BENCHMARK = re.compile(r'python (?:-m )?benchmarks[./](\w+)(?:\.py)?(.*)')
_SCRIPT = re.compile(r'bash ((?:launch|\.ci)/\S+)')

# What a reader puts there.
_PLACEHOLDERS = {
  'HOST:PORT': 'localhost:8476',
  '=N': '=2',
  '=I': '=0',
  '=LIKELIHOOD': '=gaussian',
}


def _commands(pattern, *left_out):
  """Returns (page, what the groups of a pattern match) of each command."""
  pages = [
    *_ROOT.glob('*.md'),
    *_ROOT.glob('docs/*.md'),
    *_ROOT.glob('benchmarks/*.md'),
  ]
  return [
    (page.relative_to(_ROOT).as_posix(), *match.groups())
    for page in sorted(pages)
    if page.name not in left_out
    for block in _BLOCK.findall(page.read_text(encoding='utf-8'))
    for match in pattern.finditer(re.sub(r'\\\n\s*', '', block))
  ]


class CommandsTest(parameterized.TestCase):
  # the files of extensions are on the page: test_extend.py has them
  @parameterized.parameters(_commands(_PROGRAM, 'extend.md'))
  def test_the_command_line_takes_it(self, page, text):
    for name, value in _PLACEHOLDERS.items():
      text = re.sub(f'{name}\\b', value, text)
    values, overrides = cli.parse(shlex.split(text, comments=True))
    values.config = values.config and str(_ROOT / values.config)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
      config, workdir = cli.resolve(values, overrides)
    self.assertTrue(workdir, page)
    if config is None:  # that of a trained workdir, of any method here
      config_lib.override(config_lib.load('mnist'), overrides)

  @parameterized.parameters(_commands(_BENCHMARK))
  def test_the_benchmark_has_its_flags(self, page, name, text):
    path = _ROOT / 'benchmarks' / f'{name}.py'
    self.assertTrue(path.exists(), page)
    code = path.read_text() + (_ROOT / 'benchmarks' / 'common.py').read_text()
    for word in shlex.split(text, comments=True):
      flag = word.partition('=')[0].removeprefix('--')
      if not flag.startswith('config'):
        self.assertRegex(code, f'[\'"](--)?{flag}[\'"]', page)

  @parameterized.parameters(_commands(_SCRIPT))
  def test_the_script_is_there(self, page, name):
    self.assertTrue(pathlib.Path(_ROOT, name).is_file(), page)

  def test_commands_are_found(self):
    self.assertGreater(len(_commands(_PROGRAM)), 20)
    self.assertGreater(len(_commands(_BENCHMARK)), 10)
    self.assertGreater(len(_commands(_SCRIPT)), 10)


if __name__ == '__main__':
  absltest.main()
