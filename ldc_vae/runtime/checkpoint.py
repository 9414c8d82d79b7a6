"""Checkpoints that restore bit for bit, or say that they cannot.

A checkpoint is an Orbax directory `<step>/` with two items: `state`, a flat
dictionary of the leaves by name, and `manifest`, a JSON file with the shape,
dtype and SHA-256 of every leaf, the metrics, the metadata and a digest of all
of these. Orbax makes the directory appear whole or not at all; the digests
find what happens to it afterwards. The latest two and the best checkpoint, by
`validation/loss`, are kept.

With several processes, process 0 alone reads and writes; the others receive
what it restored. Only what writes imports Orbax, a third of a second: the first
step need not wait for it.
"""

from collections.abc import Iterator, Mapping
import concurrent.futures
import contextlib
import errno
import functools
import importlib.util
import json
import math
import os
import pathlib
import shutil
import sys
from typing import Any, NamedTuple
import uuid

from absl import logging
import jax
from jax.experimental import multihost_utils
import numpy as np

from ldc_vae.runtime import manifest as manifest_lib

PyTree = Any

LOSS = 'validation/loss'  # the metric by which a checkpoint is best; lower is
NUM_LATEST = 2  # one more than needed, to fall back to

_CHUNK = 1 << 26  # bytes of one broadcast between processes
_DELETED = 'deleted'  # the subdirectory of what is being deleted
_REMEDIES = {
    errno.ENOSPC: 'free some disk space',
    errno.EDQUOT: 'free some of the disk quota',
    errno.EFBIG: 'raise the file size limit (ulimit -f)',
    errno.EROFS: 'make the directory writable',
    errno.EACCES: 'make the directory writable',
    errno.ENOENT: 'put the directory back',
}


class Restored(NamedTuple):
  """What a checkpoint holds.

  Attributes:
    step: The step at which it was saved.
    state: The saved state, in the structure of the template.
    meta: The metadata given to `save`.
    metrics: The metrics given to `save`.
  """

  step: int
  state: PyTree
  meta: dict[str, Any]
  metrics: dict[str, float]


class Verification(NamedTuple):
  """The verdict on one checkpoint; `reason` is empty where `ok` is True."""

  step: int
  ok: bool
  reason: str


