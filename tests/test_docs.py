"""Tests for the Markdown pages: their length, their links, their sentences."""

import collections
import pathlib
import re
import subprocess
import urllib.parse

from absl.testing import absltest
from absl.testing import parameterized

import ldc_vae

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_MAX_LINES, _MAX_COLUMNS, _MAX_WORDS = 150, 100, 30

_NO_PAGES = {'.git', '.venv', 'build', 'dist', 'runs', '.pytest_cache'}

_FENCE = re.compile(r'^(```|~~~).*?^\1[^\n]*$', re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)
_CODE_SPAN = re.compile(r'(`+)(?!`).+?(?<!`)\1(?!`)', re.DOTALL)
_LINK = re.compile(r'!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)')
_LIST_ITEM = re.compile(r'^\s*([-*+]|\d+\.)\s')
# A full stop, maybe closed by a bracket or a quote, before a capital, a number
# or a word in code (which `_text` has replaced by a capital).
_SENTENCE_END = re.compile(r'(?<=[.!?])["\')*_]*\s+(?=["\'(*_]*[A-Z0-9])')
_ABBREVIATION = re.compile(r'\b(e\.g|i\.e|et al|cf|vs|Fig|No)\.')


def _pages():
  """Returns the Markdown files of the project, relative to its root."""
  try:
    command = [
      'git',
      '-C',
      str(_ROOT),
      'ls-files',
      '-co',
      '--exclude-standard',
      '*.md',
    ]
    names = subprocess.run(
      command, check=True, capture_output=True, text=True
    ).stdout.split()
  except (OSError, subprocess.CalledProcessError):  # not a git checkout
    names = [path.relative_to(_ROOT).as_posix() for path in _ROOT.rglob('*.md')]
  return sorted(
    name
    for name in names
    if not _NO_PAGES & set(pathlib.PurePath(name).parts)
    and (_ROOT / name).exists()
  )


# Pages with prose; the tables of benchmarks/results are written by programs.
_PROSE = [each for each in _pages() if 'results' not in each.split('/')[:-1]]


def _read(name):
  return (_ROOT / name).read_text(encoding='utf-8')


def _without_code(text):
  """Returns Markdown without its code blocks and code spans."""
  return _CODE_SPAN.sub('Code', _FENCE.sub('', text))


def _anchors(text):
  """Returns the names that GitHub gives to the headings of a page."""
  anchors, counts = set(), collections.Counter()
  for line in _FENCE.sub('', text).split('\n'):
    match = re.match(r'#{1,6}\s+(.*?)\s*#*$', line)
    if match:
      title = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', match[1]).lower()
      anchor = re.sub(r'[^\w\- ]', '', title).replace(' ', '-')
      number = counts[anchor]
      anchors.add(f'{anchor}-{number}' if number else anchor)
      counts[anchor] += 1
  return anchors


def _sentences(text):
  """Returns the sentences of a page, those of table cells among them."""
  blocks, block = [], []
  for line in [*_without_code(text).split('\n'), '']:
    is_table = line.lstrip().startswith('|')
    is_heading = line.startswith('#')
    starts = is_table or is_heading or bool(_LIST_ITEM.match(line))
    if (not line.strip() or starts) and block:
      blocks.append(' '.join(block))
      block = []
    if is_table:
      blocks += [cell for cell in line.split('|') if cell.strip(' -:')]
    elif is_heading:
      blocks.append(line.lstrip('# '))
    elif line.strip():
      block.append(_LIST_ITEM.sub('', line, count=1).strip())
  found = []
  for block in blocks:
    block = re.sub(r'!?\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)', r'\1', block)
    block = _ABBREVIATION.sub(r'\1', block)
    found += [each.strip() for each in _SENTENCE_END.split(block)]
  return [each for each in found if each]


def _num_words(sentence):
  """Counts the words, without signs of arithmetic."""
  return sum(bool(re.search(r'\w', word)) for word in sentence.split())


class ReadmeTest(absltest.TestCase):
  def test_is_short(self):
    lines = _read('README.md').splitlines()
    self.assertLessEqual(len(lines), _MAX_LINES)
    for number, line in enumerate(lines, 1):
      self.assertLessEqual(len(line), _MAX_COLUMNS, f'README.md:{number}')

  def test_names_every_page_of_docs(self):
    text = _read('README.md')
    for path in sorted((_ROOT / 'docs').glob('*.md')):
      self.assertIn(f'(docs/{path.name})', text)


class PagesTest(parameterized.TestCase):
  @parameterized.parameters(_pages())
  def test_relative_links_lead_somewhere(self, name):
    text = _read(name)
    for link in _LINK.findall(_without_code(text)):
      if re.match(r'[a-z][a-z0-9+.-]*:', link):
        continue  # another site
      target, _, anchor = urllib.parse.unquote(link).partition('#')
      path = (_ROOT / name).parent / target if target else _ROOT / name
      self.assertTrue(path.exists(), f'{name} links to {link}')
      if anchor and path.suffix == '.md':
        known = _anchors(path.read_text(encoding='utf-8'))
        self.assertIn(anchor, known, f'{name} links to {link}')

  @parameterized.parameters(_PROSE)
  def test_sentences_are_short(self, name):
    for sentence in _sentences(_read(name)):
      self.assertLessEqual(_num_words(sentence), _MAX_WORDS, sentence)

  @parameterized.parameters(_PROSE)
  def test_examples_in_python_are_python(self, name):
    for block in _PYTHON.findall(_read(name)):
      compile(block, name, 'exec')


class SiteTest(absltest.TestCase):
  """mkdocs.yml and docs/reference.md; launch/docs.sh builds the site."""

  def test_every_page_of_docs_is_in_the_navigation(self):
    text = _read('mkdocs.yml')
    for path in sorted((_ROOT / 'docs').glob('*.md')):
      self.assertIn(f': docs/{path.name}\n', text)

  def test_the_reference_has_every_public_name(self):
    entries = re.findall(r'^::: (\S+)$', _read('docs/reference.md'), re.M)
    expected = {f'{module}.{name}' for name, module in ldc_vae._PUBLIC.items()}
    expected |= {f'ldc_vae.{name}' for name in (*ldc_vae._MODULES, 'metrics')}
    self.assertContainsSubset(expected, entries)
    headings = re.findall(r'heading: (\S+),', _read('docs/reference.md'))
    for name in ldc_vae._PUBLIC:
      self.assertIn(f'ldc_vae.{name}', headings)


class ReaderTest(absltest.TestCase):
  """Tests of the functions that the tests above use."""

  def test_sentences_are_split(self):
    text = (
      '# A title\n\nOne, see e.g. this. Two `a.b. C` runs\non; three [4 5](x)'
      '.\n\n* Item one\n* Item two\n\n| a b | c |\n|---|---|\n\n```\nx y. Z\n'
      '```\n'
    )
    self.assertEqual(
      _sentences(text),
      [
        'A title',
        'One, see e.g this.',
        'Two Code runs on; three 4 5.',
        'Item one',
        'Item two',
        'a b',
        'c',
      ],
    )

  def test_words_are_counted(self):
    self.assertEqual(_num_words('one - two = 3'), 3)

  def test_anchors_are_those_of_github(self):
    text = '# `a.py`: One, two\n\n## Same\n\n## Same\n\n```\n# none\n```\n'
    self.assertEqual(_anchors(text), {'apy-one-two', 'same', 'same-1'})


if __name__ == '__main__':
  absltest.main()
