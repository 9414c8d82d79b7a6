"""The folder of a run in a bucket, read and written through `fsspec`."""

from collections.abc import Callable, Mapping
import contextlib
import os
import pathlib
import time
from typing import Any

from absl import logging

from ldc_vae import errors
from ldc_vae.runtime import addresses
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import durable
from ldc_vae.runtime import manifest

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds between two tries
MANIFEST = '/manifest/metadata'  # the last file of a checkpoint

_START_PATIENCE = 120.0  # seconds that a start waits for the bucket
# What no second try mends: no permission, no such bucket.
_LASTING = (PermissionError, FileNotFoundError)


class Bucket:
  """A folder of a bucket; its files have names relative to it."""

  def __init__(self, address: str):
    self.address = address
    protocol = address.partition(':')[0]
    self._is_mounted = protocol == 'file'
    options = {'auto_mkdir': True} if self._is_mounted else {}
    try:
      import fsspec

      self._system, root = fsspec.url_to_fs(address, **options)
    except ImportError as error:
      raise errors.UserError(
        f'--workdir={address}: a package is missing ({error}); pip install'
        f" '{addresses.PACKAGES.get(protocol, 'fsspec')}'"
      ) from error
    self._root = root.rstrip('/')

  def sizes(self) -> dict[str, int]:
    """Returns the bytes of each file of a run that is whole."""
    self._system.invalidate_cache()
    try:
      found = self._system.find(self._root, detail=True)
    except FileNotFoundError:
      found = {}
    prefix = self._root.strip('/') + '/'
    sizes = {  # a name that ends in / stands for a folder
      path.lstrip('/').removeprefix(prefix): int(entry['size'])
      for path, entry in found.items()
    }
    return {name: size for name, size in sizes.items() if is_of_run(name)}

  def probe(self) -> None:
    """Writes and deletes a file: raises hours before an upload would."""
    self._system.pipe_file(f'{self._root}/.probe', b'')
    self.delete('.probe')

  def put(self, path: pathlib.Path, name: str) -> None:
    """Writes a local file."""
    self._system.put_file(str(path), f'{self._root}/{name}')

  def get(self, name: str, path: pathlib.Path) -> None:
    """Reads a file into a local one."""
    self._system.get_file(f'{self._root}/{name}', str(path))

  def delete(self, name: str) -> None:
    """Deletes a file, if it is there."""
    path = f'{self._root}/{name}'
    with contextlib.suppress(FileNotFoundError):
      self._system.rm_file(path)
    if self._is_mounted:  # it has folders, which objects do not
      with contextlib.suppress(OSError):
        os.removedirs(os.path.dirname(path))


def fetch(address: str, cache: pathlib.Path) -> pathlib.Path:
  """Copies a run or an exported folder from a bucket, unless it is here.

  Args:
    address: The folder in the bucket; it is only read.
    cache: The folder of caches.

  Returns:
    The local folder.

  Raises:
    UserError: The package for the address is missing, or the bucket may not be
      read, or has neither a whole checkpoint nor an exported folder there.
    FileError: The bucket cannot be reached.
  """
  folder = addresses.local_folder(address, cache)
  bucket = Bucket(address)
  patiently(lambda: _fetch(bucket, folder), address, 'read')
  return folder


def _fetch(bucket: Bucket, folder: pathlib.Path) -> None:
  sizes = bucket.sizes()
  whole = whole_steps(sizes)
  if not whole and any(name.startswith('checkpoints/') for name in sizes):
    raise errors.UserError(
      f'--workdir={bucket.address}: no checkpoint is whole yet; wait'
      ' until one is copied'
    )
  if not sizes:
    raise errors.UserError(
      f'--workdir={bucket.address}: nothing is there; give the folder of a run'
    )
  own = own_step(folder)
  if not whole and own < 0:
    durable.delete(folder)  # an exported folder that was fetched before
  if not whole or max(whole) > own:
    restore(bucket, folder, sizes)


def own_step(workdir: pathlib.Path) -> int:
  """Returns the step of the latest checkpoint that verifies, or -1."""
  verdicts = checkpoint_folder.verify(workdir / 'checkpoints')
  return max((each.step for each in verdicts if each.ok), default=-1)


def whole_steps(sizes: Mapping[str, int]) -> set[int]:
  """Returns the steps of the checkpoints that a bucket has as a whole."""
  return {step_of(name) for name in sizes if name.endswith(MANIFEST)}


def restore(
  bucket: Bucket, workdir: pathlib.Path, sizes: Mapping[str, int]
) -> None:
  """Makes the workdir from the files of a bucket; an older one is kept."""
  whole = whole_steps(sizes)
  new = workdir.with_name(f'.{workdir.name}.restored')
  durable.delete(new)
  durable.make_folder(new)
  for name, size in sizes.items():
    if name.startswith('checkpoints/') and step_of(name) not in whole:
      continue
    path = new / name
    path.parent.mkdir(parents=True, exist_ok=True)
    bucket.get(name, path)
    if path.stat().st_size != size:
      raise OSError(f'{name} was cut off')
  if workdir.is_dir() and any(workdir.iterdir()):
    aside = checkpoint_folder.set_aside(workdir, 'behind')
    logging.warning('%s was behind the bucket: moved to %s', workdir, aside)
  new.replace(workdir)
  what = f'step {max(whole)}' if whole else 'the files'
  logging.info('restored %s from %s', what, bucket.address)


def patiently(
  call_fn: Callable[[], Any], address: str, use: str = 'write to'
) -> Any:
  """Calls, and calls again where the bucket cannot be reached."""
  end, delay = time.monotonic() + _START_PATIENCE, FIRST_DELAY
  while True:
    try:
      return call_fn()
    except (errors.UserError, durable.FileError):
      raise
    except Exception as error:  # each storage has its own types
      reason = manifest.one_line(error)
      if isinstance(error, _LASTING):
        raise errors.UserError(
          f'--workdir={address}: it cannot be used ({reason}); give a bucket'
          f' that you may {use}'
        ) from error
      if time.monotonic() + delay > end:
        raise durable.FileError(
          f'{address} cannot be reached ({reason}); start again later'
        ) from error
      logging.warning(
        '%s cannot be reached (%s); next try in %.0f s', address, reason, delay
      )
    time.sleep(delay)
    delay = min(2.0 * delay, LONGEST_DELAY)


def is_of_run(name: str) -> bool:
  """Returns whether a name is that of a finished file, and of no other."""
  first, *rest = parts = name.split('/')
  if any(part == '' or part.startswith('.') for part in parts):
    return False
  if first == 'checkpoints':
    return len(rest) > 1 and rest[0].isascii() and rest[0].isdecimal()
  return not first.endswith((durable.REPLACED, durable.DELETED))


def step_of(name: str) -> int:
  """Returns the step of a file in checkpoints/."""
  return int(name.split('/')[1])
