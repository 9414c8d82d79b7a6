"""Tests for the tables of methods side by side."""

import csv
import io
import math

from absl.testing import absltest

from ldc_vae import names
from ldc_vae.reporting import tables

_FRECHET, _KID = 'frechet_classifier', 'kid_classifier'


def _run(method, seed, **results):
  """A run; `frechet_generator=1` is frechet_classifier/generator."""
  names = {
    'precision': 'prdc/precision',
    'nll': 'nll/importance',
    'seconds': 'time/sample_10k_seconds',
  }
  for name, value in dict(results).items():
    family, _, source = name.partition('_')
    if family in ('frechet', 'kid'):
      results[f'{family}_classifier/{source}'] = value
    else:
      results[names[name]] = value
    del results[name]
  return {'method': method, 'seed': seed, 'results': results or None}


def _runs():
  """Two methods, three seeds; LDC's own generator is the best of them all."""
  return [
    _run(
      'vae',
      0,
      frechet_generator=30.0,
      frechet_gmm_10=12.0,
      frechet_gmm_50=4.0,
      frechet_two_stage=None,
      precision=0.5,
      nll=90.0,
    ),
    _run(
      'vae',
      1,
      frechet_generator=32.0,
      frechet_gmm_10=14.0,
      frechet_gmm_50=5.0,
      frechet_two_stage=None,
      precision=0.7,
      nll=91.0,
    ),
    _run(
      'vae',
      2,
      frechet_generator=34.0,
      frechet_gmm_10=16.0,
      frechet_gmm_50=6.0,
      frechet_two_stage=None,
      precision=0.6,
      nll=92.0,
    ),
    _run('ldc', 0, frechet_generator=3.0, frechet_gmm_10=13.0, precision=0.8),
    _run('ldc', 1, frechet_generator=4.0, frechet_gmm_10=14.0, precision=0.9),
    _run('ldc', 2, frechet_generator=5.0, frechet_gmm_10=15.0, precision=1.0),
  ]


def _by_label(rows):
  return {row['label']: row for row in rows}


class MetricsTest(absltest.TestCase):
  def test_are_those_with_a_number(self):
    names = [tables.column_name(x) for x in tables.columns(_runs())]
    self.assertEqual(names, [_FRECHET, 'prdc/precision', 'nll/importance'])

  def test_a_second_classifier_is_a_column(self):
    run = _run('vae', 0, frechet_generator=1.0)
    run['results']['frechet_classifier_seed_10/generator'] = 2.0
    run['results']['frechet_classifier_seed_9/generator'] = 2.0
    labels = [metric.label for metric in tables.columns([run])]
    self.assertEqual(
      labels,
      [
        'Fréchet, classifier',
        'Fréchet, classifier of seed 9',
        'Fréchet, classifier of seed 10',
      ],
    )

  def test_a_caution_of_any_run_marks_its_column(self):
    runs = _runs()
    runs[1]['results']['protocol/caution_prdc'] = '4 images are too few'
    self.assertEqual(
      [metric.label for metric in tables.columns(runs)],
      [
        'Fréchet, classifier',
        'precision ⚠',
        'NLL by importance sampling, nats',
      ],
    )

  def test_runs_without_results_have_none(self):
    self.assertEmpty(tables.columns([_run('vae', 0)]))