class Checkpointer:
  """Saves and restores the state of a run.

  Saving happens in a background thread; call `close`, or use the object as a
  context manager, so that the last save is not lost when the program ends.
  """

  def __init__(
      self, directory: str | os.PathLike[str], *, read_only: bool = False
  ):
    """Opens `directory`, which is made if only its last part is missing.

    Args:
      directory: Where the checkpoints are; a local path.
      read_only: Never create, rename or delete anything. For reading the
        checkpoints of a run that another process may be training.

    Raises:
      CheckpointError: If the directory cannot be made or written to, or if
        Orbax is missing.
    """
    self._directory = pathlib.Path(os.path.abspath(directory))
    self._read_only = read_only
    self._executor = concurrent.futures.ThreadPoolExecutor(
        max_workers=1, thread_name_prefix='checkpoint'
    )
    self._saving: concurrent.futures.Future[None] | None = None
    if not read_only and jax.process_index() == 0:
      if importlib.util.find_spec('orbax') is None:  # hours before a save does
        raise manifest_lib.CheckpointError(
            'the package orbax-checkpoint is missing; install requirements.txt'
        )
      _prepare_directory(self._directory)

  def __enter__(self) -> 'Checkpointer':
    return self

  def __exit__(self, *unused_exc_info) -> None:
    self.close()

  def save(
      self,
      step: int,
      state: PyTree,
      *,
      metrics: Mapping[str, float],
      meta: Mapping[str, Any],
  ) -> None:
    """Copies `state` to the host and writes it in the background.

    The caller may donate or change `state` as soon as this returns. Saving a
    step again is a no-op if nothing differs, and otherwise replaces it.

    Args:
      step: The step of the state; not negative.
      state: A pytree of numbers, NumPy arrays, jax arrays and PRNG keys.
      metrics: Scalars; `validation/loss` among them decides which is best.
      meta: Anything that JSON can hold; its keys become strings.

    Raises:
      CheckpointError: If this directory is read-only, or if the save before
        this one failed.
      ValueError: If something in the arguments cannot be saved.
    """
    self.wait()
    if self._read_only:
      raise manifest_lib.CheckpointError(
          f'checkpoint {step} not saved: {self._directory} was opened with'
          ' read_only=True'
      )
    if step < 0:
      raise ValueError(f'step={step} of a checkpoint must not be negative')
    if jax.process_index() != 0:
      return
    values, entries = manifest_lib.to_host(state)
    manifest = {
        'format': manifest_lib.FORMAT,
        'step': int(step),
        'leaves': entries,
        'metrics': {
            name: manifest_lib.scalar(name, x) for name, x in metrics.items()
        },
        'meta': manifest_lib.to_json(meta),
    }
    self._saving = self._executor.submit(self._write, manifest, values)

  def restore(self, like: PyTree, which: str = 'latest') -> Restored | None:
    """Restores the newest, or the best, checkpoint that verifies.

    One that does not verify is named in a warning and renamed to
    `<step>.corrupt` (`_2`, ... if that is taken), and the next is tried.

    Args:
      like: A state of the structure, shapes and dtypes to restore. Where it
        has a jax array, or the `jax.ShapeDtypeStruct` of one (not of PRNG
        keys), the result has a jax array, on the default device and free to
        move; where it has a NumPy array or a number, likewise.
      which: 'latest', or 'best' by `validation/loss`.

    Returns:
      The checkpoint, or None if there is none.

    Raises:
      CheckpointError: If there are checkpoints but none verifies, or if the
        one that does differs from `like` in a name, a shape or a dtype.
    """
    if which not in ('latest', 'best'):
      raise ValueError(f'which={which!r} must be one of: latest, best')
    self.wait()
    if jax.process_count() == 1:
      found = self._find(like, which)
    else:
      found = self._find_on_process_0(like, which)
    if found is None:
      return None
    manifest, values = found
    leaves, treedef = jax.tree.flatten(like)
    names = manifest_lib.leaf_names(like)
    leaves = [
        manifest_lib.like_leaf(x, values[name])
        for name, x in zip(names, leaves, strict=True)
    ]
    return Restored(
        step=manifest['step'],
        state=jax.tree.unflatten(treedef, leaves),
        meta=manifest['meta'],
        metrics=manifest['metrics'],
    )

  def latest_step(self) -> int | None:
    """Returns the newest step on disk, verified or not; None without any."""
    steps = _steps(self._directory)
    return steps[-1] if steps else None

  def wait(self) -> None:
    """Waits for the save under way and raises its error, if it had one."""
    saving, self._saving = self._saving, None
    if saving is not None:
      saving.result()

  def check(self) -> None:
    """Raises the error of a save that has failed; waits for none."""
    if self._saving is not None and self._saving.done():
      self.wait()

  def close(self) -> None:
    """Waits like `wait`, then ends the background thread."""
    try:
      self.wait()
    finally:
      self._executor.shutdown()

  def _write(
      self, manifest: dict[str, Any], values: dict[str, np.ndarray]
  ) -> None:
    """Writes one checkpoint; runs in the background."""
    step = manifest['step']
    path = self._directory / str(step)
    replaced = self._directory / f'{step}.replaced'
    manifest['leaves'] = {
        name: manifest_lib.leaf_entry(name, values[name], **entry)
        for name, entry in manifest['leaves'].items()
    }
    manifest['digest'] = manifest_lib.digest(manifest)
    try:
      if path.exists():
        if manifest_lib.is_whole(path, manifest['digest']):
          return
        path.rename(replaced)
      try:
        with _silent_orbax():
          self._write_with_orbax(manifest, values)
      except BaseException:
        _remove_unfinished(self._directory, step)
        if replaced.exists() and not path.exists():
          replaced.rename(path)
        raise
      if replaced.exists():
        shutil.rmtree(replaced)
    except ImportError:
      raise
    except Exception as error:
      raise _save_error(self._directory, step, error) from error

  def _write_with_orbax(
      self, manifest: dict[str, Any], values: dict[str, np.ndarray]
  ) -> None:
    """Writes `<step>/` atomically, then deletes what is not to be kept."""
    import orbax.checkpoint as ocp

    step = manifest['step']
    losses = _losses(self._directory) | {step: _loss(manifest)}
    losses = {step: x for step, x in losses.items() if x > -math.inf}
    preserved = {step, _ranked(losses, 'best')[0]}
    policies = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(
        create=False,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,  # this is the background already
        lightweight_initialize=True,  # a corrupt old one must not stop a save
        todelete_subdir=_DELETED,  # renamed: never seen half deleted
        preservation_policy=policies.AnyPreservationPolicy([
            policies.LatestN(NUM_LATEST),
            policies.CustomSteps(sorted(preserved)),
        ]),
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            active_processes={0}, barrier_sync_key_prefix='process_0'
        ),
    )
    items = {'manifest': ocp.args.JsonSave(manifest)}
    payload = {name: x for name, x in values.items() if x.size}
    if payload:  # Orbax saves no empty array, and no empty dictionary
      items['state'] = ocp.args.PyTreeSave(payload)
    # Opened anew each time (10 ms): it then knows what is on disk, whatever
    # was set aside or failed before.
    with ocp.CheckpointManager(
        self._directory,
        options=options,
        item_handlers={  # as `_read_array` expects it
            'state': ocp.PyTreeCheckpointHandler(
                use_ocdbt=True,
                use_zarr3=False,
                multiprocessing_options=options.multiprocessing_options,
            ),
            'manifest': ocp.JsonCheckpointHandler(
                multiprocessing_options=options.multiprocessing_options
            ),
        },
    ) as manager:
      manager.save(step, args=ocp.args.Composite(**items), force=True)
    path = self._directory / str(step)
    if payload and not (path / 'state/manifest.ocdbt').is_file():
      # tensorstore takes some names for patterns, and finds nothing to keep
      shutil.rmtree(path)
      raise OSError('tensorstore has kept nothing below a name like this')
    shutil.rmtree(self._directory / _DELETED, ignore_errors=True)

  def _find(
      self, like: PyTree, which: str
  ) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Returns (manifest, values) of the first checkpoint that verifies."""
    corrupt = {}
    while steps := [
        step
        for step in _ranked(_losses(self._directory), which)
        if step not in corrupt
    ]:
      path = self._directory / str(steps[0])
      try:
        manifest = manifest_lib.read(path)
        manifest_lib.check_like(path, manifest, like)
        values = manifest_lib.read_values(path, manifest)
      except manifest_lib.CorruptError as error:
        if path.exists():  # else deleted while we read: newer ones are there
          corrupt[steps[0]] = str(error)
        continue
      for step, reason in corrupt.items():
        self._set_aside(step, reason, steps[0])
      return manifest, values
    if corrupt:
      reasons = '; '.join(f'{step}: {why}' for step, why in corrupt.items())
      raise manifest_lib.CheckpointError(
          f'no checkpoint in {self._directory} verifies ({reasons}); put a'
          ' backup in its place, or remove the directory to train from the'
          ' start'
      )
    return None

  def _set_aside(self, step: int, reason: str, used: int) -> None:
    """Renames a corrupt checkpoint, so that its step can be saved again."""
    path = self._directory / str(step)
    if self._read_only:
      outcome = 'ignored'
    else:
      aside = _free_name(self._directory / f'{step}.corrupt')
      try:
        path.rename(aside)
        outcome = f'set aside as {aside.name}'
      except OSError as error:
        outcome = f'left there ({error.strerror})'
    logging.warning(
        'checkpoint %s is corrupt (%s): %s, using checkpoint %d instead',
        path, reason, outcome, used,
    )

  def _find_on_process_0(
      self, like: PyTree, which: str
  ) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Does `_find` on process 0 and gives every process its outcome."""
    header, body, failure = {}, b'', None
    if jax.process_index() == 0:
      try:
        found = self._find(like, which)
      except OSError as error:
        header, failure = {'error': str(error)}, error
      else:
        if found is not None:
          header = {'manifest': found[0]}
          body = b''.join(x.tobytes() for x in found[1].values())
    header = json.loads(_broadcast(json.dumps(header).encode()))
    body = _broadcast(body)
    if 'error' in header:
      raise failure or manifest_lib.CheckpointError(header['error'])
    if 'manifest' not in header:
      return None
    values, offset = {}, 0
    for name, entry in header['manifest']['leaves'].items():
      value = np.frombuffer(
          body,
          manifest_lib.storage_dtype(entry['dtype']),
          math.prod(entry['stored']),
          offset,
      ).reshape(entry['stored'])
      offset += value.nbytes
      values[name] = value
    return header['manifest'], values


