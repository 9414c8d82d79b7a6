"""The processes of a run: how they join, agree and end together.

A run has one process, or several that join through `jax.distributed`. Process 0
holds jax's coordinator, and it alone writes files. Through the coordinator's
key-value store, each process tells the others that it lives, and whether it was
asked to stop or has failed. So one signal to one process stops all at the same
step, and an error of one process is the error of all. When a process dies, the
others miss its signs of life and end with a sentence. Only where process 0 is
killed does jax itself end the others, at once and in its own words.
"""

import collections
import contextlib
import json
import os
import signal
import sys
import threading
import time
from typing import Any

import jax
from jax._src import distributed  # its key-value store has no public name
from jax.experimental import multihost_utils
import numpy as np

from ldc_vae import errors
from ldc_vae.runtime import rendezvous
from ldc_vae.runtime import signals

# Seconds without a heartbeat after which jax ends all processes.
HEARTBEAT = 50

# The part of them without a sign of life after which the others end. They must
# be first, and jax sends a heartbeat only every half of its seconds.
_SILENCE = 0.3
_INITIALIZATION = 60  # seconds in which jax joins those that have met
_FAREWELL = 5.0  # seconds in which the others read why a process has failed
# Seconds from a farewell to the end of a process, on a busy machine.
_LAST_WORDS = 0.5
_CHUNK = 1 << 26  # bytes of one broadcast
_PREFIX = 'ldc_vae/processes'
_VARIABLE = 'LDC_VAE_DISTRIBUTED'


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
    num_processes: The number of processes.
    process_id: Which of them this is.

  Raises:
    JoinError: No cluster was found, or not all processes came in time.
    UserError: LDC_VAE_DISTRIBUTED is neither 0 nor 1.
  """
  asked = os.environ.get(_VARIABLE) or '0'
  if asked not in ('0', '1'):
    raise errors.UserError(
      f'{_VARIABLE}={asked} is neither 0 nor 1; set it to 1 where jax is to'
      ' find the processes of the run itself'
    )
  if coordinator_address is None and asked == '0':
    return
  # jax's own service knows SIGTERM only, and no Python code sees it any more.
  jax.config.update('jax_enable_preemption_service', False)
  if coordinator_address is None:
    arguments: dict[str, Any] = {}
    failure = f'{_VARIABLE}=1, but jax found no cluster to join'
    remedy = (
      'unset it, or give --coordinator_address, --num_processes and'
      ' --process_id'
    )
  else:
    assert num_processes is not None and process_id is not None
    rendezvous.meet(coordinator_address, num_processes, process_id)
    arguments = dict(
      coordinator_address=coordinator_address,
      num_processes=num_processes,
      process_id=process_id,
      initialization_timeout=_INITIALIZATION,
    )
    failure = (
      f'--coordinator_address={coordinator_address}: process {process_id} of'
      f' {num_processes} could not join the others'
    )
    remedy = (
      'start all of them again, with the address of process 0 and a port that'
      ' is free there'
    )
  try:
    jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT)
  except (RuntimeError, ValueError, OSError) as error:
    reason = ' '.join(str(error).split())[:200]
    raise rendezvous.JoinError(f'{failure} ({reason}); {remedy}') from error


def is_first() -> bool:
  """Returns whether this is process 0, which writes the files."""
  return jax.process_index() == 0


def is_alone() -> bool:
  """Returns whether the run has this process only."""
  state = distributed.global_state
  return state.client is None or state.num_processes == 1


def barrier(name: str, value: Any = None) -> list[Any]:
  """Waits until every process has come here.

  Unlike a collective, it waits for as long as all of them live.

  Args:
    name: The name of the place; the same on every process.
    value: Anything that JSON can hold.

  Returns:
    The values of all processes, in their order.
  """
  if is_alone():
    return [value]
  state = distributed.global_state
  assert state.client is not None  # not alone
  _calls[name] += 1
  place = f'{_PREFIX}_at/{name}/{_calls[name]}/'
  try:
    state.client.key_value_set(f'{place}{state.process_id}', json.dumps(value))
    while True:
      values = _read(place)
      if len(values) == state.num_processes:
        return [values[index] for index in range(state.num_processes)]
      time.sleep(0.1)
  except jax.errors.JaxRuntimeError:
    await_verdict()
    raise


def meet(name: str) -> None:
  """Waits for every process, then connects their devices.

  Devices give each other 30 seconds at their first collective, and one process
  may load or compile for longer than another. Later collectives wait longer.

  Args:
    name: The name of the place; the same on every process.
  """
  barrier(name)
  if jax.process_count() > 1:
    sum_fn = jax.pmap(lambda x: jax.lax.psum(x, 'devices'), axis_name='devices')
    jax.block_until_ready(sum_fn(np.zeros(jax.local_device_count())))


def broadcast(data: bytes) -> bytes:
  """Returns process 0's bytes on every process."""
  size = np.array(divmod(len(data), _CHUNK), np.int32)
  num_chunks, rest = multihost_utils.broadcast_one_to_all(size).tolist()
  parts: list[bytes] = []
  for size in [_CHUNK] * num_chunks + [rest] * bool(rest):
    part = np.zeros(size, np.uint8)
    if is_first():
      part = np.frombuffer(data, np.uint8, size, _CHUNK * len(parts))
    part = multihost_utils.broadcast_one_to_all(part)
    parts.append(np.asarray(part).tobytes())
  return b''.join(parts)


