"""Grids of images: every pixel becomes a square of whole pixels."""

from collections.abc import Collection, Sequence
import pathlib

import chex
from matplotlib import colors
from matplotlib import figure as mpl_figure
import numpy as np

from ldc_vae.reporting import style

_TILE = 128  # pixels an enlarged image should have on its longer side
_GAP = 6  # pixels between two images
_BREAK = 3 * _GAP  # more, between two groups of rows
_FRAME = 5  # pixels around a framed image, the innermost white
_MARGIN = 28
_MIN_WIDTH = 900  # pixels, so that a title beside one small image has room


def checked_images(images: np.ndarray) -> np.ndarray:
  """Returns uint8 [N, H, W, 3] of images uint8 [N, H, W, C], C = 1 or 3."""
  images = np.asarray(images)
  chex.assert_rank(images, 4)
  chex.assert_type(images, np.uint8)
  return np.broadcast_to(images, (*images.shape[:-1], 3))


def write_tiles(
  rows: Sequence[np.ndarray],
  path: style.PathLike,
  *,
  title: str,
  note: str = '',
  row_labels: Sequence[tuple[str, str]] = (),
  column_labels: Sequence[str] = (),
  framed_columns: Collection[int] = (),
  breaks: Collection[int] = (),
) -> pathlib.Path:
  """Writes rows of images, enlarged by a whole factor.

  Args:
    rows: Each uint8 [n, H, W, 3].
    path: Where the PNG goes.
    title: Written above the grid, wrapped to its width.
    note: Written under the title.
    row_labels: For each row a bold line and a second one, or ''.
    column_labels: One for each column.
    framed_columns: Columns whose images have a frame.
    breaks: Rows with more room below them.

  Returns:
    The path.
  """
  grid, xs, ys, size = _mosaic(rows, framed_columns, breaks)
  # Text grows with the picture: a browser shrinks a wide one to its window.
  points = 72 / style.DPI  # in a pixel
  letter = max(24, round(grid.shape[1] / 64))  # pixels
  bold = {'size': letter * points, 'weight': 'bold'}
  small = {'size': 0.85 * letter * points, 'weight': 'normal'}

  left = _MARGIN
  if row_labels:
    widths = [
      style.text_width(line, **font) / points
      for lines in row_labels
      for line, font in zip(lines, (bold, small))
    ]
    left += round(max(widths)) + letter
  width = max(left + grid.shape[1] + _MARGIN, _MIN_WIDTH)
  room = (width - 2 * _MARGIN) * points
  line = round(1.4 * letter)
  texts = []  # (x, y, text, options), in pixels from the upper left corner
  top = _MARGIN
  for text, font, colour in (
    (title, bold, style.INK),
    (note, small, style.MUTED),
  ):
    for each in style.wrapped(text, room, **font):
      texts.append((_MARGIN, top, each, {**font, 'va': 'top', 'color': colour}))
      top += line
  top += letter
  if column_labels:
    pitch = (xs[1] - xs[0] if len(xs) > 1 else size[1]) - 8
    stagger = any(
      style.text_width(x, **small) / points > pitch for x in column_labels
    )
    top += line * (1 + stagger)
    for index, (x, text) in enumerate(zip(xs, column_labels)):
      y = top - line // 3 - (line if stagger and index % 2 else 0)
      options = {**small, 'ha': 'center', 'color': style.MUTED}
      texts.append((left + x + size[1] / 2, y, text, options))
  for y, (name, detail) in zip(ys, row_labels):
    middle, shift = top + y + size[0] / 2, line / 2 if detail else 0
    options = {'ha': 'right', 'va': 'center'}
    texts.append((left - letter, middle - shift, name, {**options, **bold}))
    texts.append(
      (
        left - letter,
        middle + shift,
        detail,
        {**options, **small, 'color': style.MUTED},
      )
    )
  height = top + grid.shape[0] + _MARGIN

  with style.applied():
    fig = mpl_figure.Figure((width / style.DPI, height / style.DPI), style.DPI)
    fig.figimage(grid, left, height - top - grid.shape[0])
    axes = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for x, y, text, options in texts:
      axes.text(x, y, text, parse_math=False, **options)
    return style.write_figure(fig, path)


def _mosaic(rows, framed_columns, breaks):
  """Composes the grid uint8 [H, W, 3].

  It comes with the left edges of columns, the upper edges of rows, and the
  enlarged height and width of an image.
  """
  _, height, width, _ = rows[0].shape
  factor = max(1, round(_TILE / max(height, width)))
  height, width = height * factor, width * factor
  gap = 2 * _GAP if framed_columns else _GAP
  edge = _FRAME if framed_columns else 0
  xs = [edge + i * (width + gap) for i in range(max(map(len, rows)))]
  ys, y = [], edge
  for index in range(len(rows)):
    ys.append(y)
    y += height + gap + (_BREAK if index in breaks else 0)
  grid = np.full((ys[-1] + height + edge, xs[-1] + width + edge, 3), 255)
  grid = grid.astype(np.uint8)
  frame = np.round(255 * np.array(colors.to_rgb(style.VERMILION)))
  box = lambda x, y, pad: grid[
    y - pad : y + height + pad, x - pad : x + width + pad
  ]
  for y, row in zip(ys, rows):
    for index, (x, image) in enumerate(zip(xs, row)):
      if index in framed_columns:
        box(x, y, _FRAME)[:] = frame
        box(x, y, 1)[:] = 255
      box(x, y, 0)[:] = image.repeat(factor, axis=0).repeat(factor, axis=1)
  return grid, xs, ys, (height, width)
