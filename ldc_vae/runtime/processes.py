"""The processes of a run: how they join, stop together and notice a death.

A run has one process, or several that joined through `jax.distributed`. While
a `watch` is open, a thread beside the main one

* takes SIGINT, SIGTERM and SIGHUP, even while the main thread is inside a
  library, and ends the process where it cannot stop by itself in time;
* stops a run of `jobs.run_all` when the process that started it has died;
* with several processes, sees whether the coordinator still answers a second
  thread, which tells the others every moment, through its key-value store, that
  this one lives, what step it is at, and whether it was asked to stop or has
  failed; and reads the same of them.

So one signal to one process stops all at the same step, and a process that
dies ends the others with a sentence instead of a hang. Process 0 holds the
coordinator and alone writes files.
"""

from collections.abc import Iterator
import contextlib
import ctypes
import functools
import glob
import json
import os
import platform
import re
import select
import signal
import sys
import threading
import time
import types
from typing import Any, NoReturn

import jax
from jax._src import distributed  # its key-value store has no public name
import numpy as np

from ldc_vae.runtime import jobs

# Seconds from the first signal to the end of the process, saved or not.
GRACE = 8.0
# Seconds without a sign of life after which a process counts as dead.
SILENCE = 30.0
# The same where a collective has failed already, which is a sign of its own.
_SILENCE_AFTER_ERROR = 6.0

# Seconds between two looks at the process that started this one.
_PARENT_PERIOD = 1.0

_PREFIX = 'ldc_vae/processes'
_VARIABLE = 'LDC_VAE_DISTRIBUTED'
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_CONTINUE = 'the same command on every host continues the run'

# What libraries print when another process has died.
_NOISE = re.compile(rb'E\d{4} .*coordination_s')
_FATAL = re.compile(rb'F\d{4} .*JAX distributed service detected fatal errors')


# Of glibc's mallopt: keep freed memory, use no mmap, have one heap.
_MALLOC_OPTIONS = ((-1, 2**31 - 1), (-4, 0), (-8, 1))

_DEVICE_NODES = ('nvidiactl', 'dxg', 'kfd', 'accel*', 'vfio/[0-9]*')


class JoinError(OSError):
  """The processes of the run cannot find each other."""


def keep_freed_memory() -> bool:
  """Lets a process that computes on the CPU keep the memory that it frees.

  XLA allocates its temporary arrays anew in each step. glibc gives those above
  32 MiB back at once, and the kernel clears their pages once more in the next
  step: a third of the time of a convolutional step. Call it before jax starts
  its threads. Where there is an accelerator or no glibc it does nothing.

  Returns:
    Whether memory is kept.
  """
  platforms = os.environ.get('JAX_PLATFORMS')
  if platforms and platforms != 'cpu' or not platforms and any(
      glob.glob(f'/dev/{name}') for name in _DEVICE_NODES
  ):
    return False
  if platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  return all([mallopt(option, value) for option, value in _MALLOC_OPTIONS])


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
  """Joins the other processes of the run; call it before jax does any work.

  Without arguments it does nothing, unless LDC_VAE_DISTRIBUTED=1 says that jax
  is to find the cluster itself: TPU pod slices by their metadata, SLURM and MPI
  by their environment, Kubernetes by its API (which needs `jax[k8s]`).

  Args:
    coordinator_address: 'HOST:PORT' of process 0.
    num_processes: How many there are.
    process_id: Which of them this is.

  Raises:
    JoinError: No cluster was found, or not all processes came in time.
    ValueError: LDC_VAE_DISTRIBUTED is neither 0 nor 1.
  """
  asked = os.environ.get(_VARIABLE) or '0'
  if asked not in ('0', '1'):
    raise ValueError(
        f'{_VARIABLE}={asked} is neither 0 nor 1; set it to 1 where jax is to'
        ' find the processes of the run itself'
    )
  if coordinator_address is None and asked == '0':
    return
  # Its service takes SIGTERM away from us and knows no SIGINT.
  jax.config.update('jax_enable_preemption_service', False)
  if coordinator_address is None:
    arguments = {}
    failure = f'{_VARIABLE}=1, but jax found no cluster to join'
    remedy = (
        'unset it, or give --coordinator_address, --num_processes and'
        ' --process_id'
    )
  else:
    arguments = dict(
        coordinator_address=coordinator_address,
        num_processes=num_processes,
        process_id=process_id,
    )
    failure = (
        f'--coordinator_address={coordinator_address}: process {process_id} of'
        f' {num_processes} could not join the others'
    )
    remedy = (
        'start all of them within 5 minutes, with the address of process 0 and'
        ' a port that is free there'
    )
  try:
    jax.distributed.initialize(**arguments)
  except (RuntimeError, ValueError, OSError) as error:
    reason = ' '.join(str(error).split())[:200]
    raise JoinError(f'{failure} ({reason}); {remedy}') from error


