"""What a command prints, which must never end it."""

from collections.abc import Iterator
import contextlib
import io
import os
import sys
from typing import Any, TextIO

from ldc_vae.runtime import durable

# Characters of a message, and of one word in it, such as a path.
_LONGEST, _LONGEST_WORD = 1500, 400


class _Stream:
  """A text stream around another one."""

  def __init__(self, stream: TextIO):
    """Writes to `stream`."""
    self._stream = stream

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


class QuietStream(_Stream):
  """A text stream that drops what cannot be written.

  Its disk may be full, and who reads its pipe may be gone.
  """

  def write(self, text: str) -> int:
    """Writes a text, or drops it."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    """Writes what is buffered, or drops it."""
    with contextlib.suppress(OSError, ValueError):
      self._stream.flush()


class Output(_Stream):
  """Standard output: printable text, and one sentence if it cannot be written.

  A pipe that nobody reads raises the system's `BrokenPipeError`.
  """

  def write(self, text: str) -> int:
    """Writes a text, without control characters."""
    with self._explained():
      self._stream.write(printable(text))
    return len(text)

  def flush(self) -> None:
    """Writes what is buffered."""
    with self._explained():
      self._stream.flush()

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    """Says what cannot be written."""
    try:
      yield
    except BrokenPipeError:
      raise
    except OSError as error:
      raise durable.FileError(
        f'standard output cannot be written ({error.strerror}); send it to'
        ' another file, or free some disk space',
        error.errno,
      ) from error


def printable(text: str) -> str:
  r"""Returns a text whose control characters are escaped, as '\x1b'.

  A name of a file may hold what moves the cursor of a terminal, or renames its
  window. Line feeds, tabs and the bytes of names that are not UTF-8 stay.
  """
  return ''.join(
    x
    if x.isprintable() or x in '\n\t' or '\udc80' <= x <= '\udcff'
    else x.encode('unicode_escape').decode()
    for x in text
  )


def sentence(text: str) -> str:
  """Returns a message in one line, printable and of a sensible length.

  What a user gave may be endless; its middle is left out.
  """
  words = (_shorten(word, _LONGEST_WORD) for word in text.split())
  return printable(_shorten(' '.join(words), _LONGEST))


def _shorten(text: str, length: int) -> str:
  """Leaves out the middle of a long text."""
  if len(text) <= length:
    return text
  return f'{text[: 2 * length // 3]}...{text[-length // 4 :]}'


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
  nowhere = open(os.devnull, 'w')  # noqa: SIM115
  sys.stderr = QuietStream(sys.stderr or nowhere)  # type: ignore[assignment]
  sys.stdout = Output(sys.stdout or nowhere)  # type: ignore[assignment]
