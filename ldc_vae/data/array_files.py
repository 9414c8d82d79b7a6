"""The reading of .npz and .npy files: images, labels and their splits."""

from collections.abc import Iterable, Sequence
import dataclasses
import pathlib
import re

from absl import logging
import numpy as np
from PIL import Image

from ldc_vae.data import array_cache
from ldc_vae.data import image_files
from ldc_vae.data import pixels
from ldc_vae.data import request as request_lib
from ldc_vae.data import splits
from ldc_vae.runtime import memory

SUFFIXES = ('.npz', '.npy')

# The names of arrays, the most telling first: images, x_train, test_labels.
# NumPy names arrays without a name arr_0 and arr_1.
_IMAGES = ('images', 'image', 'imgs', 'x', 'data', 'arr_0')
_LABELS = ('labels', 'label', 'y', 'targets', 'target', 'arr_1')
_NUM_NAMED = 5  # arrays that a message names
_SPLIT = '|'.join(splits.SPELLINGS)


@dataclasses.dataclass(frozen=True)
class ArrayFile:
  """The arrays of one file, not converted yet.

  Attributes:
    path: The file.
    parts: The images of each of `splits.NAMES`, [n, H, W, C]; all are the first
      where the file has no splits.
    labels: The class of each image, int32 [N], or None.
    classes: The names of the classes.
  """

  path: pathlib.Path
  parts: Sequence[np.ndarray]
  labels: np.ndarray | None
  classes: list[str]

  @property
  def sizes(self) -> np.ndarray:
    """The number of images in each part, int64 [3]."""
    return np.array([len(part) for part in self.parts])


def read(path: pathlib.Path, request: request_lib.Request) -> ArrayFile:
  """Reads an array file.

  Raises:
    UserError: It is not what its name says, or its arrays are no images.
  """
  try:
    images, labels = _read(path)
  except Exception as error:  # NumPy and zipfile raise many types
    raise request.refuse(
      f'cannot be read as an array file ({array_cache.first_line(error)}):'
      ' write it again with np.savez(path, images=images) or'
      ' np.save(path, images)'
    ) from error
  images = {name: _check_images(x, request) for name, x in images.items()}
  shapes = {part.shape[1:] for part in images.values()}
  if len(shapes) > 1:
    raise request.refuse(
      f'holds images of shapes {" and ".join(map(str, shapes))}: make them'
      ' alike'
    )
  classes: list[str] = []
  joined = None
  if labels.keys() == images.keys():
    joined, classes = _check_labels(images, labels, request)
  (shape,) = shapes
  parts = [
    images.get(name, np.zeros((0, *shape), np.uint8)) for name in splits.NAMES
  ]
  return ArrayFile(path, parts, joined, classes)


def write(
  source: ArrayFile,
  rows: np.ndarray,
  request: request_lib.Request,
  target: pathlib.Path,
) -> None:
  """Writes image i into row rows[i] of images.npy, converted as requested.

  Raises:
    UserError: A value is out of range.
  """
  native = source.parts[0].shape[1:]
  num_channels = request.num_channels or native[2]
  shape = (*native[:2], num_channels)
  if request.image_size:
    shape = (request.image_size, request.image_size, num_channels)
  images = array_cache.create_array(
    target, 'images', np.uint8, (len(rows), *shape)
  )
  dark = array_cache.create_array(target, 'dark', np.uint8, (1,))
  dark[:] = image_files.DARK
  offset = 0
  for part in source.parts:
    for start in array_cache.chunks(len(part)):
      chunk = part[start : start + array_cache.CHUNK]
      chunk = _to_uint8(chunk, offset + start, request)
      if chunk.shape[1:] != shape:
        chunk = np.stack([_conform(image, request) for image in chunk])
      first = offset + start
      images[rows[first : first + len(chunk)]] = chunk
    offset += len(part)


# The arrays of a file.


