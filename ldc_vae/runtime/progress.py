"""The progress of a run on the terminal."""

import sys
from typing import TextIO

import jax
import tqdm

# tqdm's own format without the bar, a line each time.
_LINE = (
  '{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining},'
  ' {rate_fmt}{postfix}]\n'
)


class ProgressBar:
  """Shows steps, steps per second, the time left and the loss.

  On a terminal it is a bar; elsewhere, as in a log file, a line now and then.
  With several processes, process 0 alone shows it.
  """

  def __init__(
    self,
    total: int,
    *,
    initial: int = 0,
    unit: str = 'step',
    delay: float = 0.0,
    file: TextIO | None = None,
  ):
    """Starts at step `initial`.

    Args:
      total: The last step.
      initial: The steps that an earlier part of the run has done.
      unit: What is counted.
      delay: Seconds after which it appears, if it has not ended by then.
      file: Where to print; by default stderr.
    """
    file = file or sys.stderr
    is_terminal = file.isatty()
    seconds = 0.1 if is_terminal else 10.0
    self._bar = tqdm.tqdm(
      total=total,
      initial=initial,
      file=file,
      unit=unit,
      delay=delay,
      dynamic_ncols=True,
      mininterval=seconds,
      maxinterval=seconds,
      bar_format=None if is_terminal else _LINE,
      disable=jax.process_index() != 0,
    )
    self._is_new = True

  def __enter__(self) -> 'ProgressBar':
    return self

  def __exit__(self, *unused_exc_info) -> None:
    self.close()

  def set_loss(self, loss: float) -> None:
    """Shows `loss` from the next line on."""
    self._bar.set_postfix(loss=float(loss), refresh=False)

  def update(self, step: int) -> None:
    """Says that `step` is done."""
    if self._is_new:  # the first step compiles: the rate counts from its end
      self._is_new = False
      self._bar.n = self._bar.initial = step
      self._bar.unpause()
    else:
      self._bar.update(step - self._bar.n)

  def close(self) -> None:
    """Shows the last step and leaves the terminal on a new line."""
    self._bar.close()
