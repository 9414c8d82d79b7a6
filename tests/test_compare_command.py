"""Tests of a comparison by command, and of the sentence for a failed run."""

import contextlib
import io
import json
import os
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax

from ldc_vae import compare
from ldc_vae import config as config_lib
from ldc_vae import main
from ldc_vae.runtime import jobs
from tests import compare_case
from tests import device_case

_FIGURES = compare_case.FIGURES
_SPEC = compare_case.SPEC


class FailureTest(parameterized.TestCase):
  @parameterized.parameters(
    (
      1,
      'step 1\nerror: too little memory; lower x\n',
      'too little memory; lower x',
    ),
    (-9, 'step 1\n', 'ended by SIGKILL'),
    (1, 'Traceback\nTypeError: x\n', 'exit code 1: TypeError: x'),
    (
      1,
      'Traceback\nmy.module.OddError\n----\nFor simplicity, JAX has removed\n',
      'exit code 1: my.module.OddError',
    ),
    (1, 'Errors are here\nlast words\n', 'exit code 1: last words'),
    (3, '', 'exit code 3'),
  )
  def test_is_one_line(self, code, output, expected):
    end = jobs.End(jobs.Job('x', ()), code, 1.0, output)
    self.assertEqual(compare.failure(end), expected)


class CommandTest(parameterized.TestCase):
  """The real thing, at its smallest."""

  def setUp(self):
    super().setUp()
    device_case.train_classifier('configs/digits.py:vae,debug')

  def test_runs_are_those_of_train(self):
    folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    out = io.StringIO()
    small = (
      '--config.train.num_steps=4',
      '--config.evaluate.num_samples=16',
      '--config.evaluate.samplers=prior',
      '--config.evaluate.batch_size=100',
      '--config.evaluate.importance_samples=0',
    )
    with (
      mock.patch.object(jax.config, 'update'),
      contextlib.redirect_stderr(out),
    ):
      code = main.main(
        [
          f'--config={_SPEC}',
          '--mode=compare',
          '--methods=ae,vae',
          '--seeds=3',
          f'--workdir={folder}/w',
          *small,
          # the tests have four devices
          '--config.ae.train.batch_size=31',
        ]
      )
    self.assertEqual(code, 1)
    workdir = folder / 'w'
    self.assertRegex(
      out.getvalue().splitlines()[-1],
      r'error: 1 of 2 runs failed, as ae_seed3 \(config.train.batch_size=31'
      r' is not divisible by 4 devices',
    )
    record = json.loads((workdir / 'comparison.json').read_text())
    self.assertEqual(
      [run['status'] for run in record['runs']], ['failed', 'finished']
    )
    results = json.loads((workdir / 'vae_seed3' / 'results.json').read_text())
    self.assertEqual(record['runs'][1]['results'], results)
    self.assertEqual((results['seed'], results['step']), (3, 4))
    stored = config_lib.read(workdir / 'vae_seed3')
    expected = config_lib.load(
      'configs/digits.py:vae,debug', ['--config.seed=3', *small]
    )
    self.assertEqual(stored.to_dict(), expected.to_dict())
    self.assertEqual(set(os.listdir(workdir / 'figures')), _FIGURES)


if __name__ == '__main__':
  absltest.main()
