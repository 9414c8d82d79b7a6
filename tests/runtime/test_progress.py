"""Tests of ldc_vae.runtime.progress."""

import io

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae.runtime import progress as progress_lib


class _Terminal(io.StringIO):

  def isatty(self):
    return True


class ProgressBarTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.now = 100.0
    self.enter_context(
        absltest.mock.patch('time.monotonic', side_effect=lambda: self.now)
    )

  def run_steps(self, file, num_steps=100, seconds=1.0, **kwargs):
    """Runs `num_steps` steps of so many seconds; the first takes 50."""
    with progress_lib.ProgressBar(
        num_steps, batch_size=256, file=file, **kwargs
    ) as progress:
      self.now += 50.0
      for step in range(kwargs.get('initial', 0) + 1, num_steps + 1):
        progress.set_loss(1000.0 / step)
        progress.update(step)
        self.now += seconds

  def test_away_from_a_terminal_a_line_every_ten_seconds(self):
    file = io.StringIO()
    self.run_steps(file)
    lines = file.getvalue().splitlines()
    self.assertLen(lines, 10)  # steps 11, 21, ..., 91 and the last
    self.assertEqual(
        lines[0], 'step 11/100  256 images/s  01:29 left  loss 90.91'
    )
    self.assertEqual(
        lines[-1], 'step 100/100  256 images/s  00:00 left  loss 10'
    )

  def test_first_step_does_not_count(self):
    file = io.StringIO()
    self.run_steps(file, interval=0.0, num_steps=3, initial=1)
    self.assertEqual(
        file.getvalue(), 'step 3/3  256 images/s  00:00 left  loss 333.3\n'
    )

  def test_a_run_of_one_step_says_so(self):
    file = io.StringIO()
    self.run_steps(file, num_steps=1)
    self.assertEqual(file.getvalue(), 'step 1/1  loss 1000\n')

  def test_nothing_to_do_says_nothing(self):
    file = io.StringIO()
    self.run_steps(file, num_steps=5, initial=5)
    self.assertEmpty(file.getvalue())

  def test_terminal_shows_a_bar(self):
    file = _Terminal()
    self.run_steps(file)
    last = file.getvalue().split('\r')[-1]
    self.assertIn('100%', last)
    self.assertIn('100/100', last)
    self.assertIn('256 images/s', last)
    self.assertIn('loss 10', last)
    self.assertEndsWith(file.getvalue(), '\n')

  def test_terminal_is_redrawn_at_most_ten_times_a_second(self):
    file = _Terminal()
    self.run_steps(file, num_steps=1000, seconds=0.001)
    self.assertLess(file.getvalue().count('\r'), 20)

  def test_only_process_0_shows(self):
    file = _Terminal()
    with absltest.mock.patch('jax.process_index', return_value=1):
      self.run_steps(file)
    self.assertEmpty(file.getvalue())


if __name__ == '__main__':
  absltest.main()
