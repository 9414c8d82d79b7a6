"""Maps of latents: several sources under one linear projection to the plane."""

from collections.abc import Mapping
import pathlib

import chex
from matplotlib import axes as mpl_axes
from matplotlib import colors
import numpy as np
from scipy import ndimage

from ldc_vae import names
from ldc_vae.reporting import style

# Paul Tol's muted scheme and a grey: ten classes.
_CLASS_COLOURS = (
    '#332288', '#88CCEE', '#44AA99', '#117733', '#999933',
    '#DDCC77', '#CC6677', '#882255', '#AA4499', '#8C8C8C',
)  # fmt: skip
_COLOUR_WORDS = {
  'classes': ' Colours and numbers are classes, the numbers near the medians.',
  style.VERMILION: ' Orange: the generator.',
  style.BLUE: ' Blue: another source.',
}
_MAX_POINTS = 5_000  # of one panel; more cannot be told apart
_NUM_COLUMNS = 3


def latent_map(
  points: Mapping[str, np.ndarray],
  path: style.PathLike,
  *,
  labels: Mapping[str, np.ndarray] | None = None,
  title: str,
) -> pathlib.Path:
  """Draws latents of several sources, each in a panel, under one projection.

  The projection is the first two principal components of `points['aggregate']`;
  the outlines on every panel enclose 50 % and 90 % of the aggregate.

  Args:
    points: Source name to finite float [N, D]; 'aggregate' must be among them.
    path: Where the PNG goes.
    labels: Source name to int [N], the class of every point; sources with
      labels are coloured by class (up to ten classes).
    title: Written above the panels.

  Returns:
    The path.
  """
  order = lambda source: (source != 'aggregate', names.source_rank(source))
  points = {
    source: np.asarray(points[source], np.float64)
    for source in sorted(points, key=order)
  }
  labels = {k: np.asarray(v) for k, v in (labels or {}).items()}
  for source, classes in labels.items():
    chex.assert_equal_shape_prefix([classes, points[source]], 1)
  mean, basis, explained = principal_axes(points['aggregate'])
  projected = {k: (v - mean) @ basis for k, v in points.items()}
  draw = _draw_histograms if basis.shape[1] == 1 else _draw_scatters
  with style.applied():
    fig, panels = style.panels(
      len(points),
      _NUM_COLUMNS,
      (3.1, 3.25),
      margins=(0.0, 0.85),
      min_width=4.2,
      sharex=True,
      sharey=True,
    )
    caption = draw(panels, projected, labels, explained)
    style.set_title(fig, title)
    style.set_caption(fig, caption)
    return style.write_figure(fig, path)


