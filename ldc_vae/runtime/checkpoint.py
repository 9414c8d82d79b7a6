"""Checkpoints that restore bit for bit, or say that they cannot.

A checkpoint is an Orbax directory `<step>/` with two items: `state`, a flat
dictionary of the leaves by name, and `manifest`, a JSON file with the shape,
dtype and SHA-256 of every leaf, the metrics, the metadata and a digest of all
of these. It appears whole or not at all, by `durable.replace`; the digests
find what happens to it afterwards. The latest two and the best checkpoint, by
`validation/loss`, are kept.

With several processes, process 0 alone reads and writes; the others receive
what it restored. Only what writes imports Orbax, a third of a second: the first
step need not wait for it.
"""

from collections.abc import Callable, Mapping
import concurrent.futures
import importlib.util
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np

from ldc_vae.runtime import checkpoint_folder as folder
from ldc_vae.runtime import cluster
from ldc_vae.runtime import durable
from ldc_vae.runtime import manifest as manifest_lib
from ldc_vae.runtime import orbax_writer

PyTree = Any


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
      folder.prepare_directory(self._directory)

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
    before_fn: Callable[[], None] = lambda: None,
  ) -> None:
    """Copies `state` to the host and writes it in the background.

    The caller may donate or change `state` as soon as this returns. Saving a
    step again is a no-op if nothing differs, and otherwise replaces it.

    Args:
      step: The step of the state; not negative.
      state: A pytree of numbers, NumPy arrays, jax arrays and PRNG keys.
      metrics: Scalars; `validation/loss` among them decides which is best.
      meta: Anything that JSON can hold; its keys become strings.
      before_fn: What the background does before it writes: it syncs the files
        that `meta` speaks of.

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
    self._saving = self._executor.submit(
      self._write, manifest, values, before_fn
    )

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
      AllDamagedError: If there are checkpoints but none verifies.
      CheckpointError: If the one that does differs from `like` in a name, a
        shape or a dtype.
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
    steps = folder.steps(self._directory)
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
    self,
    manifest: dict[str, Any],
    values: dict[str, np.ndarray],
    before_fn: Callable[[], None],
  ) -> None:
    """Writes one checkpoint; runs in the background."""
    step = manifest['step']
    path = self._directory / str(step)
    manifest['leaves'] = {
      name: manifest_lib.leaf_entry(name, values[name], **entry)
      for name, entry in manifest['leaves'].items()
    }
    manifest['digest'] = manifest_lib.digest(manifest)
    try:
      before_fn()
      if path.exists() and manifest_lib.is_whole(path, manifest['digest']):
        return
      losses = folder.losses(self._directory) | {step: folder.loss(manifest)}
      losses = {step: x for step, x in losses.items() if x > -math.inf}
      orbax_writer.write(self._directory, manifest, values)
      kept = {
        step,
        folder.ranked(losses, 'best')[0],
        *folder.ranked(losses, 'latest')[: folder.NUM_LATEST],
      }
      folder.delete_all_but(self._directory, kept)
    except (ImportError, durable.FileError):
      raise
    except Exception as error:
      raise folder.save_error(self._directory, step, error) from error

  def _find(
    self, like: PyTree, which: str
  ) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Returns (manifest, values) of the first checkpoint that verifies."""
    corrupt: dict[int, manifest_lib.CorruptError] = {}
    while steps := [
      step
      for step in folder.ranked(folder.losses(self._directory), which)
      if step not in corrupt
    ]:
      path = self._directory / str(steps[0])
      try:
        manifest = manifest_lib.read(path)
        manifest_lib.check_like(path, manifest, like)
        values = manifest_lib.read_values(path, manifest)
      except manifest_lib.CorruptError as error:
        if path.exists():  # else deleted while we read: newer ones are there
          corrupt[steps[0]] = error
        continue
      for step, reason in corrupt.items():
        self._set_aside(step, str(reason), steps[0])
      return manifest, values
    if corrupt:
      reasons = '; '.join(f'{step}: {why}' for step, why in corrupt.items())
      raise manifest_lib.AllDamagedError(
        f'every checkpoint in {self._directory} is damaged ({reasons}); put a'
        ' backup in its place, or remove the directory to train from the'
        ' start'
      ) from corrupt[max(corrupt)]
    return None

  def _set_aside(self, step: int, reason: str, used: int) -> None:
    """Renames a corrupt checkpoint, so that its step can be saved again."""
    path = self._directory / str(step)
    if self._read_only:
      outcome = 'ignored'
    else:
      try:
        outcome = f'set aside as {folder.set_aside(path, "corrupt").name}'
      except OSError as error:
        outcome = f'left there ({error.strerror})'
    logging.warning(
      'checkpoint %s is corrupt (%s): %s, using checkpoint %d instead',
      path,
      reason,
      outcome,
      used,
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
        is_lost = isinstance(error, manifest_lib.AllDamagedError)
        header = {'error': str(error), 'is_lost': is_lost}
        failure = error
      else:
        if found is not None:
          header = {'manifest': found[0]}
          body = b''.join(x.tobytes() for x in found[1].values())
    header = json.loads(cluster.broadcast(json.dumps(header).encode()))
    body = cluster.broadcast(body)
    if 'error' in header:
      if failure is None and header['is_lost']:
        failure = manifest_lib.AllDamagedError(header['error'])
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