def is_first() -> bool:
  """Whether this is process 0, which writes the files."""
  return jax.process_index() == 0


def barrier(name: str, value: Any = None) -> list[Any]:
  """Waits until every process has come here.

  It waits as long as all of them live, unlike a collective.

  Args:
    name: Of the place; the same on every process.
    value: Anything that JSON can hold.

  Returns:
    The values of all processes, by process.
  """
  with watch() as active:
    return active.barrier(name, value)


def meet(name: str) -> None:
  """Waits for every process, then connects their devices.

  Devices give each other 30 seconds at their first collective, and one process
  may load or compile for longer than another; later ones are more patient.

  Args:
    name: Of the place; the same on every process.
  """
  barrier(name)
  if jax.process_count() > 1:
    sum_fn = jax.pmap(lambda x: jax.lax.psum(x, 'devices'), axis_name='devices')
    jax.block_until_ready(sum_fn(np.zeros(jax.local_device_count())))


class Watch:
  """Signals and the other processes; see `watch`, which makes it.

  Attributes:
    grace: Seconds from a signal until a process that is still there is ended.
    is_ending: Set where signals are to be noted only.
    has_late_signal: Whether one was.
  """

  def __init__(self):
    state = distributed.global_state
    self._client, self._index, self._count = None, 0, 1
    self.grace = GRACE
    self.is_ending = self.has_late_signal = False
    self._condition = threading.Condition()  # reentrant: signal handlers
    self._signum = 0  # that has asked the run to stop
    self._handled = False  # whether the handler has seen a signal
    self._dropped = False  # whether what it raised came to nobody
    self._again = False  # whether the thread has asked it to raise that anew
    self._deadline = None
    self._stepping = False
    self._committed = None  # the last step begun; None before the first
    self._frozen = None  # [committed] when the stop was asked for
    self._failure, self._left, self._closing = None, False, False
    self._code = 1  # of the failure
    self._lost = False  # the coordinator
    self._silence = SILENCE
    self._peers = {}  # process -> its status
    self._heard = {}  # process -> (beat, when it changed)
    self._beat = 0
    self._looked = 0.0
    self._answered = 0.0  # when the coordinator last did
    self._barriers = {}  # name -> calls
    self._ending = threading.Lock()
    self._stderr = None
    self._wake_read, self._wake_write = _wake_pipe()
    self._talk_read, self._talk_write = _wake_pipe()
    self._thread = self._talker = None
    self._parent = os.environ.get(jobs.PARENT_VARIABLE)
    if self._parent != str(os.getppid()):  # that of a process further up
      self._parent = None
    if state.client is not None:
      self.connect()

  # For the loop.

  @property
  def is_alone(self) -> bool:
    """Whether the run has this process only."""
    return self._client is None

  def connect(self) -> None:
    """Begins to watch the other processes, after `join`."""
    state = distributed.global_state
    if state.client is None or state.num_processes == 1:
      return
    self._index, self._count = state.process_id, state.num_processes
    self._stderr = _NativeStderr(self._lose_coordinator)
    self._answered = time.monotonic()  # before the thread sees the client
    self._client = state.client
    if self._thread is not None:
      self._start_talking()
    self._wake()

  @contextlib.contextmanager
  def stepping(self, last_step: int) -> Iterator[None]:
    """While open, a signal waits until `begin` is asked about a step.

    Args:
      last_step: After which this process asks no more.
    """
    with self._condition:
      self._stepping = True
      if self._signum:
        self.raise_signal()
    try:
      yield
      with self._condition:
        if self._frozen is None:
          self._committed = last_step
    finally:
      self._stepping = False
    if self._signum:
      self.raise_signal()

  @property
  def is_stopping(self) -> bool:
    """Whether the run was asked to stop."""
    return bool(self._signum)

  @property
  def exit_code(self) -> int:
    """128 and the number of the signal that asked the run to stop; else 0."""
    return 128 + self._signum if self._signum else 0

  def begin(self, step: int) -> bool:
    """Whether to do a step; False where the run is to stop before it.

    All processes get the same answer for the same step. Where they have been
    asked to stop, the furthest one sets the step, and the others catch up.

    Args:
      step: One more than at the last call.
    """
    with self._condition:
      if not self._signum:
        self._committed = step
        return True
    if self.is_alone:
      return False
    while True:
      with self._condition:
        steps = [self._frozen, *self._frozen_peers()]
        if None not in steps:
          break
      time.sleep(0.02)
    steps = [step for step, in steps]
    if None in steps:  # one of them has not begun: no step can be whole
      self.raise_signal()
    return step <= max(steps)

  def barrier(self, name: str, value: Any = None) -> list[Any]:
    """As the function `barrier`."""
    if self.is_alone:
      return [value]
    call = self._barriers[name] = self._barriers.get(name, 0) + 1
    place = f'{_PREFIX}_at/{name}/{call}/'
    try:
      self._client.key_value_set(f'{place}{self._index}', json.dumps(value))
      while True:
        found = dict(self._client.key_value_dir_get(place))
        if len(found) == self._count:
          break
        time.sleep(self._period())
    except jax.errors.JaxRuntimeError:
      self.await_verdict()
      raise
    values = {int(key.rpartition('/')[2]): x for key, x in found.items()}
    return [json.loads(values[index]) for index in range(self._count)]

  # For the command line.

  def await_verdict(self) -> None:
    """Gives the watch time to find that another process is the cause.

    If it is, the process ends here. Call it when a collective has failed.
    """
    if not self.is_alone:
      self._silence = _SILENCE_AFTER_ERROR
      time.sleep(2 * _SILENCE_AFTER_ERROR)

  def leave(self, code: int, failure: str = '') -> None:
    """Ends a process of several that was stopped or has failed.

    It does not return, for a process that has left the others in the middle
    of a run cannot end in order. Alone, it does nothing.

    Args:
      code: The exit code.
      failure: What the other processes are to tell; '' for a stop.
    """
    if self.is_alone:
      return
    with self._condition:
      self._failure, self._code = failure or None, code
      self._left = True
    self._depart(code)

  def finish(self) -> None:
    """Parts from the other processes in order, when all is done."""
    if self.is_alone:
      return
    self.barrier('end')
    self._stop_threads()
    self._client = None
    jax.distributed.shutdown()

  def close(self) -> None:
    """Ends the threads and gives stderr back."""
    self._stop_threads()
    for end in (
        self._wake_read, self._wake_write, self._talk_read, self._talk_write
    ):
      os.close(end)
    if self._stderr is not None:
      self._stderr.close()

  # The thread, and what it shares with the signal handler.

  def start(self) -> None:
    """Starts the thread."""
    self._thread = threading.Thread(
        target=self._run, name='watch', daemon=True
    )
    self._thread.start()
    if self._client is not None:
      self._start_talking()

  def stop_thread(self) -> None:
    """Ends the thread and waits for it."""
    self._closing = True
    self._wake()
    if self._thread is not None:
      self._thread.join()
    self._thread = None

  @property
  def wake_fd(self) -> int:
    """Where the number of each signal is to be written."""
    return self._wake_write

  def on_signal(self, signum: int, frame: types.FrameType | None) -> None:
    """The handler: stops at once where no step has to be finished."""
    with self._condition:
      # the thread may have noted this same signal already: it says nothing here
      again, self._handled = self._handled and signum == signal.SIGINT, True
      own, self._again = self._again, False
      again = again and not own  # for that is still the first one
      self._request(signum)
      if self.is_ending:
        self.has_late_signal = True
        return
      if not again and self._stepping:
        return
      # what is raised within the hook is dropped without a hook
      is_dropped = self._dropped = self._is_in_hook(frame)
    if not is_dropped:  # the thread may have changed the other by now
      self.raise_signal()
    if not own:  # else the thread looks soon, when the hook may be left
      self._wake()

  def on_unraisable(self, unraisable, before_fn) -> None:
    """A hook of Python: has a signal raised anew where it was dropped.

    What is raised within a destructor or a callback of the garbage collection,
    of which jax has one, comes to nobody else.

    Args:
      unraisable: What `sys.unraisablehook` gets.
      before_fn: The hook before this one, for all else.
    """
    stops = (KeyboardInterrupt, SystemExit)
    if self._signum and isinstance(unraisable.exc_value, stops):
      self._dropped = True
      self._wake()
    else:
      before_fn(unraisable)

  def raise_signal(self) -> NoReturn:
    """Ends the main thread's work as the signal would have done."""
    if self._signum == signal.SIGINT:
      raise KeyboardInterrupt
    raise SystemExit(self.exit_code)

  def _is_in_hook(self, frame: types.FrameType | None) -> bool:
    """Whether `on_unraisable` is among the callers of a frame."""
    code = Watch.on_unraisable.__code__
    while frame is not None and frame.f_code is not code:
      frame = frame.f_back
    return frame is not None

  def _start_talking(self) -> None:
    """Starts the thread that calls the coordinator, which may not answer."""
    self._talker = threading.Thread(
        target=self._talk, name='talk', daemon=True
    )
    self._talker.start()

  def _stop_threads(self) -> None:
    """Ends both threads and waits for them."""
    self.stop_thread()
    if self._talker is not None:
      self._talker.join()
    self._talker = None

  def _talk(self) -> None:
    """Speaks with the other processes, again and again."""
    while not self._closing:
      self._exchange()
      select.select([self._talk_read], [], [], self._period())
      with contextlib.suppress(BlockingIOError):
        os.read(self._talk_read, 64)

  def _run(self) -> None:
    """Looks at signals, at the coordinator's silence and at the clock."""
    while not self._closing:
      begun = time.monotonic()
      select.select([self._wake_read], [], [], self._timeout())
      with contextlib.suppress(BlockingIOError):
        for signum in os.read(self._wake_read, 64):
          if signum in _SIGNALS:
            self._request(signum)
      with self._condition:
        if self._dropped and not self._again:
          self._dropped, self._again = False, True
          signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
      if self._parent is not None and self._parent != str(os.getppid()):
        self._parent = None
        os.kill(os.getpid(), signal.SIGTERM)
      if self._client is not None and not self._closing:
        now = time.monotonic()
        if now - begun > SILENCE / 4:  # this host, or this process, was asleep
          self._answered = now
        if now - self._answered > self._silence:
          self._lose_coordinator()
      late = self._deadline is not None and time.monotonic() > self._deadline
      if late and self._left:  # and waits for the others to read it
        os._exit(128 + self._signum)
      if late:
        self._end_late()

  def _timeout(self) -> float | None:
    """Seconds that the thread may sleep."""
    with self._condition:  # the handler turns the one into the other
      if self._again or self._dropped:
        return 0.01
    if self._client is not None:
      return self._period()
    if self._deadline is not None:
      return max(self._deadline - time.monotonic(), 0.0) + 0.01
    if self._parent is not None:
      return _PARENT_PERIOD
    return None

  def _period(self) -> float:
    """Seconds between two looks at the other processes."""
    return 0.2 if self._count <= 16 else 1.0

  def _wake(self) -> None:
    """Makes the threads look now."""
    for end in (self._wake_write, self._talk_write):
      with contextlib.suppress(OSError):  # full: it is awake already
        os.write(end, b'\0')

  def _request(self, signum: int) -> None:
    """Notes that the run is to stop; the first signal counts."""
    with self._condition:
      if self._signum:
        return
      self._signum = int(signum)
      self._frozen = [self._committed]
      self._deadline = time.monotonic() + self.grace
    self._wake()

  def _frozen_peers(self) -> list[list[int | None] | None]:
    """Where the others were asked to stop; None of one yet to say so."""
    others = (i for i in range(self._count) if i != self._index)
    return [self._peers.get(i, {}).get('frozen') for i in others]

  def _post(self) -> None:
    """Tells the others how this process is."""
    self._beat += 1
    with self._condition:
      status = dict(
          beat=self._beat,
          signum=self._signum,
          frozen=self._frozen,
          failure=self._failure,
          code=self._code,
          left=self._left,
      )
    self._client.key_value_set(
        f'{_PREFIX}/{self._index}', json.dumps(status), allow_overwrite=True
    )

  def _exchange(self) -> None:
    """Tells the others how this process is, and acts on how they are."""
    try:
      self._post()
      entries = self._client.key_value_dir_get(f'{_PREFIX}/')
    except jax.errors.JaxRuntimeError:
      if not self._closing and not self._left:
        self._lose_coordinator()
      return
    peers = {int(key.rpartition('/')[2]): json.loads(x) for key, x in entries}
    now = time.monotonic()
    asleep = now - self._looked > SILENCE / 4  # this host, or this process
    self._looked = self._answered = now
    for index in range(self._count):
      status = peers.get(index, {})
      beat, _ = self._heard.get(index, (-1, 0.0))
      if status.get('beat') != beat or asleep:
        self._heard[index] = (status.get('beat'), now)
    with self._condition:
      self._peers = peers
    if self._left or self._closing:
      return
    for index, status in peers.items():
      if status['failure'] and index != self._index:
        self._end(
            status['code'],
            f'process {index} of {self._count} {status["failure"]}',
        )
      if status['signum'] and not self._signum:
        self._request(status['signum'])
        if not self._stepping:
          hang_up = status['signum'] == signal.SIGHUP  # ignored here, perhaps
          signal.pthread_kill(
              threading.main_thread().ident,
              signal.SIGTERM if hang_up else status['signum'],
          )
    for index, (_, when) in self._heard.items():
      left = peers.get(index, {}).get('left')
      if now - when > self._silence and not left and index != self._index:
        died = f'has died, or its host: no sign of life for {now - when:.0f} s'
        self._failure = f'reports: process {index} {died}'
        self._end(1, f'process {index} of {self._count} {died}; {_CONTINUE}')

  def _lose_coordinator(self) -> NoReturn:
    """Ends the process after process 0 has gone."""
    self._left = self._lost = True  # nobody is there to be told
    if self._signum:  # and process 0 was asked, too
      self._end_late()
    self._end(
        1,
        f'process 0 of {self._count} has died, or cannot be reached any more;'
        f' {_CONTINUE}',
    )

  def _end_late(self) -> NoReturn:
    """Ends the process that was asked to stop and did not come to it."""
    name = signal.Signals(self._signum).name
    again = 'the same command' if self.is_alone else _CONTINUE
    if self.is_alone:
      again += ' continues the run'
    self._end(
        self.exit_code,
        f'stopped by {name} in the middle of its work: {again} from the last'
        ' checkpoint',
    )

  def _end(self, code: int, message: str) -> NoReturn:
    """Ends the process with a sentence, whatever the main thread does."""
    if not self._ending.acquire(blocking=False):
      threading.Event().wait()  # another thread is saying it
    name = 'error' if code < 128 else 'interrupted'
    if not self.is_alone:
      name = f'{name} (process {self._index})'
    stderr = 2 if self._stderr is None else self._stderr.real
    with contextlib.suppress(OSError):
      os.write(stderr, f'{name}: {message}\n'.encode())
    if self._client is not None and not self._left:
      if code < 128:  # a stop is no failure: the others have their own
        self._failure = self._failure or f'ended: {message}'
        self._code = code
      self._left = True
    self._depart(code)

  def _depart(self, code: int) -> NoReturn:
    """Says goodbye to the others, process 0 last, and ends the process."""
    with contextlib.suppress(OSError, ValueError):
      sys.stderr.flush()
      sys.stdout.flush()
    if self._client is not None and not self._lost:
      seconds = 5.0
      if self._deadline is not None:
        seconds = max(self._deadline - time.monotonic(), 1.0)
      until = time.monotonic() + seconds
      # a coordinator that does not answer keeps nobody here
      limit = threading.Timer(seconds + 1.0, os._exit, (code,))
      limit.daemon = True
      limit.start()
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        self._post()
        # With process 0 goes the coordinator: the others read it first.
        while self._index == 0 and time.monotonic() < until:
          entries = self._client.key_value_dir_get(f'{_PREFIX}/')
          if all(json.loads(status)['left'] for _, status in entries):
            break
          time.sleep(0.05)
    if self._stderr is not None and not self._lost:
      self._stderr.close()
    os._exit(code)


