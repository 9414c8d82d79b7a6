"""Finds a run file and calls its `get_config`.

The run files that come with the package are those of the folder `configs/`. It
is beside `ldc_vae/` in a checkout, and inside it where pip has installed it.
Every run file can say `from ldc_vae.configs import default`.
"""

from collections.abc import Iterable, Iterator
import contextlib
import difflib
import importlib
import importlib.util
import pathlib
import re
import runpy
from typing import Any

from ldc_vae import errors

_PACKAGE = pathlib.Path(__file__).resolve().parent


def _standard_folder() -> pathlib.Path:
  """Returns the folder of the run files that come with the package."""
  installed = _PACKAGE / 'configs'
  return installed if installed.is_dir() else _PACKAGE.parent / 'configs'


FOLDER = _standard_folder()
_LONGEST = 200  # characters of the message of another library

_loaded: set[str] = set()  # the extensions of this process


def names() -> list[str]:
  """Returns the short names of the run files that come with the package."""
  stems = {path.stem for path in FOLDER.glob('[!_]*.py')}
  return sorted(stems - {'default'})


def split(spec: str) -> tuple[str, str]:
  """Splits `FILE[:METHOD][,debug]` into (FILE, 'METHOD,debug')."""
  match = re.fullmatch(r'(.+?\.py|[^:,]*)(?:[:,](.*))?', spec, re.DOTALL)
  return (match[1], match[2] or '') if match else (spec, '')


def find(name: str) -> pathlib.Path:
  """Returns the path of a run file.

  Args:
    name: A path, such as `configs/digits.py`, or a short name, such as
      `digits`. A path is relative to the current folder. The files that come
      with the package are found from any folder.

  Raises:
    UserError: If there is no such file.
  """
  path = pathlib.Path(name)
  try:
    for place in (path, FOLDER.parent / path, FOLDER / f'{name}.py'):
      if place.suffix == '.py' and place.is_file():
        return place
  except OSError as error:
    raise errors.UserError(
      f'--config={name} cannot be read ({error.strerror}); give a run file'
      ' that you may read',
      exit_code=1,
    ) from error
  if path.is_dir():
    what = 'this is a folder'
  elif path.is_file():
    what = 'a run file ends in .py (name a trained run by --workdir)'
  else:
    what = 'there is no such file'
    close = difflib.get_close_matches(path.stem, names(), n=1)
    what += f'; did you mean {close[0]}?' if close else ''
  raise errors.UserError(
    f'--config={name}: {what}; give a path, or one of'
    f' {", ".join(names()) or "the names in configs/"}'
  )


def call(spec: str) -> Any:
  """Returns what `get_config(arg)` of a run file returns.

  Args:
    spec: `FILE[:METHOD][,debug]`, where FILE is as in `find`. What follows FILE
      is `arg`.

  Raises:
    UserError: If there is no such file, or if it fails. The sentence names the
      line.
  """
  name, arg = split(spec)
  path = find(name).absolute()
  with explained(f'--config={spec}', path):
    defined = runpy.run_path(str(path))
    if 'get_config' not in defined:
      raise errors.UserError('it does not define get_config(arg)')
    return defined['get_config'](arg)


def load_extensions(names: Iterable[str]) -> None:
  """Imports a user's own files, which register methods and other things.

  Args:
    names: Paths of Python files, or names of modules.

  Raises:
    UserError: A file or module is missing, or raises.
  """
  for name in names:
    key = str(pathlib.Path(name).resolve()) if name.endswith('.py') else name
    if key in _loaded:
      continue
    path = pathlib.Path(key)
    if name.endswith('.py') and not path.is_file():
      raise errors.UserError(
        f'config.extensions={name}: no such file; give its path by'
        ' --config.extensions'
      )
    with explained(f'config.extensions={name}', path):
      if name.endswith('.py'):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec and spec.loader  # it ends in .py
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
      else:
        importlib.import_module(name)
    _loaded.add(key)


@contextlib.contextmanager
def explained(name: str, path: pathlib.Path) -> Iterator[None]:
  """Turns what a user's own file raises into one sentence.

  Args:
    name: The flag or field that names the file, with its value.
    path: The absolute path of the file.

  Raises:
    UserError: For every exception of the block, with the line in the file.
  """
  try:
    yield
  except errors.UserError as error:
    raise errors.UserError(f'{name}: {error}') from error
  except KeyboardInterrupt:
    raise
  except BaseException as error:  # also SystemExit, by quit()
    message = ''
    with contextlib.suppress(Exception):  # it may be of a class of theirs
      message = ' '.join(str(error).split())[:_LONGEST]
    raise errors.UserError(
      f'{name}: {path}{_line_in(path, error)} raised'
      f' {type(error).__name__}: {message}'
    ) from error


def _line_in(path: pathlib.Path, error: BaseException) -> str:
  """Returns ', line N,' of the innermost frame of an error in `path`."""
  if isinstance(error, SyntaxError):
    return f', line {error.lineno},'
  line, trace = None, error.__traceback__
  while trace is not None:
    if trace.tb_frame.f_code.co_filename == str(path):
      line = trace.tb_lineno
    trace = trace.tb_next
  return '' if line is None else f', line {line},'
