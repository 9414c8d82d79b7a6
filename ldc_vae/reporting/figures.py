"""Pictures of a run: arrays in, one PNG file out, written whole or not at all.

Grids of images are composed pixel by pixel, enlarged by whole factors without
interpolation; plots are drawn by matplotlib without its global state. Pictures
are made for twice the resolution of a browser's pixel (192 dots per inch).
"""

import collections
from collections.abc import Mapping, Sequence
import contextlib
import io
import math
import os
import pathlib
import re
import textwrap
import warnings

import matplotlib
from matplotlib import axes as mpl_axes
from matplotlib import colors
from matplotlib import figure as mpl_figure
from matplotlib import layout_engine
from matplotlib import lines as mpl_lines
from matplotlib import ticker
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
from scipy import ndimage

from ldc_vae.runtime import files

PathLike = str | os.PathLike

# The order of latent sources in every picture: the floors, then the generator
# under study, then what it is compared with.
SOURCES = (
    'real',
    'reconstruction',
    'aggregate',
    'generator',
    'nearest',
    'svgd',
    'drifting',
    'flow_matching',
    'flow',
    'langevin',
    'two_stage',
    'gmm_200',
    'gmm_50',
    'gmm_10',
    'gaussian',
    'prior',
)

_SOURCE_LABELS = {
    'real': 'real images',
    'reconstruction': 'reconstructions',
    'aggregate': 'aggregate posterior',
    'generator': 'generator',
    'flow_matching': 'flow matching',
    'flow': 'normalising flow',
    'drifting': 'drifting net',
    'svgd': 'sampler net by SVGD',
    'nearest': 'training latents + noise',
    'langevin': 'latent energy',
    'two_stage': 'two-stage VAE',
    'gaussian': 'one Gaussian',
    'prior': 'prior N(0, I)',
}

# Okabe and Ito (2008): told apart by every common kind of colour vision.
BLUE, VERMILION, GREEN = '#0072B2', '#D55E00', '#009E73'
PURPLE, ORANGE, SKY = '#CC79A7', '#E69F00', '#56B4E9'
INK, MUTED = '#1a1a1a', '#5f5f5f'
# Paul Tol's muted scheme and a grey: ten classes.
_CLASS_COLOURS = (
    '#332288', '#88CCEE', '#44AA99', '#117733', '#999933',
    '#DDCC77', '#CC6677', '#882255', '#AA4499', '#8C8C8C',
)  # fmt: skip
_SPLIT_COLOURS = {
    'train': BLUE,
    'validation': VERMILION,
    'eval': GREEN,
    'test': PURPLE,
}

DPI = 192
_TILE = 128  # pixels an enlarged image should have on its longer side
_GAP = 6  # pixels between two images
_MARGIN = 28
_MIN_WIDTH = 900  # so that a title beside one small image has room
_MAX_POINTS = 5_000  # of one panel of the latent map; more is a blot

