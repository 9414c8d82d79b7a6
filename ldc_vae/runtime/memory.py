"""Memory: how much is free, and what is needed again in the next step."""

from collections.abc import Iterable
import contextlib
import ctypes
import glob
import os
import pathlib
import platform

import numpy as np

_FREE = pathlib.Path('/proc/meminfo')
_CGROUPS = (  # of version 2 and 1: folder, limit, usage
  ('/sys/fs/cgroup', 'memory.max', 'memory.current'),
  (
    '/sys/fs/cgroup/memory',
    'memory.limit_in_bytes',
    'memory.usage_in_bytes',
  ),
)

# Options of glibc's mallopt: keep freed memory, use no mmap, have one heap.
_MALLOC_OPTIONS = ((-1, 2**31 - 1), (-4, 0), (-8, 1))

# Files under /dev that show an accelerator.
_DEVICE_NODES = ('nvidiactl', 'dxg', 'kfd', 'accel*', 'vfio/[0-9]*')


def available() -> int:
  """Returns the bytes of memory that this process can still get, about.

  A container may have less than the machine. What its files occupy in memory
  counts as free.
  """
  found = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
  with contextlib.suppress(OSError, ValueError, IndexError):
    text = _FREE.read_text()
    found.append(1024 * int(text.partition('MemAvailable:')[2].split()[0]))
  for folder, limit, usage in _CGROUPS:
    with contextlib.suppress(OSError, ValueError):
      most, used = (
        int(pathlib.Path(folder, name).read_text()) for name in (limit, usage)
      )
      text = pathlib.Path(folder, 'memory.stat').read_text()
      files = dict(line.split() for line in text.splitlines())
      cached = int(files.get('inactive_file', 0))
      found.append(max(most - used + cached, 0))
  return min(found)


def check_archive(
  archive: np.lib.npyio.NpzFile, names: Iterable[str] | None = None
) -> None:
  """Raises a `ValueError` if arrays of an .npz file do not fit the memory.

  Args:
    archive: The file, of which nothing is unpacked yet.
    names: Of the arrays; None for all.
  """
  assert archive.zip is not None  # it is open
  sizes = {
    each.filename.removesuffix('.npy'): each.file_size
    for each in archive.zip.infolist()
  }
  names = sizes if names is None else names
  wanted, free = sum(sizes.get(name, 0) for name in names), available()
  if wanted > free:
    raise ValueError(
      f'its arrays need {gigabytes(wanted)} of memory, of which'
      f' {gigabytes(free)} are free'
    )


def gigabytes(number: int) -> str:
  """Returns bytes in words, as '8.0 GB'."""
  return f'{number / 1e9:,.1f} GB'


def keep_freed_memory() -> bool:
  """Lets a process that computes on the CPU keep the memory that it frees.

  XLA allocates its temporary arrays again in each step. glibc gives arrays
  above 32 MiB back at once, and the kernel clears their pages in the next step:
  a third of the time of a convolutional step. Call this function before jax
  starts its threads. With an accelerator or without glibc it does nothing.

  Returns:
    Whether memory is kept.
  """
  platforms = os.environ.get('JAX_PLATFORMS')
  if (
    platforms
    and platforms != 'cpu'
    or not platforms
    and any(glob.glob(f'/dev/{name}') for name in _DEVICE_NODES)
  ):
    return False
  if platform.libc_ver()[0] != 'glibc':
    return False
  mallopt = ctypes.CDLL(None).mallopt
  return all([mallopt(option, value) for option, value in _MALLOC_OPTIONS])
