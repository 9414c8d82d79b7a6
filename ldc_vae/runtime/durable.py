"""Writes files and folders that outlast a power cut, and follows no links.

A system may write a rename to the disk before the content of what is renamed,
and a deletion before both. So `replace` waits for the content first and for the
folder afterwards; only then may anything older be deleted.
"""

import concurrent.futures
import contextlib
import errno
import os
import pathlib
import shutil
import stat

REPLACED = '.replaced'  # ends the name of a folder that is being replaced
DELETED = '.deleted'  # and of one that is being deleted

# Errors of systems that cannot sync folders, as on some network disks.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class FileError(OSError):
  """A file of the run cannot be read or written."""

  def __init__(self, message: str, number: int | None = None):
    super().__init__(message)  # no '[Errno 28]' before the sentence
    self.errno = number


def opener(path: str | os.PathLike[str], flags: int) -> int:
  """An `opener` for `open` that follows no link and opens regular files only.

  A folder that was copied from elsewhere may hold links to files of the user.

  Args:
    path: The file.
    flags: As of `os.open`.

  Returns:
    A file descriptor.

  Raises:
    FileError: There is a link, a pipe or a device of this name.
  """
  # not blocking: opening a pipe would wait for its reader
  flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
  try:
    descriptor = os.open(path, flags, 0o666)
  except OSError as error:
    if error.errno not in (errno.ELOOP, errno.ENXIO):
      raise
    raise _not_regular(path) from error
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise _not_regular(path)
  return descriptor


def _not_regular(path: str | os.PathLike[str]) -> FileError:
  """The error for a link, a pipe or a device."""
  return FileError(
    f'{os.fspath(path)} is a link or no regular file; move it away',
    errno.ELOOP,
  )


def refuse_link(folder: pathlib.Path) -> None:
  """Raises if a folder that we write to is a link to another folder."""
  if folder.is_symlink():
    raise FileError(
      f'{folder} is a link to another folder; move it away', errno.ELOOP
    )


def sync(path: str | os.PathLike[str]) -> None:
  """Waits until a file's content, or a folder's names, are on the disk."""
  try:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
  except PermissionError:
    if os.path.isdir(path):  # one that may be written to, but not read
      return
    raise
  try:
    os.fsync(descriptor)
  except OSError as error:
    if not (os.path.isdir(path) and error.errno in _NO_SYNC):
      raise
  finally:
    os.close(descriptor)


def make_folder(path: pathlib.Path) -> None:
  """Makes a folder and those above it, if they are missing."""
  missing = [each for each in (path, *path.parents) if not each.exists()]
  path.mkdir(parents=True, exist_ok=True)
  for each in missing:
    sync(each.parent)


def replace(temporary: pathlib.Path, path: pathlib.Path) -> None:
  """Puts a finished file or folder in the place of `path`.

  A folder takes the place of whatever has the name, which is deleted last;
  `recover` mends what a killed process has left of that.

  Args:
    temporary: Beside `path`. All files in it are closed, or flushed.
    path: The name that it gets.
  """
  is_folder = temporary.is_dir()
  if is_folder:
    # together: a disk is done with many as soon as with a few
    with concurrent.futures.ThreadPoolExecutor() as executor:
      list(executor.map(sync, (temporary, *temporary.rglob('*'))))
  else:
    sync(temporary)
  aside = path.with_name(path.name + REPLACED)
  is_replaced = is_folder and os.path.lexists(path)
  if is_replaced:
    delete(aside)
    path.rename(aside)
  try:
    os.replace(temporary, path)
  except BaseException:
    if is_replaced:
      aside.rename(path)
    raise
  sync(path.parent)
  if is_folder:
    delete(aside)  # also that of a process that was killed


def remove(path: pathlib.Path) -> None:
  """Deletes a folder, whose own name never stands for half of it."""
  aside = path.with_name(path.name + DELETED)
  delete(aside)
  path.rename(aside)
  delete(aside)


def delete(path: pathlib.Path) -> None:
  """Deletes a folder, a file or a link, as far as that is possible."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path, ignore_errors=True)
  else:
    with contextlib.suppress(OSError):
      path.unlink()


def recover(folder: pathlib.Path) -> None:
  """Completes what killed processes have begun in a folder.

  Args:
    folder: That which holds the folders given to `replace` and `remove`.
  """
  for path in folder.glob(f'*{DELETED}'):
    delete(path)
  for path in folder.glob(f'*{REPLACED}'):
    if path.with_suffix('').exists():
      delete(path)
    else:
      path.rename(path.with_suffix(''))
  sync(folder)
