"""Whether the files of a workdir and of the caches are as they were written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import os
import pathlib
from typing import Any, NamedTuple

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae.data import array_cache
from ldc_vae.evaluation import classifier
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import files
from ldc_vae.runtime import lock
from ldc_vae.runtime import manifest
from ldc_vae.runtime import metric_writer
from ldc_vae.runtime import outputs


class _Part(NamedTuple):
  """A file or folder, what is wrong with it, and what mends it, in words."""

  path: pathlib.Path
  damage: str = ''
  repair_fn: Callable[[], str] | None = None
  state: str = 'ok'


def check(workdir: str | os.PathLike[str], *, repair: bool = False) -> bool:
  """Prints a line for each checkpoint, file of a run and entry of a cache.

  A repair loses nothing that verifies. It completes what killed processes have
  begun, drops torn lines at the end of the metrics, writes config.json again
  from a checkpoint, deletes damaged entries of caches, and sets aside damaged
  results, and damaged checkpoints beside a whole one.

  Args:
    workdir: Of a run, or of a comparison, whose runs are all looked at.
    repair: Whether to repair; else nothing is changed.

  Returns:
    Whether all is as it was written, or repaired.

  Raises:
    UserError: There is nothing to look at, or a run has no whole checkpoint.
    OSError: Something cannot be read, or is in use by another process.
  """
  workdir = pathlib.Path(workdir)
  runs = [workdir, *sorted(workdir.glob('*/'))]
  samplers = [run for run in runs if (run / outputs.SAMPLER).is_file()]
  runs = [run for run in runs if (run / 'checkpoints').is_dir()]
  if not runs and not samplers:
    raise errors.UserError(
      f'--workdir={workdir}: it holds no checkpoint; train it first'
    )
  whole, lost = True, []
  for run in runs:
    with _prepared(run) if repair else contextlib.nullcontext():
      verdicts = checkpoint_folder.verify(run / 'checkpoints')
      if not any(verdict.ok for verdict in verdicts):
        lost.append(run / 'checkpoints')
      whole &= _report(_parts_of_run(run, verdicts), repair)
  for folder in samplers:
    part = _results(folder, 'learn the latents again (--mode=train)')
    whole &= _report(iter([part]), repair)
  whole &= _report(_parts_of_caches(), repair)
  if lost:
    raise errors.UserError(
      f'{lost[0]}: no checkpoint verifies, so that nothing can be continued;'
      ' put a backup in its place, or remove the folder to train from the start'
    )
  return whole


@contextlib.contextmanager
def _prepared(run: pathlib.Path) -> Iterator[None]:
  """Keeps others out of a run, and completes what killed ones have begun."""
  with (
    lock.lock_workdir(run),
    lock.lock_workdir(run, lock.EVALUATION_LOCK_NAME),
  ):
    checkpoint_folder.prepare_directory(run / 'checkpoints')
    outputs.recover(run)
    yield


def _report(parts: Iterator[_Part], repair: bool) -> bool:
  """Prints a line for each part; returns whether all are whole in the end."""
  whole = True
  for part in parts:
    text = part.damage or part.state
    if part.damage and part.repair_fn and repair:
      text += f': {part.repair_fn()}'
    elif part.damage:
      text += '; --repair mends it' if part.repair_fn else ''
      whole = False
    print(f'{part.path}: {text}')
  return whole


def _parts_of_run(
  run: pathlib.Path, verdicts: Sequence[checkpoint_folder.Verification]
) -> Iterator[_Part]:
  """Yields each checkpoint and file of a run."""
  checkpoints = run / 'checkpoints'
  whole = [verdict.step for verdict in verdicts if verdict.ok]
  for verdict in verdicts:
    path = checkpoints / str(verdict.step)
    repair_fn = functools.partial(_set_aside, path, 'corrupt')
    yield _Part(path, verdict.reason, repair_fn if whole else None)
  stored = {}
  if whole:
    newest = manifest.read(checkpoints / str(whole[-1]))
    yield _metrics(run, newest['meta'].get(metric_writer.NAME))
    stored = newest['meta'].get('config') or {}
  yield _config(run / 'config.json', stored)
  yield _results(run)


def _metrics(run: pathlib.Path, record: Mapping[str, Any] | None) -> _Part:
  """Returns the part metrics.jsonl; a checkpoint has a record of it."""
  path = run / metric_writer.NAME
  damage = metric_writer.damage(path, record)
  if damage or not (num_torn := metric_writer.count_torn(path)):
    return _Part(path, damage)
  return _Part(
    path,
    f'torn lines at its end ({num_torn})',
    functools.partial(_drop_torn, path),
  )


def _drop_torn(path: pathlib.Path) -> str:
  """Drops the lines that cannot be read, as the next start does."""
  metric_writer.MetricWriter(path).close()
  return 'dropped them'


def _config(path: pathlib.Path, stored: Mapping[str, Any]) -> _Part:
  """Returns the part config.json, which a checkpoint has `stored` too."""
  record = files.read_record(path)
  damage = ''
  config = record.get('config') if record else None
  config = config if isinstance(config, Mapping) else {}
  if record is None:
    damage = 'missing or damaged'
  elif changed := stored and config_lib.differences(stored, config):
    damage = f'differs from its checkpoint in config.{changed[0]}'
  elif files.is_changed(record):
    damage = 'is not as it was written'
  repair_fn = functools.partial(_write_config, path, stored)
  return _Part(path, damage, repair_fn if stored else None)


def _write_config(path: pathlib.Path, stored: Mapping[str, Any]) -> str:
  """Writes config.json without the versions, which a checkpoint lacks."""
  record = {'format': files.FORMAT, 'config': stored}
  files.write_record(path, record)
  return 'written again from the checkpoint'


def _results(
  run: pathlib.Path, again: str = 'evaluate again (--mode=evaluate)'
) -> _Part:
  """Returns the part results.json, which stands for all files beside it."""
  path = run / outputs.RESULTS
  results = files.read_record(path)
  if outputs.is_interrupted(run):
    damage = 'was being replaced'
  elif results is not None:
    damage = outputs.damage(run, results)
  elif path.exists():
    damage = 'damaged'
  else:
    return _Part(path, state='not evaluated yet')
  return _Part(path, damage, functools.partial(_set_aside_results, path, again))


def _parts_of_caches() -> Iterator[_Part]:
  """Yields each entry of the caches of images and of classifiers."""
  for cache, delete_fn in (
    (array_cache, array_cache.delete),
    (classifier, pathlib.Path.unlink),
  ):
    for path in cache.entries():
      repair_fn = functools.partial(_delete, delete_fn, path)
      yield _Part(path, cache.damage(path), repair_fn)


def _set_aside_results(path: pathlib.Path, again: str) -> str:
  """Renames results.json, so that the next evaluation replaces all of it."""
  return f'{_set_aside(path, "damaged")}; {again}'


def _set_aside(path: pathlib.Path, suffix: str) -> str:
  """Renames a file or folder, which is then written again where needed."""
  return f'set aside as {checkpoint_folder.set_aside(path, suffix).name}'


def _delete(delete_fn: Callable[[pathlib.Path], None], path) -> str:
  """Deletes an entry of a cache."""
  delete_fn(path)
  return 'deleted; it is made again where it is needed'
