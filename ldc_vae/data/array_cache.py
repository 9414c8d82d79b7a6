"""A cache of decoded arrays: .npy files, written once and verified when read.

One entry of the cache is a folder of arrays and an index of their sizes and
checksums. Processes that want the same entry wait for the one that writes it.
An entry is stale when the stamps of its source differ from those in the index.
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
import stat
import time
from typing import Any
import zlib

from absl import logging
import numpy as np

from ldc_vae import errors
from ldc_vae.runtime import caches
from ldc_vae.runtime import durable
from ldc_vae.runtime import progress

CHUNK = 512  # images that are decoded at a time

_MEMMAP_BYTES = 2**28  # larger files are memory-mapped, not loaded
_BLOCK_BYTES = 2**20  # that a checksum reads at a time
_MAX_BYTES = 64 * 2**30  # of all entries
_FORMAT = 2  # version of the cache's format; a new one makes all entries stale
SLOW_SECONDS = 5.0  # decoding that takes longer shows its progress

# Two writes within this time may have the same time stamp: FAT counts in steps
# of two seconds.
FRESH_SECONDS = 3.0

Arrays = dict[str, np.ndarray]


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
  write_fn: Callable[[pathlib.Path, Arrays], errors.UserError | None],
) -> Arrays:
  """Returns a cache entry; `write_fn` writes it the first time.

  Args:
    label: A readable name for the entry's folder.
    source: The source of the arrays and the options of their conversion. Each
      different value has its own cache entry.
    fingerprint: A digest of the source's content. If it changes, the entry is
      written again.
    write_fn: A function `(folder, previous)` that writes the arrays with
      `create_array`. `previous` has the arrays of a stale entry, or none. What
      it raises leaves no entry. If it returns an error instead, what it has
      written is `previous` for the next call, and the error is raised.

  Returns:
    A dict from file name (without .npy) to a read-only array. Large arrays are
    memory-mapped.

  Raises:
    OSError: The cache cannot be written, or the new entry cannot be read.
  """
  digest = hashlib.sha256(json.dumps([_FORMAT, *source]).encode()).hexdigest()
  directory = cache_dir() / 'arrays' / f'{label}-{digest[:16]}'
  arrays = _load_or_write(directory, fingerprint, write_fn)
  caches.hold(directory)
  return arrays


def _load_or_write(
  directory: pathlib.Path,
  fingerprint: str,
  write_fn: Callable[[pathlib.Path, Arrays], errors.UserError | None],
) -> Arrays:
  """Returns the arrays of `load_or_write`."""
  stored, arrays = _read_cache(directory)
  if stored == fingerprint:
    return arrays
  temporary = directory.with_suffix('.incomplete')
  with locked(directory.with_suffix('.lock')):
    # another process may have written it while this one waited
    stored, previous = _read_cache(directory)
    if stored == fingerprint:
      return previous
    # a killed process may have left its files
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
      error = write_fn(temporary, previous)
      _write_index(temporary, '' if error else fingerprint)
      durable.replace(temporary, directory)
    finally:
      shutil.rmtree(temporary, ignore_errors=True)
    if error:
      raise error
    stored, arrays = _read_cache(directory)
  if stored != fingerprint:
    raise OSError(
      f'{directory} was just written but cannot be read: check the disk'
    )
  caches.drop_oldest(entries(), _MAX_BYTES)
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


def stamp(path: pathlib.Path, status: os.stat_result) -> bytes:
  """Returns 16 bytes that differ after every change of a file.

  A program can set the time of modification. It cannot set the time of change
  or the inode. Where the time of change is recent, the content counts too.

  Args:
    path: The file.
    status: Its `path.stat()`.

  Raises:
    OSError: The content counts, and cannot be read.
  """
  digest = hashlib.sha256(os.fsencode(path))  # the name may not be UTF-8
  digest.update(
    f'\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}'
    f'\0{status.st_ino}'.encode()
  )
  is_fresh = time.time() - status.st_ctime < FRESH_SECONDS
  if is_fresh and stat.S_ISREG(status.st_mode):
    with open(path, 'rb') as file:
      digest.update(hashlib.file_digest(file, 'sha256').digest())
  return digest.digest()[:16]


def fingerprint_of(files: Iterable[pathlib.Path]) -> str:
  """Returns a digest of the stamps of files.

  Raises:
    OSError: A file is missing.
  """
  stamps = [stamp(path, path.stat()) for path in sorted(files)]
  return hashlib.sha256(b''.join(stamps)).hexdigest()


def chunks(num_images: int) -> Iterator[int]:
  """Yields the first image of each chunk; shows the progress if it is slow."""
  with show_progress(num_images) as report:
    for start in range(0, num_images, CHUNK):
      yield start
      report(min(start + CHUNK, num_images), num_images)


def show_progress(
  num_images: int,
) -> contextlib.AbstractContextManager[progress.ReportFn]:
  """Shows the progress of decoding images, if it is slow."""
  what = f'decoding {num_images:,} images'
  return progress.activity(what, every=SLOW_SECONDS, announce=False)


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
      ' LDC_VAE_CACHE (or config.dataset.data_dir) to a folder that can be'
      ' written'
    ) from error
  with file:  # closing it releases the lock
    yield


def first_line(error: BaseException) -> str:
  """Returns the first line of an exception's message, without its full stop."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip(':. ')