def _read(path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Returns the images and the labels of each split that a file has."""
  with open(path, 'rb') as file:
    start = file.read(6)
  if start[:2] != b'PK' and start != b'\x93NUMPY':
    raise ValueError('its content is neither an .npz nor an .npy file')
  # Never allow_pickle: loading a pickle runs whatever its author wrote.
  loaded = np.load(path, mmap_mode='r', allow_pickle=False)
  if isinstance(loaded, np.ndarray):
    return {'train': loaded}, {}
  with loaded as archive:
    images, labels = _choose(archive.files)
    used = {*images.values(), *labels.values()}
    others = set(archive.files) - used
    if others:
      logging.info('%s: left out the arrays %s', path, _list(others))
    memory.check_archive(archive, used)
    arrays = {name: archive[name] for name in used}
  for name, array in arrays.items():
    if not isinstance(array, np.ndarray):
      raise ValueError(f'its member {name} is no array')
  get = lambda names: {split: arrays[name] for split, name in names.items()}
  return get(images), get(labels)


def _choose(names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
  """Returns {split: name} of the images and of the labels among some names.

  Raises:
    ValueError: No name tells the images, or the training images.
  """
  images, labels = _named(names, _IMAGES), _named(names, _LABELS)
  rest = [name for name in names if name not in labels.values()]
  if not images and len(rest) == 1:
    images = {'': rest[0]}
  if not images:
    raise ValueError(f'it has {_list(names)}, but none named images')
  if len(images) == 1:  # the whole set, whatever its split
    (split,) = images
    label = labels.get(split, labels.get(''))
    return {'train': images[split]}, {'train': label} if label else {}
  for found in (images, labels):
    if '' in found:
      found.setdefault('train', found.pop(''))
  if 'train' not in images:
    raise ValueError(f'it has {_list(images.values())}, but none named x_train')
  return images, {split: labels[split] for split in images if split in labels}


def _list(names: Iterable[str]) -> str:
  """Returns 'a, b, ...'."""
  names = sorted(names)
  more = ['...'] if len(names) > _NUM_NAMED else []
  return ', '.join(names[:_NUM_NAMED] + more) or 'no member'


def _named(names: Sequence[str], words: Sequence[str]) -> dict[str, str]:
  """Returns {split: name} of the names that consist of a word and a split.

  The split is '' where a name has none. A split alone means images.
  """
  pattern = re.compile(
    rf'(?:({_SPLIT})_?)?({"|".join(words)})(?:_?({_SPLIT}))?', re.IGNORECASE
  )
  found: dict[str, tuple[int, str]] = {}
  for name in names:
    match = pattern.fullmatch(name)
    if match:
      before, word, after = (each or '' for each in match.groups())
      split = splits.SPELLINGS.get((before or after).lower(), '')
      rank = words.index(word.lower())
      found[split] = min((rank, name), found.get(split, (rank, name)))
    elif words is _IMAGES and name.lower() in splits.SPELLINGS:
      found.setdefault(splits.SPELLINGS[name.lower()], (len(words), name))
  return {split: name for split, (_, name) in found.items()}


def _check_images(
  images: np.ndarray, request: request_lib.Request
) -> np.ndarray:
  """Returns images [N, H, W, C]; raises a `UserError` for other arrays."""
  if images.dtype not in (np.uint8, bool) and not np.issubdtype(
    images.dtype, np.floating
  ):
    raise request.refuse(
      f'holds {images.dtype} images: convert them to uint8, or to float in'
      ' [0, 1]'
    )
  try:
    return pixels.with_channels(images)
  except ValueError as error:
    raise request.refuse(f'holds an array of {error}') from None


def _check_labels(
  images: dict[str, np.ndarray],
  labels: dict[str, np.ndarray],
  request: request_lib.Request,
) -> tuple[np.ndarray, list[str]]:
  """Returns the labels of all splits, int32 [N], and the names of the classes.

  Any whole numbers and texts are labels, and so are columns and one-hot rows.

  Raises:
    UserError: They are not one class for each image.
  """
  flat = []
  for split in splits.NAMES:
    if split not in images:
      continue
    each = labels[split]
    if each.ndim == 2 and each.shape[1] == 1:
      each = each[:, 0]
    elif _is_one_hot(each):
      each = each.argmax(axis=1)
    is_whole = each.dtype.kind in 'iubSU' or (
      each.dtype.kind == 'f' and bool(np.all(each == np.round(each)))
    )
    if each.shape != (len(images[split]),) or not is_whole:
      raise request.refuse(
        f'has labels of type {labels[split].dtype} and shape'
        f' {labels[split].shape}: expected a whole number or a text for each'
        f' image, of shape ({len(images[split])},)'
      )
    flat.append(each.astype(np.int64) if each.dtype.kind in 'fb' else each)
  classes, numbers = np.unique(np.concatenate(flat), return_inverse=True)
  return numbers.astype(np.int32), [str(each) for each in classes]


def _is_one_hot(labels: np.ndarray) -> bool:
  """Whether labels are rows [N, K] of zeros with a single 1."""
  return (
    labels.ndim == 2
    and labels.dtype.kind in 'iufb'
    and bool(np.all((labels == 0) | (labels == 1)))
    and bool(np.all(labels.sum(axis=1) == 1))
  )


# The pixels.


def _to_uint8(
  images: np.ndarray, first: int, request: request_lib.Request
) -> np.ndarray:
  """Converts images [n, H, W, C] to uint8; the first is number `first`."""
  if images.dtype == np.uint8:
    return np.asarray(images)
  if images.dtype == bool:
    return images.astype(np.uint8) * np.uint8(255)
  try:
    return pixels.from_unit(images)
  except ValueError:
    for i, image in enumerate(images):
      try:
        pixels.from_unit(image)
      except ValueError as error:
        raise request.refuse(
          f'holds in image {first + i} {error}: '
          + (
            'replace it'
            if np.isnan(image).any()
            else 'scale them, or write uint8'
          )
        ) from None
    raise


def _conform(image: np.ndarray, request: request_lib.Request) -> np.ndarray:
  """Resizes, crops and converts one image, uint8 [H, W, C]."""
  flat = image[..., 0] if image.shape[2] == 1 else image
  return image_files.conform(Image.fromarray(flat), request)
