"""Tests of ldc_vae.reporting.curves."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.reporting import curves
from ldc_vae.reporting import style
from tests.reporting import picture_case as case


def _curve(num: int, **series: float) -> list[dict]:
  """`num` lines of metrics.jsonl with constant series."""
  return [{'step': 10 * i, **series} for i in range(1, num + 1)]


class TrainingCurvesTest(case.PictureTestCase):
  def test_values_that_are_no_numbers_are_skipped(self):
    rows = [
      {'step': 1, 'train/loss': 3.0, 'train/kl': None},
      {'step': 1, 'validation/loss': 3.5},
      {'step': 2, 'train/loss': float('nan'), 'train/note': 'text'},
      {'step': None, 'train/loss': 9.0},
      {'train/loss': 9.0},
      {'step': 3, 'train/loss': 1.0, 'train/flag': True, 'elapsed': 3.0},
    ]
    series = curves._series(rows)
    self.assertEqual(list(series), ['loss'])
    self.assertEqual(list(series['loss']), ['train', 'validation'])
    steps, values = series['loss']['train']
    np.testing.assert_array_equal(steps, [1, 3])
    np.testing.assert_array_equal(values, [3.0, 1.0])
    curves.training_curves(rows, self.path)
    self.assert_whole_png(self.path)
    self.assert_nothing_clipped(self.path)

  def test_repeated_step_keeps_the_later_line(self):
    rows = [{'step': 5, 'train/loss': 1.0}, {'step': 5, 'train/loss': 2.0}]
    steps, values = curves._series(rows)['loss']['train']
    np.testing.assert_array_equal((steps, values), ([5.0], [2.0]))

  @parameterized.named_parameters(
    ('nothing', []),
    ('no_values', [{'step': 1, 'train/loss': None}]),
    ('one_value', _curve(1, **{'train/loss': 1.0})),
    ('constant', _curve(80, **{'train/loss': 1.0})),
    ('zero', _curve(80, **{'train/loss': 0.0, 'eval/mse': 0.0})),
    (
      'four_decades',
      [{'step': i, 'train/x': 10.0 ** (-i / 20)} for i in range(80)],
    ),
    (
      'a_spike',
      [{'step': i, 'train/x': -i - 1e7 * (i == 0)} for i in range(80)],
    ),
    (
      'huge_and_tiny',
      _curve(3, **{'train/huge': 1e30, 'train/tiny': 1e-30}),
    ),
    ('many', _curve(2, **{f'train/quantity_{i}': i for i in range(7)})),
  )
  def test_is_drawn_whole(self, rows):
    path = curves.training_curves(rows, self.path, title='Curves')
    self.assert_whole_png(path)
    self.assert_nothing_clipped(path)

  def drawn(self, rows):
    with absltest.mock.patch.object(style, 'write_figure') as write_figure:
      curves.training_curves(rows, self.path)
    return write_figure.call_args.args[0]

  def test_start_does_not_set_the_axis(self):
    rows = [
      {'step': step, 'train/loss': 400.0 if step < 3 else 10.0 - 0.1 * step}
      for step in range(1, 41)
    ]
    (panel,) = self.drawn(rows).axes
    bottom, top = panel.get_ylim()
    self.assertBetween(top, 9.7, 12.0)
    self.assertBetween(bottom, 5.0, 6.0)
    self.assertEqual(panel.texts[0].get_text(), 'leaves the axis, up to 400')

  def test_start_alone_makes_no_axis_logarithmic(self):
    rows = [
      {'step': step, 'train/images_per_sec': 3.0 if step == 1 else 900.0 + step}
      for step in range(1, 41)
    ]
    self.assertEqual(self.drawn(rows).axes[0].get_yscale(), 'linear')

  def test_what_never_changes_has_no_panel_but_is_named(self):
    rows = [
      {'step': i, 'train/x': float(i), 'train/skipped': 0.0, 'eval/kl': 8.0}
      for i in range(1, 4)
    ]
    fig = self.drawn(rows)
    self.assertEqual([x.get_title(loc='left') for x in fig.axes], ['x'])
    self.assertEqual(fig.get_supxlabel(), 'Never changed: KL = 8, skipped = 0.')

  def test_running_mean_is_the_mean_of_its_window(self):
    values = np.random.default_rng(0).normal(size=200) + 1e6
    smooth = curves._running_mean(values)
    # Windows of 2 * (200 // 50) + 1 = 9; rtol: float64 sums about the mean.
    np.testing.assert_allclose(smooth[100], values[96:105].mean(), rtol=1e-12)
    np.testing.assert_allclose(smooth[1], values[:3].mean(), rtol=1e-12)
    np.testing.assert_allclose(smooth[-1], values[-5:].mean(), rtol=1e-12)

  def test_short_series_is_not_smoothed(self):
    self.assertIsNone(curves._running_mean(np.arange(49.0)))


if __name__ == '__main__':
  absltest.main()
