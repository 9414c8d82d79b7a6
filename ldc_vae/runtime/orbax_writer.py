"""Writes a checkpoint's folder with Orbax.

Importing Orbax takes a third of a second, so only a save imports it.
"""

from collections.abc import Iterator
import contextlib
import functools
import os
import pathlib
import sys
from typing import Any

from absl import logging
import numpy as np

from ldc_vae.runtime import durable

_UNFINISHED = '.unfinished-tmp'  # what Orbax makes, before it is synced


def write(
  directory: pathlib.Path,
  manifest: dict[str, Any],
  values: dict[str, np.ndarray],
) -> None:
  """Writes `<step>/`, which appears whole, and is on the disk by then.

  Args:
    directory: The folder of checkpoints.
    manifest: The item `manifest`; its 'step' names the folder.
    values: The item `state`, arrays by name.

  Raises:
    OSError: A file cannot be written. Nothing of the step is left then.
  """
  path = directory / str(manifest['step'])
  temporary = path.with_name(path.name + _UNFINISHED)
  remove_unfinished(directory)
  try:
    with _silenced():
      _write(temporary, manifest, values)
    durable.replace(temporary, path)
  except BaseException:
    remove_unfinished(directory)
    raise


def remove_unfinished(directory: pathlib.Path) -> None:
  """Removes what saves have left that failed or were killed."""
  for path in directory.glob('[0-9]*-tmp*'):
    durable.delete(path)


def _write(path, manifest, values) -> None:
  """Writes a folder, without a word to the log."""
  import orbax.checkpoint as ocp

  options = ocp.options.MultiprocessingOptions(
    active_processes={0}, barrier_sync_key_prefix='process_0'
  )
  handler = ocp.CompositeCheckpointHandler(
    composite_options=ocp.CompositeOptions(multiprocessing_options=options),
    state=ocp.PyTreeCheckpointHandler(  # as `_read_array` expects it
      use_ocdbt=True, use_zarr3=False, multiprocessing_options=options
    ),
    manifest=ocp.JsonCheckpointHandler(multiprocessing_options=options),
  )
  items = {'manifest': ocp.args.JsonSave(manifest)}
  payload = {name: x for name, x in values.items() if x.size}
  if payload:  # Orbax saves no empty array, and no empty dictionary
    items['state'] = ocp.args.PyTreeSave(payload)
  # synchronous: this is the background already
  with ocp.Checkpointer(handler, multiprocessing_options=options) as writer:
    writer.save(path, args=ocp.args.Composite(**items))
  if payload and not (path / 'state/manifest.ocdbt').is_file():
    # tensorstore takes some names for patterns, and finds nothing to keep
    raise OSError('tensorstore has kept nothing below a name like this')


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
