"""Tests of benchmarks.temperature_line."""

import json

from absl.testing import absltest

from benchmarks import temperature_line as line
from ldc_vae import config as config_lib
from ldc_vae import names
from tests.benchmarks import benchmark_case

_folder = benchmark_case.create_folder


class TemperatureLineTest(absltest.TestCase):
  def test_arguments_are_of_the_validation_split_and_one_lambda(self):
    flag, *fields = line.create_arguments(
      'configs/digits.py', 4.0, 7, ['--config.train.num_epochs=3']
    )
    config = config_lib.load(flag.partition('=')[2], fields)
    self.assertEqual(config.method.inverse_temperature, 4.0)
    self.assertEqual(config.evaluate.split, 'validation')
    self.assertEqual((config.seed, config.train.num_epochs), (7, 3))

  def test_finished_runs_become_a_table_and_a_picture(self):
    benchmark_case.without_cache(self)
    root = _folder(self)
    for value in (1.0, 2.0):
      results = dict.fromkeys(names.result_names(('gmm_200',)), value / 8)
      workdir = root / f'lambda_{value:g}_seed_0'
      workdir.mkdir()
      (workdir / 'results.json').write_text(json.dumps(results))
    output = root / 'line.json'
    code = line.main(
      [
        '--collect_only',
        '--values=1,2',
        f'--workdir={root}',
        f'--output={output}',
      ]
    )
    self.assertEqual(code, 0)
    rows = json.loads(output.read_text())['rows']
    self.assertEqual([row['generator'] for row in rows], [0.125, 0.25])
    self.assertIn('| 2 | 0 | 0.25', output.with_suffix('.md').read_text())
    self.assertGreater(output.with_suffix('.png').stat().st_size, 10_000)

  def test_a_run_that_is_missing_is_no_success(self):
    benchmark_case.without_cache(self)
    root = _folder(self)
    with self.assertRaisesRegex(ValueError, 'holds no finished run'):
      line.main(
        ['--collect_only', f'--workdir={root}', f'--output={root}/line.json']
      )


if __name__ == '__main__':
  absltest.main()
