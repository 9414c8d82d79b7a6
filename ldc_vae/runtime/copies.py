"""The threads in which the writers of `writers.py` work.

A writer that fails, waits or is offline never stops a run: it is left out, with
one warning. A file beside it says what it has written, so that a run that goes
on has each row once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import contextlib
import functools
import importlib.util
import json
import pathlib
import queue
import secrets
import threading
import time
from typing import Any

from absl import logging
import numpy as np

from ldc_vae import formats
from ldc_vae.runtime import writers

# Rows that may wait for a slow writer. Later ones are lost to it.
_MAX_WAITING = 10_000
# Seconds that the end of a training or an evaluation waits for writers, and
# one that is interrupted.
_PATIENCE, _SHORT_PATIENCE = 30.0, 3.0


class Copies:
  """The writers of a run, each in its own thread."""

  def __init__(
    self,
    names: Iterable[str],
    target: writers.Target,
    rows: Sequence[Mapping[str, Any]] = (),
  ):
    """Starts the writers whose package is installed.

    Args:
      names: Keys of `writers.WRITERS`; others are left out.
      target: The run.
      rows: The rows of metrics.jsonl so far. A writer takes those that it has
        not written in an earlier start.
    """
    self._workers = []
    for name in set(names) & set(writers.WRITERS):
      writer = writers.WRITERS[name]
      if importlib.util.find_spec(writer.package) is None:
        _warn_of_missing(name)
        continue
      self._workers.append(_Worker(name, writer, target, rows))

  def __enter__(self) -> 'Copies':
    return self

  def __exit__(self, error_type, *unused_exc_info) -> None:
    self.close(_SHORT_PATIENCE if error_type else _PATIENCE)

  def scalars(self, step: int, row: Mapping[str, float | None]) -> None:
    """Gives a row of metrics to every writer."""
    for worker in self._workers:
      worker.put(functools.partial(_write_row, step=step, row=row))

  def evaluation(
    self,
    step: int,
    results: Mapping[str, Any],
    figures: pathlib.Path,
    latents: Mapping[str, np.ndarray],
  ) -> None:
    """Gives an evaluation to every writer.

    Args:
      step: The step of the checkpoint.
      results: The content of results.json; its finite numbers are written.
      figures: The folder of its pictures.
      latents: Latents [N, D] by latent source.
    """
    pictures = {path.stem: path for path in sorted(figures.glob('*.png'))}
    found = writers.Evaluation(step, _numbers(results), pictures, latents)
    for worker in self._workers:
      worker.put(lambda writer, record: writer.evaluation(found))

  def close(self, patience: float = _PATIENCE) -> None:
    """Ends the writers, and leaves out one that takes longer, in seconds."""
    end = time.monotonic() + patience
    for worker in self._workers:
      worker.put(None)
    for worker in self._workers:
      worker.join(end - time.monotonic())
    self._workers = []


class _Record:
  """What a writer has written, in a file beside it.

  Attributes:
    identity: The same in each start of a run.
    step: The last step that is written; -1 if the run has just begun.
  """

  def __init__(self, name: str, target: writers.Target):
    self._path = target.folder / f'{name}.json'
    self._config = dict(target.config)
    self.identity, self.step = secrets.token_hex(8), -1
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      content = json.loads(self._path.read_text())
      identity, step = str(content['id']), int(content['step'])
      if target.step > 0 or content['config'] == self._config:
        self.identity, self.step = identity, step
        return
    self.advance(-1)  # an evaluation alone has no step to write

  def advance(self, step: int) -> None:
    """Says that a step is written."""
    self.step = step
    content = {'id': self.identity, 'step': step, 'config': self._config}
    new = self._path.with_suffix('.json.new')
    new.write_text(json.dumps(content))
    new.replace(self._path)


class _Worker:
  """Calls one writer, in the order of the calls, in a thread."""

  def __init__(
    self, name: str, writer: type[writers.Writer], target: writers.Target, rows
  ):
    self._name, self._writer, self._target = name, writer, target
    self._rows = rows
    self._calls: queue.Queue = queue.Queue(_MAX_WAITING)
    self._has_failed = False
    self._thread = threading.Thread(
      target=self._run, name=f'writer {name}', daemon=True
    )
    self._thread.start()

  def put(self, call: Callable[[writers.Writer, _Record], None] | None) -> None:
    """Queues a call, or None for the end; never waits."""
    if self._has_failed:
      return
    try:
      self._calls.put_nowait(call)
    except queue.Full:
      self._fail(f'it is {_MAX_WAITING} rows behind')

  def join(self, seconds: float) -> None:
    """Waits for the calls, so long at most."""
    self._thread.join(max(seconds, 0.0))
    if self._thread.is_alive() and not self._has_failed:
      self._fail('it takes long to end')

  def _run(self) -> None:
    """Makes the writer and takes the calls, until one fails."""
    try:
      self._target.folder.mkdir(parents=True, exist_ok=True)
      record = _Record(self._name, self._target)
      writer = self._writer(self._target, record.identity, record.step)
      for row in self._rows:
        if not self._has_failed:
          _write_row(writer, record, row['step'], row)
      while not self._has_failed and (call := self._calls.get()) is not None:
        call(writer, record)
      writer.close()
    except Exception as error:  # whatever a package of others raises
      self._fail(f'{type(error).__name__}: {error}')

  def _fail(self, why: str) -> None:
    """Says once that the writer gets nothing from now on."""
    if not self._has_failed:
      self._has_failed = True
      logging.warning(
        'config.logging.writers: %s is left out from now on; the run goes on'
        ' (%s)',
        self._name,
        ' '.join(why.split())[:300],
      )


def _write_row(writer: writers.Writer, record: _Record, step: int, row) -> None:
  """Writes a row, unless an earlier start has written this step."""
  if step <= record.step:
    return
  # first, as a row too few is better than one that is there twice
  record.advance(step)
  writer.scalars(step, _numbers(row))


@functools.cache
def _warn_of_missing(name: str) -> None:
  """Warns once, though training and evaluation both start the writers."""
  logging.warning(
    'config.logging.writers: %s needs the package %s, which is not installed'
    " (pip install 'ldc_vae[%s]'); the run goes on without it",
    name,
    writers.WRITERS[name].distribution,
    name,
  )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
  """Returns the finite numbers among values, but for the step."""
  return {
    name: float(value)
    for name, value in values.items()
    if name not in ('step', 'last_step') and formats.is_number(value)
  }
