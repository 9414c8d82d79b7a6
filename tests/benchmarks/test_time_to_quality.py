"""Tests of the benchmark of the time to a quality."""

import contextlib
import io
import json
import pathlib
import tempfile

from absl.testing import absltest

from benchmarks import time_to_quality


def _row(route, epochs, distance, seed=0, seconds=1.0):
  return {
    'route': route,
    'seed': seed,
    'epochs': epochs,
    'distance': distance,
    'train_seconds': seconds * epochs,
    'fit_seconds': 0.5,
    'sample_seconds': 0.1,
  }


class SummariseTest(absltest.TestCase):
  def test_fewest_epochs_that_reach_the_target_count(self):
    rows = [_row('limit', 1, 5.0), _row('limit', 4, 2.0)]
    rows += [_row('ldc', n, d) for n, d in ((1, 4.0), (2, 3.0), (4, 2.5))]
    rows += [_row('vae+flow', n, 2.9, seconds=0.1) for n in (1, 2, 4)]
    fast, slow, never, other = time_to_quality.summarise(rows, (1.5, 1.2))
    self.assertEqual((fast['route'], fast['seconds']), ('vae+flow', 0.6))
    self.assertEqual((slow['route'], slow['seconds']), ('ldc', 2.5))
    self.assertEqual((never['factor'], never['seconds']), (1.2, None))
    self.assertIsNone(other['epochs'])

  def test_a_seed_that_misses_the_target_is_a_miss(self):
    rows = [_row('limit', 1, 2.0, seed) for seed in (0, 1)]
    rows += [_row('ldc', 1, 2.5, 0), _row('ldc', 1, 9.0, 1)]
    (entry,) = time_to_quality.summarise(rows, (1.5,))
    self.assertIsNone(entry['seconds'])


class MainTest(absltest.TestCase):
  def test_small_run(self):
    words = ['--config=configs/digits.py', '--routes=vae+gmm_50,ldc']
    with tempfile.TemporaryDirectory() as folder:
      output = pathlib.Path(folder, 'result.json')
      with contextlib.redirect_stdout(io.StringIO()):
        time_to_quality.main(
          [
            *words,
            '--epochs=1,2',
            '--draws=2',
            '--factors=1000',
            f'--output={output}',
          ]
        )
      record = json.loads(output.read_text())
      self.assertTrue(output.with_suffix('.png').exists())
    routes = {entry['route'] for entry in record['summary']}
    self.assertSetEqual(routes, {'vae+gmm_50', 'ldc'})
    for entry in record['summary']:
      self.assertGreater(entry['seconds'], 0.0)
      self.assertEqual(entry['epochs'], 1)


if __name__ == '__main__':
  absltest.main()
