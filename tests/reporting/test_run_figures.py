"""Tests of ldc_vae.reporting.run_figures."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.reporting import run_figures
from ldc_vae.reporting import style
from tests.reporting import picture_case as case


class SourceGridTest(case.PictureTestCase):
  def test_sources_come_in_their_order_from_real_to_prior(self):
    names = ['prior', 'mine', 'gmm_10', 'generator', 'real']
    images = {
      name: case.noise((2, 8, 8, 1), seed=seed)
      for seed, name in enumerate(names)
    }
    path = run_figures.source_grid(
      images, self.path, title='S', distances={'real': 1.0, 'prior': None}
    )
    self.assert_nothing_clipped(path)
    canvas = case.pixels(path)
    rows = {
      name: case.corner(canvas, case.enlarged(images[name][0], 16))
      for name in names
    }
    expected = ['real', 'generator', 'gmm_10', 'prior', 'mine']
    self.assertEqual(sorted(rows, key=rows.get), expected)

  def test_distance_is_written_beside_its_source(self):
    images = {'real': case.digits(3), 'generator': case.digits(3)}
    plain = case.pixels(run_figures.source_grid(images, self.path, title='S'))
    for nothing in (None, float('nan')):
      distances = {'real': nothing}
      same = run_figures.source_grid(
        images, self.path, title='S', distances=distances
      )
      np.testing.assert_array_equal(case.pixels(same), plain)
    labelled = run_figures.source_grid(
      images, self.path, title='S', distances={'real': 1.234}
    )
    self.assertFalse(np.array_equal(case.pixels(labelled), plain))

  def test_source_without_images_is_left_out(self):
    images = {'real': case.digits(1), 'prior': case.digits(0)}
    with_empty = case.pixels(
      run_figures.source_grid(images, self.path, title='S')
    )
    del images['prior']
    without = case.pixels(run_figures.source_grid(images, self.path, title='S'))
    np.testing.assert_array_equal(with_empty, without)

  def test_refuses_sizes_that_differ(self):
    with self.assertRaises(AssertionError):
      run_figures.source_grid(
        {'real': case.digits(1), 'prior': case.noise((1, 9, 9, 1))},
        self.path,
        title='S',
      )


class DecompositionBarsTest(case.PictureTestCase):
  def test_another_judge_is_named_whole_and_deviations_are_lines(self):
    results = {
      'frechet_classifier_seed_1/real': 0.3,
      'frechet_classifier_seed_1/aggregate': 2.0,
      'frechet_classifier_seed_1/prior': 40.0,
    }
    fig = self.drawn_from(results)
    fig.draw_without_rendering()
    box = fig.axes[0].xaxis.label.get_window_extent()
    self.assertGreater(box.x0, 0.0)
    self.assertLess(box.x1, fig.bbox.width)
    self.assertEmpty(fig.axes[0].lines)
    results['frechet_classifier_seed_1_deviation/prior'] = 1.0
    with_spread = self.drawn_from(results)
    self.assertLen(with_spread.axes, 1)
    self.assertLen(with_spread.axes[0].patches, 3)
    (line,) = with_spread.axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), [39.0, 41.0])
    self.assertIn('standard deviation', with_spread.get_supxlabel())

  @parameterized.named_parameters(
    ('linear', {'real': 1.0, 'generator': 4.4}),
    ('logarithmic', {'real': 0.01, 'generator': 4.4, 'prior': 850.0}),
    ('zero', {'real': 0.0, 'generator': 0.0}),
    ('slightly_negative', {'real': -1e-9, 'generator': 4.4, 'prior': 99.0}),
    ('one', {'generator': 12345.6}),
    ('some_missing', {'real': None, 'prior': float('nan'), 'mine': 3.0}),
    ('nothing', {'real': None}),
  )
  def test_is_drawn_whole(self, bars):
    results = {f'frechet_classifier/{k}': v for k, v in bars.items()}
    results |= {'seed': 0, 'nll/elbo': 3.0, 'note': 'text'}
    path = run_figures.decomposition_bars(results, self.path, title='Distance')
    self.assert_whole_png(path)
    self.assert_nothing_clipped(path)

  @parameterized.parameters(
    ({'real': 3.0, 'generator': 66.0}, 2.0, 'axis from 2 '),
    ({'real': 0.012, 'generator': 850.0}, 0.001, 'axis from 0.001 '),
    ({'real': 8.0, 'generator': 66.0}, 0.0, 'classifier (lower'),
  )
  def test_axis_begins_at_a_round_number_that_is_told(self, bars, start, words):
    fig = self.drawn(bars)
    self.assertAlmostEqual(fig.axes[0].get_xlim()[0], start)
    self.assertIn(words, fig.axes[0].get_xlabel())

  def test_caption_explains_the_colours_that_are_there(self):
    caption = self.drawn({'real': 3.0, 'generator': 66.0}).get_supxlabel()
    for words, is_there in (
      ('Light blue', True),
      ('Orange', True),
      ('Grey', False),
      ('Reconstructions', False),
    ):
      self.assertEqual(words in caption, is_there, caption)

  def test_reconstructions_nearer_than_real_images_are_explained(self):
    bars = {'real': 3.0, 'reconstruction': 2.0}
    self.assertIn('Reconstructions', self.drawn(bars).get_supxlabel())

  def drawn(self, bars):
    return self.drawn_from({f'frechet_classifier/{k}': bars[k] for k in bars})

  def drawn_from(self, results):
    with absltest.mock.patch.object(style, 'write_figure') as write_figure:
      run_figures.decomposition_bars(results, self.path)
    return write_figure.call_args.args[0]

  def test_every_family_has_a_panel(self):
    results = {'frechet_classifier/real': 1.0, 'frechet_classifier/prior': 2.0}
    self.assertLen(self.drawn_from(results).axes, 1)
    results |= {'frechet_pca/real': 1.0, 'frechet_pca/prior': 2.0}
    self.assertLen(self.drawn_from(results).axes, 2)


if __name__ == '__main__':
  absltest.main()
