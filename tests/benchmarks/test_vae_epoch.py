"""Tests for benchmarks/vae_epoch.py."""

import json
import pathlib
import sys

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from benchmarks import vae_epoch

_FOLDER = pathlib.Path(vae_epoch.__file__).parent

# Stands in for a worker: the k-th epoch takes k * `scale` seconds.
_FAKE = """
import json, sys
print(json.dumps({'device': 'none'}), flush=True)
for epoch, _ in enumerate(sys.stdin):
  seconds = epoch * %r
  answer = {'seconds': seconds, 'cpu_seconds': 2 * seconds, 'loss': 7.0}
  print(json.dumps(answer), flush=True)
"""


def _fake(scale):
  return (sys.executable, '-c', _FAKE % scale)


def _run(commands, num_images=256, rounds=3, **kwargs):
  images = np.random.default_rng(0).integers(
    0, 256, size=(num_images, 28, 28, 1), dtype=np.uint8
  )
  return vae_epoch.run(
    commands,
    images,
    likelihood='gaussian',
    rounds=rounds,
    pause_seconds=0.0,
    **kwargs,
  )


class RunTest(parameterized.TestCase):
  def test_ratios_pair_the_epochs_of_a_turn(self):
    result = _run({'a': _fake(1.0), 'b': _fake(4.0)})
    # the first epoch, which takes 0 s here, is not counted
    seconds = [epoch['seconds'] for epoch in result['epochs']['b']]
    self.assertEqual(seconds, [4.0, 8.0, 12.0])
    self.assertEqual(result['ratios'], {'b': [0.25, 0.25, 0.25]})
    self.assertEqual(
      result['summary']['a'], {'min': 1.0, 'median': 2.0, 'max': 3.0}
    )
    json.dumps(result)

  def test_table_has_a_row_each_and_the_ratios(self):
    result = _run({'a': _fake(1.0), 'b': _fake(4.0)})
    lines = vae_epoch.format_table(result).splitlines()
    starts = [line[:10].strip() for line in lines[1:]]
    self.assertEqual(starts, ['a', 'b', 'a / b', 'a / b, CPU'])
    self.assertEndsWith(lines[1], '2.000   3.000    7.00')

  def test_each_peer_has_its_ratio(self):
    result = _run({'a': _fake(1.0), 'b': _fake(4.0), 'c': _fake(2.0)})
    self.assertEqual(result['ratios']['c'], [0.5, 0.5, 0.5])
    self.assertEqual(result['summary']['a / c']['median'], 0.5)
    self.assertEqual(result['summary']['a / b, CPU']['median'], 0.25)

  @parameterized.parameters(('iwae', 3), ('ldc', 3))
  def test_our_worker_trains(self, method, num_samples):
    command = (sys.executable, str(_FOLDER / 'vae_epoch_ldc_vae.py'))
    result = _run(
      {'ours': command, 'peer': _fake(1.0)},
      num_images=1280,
      method=method,
      num_samples=num_samples,
    )
    self.assertEqual(result['config']['num_samples'], num_samples)
    first, *_, last = [each['loss'] for each in result['epochs']['ours']]
    self.assertLess(last, first)
    self.assertGreater(result['summary']['ours']['min'], 0.0)
    # a part of the epoch: measured apart, so up to the noise of a machine
    floor = result['summary']['matmuls alone']['min']
    self.assertBetween(floor, 1e-4, 2.0 * result['summary']['ours']['max'])
    self.assertIn('matmuls / peer', result['summary'])

  def test_a_worker_that_fails_is_named_with_its_reason(self):
    failing = (sys.executable, '-c', 'raise SystemExit("no module pythae")')
    message = 'peer ended with exit code 1: no module pythae'
    with self.assertRaisesRegex(OSError, message):
      _run({'ours': _fake(1.0), 'peer': failing})

  def test_an_interpreter_that_is_missing_is_named(self):
    with self.assertRaisesRegex(OSError, 'peer: /missing/python cannot be run'):
      _run({'ours': _fake(1.0), 'peer': ('/missing/python',)})


class LoadImagesTest(absltest.TestCase):
  def test_synthetic_images_make_whole_batches(self):
    images = vae_epoch.load_images('synthetic', '')
    self.assertEqual(images.shape, (59904, 28, 28, 1))
    self.assertEqual(images.dtype, np.uint8)


if __name__ == '__main__':
  absltest.main()
