"""Decoded arrays as .npy files in the cache, made once and verified when read.

One entry of the cache is a folder of arrays and an index of their sizes and
checksums. Processes that want the same entry wait for the one that makes it.
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

CHUNK = 512  # images decoded at a time into the arrays of an entry

_MEMMAP_BYTES = 2**30  # arrays above this are memory-mapped, not loaded
_FORMAT = 1  # of the cache; a change makes every entry stale


def cache_dir() -> pathlib.Path:
  """$LDC_VAE_CACHE or ~/.cache/ldc_vae."""
  return expand(os.environ.get('LDC_VAE_CACHE') or '~/.cache/ldc_vae')


def expand(path: str | os.PathLike[str]) -> pathlib.Path:
  """An absolute path; the ~ of a user whom nobody knows stays."""
  return pathlib.Path(os.path.expanduser(path)).absolute()


def load_or_write(
    label: str,
    source: list[Any],
    fingerprint: str,
    write_fn: Callable[[pathlib.Path], None],
) -> dict[str, np.ndarray]:
  """The .npy files that `write_fn(folder)` writes, made once.

  Args:
    label: For people who look into the cache.
    source: What the arrays are made from and how; one cache entry for each.
    fingerprint: Of the content of the source; a change makes the entry anew.
    write_fn: Writes the arrays with `create_array`.

  Returns:
    File name (without .npy) to a read-only array; large ones are memory-mapped.

  Raises:
    OSError: The cache cannot be written or does not read back. What `write_fn`
      raises passes, and leaves no entry.
  """
  digest = hashlib.sha256(json.dumps([_FORMAT, *source]).encode()).hexdigest()
  directory = cache_dir() / 'arrays' / f'{label}-{digest[:16]}'
  arrays = _read_cache(directory, fingerprint)
  if arrays is not None:
    return arrays
  temporary = directory.with_suffix('.incomplete')
  with locked(directory.with_suffix('.lock')):
    arrays = _read_cache(directory, fingerprint)  # by another process meanwhile
    if arrays is not None:
      return arrays
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    temporary.mkdir()
    try:
      write_fn(temporary)
      _write_index(temporary, fingerprint)
      shutil.rmtree(directory, ignore_errors=True)
      os.replace(temporary, directory)
    finally:
      shutil.rmtree(temporary, ignore_errors=True)
    arrays = _read_cache(directory, fingerprint)
  if arrays is None:
    raise OSError(f'{directory} does not read back: is the disk sound?')
  return arrays


def create_array(
    folder: pathlib.Path,
    name: str,
    dtype: type[np.generic],
    shape: tuple[int, ...],
) -> np.ndarray:
  """A new file `folder`/`name`.npy of `shape`, memory-mapped for writing.

  Raises:
    OSError: The disk has no room for it.
  """
  # A full disk would end the process with a bus error at the first write.
  size, free = math.prod(shape), shutil.disk_usage(folder).free
  if size * np.dtype(dtype).itemsize > free:
    raise OSError(
        f'{folder} has {free:,} bytes free, too few for an array of shape'
        f' {tuple(shape)}: set LDC_VAE_CACHE to a folder with more room'
    )
  return np.lib.format.open_memmap(
      folder / f'{name}.npy', mode='w+', dtype=dtype, shape=shape
  )


def fingerprint_of(files: Iterable[pathlib.Path]) -> str:
  """A digest of the names, sizes and times of change of files.

  Raises:
    OSError: One of them is missing.
  """
  digest = hashlib.sha256()
  for path in sorted(files):
    stat = path.stat()
    digest.update(os.fsencode(path))  # a name need not be UTF-8
    digest.update(f'\0{stat.st_size}\0{stat.st_mtime_ns}\n'.encode())
  return digest.hexdigest()


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
  """Holds a lock on the file `path`, so that processes make one thing once.

  Raises:
    OSError: The file cannot be written.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, 'w')
    fcntl.flock(file, fcntl.LOCK_EX)
  except OSError as error:
    raise OSError(
        f'{path.parent} cannot be written ({first_line(error)}): set'
        ' LDC_VAE_CACHE (or dataset.data_dir) to a folder that can'
    ) from error
  with file:  # closing it releases the lock
    yield


def first_line(error: BaseException) -> str:
  """What an exception says, as part of a sentence."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip(':. ')


def _write_index(folder: pathlib.Path, fingerprint: str) -> None:
  """Writes what `_read_cache` verifies."""
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
  """The arrays of a cache entry, or None if it is absent, stale or damaged."""
  arrays = {}
  try:
    index = json.loads((directory / 'index.json').read_text())
    if index['fingerprint'] != fingerprint:
      return None
    for name, expected in index['files'].items():
      path = directory / f'{name}.npy'
      if path.stat().st_size != expected['size']:
        raise ValueError(f'{path} has another size')
      large = _is_large(path)
      array = np.load(path, mmap_mode='r' if large else None)
      if [list(array.shape), str(array.dtype)] != [
          expected['shape'], expected['dtype']
      ] or (not large and zlib.crc32(array) != expected['crc32']):
        raise ValueError(f'{path} has another content')
      array.flags.writeable = False
      arrays[name] = array
  except FileNotFoundError:
    return None
  except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
    logging.warning('making the cache anew: %s', first_line(error))
    return None
  return arrays or None


def _is_large(path: pathlib.Path) -> bool:
  """Whether an array stays on disk."""
  return path.stat().st_size > _MEMMAP_BYTES