def connect(watch: signals.Watch) -> None:
  """Shares stops and failures with the other processes; call it after `join`.

  Args:
    watch: It learns of the signals of all processes.
  """
  global _peers
  if not is_alone() and _peers is None:
    _peers = _Peers(watch)


def await_verdict() -> None:
  """Waits until jax would know that another process has died.

  If one has, this process ends here. Call it when a collective has failed.
  """
  if not is_alone():
    time.sleep(HEARTBEAT + 5.0)


def leave(code: int, failure: str = '') -> None:
  """Ends a process of several that was stopped or has failed.

  It does not return: a process that leaves the others in the middle of a run
  cannot end in order. Alone, it does nothing.

  Args:
    code: The exit code.
    failure: What the other processes are to say of it; '' for a stop.
  """
  if _peers is not None:
    with contextlib.suppress(OSError, ValueError):
      sys.stdout.flush()
      sys.stderr.flush()
    _peers.leave(code, failure)


def finish() -> None:
  """Parts from the other processes in order, when all work is done."""
  global _peers
  if not is_alone():
    barrier('end')
    if _peers is not None:
      _peers.close()
      _peers = None
    jax.distributed.shutdown()


class _Peers:
  """Tells the other processes how this one is, and acts on how they are."""

  def __init__(self, watch):
    state = distributed.global_state
    self._client = state.client
    self._index, self._count = state.process_id, state.num_processes
    self._period = 0.2 if self._count <= 16 else 1.0  # seconds
    self._statuses = {}  # by process
    self._clock = 0.0  # seconds of listening
    self._beat, self._answered = 0, 0.0
    # process -> (its last beat, when it was new); all have just joined
    self._heard = dict.fromkeys(range(self._count), (-1, 0.0))
    self._silent = None  # a process that has died
    self._failure, self._code, self._has_left = '', 0, False
    self._watch = watch
    watch.name = f' (process {self._index})'
    watch.others_fn, watch.exit_fn = self._last_steps, self._exit
    self._is_closed = threading.Event()
    self._threads = [
      threading.Thread(target=each, name='peers', daemon=True)
      for each in (self._run, self._listen)
    ]
    for thread in self._threads:
      thread.start()

  def leave(self, code, failure):
    """See the function `leave`."""
    self._code, self._failure = code, failure
    self._watch.end(code)

  def close(self):
    """Ends the threads, and leaves the watch to itself."""
    self._is_closed.set()
    for thread in self._threads:
      thread.join()
    self._watch.others_fn, self._watch.exit_fn = list, os._exit

  def _last_steps(self):
    """The last step of each other process; None before it is told to stop."""
    others = (i for i in range(self._count) if i != self._index)
    return [self._statuses.get(i, {}).get('last_step') for i in others]

  def _run(self):
    """Exchanges statuses with the others, again and again."""
    while not self._is_closed.wait(self._period):
      with contextlib.suppress(jax.errors.JaxRuntimeError):  # jax ends us then
        self._post()
        self._statuses = _read(f'{_PREFIX}/')
        self._hear()
        if not self._has_left:
          self._act()

  def _hear(self):
    """Notes which processes have given a new sign of life."""
    self._answered = self._clock
    for index, status in self._statuses.items():
      if self._heard[index][0] != status['beat']:
        self._heard[index] = status['beat'], self._answered

  def _listen(self):
    """Ends this process where another one gives no sign of life.

    It has a thread of its own, because a call to a coordinator that does not
    answer may block. Time in which no thread of this process runs, as inside a
    library, hardly counts: the others may have spoken meanwhile.
    """
    patience = _SILENCE * HEARTBEAT
    last = time.monotonic()
    while not self._is_closed.wait(self._period):
      now = time.monotonic()
      self._clock += min(now - last, 0.2 * patience)
      last = now
      limit = self._clock - patience
      silent = [i for i, (_, when) in list(self._heard.items()) if when < limit]
      if self._answered < limit:
        silent = [0]  # without the coordinator no process is heard
      if silent and not self._has_left:
        self._silent = silent[0]
        self._watch.end(
          1,
          f'process {self._silent} of {self._count} has died, or does not'
          ' answer; read what it printed, and start all processes again',
        )

  def _post(self):
    """Tells the others how this process is."""
    signum = self._watch.signum
    self._beat += 1
    status = dict(
      beat=self._beat,
      signum=signum,
      last_step=self._watch.last_step if signum else None,
      failure=self._failure,
      code=self._code,
      has_left=self._has_left,
    )
    self._client.key_value_set(
      f'{_PREFIX}/{self._index}', json.dumps(status), allow_overwrite=True
    )

  def _act(self):
    """Ends with a process that has failed, stops with one that stops."""
    for index, status in self._statuses.items():
      if status['failure'] and index != self._index:
        self._watch.end(
          status['code'],
          f'process {index} of {self._count} {status["failure"]}',
        )
      if status['signum'] and not self._watch.signum:
        is_interrupt = status['signum'] == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT if is_interrupt else signal.SIGTERM)

  def _exit(self, code):
    """Ends the process; process 0, which holds the coordinator, ends last."""
    if self._silent == 0:  # no process can read a farewell
      os._exit(code)
    seconds = _FAREWELL
    if self._watch.signum:
      seconds = max(self._watch.deadline + 1.0 - time.monotonic(), 0.5)
    limit = threading.Timer(seconds, os._exit, (code,))
    limit.daemon = True
    limit.start()  # for the coordinator may not answer
    self._has_left = True
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._post()
      while self._index == 0 and not all(
        status['has_left'] or index == self._silent
        for index, status in _read(f'{_PREFIX}/').items()
      ):
        time.sleep(0.05)
      if self._index == 0:
        time.sleep(_LAST_WORDS)
    os._exit(code)


def _read(place: str) -> dict[int, Any]:
  """Returns what each process has posted under a name that ends in '/'."""
  client = distributed.global_state.client
  assert client is not None  # not alone
  found = client.key_value_dir_get(place)
  return {int(key.rpartition('/')[2]): json.loads(x) for key, x in found}


_calls: collections.Counter[str] = collections.Counter()  # of each barrier
_peers: _Peers | None = None
