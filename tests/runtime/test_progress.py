"""Tests of ldc_vae.runtime.progress."""

import io
import re
import sys
import time
from unittest import mock

from absl.testing import absltest
import tqdm

from ldc_vae.runtime import progress as progress_lib


class _Terminal(io.StringIO):
  def isatty(self):
    return True


class ProgressBarTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.now = 100.0
    clock = lambda unused_self=None: self.now
    self.enter_context(mock.patch('tqdm.std.time', clock))
    self.enter_context(mock.patch.object(progress_lib.time, 'monotonic', clock))
    self.enter_context(mock.patch.object(tqdm.tqdm, 'monitor_interval', 0))

  def run_steps(self, file, num_steps=100, seconds=1.0, initial=0):
    """Runs `num_steps` steps of so many seconds; the first takes 50."""
    asked = []
    with progress_lib.ProgressBar(num_steps, file=file) as progress:
      self.now += 50.0
      self.assertEmpty(file.getvalue())  # nothing to show before a step is done
      for step in range(initial + 1, num_steps + 1):

        def loss(step=step):
          asked.append(step)
          return 1000.0 / step

        progress.update(step, loss)
        self.now += seconds
    return asked

  def test_away_from_a_terminal_a_line_every_ten_seconds(self):
    file = io.StringIO()
    asked = self.run_steps(file)
    self.assertLess(len(asked), 15)  # where it is shown only
    lines = [line for line in file.getvalue().splitlines() if line.strip()]
    self.assertBetween(len(lines), 10, 13)
    self.assertIn('100/100', lines[-1])
    self.assertIn('loss=10', lines[-1])
    # each line has the loss of its own step
    steps = [int(re.search(r'(\d+)/100', line)[1]) for line in lines[1:]]
    losses = [float(re.search(r'loss=([\d.]+)', line)[1]) for line in lines[1:]]
    for step, loss in zip(steps, losses):
      self.assertAlmostEqual(loss, 1000.0 / step, delta=0.01 * loss)

  def test_the_first_step_does_not_count(self):
    file = _Terminal()
    self.run_steps(file, num_steps=30, seconds=0.5, initial=10)
    last = file.getvalue().split('\r')[-1]
    self.assertIn('30/30', last)
    self.assertRegex(last, r'(2\.0\d|1\.9\d)step/s')

  def test_terminal_shows_a_bar_and_ends_with_a_line(self):
    file = _Terminal()
    self.run_steps(file)
    last = file.getvalue().split('\r')[-1]
    self.assertIn('100%|', last)
    self.assertIn('loss=10', last)
    self.assertEndsWith(file.getvalue(), '\n')

  def test_a_notebook_shows_a_bar(self):
    file = io.StringIO()
    with mock.patch.dict(sys.modules, ipykernel=mock.Mock()):
      self.run_steps(file)
    self.assertIn('100%|', file.getvalue().split('\r')[-1])

  def test_terminal_is_redrawn_at_most_ten_times_a_second(self):
    file = _Terminal()
    self.run_steps(file, num_steps=1000, seconds=0.001)
    self.assertLess(file.getvalue().count('\r'), 20)

  def test_only_process_0_shows(self):
    file = _Terminal()
    with mock.patch('jax.process_index', return_value=1):
      self.run_steps(file)
    self.assertEmpty(file.getvalue())


class ActivityTest(absltest.TestCase):
  def lines(self, **options):
    with self.assertLogs('absl', 'INFO') as logs:
      with progress_lib.activity('fitting', **options) as report:
        report(1, 4)
        time.sleep(0.3)
    return [record.getMessage() for record in logs.records]

  def test_what_is_short_has_one_line(self):
    self.assertEqual(self.lines(), ['fitting'])

  def test_what_is_long_tells_its_time_and_about_what_is_left(self):
    lines = self.lines(every=0.05)
    self.assertGreaterEqual(len(lines), 3)
    self.assertRegex(lines[1], r'^fitting: \d s so far, about \d s to go$')
    self.assertRegex(lines[-1], r'^fitting: done, \d s$')

  def test_of_nested_ones_the_innermost_speaks(self):
    with self.assertLogs('absl', 'INFO') as logs:
      with progress_lib.activity('outer', every=0.05):
        with progress_lib.activity('inner', every=0.05):
          time.sleep(0.3)
    lines = [record.getMessage() for record in logs.records]
    inside = lines[: lines.index('inner: done, 0 s')]
    self.assertEqual([x for x in inside if 'outer' in x], ['outer'])

  def test_rest_is_in_proportion_to_what_is_done(self):
    self.assertEqual(
      progress_lib._so_far(20.0, 1, 3), '20 s so far, about 40 s to go'
    )
    self.assertEqual(progress_lib._so_far(20.0, 0, 0), '20 s so far')

  def test_error_passes_and_stops_the_lines(self):
    with self.assertRaisesRegex(ValueError, 'mine'):
      with progress_lib.activity('fitting', every=0.05):
        raise ValueError('mine')
    with self.assertNoLogs('absl', 'INFO'):
      time.sleep(0.2)


if __name__ == '__main__':
  absltest.main()
