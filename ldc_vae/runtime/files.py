"""Files that are written whole or not at all, and one sentence if they cannot.

With several processes, process 0 alone writes.
"""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import pathlib
import re
from typing import Any, BinaryIO
import uuid

import jax
import numpy as np

from ldc_vae import errors
from ldc_vae.runtime import durable
from ldc_vae.runtime import memory

Path = str | os.PathLike[str]

FORMAT = 1  # of config.json and results.json

_TEMPORARY = re.compile(r'\..+\.[0-9a-f]{12}\.tmp')

# What the user can do about a system's error, in the words of a message.
REMEDIES = {
  errno.ENOSPC: 'free some disk space',
  errno.EDQUOT: 'free some of the disk quota',
  errno.EFBIG: 'raise the file size limit (ulimit -f)',
}


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
  """Opens a file that takes the place of `path` when the block ends.

  A reader of `path` finds the whole old content or the whole new one.
  If the block raises, nothing has changed.

  Args:
    path: The file to write.

  Yields:
    A binary file.

  Raises:
    FileError: If the file cannot be written.
  """
  path = pathlib.Path(path)
  temporary = _temporary(path)
  try:
    with open(temporary, 'xb') as file:
      with contextlib.suppress(OSError):  # where files cannot be locked
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      yield file
      file.flush()
      durable.replace(temporary, path)  # locked, or it may be removed
  except OSError as error:
    if error.filename not in (None, os.fspath(temporary)):
      raise  # the block's own business with another file
    raise file_error(path, error) from error
  finally:
    with contextlib.suppress(OSError):  # gone already, or never made
      temporary.unlink()


def remove_unfinished(folder: Path, name: str = '*') -> None:
  """Removes what killed processes have left of `open_atomically`.

  Args:
    folder: The folder that they wrote to.
    name: The file that they wrote; all files if it is left out.
  """
  for path in pathlib.Path(folder).glob(f'.{name}.*.tmp'):
    if _TEMPORARY.fullmatch(path.name):
      with contextlib.suppress(OSError), open(path, 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else it is in use
        path.unlink()


def check_writable(path: Path) -> None:
  """Raises what writing `path` would raise, before the work for it is done.

  With several processes, process 0 alone looks: no other one writes, or needs
  to see the folder.

  Args:
    path: A file; it stays as it is.

  Raises:
    FileError: If it could not be written.
  """
  if jax.process_index() != 0:
    return
  path = pathlib.Path(path)
  temporary = _temporary(path)
  try:
    if path.is_dir():
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    with open(temporary, 'xb'):
      remove_unfinished(path.parent, glob.escape(path.name))
  except OSError as error:
    raise file_error(path, error) from error
  finally:
    with contextlib.suppress(OSError):
      temporary.unlink()


def write_json(path: Path, obj: Any) -> None:
  """Writes `obj` as JSON, atomically; what is not finite becomes null.

  Args:
    path: The file.
    obj: Dictionaries, lists, tuples, numbers, strings, None, paths, and NumPy
      or jax arrays, which become lists.

  Raises:
    ValueError: If something in `obj` has no form in JSON.
    FileError: If the file cannot be written.
  """
  try:
    text = json.dumps(finite(obj), indent=2, allow_nan=False)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{path} cannot be written as JSON ({error}); use numbers, strings,'
      ' lists and dictionaries'
    ) from error
  with open_atomically(path) as file:
    file.write(text.encode() + b'\n')


def read_json(path: Path) -> dict[str, Any] | None:
  """Returns the object of a JSON file; None where it is missing or broken.

  Args:
    path: The file.

  Raises:
    FileError: If it is there and cannot be read, or is a folder.
  """
  try:
    value = parse_json(pathlib.Path(path).read_bytes())
  except (FileNotFoundError, ValueError):
    return None
  except OSError as error:
    raise durable.FileError(
      f'{path} cannot be read ({error.strerror}); move it away', error.errno
    ) from error
  return value if isinstance(value, dict) else None


def parse_json(text: bytes) -> Any:
  """Returns what a text in UTF-8 holds.

  Raises:
    ValueError: It is no JSON, or is nested too deeply.
  """
  try:
    return json.loads(text.decode())
  except RecursionError:
    raise ValueError('it is nested too deeply') from None