# Set explicitly: a matplotlibrc of the user must not change a figure.
STYLE = {
    'text.usetex': False,
    'font.family': ['DejaVu Sans'],
    'font.size': 8.5,
    'axes.titlesize': 9.0,
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

_ABBREVIATIONS = ('elbo', 'kl', 'ksd', 'mmd', 'mse', 'nll', 'r1', 'svgd')

# Units of logged quantities by the words in their names, first match first.
_UNITS = (
    ('images_per_sec', 'images/s'),
    ('per_sec', '1/s'),
    ('gradient', ''),
    ('seconds', 's'),
    ('mse', 'squared pixels in [0, 1]'),
    ('reconstruction', 'nats'),
    ('sampler_std', ''),  # of standardised latents
    ('kernel_mass', ''),
    ('repulsion_share', ''),
    ('_std', 'latent units'),
    ('_mean_square', 'squared latent units'),
    ('_rms', 'latent units'),  # of runs of earlier versions
    ('bits_per_dim', 'bits/dim'),
    ('learning_rate', ''),
    ('temperature', ''),
    ('grad_norm', ''),
    ('bandwidth', 'squared latent units'),
    ('active_units', 'count'),
    ('frechet', 'distance'),
    ('latent_energy', 'nats'),
    ('log_likelihood', 'nats'),
    ('energy', 'nats'),
    ('elbo', 'nats'),
    ('nll', 'nats'),
    ('kl', 'nats'),
    ('rate', 'nats'),
    ('distortion', 'nats'),
    ('log_prior', 'nats'),
    ('loss', 'nats'),
)


def sample_grid(
    images: np.ndarray,
    path: PathLike,
    *,
    title: str,
    columns: int = 10,
    max_rows: int = 10,
) -> pathlib.Path:
  """Draws the first images, in their order, as a grid.

  Args:
    images: uint8, shape [N, H, W, C] with C = 1 or 3.
    path: Where the PNG goes.
    title: Written above the grid.
    columns: Images in a row.
    max_rows: Rows at most; the note under the title says how many were left.

  Returns:
    The path.
  """
  images = checked_images(images, 'images')
  _check_positive(columns=columns, max_rows=max_rows)
  shown = images[: columns * max_rows]
  rows = [shown[i : i + columns] for i in range(0, len(shown), columns)]
  _, height, width, _ = images.shape
  note = f'{height}×{width} pixels, unselected'
  if len(shown) < len(images):
    note = f'The first {len(shown):,} of {len(images):,} images, {note}'
  return write_tiles(rows, path, title=title, note=note)


def reconstructions(
    originals: np.ndarray,
    decoded: np.ndarray,
    path: PathLike,
    *,
    title: str,
    columns: int = 10,
    max_pairs_of_rows: int = 4,
) -> pathlib.Path:
  """Draws every original above its reconstruction, rows labelled.

  Args:
    originals: uint8, shape [N, H, W, C].
    decoded: uint8, shape [N, H, W, C]; image n is decoded from original n.
    path: Where the PNG goes.
    title: Written above the grid.
    columns: Originals in a row.
    max_pairs_of_rows: Pairs of rows at most.

  Returns:
    The path.
  """
  _check_positive(columns=columns, max_pairs_of_rows=max_pairs_of_rows)
  if np.shape(originals) != np.shape(decoded):
    raise ValueError(
        f'originals {list(np.shape(originals))} and decoded'
        f' {list(np.shape(decoded))} must have one shape: image n of one'
        ' belongs to image n of the other'
    )
  originals = checked_images(originals, 'originals')
  decoded = checked_images(decoded, 'decoded')
  rows, labels, breaks = [], [], []
  num_shown = min(len(originals), columns * max_pairs_of_rows)
  for start in range(0, num_shown, columns):
    stop = min(start + columns, num_shown)
    rows += [originals[start:stop], decoded[start:stop]]
    labels += [('original', ''), ('reconstruction', '')]
    breaks.append(len(rows) - 1)
  return write_tiles(
      rows, path, title=title, row_labels=labels, breaks=breaks
  )


def interpolations(
    paths: np.ndarray, path: PathLike, *, title: str, max_rows: int = 12
) -> pathlib.Path:
  """Draws one row per walk through latent space, its two ends framed.

  Args:
    paths: uint8, shape [R, S, H, W, C]; S decoded latents of R walks, the
      first from t = 0 and the last from t = 1, evenly spaced.
    path: Where the PNG goes.
    title: Written above the grid.
    max_rows: Walks at most.

  Returns:
    The path.
  """
  paths = np.asarray(paths)
  if paths.ndim != 5 or 0 in paths.shape:
    raise ValueError(
        'paths must be uint8 [R, S, H, W, C] with no empty axis, got'
        f' {paths.dtype} {list(paths.shape)}'
    )
  _check_positive(max_rows=max_rows)
  rows = [checked_images(row, 'paths') for row in paths[:max_rows]]
  num_steps = paths.shape[1]
  fractions = [f'{t:.2g}' for t in np.linspace(0.0, 1.0, num_steps)]
  ends = {0, num_steps - 1}
  for end in ends:
    fractions[end] = f't = {fractions[end]}'
  return write_tiles(
      rows,
      path,
      title=title,
      column_labels=fractions,
      framed={(r, s) for r in range(len(rows)) for s in ends},
  )


def source_grid(
    images: Mapping[str, np.ndarray],
    path: PathLike,
    *,
    distances: Mapping[str, float | None] | None = None,
    title: str,
    distance_name: str = 'Fréchet',
    columns: int = 10,
) -> pathlib.Path:
  """Draws one row of images per latent source, with the source's distance.

  Args:
    images: Source name to uint8 [N, H, W, C]; known sources come in the order
      of `SOURCES`, others after them. A source without images is left out.
    path: Where the PNG goes.
    distances: Source name to its distance from held-out images; None, NaN and
      missing entries leave the label without a number.
    title: Written above the grid.
    distance_name: The word before the number.
    columns: Images in a row.

  Returns:
    The path.
  """
  _check_positive(columns=columns)
  distances = distances or {}
  rows, labels = [], []
  for source in sorted(images, key=source_order):
    if not len(images[source]):
      continue
    row = checked_images(images[source], f'images[{source!r}]')
    rows.append(row[:columns])
    value = distances.get(source)
    number = f'{distance_name} {format_number(value)}' if _finite(value) else ''
    labels.append((source_label(source), number))
  if not rows:
    raise ValueError('images has no source with an image; pass at least one')
  shapes = {row.shape[1:3] for row in rows}
  if len(shapes) > 1:
    raise ValueError(f'images of all sources must have one size, got {shapes}')
  return write_tiles(rows, path, title=title, row_labels=labels)


def latent_map(
    points: Mapping[str, np.ndarray],
    path: PathLike,
    *,
    labels: Mapping[str, np.ndarray] | None = None,
    title: str,
) -> pathlib.Path:
  """Draws latents of several sources, each in a panel, under one projection.

  The projection is the first two principal components of `points['aggregate']`;
  the outlines on every panel enclose 50 % and 90 % of the aggregate.

  Args:
    points: Source name to float [N, D]; 'aggregate' must be among them.
    path: Where the PNG goes.
    labels: Source name to int [N], the class of every point; sources with
      labels are coloured by class (up to ten classes).
    title: Written above the panels.

  Returns:
    The path.
  """
  points = _checked_points(points)
  labels = {
      source: np.asarray(values)
      for source, values in (labels or {}).items()
      if values is not None
  }
  for source, values in labels.items():
    if source in points and len(values) != len(points[source]):
      raise ValueError(
          f'labels[{source!r}] has {len(values)} entries for'
          f' {len(points[source])} points'
      )
  mean, basis, explained = principal_axes(points['aggregate'])
  projected = {k: (v - mean) @ basis for k, v in points.items()}
  draw = _draw_histograms if basis.shape[1] == 1 else _draw_scatters
  with matplotlib.rc_context(STYLE):
    num_panels = len(points)
    num_columns = min(num_panels, 3)
    num_rows = math.ceil(num_panels / num_columns)
    fig = mpl_figure.Figure(
        figsize=(max(3.1 * num_columns, 4.2), 3.25 * num_rows + 0.85),
        dpi=DPI,
        layout=layout(),
    )
    panels = fig.subplots(
        num_rows, num_columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    note = draw(panels, projected, labels, explained)
    for panel in panels[num_panels:]:
      panel.set_visible(False)
    set_title(fig, title)
    fig.supxlabel(filled(note, fig, 7.5), fontsize=7.5, color=MUTED)
    return write_figure(fig, path)


def decomposition_bars(
    results: Mapping[str, object], path: PathLike, *, title: str = ''
) -> pathlib.Path:
  """Draws the Fréchet distance of every latent source as a labelled bar.

  Args:
    results: The flat results of an evaluation; entries `frechet_*/SOURCE` that
      are finite numbers are drawn, one panel per family, but for deviations. A
      family whose largest value exceeds 20 times its smallest has a logarithmic
      axis.
    path: Where the PNG goes.
    title: Written above the panels.

  Returns:
    The path.
  """
  families = collections.defaultdict(dict)
  for name, value in results.items():
    family, _, source = name.partition('/')
    if is_distance(family, 'frechet_') and source and _finite(value):
      families[family][source] = float(value)
  with matplotlib.rc_context(STYLE):
    if not families:
      return write_no_data(path, title, 'no finite frechet_* value')
    heights = [len(bars) for bars in families.values()]
    fig = mpl_figure.Figure(
        figsize=(6.6, 0.34 * sum(heights) + 0.85 * len(heights) + 0.35),
        dpi=DPI,
        layout=layout(),
    )
    panels = fig.subplots(
        len(families), 1, squeeze=False, height_ratios=heights
    ).ravel()
    for panel, (family, bars) in zip(panels, families.items()):
      _draw_bars(panel, family, bars)
    set_title(fig, title)
    return write_figure(fig, path)


def is_distance(family: str, *prefixes: str) -> bool:
  """Whether a family of results is one of distances, not of their spread."""
  return family.startswith(prefixes) and not family.endswith('_deviation')


def training_curves(
    rows: Sequence[Mapping[str, object]], path: PathLike, *, title: str = ''
) -> pathlib.Path:
  """Draws every logged quantity over the steps, as small multiples.

  A name is SPLIT/QUANTITY; the splits of one quantity share a panel. Values
  that are not finite numbers are skipped. A panel is logarithmic when its
  values are positive and span more than two decades.

  Args:
    rows: The lines of metrics.jsonl, each with 'step'.
    path: Where the PNG goes.
    title: Written above the panels.

  Returns:
    The path.
  """
  quantities = _series(rows)
  with matplotlib.rc_context(STYLE):
    if not quantities:
      return write_no_data(path, title, 'no finite value was logged')
    num_columns = min(3, len(quantities))
    num_rows = math.ceil(len(quantities) / num_columns)
    fig = mpl_figure.Figure(
        figsize=(max(3.15 * num_columns, 4.4), 2.15 * num_rows + 0.55),
        dpi=DPI,
        layout=layout(),
    )
    panels = fig.subplots(num_rows, num_columns, squeeze=False).ravel()
    every_step = np.concatenate(
        [steps for q in quantities.values() for steps, _ in q.values()]
    )
    low, high = every_step.min(), every_step.max()
    pad = 0.02 * (high - low) or 1.0
    for panel, (quantity, splits) in zip(panels, quantities.items()):
      _draw_curves(panel, quantity, splits)
      panel.set_xlim(low - pad, high + pad)
    for panel in panels[len(quantities) :]:
      panel.set_visible(False)
    last = len(quantities) - num_columns
    for panel in panels[max(last, 0) : len(quantities)]:
      panel.set_xlabel('step')
    names = list(dict.fromkeys(s for q in quantities.values() for s in q))
    handles = [
        mpl_lines.Line2D([], [], color=_split_colour(name), lw=1.8)
        for name in names
    ]
    if any(_is_long(y) for q in quantities.values() for _, y in q.values()):
      names[0] += ' (bold: running mean, faint: as logged)'
    legend = fig.legend(
        handles,
        names,
        loc='outside upper left',
        ncols=len(names),
        title=filled(title, fig, 10) or None,
        title_fontproperties={'size': 10, 'weight': 'bold'},
        alignment='left',
    )
    legend.get_title().set_parse_math(False)
    return write_figure(fig, path)


def source_label(source: str) -> str:
  """Returns the words for a latent source, 'gmm_10' -> 'GMM-10'."""
  if source.startswith('gmm_'):
    return f'GMM-{source[4:]}'
  return _SOURCE_LABELS.get(source, source.replace('_', ' '))


def source_order(source: str) -> tuple:
  """Sort key: known sources as in `SOURCES`, other mixtures beside theirs."""
  if source in SOURCES:
    return (SOURCES.index(source), source)
  known = 'gmm_10' if source.startswith('gmm_') else None
  return (SOURCES.index(known) if known else len(SOURCES), source)


def format_number(value: float) -> str:
  """Formats with three significant digits and without needless exponents."""
  magnitude = abs(value)
  if magnitude >= 1e6 or 0 < magnitude < 1e-4:
    return f'{value:.2e}'
  if magnitude >= 100:
    return f'{value:,.0f}'
  digits = 2 - math.floor(math.log10(magnitude)) if magnitude > 0 else 0
  text = f'{value:.{digits}f}'
  return f'{float(text):,.0f}' if abs(float(text)) >= 100 else text


def checked_images(images: np.ndarray, name: str) -> np.ndarray:
  """Returns uint8 [N, H, W, 3]."""
  images = np.asarray(images)
  if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
    raise ValueError(
        f'{name} must be uint8 [N, H, W, C] with no empty axis, got'
        f' {images.dtype} {list(images.shape)}'
    )
  if images.shape[-1] not in (1, 3):
    raise ValueError(
        f'{name} must have 1 (grey) or 3 (colour) channels, got'
        f' {images.shape[-1]}'
    )
  return np.broadcast_to(images, (*images.shape[:-1], 3))


def _check_positive(**values: int) -> None:
  """Raises ValueError for the first value below 1."""
  for name, value in values.items():
    if value < 1:
      raise ValueError(f'{name}={value} must be at least 1')


def write_tiles(
    rows: Sequence[np.ndarray],
    path: PathLike,
    *,
    title: str,
    note: str = '',
    row_labels: Sequence[tuple[str, str]] = (),
    column_labels: Sequence[str] = (),
    framed: frozenset | set = frozenset(),
    breaks: Sequence[int] = (),
) -> pathlib.Path:
  """Writes rows of uint8 [n, H, W, 3], enlarged by a whole factor."""
  _, height, width, _ = rows[0].shape
  factor = max(1, round(_TILE / max(height, width)))
  height, width = height * factor, width * factor
  num_columns = max(len(row) for row in rows)
  gap = 2 * _GAP if framed else _GAP
  grid_width = num_columns * (width + gap) - gap
  # Text grows with the picture: a browser shrinks a wide one to its window.
  size = max(24, round(grid_width / 64))
  bold = _font(size, bold=True)
  small = _font(round(0.85 * size))

  left = _MARGIN
  if row_labels:
    widths = [
        max(bold.getlength(name), small.getlength(detail))
        for name, detail in row_labels
    ]
    left += math.ceil(max(widths)) + size
  canvas_width = max(left + grid_width + _MARGIN, _MIN_WIDTH)
  title_lines = _wrapped(title, bold, canvas_width - 2 * _MARGIN)
  note_lines = _wrapped(note, small, canvas_width - 2 * _MARGIN)
  line = round(1.4 * size)
  top = _MARGIN + line * (len(title_lines) + len(note_lines)) + size
  stagger = _needs_stagger(column_labels, small, width + gap)
  header = line * (2 if stagger else 1) if column_labels else 0
  offsets, cursor = [], top + header
  for index in range(len(rows)):
    offsets.append(cursor)
    cursor += height + gap + (3 * _GAP if index in breaks else 0)
  canvas_height = offsets[-1] + height + _MARGIN

  canvas = Image.new('RGB', (canvas_width, canvas_height), 'white')
  draw = ImageDraw.Draw(canvas)
  cursor = _MARGIN
  for lines, font, colour in (
      (title_lines, bold, INK),
      (note_lines, small, MUTED),
  ):
    for text in lines:
      draw.text((_MARGIN, cursor), text, font=font, fill=colour)
      cursor += line
  for c, text in enumerate(column_labels):
    x = left + c * (width + gap) + width // 2
    y = top + header - line // 3 - (line if stagger and c % 2 else 0)
    draw.text((x, y), text, font=small, fill=MUTED, anchor='mb')
  for r, (row, y) in enumerate(zip(rows, offsets)):
    for c, image in enumerate(row):
      x = left + c * (width + gap)
      large = np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)
      canvas.paste(Image.fromarray(large), (x, y))
      if (r, c) in framed:
        box = (x - 5, y - 5, x + width + 4, y + height + 4)
        draw.rectangle(box, outline=VERMILION, width=4)
    if row_labels:
      name, detail = row_labels[r]
      x, middle = left - size, y + height // 2
      shift = line // 2 if detail else 0
      draw.text(
          (x, middle - shift), name, font=bold, fill=INK, anchor='rm'
      )
      draw.text(
          (x, middle + shift), detail, font=small, fill=MUTED, anchor='rm'
      )
  stream = io.BytesIO()
  canvas.save(stream, 'PNG', optimize=True, dpi=(DPI, DPI))
  return _write_bytes(path, stream.getvalue())


def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
  """The font that matplotlib carries, so that all pictures look alike."""
  name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
  folder = pathlib.Path(matplotlib.get_data_path(), 'fonts', 'ttf')
  return ImageFont.truetype(str(folder / name), size)


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont, width: float
) -> list[str]:
  """Splits text into lines that fit; a word longer than a line is cut."""
  lines = []
  for word in text.split():
    if lines and font.getlength(f'{lines[-1]} {word}') <= width:
      lines[-1] += f' {word}'
      continue
    while font.getlength(word) > width and len(word) > 1:
      fits = max(
          k for k in range(1, len(word)) if k == 1
          or font.getlength(word[:k]) <= width
      )
      lines.append(word[:fits])
      word = word[fits:]
    lines.append(word)
  return lines