class RowsTest(absltest.TestCase):
  def test_fitted_samplers_follow_their_method_by_size(self):
    self.assertEqual(
      [row['label'] for row in tables.create_rows(_runs())],
      ['VAE', 'VAE + GMM-50', 'VAE + GMM-10', 'LDC-VAE', 'LDC-VAE + GMM-10'],
    )

  def test_mean_and_standard_error_are_over_seeds(self):
    cell = tables.create_rows(_runs())[0]['metrics'][_FRECHET]
    self.assertEqual(cell['values'], {0: 30.0, 1: 32.0, 2: 34.0})
    self.assertEqual(cell['mean'], 32.0)
    # deviations -2, 0, 2: standard deviation 2
    self.assertAlmostEqual(cell['standard_error'], 2.0 / math.sqrt(3.0))
    self.assertEqual(cell['num_seeds'], 3)

  def test_best_and_differences_are_within_their_scope(self):
    rows = _by_label(tables.create_rows(_runs()))
    own = rows['VAE']['metrics'][_FRECHET]['own']
    self.assertEqual(own['reference'], 'LDC-VAE')
    # 27, 28 and 29, with t = 4.302653 of 2 degrees of freedom (tables)
    self.assertEqual(own['difference']['mean'], 28.0)
    self.assertAlmostEqual(
      own['difference']['high'], 28.0 + 4.302653 / math.sqrt(3.0), places=6
    )
    fitted = rows['VAE + GMM-50']['metrics'][_FRECHET]
    self.assertNotIn('own', fitted)
    self.assertEqual(fitted['all']['difference']['mean'], 1.0)
    best = rows['LDC-VAE']['metrics'][_FRECHET]
    self.assertTrue(best['own']['best'])
    self.assertTrue(best['all']['best'])
    self.assertIsNone(best['all']['difference'])

  def test_the_best_of_all_may_be_a_fitted_sampler(self):
    runs = _runs()
    for run in runs[:3]:
      run['results']['frechet_classifier/gmm_50'] = 2.0
    rows = _by_label(tables.create_rows(runs))
    cell = rows['LDC-VAE']['metrics'][_FRECHET]
    self.assertTrue(cell['own']['best'])
    self.assertFalse(cell['all']['best'])
    self.assertEqual(cell['all']['reference'], 'VAE + GMM-50')

  def test_every_sampler_has_a_row_but_baselines_and_bounds(self):
    runs = _runs()
    for source in ('mine', 'prior', 'gaussian', 'real', 'aggregate'):
      runs[0]['results'][f'frechet_classifier/{source}'] = 2.0
    sources = [row['source'] for row in tables.create_rows(runs)[:4]]
    self.assertEqual(sources, ['generator', 'gmm_50', 'gmm_10', 'mine'])

  def test_a_registered_metric_is_a_column(self):
    runs = _runs()
    for seed, run in enumerate(runs):
      run['results']['mine/score'] = float(seed)
    self.assertNotIn('mine/score', tables.create_rows(runs)[0]['metrics'])
    with absltest.mock.patch.dict(names.METRICS):
      names.register(
        names.Metric(
          'mine/score', 'my score', names.HIGHER, 'Mine.', compared=True
        )
      )
      rows = _by_label(tables.create_rows(runs))
      text = tables.to_markdown(list(rows.values()), tables.columns(runs), 3)
    self.assertEqual(
      rows['VAE']['metrics']['mine/score']['own']['reference'], 'LDC-VAE'
    )
    self.assertIn('my score ↑', text)

  def test_more_precision_is_better(self):
    rows = _by_label(tables.create_rows(_runs()))
    cell = rows['VAE']['metrics']['prdc/precision']
    self.assertEqual(cell['own']['reference'], 'LDC-VAE')
    self.assertAlmostEqual(cell['own']['difference']['mean'], -0.3)

  def test_all_rows_of_the_best_mean_are_best(self):
    values = {'vae': (0.1, 0.2, 0.3), 'ae': (0.3, 0.2, 0.1), 'ldc': (1, 2, 3)}
    rows = _by_label(
      tables.create_rows(
        [
          _run(method, seed, precision=each, frechet_generator=each)
          for method, numbers in values.items()
          for seed, each in enumerate(numbers)
        ]
      )
    )
    best = lambda label: rows[label]['metrics'][_FRECHET]['own']
    for label in ('VAE', 'Autoencoder'):
      self.assertTrue(best(label)['best'], label)
      self.assertIsNone(best(label)['difference'], label)
    self.assertFalse(best('LDC-VAE')['best'])
    self.assertTrue(rows['LDC-VAE']['metrics']['prdc/precision']['own']['best'])
    self.assertFalse(
      rows['Autoencoder']['metrics']['prdc/precision']['own']['best']
    )

  def test_equal_rows_without_an_interval_are_all_clear(self):
    runs = [_run(method, 0, precision=1.0) for method in ('ae', 'vae')]
    rows = tables.create_rows([*runs, _run('ldc', 0, precision=0.5)])
    cells = [row['metrics']['prdc/precision']['own'] for row in rows]
    self.assertEqual([cell['best'] for cell in cells], [True, True, False])
    self.assertEqual([cell['clear'] for cell in cells], [True, True, False])

  def test_the_best_is_not_clear_where_an_interval_reaches_it(self):
    runs = _runs()
    # -1, 0 and 7 above the best: 2 ± 10.8 (t = 4.302653, s = sqrt(19))
    for run, above in zip(runs[:3], (-1.0, 0.0, 7.0), strict=True):
      own = run['results']
      own['frechet_classifier/gmm_50'] = 3.0 + run['seed'] + above
    rows = _by_label(tables.create_rows(runs))
    cell = rows['LDC-VAE']['metrics'][_FRECHET]
    self.assertEqual((cell['own']['best'], cell['own']['clear']), (True, True))
    self.assertEqual((cell['all']['best'], cell['all']['clear']), (True, False))
    other = rows['VAE + GMM-50']['metrics'][_FRECHET]['all']
    self.assertAlmostEqual(
      other['difference']['low'], 2.0 - 4.302653 * (19 / 3) ** 0.5, places=5
    )
    self.assertFalse(other['best'])

  def test_what_a_method_lacks_is_no_cell(self):
    rows = _by_label(tables.create_rows(_runs()))
    self.assertNotIn('nll/importance', rows['LDC-VAE']['metrics'])
    self.assertNotIn('prdc/precision', rows['VAE + GMM-10']['metrics'])

  def test_a_lucky_method_with_fewer_seeds_is_not_the_best(self):
    runs = _runs() + [
      _run('iwae', 0, frechet_generator=1.0),
      _run('iwae', 1),
    ]
    rows = _by_label(tables.create_rows(runs))
    cell = rows['IWAE']['metrics'][_FRECHET]
    self.assertEqual(cell['own']['reference'], 'LDC-VAE')
    self.assertEqual(
      cell['own']['difference'],
      {'mean': -2.0, 'low': None, 'high': None, 'num_pairs': 1},
    )

  def test_a_method_without_results_is_an_empty_row(self):
    rows = tables.create_rows([_run('vae', 0)])
    self.assertEqual(rows[0]['metrics'], {})


