"""Tests of ldc_vae.reporting.comparison_page."""

import pathlib
import re
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.reporting import comparison_page
from ldc_vae.reporting import run_figures
from ldc_vae.reporting import tables
from tests.reporting import page_case


def _record(**changes):
  """The content of comparison.json of two runs."""
  runs = [
    {
      'name': f'{method}_seed0',
      'method': method,
      'seed': 0,
      'status': 'finished',
      'error': None,
      'seconds': 12.0,
      'git_commit': 'abc',
      'results': {
        'frechet_classifier/generator': distance,
        'eval/reconstruction_mse': 0.1,
        'protocol/judge': 'seed 0',
      },
    }
    for method, distance in (('vae', 30.0), ('ldc', 3.0))
  ]
  record = {
    'command': 'python -m ldc_vae.main --mode=compare',
    'methods': ['vae', 'ldc'],
    'seeds': [0],
    'versions': {'jax': '1'},
    'git_commit': 'abc',
    'configs': {'vae': {'dataset': {'name': 'digits'}}},
    'runs': runs,
    **changes,
  }
  return {**record, 'rows': tables.create_rows(record['runs'])}


class WriteTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )

  def write(self, record):
    columns = tables.columns(record['runs'])
    comparison_page.write(self.workdir, record, columns)
    text = (self.workdir / 'comparison.html').read_text(encoding='utf-8')
    return page_case.Page(text)

  def test_page_has_pictures_then_the_numbers_of_the_tables(self):
    run_figures.sample_grid(
      np.zeros((3, 8, 8, 1), np.uint8),
      self.workdir / 'figures' / 'comparison_bars.png',
      title='T',
    )
    page = self.write(_record())
    self.assertLen(page.pictures, 1)
    for words in (
      'Methods side by side on digits',
      '2 of 2 runs are finished',
      'Fréchet, classifier ↓ mean difference from the best VAE 30.0 +27.0'
      ' LDC-VAE 3.00 best',
      'classifier seed 0',
      'ldc_seed0 finished, 12 s, commit abc',
      '--mode=compare',
      'figures/ had no comparison_samples',
    ):
      self.assertIn(words, page.text)
    html = (self.workdir / 'comparison.html').read_text(encoding='utf-8')
    self.assertIn('<strong>3.00</strong>', html)
    self.assertLess(html.rindex('<img'), html.index('<table'))
    for link in page.links:
      self.assertStartsWith(link, 'data:image/png;base64,')

  def test_tables_of_the_page_have_three_columns_at_most(self):
    self.write(_record())
    html = (self.workdir / 'comparison.html').read_text(encoding='utf-8')
    for row in html.split('<tr>')[1:]:
      cells = re.findall('<t[hd][ >]', row.partition('</tr>')[0])
      self.assertBetween(len(cells), 2, 3)

  def test_markdown_links_the_pictures_that_exist(self):
    self.write(_record())
    markdown = self.workdir / 'comparison.md'
    self.assertNotIn('](figures', markdown.read_text(encoding='utf-8'))
    path = self.workdir / 'figures' / 'comparison_time.png'
    run_figures.sample_grid(
      np.zeros((3, 8, 8, 1), np.uint8), path, title='Time'
    )
    self.write(_record())
    text = markdown.read_text(encoding='utf-8')
    self.assertIn('](figures/comparison_time.png)', text)
    self.assertNotIn('comparison_bars.png', text)

  def test_failures_are_told_and_escaped(self):
    record = _record()
    record['runs'][0].update(
      status='failed', results=None, error='<b> **x** | y'
    )
    record['rows'] = tables.create_rows(record['runs'])
    page = self.write(record)
    self.assertNotIn('b', page.tags)
    self.assertIn('vae_seed0, 12 s <b> **x** | y', page.text)
    self.assertIn('1 of 2 runs are finished, 1 failed', page.text)

  def test_nothing_finished_gives_a_page_that_says_so(self):
    runs = [{**run, 'results': None} for run in _record()['runs']]
    page = self.write(_record(runs=runs))
    self.assertIn('0 of 2 runs are finished', page.text)
    self.assertNotIn('Not on this page', page.text)


class EscapeTest(parameterized.TestCase):
  @parameterized.parameters(
    '<script>alert(1)</script>',
    '<img src=x onerror=alert(1)>',
    '<a href="javascript:alert(1)">x</a>',
    '[x](javascript:alert(1))',
    '![x](https://evil.example/x.png)',
    '<!-- x',
    '<https://evil.example>',
    'a | b\n\n# heading',
    '`</code><b>x',
    '&lt;b&gt;',
    '\x1b[31mred',
  )
  def test_a_text_stays_a_text(self, text):
    escaped = tables.escape_markdown(f'x {text}')
    self.assertNoCommonElements('<>`\n\x1b', escaped)
    self.assertNotRegex(escaped, r'\]\(|(?<!\\)\|')

  def test_bold_stays(self):
    self.assertEqual(tables.escape_markdown('**1.5**'), '**1.5**')


if __name__ == '__main__':
  absltest.main()
