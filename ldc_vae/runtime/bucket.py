"""A workdir that is copied to a bucket, and comes back from it.

The run works in a local folder of process 0. A thread copies its finished files
after each checkpoint, through `fsspec`. The manifest of a checkpoint is written
after its other files, and results.json after all: what was cut off does not
verify. Deletions come last. An outage is retried for as long as the run lasts,
and never holds it up.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import threading
import time

from absl import logging

from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import cluster
from ldc_vae.runtime import durable
from ldc_vae.runtime import manifest
from ldc_vae.runtime import outputs
from ldc_vae.runtime import signals
from ldc_vae.runtime import storage

# Folders whose files are deleted in the bucket when they are gone here.
_REPLACED = ('checkpoints/', f'{outputs.FIGURES}/')

_PERIOD = 0.5  # seconds between two looks for a new checkpoint
_LAST_DELAY = 5.0  # the longest one when the run is over
# Seconds that the end of a run waits for the bucket, and that of one that has
# failed or is interrupted.
_PATIENCE, _SHORT_PATIENCE = 600.0, 30.0

Signature = tuple[int, int]  # nanoseconds of the last change, bytes


@contextlib.contextmanager
def mirrored(address: str, workdir: str | os.PathLike[str]) -> Iterator[None]:
  """Keeps a folder of a bucket like a workdir while the block runs.

  Where the bucket has a newer checkpoint than the workdir, or the workdir is
  missing, the workdir is made from the bucket first. With several processes,
  process 0 alone does all this.

  Args:
    address: The folder in the bucket. No other machine may write there.
    workdir: The local folder.

  Raises:
    UserError: The package for the address is missing, or the bucket is, or may
      not be used.
    FileError: The bucket cannot be reached at the start, or lacks files at the
      end.
  """
  if not cluster.is_first():
    yield
    return
  workdir = pathlib.Path(workdir)
  bucket = storage.Bucket(address)
  known = storage.patiently(lambda: _begin(bucket, workdir), address)
  logging.info(
    '%s: the run works in %s and is copied after each checkpoint',
    address,
    workdir,
  )
  mirror = _Mirror(bucket, workdir, known)
  mirror.start()
  try:
    yield
  except BaseException:
    with signals.watch() as watch:  # the same that has caught a signal
      left = watch.deadline - time.monotonic() - 1.0
    mirror.close(min(_SHORT_PATIENCE, max(left, 0.0)))
    raise
  if not mirror.close(_PATIENCE):
    raise durable.FileError(
      f'{address} lacks files of {workdir}; the same command copies them'
    )


class _Mirror(threading.Thread):
  """Copies the finished files of a workdir to a bucket, again and again."""

  def __init__(
    self,
    bucket: storage.Bucket,
    workdir: pathlib.Path,
    known: dict[str, Signature | None],
  ):
    """Prepares the thread.

    Args:
      bucket: The copy.
      workdir: The original.
      known: What local file each file of the bucket is a copy of, if known.
    """
    super().__init__(name='bucket', daemon=True)
    self._bucket, self._workdir, self._known = bucket, workdir, known
    self._closing = threading.Event()
    self._is_whole, self._is_late, self._reason = False, False, ''

  def run(self) -> None:
    """Copies after each checkpoint, until all is there after `close`."""
    delay = storage.FIRST_DELAY
    while True:
      is_last = self._closing.is_set()
      found = _finished(self._workdir)
      try:
        self._copy(found)
      except _ChangedError:
        continue
      except Exception as error:  # each storage has its own types
        self._reason = manifest.one_line(error)
        self._say_late(f'cannot be written ({self._reason})')
        if is_last:
          time.sleep(min(delay, _LAST_DELAY))
        else:
          self._closing.wait(delay)
        delay = min(2.0 * delay, storage.LONGEST_DELAY)
        continue
      delay = storage.FIRST_DELAY
      if self._is_late and not self._is_behind(found):
        logging.info('%s has caught up', self._bucket.address)
        self._is_late = False
      if is_last:
        self._is_whole = True
        return
      while _triggers(found) == _triggers(_finished(self._workdir)):
        if self._closing.wait(_PERIOD):
          break

  def close(self, patience: float) -> bool:
    """Waits for the last files, so many seconds at most.

    Returns:
      Whether the bucket has all files of the workdir.
    """
    self._closing.set()
    try:
      self.join(0.5)
      if self.is_alive() and patience > 1.0:
        logging.info('%s: waiting for the last files', self._bucket.address)
      self.join(patience)
    finally:
      if self._is_whole:
        logging.info('%s has all files of the run', self._bucket.address)
      else:
        logging.warning(
          '%s lacks files of %s (%s); the same command copies them',
          self._bucket.address,
          self._workdir,
          self._reason or 'it takes long',
        )
    return self._is_whole

  def _copy(self, found: dict[str, Signature]) -> None:
    """Writes what differs, then deletes what is gone."""
    changed = [name for name in found if self._known.get(name) != found[name]]
    for name in sorted(changed, key=_place):
      if self._is_behind(found):
        self._say_late('lags: a checkpoint is saved before the last is copied')
      path = self._workdir / name
      try:
        self._bucket.put(path, name)
      except Exception:
        if path.exists():
          raise
      if not path.exists():  # its checkpoint was deleted
        self._known.setdefault(name, None)
        raise _ChangedError
      self._known[name] = found[name]
    gone = set(self._known) - set(found)
    gone = {name for name in gone if name.startswith(_REPLACED)}
    # a manifest first, so that half a checkpoint does not verify
    for name in sorted(
      gone, key=lambda name: not name.endswith(storage.MANIFEST)
    ):
      self._bucket.delete(name)
      del self._known[name]

  def _is_behind(self, found: dict[str, Signature]) -> bool:
    """Returns whether there is a newer checkpoint than those found."""
    steps = checkpoint_folder.steps(self._workdir / 'checkpoints')
    copied = {storage.step_of(x) for x in found if x.startswith('checkpoints/')}
    return max(steps, default=-1) > max(copied, default=-1)

  def _say_late(self, how: str) -> None:
    """Warns once until the bucket has caught up."""
    if not self._is_late:
      self._is_late = True
      logging.warning(
        '%s %s; the run goes on, and files are copied as soon as possible',
        self._bucket.address,
        how,
      )


class _ChangedError(Exception):
  """The workdir has changed while it was copied."""


def _begin(
  bucket: storage.Bucket, workdir: pathlib.Path
) -> dict[str, Signature | None]:
  """Makes the workdir from a newer bucket; returns `known` of `_Mirror`."""
  sizes = bucket.sizes()
  own = storage.own_step(workdir)
  if max(storage.whole_steps(sizes), default=-1) <= own:
    if own < 0:
      bucket.probe()
    return dict.fromkeys(sizes)
  storage.restore(bucket, workdir, sizes)
  return {**dict.fromkeys(sizes), **_finished(workdir)}


def _finished(workdir: pathlib.Path) -> dict[str, Signature]:
  """Returns the finished files of a workdir by name; links are left out."""
  found = {}
  for folder, _, names in os.walk(workdir):
    for each in names:
      path = pathlib.Path(folder, each)
      name = path.relative_to(workdir).as_posix()
      if storage.is_of_run(name) and not path.is_symlink():
        with contextlib.suppress(FileNotFoundError):
          status = path.stat()
          found[name] = status.st_mtime_ns, status.st_size
  return found


def _triggers(found: dict[str, Signature]) -> dict[str, Signature]:
  """Returns the files whose change has all files copied."""
  return {
    name: signature
    for name, signature in found.items()
    if name.startswith('checkpoints/') or name == outputs.RESULTS
  }


def _place(name: str) -> tuple[int, int, bool, str]:
  """Returns the place of a file in the order of copying."""
  if name.startswith('checkpoints/'):  # after metrics.jsonl
    return 1, -storage.step_of(name), name.endswith(storage.MANIFEST), name
  return 2 * (name == outputs.RESULTS), 0, False, name
