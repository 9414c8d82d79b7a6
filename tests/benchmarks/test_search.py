"""Tests of benchmarks.search."""

import json

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import search
from ldc_vae import config as config_lib
from ldc_vae import methods
from ldc_vae.configs import default
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs as jobs_lib
from ldc_vae.runtime import provenance
from tests.benchmarks import benchmark_case

_folder = benchmark_case.create_folder


class SearchTest(parameterized.TestCase):
  def test_methods_have_as_many_trials_each(self):
    self.assertCountEqual(search.TRIALS, methods.METHODS)
    self.assertLen(set(map(len, search.TRIALS.values())), 1)
    for trials in search.TRIALS.values():
      self.assertLen(set(map(tuple, trials)), 1)  # of the same fields
      self.assertLen(set(tuple(each.items()) for each in trials), len(trials))

  @parameterized.parameters(('mnist',), ('fashion_mnist',))
  def test_configs_have_what_was_chosen(self, name):
    for method in methods.METHODS:
      config = config_lib.flatten(
        config_lib.load(f'configs/{name}.py:{method}')
      )
      chosen = default.SEARCHED.get(method, {})
      for field, value in chosen.items():
        self.assertEqual(config[field], value, method)
      if chosen:
        self.assertIn(chosen, search.TRIALS[method])

  # the filed trials of ldc are of an earlier sampler
  @parameterized.parameters(*sorted(set(methods.METHODS) - {'ldc'}))
  def test_the_best_of_the_filed_trials_was_chosen(self, method):
    rows = []
    results = provenance.ROOT / 'benchmarks' / 'results'
    for path in results.glob('search*.json'):
      rows += json.loads(path.read_text())['rows']
    rows = [row for row in rows if row['method'] == method]
    self.assertCountEqual(
      [row['options'] for row in rows], search.TRIALS[method]
    )
    best = min(rows, key=lambda row: row['frechet_classifier/generator'])
    self.assertTrue(best['chosen'])
    config = config_lib.flatten(config_lib.load(f'configs/mnist.py:{method}'))
    for field, value in best['options'].items():
      self.assertEqual(config[field], value)

  def test_the_validation_split_decides_and_is_read(self):
    # a method's own generator decides, whatever fits its latents better
    values = {'ae': (3.0, 1.0, 2.0), 'vae': (5.0, 4.0, None)}
    root = _folder(self)
    trials = search.create_trials(
      'configs/digits.py:debug', ('ae', 'vae'), 7, root
    )
    self.assertLen(trials, 6)
    for trial in trials:
      self.assertIn('--config.evaluate.split=validation', trial.arguments)
      value = values[trial.method][int(trial.workdir.name[-1])]
      trial.workdir.mkdir()
      results = {
        'frechet_classifier/generator': value,
        'frechet_classifier/gmm_10': 9.0 - (value or 0.0),
        'protocol/split': 'validation' if value else 'test',
      }
      (trial.workdir / 'results.json').write_text(json.dumps(results))
      meant = {'arguments': trial.arguments}
      files.write_json(trial.workdir / 'trial.json', meant)
    rows = search.collect(trials)
    self.assertEqual(
      [(row['method'], row['options']) for row in rows if row['chosen']],
      [('ae', search.TRIALS['ae'][1])],  # one of vae's is not there
    )
    self.assertLen(rows, 5)
    text = search.to_markdown(rows)
    for trial in trials[:3]:  # data without labels have no such distance
      (trial.workdir / 'results.json').write_text(
        '{"protocol/split": "validation"}'
      )
    self.assertFalse(any(row['chosen'] for row in search.collect(trials)))
    self.assertIn('| **`ae` `optimizer.learning_rate=0.002`** | 1.00 |', text)
    self.assertIn('| `ae` `optimizer.learning_rate=0.001` | 3.00 |', text)
    others = search.create_trials(
      'configs/digits.py:debug', ('ae', 'vae'), 8, root
    )
    self.assertEmpty(search.collect(others))  # of another seed

  def test_a_finished_trial_is_not_run_again(self):
    root = _folder(self)
    trials = search.create_trials('configs/digits.py', ('ae',), 7, root)
    started = []

    def run_all(jobs, unused_num_jobs, *, on_end):
      for job in jobs:
        started.append(job.name)
        folder = root / job.name
        folder.mkdir(exist_ok=True)
        failed = job.name == 'ae_1' and len(started) < 4
        if not failed:
          (folder / 'results.json').write_text(
            '{"protocol/split": "validation"}'
          )
        on_end(jobs_lib.End(job, int(failed), 1.0, ''))

    with absltest.mock.patch.object(jobs_lib, 'run_all', run_all):
      self.assertEqual(search.run(trials, 1), ['ae_1'])
      self.assertEqual(search.run(trials, 1), [])
      self.assertEqual(search.run(trials, 1), [])
      self.assertEqual(started, ['ae_0', 'ae_1', 'ae_2', 'ae_1'])
      # another length is another trial
      longer = search.create_trials(
        'configs/digits.py', ('ae',), 7, root, ['--config.train.num_epochs=2']
      )
      self.assertEqual(search.run(longer, 1), [])
      self.assertLen(started, 7)

  def test_a_failed_trial_fails_whatever_lies_there(self):
    root = _folder(self)
    for trial in search.create_trials(
      'configs/digits.py', ('ae',), 100, str(root)
    ):
      trial.workdir.mkdir()
      (trial.workdir / 'results.json').write_text(
        json.dumps(
          {
            'protocol/split': 'validation',
            'frechet_classifier/generator': 1.0,
          }
        )
      )
      meant = {'arguments': trial.arguments}
      files.write_json(trial.workdir / 'trial.json', meant)
    argv = [
      '--config=configs/digits.py',
      '--methods=ae',
      f'--workdir={root}',
      f'--output={root}/search.json',
    ]
    for failed, code in ([], 0), (['ae_1'], 1):
      with absltest.mock.patch.object(search, 'run', return_value=failed):
        self.assertEqual(search.main(argv), code)

  def test_a_mistake_is_reported_before_the_first_trial(self):
    with self.assertRaisesRegex(ValueError, '--methods=vea is unknown'):
      search.main(['--methods=vea'])
    with self.assertRaisesRegex(ValueError, 'learning_rat'):
      search.main(['--config.optimizer.learning_rat=1'])
    with self.assertRaisesRegex(ValueError, 'sets evaluate.split'):
      search.main(['--config.evaluate.split=test'])
    with self.assertRaisesRegex(ValueError, '--methods does that'):
      search.main(['--config=configs/mnist.py:vae'])


if __name__ == '__main__':
  absltest.main()