class MarkdownTest(absltest.TestCase):
  def table(self, runs, num_seeds):
    return tables.to_markdown(
      tables.create_rows(runs), tables.columns(runs), num_seeds
    )

  def test_the_best_is_bold(self):
    text = self.table(_runs(), 3)
    self.assertIn('| LDC-VAE | **4.00 ± 0.58** |', text)
    self.assertIn('| VAE | 32.0 ± 1.2 |', text)
    self.assertIn('| VAE + GMM-50 | 5.00 ± 0.58 |', text)

  def test_the_best_is_plain_where_it_is_not_clear(self):
    runs = _runs()
    runs[0]['results']['frechet_classifier/gmm_50'] = 2.0
    text = self.table(runs, 3)
    self.assertIn('| LDC-VAE | **4.00 ± 0.58** |', text)  # its own generators
    self.assertIn('\n| LDC-VAE | 4.00 ± 0.58 |', text)
    self.assertIn('| LDC-VAE | best |', text)

  def test_equal_rows_are_all_bold(self):
    runs = [_run(method, 0, precision=1.0) for method in ('ae', 'vae')]
    text = self.table([*runs, _run('ldc', 0, precision=0.5)], 1)
    for line in (
      '| Autoencoder | **1.00** |',
      '| VAE | **1.00** |',
      '| LDC-VAE | 0.500',
    ):
      self.assertIn(line, text)
    self.assertEqual(text.count('| best |'), 2)

  def test_differences_have_their_interval(self):
    text = self.table(_runs(), 3)
    # 4.302653 / sqrt(3) = 2.484
    self.assertIn('| VAE | +28.0 [25.5, 30.5] |', text)
    self.assertIn('| LDC-VAE | best |', text)

  def test_nats_have_two_decimals(self):
    text = self.table(_runs(), 3)
    self.assertIn('**91.00 ± 0.58**', text)

  def test_one_seed_has_no_interval(self):
    text = self.table([_runs()[0], _runs()[3]], 1)
    self.assertIn('| VAE | 30.0 |', text)
    self.assertIn('| VAE | +27.0 |', text)
    self.assertNotIn('±', text)
    self.assertNotIn('[', text)

  def test_missing_seeds_are_reported(self):
    text = self.table(_runs()[:5], 3)
    self.assertIn('3.50 ± 0.50 (2 of 3 seeds)', text)

  def test_a_small_number_keeps_its_digits(self):
    runs = [_run('vae', 0, seconds=1.5e-7, frechet_generator=0.0)]
    text = self.table(runs, 1)
    self.assertIn('**0**', text)
    self.assertIn('**1.50e-07**', text)

  def test_a_metric_without_a_scale_is_left_to_the_csv_file(self):
    runs = [_run('vae', 0, kid_generator=-348.0, frechet_generator=2.0)]
    self.assertNotIn('KID', self.table(runs, 1))
    rows = tables.create_rows(runs)
    self.assertIn('-348.0', tables.to_csv(rows, tables.columns(runs)))

  def test_has_a_line_per_row(self):
    self.assertEqual(
      tables.markdown_table(('a', 'b'), [('x', '1'), ('y', '2')]),
      '| a | b |\n| --- | ---: |\n| x | 1 |\n| y | 2 |\n',
    )

  def test_refuses_a_short_row(self):
    with self.assertRaisesRegex(ValueError, 'has 1 cells, not 2'):
      tables.markdown_table(('a', 'b'), [('x',)])


class CsvTest(absltest.TestCase):
  def test_has_a_line_per_row_and_the_numbers_in_full(self):
    runs = _runs()
    rows = tables.create_rows(runs)
    text = tables.to_csv(rows, tables.columns(runs))
    lines = list(csv.DictReader(io.StringIO(text)))
    self.assertLen(lines, 5)
    line = lines[1]
    self.assertEqual(line['label'], 'VAE + GMM-50')
    self.assertEqual(float(line[f'{_FRECHET} mean']), 5.0)
    self.assertEqual(float(line[f'{_FRECHET} difference']), 1.0)
    self.assertEqual(line[f'{_FRECHET} best'], '0')
    self.assertEqual(line['prdc/precision mean'], '')
    self.assertEqual(lines[3][f'{_FRECHET} best'], '1')
    self.assertEqual(lines[3][f'{_FRECHET} clear'], '1')
    self.assertEqual(lines[3][f'{_FRECHET} difference'], '')


if __name__ == '__main__':
  absltest.main()