def principal_axes(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """PCA of x [N, D]: mean [D], axes [D, k], variance shares [k], k <= 2."""
  mean = x.mean(axis=0)
  covariance = (x - mean).T @ (x - mean) / len(x)
  variances, vectors = np.linalg.eigh(covariance)
  variances, vectors = variances[::-1], vectors[:, ::-1]
  # An eigenvector's sign is arbitrary. The largest entry is made positive, so
  # that equal latents give equal pictures.
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
  inner = np.stack(
    [np.quantile(x, [0.005, 0.995], axis=0) for x in projected.values()]
  )
  core_low, core_high = inner[:, 0].min(axis=0), inner[:, 1].max(axis=0)
  slack = 0.5 * (core_high - core_low)
  low = np.maximum(low, core_low - slack)
  high = np.minimum(high, core_high + slack)
  pad = np.where(high > low, 0.05 * (high - low), 1.0)
  return low - pad, high + pad


def square_limits(
  projected: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """As `shared_limits`, for a square with both axes in the same unit."""
  low, high = shared_limits(projected)
  centre, half = (low + high) / 2, np.max(high - low) / 2
  return centre - half, centre + half


def draw_map(
  panel: mpl_axes.Axes,
  points: list[tuple[np.ndarray, str | list[str]]],
  aggregate: np.ndarray,
  limits: tuple[np.ndarray, np.ndarray],
  *,
  max_points: int,
  size: float,
  alpha: float,
) -> bool:
  """Draws points of the plane, and the outlines of the aggregate posterior.

  Args:
    panel: Where.
    points: Pairs of points [N, 2] and their colour, or N colours.
    aggregate: The points [M, 2] that are outlined.
    limits: Of both axes, [2] and [2].
    max_points: Points shown of each pair, chosen at random.
    size: Area of a point, in squared points, where there are 1,000.
    alpha: Opacity of a point.

  Returns:
    Whether there are outlines; few points have none.
  """
  for x, colour in points:
    # In random order, so that no class covers another.
    shown = np.random.default_rng(0).permutation(len(x))[:max_points]
    if not isinstance(colour, str):
      colour = [colour[i] for i in shown]
    area = np.clip(1_000 * size / len(shown), 0.26 * size, 2.5 * size)
    panel.scatter(
      x[shown, 0], x[shown, 1], s=area, c=colour, alpha=alpha, linewidths=0
    )
  low, high = limits
  contours = density_contours(aggregate, low, high)
  if contours is not None:
    panel.contour(
      *contours,
      colors=style.INK,
      linewidths=[0.6, 1.0],
      linestyles=['--', '-'],
    )
  panel.set_xlim(low[0], high[0])
  panel.set_ylim(low[1], high[1])
  panel.set_aspect('equal')
  panel.grid(True)
  return contours is not None


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


def _colour(source: str) -> str:
  """Red for the generator, blue for all others."""
  return style.VERMILION if source == 'generator' else style.BLUE


def _draw_scatters(panels, projected, labels, explained) -> str:
  """Draws one scatter [N, 2] per source; returns the caption."""
  low, high = limits = square_limits(projected)
  num_outside, outlined, colours = 0, False, set()
  for index, (panel, (source, x)) in enumerate(zip(panels, projected.items())):
    classes = labels.get(source, ())
    known = np.unique(classes).tolist()
    coloured = 0 < len(known) <= len(_CLASS_COLOURS)
    colours.add('classes' if coloured else _colour(source))
    palette = dict(zip(known, _CLASS_COLOURS))
    colour = (
      [palette[c] for c in classes.tolist()] if coloured else _colour(source)
    )
    outlined = draw_map(
      panel,
      [(x, colour)],
      projected['aggregate'],
      limits,
      max_points=_MAX_POINTS,
      size=6.0,
      alpha=0.6,
    )
    if coloured:
      _draw_class_numbers(panel, x, classes, palette)
    outside = int(np.sum(np.any((x < low) | (x > high), axis=1)))
    num_outside += outside
    heading = names.find_source(source).label
    panel.set_title(f'{heading} ({outside:,} outside)' if outside else heading)
    panel.tick_params(labelleft=index % _NUM_COLUMNS == 0)
    panel.set_xlabel(f'component 1 ({100 * explained[0]:.0f} %)')
  for panel in panels[::_NUM_COLUMNS]:
    panel.set_ylabel(f'component 2 ({100 * explained[1]:.0f} %)')
  caption = (
    'All panels have the same linear projection: the first two principal'
    ' components of the aggregate posterior'
    f' ({100 * explained.sum():.0f} % of its variance).'
  )
  if outlined:
    caption += (
      ' Outlines enclose 50 % (solid) and 90 % (dashed) of the aggregate'
      ' posterior.'
    )
  caption += ''.join(
    text for key, text in _COLOUR_WORDS.items() if key in colours
  )
  if num_outside:
    caption += f' {num_outside:,} points are outside of the axes.'
  return caption


def _draw_class_numbers(panel, x, classes, palette) -> None:
  """Writes every class near its median: colour is never the only sign."""
  centres = np.stack([np.median(x[classes == c], axis=0) for c in palette])
  centres = _separated(centres, 0.075 * np.ptp(panel.get_xlim()))
  for (name, colour), centre in zip(palette.items(), centres):
    red, green, blue = colors.to_rgb(colour)
    dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
    panel.text(
      *centre,
      str(name),
      color='white' if dark else style.INK,
      fontsize=8,
      fontweight='bold',
      ha='center',
      va='center',
      bbox={
        'boxstyle': 'circle,pad=0.22',
        'facecolor': colour,
        'edgecolor': 'white',
        'linewidth': 1.0,
      },
    )


def _separated(centres: np.ndarray, distance: float) -> np.ndarray:
  """Pushes points [n, 2] apart until no two are closer than `distance`."""
  centres = centres.copy()
  # Equal points have no direction to move in: a small fan gives them one.
  turn = np.arange(len(centres)) * 2.4
  centres += 1e-3 * distance * np.stack([np.cos(turn), np.sin(turn)], axis=1)
  for _ in range(200):
    difference = centres[:, None] - centres[None]  # [n, n, 2]
    gap = np.linalg.norm(difference, axis=-1) + np.eye(len(centres)) * 1e9
    overlap = np.maximum(distance - gap, 0.0)
    if not overlap.any():
      break
    centres += (difference * (0.5 * overlap / gap)[..., None]).sum(axis=1)
  return centres


def _draw_histograms(panels, projected, labels, explained) -> str:
  """Draws one histogram [N, 1] per source over the aggregate's outline."""
  del labels, explained  # one axis has all the variance; bars have no class
  low, high = (limit[0] for limit in shared_limits(projected))
  bins = np.linspace(low, high, 61)
  reference = projected['aggregate'][:, 0]
  for panel, (source, x) in zip(panels, projected.items()):
    panel.hist(
      x[:, 0], bins=bins, density=True, color=_colour(source), alpha=0.45
    )
    panel.hist(
      reference,
      bins=bins,
      density=True,
      histtype='step',
      color=style.INK,
      lw=0.9,
    )
    panel.set_title(names.find_source(source).label)
    panel.set_xlim(low, high)
    panel.grid(True)
    panel.set_xlabel('latent, centred on the aggregate')
  panels[0].set_ylabel('density')
  return (
    'The latent space has one dimension, so nothing is projected. The outline'
    ' in every panel is the aggregate posterior.'
  )
