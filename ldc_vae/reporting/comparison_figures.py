"""Pictures of several methods side by side, in the look of `figures`."""

from collections.abc import Mapping
import math
import pathlib

import matplotlib
from matplotlib import figure as mpl_figure
from matplotlib import lines as mpl_lines
from matplotlib import ticker
from matplotlib.backends import backend_agg
import numpy as np
from scipy import optimize

from ldc_vae.reporting import figures

_COLUMNS = 3  # panels of bars in a row
_MAP_COLUMNS = 4
_MAX_POINTS = 2_000  # of one latent map
_LABEL_SIZE = 7.5  # points
_STACK_GAP = 125  # points between points that share no stack of labels
_LABEL_SHARE = 0.33  # of the axis, right of the last point

# A mean and its standard error; None of one seed.
Estimate = tuple[float, float | None]


def samples(
    images: Mapping[str, np.ndarray],
    path: figures.PathLike,
    *,
    distances: Mapping[str, float | None],
    title: str,
) -> pathlib.Path:
  """Draws one row of images per method, with its distance.

  Args:
    images: Label to uint8 [N, H, W, C], rows in this order.
    path: Where the PNG goes.
    distances: Label to its distance from held-out images; None and missing
      entries leave the label without a number.
    title: Written above the rows.

  Returns:
    The path.
  """
  rows = [figures.checked_images(x, label) for label, x in images.items()]
  numbers = [distances.get(label) for label in images]
  return figures.write_tiles(
      rows,
      path,
      title=title,
      note='Unselected: the first that were drawn.',
      row_labels=[
          (label, '' if x is None else f'Fréchet {figures.format_number(x)}')
          for label, x in zip(images, numbers)
      ],
      breaks=(0,) if 'test images' in images else (),
  )


def bars(
    values: Mapping[str, Mapping[str, Estimate]],
    path: figures.PathLike,
    *,
    family: str,
    title: str,
) -> pathlib.Path:
  """Draws the distance of every latent source, one panel per method.

  Args:
    values: Label to source to the mean and standard error of its distance. All
      panels share one axis, logarithmic where the values span a factor of 20.
    path: Where the PNG goes.
    family: Of the distances, as 'frechet_classifier'.
    title: Written above the panels.

  Returns:
    The path.
  """
  with matplotlib.rc_context(figures.STYLE):
    every = [x for each in values.values() for x, _ in each.values()]
    if not every:
      return figures.write_no_data(path, title, f'no finite {family}/* value')
    sources = sorted(
        {source for each in values.values() for source in each},
        key=figures.source_order,
    )
    num_columns = min(_COLUMNS, len(values))
    num_rows = math.ceil(len(values) / num_columns)
    fig = mpl_figure.Figure(
        figsize=(
            1.1 + 2.6 * max(num_columns, 2),
            (0.19 * len(sources) + 0.4) * num_rows + 0.9,
        ),
        dpi=figures.DPI,
        layout=figures.layout(),
    )
    panels = fig.subplots(
        num_rows, num_columns, sharex=True, sharey=True, squeeze=False
    ).ravel()
    positive = [x for x in every if x > 0]
    logarithmic = bool(positive) and max(every) > 20 * min(positive)
    start = 10 ** (math.log10(min(positive)) - 0.2) if logarithmic else 0.0
    for panel, (label, each) in zip(panels, values.items()):
      if logarithmic:
        panel.set_xscale('log')
      _draw_sources(panel, each, sources, start)
      panel.set_title(label, loc='left', fontweight='bold')
    for panel in panels[len(values) :]:
      panel.set_visible(False)
    end = max(x + (error or 0.0) for each in values.values()
              for x, error in each.values())
    if logarithmic:  # room for the number after the longest bar
      panels[0].set_xlim(start, end * (end / start) ** 0.3)
    else:
      panels[0].set_xlim(0.0, 1.35 * end if end > 0 else 1.0)
    panels[0].xaxis.set_major_formatter('{x:,.12g}')
    panels[0].xaxis.set_minor_formatter(ticker.NullFormatter())
    panels[0].set_yticks(
        range(len(sources)), [figures.source_label(x) for x in sources]
    )
    panels[0].invert_yaxis()
    for panel in panels[max(len(values) - num_columns, 0) : len(values)]:
      panel.tick_params(axis='x', labelbottom=True)
    figures.set_title(fig, title)
    scale = ', logarithmic axis' if logarithmic else ''
    note = (
        f'{_family_words(family)}{scale}: lower is better. Lines: ± one'
        ' standard error over seeds. Light blue: what the decoder can do; red:'
        ' the method\'s own generator.'
    )
    fig.supxlabel(
        figures.filled(note, fig, 7.5), fontsize=7.5, color=figures.MUTED
    )
    return figures.write_figure(fig, path)


