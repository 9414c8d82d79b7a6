"""Tests of ldc_vae.reporting.figures."""

import pathlib
import tempfile
import warnings

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
from sklearn import datasets as sklearn_datasets

from ldc_vae.reporting import figures

_VERMILION = (0xD5, 0x5E, 0x00)


def _digits(num: int, channels: int = 1) -> np.ndarray:
  """Real 8x8 digits, uint8 [num, 8, 8, channels]."""
  images = sklearn_datasets.load_digits().images[:num]
  images = np.round(images * 255 / 16).astype(np.uint8)[..., None]
  return np.repeat(images, channels, axis=-1)


def _noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _pixels(path: pathlib.Path) -> np.ndarray:
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB'))


def _corner(canvas: np.ndarray, patch: np.ndarray) -> tuple[int, int] | None:
  """Where `patch` [h, w, 3] occurs in `canvas` [H, W, 3], pixel by pixel."""
  height, width, _ = patch.shape
  num_rows = canvas.shape[0] - height + 1
  num_columns = canvas.shape[1] - width + 1
  candidates = np.ones((num_rows, num_columns), bool)
  for t in np.linspace(0, 1, 9):  # the patch's diagonal rules out nearly all
    y, x = round(t * (height - 1)), round(t * (width - 1))
    window = canvas[y : y + num_rows, x : x + num_columns]
    candidates &= np.all(window == patch[y, x], axis=-1)
  for y, x in np.argwhere(candidates):
    if np.array_equal(canvas[y : y + height, x : x + width], patch):
      return int(y), int(x)
  return None


def _contains(canvas: np.ndarray, patch: np.ndarray) -> bool:
  return _corner(canvas, patch) is not None


def _enlarged(image: np.ndarray, factor: int) -> np.ndarray:
  large = np.kron(image, np.ones((factor, factor, 1), np.uint8))
  return np.broadcast_to(large, (*large.shape[:2], 3))


def _curve(num: int, **series: float) -> list[dict]:
  """`num` lines of metrics.jsonl with constant series."""
  return [{'step': 10 * i, **series} for i in range(1, num + 1)]


class FiguresTestCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.path = self.folder / 'figure.png'

  def assert_whole_png(self, path: pathlib.Path) -> None:
    """The file decodes, and no temporary file is left beside it."""
    with Image.open(path) as image:
      image.load()
      self.assertEqual(image.format, 'PNG')
    self.assertEqual([p.name for p in path.parent.iterdir()], [path.name])

  def assert_nothing_clipped(self, path: pathlib.Path) -> None:
    """No ink touches the border: whatever was drawn ended before it."""
    pixels = _pixels(path)
    border = np.concatenate(
        [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    )
    self.assertTrue(np.all(border == 255))


class SampleGridTest(FiguresTestCase):

  @parameterized.named_parameters(
      ('grey_digits', (12, 8, 8, 1), 16),
      ('grey_28', (3, 28, 28, 1), 5),
      ('colour_32', (11, 32, 32, 3), 4),
      ('colour_64', (2, 64, 64, 3), 2),
      ('one_image', (1, 28, 28, 1), 5),
      ('not_square', (3, 16, 32, 3), 4),
      ('larger_than_a_tile', (1, 200, 200, 3), 1),
      ('one_pixel', (1, 1, 1, 1), 128),
  )
  def test_every_pixel_becomes_a_square(self, shape, factor):
    images = _noise(shape)
    path = figures.sample_grid(images, self.path, title='Samples')
    self.assertEqual(path, self.path)
    self.assert_whole_png(path)
    canvas = _pixels(path)
    for image in images:
      self.assertTrue(_contains(canvas, _enlarged(image, factor)))

  def test_images_come_in_reading_order(self):
    images = _noise((5, 8, 8, 1))
    path = figures.sample_grid(images, self.path, title='', columns=3)
    canvas = _pixels(path)
    corners = [_corner(canvas, _enlarged(image, 16)) for image in images]
    self.assertEqual(corners, sorted(corners))
    self.assertLen({row for row, _ in corners}, 2)

  def test_shows_the_first_images_and_leaves_the_rest(self):
    images = _noise((7, 8, 8, 1))
    path = figures.sample_grid(
        images, self.path, title='x', columns=2, max_rows=2
    )
    canvas = _pixels(path)
    shown = [_contains(canvas, _enlarged(image, 16)) for image in images]
    self.assertEqual(shown, [True] * 4 + [False] * 3)

  @parameterized.named_parameters(
      ('words', 'several words ' * 40), ('one_word', 'w' * 400)
  )
  def test_long_title_is_wrapped_not_clipped(self, title):
    path = figures.sample_grid(_noise((1, 8, 8, 1)), self.path, title=title)
    self.assert_nothing_clipped(path)
    short = figures.sample_grid(
        _noise((1, 8, 8, 1)), self.folder / 'short.png', title='short'
    )
    self.assertGreater(_pixels(path).shape[0], _pixels(short).shape[0])
    self.assertEqual(_pixels(path).shape[1], _pixels(short).shape[1])

  @parameterized.named_parameters(
      ('floats', np.zeros((1, 8, 8, 1)), 'float64'),
      ('no_images', np.zeros((0, 8, 8, 1), np.uint8), r'\[0, 8, 8, 1\]'),
      ('no_channel_axis', np.zeros((1, 8, 8), np.uint8), r'\[1, 8, 8\]'),
      ('two_channels', np.zeros((1, 8, 8, 2), np.uint8), 'channels, got 2'),
  )
  def test_refuses_what_is_no_image(self, images, message):
    with self.assertRaisesRegex(ValueError, f'^images must .*{message}'):
      figures.sample_grid(images, self.path, title='')
    self.assertFalse(self.path.exists())

  def test_refuses_no_columns(self):
    with self.assertRaisesRegex(ValueError, 'columns=0'):
      figures.sample_grid(_digits(1), self.path, title='', columns=0)

  def test_equal_images_give_equal_bytes(self):
    first = figures.sample_grid(_digits(5), self.path, title='x').read_bytes()
    again = figures.sample_grid(_digits(5), self.path, title='x').read_bytes()
    self.assertEqual(first, again)


class ReconstructionsTest(FiguresTestCase):

  @parameterized.named_parameters(
      ('one', 1, 1), ('a_row', 10, 3), ('a_row_and_a_bit', 13, 1)
  )
  def test_reconstruction_is_right_below_its_original(self, num, channels):
    originals = _noise((num, 8, 8, channels), seed=1)
    decoded = _noise((num, 8, 8, channels), seed=2)
    path = figures.reconstructions(originals, decoded, self.path, title='R')
    self.assert_nothing_clipped(path)
    canvas = _pixels(path)
    for original, image in zip(originals, decoded):
      above, below = _enlarged(original, 16), _enlarged(image, 16)
      gap = np.full((6, 128, 3), 255, np.uint8)
      self.assertTrue(_contains(canvas, np.concatenate([above, gap, below])))

  def test_refuses_counts_that_differ(self):
    with self.assertRaisesRegex(ValueError, r'\[2, 8, 8, 1\].*\[3, 8, 8, 1\]'):
      figures.reconstructions(_digits(2), _digits(3), self.path, title='')


class InterpolationsTest(FiguresTestCase):

  @parameterized.named_parameters(
      ('walks', 3, 11, 1), ('two_steps', 1, 2, 3), ('one_step', 2, 1, 1)
  )
  def test_both_ends_of_a_row_are_framed(self, rows, steps, channels):
    paths = _noise((rows, steps, 8, 8, channels))
    path = figures.interpolations(paths, self.path, title='I')
    self.assert_nothing_clipped(path)
    canvas = _pixels(path)
    inked = np.all(canvas == _VERMILION, axis=-1)
    framed_columns = np.sum(np.diff(inked.any(axis=0).astype(int)) == 1)
    self.assertEqual(framed_columns, min(steps, 2))
    framed_rows = np.sum(np.diff(inked.any(axis=1).astype(int)) == 1)
    self.assertEqual(framed_rows, rows)

  def test_refuses_a_missing_axis(self):
    with self.assertRaisesRegex(ValueError, r'\[R, S, H, W, C\].*\[2, 8, 8, 1'):
      figures.interpolations(_digits(2), self.path, title='')


class SourceGridTest(FiguresTestCase):

  def test_sources_come_in_their_order_from_real_to_prior(self):
    names = ['prior', 'mine', 'gmm_10', 'generator', 'real']
    images = {
        name: _noise((2, 8, 8, 1), seed=seed)
        for seed, name in enumerate(names)
    }
    path = figures.source_grid(
        images, self.path, title='S', distances={'real': 1.0, 'prior': None}
    )
    self.assert_nothing_clipped(path)
    canvas = _pixels(path)
    rows = {
        name: _corner(canvas, _enlarged(images[name][0], 16))
        for name in names
    }
    expected = ['real', 'generator', 'gmm_10', 'prior', 'mine']
    self.assertEqual(sorted(rows, key=rows.get), expected)

  def test_distance_is_written_beside_its_source(self):
    images = {'real': _digits(3), 'generator': _digits(3)}
    plain = _pixels(figures.source_grid(images, self.path, title='S'))
    for nothing in (None, float('nan')):
      distances = {'real': nothing}
      same = figures.source_grid(
          images, self.path, title='S', distances=distances
      )
      np.testing.assert_array_equal(_pixels(same), plain)
    labelled = figures.source_grid(
        images, self.path, title='S', distances={'real': 1.234}
    )
    self.assertFalse(np.array_equal(_pixels(labelled), plain))

  def test_source_without_images_is_left_out(self):
    images = {'real': _digits(1), 'prior': _digits(0)}
    with_empty = _pixels(figures.source_grid(images, self.path, title='S'))
    del images['prior']
    without = _pixels(figures.source_grid(images, self.path, title='S'))
    np.testing.assert_array_equal(with_empty, without)

  def test_refuses_no_source_and_sizes_that_differ(self):
    with self.assertRaisesRegex(ValueError, 'no source'):
      figures.source_grid({}, self.path, title='S')
    with self.assertRaisesRegex(ValueError, 'one size'):
      figures.source_grid(
          {'real': _digits(1), 'prior': _noise((1, 9, 9, 1))},
          self.path,
          title='S',
      )


class LatentMapTest(FiguresTestCase):

  def _points(self, num: int, dim: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        'prior': rng.normal(size=(num, dim)),
        'aggregate': 2.0 * rng.normal(size=(num, dim)),
        'generator': 2.0 * rng.normal(size=(num, dim)),
    }

  @parameterized.named_parameters(
      ('one_dimension', 200, 1, False),
      ('two_dimensions', 200, 2, True),
      ('many_dimensions', 300, 16, True),
      ('few_points', 5, 3, True),
      ('one_point', 1, 4, True),
  )
  def test_is_drawn_whole(self, num, dim, with_labels):
    labels = {'aggregate': np.arange(num) % 10} if with_labels else None
    path = figures.latent_map(
        self._points(num, dim), self.path, labels=labels, title='Latents'
    )
    self.assert_whole_png(path)
    self.assert_nothing_clipped(path)

  @parameterized.named_parameters(('classes', 10), ('too_many_classes', 40))
  def test_class_colours(self, num_classes):
    points = {'aggregate': self._points(400, 2)['aggregate']}
    labels = {'aggregate': np.arange(400) % num_classes}
    path = figures.latent_map(points, self.path, labels=labels, title='L')
    indigo = np.all(_pixels(path) == (0x33, 0x22, 0x88), axis=-1)
    self.assertEqual(indigo.any(), num_classes == 10)

  def test_collapsed_latents_are_drawn(self):
    points = self._points(200, 3) | {'aggregate': np.zeros((200, 3))}
    figures.latent_map(points, self.path, title='L')
    self.assert_whole_png(self.path)

  def test_projection_is_fitted_on_the_aggregate(self):
    rng = np.random.default_rng(0)
    scales = np.array([0.1, 3.0, 1.0])
    mean, basis, explained = figures.principal_axes(
        rng.normal(size=(20_000, 3)) * scales + 5.0
    )
    # Monte Carlo: 20,000 points give means to 3/sqrt(20000) = 0.02 and shares
    # to a relative sqrt(2/20000) = 0.01.
    np.testing.assert_allclose(mean, 5.0, atol=0.1)
    np.testing.assert_allclose(np.abs(basis[1, 0]), 1.0, atol=1e-2)
    np.testing.assert_allclose(np.abs(basis[2, 1]), 1.0, atol=1e-2)
    shares = np.square(scales) / np.sum(np.square(scales))
    np.testing.assert_allclose(explained, shares[[1, 2]], rtol=0.05)

  def test_projection_does_not_depend_on_the_order_of_points(self):
    x = np.random.default_rng(0).normal(size=(50, 4))
    _, basis, _ = figures.principal_axes(x)
    _, again, _ = figures.principal_axes(x[::-1])
    np.testing.assert_allclose(basis, again, atol=1e-9)  # float64, 50 terms

  def test_outline_encloses_its_share_of_points(self):
    # The 90 % region of N(0, I_2) is the disc of radius sqrt(2 log 10).
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    low, high = np.full(2, -5.0), np.full(2, 5.0)
    xs, ys, density, levels = figures.density_contours(x, low, high)
    inside = density >= levels[0]
    area = inside.sum() * (xs[1] - xs[0]) * (ys[1] - ys[0])
    # Scott's kernel widens the density by n^(-1/6) = 0.19: 3.7 % in variance.
    self.assertAlmostEqual(area / (2 * np.pi * np.log(10)), 1.04, delta=0.06)

  def test_far_outlier_does_not_shrink_the_map(self):
    x = np.random.default_rng(0).normal(size=(1000, 2))
    x[0] = 1e6
    low, high = figures.shared_limits({'aggregate': x})
    self.assertLess(np.max(high - low), 20.0)

  @parameterized.named_parameters(
      ('no_aggregate', {'prior': np.zeros((3, 2))}, "no 'aggregate'"),
      ('empty', {'aggregate': np.zeros((0, 2))}, r'\[0, 2\]'),
      ('not_finite', {'aggregate': np.full((3, 2), np.nan)}, 'not finite'),
      (
          'sizes_differ',
          {'aggregate': np.zeros((3, 2)), 'prior': np.zeros((3, 4))},
          'one latent size',
      ),
  )
  def test_refuses(self, points, message):
    with self.assertRaisesRegex(ValueError, message):
      figures.latent_map(points, self.path, title='L')

  def test_refuses_labels_of_other_length(self):
    with self.assertRaisesRegex(ValueError, '2 entries for 3 points'):
      figures.latent_map(
          {'aggregate': np.zeros((3, 2))},
          self.path,
          labels={'aggregate': np.zeros(2, int)},
          title='L',
      )


class DecompositionBarsTest(FiguresTestCase):

  def test_another_judge_is_named_whole_and_deviations_are_left_out(self):
    results = {
        'frechet_classifier_seed_1/real': 0.3,
        'frechet_classifier_seed_1/aggregate': 2.0,
        'frechet_classifier_seed_1/prior': 40.0,
    }
    with absltest.mock.patch.object(figures, 'write_figure') as write_figure:
      figures.decomposition_bars(results, self.path)
    fig = write_figure.call_args.args[0]
    fig.draw_without_rendering()
    box = fig.axes[0].xaxis.label.get_window_extent()
    self.assertGreater(box.x0, 0.0)
    self.assertLess(box.x1, fig.bbox.width)
    before = figures.decomposition_bars(results, self.path).read_bytes()
    results['frechet_classifier_seed_1_deviation/prior'] = 1.0
    self.assertEqual(
        figures.decomposition_bars(results, self.path).read_bytes(), before
    )

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
    path = figures.decomposition_bars(results, self.path, title='Distance')
    self.assert_whole_png(path)
    self.assert_nothing_clipped(path)

  def test_every_family_has_a_panel(self):
    one = {'frechet_classifier/real': 1.0, 'frechet_classifier/prior': 2.0}
    two = one | {'frechet_pca/real': 1.0, 'frechet_pca/prior': 2.0}
    heights = [
        _pixels(figures.decomposition_bars(results, self.path)).shape[0]
        for results in (one, two)
    ]
    self.assertGreater(heights[1], 1.7 * heights[0])


class TitleTest(FiguresTestCase):

  def test_a_dollar_is_no_formula(self):
    title = 'Training (run $x_{$ of \u65e5)'
    with warnings.catch_warnings():
      warnings.simplefilter('error')  # a letter that the font lacks
      figures.training_curves(
          [{'step': 1, 'train/loss': 3.0}], self.path, title=title
      )
      figures.write_no_data(self.path, title, 'there is none')


class TrainingCurvesTest(FiguresTestCase):

  def test_values_that_are_no_numbers_are_skipped(self):
    rows = [
        {'step': 1, 'train/loss': 3.0, 'train/kl': None},
        {'step': 1, 'validation/loss': 3.5},
        {'step': 2, 'train/loss': float('nan'), 'train/note': 'text'},
        {'step': None, 'train/loss': 9.0},
        {'train/loss': 9.0},
        {'step': 3, 'train/loss': 1.0, 'train/flag': True, 'elapsed': 3.0},
    ]
    series = figures._series(rows)
    self.assertEqual(list(series), ['loss'])
    self.assertEqual(list(series['loss']), ['train', 'validation'])
    steps, values = series['loss']['train']
    np.testing.assert_array_equal(steps, [1, 3])
    np.testing.assert_array_equal(values, [3.0, 1.0])
    figures.training_curves(rows, self.path)
    self.assert_whole_png(self.path)
    self.assert_nothing_clipped(self.path)

  def test_repeated_step_keeps_the_later_line(self):
    rows = [{'step': 5, 'train/loss': 1.0}, {'step': 5, 'train/loss': 2.0}]
    steps, values = figures._series(rows)['loss']['train']
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
    path = figures.training_curves(rows, self.path, title='Curves')
    self.assert_whole_png(path)
    self.assert_nothing_clipped(path)

  def test_running_mean_is_the_mean_of_its_window(self):
    values = np.random.default_rng(0).normal(size=200) + 1e6
    smooth = figures._running_mean(values)
    # Windows of 2 * (200 // 50) + 1 = 9; rtol: float64 sums about the mean.
    np.testing.assert_allclose(smooth[100], values[96:105].mean(), rtol=1e-12)
    np.testing.assert_allclose(smooth[1], values[:3].mean(), rtol=1e-12)
    np.testing.assert_allclose(smooth[-1], values[-5:].mean(), rtol=1e-12)

  def test_short_series_is_not_smoothed(self):
    self.assertIsNone(figures._running_mean(np.arange(49.0)))


class FormatNumberTest(parameterized.TestCase):

  @parameterized.parameters(
      (0.0, '0'), (1.0, '1.00'), (4.416, '4.42'), (11.94, '11.9'),
      (85.2, '85.2'), (0.00912, '0.00912'), (99.96, '100'), (0.9996, '1.000'),
      (670.4, '670'), (12345.0, '12,345'), (-3.14159, '-3.14'),
      (1e-7, '1.00e-07'), (2.5e8, '2.50e+08'),
  )  # fmt: skip
  def test_three_significant_digits(self, value, expected):
    self.assertEqual(figures.format_number(value), expected)


class WritingTest(FiguresTestCase):

  def test_missing_folders_are_made(self):
    path = self.folder / 'a' / 'b' / 'figure.png'
    figures.sample_grid(_digits(1), path, title='x')
    self.assert_whole_png(path)

  @parameterized.named_parameters(
      ('tiles', lambda path: figures.sample_grid(_digits(1), path, title='x')),
      ('plot', lambda path: figures.training_curves([], path)),
  )
  def test_failure_names_the_file(self, draw):
    (self.folder / 'file').write_bytes(b'old')
    with self.assertRaisesRegex(OSError, 'figure.png cannot be written'):
      draw(self.folder / 'file' / 'figure.png')
    self.assertEqual((self.folder / 'file').read_bytes(), b'old')
    self.assertLen(list(self.folder.iterdir()), 1)


if __name__ == '__main__':
  absltest.main()
