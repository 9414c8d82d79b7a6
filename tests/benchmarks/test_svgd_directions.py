"""Tests of benchmarks.svgd_directions and its worker."""

import json
import math
import sys

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from benchmarks import svgd_directions
from benchmarks import svgd_directions_tables
from benchmarks import svgd_directions_worker
from tests.benchmarks import benchmark_case

_folder = benchmark_case.create_folder


def _svgd_row(ours, peer, floor):
  return {
    'seconds': {'ldc_vae': ours, 'blackjax': peer},
    'floor_seconds': floor,
  }


class SvgdDirectionsTest(parameterized.TestCase):
  @parameterized.parameters(('cpu', 1), ('gpu', 8), ('tpu', 8))
  def test_an_accelerators_calls_follow_each_other(self, platform, in_flight):
    clock, waits = [0.0], []

    def call(seconds):
      clock[0] += seconds

    library = absltest.mock.Mock(platform=platform)
    library.wait = waits.append  # of a call: nothing more to wait for
    seconds_in_flight = svgd_directions_worker._OTHER_SECONDS_IN_FLIGHT
    each = seconds_in_flight / 8.5
    with absltest.mock.patch.object(
      svgd_directions_worker.time, 'perf_counter', lambda: clock[0]
    ):
      seconds, count = svgd_directions_worker._time(library, call, each)
      self.assertAlmostEqual(seconds, each)
      timed = waits[2:]
      # none of the first, which compiles, nor of that which tells how many
      self.assertLen(timed, count // in_flight)
      self.assertEqual(count % in_flight, 0)
      # a call of more than a second is timed by the first
      clock[0], waits[:] = 0.0, []
      seconds, count = svgd_directions_worker._time(library, call, 9.0)
    self.assertEqual((seconds, count, len(waits)), (9.0, 1, 1))

  def test_floor_is_two_products_and_the_exponentials(self):
    case = {'batch': 3, 'n': 10, 'dim': 4}
    rates = {'matmul': 100.0, 'exp': 50.0}
    # 2 products of 10 x 10 x 4 multiplications and additions, 100 exponentials
    self.assertAlmostEqual(
      svgd_directions.floor_seconds(case, rates), 3 * (16.0 + 2.0)
    )

  def test_ratios_pair_the_turns(self):
    row = _svgd_row([1.0, 2.0, 4.0], [3.0, 8.0, 20.0], [0.5, 1.8, 3.0])
    self.assertEqual(svgd_directions_tables.median_ratio(row, 'blackjax'), 4.0)
    self.assertEqual(svgd_directions_tables.floor_share(row), 0.75)
    self.assertIsNone(svgd_directions_tables.median_ratio(row, 'torch'))

  @parameterized.parameters(
    ('blackjax', 4.29), ('torch', 0.0168), ('ldc_vae', 0.0)
  )
  def test_arrays_of_pairs_have_a_size(self, name, gigabytes):
    case = {'batch': 0, 'n': 2048, 'dim': 256}
    self.assertAlmostEqual(
      svgd_directions.gigabytes_needed(name, case), gigabytes, delta=5e-3
    )

  def test_reference_of_two_particles_is_that_by_hand(self):
    # two particles at -a and a, s = -z: the score of one's own is -a, the
    # other's +a, the repulsion 2/h 2a, so that phi(a) = -a + k (a + 4a/h)
    with absltest.mock.patch.object(
      svgd_directions_worker,
      'make_particles',
      return_value=np.array([[-0.5], [0.5]], np.float32),
    ):
      case = {'batch': 0, 'n': 2, 'dim': 1}
      actual = svgd_directions.reference(case, np.arange(2), rule=False)
    h = svgd_directions_worker.bandwidth(2, 1)
    phi = 0.5 * (-0.5 + math.exp(-1.0 / h) * (0.5 + 2.0 / h))
    np.testing.assert_allclose(actual, [[-phi], [phi]], rtol=1e-12)

  def test_another_direction_is_refused_by_name(self):

    class Worker:
      def ask(self, request):
        np.save(json.loads(request)['path'], np.ones((16, 2)))
        return {}

    with self.assertRaisesRegex(ValueError, 'torch computes another direction'):
      svgd_directions.check(
        {'torch': Worker()}, {'batch': 0, 'n': 16, 'dim': 2}, _folder(self)
      )

  def test_small_form_leaves_a_peer_out_where_it_needs_too_much(self):
    output = _folder(self) / 'x.json'
    code = svgd_directions.main(
      [
        '--debug',
        '--peers=blackjax',
        f'--peer_python={sys.executable}',
        '--rounds=1',
        '--peer_gigabytes=5e-6',  # 2 kB at n=16, D=2, and 13 kB at n=40
        f'--output={output}',
      ]
    )
    self.assertEqual(code, 0)
    record = json.loads(output.read_text())
    self.assertIn('--peer_python=PEER_PYTHON', record['command'])
    smaller, larger = record['one target']
    (batched,), (memory,) = record['batched'], record['memory']
    ours = ['ldc_vae', 'ldc_vae_rule']
    self.assertEqual(list(smaller['seconds']), [*ours, 'blackjax'])
    self.assertEqual(list(larger['seconds']), ours)
    self.assertEqual(list(batched['seconds']), [*ours, 'blackjax'])
    self.assertEqual(list(memory['bytes']), ours)
    for row in (smaller, larger, batched):
      self.assertGreater(min(row['floor_seconds']), 0.0)
      # float32, 40 terms at most
      self.assertLess(max(row['errors'].values()), 1e-5)
    markdown = output.with_suffix('.md').read_text()
    self.assertIn('blackjax ÷ ldc_vae', markdown)
    (line,) = [
      line for line in markdown.splitlines() if line.startswith('| 40 | 2 |')
    ]
    self.assertEndsWith(line, '| n/a |')

  @parameterized.parameters(
    ('--peers=pyro', '--peers=pyro is unknown'),
    ('--tables=x', '--tables=x is unknown'),
    ('--sizes=7', '--sizes and --dims leave no case'),
    ('--tables=', '--tables names nothing'),
  )
  def test_a_wrong_choice_is_reported(self, argument, message):
    with self.assertRaisesRegex(ValueError, message):
      svgd_directions.main([argument])


if __name__ == '__main__':
  absltest.main()