def _wake_pipe() -> tuple[int, int]:
  """The ends of a pipe that nobody waits at."""
  ends = os.pipe()
  for end in ends:
    os.set_blocking(end, False)
  return ends


_active: Watch | None = None  # signal handlers belong to the process, too


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
  """Watches signals and the other processes of the run while it is open.

  Within another, it is that one. Signals raise KeyboardInterrupt (SIGINT) or
  SystemExit (SIGTERM, SIGHUP unless it is ignored, as by `nohup`) in the main
  thread, at once or, in `Watch.stepping`, between two steps; a process that is
  still there `Watch.grace` seconds later is ended.

  Yields:
    The watch.
  """
  global _active
  if _active is not None:
    yield _active
    return
  own = Watch()
  if threading.current_thread() is not threading.main_thread():
    yield own  # handlers belong to the main thread
    own.close()
    return
  before = {
      signum: signal.signal(signum, own.on_signal)
      for signum in _SIGNALS
      if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN
  }
  hook_before = sys.unraisablehook
  # no lambda: a signal within its frame would not be known as in the hook
  sys.unraisablehook = functools.partial(
      own.on_unraisable, before_fn=hook_before
  )
  wake_before = signal.set_wakeup_fd(own.wake_fd, warn_on_full_buffer=False)
  own.start()
  _active = own
  try:
    yield own
  finally:
    own.is_ending = True  # first: what a signal raises would skip the rest
    own.stop_thread()  # which sends signals, so before the handlers go
    _active = None
    signal.set_wakeup_fd(wake_before)
    sys.unraisablehook = hook_before
    for signum, handler in before.items():
      signal.signal(signum, handler)
    own.close()
  if own.has_late_signal:
    own.raise_signal()


