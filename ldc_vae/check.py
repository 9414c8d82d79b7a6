"""Whether the files of a workdir are as they were written."""

from collections.abc import Iterator, Mapping
import os
import pathlib
from typing import Any

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import files
from ldc_vae.runtime import manifest
from ldc_vae.runtime import metric_writer
from ldc_vae.runtime import outputs


def check(workdir: str | os.PathLike[str]) -> bool:
  """Prints a line for each checkpoint and file of a run; changes nothing.

  Args:
    workdir: Of a run, or of a comparison, whose runs are all looked at.

  Returns:
    Whether all is as it was written.

  Raises:
    UserError: There is nothing to look at.
    OSError: Something cannot be read.
  """
  workdir = pathlib.Path(workdir)
  runs = [workdir, *sorted(workdir.glob('*/'))]
  runs = [run for run in runs if (run / 'checkpoints').is_dir()]
  if not runs:
    raise errors.UserError(
      f'--workdir={workdir}: it holds no checkpoint; train it first'
    )
  whole = True
  for run in runs:
    for path, damage in _look_at(run):
      print(f'{path}: {damage or "ok"}')
      whole = whole and not damage
  return whole


def _look_at(run: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
  """Yields each part of a run, and what is wrong with it."""
  checkpoints = run / 'checkpoints'
  verdicts = checkpoint_folder.verify(checkpoints)
  for verdict in verdicts:
    yield checkpoints / str(verdict.step), verdict.reason
  whole = [verdict.step for verdict in verdicts if verdict.ok]
  stored = {}
  if not whole:
    yield checkpoints, 'no checkpoint verifies: nothing can be continued'
  else:
    newest = manifest.read(checkpoints / str(whole[-1]))
    path = run / metric_writer.NAME
    record = newest['meta'].get(metric_writer.NAME)
    yield path, metric_writer.damage(path, record)
    stored = newest['meta'].get('config') or {}
  yield run / 'config.json', _damage_of_config(run / 'config.json', stored)
  path = run / outputs.RESULTS
  results = files.read_json(path)
  if outputs.is_interrupted(run):
    yield path, 'was being replaced; evaluate again (--mode=evaluate)'
  elif isinstance(results, Mapping):
    yield path, outputs.damage(run, results)
  elif path.exists():
    yield path, 'damaged; evaluate again (--mode=evaluate)'


def _damage_of_config(path: pathlib.Path, stored: Mapping[str, Any]) -> str:
  """Returns what is wrong with config.json, '' if nothing is.

  Args:
    path: The file.
    stored: The config that the newest checkpoint holds; empty if unknown.
  """
  record = files.read_json(path)
  if not isinstance(record, Mapping):
    return 'missing or damaged: the next start writes it again'
  config = record.get('config')
  config = config if isinstance(config, Mapping) else {}
  changed = stored and config_lib.differences(stored, config)
  if changed:
    return (
      f'differs from its checkpoint in config.{changed[0]}; delete it and start'
      ' the run again'
    )
  return ''
