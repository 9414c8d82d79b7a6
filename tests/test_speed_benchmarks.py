"""Tests for the benchmarks of speed: their pure pieces, and a small run each."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import common
from benchmarks import start
from benchmarks import train_step
from ldc_vae import config as config_lib


def _folder(test):
  folder = tempfile.TemporaryDirectory()
  test.addCleanup(folder.cleanup)
  return pathlib.Path(folder.name)


class StartTest(absltest.TestCase):

  def test_cpu_seconds_are_those_of_work_not_of_sleep(self):
    busy = 'import time\nwhile time.process_time() < 0.5: pass\n'
    words = (sys.executable, '-c', f'{busy}time.sleep(60)')
    with subprocess.Popen(words) as process:
      deadline = time.monotonic() + 60
      before = after = 0.0
      while not before == after > 0.4:  # until it sleeps
        self.assertLess(time.monotonic(), deadline)
        before = start.cpu_seconds(process.pid)
        time.sleep(0.5)
        after = start.cpu_seconds(process.pid)
      process.kill()
    self.assertBetween(after, 0.45, 2.0)  # starting the interpreter costs some

  def test_a_run_that_fails_is_told(self):
    with self.assertRaisesRegex(OSError, 'exit code 2 before its first step'):
      start.first_step(
          'configs/digits.py', ['--config.seeds=1'], _folder(self), 'run'
      )

  def test_median_of_each_figure(self):
    turns = [{'a': 1.0, 'b': 5.0}, {'a': 3.0, 'b': 6.0}, {'a': 2.0, 'b': 0.0}]
    self.assertEqual(start.median(turns), {'a': 2.0, 'b': 5.0})


class TrainStepTest(parameterized.TestCase):

  def test_ratios_are_taken_within_a_round(self):
    row = lambda wall: {'wall': wall, 'cpu': wall, 'host': 0.1}
    times = {
        'iwae': [row(1.0), row(10.0), row(2.0)],
        'ldc': [row(2.0), row(10.0), row(3.0)],  # ratios 2, 1, 1.5
    }
    rows = train_step.summarise('mlp', 128, times)
    self.assertEqual([x['wall_ratio'] for x in rows], [1.0, 1.5])
    self.assertEqual(rows[1]['wall_ms'], 3.0)
    self.assertAlmostEqual(rows[1]['images_per_second'], 128 / 3e-3)

  def test_first_phase_trains_the_autoencoder_alone(self):
    overrides = ['--config.model.hidden_sizes=8', '--config.model.latent_size=2']
    _, state = train_step.create_step(
        train_step.CASES['ldc_autoencoder'], 'mlp', 4, 2, overrides
    )
    self.assertEqual(set(state.params), {'encoder', 'decoder'})

  def test_small_run_writes_table_and_record(self):
    self.enter_context(absltest.mock.patch.object(common, 'set_up_jax'))
    output = _folder(self) / 'step.json'
    with contextlib.redirect_stdout(io.StringIO()):
      code = train_step.main([
          '--cases=vae,iwae', '--batch_size=4', '--particles=2', '--steps=2',
          '--rounds=2', '--config.model.hidden_sizes=8', f'--output={output}',
      ])
    self.assertEqual(code, 0)
    record = json.loads(output.read_text())
    self.assertEqual([x['case'] for x in record['rows']], ['vae', 'iwae'])
    for row in record['rows']:
      self.assertLen(row['rounds'], 2)
      self.assertGreater(row['wall_ms'], 0.0)
    self.assertEqual(record['rows'][1]['wall_ratio'], 1.0)
    self.assertNotIn(os.fspath(output.parent), output.read_text())
    self.assertIn('| mlp | `vae` |', output.with_suffix('.md').read_text())

  def test_unknown_case_is_told(self):
    with self.assertRaisesRegex(ValueError, '--cases=gan is unknown; known'):
      train_step.main(['--cases=gan'])

  @parameterized.parameters(*train_step.CASES)
  def test_cases_have_fields_of_their_methods(self, name):
    case = train_step.CASES[name]
    config = config_lib.load(f'configs/mnist.py:{case.method}', {})
    self.assertContainsSubset(case.fields, config.objective)


if __name__ == '__main__':
  absltest.main()