class _NativeStderr:
  """Passes on what libraries print, but for what a death makes them print.

  When process 0 dies, the client of `jax.distributed` prints a stack trace and
  aborts at once. Here the trace is held back and the abort is put off by
  seconds, in which a sentence can be said instead.
  """

  def __init__(self, on_fatal):
    self.real = os.dup(2)
    self._on_fatal = on_fatal
    self._read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)
    self._before = sys.stderr
    sys.stderr = os.fdopen(
        os.dup(self.real), 'w', buffering=1, errors='backslashreplace'
    )
    libc = ctypes.CDLL(None)
    # abort() calls sleep(SIGABRT), 6 seconds, and then goes on.
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
    self._thread = threading.Thread(
        target=self._run, name='stderr', daemon=True
    )
    self._thread.start()

  def close(self) -> None:
    """Passes on what is left and gives stderr back."""
    if threading.current_thread() is threading.main_thread():
      signal.signal(signal.SIGABRT, signal.SIG_DFL)
    sys.stderr.flush()
    sys.stderr = self._before
    os.dup2(self.real, 2)  # closes the end that is written to
    if threading.current_thread() is not self._thread:
      self._thread.join(1.0)

  def _run(self) -> None:
    """Reads lines until the other end is closed."""
    rest = b''
    while data := os.read(self._read, 1 << 16):
      *lines, rest = (rest + data).split(b'\n')
      for line in lines:
        if _FATAL.match(line):
          self._on_fatal()
        if not _NOISE.match(line):
          os.write(self.real, line + b'\n')
    if rest:
      os.write(self.real, rest)