def verify(directory: str | os.PathLike[str]) -> list[Verification]:
  """Reads every checkpoint in `directory` and changes nothing.

  Args:
    directory: Where the checkpoints are.

  Returns:
    One verdict per checkpoint, oldest first; empty without any.
  """
  verdicts = []
  directory = pathlib.Path(os.path.abspath(directory))
  for step in _steps(directory):
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
  for step in reversed(_steps(directory)):
    with contextlib.suppress(manifest_lib.CorruptError):
      return manifest_lib.read(directory / str(step))['meta']
  return None


def _prepare_directory(directory: pathlib.Path) -> None:
  """Makes the directory and completes what an interrupted save has begun."""
  try:
    directory.mkdir(exist_ok=True)
    _check_writable(directory)
    shutil.rmtree(directory / _DELETED, ignore_errors=True)
    for replaced in directory.glob('*.replaced'):
      if replaced.with_suffix('').exists():
        shutil.rmtree(replaced)
      else:
        replaced.rename(replaced.with_suffix(''))
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
  # Tried, since the permissions do not tell of a read-only file system.
  probe = directory / f'.{uuid.uuid4().hex[:12]}.tmp'
  try:
    probe.mkdir()
  finally:
    with contextlib.suppress(OSError):
      probe.rmdir()


