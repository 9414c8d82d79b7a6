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
import hashlib
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
import jax.numpy as jnp
import numpy as np
import tensorstore

PyTree = Any

LOSS = 'validation/loss'  # the metric by which a checkpoint is best; lower is
NUM_LATEST = 2  # one more than needed, to fall back to

_FORMAT = 1  # of the manifest
_CHUNK = 1 << 26  # bytes of one broadcast between processes
# What stands for a jax array in a template.
_JAX_LEAF = (jax.Array, jax.ShapeDtypeStruct)
_DELETED = 'deleted'  # the subdirectory of what is being deleted
_REMEDIES = {
    errno.ENOSPC: 'free some disk space',
    errno.EDQUOT: 'free some of the disk quota',
    errno.EFBIG: 'raise the file size limit (ulimit -f)',
    errno.EROFS: 'make the directory writable',
    errno.EACCES: 'make the directory writable',
    errno.ENOENT: 'put the directory back',
}


class CheckpointError(OSError):
  """A checkpoint cannot be written, or cannot be restored as asked."""

  def __init__(self, message: str, number: int | None = None):
    super().__init__(message)  # no '[Errno 28]' before the sentence
    self.errno = number


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
        raise CheckpointError(
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
      raise CheckpointError(
          f'checkpoint {step} not saved: {self._directory} was opened with'
          ' read_only=True'
      )
    if step < 0:
      raise ValueError(f'step={step} of a checkpoint must not be negative')
    if jax.process_index() != 0:
      return
    values, entries = _to_host(state)
    manifest = {
        'format': _FORMAT,
        'step': int(step),
        'leaves': entries,
        'metrics': {name: _scalar(name, x) for name, x in metrics.items()},
        'meta': _to_json(meta),
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
    leaves = [_like_leaf(x, values[name])
              for name, x in zip(_names(like), leaves, strict=True)]
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
        name: _entry(name, values[name], **entry)
        for name, entry in manifest['leaves'].items()
    }
    manifest['digest'] = _manifest_digest(manifest)
    try:
      if path.exists():
        if _is_whole(path, manifest['digest']):
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
        manifest = _read_manifest(path)
        _check_like(path, manifest, like)
        values = _read_values(path, manifest)
      except _CorruptError as error:
        if path.exists():  # else deleted while we read: newer ones are there
          corrupt[steps[0]] = str(error)
        continue
      for step, reason in corrupt.items():
        self._set_aside(step, reason, steps[0])
      return manifest, values
    if corrupt:
      reasons = '; '.join(f'{step}: {why}' for step, why in corrupt.items())
      raise CheckpointError(
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
      raise failure or CheckpointError(header['error'])
    if 'manifest' not in header:
      return None
    values, offset = {}, 0
    for name, entry in header['manifest']['leaves'].items():
      value = np.frombuffer(
          body, _storage_dtype(entry['dtype']), math.prod(entry['stored']),
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
      _read_values(path, _read_manifest(path))
    except _CorruptError as error:
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
    with contextlib.suppress(_CorruptError):
      return _read_manifest(directory / str(step))['meta']
  return None


class _CorruptError(Exception):
  """A checkpoint does not hold what was saved."""


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
        error.errno, 'choose a directory that can be written to'
    )
    if not directory.parent.exists():
      remedy = f'create {directory.parent} first'
    elif directory.exists() and not directory.is_dir():
      remedy = 'a file has this name: move it away'
    raise CheckpointError(
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
      losses[step] = _loss(_read_manifest(directory / str(step)))
    except (_CorruptError, CheckpointError):
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


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
  """Reads and verifies the manifest of the checkpoint at `path`."""
  try:
    manifest = json.loads((path / 'manifest' / 'metadata').read_bytes())
    whole = manifest.get('digest') == _manifest_digest(manifest)
  except Exception as error:
    _raise_if_unreadable(path)
    raise _CorruptError(f'its manifest: {_one_line(error)}') from error
  if not whole:
    raise _CorruptError('its manifest does not match its digest')
  if path.name != str(manifest['step']):
    raise _CorruptError(f'its manifest is that of step {manifest["step"]}')
  if manifest['format'] != _FORMAT:
    raise CheckpointError(
        f'checkpoint {path} has format {manifest["format"]} but this version'
        f' reads format {_FORMAT}; use the version that wrote it'
    )
  return manifest


def _read_values(
    path: pathlib.Path, manifest: dict[str, Any]
) -> dict[str, np.ndarray]:
  """Reads and verifies the leaves of the checkpoint at `path`, by name."""
  values = {}
  for name, entry in manifest['leaves'].items():
    value = np.zeros(entry['stored'], _storage_dtype(entry['dtype']))
    if value.size:
      value = _read_array(path, name)
    if _entry(name, value, entry['dtype'], entry['shape']) != entry:
      raise _CorruptError(f'{name} does not match its digest')
    values[name] = value
  return values


def _read_array(path: pathlib.Path, name: str) -> np.ndarray:
  """Reads one array of the checkpoint at `path`.

  Not through Orbax: it reads all arrays at once, and when one is corrupt the
  threads of the others print tracebacks.
  """
  spec = {
      'driver': 'zarr',
      'kvstore': {
          'driver': 'ocdbt',
          'base': (path / 'state').as_uri(),
          'path': f'{name}/',
      },
  }
  try:
    array = tensorstore.open(spec, open=True, read=True).result()
    return array.read().result()
  except MemoryError:
    raise
  except Exception as error:
    _raise_if_unreadable(path)
    raise _CorruptError(f'{name}: {_one_line(error)}') from error


def _raise_if_unreadable(path: pathlib.Path) -> None:
  """Raises if this process may not read a file: that is no corruption."""
  for file in path.rglob('*'):
    try:
      if file.is_file():
        file.open('rb').close()
    except FileNotFoundError:
      pass  # deleted since it was listed
    except OSError as error:
      raise CheckpointError(
          f'checkpoint {path} cannot be read ({error.strerror}: {file}); make'
          ' it readable',
          error.errno,
      ) from error


def _free_name(path: pathlib.Path) -> pathlib.Path:
  """Returns `path`, or the first of `path`_2, `path`_3, ... that is free."""
  free, count = path, 1
  while free.exists():
    count += 1
    free = path.with_name(f'{path.name}_{count}')
  return free


def _is_whole(path: pathlib.Path, digest: str) -> bool:
  """Returns whether the checkpoint at `path` verifies and has this digest."""
  try:
    manifest = _read_manifest(path)
    if manifest['digest'] != digest:
      return False
    _read_values(path, manifest)
  except _CorruptError:
    return False
  return True


def _check_like(
    path: pathlib.Path, manifest: dict[str, Any], like: PyTree
) -> None:
  """Raises if the checkpoint's leaves differ from those of `like`."""
  saved = {
      name: f'{entry["dtype"]}{entry["shape"]}'
      for name, entry in manifest['leaves'].items()
  }
  wanted = {
      name: f'{_dtype_name(x)}{list(np.shape(x))}'
      for name, x in zip(_names(like), jax.tree.leaves(like), strict=True)
  }
  for name in [*wanted, *(x for x in saved if x not in wanted)]:
    if saved.get(name) != wanted.get(name):
      raise CheckpointError(
          f'checkpoint {path} has {name}: {saved.get(name, "nothing")} where'
          f' this run has {wanted.get(name, "nothing")}; use the config that it'
          ' was trained with, or another directory'
      )


def _names(tree: PyTree) -> list[str]:
  """Returns the name of every leaf, such as 'params.encoder.kernel'."""
  names = []
  for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
    name = jax.tree_util.keystr(path, simple=True, separator='.')
    names.append(name or 'state')  # the state may be one array
  if len(set(names)) < len(names):
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'two leaves of the state are named {twice!r}; rename one')
  return names


def _is_key(leaf: Any) -> bool:
  """Returns whether `leaf` is an array of typed PRNG keys, or its shape."""
  return isinstance(leaf, _JAX_LEAF) and jnp.issubdtype(
      leaf.dtype, jax.dtypes.prng_key
  )


def _dtype_name(leaf: Any) -> str:
  """Returns the dtype of a leaf as the manifest spells it."""
  if hasattr(leaf, 'dtype'):
    return leaf.dtype.name
  return np.asarray(leaf).dtype.name


def _storage_dtype(name: str) -> np.dtype:
  """Returns the dtype in which leaves of dtype `name` are stored."""
  return np.dtype(np.uint32) if name.startswith('key<') else jnp.dtype(name)


def _to_host(
    state: PyTree,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
  """Returns the leaves by name, as NumPy copies, and what they stand for."""
  names, leaves = _names(state), jax.tree.leaves(state)
  entries = {}
  for name, leaf in zip(names, leaves, strict=True):
    entries[name] = {'dtype': _dtype_name(leaf), 'shape': list(np.shape(leaf))}
    if isinstance(leaf, jax.Array):
      if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        raise ValueError(
            f'{name} is sharded over processes; replicate it before saving'
        )
    elif np.asarray(leaf).dtype.kind in 'OSUMm':
      raise ValueError(
          f'{name} is a {type(leaf).__name__}; only numbers and arrays of'
          ' numbers can be saved'
      )
  # All transfers start before the first is waited for.
  leaves = jax.device_get(
      [jax.random.key_data(x) if _is_key(x) else x for x in leaves]
  )
  values = {}
  for name, leaf in zip(names, leaves, strict=True):
    dtype = _storage_dtype(entries[name]['dtype'])  # of native byte order
    values[name] = np.array(leaf, dtype, order='C', copy=True)
  return values, entries


def _like_leaf(like: Any, value: np.ndarray) -> Any:
  """Returns `value` as a leaf of the kind of `like`."""
  if _is_key(like):
    return jax.random.wrap_key_data(
        jnp.array(value), impl=jax.random.key_impl(like)
    )
  if isinstance(like, _JAX_LEAF):
    if like.weak_type:  # must stay so, as later promotions depend on it
      zero = np.zeros((), like.dtype).item()  # Python's numbers are weak
      return jnp.full(like.shape, zero).at[...].set(value)
    return jnp.array(value)
  if isinstance(like, np.ndarray):
    return np.array(value)
  if isinstance(like, np.generic):
    return value[()]
  return type(like)(value.item())


def _entry(
    name: str, value: np.ndarray, dtype: str, shape: list[int]
) -> dict[str, Any]:
  """Returns the manifest's entry of one leaf."""
  stored = list(value.shape)  # differs from `shape` for keys
  header = json.dumps([name, dtype, shape, value.dtype.name, stored])
  digest = hashlib.sha256(header.encode())
  digest.update(np.ascontiguousarray(value).view(np.uint8).data)
  return {
      'dtype': dtype,
      'shape': shape,
      'stored': stored,
      'sha256': digest.hexdigest(),
  }


def _manifest_digest(manifest: dict[str, Any]) -> str:
  """Returns the SHA-256 of everything in the manifest but its digest."""
  content = {key: x for key, x in manifest.items() if key != 'digest'}
  return hashlib.sha256(
      json.dumps(content, sort_keys=True).encode()
  ).hexdigest()


def _scalar(name: str, value: Any) -> float:
  """Returns a metric as a number."""
  if np.size(value) != 1:
    raise ValueError(
        f'metric {name} has shape {np.shape(value)}; a checkpoint stores'
        ' scalars: take a mean'
    )
  return float(np.asarray(value).item())


def _to_json(meta: Mapping[str, Any]) -> dict[str, Any]:
  """Returns `meta` as JSON will give it back."""
  try:
    return json.loads(json.dumps(dict(meta), default=lambda x: x.tolist()))
  except (AttributeError, TypeError, ValueError) as error:
    raise ValueError(
        f'meta cannot be saved ({error}); use numbers, strings, lists and'
        ' dictionaries'
    ) from error


def _one_line(error: BaseException) -> str:
  """Returns the first line of an error, short enough for a sentence."""
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:200]}'


def _save_error(
    directory: pathlib.Path, step: int, error: BaseException
) -> CheckpointError:
  """Returns the sentence to raise for a save that failed."""
  number, text = getattr(error, 'errno', None), str(error)
  for known in _REMEDIES:
    if os.strerror(known) in text:  # Orbax wraps the system's error in others
      number = number or known
  cause = os.strerror(number) if number else _one_line(error)
  remedy = _REMEDIES.get(number, 'check the disk')
  return CheckpointError(
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
