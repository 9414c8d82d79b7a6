"""Tests for the pictures of methods side by side."""

import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from ldc_vae.reporting import comparison_figures
from ldc_vae.reporting import style

# as long as the longest name of a method, in bold
_LABELS = tuple(f'Latent energy-based pri{x}' for x in 'abcdefghijklm')


class ComparisonFiguresTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(folder) / 'x.png'
    self.rng = np.random.default_rng(0)

  def assert_nothing_clipped(self, path):
    """The outermost pixels are white, and some others are not."""
    with Image.open(path) as image:
      pixels = np.asarray(image.convert('RGB'))
    edges = (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:])
    for edge in edges:
      self.assertEqual(edge.min(), 255)
    self.assertLess(pixels.min(), 100)

  def colours(self, path):
    with Image.open(path) as image:
      return {colour for _, colour in image.convert('RGB').getcolors(1 << 24)}

  @parameterized.parameters(1, 13)
  def test_samples(self, count):
    images = {
      label: self.rng.integers(0, 255, (12, 8, 8, 1)).astype(np.uint8)
      for label in ('test images', *_LABELS[:count])
    }
    path = comparison_figures.samples(
      images, self.path, distances={_LABELS[0]: 12.3}, title='T'
    )
    self.assert_nothing_clipped(path)

  @parameterized.parameters((1, 1.0), (2, 200.0), (7, 200.0))
  def test_bars(self, count, largest):
    values = {
      label: {
        'real': (1.0, None),
        'generator': (largest, 0.2 * largest),
        'gmm_10': (0.9 * largest, 0.0),
      }
      for label in _LABELS[:count]
    }
    values[_LABELS[0]]['two_stage'] = (1.2, 0.1)  # the others have none
    path = comparison_figures.bars(
      values, self.path, family='frechet_classifier', title='T'
    )
    self.assert_nothing_clipped(path)
    self.assertIn((0xD5, 0x5E, 0x00), self.colours(path))  # the generator

  @parameterized.parameters((1, 1), (2, 2), (6, 16))
  def test_latents(self, count, size):
    points = {
      label: {
        'aggregate': self.rng.normal(size=(300, size)),
        'generator': self.rng.normal(size=(200, size)),
      }
      for label in _LABELS[:count]
    }
    self.assert_nothing_clipped(
      comparison_figures.latents(points, self.path, title='T')
    )

  @parameterized.parameters(1, 13)
  def test_quality_and_time(self, count):
    points = {
      label: ((0.5, 0.01), (10.0 + 0.1 * index, None))
      for index, label in enumerate(_LABELS[:count])
    }
    points['LDC-VAE'] = ((60.0, 90.0), (2.0, 0.3))  # an error above the mean
    path = comparison_figures.quality_and_time(
      points, self.path, family='frechet_classifier', title='T'
    )
    self.assert_nothing_clipped(path)

  def test_solid_lines_are_errors_and_dotted_ones_lead_to_names(self):
    for error in (None, 0.3):
      with mock.patch.object(style, 'write_figure') as write_figure:
        comparison_figures.quality_and_time(
          {
            'VAE': ((1.0, None), (2.0, error)),
            'AE': ((1.1, None), (2.0, None)),
          },
          self.path,
          family='frechet_classifier',
          title='T',
        )
      fig = write_figure.call_args.args[0]
      leaders = [x for x in fig.axes[0].lines if x.get_marker() == 'None']
      self.assertLen(leaders, 2)
      self.assertEqual({x.get_linestyle() for x in leaders}, {':'})
      self.assertEqual('standard error' in fig.get_supxlabel(), bool(error))

  def test_nothing_to_draw_is_said(self):
    for path in (
      comparison_figures.bars(
        {'a': {}}, self.path, family='frechet_pca', title='T'
      ),
      comparison_figures.latents({}, self.path, title='T'),
      comparison_figures.quality_and_time(
        {'a': ((1.0, None), (-1.0, None))},
        self.path,
        family='frechet_pca',
        title='T',
      ),
    ):
      self.assert_nothing_clipped(path)

  def test_labels_are_separated_in_their_order(self):
    heights = np.array([0.0, 1.0, 1.0, 50.0])
    separated = comparison_figures._separated(heights, 10.0)
    gaps = np.diff(separated)
    self.assertTrue(np.all(gaps > 10.0 - 1e-9))  # float64
    self.assertEqual(separated[3], 50.0)  # far from the others: it stays
    # the three share what they must move: their mean is kept
    np.testing.assert_allclose(separated[:3].mean(), heights[:3].mean())

  def test_what_is_no_image_is_refused(self):
    with self.assertRaises(AssertionError):
      comparison_figures.samples(
        {'a': np.zeros((1, 8, 8, 1))},
        self.path,
        distances={},
        title='T',
      )

  def test_families_are_named(self):
    self.assertEqual(
      comparison_figures._words('frechet_pca'),
      'Fréchet, PCA: distance from held-out images',
    )


if __name__ == '__main__':
  absltest.main()
