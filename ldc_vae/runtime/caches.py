"""Bounds the size of a cache: what was used longest ago is deleted."""

from collections.abc import Iterable
import contextlib
import fcntl
import os
import pathlib

from ldc_vae.runtime import durable

_held: dict[pathlib.Path, int] = {}  # descriptors, locked until the end


def hold(entry: pathlib.Path) -> None:
  """Notes that this process uses an entry, which then stays until its end."""
  with contextlib.suppress(OSError):  # of another user, or without locks
    descriptor = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
    before = _held.pop(entry, None)
    _held[entry] = descriptor
    if before is not None:
      os.close(before)
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.utime(entry)


def drop_oldest(entries: Iterable[pathlib.Path], max_bytes: int) -> None:
  """Deletes the entries used longest ago, if all together are too large.

  The newest one stays, and what a process holds.

  Args:
    entries: Files, or folders of files.
    max_bytes: The size that may stay.
  """
  found = []
  for path in entries:
    with contextlib.suppress(OSError):  # another process has deleted it
      status = path.lstat()
      parts, used = [path], max(status.st_atime, status.st_mtime)
      if path.is_dir():  # which is also read where its size is asked for
        parts, used = list(path.iterdir()), status.st_mtime
      num_bytes = sum(part.lstat().st_size for part in parts)
      found.append((used, num_bytes, path))
  size = sum(num_bytes for _, num_bytes, _ in found)
  for _, num_bytes, path in sorted(found)[:-1]:
    if size > max_bytes and _delete(path):
      size -= num_bytes


def _delete(entry: pathlib.Path) -> bool:
  """Deletes an entry unless a process holds it; returns whether it did."""
  try:
    descriptor = os.open(entry, os.O_RDONLY | os.O_CLOEXEC)
  except OSError:
    return False
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    durable.remove(entry)
  except OSError:
    return False
  finally:
    os.close(descriptor)
  return True
