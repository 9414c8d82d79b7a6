"""The files of an evaluation: replaced together, and checked by digests.

The files are written to a folder of the workdir. Once all are on the disk, the
folder is renamed, which decides that they replace those of the evaluation
before; then they are moved. An interruption before the renaming leaves the old
files. After one between the moves, `finish` moves the rest.
"""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import pathlib
from typing import Any

from ldc_vae.runtime import durable
from ldc_vae.runtime import files

RESULTS = 'results.json'
SAMPLES = 'samples.npz'
REPORT = 'report.html'
SAMPLER = 'sampler.npz'  # of a file of latents
FIGURES = 'figures'

DIGESTS = 'digests'  # the field of results.json
_UNFINISHED = '.evaluation-unfinished'
_WHOLE = '.evaluation-whole'


@contextlib.contextmanager
def replaced(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a new folder, whose files are moved to the workdir at the end.

  If the block raises, the files in the workdir stay as they are.

  Args:
    workdir: No other process may do this meanwhile.
  """
  recover(workdir)
  folder = workdir / _UNFINISHED
  try:
    folder.mkdir()
    yield folder
    durable.replace(folder, workdir / _WHOLE)
    finish(workdir)
  except OSError as error:
    if error.filename is None or _UNFINISHED not in str(error.filename):
      raise
    raise files.file_error(workdir, error) from error
  finally:
    durable.delete(folder)


def recover(workdir: pathlib.Path) -> None:
  """Completes or removes what a killed evaluation has left.

  Args:
    workdir: No other process may evaluate it meanwhile.
  """
  finish(workdir)
  durable.delete(workdir / _UNFINISHED)


def is_interrupted(workdir: pathlib.Path) -> bool:
  """Returns whether files of an evaluation still wait to be moved."""
  folder = workdir / _WHOLE
  return folder.is_dir() and not folder.is_symlink()


def finish(workdir: pathlib.Path) -> None:
  """Moves the files of an evaluation that was interrupted after its end."""
  if not is_interrupted(workdir):
    return
  folder = workdir / _WHOLE
  for path in sorted(folder.iterdir()):
    durable.replace(path, workdir / path.name)
  # a process that was killed after the move has left the old pictures
  durable.delete(workdir / f'{FIGURES}{durable.REPLACED}')
  folder.rmdir()


def seal(folder: pathlib.Path, results: Mapping[str, Any]) -> str:
  """Returns the digests of the results, and of the files beside them.

  Args:
    folder: Holds the files.
    results: What results.json is going to hold.
  """
  digests = {}
  for path in sorted(folder.rglob('*')):
    if path.is_file():
      digests[path.relative_to(folder).as_posix()] = _digest(path)
  digests[RESULTS] = _digest_of_results(results)
  return ' '.join(f'{name}={digest}' for name, digest in digests.items())


def damage(workdir: pathlib.Path, results: Mapping[str, Any]) -> str:
  """Returns what differs from what was written, in words; '' if nothing does.

  `samples.npz` may be missing, as it is large. Results of earlier versions have
  no digests, and pass.

  Args:
    workdir: Holds the files.
    results: The content of results.json.
  """
  words = str(results.get(DIGESTS) or '').split()
  for name, _, digest in (word.rpartition('=') for word in words):
    path = workdir / name
    try:
      same = digest == (
        _digest_of_results(results) if name == RESULTS else _digest(path)
      )
    except FileNotFoundError:
      if name != SAMPLES:
        return f'{name} is missing'
      continue
    except (OSError, ValueError) as error:  # also for an odd name
      why = getattr(error, 'strerror', None) or error
      return f'{name} cannot be read ({why})'
    if not same:
      return f'{name} is not as it was written'
  return ''


def _digest(path: pathlib.Path) -> str:
  """The SHA-256 of a file."""
  with open(path, 'rb', opener=durable.opener) as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _digest_of_results(results: Mapping[str, Any]) -> str:
  """The SHA-256 of all results but the digests."""
  return files.digest_of({k: x for k, x in results.items() if k != DIGESTS})
