"""Training curves: every logged scalar over the steps, as small multiples."""

from collections.abc import Mapping, Sequence
import pathlib

from matplotlib import axes as mpl_axes
from matplotlib import lines as mpl_lines
from matplotlib import ticker
import numpy as np

from ldc_vae import formats
from ldc_vae.reporting import style

_SPLIT_COLOURS = {
  'train': style.BLUE,
  'validation': style.VERMILION,
  'eval': style.GREEN,
  'test': style.PURPLE,
}
_NUM_COLUMNS = 3
_LONG = 50  # values from which on a series has a running mean
_START = 0.05  # of the steps: what is far off there does not set the axis
_FEW = 5  # values without a start
_ABBREVIATIONS = ('elbo', 'kl', 'ksd', 'mmd', 'mse', 'nll', 'r1', 'svgd')

# Units of logged scalars by the words in their names; the first match counts.
_UNITS = {
    'images_per_sec': 'images/s',
    'per_sec': '1/s',
    'gradient': '',
    'grad_norm': '',
    'seconds': 's',
    'mse': 'squared pixels in [0, 1]',
    'reconstruction': 'nats',
    'sampler_std': '',  # of standardised latents
    '_std': 'latent units',
    '_mean_square': 'squared latent units',
    '_rms': 'latent units',  # of runs of earlier versions
    'bits_per_dim': 'bits/dim',
    'bandwidth': 'squared latent units',
    'active_units': 'count',
    'frechet': 'distance',
    **dict.fromkeys(
        ('energy', 'log_likelihood', 'elbo', 'nll', 'kl', 'distortion',
         'log_prior', 'loss'),
        'nats',
    ),
}  # fmt: skip

# Scalar -> split -> (steps [N], values [N]).
Series = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


def training_curves(
  rows: Sequence[Mapping[str, object]],
  path: style.PathLike,
  *,
  title: str = '',
) -> pathlib.Path:
  """Draws every logged scalar over the steps.

  A name is SPLIT/SCALAR; the splits of one scalar share a panel. Values that
  are not finite numbers are skipped. A scalar that never changes has no panel
  and is named below. A panel is logarithmic when its values are positive and,
  after the start, span more than two decades.

  Args:
    rows: The lines of metrics.jsonl, each with 'step'.
    path: Where the PNG goes.
    title: Written above the panels.

  Returns:
    The path.
  """
  series = _series(rows)
  constants = {
    scalar: splits for scalar, splits in series.items() if _is_constant(splits)
  }
  series = {x: series[x] for x in series if x not in constants}
  with style.applied():
    if not series:
      reason = 'no value that changes was logged'
      return style.write_no_data(path, title, reason)
    fig, panels = style.panels(
      len(series),
      _NUM_COLUMNS,
      (3.15, 2.15),
      margins=(0.0, 0.55),
      min_width=4.4,
    )
    every = [pair for splits in series.values() for pair in splits.values()]
    steps = np.concatenate([steps for steps, _ in every])
    pad = 0.02 * np.ptp(steps) or 1.0
    start = steps.min() + _START * np.ptp(steps)
    for panel, (scalar, splits) in zip(panels, series.items()):
      _draw_curves(panel, scalar, splits, start)
      panel.set_xlim(steps.min() - pad, steps.max() + pad)
    for panel in panels[-_NUM_COLUMNS:]:
      panel.set_xlabel('step')
    splits = list(dict.fromkeys(split for x in series.values() for split in x))
    handles = [
      mpl_lines.Line2D([], [], color=_split_colour(split), lw=1.8)
      for split in splits
    ]
    if any(len(values) >= _LONG for _, values in every):
      splits[0] += ' (bold: running mean, faint: as logged)'
    legend = fig.legend(
      handles,
      splits,
      loc='outside upper left',
      ncols=len(splits),
      title=style.wrapped_title(fig, title) or None,
      title_fontproperties={'size': 10, 'weight': 'bold'},
      alignment='left',
    )
    legend.get_title().set_parse_math(False)
    if constants:
      style.set_caption(fig, f'Never changed: {_list(constants)}.')
    return style.write_figure(fig, path)


