"""What a command prints, which must never end it."""

import contextlib
import io
import os
import sys
from typing import Any, TextIO


class QuietStream:
  """A text stream that drops what cannot be written.

  Its disk may be full, and who reads its pipe may be gone.
  """

  def __init__(self, stream: TextIO):
    """Writes to `stream`."""
    self._stream = stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    """Writes a text, or drops it."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    """Writes what is buffered, or drops it."""
    with contextlib.suppress(OSError, ValueError):
      self._stream.flush()


def protect() -> None:
  """Makes stderr quiet where it cannot be written; opens closed streams.

  Names of files are printed as they are, whatever the locale.
  """
  for descriptor in range(3):
    try:
      os.fstat(descriptor)
    except OSError:  # or a file of ours would get the number of stderr
      os.open(os.devnull, os.O_RDWR)
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(encoding='utf-8', errors='surrogateescape')
  stream = sys.stderr or open(os.devnull, 'w')  # noqa: SIM115
  sys.stderr = QuietStream(stream)  # type: ignore[assignment]
