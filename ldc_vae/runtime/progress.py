"""The terminal line of a run."""

import math
import shutil
import sys
import time
from typing import TextIO

import jax
import tqdm

_SMOOTHING = 0.3  # weight of the newest rate, as in tqdm


class ProgressBar:
  """Shows step, images per second, time left and loss on the terminal.

  On a terminal it is a bar; elsewhere, as in a log file, a line now and then.
  """

  def __init__(
      self,
      total: int,
      *,
      batch_size: int,
      initial: int = 0,
      interval: float | None = None,
      file: TextIO | None = None,
  ):
    """Starts at step `initial`.

    Args:
      total: The last step.
      batch_size: Images per step, over all devices.
      initial: Steps already done, in an earlier part of the run.
      interval: Seconds between two lines; by default 0.1 on a terminal and 10
        elsewhere.
      file: Where to; by default stderr.
    """
    self._file = file or sys.stderr
    self._shown = jax.process_index() == 0
    self._is_terminal = self._file.isatty()
    default = 0.1 if self._is_terminal else 10.0
    self._interval = default if interval is None else interval
    self._total, self._batch_size = total, batch_size
    self._step = self._last_step = self._shown_step = initial
    self._loss, self._rate = None, None  # rate in steps per second
    # The first step compiles; the rate is counted from its end.
    self._last_time = None
    self._bar = None
    if self._shown and self._is_terminal:
      self._bar = tqdm.tqdm(
          total=total,
          initial=initial,
          file=self._file,
          ncols=_num_columns(),
          nrows=20,  # its own reading may be 0, and then it draws nothing
          bar_format='{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}',
          mininterval=math.inf,  # drawn when we say so
          miniters=math.inf,
      )

  def __enter__(self) -> 'ProgressBar':
    return self

  def __exit__(self, *unused_exc_info) -> None:
    self.close()

  def set_loss(self, loss: float) -> None:
    """Shows `loss` from the next line on."""
    self._loss = float(loss)

  def update(self, step: int) -> None:
    """Says that `step` is done."""
    if not self._shown:
      return
    self._step = step
    now = time.monotonic()
    if self._last_time is None:
      self._last_time, self._last_step = now, step
    elif now - self._last_time >= self._interval or step == self._total:
      self._measure(now)
      self._show()

  def close(self) -> None:
    """Shows the last step and leaves the terminal on a new line."""
    if self._shown and self._shown_step != self._step:
      self._show()
    if self._bar is not None:
      self._bar.close()
      self._bar = None
    self._shown = False

  def _measure(self, now: float) -> None:
    """Updates the rate from the steps since it was last measured."""
    elapsed = max(now - self._last_time, 1e-9)
    rate = (self._step - self._last_step) / elapsed
    if self._rate is None:
      self._rate = rate
    elif self._step > self._last_step:
      self._rate += _SMOOTHING * (rate - self._rate)
    self._last_time, self._last_step = now, self._step

  def _show(self) -> None:
    """Draws the bar, or prints a line."""
    self._shown_step = self._step
    parts = []
    if self._rate:
      left = (self._total - self._step) / self._rate
      parts.append(f'{self._rate * self._batch_size:,.0f} images/s')
      parts.append(f'{tqdm.tqdm.format_interval(left)} left')
    if self._loss is not None:
      parts.append(f'loss {self._loss:.4g}')
    if self._bar is not None:
      self._bar.n = self._step
      self._bar.ncols = _num_columns()  # the window may have changed
      self._bar.set_postfix_str('  '.join(parts), refresh=False)
      self._bar.refresh()
    else:
      parts.insert(0, f'step {self._step}/{self._total}')
      print('  '.join(parts), file=self._file, flush=True)


def _num_columns() -> int:
  """Returns the width of the terminal; 80 where it does not say."""
  return shutil.get_terminal_size().columns
