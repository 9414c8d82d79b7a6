"""The versions and the git commit that a run depends on."""

from collections.abc import Mapping
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# Names the commit where the code lies in no repository.
COMMIT_VARIABLE = 'LDC_VAE_COMMIT'

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'orbax-checkpoint')


def describe() -> dict[str, Any]:
  """Returns the versions and the git commit that a run depends on.

  The commit ends in '+dirty' where tracked files are modified, and is None
  where the package does not lie at the top of a git repository.
  """
  versions: dict[str, str | None] = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  return {'versions': versions, 'git_commit': _git_commit()}


def public(text: str, places: Mapping[str, str] | None = None) -> str:
  """Returns a text without places on this machine, and without its name.

  Args:
    text: Such as the message of an error.
    places: Further paths, and the word for each.
  """
  known = {**(places or {}), os.getcwd(): '.', os.path.expanduser('~'): '~'}
  known[platform.node()] = 'HOST'
  for place, word in known.items():
    if place.strip('/.~'):
      text = re.sub(rf'(?<![\w.-]){re.escape(place)}(?![\w-])', word, text)
  return text


def _git_commit() -> str | None:
  """Returns the commit of the repository whose top is the project's root.

  Where there is none, as in a container, `COMMIT_VARIABLE` may name it.
  """

  def git(*args: str) -> str:
    return subprocess.run(
      ('git', '-C', str(ROOT), *args),
      check=True,
      capture_output=True,
      text=True,
      timeout=10,
    ).stdout.strip()

  try:
    if pathlib.Path(git('rev-parse', '--show-toplevel')).resolve() != ROOT:
      return None  # installed into an environment inside another repository
    commit = git('rev-parse', 'HEAD')
    modified = git('status', '--porcelain', '--untracked-files=no')
    return commit + '+dirty' * bool(modified)
  except (OSError, subprocess.SubprocessError):
    return os.environ.get(COMMIT_VARIABLE) or None
