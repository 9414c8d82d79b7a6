"""Tests of ldc_vae.reporting.tiles, mostly through grids of images."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.reporting import run_figures
from ldc_vae.reporting import tiles
from tests.reporting import picture_case as case

_VERMILION = (0xD5, 0x5E, 0x00)


class SampleGridTest(case.PictureTestCase):
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
    images = case.noise(shape)
    path = run_figures.sample_grid(images, self.path, title='Samples')
    self.assertEqual(path, self.path)
    self.assert_whole_png(path)
    canvas = case.pixels(path)
    for image in images:
      self.assertTrue(case.contains(canvas, case.enlarged(image, factor)))

  def test_images_come_in_reading_order(self):
    images = case.noise((5, 8, 8, 1))
    path = run_figures.sample_grid(images, self.path, title='', columns=3)
    canvas = case.pixels(path)
    corners = [
      case.corner(canvas, case.enlarged(image, 16)) for image in images
    ]
    self.assertEqual(corners, sorted(corners))
    self.assertLen({row for row, _ in corners}, 2)

  def test_shows_the_first_images_and_leaves_the_rest(self):
    images = case.noise((7, 8, 8, 1))
    path = run_figures.sample_grid(
      images, self.path, title='x', columns=2, max_rows=2
    )
    canvas = case.pixels(path)
    shown = [
      case.contains(canvas, case.enlarged(image, 16)) for image in images
    ]
    self.assertEqual(shown, [True] * 4 + [False] * 3)

  @parameterized.named_parameters(
    ('words', 'several words ' * 40), ('one_word', 'w' * 400)
  )
  def test_long_title_is_wrapped_not_clipped(self, title):
    path = run_figures.sample_grid(
      case.noise((1, 8, 8, 1)), self.path, title=title
    )
    self.assert_nothing_clipped(path)
    short = run_figures.sample_grid(
      case.noise((1, 8, 8, 1)), self.folder / 'short.png', title='short'
    )
    self.assertGreater(case.pixels(path).shape[0], case.pixels(short).shape[0])
    self.assertEqual(case.pixels(path).shape[1], case.pixels(short).shape[1])

  @parameterized.named_parameters(
    ('floats', np.zeros((1, 8, 8, 1))),
    ('no_channel_axis', np.zeros((1, 8, 8), np.uint8)),
    ('two_channels', np.zeros((1, 8, 8, 2), np.uint8)),
  )
  def test_refuses_what_is_no_image(self, images):
    with self.assertRaises((AssertionError, ValueError)):
      run_figures.sample_grid(images, self.path, title='')
    self.assertFalse(self.path.exists())

  def test_equal_images_give_equal_bytes(self):
    first = run_figures.sample_grid(
      case.digits(5), self.path, title='x'
    ).read_bytes()
    again = run_figures.sample_grid(
      case.digits(5), self.path, title='x'
    ).read_bytes()
    self.assertEqual(first, again)


class WriteTilesTest(case.PictureTestCase):
  def test_a_break_adds_room_between_two_rows(self):
    rows = [np.zeros((2, 8, 8, 3), np.uint8)] * 3
    heights = [
      case.pixels(
        tiles.write_tiles(rows, self.path, title='x', breaks=breaks)
      ).shape[0]
      for breaks in ((), (0,), (0, 1))
    ]
    self.assertEqual(np.diff(heights).tolist(), [18, 18])

  def test_labels_have_room(self):
    rows = [np.zeros((3, 1, 1, 3), np.uint8)] * 2
    path = tiles.write_tiles(
      rows,
      self.path,
      title='A title',
      note='A note',
      row_labels=[('a long label ' * 5, 'x'), ('b', 'more detail ' * 9)],
      column_labels=['t = 0.125'] * 3,
      framed_columns=(0,),
    )
    self.assert_nothing_clipped(path)


class ReconstructionsTest(case.PictureTestCase):
  @parameterized.named_parameters(
    ('one', 1, 1), ('a_row', 10, 3), ('a_row_and_a_bit', 13, 1)
  )
  def test_reconstruction_is_right_below_its_original(self, num, channels):
    originals = case.noise((num, 8, 8, channels), seed=1)
    decoded = case.noise((num, 8, 8, channels), seed=2)
    path = run_figures.reconstructions(originals, decoded, self.path, title='R')
    self.assert_nothing_clipped(path)
    canvas = case.pixels(path)
    for original, image in zip(originals, decoded):
      above, below = case.enlarged(original, 16), case.enlarged(image, 16)
      gap = np.full((6, 128, 3), 255, np.uint8)
      self.assertTrue(
        case.contains(canvas, np.concatenate([above, gap, below]))
      )

  def test_refuses_counts_that_differ(self):
    with self.assertRaisesRegex(
      AssertionError, r'\(2, 8, 8, 1\).*\(3, 8, 8, 1\)'
    ):
      run_figures.reconstructions(
        case.digits(2), case.digits(3), self.path, title=''
      )


class InterpolationsTest(case.PictureTestCase):
  @parameterized.named_parameters(
    ('walks', 3, 11, 1), ('two_steps', 1, 2, 3), ('one_step', 2, 1, 1)
  )
  def test_both_ends_of_a_row_are_framed(self, rows, steps, channels):
    paths = case.noise((rows, steps, 8, 8, channels))
    path = run_figures.interpolations(paths, self.path, title='I')
    self.assert_nothing_clipped(path)
    canvas = case.pixels(path)
    inked = np.all(canvas == _VERMILION, axis=-1)
    framed_columns = np.sum(np.diff(inked.any(axis=0).astype(int)) == 1)
    self.assertEqual(framed_columns, min(steps, 2))
    framed_rows = np.sum(np.diff(inked.any(axis=1).astype(int)) == 1)
    self.assertEqual(framed_rows, rows)

  def test_refuses_a_missing_axis(self):
    with self.assertRaisesRegex(AssertionError, 'rank 4 .* expected 5'):
      run_figures.interpolations(case.digits(2), self.path, title='')


if __name__ == '__main__':
  absltest.main()
