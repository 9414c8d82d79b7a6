"""Pictures of several methods side by side."""

from collections.abc import Iterable, Mapping
import math
import pathlib

from matplotlib import lines as mpl_lines
from matplotlib import ticker
from matplotlib.backends import backend_agg
import numpy as np
from scipy import optimize

from ldc_vae import formats
from ldc_vae import names
from ldc_vae.reporting import latent_map
from ldc_vae.reporting import style
from ldc_vae.reporting import tiles

_LABEL_SIZE = 7.5  # points
_STACK_GAP = 125  # points between points that share no stack of labels
_LABEL_SHARE = 0.33  # of the axis, right of the last point

# A mean and its standard error; None of one seed.
Estimate = tuple[float, float | None]


def samples(
  images: Mapping[str, np.ndarray],
  path: style.PathLike,
  *,
  distances: Mapping[str, float | None],
  title: str,
) -> pathlib.Path:
  """Draws one row of images per method, with its distance.

  Args:
    images: Label to uint8 [N, H, W, C], rows in this order. Real images come
      first.
    path: Where the PNG goes.
    distances: Label to its distance from held-out images; None and missing
      entries leave the label without a number.
    title: Written above the rows.

  Returns:
    The path.
  """
  numbers = [distances.get(label) for label in images]
  return tiles.write_tiles(
    [tiles.checked_images(x) for x in images.values()],
    path,
    title=title,
    note='Unselected: the first that were drawn.',
    row_labels=[
      (label, '' if x is None else f'Fréchet {formats.format_number(x)}')
      for label, x in zip(images, numbers)
    ],
    breaks=() if next(iter(images)) in distances else (0,),
  )


def bars(
  values: Mapping[str, Mapping[str, Estimate]],
  path: style.PathLike,
  *,
  family: str,
  title: str,
) -> pathlib.Path:
  """Draws the distance of every latent source, one panel per method.

  Args:
    values: Label to source to the mean and standard error of its distance. All
      panels share one axis, logarithmic where the values span a factor of 20.
    path: Where the PNG goes.
    family: The metric's name before the source, as 'frechet_classifier'.
    title: Written above the panels.

  Returns:
    The path.
  """
  with style.applied():
    estimates = [x for each in values.values() for x in each.values()]
    every = [value + (error or 0.0) for value, error in estimates]
    if not every:
      return style.write_no_data(path, title, f'no finite {family}/* value')
    sources = sorted(
      {source for each in values.values() for source in each},
      key=names.source_rank,
    )
    fig, panels = style.panels(
      len(values),
      3,
      (2.6, 0.19 * len(sources) + 0.4),
      margins=(1.1, 0.9),
      min_width=6.3,
      sharex=True,
      sharey=True,
    )
    scale = style.set_bar_limits(panels[0], every, room=0.33)
    for panel, (label, each) in zip(panels, values.items()):
      style.source_bars(panel, each, sources)
      panel.set_title(label)
    for panel in panels[-3:]:
      panel.tick_params(axis='x', labelbottom=True)
    style.set_title(fig, title)
    style.set_caption(
      fig,
      f'{_words(family)}{scale}; lower is better.{_errors(estimates)}'
      f' {style.source_legend(sources)}',
    )
    return style.write_figure(fig, path)


def latents(
  points: Mapping[str, Mapping[str, np.ndarray]],
  path: style.PathLike,
  *,
  title: str,
) -> pathlib.Path:
  """Draws the generator's latents over the aggregate's, a panel per method.

  Each method has its own projection, the first two principal components of its
  aggregate posterior, whose 50 % and 90 % are outlined.

  Args:
    points: Label to 'aggregate' and 'generator', float [N, D] each.
    path: Where the PNG goes.
    title: Written above the panels.

  Returns:
    The path.
  """
  points = {
    label: each
    for label, each in points.items()
    if all(np.all(np.isfinite(x)) and len(x) for x in each.values())
  }
  with style.applied():
    if not points:
      return style.write_no_data(path, title, 'no finite latents')
    fig, panels = style.panels(
      len(points), 4, (2.4, 2.55), margins=(0.0, 1.0), min_width=5.0
    )
    for panel, (label, each) in zip(panels, points.items()):
      mean, basis, _ = latent_map.principal_axes(
        np.asarray(each['aggregate'], np.float64)
      )
      if basis.shape[1] == 1:  # a second axis of zeros
        basis = np.concatenate([basis, np.zeros_like(basis)], axis=1)
      projected = {
        source: (each[source] - mean) @ basis
        for source in ('aggregate', 'generator')
      }
      latent_map.draw_map(
        panel,
        [
          (projected['aggregate'], style.BLUE),
          (projected['generator'], style.VERMILION),
        ],
        projected['aggregate'],
        latent_map.square_limits(projected),
        max_points=2_000,
        size=3.0,
        alpha=0.35,
      )
      panel.tick_params(labelsize=6.5)
      for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_locator(ticker.MaxNLocator(nbins=4))
      panel.set_title(label, fontsize=8)
    style.set_title(fig, title)
    style.set_caption(
      fig,
      "Each panel: the first two principal components of the method's own"
      ' aggregate posterior. Blue: the aggregate posterior; outlines enclose'
      ' 50 % (solid) and 90 % (dashed) of it. Orange: draws of the generator.'
      ' A good generator fills the outlines.',
    )
    return style.write_figure(fig, path)