def entries() -> list[pathlib.Path]:
  """Returns the folders of all entries of the cache."""
  folder = cache_dir() / 'arrays'
  found = sorted(path.parent for path in folder.glob('*/index.json'))
  return [path for path in found if not path.suffix]  # those are unfinished


def damage(directory: pathlib.Path) -> str:
  """Returns what is wrong with an entry, in words; '' if nothing is."""
  return damage_of(_read_entry, directory)


def damage_of(
  read_fn: Callable[[pathlib.Path], object], path: pathlib.Path
) -> str:
  """Returns why `read_fn` cannot read a part of a cache; '' if it can."""
  try:
    read_fn(path)
  except Exception as error:  # NumPy, zipfile and json raise many types
    return f'damaged ({first_line(error)})'
  return ''


def delete(directory: pathlib.Path) -> None:
  """Deletes an entry; who has mapped its arrays keeps them."""
  with locked(directory.with_suffix('.lock')):
    durable.remove(directory)


def _write_index(folder: pathlib.Path, fingerprint: str) -> None:
  """Writes the index of sizes and checksums that `_read_cache` verifies."""
  files = {}
  for path in sorted(folder.glob('*.npy')):
    array = np.load(path, mmap_mode='r')
    files[path.stem] = dict(
      shape=array.shape,
      dtype=str(array.dtype),
      size=path.stat().st_size,
      crc32=_checksum(path, array.nbytes),
    )
  index = dict(fingerprint=fingerprint, files=files)
  (folder / 'index.json').write_text(json.dumps(index))


def _read_cache(directory: pathlib.Path) -> tuple[str, Arrays]:
  """Returns an entry's fingerprint and arrays; none if absent or damaged."""
  try:
    return _read_entry(directory)
  except FileNotFoundError:
    pass
  except Exception as error:  # NumPy and json raise many types
    logging.warning('writing a cache entry again: %s', first_line(error))
  return '', {}


def _read_entry(directory: pathlib.Path) -> tuple[str, Arrays]:
  """Returns an entry's fingerprint and arrays, if it is whole."""
  arrays = {}
  index = json.loads((directory / 'index.json').read_text())
  for name, expected in index['files'].items():
    path = directory / f'{name}.npy'
    if path.stat().st_size != expected['size']:
      raise ValueError(f'{path} does not have the size in its index')
    array = np.load(path, mmap_mode='r' if _is_large(path) else None)
    if [list(array.shape), str(array.dtype)] != [
      expected['shape'],
      expected['dtype'],
    ] or expected['crc32'] not in (None, _checksum(path, array.nbytes)):
      raise ValueError(f'{path} does not have the content in its index')
    array.flags.writeable = False
    arrays[name] = array
  return index['fingerprint'], arrays


def _checksum(path: pathlib.Path, num_bytes: int) -> int:
  """Returns the CRC-32 of the last bytes of a file, those of its array.

  It is read and not mapped: a map would keep what it read in memory.
  """
  crc = 0
  with open(path, 'rb') as file:
    file.seek(-num_bytes, os.SEEK_END)
    while block := file.read(_BLOCK_BYTES):
      crc = zlib.crc32(block, crc)
  return crc


def _is_large(path: pathlib.Path) -> bool:
  """Returns whether an array file is memory-mapped instead of loaded."""
  return path.stat().st_size > _MEMMAP_BYTES
