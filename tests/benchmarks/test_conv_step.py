"""Tests of benchmarks.conv_step."""

import json
import sys

from absl.testing import absltest

from benchmarks import conv_step
from benchmarks import conv_step_ldc_vae
from tests.benchmarks import benchmark_case

_folder = benchmark_case.create_folder


class ConvStepTest(absltest.TestCase):
  def test_counts_by_hand(self):
    # 32x32x3, one layer of 4: 16x16 outputs; the decoder starts from 16x16
    encoder = 256 * 4 * 4 * 3 * 4 + 1024 * 32
    decoder = 16 * 1024 + 256 * 4 * 4 * 4 * 4 + 1024 * 3 * 3 * 4 * 3
    found = conv_step_ldc_vae.count((32, 32, 3), (4,))
    self.assertEqual(found['multiply_adds'], encoder + decoder)
    weights = (48 * 4 + 4) + (1024 * 32 + 32)
    weights += (16 * 1024 + 1024) + (64 * 4 + 4) + (36 * 3 + 3)
    self.assertEqual(found['num_parameters'], weights)

  def test_agrees_with_the_count_of_the_peers(self):
    # what conv_step_peers.py finds for the same networks
    found = conv_step_ldc_vae.count((28, 28, 1), (4,))
    self.assertEqual(found['multiply_adds'], 128_576)
    self.assertEqual(found['num_parameters'], 38_813)

  def test_unequal_networks_are_refused(self):
    fake = (
      'import json, sys; print(json.dumps('
      '{"num_parameters": int(sys.argv[1]), "multiply_adds": 1}))'
    )
    workers = {name: (sys.executable, '-c', fake, name) for name in ('7', '8')}
    with self.assertRaisesRegex(ValueError, 'differ in num_parameters'):
      conv_step.run(workers, (4, 4, 1), batch_size=1, steps=1, rounds=1)

  def test_debug_run_writes_what_it_measured(self):
    output = _folder(self) / 'step.json'
    code = conv_step.main(['--debug', '--images=28x28x1', f'--output={output}'])
    self.assertEqual(code, 0)
    record = json.loads(output.read_text())
    self.assertIn('--output=OUTPUT', record['command'])
    rows = record['results']['28x28x1']
    self.assertEqual(list(rows), ['patches', 'native'])
    self.assertEqual(rows['patches']['ratios'], [1.0])
    # the same weights, images and noise; float32, four steps
    self.assertAlmostEqual(
      rows['patches']['loss'], rows['native']['loss'], delta=1e-3
    )
    table = output.with_suffix('.md').read_text()
    self.assertIn('| 28x28x1, native |', table)


if __name__ == '__main__':
  absltest.main()