def quality_and_time(
  points: Mapping[str, tuple[Estimate, Estimate]],
  path: style.PathLike,
  *,
  family: str,
  title: str,
) -> pathlib.Path:
  """Draws the distance of each method against its sampling time.

  Args:
    points: Label to (seconds for 10,000 images, distance).
    path: Where the PNG goes.
    family: The metric's name before the source, as 'frechet_classifier'.
    title: Written above the panel.

  Returns:
    The path.
  """
  points = {
    label: each
    for label, each in points.items()
    if all(value > 0 for value, _ in each)  # both axes are logarithmic
  }
  with style.applied():
    if not points:
      return style.write_no_data(path, title, 'no positive time or distance')
    fig, (panel,) = style.panels(1, 1, (6.6, 4.8))
    panel.set_xscale('log')
    panel.set_yscale('log')
    for label, ((x, x_error), (y, y_error)) in points.items():
      panel.errorbar(
        x,
        y,
        xerr=_arms(x, x_error),
        yerr=_arms(y, y_error),
        fmt='o',
        ms=5.5,
        lw=0.9,
        markeredgecolor='white',
        markeredgewidth=0.6,
        color=style.VERMILION if label == 'LDC-VAE' else style.BLUE,
      )
    panel.margins(0.12)
    panel.autoscale_view()
    low, high = _at_least_a_factor(*panel.get_xlim())
    high *= (high / low) ** (_LABEL_SHARE / (1.0 - _LABEL_SHARE))
    panel.set_xlim(low, high)
    panel.set_ylim(*_at_least_a_factor(*panel.get_ylim()))
    for axis in (panel.xaxis, panel.yaxis):
      axis.set_major_formatter('{x:,.12g}')
      axis.set_minor_formatter(_MinorFormatter(minor_thresholds=(2, 0.5)))
    panel.grid(True, which='major')
    panel.set_xlabel('seconds for 10,000 images (logarithmic axis)')
    panel.set_ylabel(f'{_words(family)}\n(logarithmic axis)')
    style.set_title(fig, title)
    style.set_caption(
      fig,
      'Better is lower and further left. Dotted lines lead to names.'
      f'{_errors(x for point in points.values() for x in point)}',
    )
    # Labels are placed after the layout, which must not move them.
    backend_agg.FigureCanvasAgg(fig).draw()
    fig.set_layout_engine('none')
    _place_labels(
      fig, panel, {k: (x, y) for k, ((x, _), (y, _)) in points.items()}
    )
    return style.write_figure(fig, path)


def _words(family: str) -> str:
  """'Fréchet, classifier: distance from held-out images'."""
  metric, _ = names.find_metric(f'{family}/generator')
  return f'{metric.label}: distance from held-out images'


def _errors(estimates: Iterable[Estimate]) -> str:
  """Explains the lines of the errors, where there are any."""
  is_drawn = any(error for _, error in estimates)
  return ' Lines: ± one standard error over seeds.' if is_drawn else ''


class _MinorFormatter(ticker.LogFormatter):
  """Labels the minor ticks that its parent would, but without exponents."""

  def __call__(self, x, pos=None):
    return f'{x:,.12g}' if super().__call__(x, pos) else ''


def _arms(value: float, error: float | None) -> np.ndarray | None:
  """Arms of an error bar on a logarithmic axis, shape [2, 1]."""
  if not error:
    return None
  return np.array([[min(error, 0.9 * value)], [error]])


def _at_least_a_factor(low: float, high: float) -> tuple[float, float]:
  """Widens limits to a factor of 4, so that near values look near."""
  widen = max(0.0, math.log(4.0) - math.log(high / low)) / 2
  return low * math.exp(-widen), high * math.exp(widen)


def _place_labels(fig, panel, points: Mapping[str, tuple[float, float]]):
  """Writes labels beside their points; points of about one time share a stack.

  Lines lead from the labels to their points.
  """
  scale = fig.dpi / 72  # pixels per point
  area = panel.get_window_extent()
  back = panel.transData.inverted().transform
  pixels = {k: panel.transData.transform(x) for k, x in points.items()}
  stacks = []
  for label in sorted(pixels, key=lambda k: pixels[k][0]):
    x = pixels[label][0]
    if not stacks or x - pixels[stacks[-1][-1]][0] > _STACK_GAP * scale:
      stacks.append([])
    stacks[-1].append(label)
  for stack in stacks:
    stack.sort(key=lambda k: pixels[k][1])
    x = max(pixels[k][0] for k in stack) + 14 * scale
    heights = _separated(
      np.array([pixels[k][1] for k in stack]), 1.4 * _LABEL_SIZE * scale
    )
    low, high = area.y0 + 5 * scale, area.y1 - 5 * scale
    heights += max(low - heights[0], 0.0)
    heights -= max(heights[-1] - high, 0.0)
    for label, y in zip(stack, heights):
      line = back([pixels[label], (x - 3 * scale, y)])
      panel.add_line(
        mpl_lines.Line2D(*line.T, color='#8a8a8a', lw=0.8, ls=':', zorder=1)
      )
      panel.text(
        *back((x, y)),
        label,
        fontsize=_LABEL_SIZE,
        va='center',
        bbox={'facecolor': 'white', 'alpha': 0.8, 'linewidth': 0, 'pad': 0.5},
        fontweight='bold' if label == 'LDC-VAE' else 'normal',
      )


def _separated(heights: np.ndarray, distance: float) -> np.ndarray:
  """The nearest heights [n] to rising ones that are `distance` apart."""
  steps = distance * np.arange(len(heights))
  return optimize.isotonic_regression(heights - steps).x + steps
