"""Tests of benchmarks.common."""

import argparse
import json
import math
import os
import signal
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import common
from tests.benchmarks import benchmark_case

_folder = benchmark_case.create_folder


class CommandTest(parameterized.TestCase):
  @parameterized.parameters(
    (
      ['--data_dir=/home/me/tfds', '--seeds=0,1'],
      '--data_dir=DATA_DIR --seeds=0,1',
    ),
    (
      ['--workdir', '/scratch/run', '--collect_only'],
      '--workdir=WORKDIR --collect_only',
    ),
    (
      ['--config.dataset.data_dir=../data'],
      '--config.dataset.data_dir=DATA_DIR',
    ),
  )
  def test_names_no_place(self, argv, expected):
    self.assertEqual(
      common.command('benchmarks.x', argv),
      f'python -m benchmarks.x {expected}',
    )


class StatisticsTest(parameterized.TestCase):
  def test_one_value_has_no_spread(self):
    self.assertEqual(common.show_spread([1.25]), '1.25')

  def test_missing_values_are_counted(self):
    self.assertEqual(common.show_spread([2.0, None, 4.0]), '3.00 (2 of 3)')
    self.assertEqual(common.show_spread([None]), 'n/a')

  @parameterized.parameters(
    (0.0123456, '0.0123'),
    (4.0, '4.00'),
    (123.456, '123'),
    (98765.4, '98765'),
    (1.2345e-5, '1.23e-05'),
    (-0.5, '-0.500'),
    (0.0, '0'),
    (7, '7'),
    (None, 'n/a'),
    (math.nan, 'n/a'),
  )
  def test_shows_three_digits(self, value, expected):
    self.assertEqual(common.show(value), expected)


class TableTest(absltest.TestCase):
  def test_record_and_table_lie_side_by_side(self):
    output = _folder(self) / 'results' / 'x.json'
    record = common.create_record('benchmarks.x', ['--seeds=3'], [3])
    common.write(output, record, 'the table\n')
    stored = json.loads(output.read_text())
    self.assertEqual(stored['command'], 'python -m benchmarks.x --seeds=3')
    self.assertEqual(stored['seeds'], [3])
    self.assertIn('git_commit', stored)
    self.assertGreater(stored['device']['count'], 0)
    markdown = output.with_suffix('.md').read_text()
    self.assertStartsWith(markdown, 'the table\n')
    self.assertIn('python -m benchmarks.x --seeds=3', markdown)

  def test_names_the_commits_of_the_runs(self):
    record = common.create_record('benchmarks.x', [], [0])
    record['rows'] = [{'git_commit': 'b'}, {'git_commit': 'a'}, {}]
    output = _folder(self) / 'x.json'
    common.write(output, record, 'table')
    self.assertIn('; runs of a, b.', output.with_suffix('.md').read_text())


class ParseTest(parameterized.TestCase):
  def _parse(self, *argv):
    parser = argparse.ArgumentParser()
    parser.add_argument('--seeds', type=common.integers, default=(0,))
    parser.add_argument('--output', default='')
    return common.parse_overrides(parser, argv)

  @parameterized.parameters(
    ('--output=x.txt', 'must end in .json'),
    ('--output=/dev/null/x.json', '/dev/null'),
    ('--seeds=1,2,1', '--seeds names 1 twice'),
  )
  def test_a_mistake_is_reported_before_the_work(self, argument, message):
    with self.assertRaisesRegex((ValueError, OSError), message):
      self._parse(argument)

  @parameterized.parameters('--seeds=', '--seeds=a', '--foo=3', 'config.py')
  def test_what_argparse_tells(self, argument):
    with self.assertRaises(SystemExit):
      self._parse(argument)

  def test_the_folder_of_the_output_is_made(self):
    output = _folder(self) / 'new' / 'x.json'
    args, overrides = self._parse(
      f'--output={output}', '--config.seed=3', '--seeds=1,2'
    )
    self.assertEqual((args.seeds, overrides), ((1, 2), ['--config.seed=3']))
    self.assertTrue(output.parent.is_dir())
    self.assertFalse(output.exists())


class RunTest(absltest.TestCase):
  def test_a_signal_ends_the_jobs_too(self):
    program = """
import sys
from benchmarks import common
from ldc_vae.runtime import jobs

child = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'
job = jobs.Job('child', (sys.executable, '-c', child))
common.run(lambda unused_argv: jobs.run_all([job], 1))
"""
    with subprocess.Popen(
      (sys.executable, '-c', program), stdout=subprocess.PIPE, text=True
    ) as process:
      child = int(process.stdout.readline())
      process.terminate()
      self.assertEqual(process.wait(30), 128 + signal.SIGTERM)
    with self.assertRaises(ProcessLookupError):
      os.kill(child, 0)


if __name__ == '__main__':
  absltest.main()
