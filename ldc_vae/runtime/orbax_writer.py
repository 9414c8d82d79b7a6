"""Writes a checkpoint's folder with Orbax.

Importing Orbax takes a third of a second, so only a save imports it.
"""

from collections.abc import Iterable, Iterator
import contextlib
import functools
import os
import pathlib
import shutil
import sys
from typing import Any

from absl import logging
import numpy as np

DELETED = 'deleted'  # the subfolder of checkpoints that are being deleted


def write(
  directory: pathlib.Path,
  manifest: dict[str, Any],
  values: dict[str, np.ndarray],
  *,
  kept: Iterable[int],
  num_latest: int,
) -> None:
  """Writes `<step>/` atomically, then deletes what is not to be kept.

  Args:
    directory: The folder of checkpoints.
    manifest: The item `manifest`; its 'step' names the folder.
    values: The item `state`, arrays by name.
    kept: Steps that stay whatever happens.
    num_latest: The number of newest checkpoints that stay too.

  Raises:
    OSError: A file cannot be written. Nothing of the step is left then.
  """
  try:
    with _silenced():
      _write(directory, manifest, values, kept, num_latest)
  except BaseException:
    for path in directory.glob(f'{manifest["step"]}.orbax-checkpoint-tmp*'):
      shutil.rmtree(path, ignore_errors=True)
    raise


def _write(directory, manifest, values, kept, num_latest) -> None:
  """Writes, without a word to the log."""
  import orbax.checkpoint as ocp

  step = manifest['step']
  policies = ocp.checkpoint_managers
  options = ocp.CheckpointManagerOptions(
    create=False,
    cleanup_tmp_directories=True,
    enable_async_checkpointing=False,  # this is the background already
    lightweight_initialize=True,  # a corrupt old one must not stop a save
    todelete_subdir=DELETED,  # renamed: never seen half deleted
    preservation_policy=policies.AnyPreservationPolicy(
      [
        policies.LatestN(num_latest),
        policies.CustomSteps(sorted(kept)),
      ]
    ),
    multiprocessing_options=ocp.options.MultiprocessingOptions(
      active_processes={0}, barrier_sync_key_prefix='process_0'
    ),
  )
  items = {'manifest': ocp.args.JsonSave(manifest)}
  payload = {name: x for name, x in values.items() if x.size}
  if payload:  # Orbax saves no empty array, and no empty dictionary
    items['state'] = ocp.args.PyTreeSave(payload)
  # Each save opens its own manager (10 ms), which then knows what is on disk,
  # also after a save that failed.
  with ocp.CheckpointManager(
    directory,
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
  path = directory / str(step)
  if payload and not (path / 'state/manifest.ocdbt').is_file():
    # tensorstore takes some names for patterns, and finds nothing to keep
    shutil.rmtree(path)
    raise OSError('tensorstore has kept nothing below a name like this')
  shutil.rmtree(directory / DELETED, ignore_errors=True)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
  """Drops what Orbax logs: 20 lines a save, tracebacks of what it raises.

  Where a save fails, writes that are under way report to a loop that is closed
  by then, each with a traceback: this stays silenced.
  """
  import orbax.checkpoint as ocp

  folder = os.path.dirname(ocp.__file__)
  logger = logging.get_absl_logger()
  is_ours = lambda record: not record.pathname.startswith(folder)
  logger.addFilter(is_ours)
  hook, unraisable = sys.excepthook, sys.unraisablehook
  sys.excepthook = functools.partial(_print_unless_closed, hook)
  sys.unraisablehook = functools.partial(_drop_closed, unraisable)
  try:
    yield
    sys.excepthook, sys.unraisablehook = hook, unraisable
  finally:
    logger.removeFilter(is_ours)


def _drop_closed(hook, unraisable) -> None:
  """As `sys.unraisablehook`, but for a loop that is closed."""
  if str(unraisable.exc_value) != 'Event loop is closed':
    hook(unraisable)


def _print_unless_closed(hook, kind, error, trace) -> None:
  """As `sys.excepthook`, but for a loop that is closed."""
  if not (kind is RuntimeError and str(error) == 'Event loop is closed'):
    hook(kind, error, trace)
