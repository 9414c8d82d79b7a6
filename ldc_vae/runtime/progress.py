"""What is under way, on the terminal or in a log."""

from collections.abc import Callable, Iterator
import contextlib
import sys
import threading
import time
from typing import TextIO

from absl import logging
import jax
import tqdm

# tqdm's own format without the bar, a line each time.
_LINE = (
  '{percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining},'
  ' {rate_fmt}{postfix}]\n'
)
_SECONDS = 10.0  # between two lines

# Maps parts done, and all parts, to nothing.
ReportFn = Callable[[int, int], None]
_under_way: list[threading.Event] = []  # activities, the innermost last


@contextlib.contextmanager
def activity(
  what: str, *, every: float = _SECONDS, announce: bool = True
) -> Iterator[ReportFn]:
  """Says what is being done, now and then for how long, and how long it took.

  Of activities within each other, the innermost one speaks.

  Args:
    what: As 'drawing pictures'.
    every: Seconds between two lines; what takes less has one line only.
    announce: Whether to say so at once, and not after `every` seconds only.

  Yields:
    A function, which may be called with the parts that are done and their
    number. The lines then estimate how long the rest takes.
  """
  start = time.monotonic()
  done = threading.Event()
  parts = (0, 0)

  def report(num_done: int, total: int) -> None:
    nonlocal parts
    parts = (num_done, total)

  def remind() -> None:
    while not done.wait(every):
      if _under_way[-1] is not done:
        continue
      logging.info('%s: %s', what, _so_far(time.monotonic() - start, *parts))

  if announce:
    logging.info('%s', what)
  _under_way.append(done)
  thread = threading.Thread(target=remind, daemon=True)
  thread.start()
  try:
    yield report
  finally:
    done.set()
    thread.join()
    _under_way.remove(done)
  seconds = time.monotonic() - start
  if seconds >= every:
    logging.info('%s: done, %.0f s', what, seconds)


def _so_far(seconds: float, num_done: int, total: int) -> str:
  """'20 s so far, about 40 s to go'."""
  text = f'{seconds:.0f} s so far'
  if num_done:
    text += f', about {seconds * (total - num_done) / num_done:.0f} s to go'
  return text


class ProgressBar:
  """Shows steps, steps per second, the time left and the loss.

  On a terminal or in a notebook it is a bar; elsewhere, as in a log file, a
  line now and then. It appears after the first step, which compiles. With
  several processes, process 0 alone shows it.
  """

  def __init__(self, total: int, *, file: TextIO | None = None):
    """Shows nothing yet.

    Args:
      total: The last step.
      file: Where to print; by default stderr.
    """
    self._total = total
    self._file = file or sys.stderr
    # a notebook's stderr is no terminal, but follows carriage returns
    self._is_terminal = self._file.isatty() or 'ipykernel' in sys.modules
    self._interval = 0.1 if self._is_terminal else _SECONDS
    self._bar: tqdm.tqdm | None = None
    self._loss_fn: Callable[[], float] | None = None
    self._shown = 0.0  # when the loss was

  def __enter__(self) -> 'ProgressBar':
    return self

  def __exit__(self, *unused_exc_info) -> None:
    self.close()

  def update(
    self, step: int, loss_fn: Callable[[], float] | None = None
  ) -> None:
    """Says that `step` is done.

    Args:
      step: The step.
      loss_fn: Gives the newest loss; called only where it is shown.
    """
    self._loss_fn = loss_fn
    if self._bar is None:
      self._bar = self._create(step)
      return
    now = time.monotonic()
    if now - self._shown >= self._interval:
      self._shown = now
      self._show_loss()
    self._bar.update(step - self._bar.n)

  def close(self) -> None:
    """Shows the last step and leaves the terminal on a new line."""
    if self._bar is not None:
      self._show_loss()
      self._bar.close()

  def _create(self, step: int) -> tqdm.tqdm:
    """The bar, from a step on; the rate counts from there."""
    self._shown = time.monotonic()
    return tqdm.tqdm(
      total=self._total,
      initial=step,
      file=self._file,
      unit='step',
      dynamic_ncols=True,
      mininterval=self._interval,
      maxinterval=self._interval,
      bar_format=None if self._is_terminal else _LINE,
      disable=jax.process_index() != 0,
    )

  def _show_loss(self) -> None:
    if self._bar is not None and self._loss_fn is not None:
      self._bar.set_postfix(loss=self._loss_fn(), refresh=False)
