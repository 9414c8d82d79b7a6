"""The look that all pictures share, and how they are written.

Pictures are drawn without matplotlib's global state, for twice the resolution
of a browser's pixel (192 dots per inch), and written whole or not at all.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import io
import math
import os
import pathlib
import textwrap
from typing import Any
import warnings

import matplotlib
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import font_manager
from matplotlib import layout_engine
from matplotlib import textpath
from matplotlib import ticker
import numpy as np

from ldc_vae import formats
from ldc_vae import names
from ldc_vae.runtime import durable
from ldc_vae.runtime import files

PathLike = str | os.PathLike

# Okabe and Ito (2008): told apart by every common kind of colour vision.
BLUE, VERMILION, GREEN = '#0072B2', '#D55E00', '#009E73'
PURPLE, ORANGE, SKY = '#CC79A7', '#E69F00', '#56B4E9'
INK, MUTED, GREY = '#1a1a1a', '#5f5f5f', '#a6a6a6'
_KIND_COLOURS = {names.BOUND: SKY, names.GENERATOR: VERMILION}
_KIND_WORDS = {
  SKY: 'Light blue: real images, and images of latents from the encoder.',
  VERMILION: "Orange: the method's own generator.",
  GREY: 'Grey: other samplers of the latents.',
}

DPI = 192
_CAPTION_SIZE, _TITLE_SIZE = 7.5, 10  # points

# Set explicitly, so that a user's matplotlibrc does not change a figure.
_RC_PARAMS = {
  'text.usetex': False,
  'font.family': ['DejaVu Sans'],
  'font.size': 8.5,
  'axes.titlesize': 9.0,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.labelsize': 8.5,
  'axes.labelcolor': MUTED,
  'axes.edgecolor': '#9a9a9a',
  'axes.linewidth': 0.7,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'axes.formatter.useoffset': False,
  'axes.formatter.use_mathtext': True,
  'axes.unicode_minus': True,
  'xtick.color': '#9a9a9a',
  'ytick.color': '#9a9a9a',
  'xtick.labelcolor': MUTED,
  'ytick.labelcolor': MUTED,
  'xtick.labelsize': 7.5,
  'ytick.labelsize': 7.5,
  'grid.color': '#e4e4e4',
  'grid.linewidth': 0.6,
  'text.color': INK,
  'figure.facecolor': 'white',
  'axes.facecolor': 'white',
  'legend.frameon': False,
  'legend.fontsize': 8.0,
  'path.simplify': True,
}


def applied() -> contextlib.AbstractContextManager:
  """A context in which figures have this look."""
  return matplotlib.rc_context(_RC_PARAMS)


def source_colour(source: str) -> str:
  """The colour of a latent source's bar or points."""
  return _KIND_COLOURS.get(names.find_source(source).kind, GREY)


def source_legend(sources: Iterable[str]) -> str:
  """Says what the colours of these sources mean."""
  found = {source_colour(source) for source in sources}
  return ' '.join(text for key, text in _KIND_WORDS.items() if key in found)


def panels(
  num: int,
  num_columns: int,
  panel_size: tuple[float, float],
  *,
  margins: tuple[float, float] = (0.0, 0.0),
  min_width: float = 0.0,
  **options: Any,
) -> tuple[mpl_figure.Figure, np.ndarray]:
  """Creates a figure with equal panels.

  Args:
    num: Panels.
    num_columns: Panels in a row at most.
    panel_size: Width and height of one, in inches.
    margins: Width and height of the figure beyond its panels, in inches.
    min_width: Of the figure, in inches.
    **options: Of `Figure.subplots`.

  Returns:
    The figure and its panels [num], row by row.
  """
  num_columns = min(num, num_columns)
  num_rows = math.ceil(num / num_columns)
  width = panel_size[0] * num_columns + margins[0]
  fig = mpl_figure.Figure(
    figsize=(max(width, min_width), panel_size[1] * num_rows + margins[1]),
    dpi=DPI,
    layout=layout_engine.ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09),
  )
  axes = fig.subplots(num_rows, num_columns, squeeze=False, **options).ravel()
  for panel in axes[num:]:
    panel.set_visible(False)
  return fig, axes[:num]


def source_bars(
  panel: mpl_axes.Axes,
  values: Mapping[str, tuple[float, float | None]],
  sources: list[str],
) -> None:
  """Draws one horizontal bar per source, with its number at the end.

  Args:
    panel: Where; on a logarithmic axis, bars begin at its lower limit.
    values: Source to a number and its standard error, or None.
    sources: All sources, from top to bottom; some may have no value.
  """
  start = panel.get_xlim()[0] if panel.get_xscale() == 'log' else 0.0
  for position, source in enumerate(sources):
    if source not in values:
      continue
    value, error = values[source]
    end = max(value, start)
    panel.barh(
      position,
      end - start,
      left=start,
      height=0.68,
      color=source_colour(source),
    )
    if error:
      low, high = max(value - error, start), value + error
      panel.plot([low, high], [position] * 2, color=INK, lw=0.9)
      end = max(end, high)
    panel.annotate(
      formats.format_number(value),
      (end, position),
      xytext=(4, 0),
      textcoords='offset points',
      va='center',
      fontweight='bold' if source == 'generator' else 'normal',
    )
  panel.set_yticks(
    range(len(sources)), [names.find_source(x).label for x in sources]
  )
  panel.set_ylim(len(sources) - 0.4, -0.6)  # the first one on top
  panel.tick_params(axis='y', length=0, labelsize=8.5, labelcolor=INK)
  panel.xaxis.set_major_formatter('{x:,.12g}')
  panel.xaxis.set_minor_formatter(ticker.NullFormatter())
  panel.grid(True, axis='x')
  panel.spines['left'].set_visible(False)


