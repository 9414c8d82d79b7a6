"""Tests of ldc_vae.runtime.progress."""

import io
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
    self.enter_context(mock.patch.object(tqdm.tqdm, 'monitor_interval', 0))

  def run_steps(self, file, num_steps=100, seconds=1.0, initial=0):
    """Runs `num_steps` steps of so many seconds; the first takes 50."""
    with progress_lib.ProgressBar(
      num_steps, initial=initial, file=file
    ) as progress:
      self.now += 50.0
      for step in range(initial + 1, num_steps + 1):
        progress.set_loss(1000.0 / step)
        progress.update(step)
        self.now += seconds

  def test_away_from_a_terminal_a_line_every_ten_seconds(self):
    file = io.StringIO()
    self.run_steps(file)
    lines = [line for line in file.getvalue().splitlines() if line.strip()]
    self.assertBetween(len(lines), 10, 13)
    self.assertIn('100/100', lines[-1])
    self.assertIn('loss=10', lines[-1])

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

  def test_terminal_is_redrawn_at_most_ten_times_a_second(self):
    file = _Terminal()
    self.run_steps(file, num_steps=1000, seconds=0.001)
    self.assertLess(file.getvalue().count('\r'), 20)

  def test_only_process_0_shows(self):
    file = _Terminal()
    with mock.patch('jax.process_index', return_value=1):
      self.run_steps(file)
    self.assertEmpty(file.getvalue())


if __name__ == '__main__':
  absltest.main()
