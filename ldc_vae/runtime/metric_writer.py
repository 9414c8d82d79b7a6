"""A growing file of metrics, one JSON object per line."""

from collections.abc import Iterable, Mapping
import contextlib
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
from typing import Any

import jax
import numpy as np

from ldc_vae.runtime import durable
from ldc_vae.runtime import files

NAME = 'metrics.jsonl'  # in a workdir

# Of the lines. Checkpoints keep it, as every line is a row of metrics.
FORMAT = 1


class MetricWriter:
  """Appends metrics to a file, one JSON object per line.

  Each line goes to the operating system in one piece, so that a reader of the
  growing file sees whole lines.
  """

  def __init__(self, path: files.Path):
    """Opens `path` for appending and drops a torn last line.

    Args:
      path: The file; made if it is missing.
    """
    self._path = pathlib.Path(path)
    self._file: io.FileIO | None = None
    self._record = record_of(())
    if jax.process_index() == 0:
      self._open()
      self._keep_lines(lambda unused_row: True)

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *unused_exc_info) -> None:
    self.close()

  def write(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Appends `{"step": step, name: value, ...}`.

    Args:
      step: The step that the metrics belong to.
      metrics: Scalars by name. One that is not finite, or None, becomes null.

    Raises:
      ValueError: If a metric is named 'step' or is not a scalar.
      FileError: If the line cannot be written; the file is as before, then.
    """
    row: dict[str, Any] = {'step': int(step)}
    for name, value in metrics.items():
      if name == 'step':
        raise ValueError("metric name 'step' is taken by the step itself")
      if value is not None and np.size(value) != 1:
        raise ValueError(
          f'metric {name} has shape {np.shape(value)}; write scalars: take a'
          ' mean'
        )
      row[name] = None if value is None else float(np.asarray(value).item())
    if self._file is None:
      return
    line = json.dumps(files.finite(row)).encode() + b'\n'
    size = self._file.seek(0, os.SEEK_END)
    try:
      # Unbuffered: one write call, or several where the disk is filling up.
      rest = memoryview(line)
      while rest:
        rest = rest[self._file.write(rest) :]
    except OSError as error:
      with contextlib.suppress(OSError):
        self._file.truncate(size)
      raise files.file_error(self._path, error) from error
    self._record = record_of((line,), self._record)

  @property
  def record(self) -> dict[str, Any]:
    """The count and the digest of the lines as they were written.

    `damage` compares them with the file.
    """
    return self._record

  def sync(self) -> None:
    """Waits until the lines are on the disk; on process 0, as all writing."""
    try:
      durable.sync(self._path)
    except OSError as error:
      raise files.file_error(self._path, error) from error

  def truncate_after(
    self, step: int, record: Mapping[str, Any] | None = None
  ) -> None:
    """Drops the lines of later steps, and what is torn.

    A run that resumes from `step` then has each step once.

    Args:
      step: The last step to keep; -1 drops every line.
      record: What `record` was for those lines, if that is known.
    """
    if self._file is not None:
      self._keep_lines(lambda row: row['step'] <= step)
      self._record = dict(record or self._record)

  def close(self) -> None:
    """Closes the file."""
    if self._file is not None:
      self._file.close()
      self._file = None

  def _open(self) -> None:
    """Opens the file for appending."""
    try:
      self._file = open(self._path, 'ab', buffering=0, opener=durable.opener)
      durable.sync(self._path.parent)
    except OSError as error:
      raise files.file_error(self._path, error) from error

  def _keep_lines(self, predicate) -> None:
    """Keeps the whole lines whose row satisfies `predicate`."""
    old = self._path.read_bytes()
    lines = old.splitlines(keepends=True)
    rows = [_parse_row(line) for line in lines]
    new = b''.join(
      line.rstrip(b'\r\n') + b'\n'
      for line, row in zip(lines, rows, strict=True)
      if row is not None and predicate(row)
    )
    self._record = record_of(new.splitlines(keepends=True))
    if new == old:
      return
    with files.open_atomically(self._path) as file:
      file.write(new)
    self.close()  # it is still the old file
    self._open()


def record_of(
  lines: Iterable[bytes], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Returns the format, the count and the digest of lines.

  Each digest has the one before.

  Args:
    lines: With their ends.
    before: The record of the lines before them, if there are any.
  """
  count, digest = (before['rows'], before['sha256']) if before else (0, '')
  for line in lines:
    count += 1
    digest = hashlib.sha256(digest.encode() + line).hexdigest()
  return {'format': FORMAT, 'rows': count, 'sha256': digest}


def damage(path: files.Path, record: Mapping[str, Any] | None) -> str:
  """Returns what is wrong with the first lines of a file; '' if nothing is.

  Args:
    path: The file.
    record: What `MetricWriter.record` was; None passes everything.
  """
  if record is None:
    return ''
  try:
    with open(path, 'rb', opener=durable.opener) as file:
      lines = list(itertools.islice(file, record['rows']))
  except OSError as error:
    return f'{NAME} cannot be read ({error.strerror or error})'
  found = record.get('format', FORMAT)  # earlier versions have none
  if found != FORMAT:
    return f'{NAME} has format {found} but this version reads format {FORMAT}'
  if record_of(lines) == {'format': FORMAT, **record}:
    return ''
  return (
    f'{NAME} is not as it was written: among its first {record["rows"]} lines'
    ' some are lost, doubled or changed'
  )


def count_torn(path: files.Path) -> int:
  """Returns how many lines of a file cannot be read; 0 where it is missing."""
  try:
    lines = pathlib.Path(path).read_bytes().splitlines()
  except FileNotFoundError:
    return 0
  return sum(_parse_row(line) is None for line in lines)


def read_metrics(path: files.Path) -> list[dict[str, Any]]:
  """Reads what a `MetricWriter` wrote.

  Args:
    path: The file.

  Returns:
    One dictionary per line: 'step', an int, and the metrics, NaN where the
    line has null. A torn last line is left out.

  Raises:
    FileError: If the file cannot be read.
  """
  try:
    lines = pathlib.Path(path).read_bytes().splitlines()
  except OSError as error:
    raise durable.FileError(
      f'{path} cannot be read ({error.strerror}); give the workdir of a run',
      error.errno,
    ) from error
  rows = [_parse_row(line) for line in lines]
  return [
    {name: math.nan if x is None else x for name, x in row.items()}
    for row in rows
    if row is not None
  ]


def _parse_row(line: bytes) -> dict[str, Any] | None:
  """Returns the row that a line holds; None if the line is torn."""
  try:
    row = files.parse_json(line)
    return row if isinstance(row['step'], int) else None
  except (ValueError, TypeError, KeyError, RecursionError):
    return None
