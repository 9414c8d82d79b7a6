"""Tests that the pages say what the files of results say."""

import json
import pathlib
import shutil

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import check_tables
from benchmarks import page_tables
from benchmarks import split_log

_ROOT = check_tables.ROOT
_MNIST = 'benchmarks/results/latents_mnist'


class CheckTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    for name in ('docs', 'benchmarks'):
      shutil.copytree(_ROOT / name, self.root / name)
    shutil.copy(_ROOT / 'README.md', self.root)

  def _replace(self, name, old, new):
    path = self.root / name
    text = path.read_text(encoding='utf-8')
    self.assertEqual(text.count(old), 1, f'{old} in {name}')
    path.write_text(text.replace(old, new), encoding='utf-8')

  def test_all_pages_say_what_the_files_say(self):
    self.assertEqual(check_tables.check(_ROOT), [])

  def test_a_changed_digit_is_told_with_its_place(self):
    self._replace('README.md', '| **1.60 ± 0.08**', '| **1.61 ± 0.08**')
    (found,) = check_tables.check(self.root)
    self.assertEqual(
      found,
      'README.md, "Results", table 1, row "sampler net of `ldc`, one pass",'
      ' column "MNIST": the page says "1.61 ± 0.08", latents_mnist.json,'
      ' latents_fashion_mnist.json gives "1.60 ± 0.08".',
    )

  def test_a_changed_digit_of_a_page_of_results_is_told(self):
    self._replace(
      f'{_MNIST}.md', '| LDC-VAE + GMM-200 | 2.03', '| LDC-VAE + GMM-200 | 2.04'
    )
    (found,) = check_tables.check(self.root)
    self.assertIn('row "LDC-VAE + GMM-200", column "Fréchet, class', found)
    self.assertIn('latents_mnist.json gives "2.03 ±', found)

  @parameterized.parameters(
    (
      'that mixture reaches 2.96 ± 0.18',
      'that mixture reaches 2.95 ± 0.18',
      'ahead of": the page says 2.95, 0.18, latents_mnist.json,',
    ),
    ('that mixture reaches', 'it has', '" is there 0 times, not once.'),
  )
  def test_a_sentence_that_differs_is_told(self, old, new, message):
    self._replace('README.md', old, new)
    (found,) = check_tables.check(self.root)
    self.assertIn(message, found)

  @parameterized.parameters(
    (
      'docs/results.md',
      '| GMM-200 | 1,201,642 to 1,401,154 | 178,828 to 222,606 |\n',
      'the row "GMM-200" of latents_mnist.json',
    ),
    (
      'docs/speed.md',
      '| the same, 8192 particles | numpyro | 226 | the same |\n',
      'the row "the same, 8192 particles | numpyro" of',
    ),
    (
      'benchmarks/results/train_step.md',
      '| mlp | `vae` | 7.89 | 14.6 | 0.590 | 16,227 | 0.279 | 0.266 |\n',
      'the row "mlp | `vae`" of train_step.json is missing',
    ),
    (
      'benchmarks/results/encoder_width.md',
      '| 4 | ELBO | 1.001 | 0.986 | 0.174 | 0.952 |\n',
      'the page says "nothing", encoder_width.json gives "| 4 | ELBO',
    ),
  )
  def test_a_missing_row_is_told(self, page, row, message):
    self._replace(page, row, '')
    (found,) = check_tables.check(self.root)
    self.assertIn(message, found)
    self.assertTrue(found.startswith(page), found)

  def test_a_bold_cell_of_a_page_of_results_is_told(self):
    bold = '| LDC-VAE | **0.952 ± 0.0016**'
    self._replace(f'{_MNIST}.md', bold, bold.replace('**', ''))
    (found,) = check_tables.check(self.root)
    self.assertIn('gives "**0.952 ± 0.0016**"', found)

  def test_a_row_of_no_file_is_told(self):
    row = '| flow matching, 50 evaluations of its net | 2.82'
    self._replace('README.md', row, f'| another | 1.0 | 1.0 |\n{row}')
    (found,) = check_tables.check(self.root)
    self.assertIn('no file gives the row "another"', found)

  @parameterized.parameters(
    ('latents_mnist', 'README.md, "Results", table 1: latents_mnist.json is'),
    ('start', 'docs/speed.md, "Start and evaluation", table 1: start.json is'),
    ('search', 'benchmarks/results/search.md: search.json is missing'),
  )
  def test_a_missing_file_is_told(self, name, message):
    (self.root / f'benchmarks/results/{name}.json').unlink()
    found = check_tables.check(self.root)
    self.assertTrue(any(x.startswith(message) for x in found), found)

  def test_a_file_without_a_number_is_told(self):
    path = self.root / 'benchmarks/results/start.json'
    record = json.loads(path.read_text(encoding='utf-8'))
    del record['median']
    path.write_text(json.dumps(record), encoding='utf-8')
    found = check_tables.check(self.root)
    self.assertIn(
      'docs/speed.md, "Start and evaluation", table 1: there is no'
      " 'median', reading start.json.",
      found,
    )

  def test_a_damaged_file_is_told(self):
    path = self.root / 'benchmarks/results/start.json'
    path.write_text('{', encoding='utf-8')
    found = check_tables.check(self.root)
    self.assertIn('a file cannot be used', found[0])

  def test_a_table_without_a_file_is_told(self):
    page = self.root / 'docs' / 'faq.md'
    table = '\n## New\n\n| what | ms |\n|---|---:|\n| a step | 3.1 |\n'
    page.write_text(page.read_text(encoding='utf-8') + table, encoding='utf-8')
    (found,) = check_tables.check(self.root)
    self.assertIn('docs/faq.md, "New", table 1: nothing says which', found)

  def test_a_table_that_went_is_told(self):
    self._replace('docs/svgd.md', '## Variances', '## Widths')
    found = check_tables.check(self.root)
    self.assertIn('docs/svgd.md, "Variances", table 1: it is not there.', found)

  def test_a_page_names_its_files(self):
    self._replace('README.md', '[latents_mnist.json](', '[file](')
    self._replace('README.md', 'results/latents_mnist.json', 'results')
    (found,) = check_tables.check(self.root)
    self.assertIn(f'the page does not name {_MNIST}', found)


class TestSplitLogTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'runs': [{'results': {'protocol/split': 'test', 'nll/ais': None}}]}, 1),
    ({'runs': [{'results': {'protocol/split': 'validation'}}]}, 0),
    ({'rows': [{'test/kl': 1.0, 'validation/kl': 1.0}] * 6}, 6),
    ({'rows': [{'validation/kl': 1.0}]}, 0),
    ({'bernoulli': {'nll/ais': 1.0}, 'gaussian': {'nll/ais': 2.0}}, 2),
  )
  def test_evaluations_on_test_are_counted(self, record, expected):
    self.assertEqual(split_log.count(record), expected)

  def test_no_comparison_on_test_is_left_out(self):
    text = (_ROOT / check_tables.LOG).read_text(encoding='utf-8')
    for path in (_ROOT / check_tables.RESULTS).glob('*.json'):
      if '"protocol/split": "test"' in path.read_text(encoding='utf-8'):
        self.assertIn(f'## [{path.name}]', text)


class NumbersTest(parameterized.TestCase):
  @parameterized.parameters(
    ('1.55 ± 0.08', (1.5549, 0.0801), None),
    ('1.55 ± 0.08', (1.5551, 0.0801), '1.56 ± 0.08'),
    ('228,000', 227_734.0, None),
    ('228,000', 226_499.0, '226,000'),
    ('3,780 to 5,426', (3779.6, 5426.4), None),
    ('2.0 M', 1_981_761.0, None),
    ('2.3 s', 2.27, None),
    ('', None, None),
    ('', 1.25, '1.25'),
    ('1.2', None, ''),
    ('lost', page_tables.UNKEPT, None),
  )
  def test_a_number_is_right_where_the_other_rounds_to_it(
    self, cell, value, expected
  ):
    self.assertEqual(check_tables.as_written(cell, value), expected)


if __name__ == '__main__':
  absltest.main()
