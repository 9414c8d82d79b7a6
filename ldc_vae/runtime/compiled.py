"""The cache of compiled programs, which jax runs without another look.

Whoever can write into it can run any program as this user: it is private.
"""

import contextlib
import errno
import os
import pathlib
import re
import stat
import warnings

from absl import logging
import jax

from ldc_vae import errors
from ldc_vae.runtime import caches
from ldc_vae.runtime import durable

_ENTRIES = '*-cache'  # jax's names for them
_MAX_BYTES = 4 * 2**30

# What jax says of an entry, before it compiles the program again.
_DAMAGED = re.compile(
  "Error reading persistent compilation cache entry for '([^']+)'"
)


def use_cache(folder: pathlib.Path) -> None:
  """Lets jax keep compiled programs in a folder, if that is private.

  Args:
    folder: Made if it is missing.

  Raises:
    UserError: It cannot be written.
  """
  try:
    durable.make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    is_private = _make_private(folder)
  except OSError as error:
    raise errors.UserError(
      f'LDC_VAE_CACHE={folder.parent}: it cannot be written'
      f' ({error.strerror}); set it to a folder that can'
    ) from error
  if not is_private:
    logging.warning(
      '%s is a link, or belongs to another user, whose programs would run as'
      ' yours: nothing compiled is kept; set LDC_VAE_CACHE to a folder of your'
      ' own',
      folder,
    )
    return
  caches.drop_oldest(folder.glob(_ENTRIES), _MAX_BYTES)
  _drop_damaged(folder)
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def _make_private(folder: pathlib.Path) -> bool:
  """Takes the rights of others away; False if the folder is another's."""
  status = folder.lstat()
  if not stat.S_ISDIR(status.st_mode):
    return False
  if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != 0o700:
    with contextlib.suppress(OSError):  # some network disks have no rights
      folder.chmod(0o700)
  return status.st_uid in (0, os.geteuid())  # root can do anything anyway


def _drop_damaged(folder: pathlib.Path) -> None:
  """Deletes entries that jax cannot read; it would keep them for ever.

  jax only warns, and names the program. All entries of that name are deleted
  then, and compiled again where they are needed.
  """
  show = warnings.showwarning

  def show_or_drop(message, *args, **kwargs):
    found = _DAMAGED.match(str(message))
    if not found:
      show(message, *args, **kwargs)
      return
    for path in folder.glob(f'{found[1]}-{_ENTRIES}'):
      durable.delete(path)
    logging.warning(
      'compiling %s again: its entry in %s is damaged', found[1], folder
    )

  warnings.showwarning = show_or_drop
