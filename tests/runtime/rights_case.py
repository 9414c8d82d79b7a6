"""Tests without the rights of root, to whom every file is open."""

from collections.abc import Iterator
import contextlib
import os
import pathlib


@contextlib.contextmanager
def as_nobody(path: str | os.PathLike[str]) -> Iterator[None]:
  """Takes root's rights away; the temporary folders above `path` stay open.

  Args:
    path: What the block looks at; its own mode stays as it is.
  """
  if os.geteuid() != 0:
    yield
    return
  for parent in pathlib.Path(path).absolute().parents:
    if parent.stat().st_mode & 0o777 == 0o700:  # a temporary one
      parent.chmod(0o755)
  os.seteuid(65534)
  try:
    yield
  finally:
    os.seteuid(0)