def _needs_stagger(
    texts: Sequence[str], font: ImageFont.FreeTypeFont, pitch: int
) -> bool:
  """Whether neighbouring column labels would touch on one line."""
  return any(font.getlength(text) > pitch - 8 for text in texts)


def _finite(value: object) -> bool:
  """Whether `value` is a finite number."""
  if isinstance(value, (bool, str, bytes)) or value is None:
    return False
  try:
    return math.isfinite(value)
  except (TypeError, ValueError, OverflowError):
    return False


def _checked_points(points: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns finite float64 [N, D] per source, sources in their order."""
  if 'aggregate' not in points:
    raise ValueError(
        "points has no 'aggregate', on which the projection is fitted; got"
        f' {sorted(points)}'
    )
  checked = {}
  for source in sorted(points, key=_map_order):
    array = np.asarray(points[source], np.float64)
    if array.ndim != 2 or 0 in array.shape:
      raise ValueError(
          f'points[{source!r}] must be [N, D] with N, D >= 1, got'
          f' {list(array.shape)}'
      )
    if not np.all(np.isfinite(array)):
      raise ValueError(f'points[{source!r}] has values that are not finite')
    checked[source] = array
  if len({array.shape[1] for array in checked.values()}) > 1:
    sizes = {source: array.shape[1] for source, array in checked.items()}
    raise ValueError(f'points must have one latent size D, got {sizes}')
  return checked


def _map_order(source: str) -> tuple:
  """The aggregate, then the other sources in their order."""
  return (source != 'aggregate', source_order(source))


def principal_axes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """PCA of x [N, D]: mean [D], axes [D, k], variance shares [k], k <= 2."""
  mean = x.mean(axis=0)
  covariance = (x - mean).T @ (x - mean) / len(x)
  variances, vectors = np.linalg.eigh(covariance)
  variances, vectors = variances[::-1], vectors[:, ::-1]
  # An eigenvector's sign is arbitrary: the largest entry is made positive, so
  # that two runs over the same latents give the same picture.
  largest = np.argmax(np.abs(vectors), axis=0)
  vectors = vectors * np.sign(vectors[largest, np.arange(len(variances))])
  total = max(variances.sum(), np.finfo(np.float64).tiny)
  return mean, vectors[:, :2], np.maximum(variances[:2], 0.0) / total


def shared_limits(
    projected: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """Limits [k], [k] for all panels; far outliers do not shrink the rest."""
  every = np.concatenate(list(projected.values()))
  low, high = every.min(axis=0), every.max(axis=0)
  inner = np.stack([
      np.quantile(x, [0.005, 0.995], axis=0) for x in projected.values()
  ])
  core_low, core_high = inner[:, 0].min(axis=0), inner[:, 1].max(axis=0)
  slack = 0.5 * (core_high - core_low)
  low, high = np.maximum(low, core_low - slack), np.minimum(
      high, core_high + slack
  )
  pad = np.where(high > low, 0.05 * (high - low), 1.0)
  return low - pad, high + pad


def _draw_scatters(
    panels: Sequence[mpl_axes.Axes],
    projected: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    explained: np.ndarray,
) -> str:
  """Draws one scatter [N, 2] per source; returns the caption."""
  low, high = shared_limits(projected)
  half = np.max(high - low) / 2  # a square: both axes in the same unit
  centre = (low + high) / 2
  low, high = centre - half, centre + half
  contours = density_contours(projected['aggregate'], low, high)
  num_left_out, any_coloured = 0, False
  for index, (source, x) in enumerate(projected.items()):
    panel = panels[index]
    rng = np.random.default_rng(0)
    shown = rng.permutation(len(x))[:_MAX_POINTS]  # classes drawn interleaved
    classes = labels.get(source)
    coloured = classes is not None and len(np.unique(classes)) <= len(
        _CLASS_COLOURS
    )
    any_coloured |= coloured
    size = np.clip(6_000 / max(len(shown), 1), 1.6, 14.0)
    if coloured:
      names = np.unique(classes)
      palette = dict(zip(names.tolist(), _CLASS_COLOURS))
      colours = [palette[c] for c in classes[shown].tolist()]
    else:
      colours = VERMILION if source == 'generator' else BLUE
    panel.scatter(
        x[shown, 0], x[shown, 1], s=size, c=colours, alpha=0.6, linewidths=0
    )
    if contours is not None:
      panel.contour(
          *contours, colors=INK, linewidths=[0.6, 1.0], linestyles=['--', '-']
      )
    outside = int(np.sum(np.any((x < low) | (x > high), axis=1)))
    num_left_out += outside
    heading = source_label(source)
    panel.set_title(
        f'{heading} ({outside:,} outside)' if outside else heading,
        fontweight='bold',
        loc='left',
    )
    panel.set_xlim(low[0], high[0])
    panel.set_ylim(low[1], high[1])
    panel.set_aspect('equal')
    if coloured:
      _draw_class_numbers(panel, x, classes, names, palette)
    panel.grid(True)
    panel.tick_params(labelleft=index % 3 == 0)
    panel.set_xlabel(f'component 1 ({100 * explained[0]:.0f} %)')
  for panel in panels[::3]:
    panel.set_ylabel(f'component 2 ({100 * explained[1]:.0f} %)')
  share = 100 * explained.sum()
  note = (
      'Every panel: the same linear projection, the first two principal'
      f' components of the aggregate posterior ({share:.0f} % of its variance).'
  )
  if contours is not None:
    note += ' Outlines enclose 50 % (solid) and 90 % (dashed) of the aggregate.'
  if any_coloured:
    note += ' Numbers: classes, near their medians.'
  if num_left_out:
    note += f' {num_left_out:,} points lie outside the axes.'
  return note


def density_contours(
    x: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple | None:
  """`contour` arguments for 90 % and 50 % of x [N, 2]; None for few points."""
  if len(x) < 100:
    return None
  num_bins = 80
  counts, edges_x, edges_y = np.histogram2d(
      x[:, 0], x[:, 1], bins=num_bins, range=list(zip(low, high))
  )
  # Scott's rule in bins: n^(-1/6) standard deviations in two dimensions.
  scale = x.std(axis=0) * len(x) ** (-1 / 6) * num_bins / (high - low)
  density = ndimage.gaussian_filter(counts, np.maximum(scale, 0.7))
  ordered = np.sort(density.ravel())[::-1]
  mass = np.cumsum(ordered)
  if mass[-1] <= 0:
    return None
  levels = [
      ordered[np.searchsorted(mass, share * mass[-1])] for share in (0.9, 0.5)
  ]
  if not 0 < levels[0] < levels[1]:
    return None
  centres_x = (edges_x[1:] + edges_x[:-1]) / 2
  centres_y = (edges_y[1:] + edges_y[:-1]) / 2
  return centres_x, centres_y, density.T, levels


def _draw_class_numbers(
    panel: mpl_axes.Axes,
    x: np.ndarray,
    classes: np.ndarray,
    names: np.ndarray,
    palette: Mapping[int, str],
) -> None:
  """Writes every class near its median: colour is never the only sign."""
  centres = np.stack([
      np.median(x[classes == name], axis=0) for name in names.tolist()
  ])
  centres = _parted(centres, 0.075 * np.ptp(panel.get_xlim()))
  for name, centre in zip(names.tolist(), centres):
    panel.text(
        *centre,
        str(name),
        color=_ink_on(palette[name]),
        fontsize=8,
        fontweight='bold',
        ha='center',
        va='center',
        bbox={
            'boxstyle': 'circle,pad=0.22',
            'facecolor': palette[name],
            'edgecolor': 'white',
            'linewidth': 1.0,
        },
    )


def _parted(centres: np.ndarray, distance: float) -> np.ndarray:
  """Pushes points [n, 2] apart until no two are closer than `distance`."""
  centres = centres.copy()
  # Equal points have no direction to part in: a small fan gives them one.
  turn = np.arange(len(centres)) * 2.4
  centres += 1e-3 * distance * np.stack([np.cos(turn), np.sin(turn)], axis=1)
  for _ in range(200):
    difference = centres[:, None] - centres[None]  # [n, n, 2]
    gap = np.linalg.norm(difference, axis=-1) + np.eye(len(centres)) * 1e9
    overlap = np.maximum(distance - gap, 0.0)
    if not overlap.any():
      break
    push = difference * (0.5 * overlap / gap)[..., None]
    centres += push.sum(axis=1)
  return centres


def _ink_on(colour: str) -> str:
  """Black or white, whichever is read more easily on `colour`."""
  red, green, blue = colors.to_rgb(colour)
  return 'white' if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else INK


def _draw_histograms(
    panels: Sequence[mpl_axes.Axes],
    projected: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    explained: np.ndarray,
) -> str:
  """Draws one histogram [N, 1] per source over the aggregate's outline."""
  del labels, explained  # one axis carries all variance; bars have no class
  low, high = (limit[0] for limit in shared_limits(projected))
  bins = np.linspace(low, high, 61)
  reference = projected['aggregate'][:, 0]
  for index, (source, x) in enumerate(projected.items()):
    panel = panels[index]
    colour = VERMILION if source == 'generator' else BLUE
    panel.hist(x[:, 0], bins=bins, density=True, color=colour, alpha=0.45)
    panel.hist(
        reference, bins=bins, density=True, histtype='step', color=INK, lw=0.9
    )
    panel.set_title(source_label(source), fontweight='bold', loc='left')
    panel.set_xlim(low, high)
    panel.grid(True)
    panel.set_xlabel('latent, centred on the aggregate')
  panels[0].set_ylabel('density')
  return (
      'The latent space has one dimension, so nothing is projected. The outline'
      ' in every panel is the aggregate posterior.'
  )


def _draw_bars(
    panel: mpl_axes.Axes, family: str, bars: Mapping[str, float]
) -> None:
  """Draws one horizontal bar per source with its value at the end."""
  sources = sorted(bars, key=source_order)
  values = np.array([bars[source] for source in sources])
  positive = values[values > 0]
  logarithmic = len(positive) > 1 and positive.max() > 20 * positive.min()
  colours = {'generator': VERMILION}
  colours.update(dict.fromkeys(('real', 'reconstruction', 'aggregate'), SKY))
  start = 0.0
  if logarithmic:
    start = 10 ** math.floor(math.log10(positive.min()) - 0.05)
    panel.set_xscale('log')
  widths = np.maximum(values - start, 0.0)
  positions = np.arange(len(sources))
  panel.barh(
      positions,
      widths,
      left=start,
      height=0.66,
      color=[colours.get(source, '#a6a6a6') for source in sources],
  )
  for position, source, value in zip(positions, sources, values):
    panel.annotate(
        format_number(value),
        (max(value, start), position),
        xytext=(4, 0),
        textcoords='offset points',
        va='center',
        fontweight='bold' if source == 'generator' else 'normal',
    )
  panel.set_yticks(positions, [source_label(source) for source in sources])
  panel.tick_params(axis='y', length=0, labelsize=8.5, labelcolor=INK)
  panel.invert_yaxis()
  top = max(values.max(), start)
  if logarithmic:  # room for the number after the longest bar
    panel.set_xlim(start, top * (top / start) ** 0.14)
  else:
    panel.set_xlim(0.0, 1.14 * top if top > 0 else 1.0)
  panel.xaxis.set_major_formatter('{x:,.12g}')
  panel.grid(True, axis='x')
  panel.spines['left'].set_visible(False)
  features = family.removeprefix('frechet_').replace('pca', 'PCA')
  features = features.replace('inception', 'Inception')
  features = re.sub(r'_seed_(\d+)', r' (seed \1)', features)
  scale = ', logarithmic axis' if logarithmic else ''
  panel.set_xlabel(
      f'Fréchet distance, {features} features{scale} (lower is better)'
  )


def _series(
    rows: Sequence[Mapping[str, object]],
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
  """Returns quantity -> split -> (steps, values), finite and in step order."""
  points = {}
  for row in rows:
    step = row.get('step')
    if not _finite(step):
      continue
    for name, value in row.items():
      split, slash, quantity = name.partition('/')
      if slash and quantity and _finite(value):
        series = points.setdefault(quantity, {}).setdefault(split, {})
        series[float(step)] = float(value)  # a repeated step: the later line
  order = list(_SPLIT_COLOURS)
  quantities = {}
  for quantity in sorted(points, key=lambda name: name != 'loss'):
    splits = points[quantity]
    quantities[quantity] = {
        split: tuple(np.array(sorted(splits[split].items())).T)
        for split in sorted(
            splits, key=lambda s: order.index(s) if s in order else len(order)
        )
    }
  return quantities


def _draw_curves(
    panel: mpl_axes.Axes,
    quantity: str,
    splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> None:
  """Draws one quantity: every split raw and faint, its running mean on top."""
  values = np.concatenate([y for _, y in splits.values()])
  if values.min() > 0 and values.max() > 100 * values.min():
    panel.set_yscale('log')
    panel.yaxis.set_major_formatter('{x:.4g}')
  else:
    large = 1e4 <= np.abs(values).max() < 1e7
    panel.yaxis.set_major_formatter('{x:,.0f}' if large else '{x:.4g}')
  for split, (steps, raw) in splits.items():
    colour = _split_colour(split)
    smooth = _running_mean(raw)
    if smooth is None:
      marker = 'o' if len(raw) <= 40 else None
      panel.plot(steps, raw, color=colour, lw=1.4, marker=marker, ms=2.6)
    else:
      panel.plot(steps, raw, color=colour, lw=0.7, alpha=0.3)
      panel.plot(steps, smooth, color=colour, lw=1.5)
  if panel.get_yscale() == 'linear':
    _limit_outliers(panel, values)
  panel.set_title(_quantity_title(quantity), loc='left', fontweight='bold')
  panel.set_ylabel(_unit(quantity))
  panel.grid(True)
  panel.xaxis.set_major_locator(
      ticker.MaxNLocator(nbins=4, integer=True)
  )
  panel.xaxis.set_major_formatter(
      ticker.FuncFormatter(lambda step, _: f'{step:,.0f}')
  )


def _quantity_title(quantity: str) -> str:
  """Returns the words of a quantity's name, abbreviations in capitals."""
  words = quantity.replace('_', ' ').replace('/', ', ').split(' ')
  return ' '.join(w.upper() if w in _ABBREVIATIONS else w for w in words)


def _is_long(values: np.ndarray) -> bool:
  """Whether a series has enough values for a running mean to help."""
  return len(values) >= 50


def _running_mean(values: np.ndarray) -> np.ndarray | None:
  """Centred mean over a 25th of the series; None for a series too short."""
  if not _is_long(values):
    return None
  half = len(values) // 50
  padded = np.concatenate([[0.0], np.cumsum(values - values.mean())])
  index = np.arange(len(values))
  # Symmetric at the start, where a curve is steep; one-sided at the end, where
  # it is flat and a mean over few points would only show noise.
  start = np.maximum(index - half, 0)
  stop = np.minimum(index + np.minimum(half, index) + 1, len(values))
  return (padded[stop] - padded[start]) / (stop - start) + values.mean()


def _limit_outliers(panel: mpl_axes.Axes, values: np.ndarray) -> None:
  """Lets a few extreme values leave a linear axis, and says so."""
  low, high = np.quantile(values, [0.02, 0.98])
  spread = high - low
  if len(values) < 50 or spread <= 0 or np.ptp(values) <= 8 * spread:
    return
  beyond = []
  bottom, top = values.min(), values.max()
  if top > high + 2.0 * spread:
    beyond.append(f'up to {format_number(top)}')
    top = high + 0.6 * spread
  if bottom < low - 2.0 * spread:
    beyond.append(f'down to {format_number(bottom)}')
    bottom = low - 0.6 * spread
  pad = 0.05 * (top - bottom)
  panel.set_ylim(bottom - pad, top + pad)
  panel.text(
      0.98,
      0.97,
      f'leaves the axis, {" and ".join(beyond)}',
      transform=panel.transAxes,
      ha='right',
      va='top',
      fontsize=7,
      color=MUTED,
  )


def _unit(quantity: str) -> str:
  """Returns the unit of a logged quantity, '' if it has none or is unknown."""
  for word, unit in _UNITS:
    if word in quantity:
      return unit
  return ''


def _split_colour(split: str) -> str:
  """A split's colour; splits that are not known share one."""
  return _SPLIT_COLOURS.get(split, ORANGE)


def layout() -> layout_engine.ConstrainedLayoutEngine:
  """Room around every panel, in inches."""
  return layout_engine.ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09)


def set_title(fig: mpl_figure.Figure, title: str) -> None:
  """Writes the title over the figure, wrapped to its width."""
  if title:
    fig.suptitle(
        filled(title, fig, 10),
        x=0.01,
        ha='left',
        fontsize=10,
        fontweight='bold',
        parse_math=False,  # it names a folder, which may have a $
    )


def filled(text: str, fig: mpl_figure.Figure, size: float) -> str:
  """Wraps text of `size` points to the figure; letters are 0.65 em wide."""
  return textwrap.fill(text, int(fig.get_figwidth() * 72 / (0.65 * size)))


def write_no_data(path: PathLike, title: str, reason: str) -> pathlib.Path:
  """Writes a picture that says that there was nothing to draw."""
  fig = mpl_figure.Figure(figsize=(6.6, 1.4), dpi=DPI, layout=layout())
  set_title(fig, title)
  panel = fig.subplots()
  panel.set_axis_off()
  panel.text(
      0.5, 0.5, f'no data: {reason}', ha='center', va='center', color=MUTED
  )
  return write_figure(fig, path)


def write_figure(fig: mpl_figure.Figure, path: PathLike) -> pathlib.Path:
  """Renders with Agg, without a version: equal data give equal bytes."""
  stream = io.BytesIO()
  with warnings.catch_warnings():
    # of a folder's name: a box stands for it, and the figure is no worse
    warnings.filterwarnings('ignore', 'Glyph .* missing from', UserWarning)
    fig.savefig(stream, format='png', dpi=DPI, metadata={'Software': None})
  return _write_bytes(path, stream.getvalue())


def _write_bytes(path: PathLike, data: bytes) -> pathlib.Path:
  """Writes a file whole or not at all; makes the folder if it is missing."""
  path = pathlib.Path(path)
  with contextlib.suppress(OSError):  # opening the file tells it better
    path.parent.mkdir(parents=True, exist_ok=True)
  with files.open_atomically(path) as file:
    file.write(data)
  return path
