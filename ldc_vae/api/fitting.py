"""Training from arrays, by the code of the command line.

run = ldc_vae.fit(images, train={'num_epochs': 20})
new_images = run.sample(64)
"""

from collections.abc import Mapping
import contextlib
import hashlib
import math
import os
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import fields as fields_lib
from ldc_vae import methods
from ldc_vae import run_files
from ldc_vae import train
from ldc_vae.api import arguments
from ldc_vae.api import trained_run
from ldc_vae.data import datasets
from ldc_vae.data import pixels
from ldc_vae.runtime import addresses
from ldc_vae.runtime import bucket
from ldc_vae.runtime import caches
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from ldc_vae.runtime import signals

# Images with shorter sides have dense nets by default.
_SMALL, _SMALL_CONFIG, _CONFIG = 16, 'digits', 'images'

_FEWEST = 3  # images
_MAX_BYTES = 16 * 2**30  # of all arrays that are kept

# Fields that the arguments decide.
_GIVEN = ('dataset.name', 'dataset.path', 'dataset.data_dir')


@arguments.naming_arguments
def fit(
  images: Any,
  labels: Any = None,
  method: str | Mapping[str, Any] = 'ldc',
  workdir: str | os.PathLike[str] | None = None,
  *,
  config: str | None = None,
  with_evaluation: bool = False,
  **fields: Any,
) -> trained_run.TrainedRun:
  """Trains on images, or continues a training, and returns the run.

  It is `--mode=train` of the command line: the same files are in the workdir,
  and the same call continues an interrupted run, bit for bit. Of the images a
  tenth is held out for the test, and at most a tenth for the validation.

  Ctrl-C saves a checkpoint and raises KeyboardInterrupt. Then
  `ldc_vae.load(workdir)` gives the run so far.

  Args:
    images: uint8, or floats in [0, 1], shape [N, H, W, C] with C = 1 or 3, or
      [N, H, W] of grey images. A copy is kept in the cache.
    labels: Whole numbers or texts, shape [N], or one-hot rows [N, classes]; for
      the evaluation alone.
    method: The name of a method, such as 'vae', or a dict of its fields with
      its name, such as {'name': 'vae', 'beta': 2.0}.
    workdir: Where the run is; None for a new temporary folder. It may be a
      folder of a bucket, such as 'gs://bucket/run'.
    config: The run file whose fields are the defaults, such as 'mnist'; with
      ',debug' a training takes seconds. None for 'digits' if a side has less
      than 16 pixels, else 'images'.
    with_evaluation: Whether to evaluate the run afterwards: pictures, numbers
      and a report in the workdir.
    **fields: Other fields by group, such as `train={'num_epochs': 20}`,
      `model={'latent_size': 8}`; and `seed=1`. `python -m ldc_vae.main --help
      --config=images` explains all.

  Returns:
    The trained run.

  Raises:
    UserError: The images, the labels or a field cannot be used, or the workdir
      holds a run of another config or on other images.
    FloatingPointError: An update is not finite.
    OSError: A file cannot be read or written, or the workdir is in use.
  """
  trained_run.prepare_jax()
  if jax.process_count() > 1:
    raise errors.UserError(
      'fit trains in one process; use the command line with several'
    )
  images = _checked_images(images)
  labels = _checked_labels(labels, len(images))
  overrides, name = _overrides(method, fields)
  path, arg = run_files.split(config or _default_config(images))
  words = [word for word in arg.split(',') if word]
  for word in words:
    if word in methods.METHODS:
      raise errors.UserError(f'config={config!r}: say method={word!r} instead')
  overrides |= {'dataset.name': 'images', 'dataset.path': 'given'}
  resolved = config_lib.load(f'{path}:{",".join([name, *words])}', overrides)
  # after the mistakes, as it may be large
  kept = str(_keep(images, labels))
  resolved = config_lib.override(resolved, {'dataset.path': kept})
  workdir = workdir or tempfile.mkdtemp(prefix='ldc_vae_')
  mirror: contextlib.AbstractContextManager = contextlib.nullcontext()
  if addresses.is_address(workdir):
    address = str(workdir)
    workdir = addresses.local_folder(address, datasets.cache_dir())
    mirror = bucket.mirrored(address, workdir)
  workdir = pathlib.Path(workdir).expanduser()
  try:
    with signals.watch() as watch, mirror:
      watch.grace = math.inf  # it would end a notebook and all that it holds
      train.train_and_evaluate(
        resolved, workdir, with_evaluation=with_evaluation
      )
  except KeyboardInterrupt:
    raise KeyboardInterrupt(_interrupted(workdir)) from None
  return trained_run.restore(resolved, workdir)


