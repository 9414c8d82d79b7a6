"""Pictures of one run: arrays in, one PNG file out."""

import collections
from collections.abc import Mapping
import pathlib

import chex
import numpy as np

from ldc_vae import formats
from ldc_vae import names
from ldc_vae.reporting import result_tables
from ldc_vae.reporting import style
from ldc_vae.reporting import tiles

_NUM_COLUMNS = 10  # images in a row
_MAX_WALKS = 12


def sample_grid(
  images: np.ndarray,
  path: style.PathLike,
  *,
  title: str,
  columns: int = _NUM_COLUMNS,
  max_rows: int = 10,
) -> pathlib.Path:
  """Draws the first images, in their order, as a grid.

  Args:
    images: uint8, shape [N, H, W, C] with C = 1 or 3.
    path: Where the PNG goes.
    title: Written above the grid.
    columns: Images in a row.
    max_rows: Rows at most; a note says how many images are shown.

  Returns:
    The path.
  """
  images = tiles.checked_images(images)
  shown = images[: columns * max_rows]
  _, height, width, _ = images.shape
  note = f'{height}×{width} pixels, unselected'
  if len(shown) < len(images):
    note = f'The first {len(shown):,} of {len(images):,} images, {note}'
  return tiles.write_tiles(_rows(shown, columns), path, title=title, note=note)


def reconstructions(
  originals: np.ndarray,
  decoded: np.ndarray,
  path: style.PathLike,
  *,
  title: str,
) -> pathlib.Path:
  """Draws every original above its reconstruction, rows labelled.

  Args:
    originals: uint8, shape [N, H, W, C].
    decoded: uint8, shape [N, H, W, C]; image n is decoded from original n.
    path: Where the PNG goes.
    title: Written above the grid.

  Returns:
    The path.
  """
  chex.assert_equal_shape([originals, decoded])
  above, below = (
    _rows(tiles.checked_images(images)[: 4 * _NUM_COLUMNS], _NUM_COLUMNS)
    for images in (originals, decoded)
  )
  return tiles.write_tiles(
    [row for pair in zip(above, below) for row in pair],
    path,
    title=title,
    row_labels=[('original', ''), ('reconstruction', '')] * len(above),
    breaks=range(1, 2 * len(above), 2),
  )


def interpolations(
  paths: np.ndarray,
  path: style.PathLike,
  *,
  title: str,
) -> pathlib.Path:
  """Draws one row for each walk through latent space, its two ends framed.

  Args:
    paths: uint8, shape [R, S, H, W, C]; S decoded latents of R walks, evenly
      spaced from t = 0 to t = 1.
    path: Where the PNG goes.
    title: Written above the grid.

  Returns:
    The path.
  """
  chex.assert_rank(paths, 5)
  num_steps = paths.shape[1]
  ends = (0, num_steps - 1)
  return tiles.write_tiles(
    [tiles.checked_images(row) for row in paths[:_MAX_WALKS]],
    path,
    title=title,
    column_labels=[
      f't = {t:.2g}' if step in ends else f'{t:.2g}'
      for step, t in enumerate(np.linspace(0.0, 1.0, num_steps))
    ],
    framed_columns=ends,
  )


def source_grid(
  images: Mapping[str, np.ndarray],
  path: style.PathLike,
  *,
  distances: Mapping[str, float | None] | None = None,
  title: str,
) -> pathlib.Path:
  """Draws one row of images per latent source, with the source's distance.

  Args:
    images: Source name to uint8 [N, H, W, C]. A source without images is left
      out.
    path: Where the PNG goes.
    distances: Source name to its distance from held-out images; None, NaN and
      missing entries leave the label without a number.
    title: Written above the grid.

  Returns:
    The path.
  """
  distances = distances or {}
  rows, labels = [], []
  for source in sorted(images, key=names.source_rank):
    if not len(images[source]):
      continue
    rows.append(tiles.checked_images(images[source])[:_NUM_COLUMNS])
    value = distances.get(source)
    number = ''
    if formats.is_number(value):
      number = f'Fréchet {formats.format_number(value)}'
    labels.append((names.find_source(source).label, number))
  chex.assert_equal_shape_suffix(rows, 3)
  return tiles.write_tiles(rows, path, title=title, row_labels=labels)


def decomposition_bars(
  results: Mapping[str, object], path: style.PathLike, *, title: str = ''
) -> pathlib.Path:
  """Draws the Fréchet distance of every latent source as a labelled bar.

  Args:
    results: The content of results.json; finite numbers of Fréchet distances
      are drawn, one panel for each kind of features.
    path: Where the PNG goes.
    title: Written above the panels.

  Returns:
    The path.
  """
  families = collections.defaultdict(dict)
  labels = {}
  for name in sorted(results, key=names.metric_rank):
    metric, source = names.find_metric(name)
    value = results[name]
    is_frechet = metric.better and metric.name.startswith('frechet_')
    if is_frechet and formats.is_number(value):
      spread = result_tables.deviations(results, metric.family).get(source)
      families[metric.name][source] = (float(value), spread)
      labels[metric.name] = metric.label
  sources = {source for bars in families.values() for source in bars}
  with style.applied():
    if not families:
      return style.write_no_data(path, title, 'no finite Fréchet distance')
    heights = [len(bars) for bars in families.values()]
    fig, panels = style.panels(
      len(families),
      1,
      (6.6, 0.85),
      margins=(0.0, 0.34 * sum(heights) + 0.75),
      height_ratios=heights,
    )
    for panel, (name, bars) in zip(panels, families.items()):
      scale = style.set_bar_limits(
        panel, [x + (spread or 0.0) for x, spread in bars.values()], room=0.14
      )
      style.source_bars(panel, bars, list(bars))
      panel.set_xlabel(f'{labels[name]}{scale} (lower is better)')
    style.set_title(fig, title)
    caption = style.source_legend(sources)
    if any(spread for bars in families.values() for _, spread in bars.values()):
      caption += ' Lines: ± the standard deviation between sets of images.'
    if any(_are_nearer(bars) for bars in families.values()):
      caption += (
        ' Reconstructions are made from the reference images themselves, so'
        ' they may be nearer to them than other real images are.'
      )
    style.set_caption(fig, caption)
    return style.write_figure(fig, path)


def _are_nearer(bars: Mapping[str, tuple[float, float | None]]) -> bool:
  """Whether reconstructions are nearer to the reference than real images."""
  if not {'reconstruction', 'real'} <= set(bars):
    return False
  return bars['reconstruction'][0] < bars['real'][0]


def _rows(images: np.ndarray, columns: int) -> list[np.ndarray]:
  """Splits images into rows."""
  return [images[i : i + columns] for i in range(0, len(images), columns)]