def check_format(record: Mapping[str, Any]) -> None:
  """Raises a `UserError` if a newer version has written config or results."""
  found = record.get('format', FORMAT)  # earlier versions have none
  if isinstance(found, int) and found > FORMAT:
    raise errors.UserError(
      f'it has format {found} but this version reads format {FORMAT}; use the'
      ' version that wrote it'
    )


def read_record(path: Path) -> dict[str, Any] | None:
  """Returns what `read_json` does of config.json or results.json.

  Raises:
    UserError: A newer version has written it.
    FileError: As in `read_json`.
  """
  record = read_json(path)
  try:
    check_format(record or {})
  except errors.UserError as error:
    raise errors.UserError(f'{path}: {error}') from None
  return record


def write_record(path: Path, record: Mapping[str, Any]) -> None:
  """Writes config.json, with its digest."""
  write_json(path, {**record, 'digest': digest_of(record)})


def digest_of(record: Mapping[str, Any]) -> str:
  """Returns the SHA-256 of a record as JSON gives it back, without 'digest'."""
  content = {name: x for name, x in record.items() if name != 'digest'}
  text = json.dumps(finite(content), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def is_changed(record: Mapping[str, Any]) -> bool:
  """Returns whether a record has a 'digest', and not its own."""
  return 'digest' in record and record['digest'] != digest_of(record)


def write_npz(path: Path, /, **arrays: Any) -> None:
  """Writes arrays to a compressed `.npz` file, atomically.

  Args:
    path: The file; its name is taken as it is.
    **arrays: Arrays by name, of numbers or strings.

  Raises:
    ValueError: If an array is of Python objects.
    FileError: If the file cannot be written.
  """
  arrays = {name: np.asarray(x) for name, x in arrays.items()}
  for name, array in arrays.items():
    if array.dtype.hasobject:
      raise ValueError(
        f'array {name} of {path} holds Python objects; give it a dtype'
      )
  with open_atomically(path) as file:
    np.savez_compressed(file, **arrays)


def read_npz(path: Path) -> dict[str, np.ndarray]:
  """Returns the arrays of an `.npz` file by name.

  Raises:
    Exception: It cannot be read; NumPy and zipfile raise many types.
  """
  # never allow_pickle: loading a pickle runs whatever its author wrote
  archive = np.load(path, allow_pickle=False)
  if isinstance(archive, np.ndarray):
    raise ValueError('it is an .npy file')
  with archive:
    memory.check_archive(archive)
    return {name: archive[name] for name in archive.files}


def _temporary(path: pathlib.Path) -> pathlib.Path:
  """Returns a new hidden name beside `path`."""
  # Not tempfile: its files are readable by their owner alone.
  return path.with_name(f'.{path.name}.{uuid.uuid4().hex[:12]}.tmp')


def finite(obj: Any) -> Any:
  """Returns `obj` as plain Python, None for numbers that are not finite."""
  if isinstance(obj, Mapping):
    return {str(key): finite(value) for key, value in obj.items()}
  if isinstance(obj, (list, tuple)):
    return [finite(value) for value in obj]
  if isinstance(obj, (np.ndarray, np.generic, jax.Array)):
    return finite(np.asarray(obj).tolist())
  if isinstance(obj, os.PathLike):
    return os.fspath(obj)
  if isinstance(obj, float) and not math.isfinite(obj):
    return None
  return obj


def file_error(path: pathlib.Path, error: OSError) -> durable.FileError:
  """Returns the sentence to raise for a file that cannot be written."""
  if isinstance(error, durable.FileError):
    return error
  remedy = {
    **REMEDIES,
    errno.ENOENT: 'choose a place that can be written to'
    if path.parent.exists()
    else f'create {path.parent} first',
    errno.ENOTDIR: f'{path.parent} must be a directory',
    errno.EEXIST: 'a file has this name: move it away',
    errno.EISDIR: 'a directory has this name: move it away',
  }.get(error.errno or 0, 'choose a place that can be written to')
  cause = error.strerror or str(error)
  message = f'{path} cannot be written ({cause}); {remedy}'
  return durable.FileError(message, error.errno)
