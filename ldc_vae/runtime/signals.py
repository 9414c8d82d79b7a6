"""Signals that ask a run to stop.

While a `watch` is open, SIGINT, SIGTERM and SIGHUP ask the run to stop. The
training loop then finishes its step and saves; any other work is left at once,
by an exception. A thread beside the main one ends the process where neither
happens in time, as inside a library. It also stops a run of `jobs.run_all` when
the process that started it has died.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import math
import os
import select
import signal
import threading
import time
import types
from typing import NoReturn

from ldc_vae.runtime import jobs

# Seconds from the first signal to the end of the process, saved or not.
GRACE = 8.0

_PERIOD = 0.5  # seconds between two looks at the clock and the parent process
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Watch:
  """Whether the run was asked to stop, and after which step; see `watch`.

  Attributes:
    grace: Seconds from a signal until a process that still runs is ended.
    signum: The signal that asked the run to stop; 0 before one came.
    deadline: The time on the monotonic clock at which the process is ended.
    last_step: The last step begun, -1 before the first. It stays as it is once
      `signum` is set.
    others_fn: Returns the `last_step` of each other process of the run, None
      for one that has not posted it yet.
    exit_fn: Ends the process with an exit code.
    name: How messages name the process, as ' (process 1)'.
  """

  def __init__(self) -> None:
    self.grace, self.deadline = GRACE, math.inf
    self.signum, self.last_step = 0, -1
    self.others_fn: Callable[[], Sequence[int | None]] = list
    self.exit_fn: Callable[[int], NoReturn] = os._exit
    self.name = ''
    self._lock = threading.RLock()  # the handler may interrupt its holder
    self._is_stepping = self._has_raised = False
    self._ending = threading.Lock()
    self._parent = os.environ.get(jobs.PARENT_VARIABLE)
    if self._parent != str(os.getppid()):  # set for a process further up
      self._parent = None
    self._read, self._write = os.pipe()
    for end in (self._read, self._write):
      os.set_blocking(end, False)

  @property
  def is_stopping(self) -> bool:
    """Whether the run was asked to stop."""
    return bool(self.signum)

  @property
  def exit_code(self) -> int:
    """128 plus the number of the signal; 0 before one came."""
    return 128 + self.signum if self.signum else 0

  @contextlib.contextmanager
  def stepping(self, last_step: int) -> Iterator[None]:
    """While open, a signal raises nothing: the loop asks `begin`.

    Args:
      last_step: The step after which this process asks no more.
    """
    self._is_stepping = True
    try:
      yield
      with self._lock:
        if not self.signum:
          self.last_step = last_step
    finally:
      self._is_stepping = False
    if self.signum:
      self.raise_signal()

  def begin(self, step: int) -> bool:
    """Returns whether to do a step; False where the run is to stop before it.

    All processes get the same answer for the same step. When they are asked to
    stop, the furthest one sets the last step, and the others catch up.

    Args:
      step: One more than at the last call.
    """
    with self._lock:
      if not self.signum:
        self.last_step = step
        return True
    while None in (others := self.others_fn()):
      time.sleep(0.02)
    steps = [self.last_step, *(x for x in others if x is not None)]
    if min(steps) < 0:  # a process has not begun: no step can be finished
      self.raise_signal()
    return step <= max(steps)

  def raise_signal(self) -> NoReturn:
    """Raises KeyboardInterrupt for SIGINT, else SystemExit."""
    self._has_raised = True
    if self.signum == signal.SIGINT:
      raise KeyboardInterrupt
    raise SystemExit(self.exit_code)

  def end(self, code: int, message: str = '') -> NoReturn:
    """Ends the process, whatever its main thread does.

    Args:
      code: The exit code.
      message: A sentence to print, if any.
    """
    if not self._ending.acquire(blocking=False):
      threading.Event().wait()  # another thread is ending it
    kind = 'error' if code < 128 else 'interrupted'
    if message:
      with contextlib.suppress(OSError):
        os.write(2, f'{kind}{self.name}: {message}\n'.encode())
    self.exit_fn(code)

  def _note(self, signum: int) -> None:
    """Notes that the run is to stop; the first signal counts."""
    with self._lock:
      if not self.signum:
        self.signum = int(signum)
        self.deadline = time.monotonic() + self.grace

  def _handle(self, signum: int, unused_frame: types.FrameType | None) -> None:
    """The signal handler, which Python calls in the main thread."""
    self._note(signum)
    if not (self._is_stepping or self._has_raised):
      self.raise_signal()

  def _run(self) -> None:
    """Notes signals and looks at the clock, in a thread of its own."""
    while True:
      select.select([self._read], [], [], _PERIOD)
      with contextlib.suppress(BlockingIOError):
        for signum in os.read(self._read, 64):
          if not signum:  # the watch closes
            return
          if signum in _SIGNALS:
            self._note(signum)
      if self._parent not in (None, str(os.getppid())):
        self._parent = None
        os.kill(os.getpid(), signal.SIGTERM)
      if time.monotonic() > self.deadline:
        self.end(
          self.exit_code,
          f'stopped by {signal.Signals(self.signum).name} in the middle of'
          ' its work: the same command continues from the last checkpoint',
        )

  @contextlib.contextmanager
  def _open(self) -> Iterator[None]:
    """Handles signals while it is open."""
    before = {
      signum: signal.signal(signum, self._handle)
      for signum in _SIGNALS
      if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN
    }
    # A signal writes its number there even while the main thread is busy.
    wake_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    thread = threading.Thread(target=self._run, name='signals', daemon=True)
    thread.start()
    try:
      yield
    finally:
      has_raised, self._has_raised = self._has_raised, True  # note only
      signal.set_wakeup_fd(wake_before)
      os.write(self._write, b'\0')
      thread.join()
      for signum, handler in before.items():
        signal.signal(signum, handler)
      os.close(self._read)
      os.close(self._write)
    if self.signum and not has_raised:
      self.raise_signal()


_active: Watch | None = None  # handlers belong to the process, and so does it


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
  """Watches for signals while it is open.

  Inside another watch, it is that one. A signal raises KeyboardInterrupt
  (SIGINT) or SystemExit (SIGTERM, and SIGHUP unless it is ignored, as by
  `nohup`) in the main thread: at once, or after `Watch.stepping`. A process
  that still runs `Watch.grace` seconds later is ended. Outside the main thread
  no signal can be handled.

  Yields:
    The watch.
  """
  global _active
  if _active is not None:
    yield _active
    return
  own = Watch()
  if threading.current_thread() is not threading.main_thread():
    yield own
    return
  _active = own
  try:
    with own._open():
      yield own
  finally:
    _active = None
