"""What a checkpoint says of itself, and whether it still holds it.

A checkpoint is a folder with the arrays of a state, `state`, and a manifest, a
JSON file with the shape, dtype and SHA-256 of every array, the metrics, the
metadata and a digest of all of these. The digests find what has happened to the
files since they were written.
"""

from collections.abc import Mapping
import hashlib
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore

from ldc_vae.runtime import durable

PyTree = Any

FORMAT = 1  # of the manifest

# What stands for a jax array in a template.
_JAX_LEAF = (jax.Array, jax.ShapeDtypeStruct)


class CheckpointError(durable.FileError):
  """A checkpoint cannot be written, or cannot be restored as asked."""


class AllDamagedError(CheckpointError):
  """No checkpoint of a folder verifies, which another start cannot mend."""

  exit_code = 2


class CorruptError(Exception):
  """A checkpoint does not hold what was saved."""


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads and verifies the manifest of the checkpoint at `path`."""
  try:
    manifest = json.loads((path / 'manifest' / 'metadata').read_bytes())
    whole = manifest.get('digest') == digest(manifest)
  except Exception as error:
    _raise_if_unreadable(path)
    raise CorruptError('manifest/metadata cannot be read') from error
  if not whole:
    raise CorruptError('its manifest does not match its digest')
  if path.name != str(manifest['step']):
    raise CorruptError(f'its manifest is that of step {manifest["step"]}')
  if manifest['format'] != FORMAT:
    raise CheckpointError(
      f'checkpoint {path} has format {manifest["format"]} but this version'
      f' reads format {FORMAT}; use the version that wrote it'
    )
  return manifest


def read_values(
  path: pathlib.Path, manifest: dict[str, Any]
) -> dict[str, np.ndarray]:
  """Reads and verifies the leaves of the checkpoint at `path`, by name."""
  values = {}
  for name, entry in manifest['leaves'].items():
    value = np.zeros(entry['stored'], storage_dtype(entry['dtype']))
    if value.size:
      value = _read_array(path, name)
    if leaf_entry(name, value, entry['dtype'], entry['shape']) != entry:
      raise CorruptError(f'{name} does not match its digest')
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
    file = _named_file(path, error)
    raise CorruptError(f'{name} cannot be read from {file}') from error


def _named_file(path: pathlib.Path, error: BaseException) -> str:
  """Returns the last file of a checkpoint that an error names, or 'state'."""
  named = re.findall(r'local file "([^"]+)"', str(error))
  files = [pathlib.Path(each) for each in named if each.startswith(str(path))]
  found = [each for each in files if each.is_file()]
  return str(found[-1].relative_to(path)) if found else 'state'


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


def is_whole(path: pathlib.Path, digest: str) -> bool:
  """Returns whether the checkpoint at `path` verifies and has this digest."""
  try:
    manifest = read(path)
    if manifest['digest'] != digest:
      return False
    read_values(path, manifest)
  except CorruptError:
    return False
  return True


def check_like(
  path: pathlib.Path, manifest: dict[str, Any], like: PyTree
) -> None:
  """Raises if the checkpoint's leaves differ from those of `like`."""
  saved = {
    name: f'{entry["dtype"]}{entry["shape"]}'
    for name, entry in manifest['leaves'].items()
  }
  wanted = {
    name: f'{_dtype_name(x)}{list(np.shape(x))}'
    for name, x in zip(leaf_names(like), jax.tree.leaves(like), strict=True)
  }
  for name in [*wanted, *(x for x in saved if x not in wanted)]:
    if saved.get(name) != wanted.get(name):
      raise CheckpointError(
        f'checkpoint {path} has {name}: {saved.get(name, "nothing")} where'
        f' this run has {wanted.get(name, "nothing")}; use the config that it'
        ' was trained with, or another directory'
      )


def leaf_names(tree: PyTree) -> list[str]:
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


def storage_dtype(name: str) -> np.dtype:
  """Returns the dtype in which leaves of dtype `name` are stored."""
  return np.dtype(np.uint32) if name.startswith('key<') else jnp.dtype(name)


def to_host(
  state: PyTree,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
  """Returns the leaves by name, as NumPy copies, and what they stand for."""
  names, leaves = leaf_names(state), jax.tree.leaves(state)
  entries: dict[str, dict[str, Any]] = {}
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
    dtype = storage_dtype(entries[name]['dtype'])  # of native byte order
    values[name] = np.array(leaf, dtype, order='C', copy=True)
  return values, entries


def like_leaf(like: Any, value: np.ndarray) -> Any:
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


def leaf_entry(
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


def digest(manifest: dict[str, Any]) -> str:
  """Returns the SHA-256 of everything in the manifest but its digest."""
  content = {key: x for key, x in manifest.items() if key != 'digest'}
  return hashlib.sha256(
    json.dumps(content, sort_keys=True).encode()
  ).hexdigest()


def scalar(name: str, value: Any) -> float:
  """Returns a metric as a number."""
  if np.size(value) != 1:
    raise ValueError(
      f'metric {name} has shape {np.shape(value)}; a checkpoint stores'
      ' scalars: take a mean'
    )
  return float(np.asarray(value).item())


def to_json(meta: Mapping[str, Any]) -> dict[str, Any]:
  """Returns `meta` as JSON will give it back."""
  try:
    return json.loads(json.dumps(dict(meta), default=lambda x: x.tolist()))
  except (AttributeError, TypeError, ValueError) as error:
    raise ValueError(
      f'meta cannot be saved ({error}); use numbers, strings, lists and'
      ' dictionaries'
    ) from error


def one_line(error: BaseException) -> str:
  """Returns the first line of an error, short enough for a sentence."""
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:200]}'
