"""The search of a folder for image files, and its meaning: splits and classes.

The folders train, val and test are splits. Folders below them, or in their
place, are classes, as torchvision's `ImageFolder` has it. Folders that all
images share, as in images/train/cat/1.png, mean nothing.
"""

import collections
from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import stat
from typing import NoReturn

from absl import logging
import numpy as np
from PIL import Image

from ldc_vae.data import array_cache
from ldc_vae.data import request as request_lib
from ldc_vae.data import splits

Place = tuple[str, ...]  # the folders between the path and a file

_NUM_NAMED = 5  # files or suffixes that a message names

# Pillow knows these formats, but needs other programs to decode them.
_NOT_DECODED = {'BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'WMF'}

# What operating systems and network drives leave in folders, in lower case.
_RUBBISH = frozenset(
  (
    '#recycle',
    '#snapshot',
    '$recycle.bin',
    '@eadir',
    '@recently-snapshot',
    '@recycle',
    '@tmp',
    '__macosx',
    'desktop.ini',
    'ehthumbs.db',
    'icon\r',
    'lost+found',
    'picasa.ini',
    'system volume information',
    'thumbs.db',
  )
)


@dataclasses.dataclass(frozen=True)
class Folder:
  """The image files of a folder, sorted by split, then by name.

  Attributes:
    files: The files, N.
    stamps: The `array_cache.stamp` of each file.
    sizes: int64 [3], the files of each of `splits.NAMES`; all are 'train' where
      the folder has no splits.
    labels: The class of each file, int32 [N]; None without classes.
    classes: The names of the classes.
  """

  files: list[pathlib.Path]
  stamps: list[bytes]
  sizes: np.ndarray
  labels: np.ndarray | None
  classes: list[str]

  @property
  def fingerprint(self) -> str:
    """A digest that changes with every change of a file."""
    return hashlib.sha256(b''.join(self.stamps)).hexdigest()


def find(path: pathlib.Path, request: request_lib.Request) -> Folder:
  """Finds the images below a folder; one warning counts what is left out.

  Args:
    path: The folder.
    request: The request, for messages.

  Raises:
    UserError: A folder or file cannot be read, or there is no image.
  """
  places: dict[pathlib.Path, Place] = {}
  stamps: dict[pathlib.Path, bytes] = {}
  unreadable: dict[pathlib.Path, str] = {}
  left_out: collections.Counter[str] = collections.Counter()
  for file, place in _walk(path, request):
    suffix = file.suffix.lower()
    if suffix not in _suffixes():
      left_out[suffix or 'without suffix'] += 1
      continue
    try:
      status = file.stat()
      if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait
        left_out[f'{suffix} that is no regular file'] += 1
        continue
      stamps[file] = array_cache.stamp(file, status)
      places[file] = place
    except OSError as error:  # e.g. a broken link
      unreadable[file] = error.strerror or type(error).__name__
  if unreadable:
    raise request.refuse(
      f'has files that cannot be read, {len(unreadable)} in all:'
      f' {name_some(path, unreadable)}'
    )
  if not places:
    others = f'; it has {_count(left_out)}' if left_out else ''
    raise request.refuse(
      f'holds no image that Pillow reads{others}: name the folder that contains'
      ' the images, or the .npz or .npy file itself'
    )
  folder = _arrange(places, stamps)
  left_out['beside the splits'] = len(places) - len(folder.files)
  if +left_out:
    logging.warning('%s: left out %s', path, _count(left_out))
  return folder


def name_some(path: pathlib.Path, reasons: Mapping[pathlib.Path, str]) -> str:
  """Returns 'a.png (why), b.png (why): remove or replace them'."""
  named = [
    f'{os.path.relpath(file, path)} ({reason})'
    for file, reason in sorted(reasons.items())[:_NUM_NAMED]
  ]
  more = ', ...' if len(reasons) > _NUM_NAMED else ''
  them = 'them' if len(reasons) > 1 else 'it'
  return f'{", ".join(named)}{more}: remove or replace {them}'


@functools.cache
def _suffixes() -> frozenset[str]:
  """Returns the suffixes of the formats that Pillow decodes, as '.png'."""
  Image.init()
  decoded = {*Image.OPEN, 'MPO'} - _NOT_DECODED  # JPEG's reader opens MPO
  return frozenset(
    suffix
    for suffix, kind in Image.registered_extensions().items()
    if kind in decoded
  )


def _count(left_out: collections.Counter[str]) -> str:
  """Returns '20 .heic, 3 .txt', the most frequent first."""
  ranked = sorted((-n, what) for what, n in left_out.items() if n)
  named = [f'{-n} {what}' for n, what in ranked[:_NUM_NAMED]]
  others = -sum(n for n, _ in ranked[_NUM_NAMED:])
  return ', '.join(named + [f'{others} others'] * bool(others))


def _walk(
  path: pathlib.Path, request: request_lib.Request
) -> Iterator[tuple[pathlib.Path, Place]]:
  """Yields each file below a folder, and its place; leaves rubbish out."""

  def refuse(error: OSError) -> NoReturn:  # os.walk would skip the folder
    raise request.refuse(
      f'has a folder {error.filename} that cannot be read ({error.strerror}):'
      ' make it readable, or move it away'
    ) from error

  def is_meant(name: str) -> bool:
    name = name.lower()
    is_mark = name.endswith(':zone.identifier')  # Windows marks downloads
    return not (name.startswith('.') or name in _RUBBISH or is_mark)

  seen = {os.path.realpath(path)}
  for parent, folders, names in os.walk(path, onerror=refuse, followlinks=True):
    targets = {
      os.path.realpath(os.path.join(parent, name)): name
      for name in filter(is_meant, sorted(folders))
    }
    # two links may lead to the same folder, or a link to its own parent
    folders[:] = [name for real, name in targets.items() if real not in seen]
    seen.update(targets)
    place = pathlib.Path(parent).relative_to(path).parts
    for name in filter(is_meant, names):
      yield pathlib.Path(parent, name), place


# The meaning of the folders.


def _arrange(
  places: Mapping[pathlib.Path, Place], stamps: Mapping[pathlib.Path, bytes]
) -> Folder:
  """Sorts the files into splits and classes."""
  files = sorted(places)
  below = _without_common(places[file] for file in files)
  split_of = _find_splits({place[0] for place in below if place})
  if split_of:
    parts = [split_of.get(place[0], '') if place else '' for place in below]
    below = [place[1:] for place in below]
  else:
    parts = ['train'] * len(files)
  kept = [
    i for name in splits.NAMES for i, part in enumerate(parts) if part == name
  ]
  sizes = np.array([parts.count(name) for name in splits.NAMES])
  files = [files[i] for i in kept]
  below = _without_common(below[i] for i in kept)
  labels, classes = _classes(files, below, sizes[0])
  return Folder(files, [stamps[f] for f in files], sizes, labels, classes)


def _find_splits(names: Iterable[str]) -> dict[str, str]:
  """Returns {name: split} of folders such as train2017 and val2017, or {}.

  Folders are splits if one is 'train', another is not, and all their other
  words are the same. So car, train and train_station, test_tube are classes.
  """
  alike: dict[Place, dict[str, str]] = collections.defaultdict(dict)
  for name in names:
    words = [w.lower() for w in re.findall('[A-Z]?[a-z]+|[A-Z]+', name)]
    found = [word for word in words if word in splits.SPELLINGS]
    if len(found) == 1:
      words.remove(found[0])
      alike[tuple(words)][name] = splits.SPELLINGS[found[0]]
  split_of: dict[str, str] = {}
  for group in alike.values():
    if 'train' in group.values() and len(set(group.values())) > 1:
      split_of.update(group)
  return split_of


def _without_common(places: Iterable[Place]) -> list[Place]:
  """Returns places without the folders that all of them share."""
  places = list(places)
  common = len(os.path.commonprefix(places))
  return [place[common:] for place in places]


def _classes(
  files: list[pathlib.Path], places: list[Place], num_train: int
) -> tuple[np.ndarray | None, list[str]]:
  """Returns the labels of files, and the names of the classes.

  Args:
    files: The files, those of 'train' first.
    places: The place of each file in its split.
    num_train: The number of files in 'train'.

  Returns:
    None and no names where folders do not tell the class of every file.
  """
  names = [place[0] if place else '' for place in places]
  classes = sorted({*names[:num_train]} - {''})
  number = {name: i for i, name in enumerate(classes)}
  strays = [i for i, name in enumerate(names) if name not in number]
  if len(classes) < 2:
    return None, []
  if strays:
    logging.info(
      'no labels: %d files, as %s, are in none of the folders %s',
      len(strays),
      files[strays[0]],
      ', '.join(classes[:_NUM_NAMED]),
    )
    return None, []
  return np.array([number[name] for name in names], np.int32), classes
