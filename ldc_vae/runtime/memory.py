"""Memory that is freed in one step and needed again in the next."""

import ctypes
import glob
import os
import platform

# Options of glibc's mallopt: keep freed memory, use no mmap, have one heap.
_MALLOC_OPTIONS = ((-1, 2**31 - 1), (-4, 0), (-8, 1))

# Files under /dev that show an accelerator.
_DEVICE_NODES = ('nvidiactl', 'dxg', 'kfd', 'accel*', 'vfio/[0-9]*')


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
