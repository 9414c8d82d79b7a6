"""The lock that keeps a second process out of a workdir."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import io
import os
import pathlib
import socket
import time

from absl import logging
import jax

from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from ldc_vae.runtime import outputs

LOCK_NAME = '.lock'
EVALUATION_LOCK_NAME = '.evaluation.lock'

# What the system says where files cannot be locked, as on some cluster disks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class LockedError(OSError):
  """Another process is using the workdir."""


@contextlib.contextmanager
def lock_workdir(
  path: files.Path, name: str = LOCK_NAME, *, patient: bool = False
) -> Iterator[None]:
  """Keeps other processes out of a workdir while the block runs.

  The operating system holds the lock, so that it ends with the process, however
  that ends. With several processes, process 0 alone takes it.

  Args:
    path: The workdir; made if it is missing.
    name: The name of the lock file. Locks of two names are independent.
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
  is_new = not path.exists()
  with contextlib.ExitStack() as stack:
    try:
      durable.make_folder(path)
      file = stack.enter_context(_open(path / name, patient))
    except LockedError:
      raise
    except OSError as error:
      raise files.file_error(path, error) from error
    for folder in (path, path / outputs.FIGURES):
      files.remove_unfinished(folder)
    try:
      yield
    finally:
      with contextlib.suppress(OSError):
        if file is not None:  # remove it while the name is still ours
          (path / name).unlink()
        if is_new:
          path.rmdir()  # where the block left nothing


@contextlib.contextmanager
def _open(path: pathlib.Path, patient: bool) -> Iterator[io.FileIO | None]:
  """Yields the locked file, or None where files cannot be locked."""
  while True:
    descriptor = durable.opener(path, os.O_RDWR | os.O_CREAT)
    with open(descriptor, 'r+b', buffering=0) as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        holder = file.read().decode(errors='replace') or 'another process'
      except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in _NO_LOCKS:
          raise
        logging.warning(
          'workdir %s is not protected: its files cannot be locked (%s). Make'
          ' sure that no other process uses it',
          path.parent,
          error.strerror,
        )
        yield None
        return
      else:
        if not _is_at(path, file):  # the holder before us has removed it
          continue
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}'.encode())
        yield file
        return
    if not patient:
      raise _locked_error(path, holder)
    logging.log_every_n_seconds(
      logging.INFO, 'waiting: %s is in use by %s', 60, path.parent, holder
    )
    time.sleep(1.0)


def _is_at(path: pathlib.Path, file: io.FileIO) -> bool:
  """Returns whether an open file is the one that has the name `path`."""
  try:
    return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
  except FileNotFoundError:
    return False


def _locked_error(path: pathlib.Path, holder: str) -> LockedError:
  """Returns the sentence to raise for a workdir in use."""
  if path.name == EVALUATION_LOCK_NAME:
    return LockedError(
      f'workdir {path.parent} is being evaluated by {holder}; wait for it or'
      ' stop it, then give this command again'
    )
  return LockedError(
    f'workdir {path.parent} is in use by {holder}; wait for it or stop it, or'
    ' use another --workdir'
  )