def _steps(directory: pathlib.Path) -> list[int]:
  """Returns the steps that have a finished directory, ascending."""
  if not directory.is_dir():
    return []
  names = (path.name for path in directory.iterdir() if path.is_dir())
  return sorted(int(x) for x in names if x.isascii() and x.isdecimal())


def _losses(directory: pathlib.Path) -> dict[int, float]:
  """Returns `_loss` by step; -inf where it cannot be read."""
  losses = {}
  for step in _steps(directory):
    try:
      losses[step] = _loss(manifest_lib.read(directory / str(step)))
    except (manifest_lib.CorruptError, manifest_lib.CheckpointError):
      losses[step] = -math.inf  # first in line: `restore` will say why
  return losses


def _loss(manifest: dict[str, Any]) -> float:
  """Returns the validation loss; inf where it is missing or not finite."""
  loss = manifest['metrics'].get(LOSS, math.inf)
  return loss if math.isfinite(loss) else math.inf


def _ranked(losses: dict[int, float], which: str) -> list[int]:
  """Returns the steps, first choice first; of equal losses the newer."""
  if which == 'latest':
    return sorted(losses, reverse=True)
  return sorted(losses, key=lambda step: (losses[step], -step))


def _free_name(path: pathlib.Path) -> pathlib.Path:
  """Returns `path`, or the first of `path`_2, `path`_3, ... that is free."""
  free, count = path, 1
  while free.exists():
    count += 1
    free = path.with_name(f'{path.name}_{count}')
  return free


def _save_error(
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
      f' {remedy} and run again: the checkpoints before it are whole',
      number,
  )


@contextlib.contextmanager
def _silent_orbax() -> Iterator[None]:
  """Drops what Orbax logs: 20 lines a save, tracebacks of what it raises.

  Where a save fails, writes that are under way report to a loop that is closed
  by then, each with a traceback: this stays silenced.
  """
  import orbax.checkpoint as ocp

  folder = os.path.dirname(ocp.__file__)
  logger = logging.get_absl_logger()
  is_ours = lambda record: not record.pathname.startswith(folder)
  logger.addFilter(is_ours)
  hook = sys.excepthook
  sys.excepthook = functools.partial(_print_unless_closed, hook)
  try:
    yield
    sys.excepthook = hook
  finally:
    logger.removeFilter(is_ours)


def _print_unless_closed(hook, kind, error, trace) -> None:
  """As `sys.excepthook`, but for a loop that is closed."""
  if not (kind is RuntimeError and str(error) == 'Event loop is closed'):
    hook(kind, error, trace)


def _remove_unfinished(directory: pathlib.Path, step: int) -> None:
  """Removes what a failed save of `step` has left."""
  for path in directory.glob(f'{step}.orbax-checkpoint-tmp*'):
    shutil.rmtree(path, ignore_errors=True)


def _broadcast(data: bytes) -> bytes:
  """Returns process 0's `data` on every process."""
  size = np.array(divmod(len(data), _CHUNK), np.int32)
  num_chunks, rest = multihost_utils.broadcast_one_to_all(size).tolist()
  parts = []
  for size in [_CHUNK] * num_chunks + [rest] * bool(rest):
    part = np.zeros(size, np.uint8)
    if jax.process_index() == 0:
      start = _CHUNK * len(parts)
      part = np.frombuffer(data, np.uint8, size, start)
    part = multihost_utils.broadcast_one_to_all(part)
    parts.append(np.asarray(part).tobytes())
  return b''.join(parts)
