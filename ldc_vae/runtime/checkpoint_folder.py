"""The folder of checkpoints: its steps, their losses, and its errors."""

from collections.abc import Collection
import contextlib
import errno
import math
import os
import pathlib
from typing import Any, NamedTuple
import uuid

from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from ldc_vae.runtime import manifest as manifest_lib
from ldc_vae.runtime import orbax_writer

LOSS = 'validation/loss'  # the metric by which a checkpoint is best; lower is
NUM_LATEST = 2  # one more than needed, to fall back to
_REMEDIES = {
  **files.REMEDIES,
  errno.EROFS: 'make the directory writable',
  errno.EACCES: 'make the directory writable',
  errno.ENOENT: 'put the directory back',
}


class Verification(NamedTuple):
  """The verdict on one checkpoint; `reason` is empty where `ok` is True."""

  step: int
  ok: bool
  reason: str


def verify(directory: str | os.PathLike[str]) -> list[Verification]:
  """Reads every checkpoint in `directory` and changes nothing.

  Args:
    directory: Where the checkpoints are.

  Returns:
    One verdict per checkpoint, oldest first; empty without any.
  """
  verdicts = []
  directory = pathlib.Path(os.path.abspath(directory))
  for step in steps(directory):
    reason = ''
    try:
      path = directory / str(step)
      manifest_lib.read_values(path, manifest_lib.read(path))
    except manifest_lib.CorruptError as error:
      reason = str(error)
    verdicts.append(Verification(step, not reason, reason))
  return verdicts


def read_meta(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
  """Returns the metadata of the newest checkpoint whose manifest verifies.

  Args:
    directory: Where the checkpoints are.

  Returns:
    What was given to `save`, or None if there is no such checkpoint.
  """
  directory = pathlib.Path(os.path.abspath(directory))
  for step in reversed(steps(directory)):
    with contextlib.suppress(manifest_lib.CorruptError):
      return manifest_lib.read(directory / str(step))['meta']
  return None


def prepare_directory(directory: pathlib.Path) -> None:
  """Makes the directory and completes what an interrupted save has begun."""
  durable.refuse_link(directory)
  try:
    directory.mkdir(exist_ok=True)
    durable.sync(directory.parent)
    _check_writable(directory)
    durable.recover(directory)
    orbax_writer.remove_unfinished(directory)
  except OSError as error:
    remedy = _REMEDIES.get(
      error.errno or 0, 'choose a directory that can be written to'
    )
    if not directory.parent.exists():
      remedy = f'create {directory.parent} first'
    elif directory.exists() and not directory.is_dir():
      remedy = 'a file has this name: move it away'
    raise manifest_lib.CheckpointError(
      f'checkpoint directory {directory} cannot be used'
      f' ({error.strerror}); {remedy}',
      error.errno,
    ) from error


def _check_writable(directory: pathlib.Path) -> None:
  """Raises the system's error if no file can be made in the directory."""
  # Tried, since permissions do not show a read-only file system.
  probe = directory / f'.{uuid.uuid4().hex[:12]}.tmp'
  try:
    probe.mkdir()
  finally:
    for path in directory.glob('.*.tmp'):  # also of a killed process
      with contextlib.suppress(OSError):
        path.rmdir()


def steps(directory: pathlib.Path) -> list[int]:
  """Returns the steps that have a finished directory, ascending."""
  if not directory.is_dir():
    return []
  names = (path.name for path in directory.iterdir() if path.is_dir())
  return sorted(int(x) for x in names if x.isascii() and x.isdecimal())


def delete_all_but(directory: pathlib.Path, kept: Collection[int]) -> None:
  """Deletes checkpoints, the oldest first."""
  for step in steps(directory):
    if step not in kept:
      durable.remove(directory / str(step))


def losses(directory: pathlib.Path) -> dict[int, float]:
  """Returns `loss` by step; -inf where it cannot be read."""
  losses = {}
  for step in steps(directory):
    try:
      losses[step] = loss(manifest_lib.read(directory / str(step)))
    except (manifest_lib.CorruptError, manifest_lib.CheckpointError):
      losses[step] = -math.inf  # first in line: `restore` will say why
  return losses


def loss(manifest: dict[str, Any]) -> float:
  """Returns the validation loss; inf where it is missing or not finite."""
  loss = manifest['metrics'].get(LOSS, math.inf)
  return loss if math.isfinite(loss) else math.inf


def ranked(losses: dict[int, float], which: str) -> list[int]:
  """Returns the steps, first choice first; of equal losses the newer."""
  if which == 'latest':
    return sorted(losses, reverse=True)
  return sorted(losses, key=lambda step: (losses[step], -step))


def set_aside(path: pathlib.Path, suffix: str) -> pathlib.Path:
  """Renames `path` to `path`.`suffix`, or to that name with _2, _3, ..."""
  aside = free_name(path.with_name(f'{path.name}.{suffix}'))
  path.rename(aside)
  return aside


def free_name(path: pathlib.Path) -> pathlib.Path:
  """Returns `path`, or the first of `path`_2, `path`_3, ... that is free."""
  free, count = path, 1
  while free.exists():
    count += 1
    free = path.with_name(f'{path.name}_{count}')
  return free


def save_error(
  directory: pathlib.Path, step: int, error: BaseException
) -> manifest_lib.CheckpointError:
  """Returns the sentence to raise for a save that failed."""
  number, text = getattr(error, 'errno', None), str(error)
  for known in _REMEDIES:
    if os.strerror(known) in text:  # Orbax wraps the system's error in others
      number = number or known
  cause = os.strerror(number) if number else manifest_lib.one_line(error)
  remedy = _REMEDIES.get(number or 0, 'check the disk')
  return manifest_lib.CheckpointError(
    f'checkpoint {step} could not be saved in {directory} ({cause});'
    f' {remedy} and run again: earlier checkpoints are whole',
    number,
  )