def set_bar_limits(panel: mpl_axes.Axes, values: list, room: float) -> str:
  """Sets the axis of bars, before they are drawn.

  Args:
    panel: Where.
    values: All values of the axis, not empty.
    room: Share of the axis for the number beside the longest bar.

  Returns:
    Words for the axis, ', logarithmic axis from 2', where it is logarithmic:
    positive values span a factor of 20. Else ''.
  """
  positive = [x for x in values if x > 0]
  top = max(values)
  if not positive or top <= 20 * min(positive):
    panel.set_xlim(0.0, top * (1.0 + room) if top > 0 else 1.0)
    return ''
  below = 0.7 * min(positive)  # the shortest bar is still seen
  leading = (1, 2, 5) if top <= 100 * below else (1,)
  decade = 10.0 ** math.floor(math.log10(below))
  start = max(x * decade for x in leading if x * decade <= below)
  panel.set_xscale('log')
  panel.set_xlim(start, top * (top / start) ** room)
  panel.xaxis.set_major_locator(ticker.LogLocator(subs=leading))
  return f', logarithmic axis from {formats.format_number(start, digits=1)}'


def set_title(fig: mpl_figure.Figure, title: str) -> None:
  """Writes the title over the figure, wrapped to its width."""
  if title:
    fig.suptitle(
      wrapped_title(fig, title),
      x=0.01,
      ha='left',
      fontsize=_TITLE_SIZE,
      fontweight='bold',
      parse_math=False,  # it names a folder, which may have a $
    )


def wrapped_title(fig: mpl_figure.Figure, title: str) -> str:
  """A title in lines that fit the figure."""
  width = 72 * fig.get_figwidth() - 20  # points
  return '\n'.join(wrapped(title, width, _TITLE_SIZE, 'bold'))


def set_caption(fig: mpl_figure.Figure, caption: str) -> None:
  """Writes a caption under the panels, wrapped to the figure's width."""
  width = 72 * fig.get_figwidth() - 20  # points
  fig.supxlabel(
    '\n'.join(wrapped(caption, width, _CAPTION_SIZE)),
    fontsize=_CAPTION_SIZE,
    color=MUTED,
  )


def text_width(text: str, size: float, weight: str = 'normal') -> float:
  """The width of a line of text of some size, both in points."""
  font = font_manager.FontProperties(
    family='DejaVu Sans', weight=weight, size=size
  )
  measure = textpath.text_to_path.get_text_width_height_descent
  with _any_glyph():
    return measure(text, font, ismath=False)[0]


def wrapped(
  text: str, width: float, size: float, weight: str = 'normal'
) -> list[str]:
  """Splits text into lines of at most `width` points."""
  num_letters = max(len(text), 1)
  while True:
    lines = textwrap.wrap(text, num_letters)
    longest = max((text_width(x, size, weight) for x in lines), default=0.0)
    if longest <= width or num_letters == 1:
      return lines
    num_letters = max(1, int(num_letters * min(0.95, width / longest)))


def write_no_data(path: PathLike, title: str, reason: str) -> pathlib.Path:
  """Writes a picture that says that there was nothing to draw."""
  fig, (panel,) = panels(1, 1, (6.6, 1.4))
  set_title(fig, title)
  panel.set_axis_off()
  panel.text(
    0.5, 0.5, f'no data: {reason}', ha='center', va='center', color=MUTED
  )
  return write_figure(fig, path)


def write_figure(fig: mpl_figure.Figure, path: PathLike) -> pathlib.Path:
  """Writes a PNG file; equal data give equal bytes."""
  stream = io.BytesIO()
  with _any_glyph():
    fig.savefig(
      stream,
      format='png',
      dpi=DPI,
      metadata={'Software': None},  # it would name matplotlib's version
    )
  return write_bytes(path, stream.getvalue())


def write_bytes(path: PathLike, data: bytes) -> pathlib.Path:
  """Writes a file whole or not at all; creates its folder."""
  path = pathlib.Path(path)
  with contextlib.suppress(OSError):  # `open_atomically` names the problem
    durable.make_folder(path.parent)
  with files.open_atomically(path) as file:
    file.write(data)
  return path


@contextlib.contextmanager
def _any_glyph() -> Iterator[None]:
  """Draws a letter that the font lacks as a box, without a warning."""
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', 'Glyph .* missing from', UserWarning)
    yield