def _interrupted(workdir: pathlib.Path) -> str:
  """Says what an interrupted run has left, and how it goes on."""
  steps = checkpoint_folder.steps(workdir / 'checkpoints')
  if not steps:
    return f'nothing was saved yet in {workdir}'
  return (
    f'step {steps[-1]} is saved: ldc_vae.load({str(workdir)!r}) gives this run,'
    f' and the same call with workdir={str(workdir)!r} continues it'
  )


def _checked_images(images: Any) -> np.ndarray:
  """Returns images uint8 [N, H, W, C], or raises a `UserError`."""
  given = arguments.array('images', images)
  try:
    images = pixels.with_channels(given)
  except ValueError as error:
    raise errors.UserError(f'images have {error}') from None
  if len(images) < _FEWEST:
    raise errors.UserError(
      f'images have shape {given.shape}; give at least {_FEWEST} images, one'
      ' each for train, validation and test'
    )
  pixels.check(images, images.shape[1:])
  return images if images.dtype == np.uint8 else pixels.from_unit(images)


def _checked_labels(labels: Any, num_images: int) -> np.ndarray | None:
  """Returns labels [N], or raises a `UserError`."""
  if labels is None:
    return None
  given = labels = arguments.array('labels', labels)
  if labels.ndim == 2 and labels.dtype.kind in 'iubf':
    ones = labels == 1
    if np.all(ones | (labels == 0)) and np.all(ones.sum(axis=1) == 1):
      labels = ones.argmax(axis=1)
  if labels.dtype.kind == 'f' and np.array_equal(labels, np.rint(labels)):
    labels = labels.astype(np.int64)
  if labels.shape != (num_images,) or labels.dtype.kind not in 'iubUS':
    raise errors.UserError(
      f'labels are {given.dtype}{list(given.shape)}; give a whole number, a'
      f' text or a one-hot row for each of the {num_images} images'
    )
  return labels


def _default_config(images: np.ndarray) -> str:
  """Returns the run file for images."""
  return _SMALL_CONFIG if min(images.shape[1:3]) < _SMALL else _CONFIG


def _overrides(
  method: str | Mapping[str, Any], fields: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
  """Returns fields by dotted name, and the name of the method."""
  own = {'name': method}
  if isinstance(method, Mapping):
    own = dict(method)
  if not isinstance(own.get('name'), str):
    raise errors.UserError(
      f"method={method!r}: give a name, such as 'vae', or a dict with one, such"
      " as {'name': 'vae', 'beta': 2.0}"
    )
  name = own.pop('name')
  if name not in methods.METHODS:
    raise errors.UserError(
      f'method={name!r} is unknown{fields_lib.suggest(name, methods.METHODS)};'
      f' known: {", ".join(methods.METHODS)}'
    )
  flat = config_lib.flatten({**fields, 'method': own})
  for field in _GIVEN:
    if field in flat:
      raise errors.UserError(
        f'{field}: fit takes its images from its first argument; leave it out'
      )
  return flat, name


def _keep(images: np.ndarray, labels: np.ndarray | None) -> pathlib.Path:
  """Writes the arrays into the cache, unless they are there already."""
  digest = hashlib.sha256(str(images.shape).encode())
  digest.update(np.ascontiguousarray(images).data)
  arrays = {'images': images}
  if labels is not None:
    digest.update(str(labels.tolist()).encode())
    arrays['labels'] = labels
  folder = datasets.cache_dir() / 'fitted'
  path = folder / f'{digest.hexdigest()[:16]}.npz'
  if not path.exists():
    durable.make_folder(folder)
    files.write_npz(path, **arrays)
  caches.hold(path)
  caches.drop_oldest(folder.glob('*.npz'), _MAX_BYTES)
  return path
