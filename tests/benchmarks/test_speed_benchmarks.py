"""Tests for the benchmarks of speed: pure pieces, and a small run of each."""

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
import jax
import numpy as np
import pytest

from benchmarks import common
from benchmarks import operations
from benchmarks import scaling
from benchmarks import scaling_machines
from benchmarks import start
from benchmarks import syncing
from benchmarks import train_step
from ldc_vae import config as config_lib
from ldc_vae.runtime import durable


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

  def test_a_run_that_fails_is_reported(self):
    with self.assertRaisesRegex(OSError, 'exit code 2 before its first step'):
      start.first_step(
        'configs/digits.py', ['--config.seeds=1'], _folder(self), 'run'
      )

  def test_median_of_each_figure(self):
    turns = [{'a': 1.0, 'b': 5.0}, {'a': 3.0, 'b': 6.0}, {'a': 2.0, 'b': 0.0}]
    self.assertEqual(start.median(turns), {'a': 2.0, 'b': 5.0})


class SyncingTest(absltest.TestCase):
  def test_saves_with_and_without_syncing_take_turns(self):
    config = config_lib.load('configs/digits.py:vae,debug')
    synced = []
    with absltest.mock.patch.object(os, 'fsync', side_effect=synced.append):
      turns = syncing.save_seconds(config, 2, _folder(self) / 'saves')
    self.assertLen(turns['synced'], 2)
    self.assertLen(turns['not synced'], 2)
    for turn in (*turns['synced'], *turns['not synced']):
      self.assertBetween(turn['seconds'], turn['loop_seconds'], 60.0)
    # metrics, the checkpoint and its parts, their folder
    self.assertGreater(len(synced), 3 * 10)
    before = len(synced)
    with absltest.mock.patch.object(os, 'fsync', side_effect=synced.append):
      with syncing.syncing(False):
        durable.sync(_folder(self))
      durable.sync(_folder(self))
    self.assertLen(synced, before + 1)

  def test_a_run_that_fails_is_reported(self):
    with self.assertRaisesRegex(OSError, 'exit code 2: error: .*nothing.py'):
      syncing.run_seconds(['--config=nothing.py'], _folder(self) / 'run', True)


class TrainStepTest(parameterized.TestCase):
  def test_ratios_are_taken_within_a_round(self):
    row = lambda wall: {'wall': wall, 'cpu': wall, 'host': 0.1}
    times = {
      'iwae': [row(1.0), row(10.0), row(2.0)],
      'ldc': [row(2.0), row(10.0), row(3.0)],  # ratios 2, 1, 1.5
    }
    nets = {
      'model.architecture': 'mlp',
      'model.dtype': 'float32',
      'train.batch_size': 128,
    }
    operations_of = {'iwae': 6e9, 'ldc': 12e9}
    rows = train_step.summarise(nets, times, operations_of, 8e12)
    self.assertEqual([x['wall_ratio'] for x in rows], [1.0, 1.5])
    self.assertEqual(rows[1]['wall_ms'], 3.0)
    self.assertAlmostEqual(rows[1]['images_per_second'], 128 / 3e-3)
    # 12 G operations in 3 ms, where a matmul does 8 T a second
    self.assertAlmostEqual(rows[1]['utilisation'], 0.5)
    self.assertIsNone(rows[1]['peak_utilisation'])  # of a CPU

  def test_first_phase_trains_the_autoencoder_alone(self):
    overrides = [
      '--config.model.hidden_sizes=8',
      '--config.model.latent_size=2',
    ]
    program = train_step.create_program(
      'configs/mnist.py',
      train_step.CASES['ldc_autoencoder'],
      {},
      2,
      overrides,
    )
    _, state = train_step.create_step(program)
    self.assertEqual(set(state.params), {'encoder', 'decoder', 'scale'})

  def test_small_run_writes_table_and_record(self):
    self.enter_context(absltest.mock.patch.object(common, 'set_up_jax'))
    output = _folder(self) / 'step.json'
    with contextlib.redirect_stdout(io.StringIO()):
      code = train_step.main(
        [
          '--cases=vae,iwae',
          '--batch_sizes=4',
          '--particles=2',
          '--steps=2',
          '--rounds=2',
          '--config.model.hidden_sizes=8',
          f'--output={output}',
        ]
      )
    self.assertEqual(code, 0)
    record = json.loads(output.read_text())
    self.assertEqual([x['case'] for x in record['rows']], ['vae', 'iwae'])
    for row in record['rows']:
      self.assertLen(row['rounds'], 2)
      self.assertGreater(row['wall_ms'], 0.0)
      self.assertGreater(row['utilisation'], 0.0)
      self.assertLess(row['utilisation'], 1.0)
    self.assertEqual(record['rows'][1]['wall_ratio'], 1.0)
    self.assertNotIn(os.fspath(output.parent), output.read_text())
    table = output.with_suffix('.md').read_text()
    self.assertIn('| mlp | float32 | 4 | `vae` |', table)

  @parameterized.parameters(
    ('--cases=gan', '--cases=gan is unknown; known'),
    ('--dtypes=float', '--dtypes=float is unknown; known: float32'),
    ('--config.model.dtype=bfloat16', 'use --dtypes'),
    ('--cases=', '--cases names nothing; known: vae'),
    ('--architectures=cnn', '--architectures=cnn is unknown; known: mlp'),
    ('--batch_sizes=128,0', '--batch_sizes needs positive numbers'),
    ('--config=configs/mnist.py:ldc', 'names a method; --cases does that'),
  )
  def test_a_wrong_choice_is_reported(self, argument, message):
    with self.assertRaisesRegex(ValueError, message):
      train_step.main([argument])

  def test_the_networks_are_those_of_the_config(self):
    program = absltest.mock.Mock(side_effect=ValueError)
    self.enter_context(
      absltest.mock.patch.object(train_step, 'create_program', program)
    )
    self.enter_context(absltest.mock.patch.object(common, 'set_up_jax'))
    for flags, expected in (((), 'resnet'), (('--architectures=mlp',), 'mlp')):
      with self.assertRaises(ValueError):
        train_step.main(['--config=configs/cifar10.py', *flags])
      nets = program.call_args.args[2]
      self.assertEqual(nets['model.architecture'], expected)

  @parameterized.parameters(*train_step.CASES)
  def test_cases_have_fields_of_their_methods(self, name):
    case = train_step.CASES[name]
    config = config_lib.load(f'configs/mnist.py:{case.method}', {})
    self.assertContainsSubset(case.fields, config.method)


