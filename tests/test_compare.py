"""Tests for comparisons: what is run, kept, continued and reported."""

import csv
import json
import os
import shutil
from unittest import mock

from absl.testing import absltest

from ldc_vae import compare
from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import run as run_lib
from ldc_vae.data import datasets
from ldc_vae.reporting import comparison_page
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs
from ldc_vae.runtime import lock
from tests import compare_case

_FIGURES = compare_case.FIGURES


class CompareTest(compare_case.CompareTest):
  def make_all(self, plans):
    for name, run in self.runs(plans).items():
      self.make(run, (30.0 if run.method == 'vae' else 2.0) + run.seed)
      self.assertEqual(name, f'{run.method}_seed{run.seed}')

  def test_the_results_of_a_run_are_checked_before_and_after_it_only(self):
    plans = self.plans()
    self.make_all(plans)
    with mock.patch.object(
      run_lib, 'is_evaluated', side_effect=run_lib.is_evaluated
    ) as checked:
      compare.compare(plans, (0, 1), self.workdir)
      self.assertEqual(checked.call_count, 2 * 4)
      compare.compare(plans, (0, 1), self.workdir)
    self.assertEqual(checked.call_count, 3 * 4)

  def test_writes_tables_and_figures(self):
    self.undrawn.stop()
    plans = self.plans()
    self.make_all(plans)
    record = compare.compare(plans, (0, 1), self.workdir)
    self.assertEqual(
      self.called(), ['vae_seed0', 'ldc_seed0', 'vae_seed1', 'ldc_seed1']
    )
    stored = json.loads((self.workdir / 'comparison.json').read_text())
    self.assertEqual(stored, json.loads(json.dumps(record)))
    self.assertEqual(stored['seeds'], [0, 1])
    self.assertEqual(
      [run['status'] for run in stored['runs']], ['finished'] * 4
    )
    self.assertEqual(
      stored['runs'][3]['results']['frechet_classifier/generator'], 3.0
    )
    self.assertGreater(stored['runs'][3]['seconds'], 0.0)
    self.assertEqual(stored['configs']['ldc']['method']['name'], 'ldc')
    self.assertIn('jax', stored['versions'])
    self.assertEqual(
      stored['command'],
      'python -m ldc_vae.main --config=configs/digits.py,debug'
      ' --mode=compare --methods=vae,ldc --seeds=0,1'
      ' --config.evaluate.samplers=prior,gmm_10',
    )
    text = (self.workdir / 'comparison.md').read_text()
    self.assertIn('| VAE | 30.5 ± 0.50 |', text)
    self.assertIn('| LDC-VAE | **2.50 ± 0.50** |', text)
    self.assertIn('4 of 4 runs are finished', text)
    self.assertIn('* distances: 120 uint8 images of each source', text)
    self.assertIn('](figures/comparison_samples.png)', text)
    page = (self.workdir / 'comparison.html').read_text()
    self.assertEqual(page.count('<img'), len(_FIGURES))
    with open(self.workdir / 'comparison.csv', encoding='utf-8') as file:
      labels = [line['label'] for line in csv.DictReader(file)]
    self.assertEqual(
      labels, ['VAE', 'VAE + GMM-10', 'LDC-VAE', 'LDC-VAE + GMM-10']
    )
    self.assertEqual(set(os.listdir(self.workdir / 'figures')), _FIGURES)
    shutil.rmtree(self.workdir / 'figures')
    (self.workdir / 'vae_seed0' / 'samples.npz').write_bytes(b'PK damaged')
    with self.assertLogs('absl', 'WARNING') as logs:
      compare.compare(plans, (0, 1), self.workdir)
    self.assertIn('samples.npz is damaged', ''.join(logs.output))
    self.assertEqual(set(os.listdir(self.workdir / 'figures')), _FIGURES)

  def test_what_is_finished_is_kept(self):
    plans = self.plans()
    self.make_all(plans)
    compare.compare(plans, (0, 1), self.workdir)
    self.called()
    compare.compare(plans, (0, 1), self.workdir)
    self.assertEmpty(self.called())
    (self.workdir / 'ldc_seed0' / 'results.json').unlink()
    before = json.loads(
      (self.workdir / 'ldc_seed0' / 'command.json').read_text()
    )['seconds']
    record = compare.compare(plans, (0, 1), self.workdir)
    self.assertEqual(self.called(), ['ldc_seed0'])
    (run,) = (x for x in record['runs'] if x['name'] == 'ldc_seed0')
    self.assertGreater(run['seconds'], before)  # of both commands

  def test_results_of_an_earlier_step_are_not_final(self):
    plans = self.plans()
    self.make_all(plans)
    compare.compare(plans, (0, 1), self.workdir)
    self.called()
    path = self.workdir / 'vae_seed1' / 'results.json'
    files.write_json(path, {**json.loads(path.read_text()), 'step': 8})
    compare.compare(plans, (0, 1), self.workdir)
    self.assertEqual(self.called(), ['vae_seed1'])

  def test_results_of_other_data_are_made_again(self):
    plans = self.plans()
    self.make_all(plans)
    compare.compare(plans, (0, 1), self.workdir)
    self.called()
    for name, data in (('vae_seed1', 'another'), ('ldc_seed0', None)):
      path = self.workdir / name / 'results.json'
      results = json.loads(path.read_text())
      del results['protocol/data']  # as an earlier version
      if data is not None:
        results['protocol/data'] = data
      files.write_json(path, results)
    compare.compare(plans, (0, 1), self.workdir)
    self.assertEqual(self.called(), ['vae_seed1'])
    data = datasets.describe(self.dataset)
    text = (self.workdir / 'comparison.md').read_text()
    self.assertIn(f'* data: {data}; not recorded\n', text)

  def test_results_of_another_evaluation_are_made_again(self):
    plans = self.plans()
    self.make_all(plans)
    compare.compare(plans, (0, 1), self.workdir)
    self.called()
    again = self.plans('--config.evaluate.num_samples=100')
    shutil.rmtree(self.made)
    self.make_all(again)
    compare.compare(again, (0, 1), self.workdir)
    self.assertLen(self.called(), 4)

  def test_a_failing_run_is_reported_and_the_others_go_on(self):
    plans = self.plans()
    self.make_all(plans)
    shutil.rmtree(self.made / 'vae_seed0')
    with self.assertRaisesRegex(
      compare.RunsFailedError,
      r'1 of 4 runs failed, as vae_seed0 \(the loss is not finite\); see'
      r' .*comparison.md and .*vae_seed0.log; the same command tries',
    ):
      compare.compare(plans, (0, 1), self.workdir)
    self.assertLen(self.called(), 4)
    record = json.loads((self.workdir / 'comparison.json').read_text())
    first = record['runs'][0]
    self.assertEqual(
      (first['status'], first['error'], first['results']),
      ('failed', 'the loss is not finite', None),
    )
    text = (self.workdir / 'comparison.md').read_text()
    self.assertRegex(text, r'\| vae_seed0 \| .* \| the loss is not finite \|')
    self.assertIn('31.0 (1 of 2 seeds)', text)
    self.assertTrue(comparison_page.draw.called)
    # mended, it is run alone
    self.make(self.runs(plans)['vae_seed0'], 30.0)
    compare.compare(plans, (0, 1), self.workdir)
    self.assertEqual(self.called(), ['vae_seed0'])
    self.assertNotIn('failed', (self.workdir / 'comparison.md').read_text())

  def test_where_all_fail_the_tables_say_so(self):
    with self.assertRaisesRegex(compare.RunsFailedError, '4 of 4 runs failed'):
      compare.compare(self.plans(), (0, 1), self.workdir)
    text = (self.workdir / 'comparison.md').read_text()
    self.assertIn('0 of 4 runs are finished, 4 failed', text)

  def test_one_seed_has_no_interval_and_says_so(self):
    plans = self.plans()
    self.make_all(plans)
    compare.compare(plans, (0,), self.workdir)
    text = (self.workdir / 'comparison.md').read_text()
    self.assertIn('One seed: there is no standard error', text)
    self.assertNotIn('±', text)

  def test_another_config_is_refused_before_anything_runs(self):
    plans = self.plans()
    self.make_all(plans)
    compare.compare(plans, (0, 1), self.workdir)
    self.called()
    with self.assertRaisesRegex(
      errors.UserError,
      r'vae_seed0 holds a run with config.method.beta=1.0, not 2.0; use',
    ):
      compare.compare(
        self.plans('--config.vae.method.beta=2'), (0, 1), self.workdir
      )
    self.assertEmpty(self.called())

  def test_a_run_that_left_nothing_may_have_another_config(self):
    # as after one that failed before its first checkpoint
    plans = self.plans()
    run = self.runs(plans)['vae_seed0']
    run.workdir.mkdir(parents=True)
    record = config_lib.to_json(run.config)
    files.write_json(run.workdir / 'config.json', record)
    plans = self.plans('--config.vae.method.beta=2')
    self.make_all(plans)
    record = compare.compare(plans, (0, 1), self.workdir)
    self.assertLen(self.called(), 4)
    self.assertEqual(
      [each['status'] for each in record['runs']], [compare.FINISHED] * 4
    )

  def test_a_signal_keeps_what_is_done(self):
    plans = self.plans()
    self.make_all(plans)
    run_all = jobs.run_all

    def interrupted(all_jobs, num_jobs, **options):
      run_all(all_jobs[:2], num_jobs, **options)
      raise KeyboardInterrupt

    with mock.patch.object(jobs, 'run_all', interrupted):
      with self.assertRaises(KeyboardInterrupt):
        compare.compare(plans, (0, 1), self.workdir)
    self.assertLen(self.called(), 2)
    self.assertIn(
      '2 of 4 runs are finished', (self.workdir / 'comparison.md').read_text()
    )
    compare.compare(plans, (0, 1), self.workdir)
    self.assertEqual(self.called(), ['vae_seed1', 'ldc_seed1'])

  def test_runs_of_different_commits_are_reported(self):
    plans = self.plans()
    self.make_all(plans)
    told = 'made by 2 different commits'
    compare.compare(plans, (0, 1), self.workdir)
    text = (self.workdir / 'comparison.md').read_text()
    self.assertNotIn(told, text)
    path = self.workdir / 'vae_seed1' / 'config.json'
    record = json.loads(path.read_text())
    files.write_json(path, {**record, 'git_commit': 'another'})
    compare.compare(plans, (0, 1), self.workdir)
    text = (self.workdir / 'comparison.md').read_text()
    self.assertIn(told, text)
    self.assertIn('| vae_seed1 | finished |', text)

  def test_another_protocol_for_one_method_is_refused(self):
    plans = self.plans('--config.ldc.evaluate.num_samples=50')
    with self.assertRaisesRegex(
      errors.UserError, 'num_samples is 256 for vae and 50 for ldc'
    ):
      compare.compare(plans, (0,), self.workdir)

  def test_likelihoods_of_another_kind_are_refused(self):
    plans = self.plans('--config.vae.model.likelihood=bernoulli')
    with self.assertRaisesRegex(
      errors.UserError, "likelihood is 'bernoulli' for vae and 'gauss"
    ):
      compare.compare(plans, (0,), self.workdir)

  def test_other_data_for_one_method_is_refused(self):
    plans = self.plans('--config.vae.dataset.num_validation=32')
    with self.assertRaisesRegex(
      errors.UserError, 'dataset.num_validation is 32 for vae and 64'
    ):
      compare.compare(plans, (0,), self.workdir)
    self.assertFalse(self.workdir.exists())

  def test_the_workdir_is_locked(self):
    plans = self.plans()
    with lock.lock_workdir(self.workdir):
      with self.assertRaises(lock.LockedError):
        compare.compare(plans, (0,), self.workdir)

  def test_the_command_names_no_place(self):
    plans = self.plans(
      '--config.dataset.data_dir=/home/me', '--config.vae.method.beta=2'
    )
    self.make_all(plans)
    record = compare.compare(plans, (0, 1), self.workdir)
    self.assertEndsWith(
      record['command'],
      '--config.dataset.data_dir=DATA_DIR --config.vae.method.beta=2',
    )
    for name in ('json', 'md', 'csv'):
      text = (self.workdir / f'comparison.{name}').read_text()
      self.assertNotIn('/home/me', text)
      self.assertNotIn(str(self.folder), text)


if __name__ == '__main__':
  absltest.main()
