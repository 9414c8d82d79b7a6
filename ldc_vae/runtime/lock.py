"""The lock that keeps a second process out of a workdir."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import io
import json
import os
import pathlib
import re
import socket
import threading
import time
from typing import Any, BinaryIO

from absl import logging
import jax

from ldc_vae.runtime import files

LOCK_NAME = '.lock'
EVALUATION_LOCK_NAME = '.evaluation.lock'

# Seconds between two signs of life in a lock.
BEAT = 5.0
# After so many without one, its holder on another host counts as dead.
_MISSED_BEATS = 4

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# What `open_atomically` writes to, and a lock; other hidden files are not ours.
_LEFT_BEHIND = re.compile(
    rf'\..+\.[0-9a-f]{{12}}\.tmp|{re.escape(EVALUATION_LOCK_NAME)}'
)


class LockedError(OSError):
  """Another process is using the workdir."""


@contextlib.contextmanager
def lock_workdir(
    path: files.Path, name: str = LOCK_NAME, *, patient: bool = False
) -> Iterator[None]:
  """Keeps other processes out of a workdir while the block runs.

  The lock is held by the operating system and ends with the process, however
  that ends. Not every file system of several hosts passes it on to the others;
  so the holder also writes the time into the lock file, and who finds there the
  name of another host waits for some seconds whether it goes on.

  Args:
    path: The workdir; made if it is missing.
    name: Of the lock file; locks of two names do not keep each other out.
    patient: Wait for another process that holds it instead of raising.

  Yields:
    Nothing.

  Raises:
    LockedError: If another process holds it, unless `patient`.
    FileError: If the workdir cannot be made or written to.
  """
  path = pathlib.Path(path)
  if jax.process_index() != 0:
    yield
    return
  lock = path / name
  is_new = not path.exists()
  try:
    path.mkdir(parents=True, exist_ok=True)
    file = _open_lock_when_free(lock) if patient else _open_lock(lock)
  except OSError as error:
    if isinstance(error, LockedError):
      raise
    raise files.file_error(path, error) from error
  try:
    for left in path.glob('.*') if file is not None else ():
      # of killed processes; an evaluation beside this one locks its own
      if (
          _LEFT_BEHIND.fullmatch(left.name)
          and left.is_file()
          and not _is_locked(left)
      ):
        left.unlink(missing_ok=True)
    with _beating(file):
      yield
  finally:
    if file is not None:
      with contextlib.suppress(OSError):
        lock.unlink()  # before it is released: the name is still ours
      file.close()
    if is_new:
      with contextlib.suppress(OSError):
        path.rmdir()  # where nothing came of it


def _is_locked(path: pathlib.Path) -> bool:
  """Whether somebody holds a lock of a file."""
  try:
    with open(path, 'r+b') as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:  # gone meanwhile, or not ours
    return False
  return False


def _open_lock_when_free(path: pathlib.Path) -> io.FileIO | None:
  """As `_open_lock`, which it tries until nobody else has the file."""
  is_told = False
  while True:
    try:
      return _open_lock(path)
    except LockedError as error:
      if not is_told:
        logging.info('waiting: %s', str(error).partition(';')[0])
      is_told = True
    time.sleep(1.0)


def _open_lock(path: pathlib.Path) -> io.FileIO | None:
  """Returns the locked file, or None where files cannot be locked."""
  while True:
    file = open(path, 'r+b', buffering=0, opener=_open_or_create)
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      holder = _read_holder(file)
      file.close()
      raise _locked_error(path, holder) from error
    except OSError as error:
      file.close()
      path.unlink(missing_ok=True)
      if error.errno not in _NO_LOCKS:
        raise
      logging.warning(
          'workdir %s is not protected: its files cannot be locked (%s). Make'
          ' sure that no other process uses it', path.parent, error.strerror,
      )
      return None
    with contextlib.suppress(FileNotFoundError):
      holder = _read_holder(file)
      if _is_alive_elsewhere(path, holder):
        file.close()
        raise _locked_error(path, holder)
      # The holder before us may have removed the file that we had opened.
      if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
        file.truncate(0)
        _write_holder(file)
        return file
    file.close()


def _open_or_create(path: str, mode: int) -> int:
  """An opener that makes a missing file and leaves another as it is."""
  return os.open(path, mode | os.O_CREAT, 0o666)


def _write_holder(file: io.FileIO) -> None:
  """Writes that this process holds the lock file, now."""
  who = {'pid': os.getpid(), 'host': socket.gethostname(), 'boot': _boot_id()}
  content = json.dumps({**who, 'time': time.time_ns()}).encode()
  file.seek(0)
  file.write(content)  # of the same length each time
  os.fsync(file.fileno())


def _boot_id() -> str:
  """What tells machines apart that bear one name, as pods do."""
  try:
    path = pathlib.Path('/proc/sys/kernel/random/boot_id')
    return path.read_text(encoding='ascii').strip()
  except OSError:  # not on Linux
    return ''


def _read_holder(file: BinaryIO) -> dict[str, Any] | None:
  """Returns what a lock file says; None where it says nothing."""
  try:
    file.seek(0)
    who = json.loads(file.read())
    return who if {'pid', 'host', 'time'} <= who.keys() else None
  except (OSError, ValueError, AttributeError):
    return None


def _is_alive_elsewhere(
    path: pathlib.Path, holder: dict[str, Any] | None
) -> bool:
  """Whether the holder is on another host and goes on writing."""
  own = (socket.gethostname(), _boot_id())
  if holder is None or (holder['host'], holder.get('boot', own[1])) == own:
    return False  # this host's lock is enough
  logging.info(
      'process %s on %s has left %s: looking whether it is alive',
      holder['pid'], holder['host'], path,
  )
  deadline = time.monotonic() + _MISSED_BEATS * BEAT
  while time.monotonic() < deadline:
    time.sleep(BEAT / 2)
    with open(path, 'rb') as file:  # anew, as network file systems need it
      if _read_holder(file) != holder:
        return True
  return False


@contextlib.contextmanager
def _beating(file: io.FileIO | None) -> Iterator[None]:
  """Writes into the lock file now and then while the block runs."""
  if file is None:
    yield
    return
  done = threading.Event()

  def beat():
    while not done.wait(BEAT):
      with contextlib.suppress(OSError):  # a full disk is told of elsewhere
        _write_holder(file)

  thread = threading.Thread(target=beat, name='lock', daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()


def _locked_error(
    path: pathlib.Path, holder: dict[str, Any] | None
) -> LockedError:
  """Returns the sentence to raise for a workdir in use."""
  who = 'another process'  # which has only just begun
  if holder is not None:
    who = f'process {holder["pid"]} on {holder["host"]}'
  if path.name == EVALUATION_LOCK_NAME:
    return LockedError(
        f'workdir {path.parent} is being evaluated by {who}; wait for it or'
        ' stop it, then give this command again'
    )
  return LockedError(
      f'workdir {path.parent} is in use by {who}; wait for it or stop it, or'
      ' use another --workdir'
  )