def _series(rows: Sequence[Mapping[str, object]]) -> Series:
  """Gathers finite values in the order of their steps; the loss comes first."""
  points = {}
  for row in rows:
    step = row.get('step')
    if not formats.is_number(step):
      continue
    for name, value in row.items():
      split, slash, scalar = name.partition('/')
      if slash and scalar and formats.is_number(value):
        values = points.setdefault(scalar, {}).setdefault(split, {})
        values[float(step)] = float(value)  # a repeated step: the later line
  order = list(_SPLIT_COLOURS)
  rank = lambda split: order.index(split) if split in order else len(order)
  return {
    scalar: {
      split: tuple(np.array(sorted(points[scalar][split].items())).T)
      for split in sorted(points[scalar], key=rank)
    }
    for scalar in sorted(points, key=lambda name: name != 'loss')
  }


def _is_constant(splits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> bool:
  """Whether a scalar was logged more than once and never changed."""
  values = np.concatenate([y for _, y in splits.values()])
  return len(values) > 1 and np.ptp(values) == 0.0


def _list(constants: Series) -> str:
  """'active units = 8, skipped = 0'."""
  values = {
    _words(scalar): next(iter(splits.values()))[1][0]
    for scalar, splits in sorted(constants.items())
  }
  return ', '.join(f'{words} = {value:,.4g}' for words, value in values.items())


def _words(scalar: str) -> str:
  """'grad_norm_encoder' -> 'grad norm encoder'."""
  words = scalar.replace('_', ' ').replace('/', ', ').split(' ')
  return ' '.join(w.upper() if w in _ABBREVIATIONS else w for w in words)


def _draw_curves(
  panel: mpl_axes.Axes,
  scalar: str,
  splits: Mapping[str, tuple[np.ndarray, np.ndarray]],
  start: float,
) -> None:
  """Draws one scalar: every split as logged, its running mean on top."""
  values = np.concatenate([y for _, y in splits.values()])
  settled = np.concatenate([y[x >= start] for x, y in splits.values()])
  if len(settled) < _FEW:
    settled = values
  logarithmic = values.min() > 0 and settled.max() > 100 * settled.min()
  large = not logarithmic and 1e4 <= np.abs(values).max() < 1e7
  if logarithmic:
    panel.set_yscale('log')
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
  if not logarithmic:
    _limit_axis(panel, values, settled)
  panel.set_title(_words(scalar), parse_math=False)
  panel.set_ylabel(
    next((unit for word, unit in _UNITS.items() if word in scalar), '')
  )
  panel.grid(True)
  panel.xaxis.set_major_locator(ticker.MaxNLocator(nbins=4, integer=True))
  panel.xaxis.set_major_formatter('{x:,.0f}')


def _running_mean(values: np.ndarray) -> np.ndarray | None:
  """Centred mean over a 25th of the series; None for a series too short."""
  if len(values) < _LONG:
    return None
  half = len(values) // 50
  padded = np.concatenate([[0.0], np.cumsum(values - values.mean())])
  index = np.arange(len(values))
  # Symmetric at the start, where a curve is steep; one-sided at the end, where
  # it is flat and a mean over few points would only show noise.
  start = np.maximum(index - half, 0)
  stop = np.minimum(index + np.minimum(half, index) + 1, len(values))
  return (padded[stop] - padded[start]) / (stop - start) + values.mean()


def _limit_axis(
  panel: mpl_axes.Axes, values: np.ndarray, settled: np.ndarray
) -> None:
  """Lets a few extreme values, and those not settled, leave a linear axis."""
  low, high = settled.min(), settled.max()
  inner_low, inner_high = np.quantile(settled, [0.02, 0.98])
  width = inner_high - inner_low
  if len(settled) >= _LONG and np.ptp(settled) > 8 * width > 0:
    low, high = inner_low - 0.6 * width, inner_high + 0.6 * width
  width = high - low
  if not 0 < 3 * width < np.ptp(values):
    return
  bottom, top = values.min(), values.max()
  beyond = []
  if top > high + width:
    beyond.append(f'up to {formats.format_number(top)}')
    top = high + 0.1 * width
  if bottom < low - width:
    beyond.append(f'down to {formats.format_number(bottom)}')
    bottom = low - 0.1 * width
  pad = 0.05 * (top - bottom)
  panel.set_ylim(bottom - pad, top + pad)
  is_above = beyond[0].startswith('up')
  panel.text(
    0.98,
    0.97 if is_above else 0.03,
    f'leaves the axis, {" and ".join(beyond)}',
    transform=panel.transAxes,
    ha='right',
    va='top' if is_above else 'bottom',
    fontsize=7,
    color=style.MUTED,
    bbox={'facecolor': 'white', 'alpha': 0.8, 'linewidth': 0, 'pad': 1},
  )


def _split_colour(split: str) -> str:
  """A split's colour; all unknown splits have the same."""
  return _SPLIT_COLOURS.get(split, style.ORANGE)