class OperationsTest(absltest.TestCase):
  def test_images_of_any_shape_are_an_error(self):
    with self.assertRaisesRegex(ValueError, 'use one of digits'):
      operations.create_program(
        'configs/images.py:vae', {'dataset.path': 'photos'}
      )

  def test_a_device_alone_cannot_count_operations(self):
    program = operations.create_program('configs/digits.py:vae')
    with (
      absltest.mock.patch.object(
        jax, 'local_devices', side_effect=RuntimeError
      ),
      absltest.mock.patch.dict('os.environ', JAX_PLATFORMS='cuda'),
      self.assertRaisesRegex(
        ValueError, 'JAX_PLATFORMS=cuda leaves no CPU.*set it to cuda,cpu'
      ),
    ):
      operations.count(program, 32)

  def test_operations_of_a_vae_step_counted_by_hand(self):
    overrides = {
      'model.hidden_sizes': (64,),
      'model.latent_size': 4,
      'train.batch_size': 32,
    }
    program = operations.create_program('configs/digits.py:vae', overrides)
    actual = operations.of_step(program, 32)
    layers = (64 * 64, 64 * 8, 4 * 64, 64 * 64)
    # 2 operations a weight and image, forward and twice backward but for the
    # images; elementwise work, Adam's of 9,000 weights most of it, on top
    products = 2 * 32 * (3 * sum(layers) - layers[0])
    self.assertBetween(actual, products, 1.5 * products)

  def test_every_update_of_the_sampler_counts(self):
    program_of = lambda count: operations.create_program(
      'configs/digits.py:ldc',
      {
        'method.num_latent_updates': count,
        'model.sampler_blocks': 1,
        'model.energy_blocks': 1,
      },
    )
    one, two, three = (
      operations.of_step(program_of(count), 32) for count in (1, 2, 3)
    )
    # the adding up of metrics aside
    self.assertAlmostEqual(three - two, two - one, delta=1e-3 * (two - one))
    _, weights = operations.num_weights(program_of(1)).values()
    # forward, and backward by inputs and weights, of both nets, at least
    self.assertGreater(two - one, 3 * 2 * weights * 32)

  def test_a_device_of_no_known_peak_has_none(self):
    self.assertIsNone(operations.peak('cpu', 'float32'))
    self.assertEqual(
      operations.peak('NVIDIA H100 80GB HBM3', 'bfloat16'), 989e12
    )


class ScalingTest(parameterized.TestCase):
  def test_communication_by_hand(self):
    machine = scaling_machines.Machine(
      devices=4, peak=1.0, bandwidth=1e9, latency=1e-6, source=''
    )
    row = scaling.step_seconds(machine, 0.01, [2e6, 4e6])
    # 2 * 3/4 of 6 MB at 1 GB/s, and 2 collectives of 2 hops
    self.assertAlmostEqual(row['communication_seconds'], 0.009 + 4e-6)
    self.assertAlmostEqual(row['efficiency'], 0.01 / row['seconds'])

  def test_one_device_waits_for_nobody(self):
    machine = scaling_machines.Machine(1, 1.0, 1e9, 1e-6, '')
    row = scaling.step_seconds(machine, 0.01, [2e6])
    self.assertEqual(row['efficiency'], 1.0)

  @parameterized.parameters(
    ('--batch_size=3', '--batch_size=3 must be divisible'),
    ('--methods=gan', '--methods=gan is unknown'),
    ('--predict=configs/celeba64.py:vae', 'names a method'),
    ('--predict=configs/no.py', 'configs/no.py'),
  )
  def test_a_mistake_is_reported_before_the_work(self, argument, message):
    with absltest.mock.patch.object(scaling, 'measure') as measure:
      with self.assertRaisesRegex((ValueError, OSError), message):
        scaling.main([argument])
    measure.assert_not_called()

  @pytest.mark.slow
  def test_emulated_devices_compute_what_one_does(self):
    output = _folder(self) / 'params.npy'
    job = {
      'spec': 'configs/digits.py:vae',
      'batch_size': 8,
      'steps': 3,
      'output': str(output),
    }
    overrides = ['--config.model.hidden_sizes=8', '--config.train.batch_size=8']
    params = []
    for devices in (1, 2):
      row = scaling.run_layout(job, 1, devices, overrides)
      self.assertGreater(row['milliseconds'], 0.0)
      params.append(np.load(output))
    # float32: sums over a batch of 8 in another order, three updates by Adam
    np.testing.assert_allclose(*params, rtol=1e-4, atol=1e-5)

  def test_a_worker_that_fails_is_reported(self):
    job = {
      'spec': 'configs/no.py:vae',
      'batch_size': 8,
      'steps': 3,
      'output': '',
    }
    message = 'a worker ended with 1: error: .*no.py'
    with self.assertRaisesRegex(OSError, message):
      scaling.run_layout(job, 1, 1, ())


if __name__ == '__main__':
  absltest.main()
