"""The meeting of the processes of a run, before jax joins them.

Process 0 listens on the coordinator's port; the others say there who they are.
Once all are there, each of them goes on to jax, whose coordinator then takes
the port. A port in use, a missing process or one that was started twice gives
one sentence. jax itself would wait in silence for five minutes and then crash.

Whoever reaches the port can take part: it belongs on a trusted network.
"""

from collections.abc import Iterable
import contextlib
import errno
import json
import os
import select
import socket
import time

from absl import logging

from ldc_vae import errors

VARIABLE = 'LDC_VAE_JOIN_SECONDS'
_SECONDS = 300.0  # that are waited by default
_EVERY = 15.0  # seconds between lines that say who is waited for
_LONGEST = 1000  # bytes of a message


class JoinError(OSError):
  """The processes of the run cannot find each other."""


def meet(address: str, count: int, index: int) -> None:
  """Waits until all processes of the run have come.

  Args:
    address: 'HOST:PORT' of process 0.
    count: The number of processes.
    index: Which of them this is.

  Raises:
    JoinError: Not all processes came in time, or they do not fit each other.
    UserError: LDC_VAE_JOIN_SECONDS is no number of seconds.
  """
  host, _, port = address.rpartition(':')
  wait = _Wait(f'--coordinator_address={address}')
  if index == 0:
    with _listen(int(port), wait) as listener:
      _gather(listener, count, wait)
  else:
    _call(host.strip('[]'), int(port), count, index, wait)


class _Wait:
  """The time that is waited, and what is said meanwhile.

  Attributes:
    name: The flag and its value, for messages.
  """

  def __init__(self, name: str):
    self.name = name
    text = os.environ.get(VARIABLE) or str(_SECONDS)
    self._seconds = 0.0
    with contextlib.suppress(ValueError):
      self._seconds = float(text)
    if not 0 < self._seconds < float('inf'):
      raise errors.UserError(
        f'{VARIABLE}={text}: no number of seconds; use one, as {_SECONDS:.0f}'
      )
    self._start = time.monotonic()
    self._said = 0.0

  def goes_on(self, what: str) -> bool:
    """Returns whether there is time left; says now and then what for."""
    passed = time.monotonic() - self._start
    if passed - self._said >= _EVERY:
      self._said = passed
      logging.info(
        '%s: waiting for %s, %.0f of %.0f s',
        self.name,
        what,
        passed,
        self._seconds,
      )
    return passed < self._seconds

  def error(self, what: str, remedy: str) -> JoinError:
    """Returns the error for processes that have not come."""
    return JoinError(
      f'{self.name}: {what} within {self._seconds:.0f} s; {remedy}'
      f' ({VARIABLE} sets the seconds)'
    )


# Process 0.


def _listen(port: int, wait: _Wait) -> socket.socket:
  """Binds the port, as jax does afterwards."""
  if socket.has_dualstack_ipv6():
    with contextlib.suppress(OSError):  # a host may have IPv6 switched off
      return socket.create_server(
        ('', port), family=socket.AF_INET6, dualstack_ipv6=True
      )
  try:
    return socket.create_server(('', port))
  except OSError as error:
    why = error.strerror or str(error)
    remedy = 'give another port, to all processes'
    if error.errno == errno.EADDRINUSE:
      why = 'another program, or another process 0, uses it'
      remedy += ', or end what uses it'
    raise JoinError(
      f'{wait.name}: port {port} of this host cannot be had ({why}); {remedy}'
    ) from error


def _gather(listener: socket.socket, count: int, wait: _Wait) -> None:
  """Waits for the other processes, and tells them to go on."""
  members: dict[socket.socket, int | None] = {}  # None: it has not said
  with contextlib.ExitStack() as stack:
    missing = set(range(1, count))
    while missing:
      names = _names(missing)
      if not wait.goes_on(names):
        error = wait.error(
          f'{names} of {count} did not come',
          'start every process, with this address, which must be that of the'
          ' host of process 0',
        )
        _answer(members, str(error))
        raise error
      for ready in select.select([listener, *members], [], [], 1.0)[0]:
        if ready is listener:
          members[stack.enter_context(listener.accept()[0])] = None
          continue
        try:
          said = _read_index(ready, count, members.values(), wait)
        except JoinError as error:
          _answer(members, str(error))
          raise
        members[ready] = said
        if said is None:  # it has gone, or is of another program
          del members[ready]
          ready.close()
      missing = set(range(1, count)) - set(members.values())
    _answer(members, '')


def _read_index(
  member: socket.socket,
  count: int,
  known: Iterable[int | None],
  wait: _Wait,
) -> int | None:
  """Returns which process has called; None if it is none of the run.

  Raises:
    JoinError: It does not fit the run.
  """
  try:
    said = json.loads(member.recv(_LONGEST))
    index, its_count = int(said['process']), int(said['count'])
  except (OSError, ValueError, TypeError, KeyError, RecursionError):
    return None
  if its_count != count:
    raise JoinError(
      f'{wait.name}: process {index} was started with --num_processes='
      f'{its_count}, process 0 with {count}; give all the same number'
    )
  if index in known or index == 0:
    raise JoinError(
      f'{wait.name}: process {index} of {count} was started twice; give each'
      ' process its own --process_id'
    )
  return index


def _answer(members: Iterable[socket.socket], error: str) -> None:
  """Tells the processes to go on, or why they cannot."""
  for member in members:
    with contextlib.suppress(OSError):
      member.sendall(json.dumps({'error': error}).encode())


def _names(indices: Iterable[int]) -> str:
  """Returns 'process 1', or 'processes 1, 2'."""
  numbers = ', '.join(map(str, sorted(indices)))
  return f'process{"es" * ("," in numbers)} {numbers}'


# The other processes.


def _call(host: str, port: int, count: int, index: int, wait: _Wait) -> None:
  """Says who this process is, and waits for the answer of process 0."""
  hello = json.dumps({'process': index, 'count': count}).encode()
  why = 'it has not started'
  while wait.goes_on('process 0'):
    try:
      with socket.create_connection((host, port), timeout=2.0) as connection:
        connection.sendall(hello)
        answer = _receive(connection, wait)
        error = json.loads(answer)['error']
        if error:
          raise JoinError(error)
        return
    except JoinError:
      raise
    except OSError as failure:
      why = failure.strerror or str(failure)
    except (ValueError, TypeError, KeyError, RecursionError):
      why = 'what answers is another program, or a run that has begun'
    time.sleep(0.5)
  raise wait.error(
    f'process 0 did not answer process {index} of {count} ({why})',
    'start process 0 on that host, and give all the same address',
  )


def _receive(connection: socket.socket, wait: _Wait) -> bytes:
  """Returns what process 0 answers when all have come."""
  while True:
    with contextlib.suppress(TimeoutError):
      return connection.recv(_LONGEST)
    if not wait.goes_on('the other processes'):
      raise TimeoutError('it waits for others')
