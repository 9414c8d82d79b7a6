"""Tests of benchmarks.seeds."""

import json
import math
import os

from absl.testing import absltest

from benchmarks import seeds
from ldc_vae.runtime import files
from tests.benchmarks import benchmark_case

_folder = benchmark_case.create_folder
_without_cache = benchmark_case.without_cache


class RunsTest(absltest.TestCase):
  def test_commas_inside_a_spec_stay(self):
    self.assertEqual(
      seeds.split_specs('configs/a.py:ldc,debug, configs/b.py,c.py:vae'),
      ('configs/a.py:ldc,debug', 'configs/b.py', 'c.py:vae'),
    )

  def test_every_config_has_every_seed(self):
    runs = seeds.create_runs(('configs/a.py', 'configs/a.py:vae'), (0, 5), 'r')
    self.assertEqual(
      [(run.name, run.seed, str(run.workdir)) for run in runs],
      [
        ('a', 0, os.path.join('r', 'a_0')),
        ('a', 5, os.path.join('r', 'a_5')),
        ('a_vae', 0, os.path.join('r', 'a_vae_0')),
        ('a_vae', 5, os.path.join('r', 'a_vae_5')),
      ],
    )

  def test_two_configs_of_one_name_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'names a twice'):
      seeds.create_runs(('x/a.py', 'y/a.py'), (0,), 'r')


class CollectTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    _without_cache(self)
    self.root = _folder(self)
    self.runs = seeds.create_runs(
      ('configs/digits.py',), (0, 1, 2), str(self.root)
    )
    for run, generator in zip(self.runs[:2], (6.0, 4.0), strict=True):
      run.workdir.mkdir()
      files.write_json(
        run.workdir / 'results.json',
        {
          'seed': run.seed,
          'step': 10,
          'wall_seconds': 3.0,
          'eval/reconstruction_mse': 0.01,
          'frechet_classifier/generator': generator,
          'frechet_classifier/aggregate': 4.0,
          'frechet_classifier/gmm_10': None,
          'frechet_classifier_seed_1/generator': generator,
          'frechet_classifier_seed_1/aggregate': 2.0,
        },
      )
      files.write_json(
        run.workdir / 'benchmark.json',
        {'finished': seeds.arguments(run, []), 'wall_seconds': 2.5},
      )

  def test_ratios_are_of_each_run(self):
    rows = seeds.collect(self.runs, [])
    self.assertLen(rows, 2)  # the third has not been run
    name = 'ratio/frechet_classifier/generator/aggregate'
    self.assertEqual([row[name] for row in rows], [1.5, 1.0])
    self.assertNotIn('ratio/frechet_classifier/generator/gmm_10', rows[0])
    self.assertEqual(rows[0]['wall_seconds'], 2.5)

  def test_summary_is_over_seeds(self):
    summary = seeds.summarise(seeds.collect(self.runs, []))['digits']
    entry = summary['ratio/frechet_classifier_seed_1/generator/aggregate']
    self.assertEqual(entry['values'], [3.0, 2.0])
    self.assertEqual(entry['mean'], 2.5)
    self.assertAlmostEqual(entry['standard_deviation'], math.sqrt(0.5))
    self.assertEqual(entry['worst'], 3.0)
    self.assertNotIn('seed', summary)

  def test_collect_only_writes_the_table(self):
    output = self.root / 'seeds.json'
    code = seeds.main(
      [
        '--collect_only',
        '--configs=configs/digits.py',
        '--seeds=0,1',
        f'--workdir={self.root}',
        f'--output={output}',
      ]
    )
    self.assertEqual(code, 0)
    self.assertLen(json.loads(output.read_text())['rows'], 2)
    table = output.with_suffix('.md').read_text()
    self.assertIn('generator ÷ aggregate, second classifier', table)
    self.assertNotIn(str(self.root), output.read_text() + table)

  def test_a_missing_run_is_no_success(self):
    code = seeds.main(
      [
        '--collect_only',
        '--configs=configs/digits.py',
        '--seeds=0,1,2',
        f'--workdir={self.root}',
        f'--output={self.root / "seeds.json"}',
      ]
    )
    self.assertEqual(code, 1)

  def test_another_seed_in_the_workdir_is_refused(self):
    wrong = self.runs[0]._replace(seed=9)
    with self.assertRaisesRegex(ValueError, 'holds a run of seed 0, not 9'):
      seeds.read_results(wrong)

  def test_finished_means_the_same_arguments(self):
    run = self.runs[0]
    self.assertTrue(seeds.is_finished(run, []))
    others = ['--config.train.num_steps=3']
    self.assertFalse(seeds.is_finished(run, others))
    self.assertEmpty(seeds.collect(self.runs, others))
    elsewhere = ['--config.dataset.data_dir=/data']
    self.assertLen(seeds.collect(self.runs, elsewhere), 2)
    (run.workdir / 'benchmark.json').unlink()  # it was not run by this script
    self.assertFalse(seeds.is_finished(run, []))
    self.assertLen(seeds.collect(self.runs, []), 1)


if __name__ == '__main__':
  absltest.main()