def latents(
    points: Mapping[str, Mapping[str, np.ndarray]],
    path: figures.PathLike,
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
  with matplotlib.rc_context(figures.STYLE):
    points = {
        label: each for label, each in points.items()
        if all(np.all(np.isfinite(x)) and len(x) for x in each.values())
    }
    if not points:
      return figures.write_no_data(path, title, 'no finite latents')
    num_columns = min(_MAP_COLUMNS, len(points))
    num_rows = math.ceil(len(points) / num_columns)
    fig = mpl_figure.Figure(
        figsize=(max(2.4 * num_columns, 5.0), 2.55 * num_rows + 1.0),
        dpi=figures.DPI,
        layout=figures.layout(),
    )
    panels = fig.subplots(num_rows, num_columns, squeeze=False).ravel()
    for panel, (label, each) in zip(panels, points.items()):
      _draw_map(panel, each['aggregate'], each['generator'])
      panel.set_title(label, loc='left', fontweight='bold', fontsize=8)
    for panel in panels[len(points) :]:
      panel.set_visible(False)
    figures.set_title(fig, title)
    note = (
        'Each panel: the first two principal components of the method\'s own'
        ' aggregate posterior, in its latent units. Blue: the aggregate; its'
        ' outlines enclose 50 % (solid) and 90 % (dashed). Red: what the'
        ' generator draws. A generator is right where it fills the outlines.'
    )
    fig.supxlabel(
        figures.filled(note, fig, 7.5), fontsize=7.5, color=figures.MUTED
    )
    return figures.write_figure(fig, path)


def quality_and_time(
    points: Mapping[str, tuple[Estimate, Estimate]],
    path: figures.PathLike,
    *,
    family: str,
    title: str,
) -> pathlib.Path:
  """Draws the distance of each method against its sampling time.

  Args:
    points: Label to (seconds for 10,000 images, distance).
    path: Where the PNG goes.
    family: Of the distances, as 'frechet_classifier'.
    title: Written above the panel.

  Returns:
    The path.
  """
  points = {
      label: each for label, each in points.items()
      if all(value > 0 for value, _ in each)  # both axes are logarithmic
  }
  with matplotlib.rc_context(figures.STYLE):
    if not points:
      return figures.write_no_data(path, title, 'no positive time or distance')
    fig = mpl_figure.Figure(
        figsize=(6.6, 4.8), dpi=figures.DPI, layout=figures.layout()
    )
    panel = fig.subplots()
    panel.set_xscale('log')
    panel.set_yscale('log')
    for label, ((x, x_error), (y, y_error)) in points.items():
      own = label == 'LDC-VAE'
      panel.errorbar(
          x, y,
          xerr=_lower_and_upper(x, x_error),
          yerr=_lower_and_upper(y, y_error),
          fmt='o', ms=5.5, lw=0.9, markeredgecolor='white', markeredgewidth=0.6,
          color=figures.VERMILION if own else figures.BLUE,
      )
    panel.margins(0.12)
    panel.autoscale_view()
    for axis, limits, set_limits in (
        (panel.xaxis, panel.get_xlim(), panel.set_xlim),
        (panel.yaxis, panel.get_ylim(), panel.set_ylim),
    ):
      low, high = _at_least_a_factor(*limits)
      if axis is panel.xaxis:
        high *= (high / low) ** (_LABEL_SHARE / (1.0 - _LABEL_SHARE))
      set_limits(low, high)
      axis.set_major_formatter('{x:,.12g}')
      axis.set_minor_formatter(_MinorFormatter(minor_thresholds=(2, 0.5)))
    panel.grid(True, which='major')
    panel.set_xlabel('seconds for 10,000 images (logarithmic axis)')
    panel.set_ylabel(f'{_family_words(family)}\n(logarithmic axis)')
    figures.set_title(fig, title)
    note = (
        'Better is lower and further left. Lines: ± one standard error over'
        ' seeds.'
    )
    fig.supxlabel(
        figures.filled(note, fig, 7.5), fontsize=7.5, color=figures.MUTED
    )
    # the layout, before labels are placed
    backend_agg.FigureCanvasAgg(fig).draw()
    fig.set_layout_engine('none')
    _place_labels(fig, panel, {k: (x, y) for k, ((x, _), (y, _)) in
                               points.items()})
    return figures.write_figure(fig, path)


def _family_words(family: str) -> str:
  """'Fréchet distance to held-out images, classifier features'."""
  words = family.removeprefix('frechet_').replace('pca', 'PCA')
  return f'Fréchet distance to held-out images, {words} features'


def _draw_sources(panel, values, sources, start) -> None:
  """One bar per source, with its number at the end."""
  colours = {'generator': figures.VERMILION}
  colours.update(
      dict.fromkeys(('real', 'reconstruction', 'aggregate'), figures.SKY)
  )
  for position, source in enumerate(sources):
    if source not in values:
      continue
    value, error = values[source]
    end = max(value, start)
    panel.barh(
        position, end - start, left=start, height=0.7,
        color=colours.get(source, '#a6a6a6'),
    )
    if error:
      low, high = max(value - error, start), value + error
      panel.plot([low, high], [position] * 2, color=figures.INK, lw=0.9)
      end = max(end, high)
    panel.annotate(
        figures.format_number(value),
        (end, position),
        xytext=(3, 0),
        textcoords='offset points',
        va='center',
        fontsize=_LABEL_SIZE,
        fontweight='bold' if source == 'generator' else 'normal',
    )
  panel.grid(True, axis='x')
  panel.tick_params(axis='y', length=0, labelcolor=figures.INK)
  panel.spines['left'].set_visible(False)


def _draw_map(panel, aggregate: np.ndarray, generator: np.ndarray) -> None:
  """Two sets of latents [N, D] under the aggregate's projection."""
  aggregate = np.asarray(aggregate, np.float64)
  mean, basis, _ = figures.principal_axes(aggregate)
  if basis.shape[1] == 1:  # a second axis of zeros
    basis = np.concatenate([basis, np.zeros_like(basis)], axis=1)
  projected = {
      'aggregate': (aggregate - mean) @ basis,
      'generator': (np.asarray(generator, np.float64) - mean) @ basis,
  }
  low, high = figures.shared_limits(projected)
  half = np.max(high - low) / 2  # a square: both axes in the same unit
  low, high = (low + high) / 2 - half, (low + high) / 2 + half
  for source, colour in (
      ('aggregate', figures.BLUE), ('generator', figures.VERMILION)
  ):
    x = projected[source]
    shown = np.random.default_rng(0).permutation(len(x))[:_MAX_POINTS]
    panel.scatter(
        x[shown, 0], x[shown, 1],
        s=np.clip(3_000 / len(shown), 1.2, 8.0),
        c=colour, alpha=0.35, linewidths=0,
    )
  contours = figures.density_contours(projected['aggregate'], low, high)
  if contours is not None:
    panel.contour(
        *contours, colors=figures.INK, linewidths=[0.6, 1.0],
        linestyles=['--', '-'],
    )
  panel.set_xlim(low[0], high[0])
  panel.set_ylim(low[1], high[1])
  panel.set_aspect('equal')
  panel.grid(True)
  panel.tick_params(labelsize=6.5)
  for axis in (panel.xaxis, panel.yaxis):
    axis.set_major_locator(ticker.MaxNLocator(nbins=4))


class _MinorFormatter(ticker.LogFormatter):
  """Says which minor ticks have a number, and writes it without exponent."""

  def __call__(self, x, pos=None):
    return f'{x:,.12g}' if super().__call__(x, pos) else ''


def _lower_and_upper(value: float, error: float | None) -> np.ndarray | None:
  """Arms of an error bar on a logarithmic axis, shape [2, 1]."""
  if not error:
    return None
  return np.array([[min(error, 0.9 * value)], [error]])


def _at_least_a_factor(low: float, high: float) -> tuple[float, float]:
  """Limits that span a factor of 4, so that equal values are not torn apart."""
  widen = max(0.0, math.log(4.0) - math.log(high / low)) / 2
  return low * math.exp(-widen), high * math.exp(widen)


def _place_labels(fig, panel, points: Mapping[str, tuple[float, float]]):
  """Writes the labels beside their points, stacked in the points' order.

  Points of about one time share a stack; lines lead back to them.
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
    heights = _parted(
        np.array([pixels[k][1] for k in stack]), 1.4 * _LABEL_SIZE * scale
    )
    low, high = area.y0 + 5 * scale, area.y1 - 5 * scale
    heights += max(low - heights[0], 0.0)
    heights -= max(heights[-1] - high, 0.0)
    for label, y in zip(stack, heights):
      line = back([pixels[label], (x - 3 * scale, y)])
      panel.add_line(
          mpl_lines.Line2D(*line.T, color='#8a8a8a', lw=0.6, zorder=4)
      )
      panel.text(
          *back((x, y)),
          label,
          fontsize=_LABEL_SIZE,
          va='center',
          color=figures.INK,
          fontweight='bold' if label == 'LDC-VAE' else 'normal',
      )


def _parted(heights: np.ndarray, distance: float) -> np.ndarray:
  """The nearest heights [n] to rising ones that are `distance` apart."""
  steps = distance * np.arange(len(heights))
  return optimize.isotonic_regression(heights - steps).x + steps
