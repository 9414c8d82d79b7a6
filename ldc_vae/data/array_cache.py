"""A cache of decoded arrays: .npy files, written once and verified when read.

One entry of the cache is a folder of arrays and an index of their sizes and
checksums. Processes that want the same entry wait for the one that writes it.
"""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import fcntl
import hashlib
import json
import math
import os
import pathlib
import shutil
from typing import Any
import zlib

from absl import logging
import numpy as np

from ldc_vae.runtime import durable

CHUNK = 512  # images that are decoded at a time

_MEMMAP_BYTES = 2**30  # larger files are memory-mapped, not loaded
_FORMAT = 1  # version of the cache's format; a new one makes all entries stale


def cache_dir() -> pathlib.Path:
  """Returns the folder $LDC_VAE_CACHE, or ~/.cache/ldc_vae if it is not set."""
  return expand(os.environ.get('LDC_VAE_CACHE') or '~/.cache/ldc_vae')


def expand(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns an absolute path; the ~ of an unknown user stays as it is."""
  return pathlib.Path(os.path.expanduser(path)).absolute()


def load_or_write(
  label: str,
  source: list[Any],
  fingerprint: str,
  write_fn: Callable[[pathlib.Path], None],
) -> dict[str, np.ndarray]:
  """Returns a cache entry; `write_fn(folder)` writes it the first time.

  Args:
    label: A readable name for the entry's folder.
    source: The source of the arrays and the options of their conversion. Each
      different value has its own cache entry.
    fingerprint: A digest of the source's content. If it changes, the entry is
      written again.
    write_fn: A function that writes the arrays with `create_array`. Its
      exceptions are raised unchanged, and leave no entry.

  Returns:
    A dict from file name (without .npy) to a read-only array. Large arrays are
    memory-mapped.

  Raises:
    OSError: The cache cannot be written, or the new entry cannot be read.
  """
  digest = hashlib.sha256(json.dumps([_FORMAT, *source]).encode()).hexdigest()
  directory = cache_dir() / 'arrays' / f'{label}-{digest[:16]}'
  arrays = _read_cache(directory, fingerprint)
  if arrays is not None:
    return arrays
  temporary = directory.with_suffix('.incomplete')
  with locked(directory.with_suffix('.lock')):
    # another process may have written it while this one waited
    arrays = _read_cache(directory, fingerprint)
    if arrays is not None:
      return arrays
    # a killed process may have left its files
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
      write_fn(temporary)
      _write_index(temporary, fingerprint)
      durable.replace(temporary, directory)
    finally:
      shutil.rmtree(temporary, ignore_errors=True)
    arrays = _read_cache(directory, fingerprint)
  if arrays is None:
    raise OSError(
      f'{directory} was just written but cannot be read: check the disk'
    )
  return arrays


def create_array(
  folder: pathlib.Path,
  name: str,
  dtype: type[np.generic],
  shape: tuple[int, ...],
) -> np.ndarray:
  """Creates the file `folder`/`name`.npy, memory-mapped for writing.

  Raises:
    OSError: The disk has too little free space.
  """
  # Without this check, a full disk would kill the process with a bus error.
  size, free = math.prod(shape), shutil.disk_usage(folder).free
  if size * np.dtype(dtype).itemsize > free:
    raise OSError(
      f'{folder} has {free:,} bytes free, too few for an array of shape'
      f' {tuple(shape)}: set LDC_VAE_CACHE to a folder with more free space'
    )
  return np.lib.format.open_memmap(
    folder / f'{name}.npy', mode='w+', dtype=dtype, shape=shape
  )


def fingerprint_of(files: Iterable[pathlib.Path]) -> str:
  """Returns a digest of the names, sizes and modification times of files.

  Raises:
    OSError: A file is missing.
  """
  digest = hashlib.sha256()
  for path in sorted(files):
    stat = path.stat()
    digest.update(os.fsencode(path))  # the name may not be UTF-8
    digest.update(f'\0{stat.st_size}\0{stat.st_mtime_ns}\n'.encode())
  return digest.hexdigest()


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  """Holds a lock on the file `path`, so that only one process does the work.

  Raises:
    OSError: The file cannot be written.
  """
  try:
    durable.make_folder(path.parent)
    file = open(path, 'a', opener=durable.opener)
    fcntl.flock(file, fcntl.LOCK_EX)
  except OSError as error:
    raise OSError(
      f'{path.parent} cannot be written ({first_line(error)}): set'
      ' LDC_VAE_CACHE (or dataset.data_dir) to a folder that can be written'
    ) from error
  with file:  # closing it releases the lock
    yield


def first_line(error: BaseException) -> str:
  """Returns the first line of an exception's message, without its full stop."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip(':. ')


def _write_index(folder: pathlib.Path, fingerprint: str) -> None:
  """Writes the index of sizes and checksums that `_read_cache` verifies."""
  files = {}
  for path in sorted(folder.glob('*.npy')):
    array = np.load(path, mmap_mode='r')
    files[path.stem] = dict(
      shape=array.shape,
      dtype=str(array.dtype),
      size=path.stat().st_size,
      crc32=None if _is_large(path) else zlib.crc32(array),
    )
  index = dict(fingerprint=fingerprint, files=files)
  (folder / 'index.json').write_text(json.dumps(index))


def _read_cache(
  directory: pathlib.Path, fingerprint: str
) -> dict[str, np.ndarray] | None:
  """Returns a cache entry's arrays; None if it is absent, stale or damaged."""
  arrays = {}
  try:
    index = json.loads((directory / 'index.json').read_text())
    if index['fingerprint'] != fingerprint:
      return None
    for name, expected in index['files'].items():
      path = directory / f'{name}.npy'
      if path.stat().st_size != expected['size']:
        raise ValueError(f'{path} does not have the size in its index')
      large = _is_large(path)
      array = np.load(path, mmap_mode='r' if large else None)
      if [list(array.shape), str(array.dtype)] != [
        expected['shape'],
        expected['dtype'],
      ] or (not large and zlib.crc32(array) != expected['crc32']):
        raise ValueError(f'{path} does not have the content in its index')
      array.flags.writeable = False
      arrays[name] = array
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
    logging.warning('writing a cache entry again: %s', first_line(error))
    return None
  return arrays or None


def _is_large(path: pathlib.Path) -> bool:
  """Returns whether an array file is memory-mapped instead of loaded."""
  return path.stat().st_size > _MEMMAP_BYTES
