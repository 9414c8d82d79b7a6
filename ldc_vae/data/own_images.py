"""The user's own images: a folder of image files, or an array file.

The images are converted, permuted and written once into the array cache. A line
says what was understood, and a warning what may be wrong. Every error names the
path and a remedy.
"""

from collections.abc import Callable
import functools
import pathlib
import shutil
import tempfile

from absl import logging
import numpy as np

from ldc_vae import errors
from ldc_vae.data import array_cache
from ldc_vae.data import array_files
from ldc_vae.data import image_files
from ldc_vae.data import image_folder
from ldc_vae.data import request as request_lib
from ldc_vae.data import splits

_Found = image_folder.Folder | array_files.ArrayFile

_NUM_NAMED = 10  # classes that a line names


def load(
  request: request_lib.Request,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None, int]:
  """Loads a folder, an .npz or an .npy file, and its fixed splits.

  Args:
    request: The request, with numbers that are not negative.

  Returns:
    `images`, `labels` and `num_classes` of a `datasets.Dataset`.

  Raises:
    UserError: The path, a file, an array or a number cannot be used; the
      message names it.
    OSError: The cache cannot be written.
  """
  path = array_cache.expand(request.path)
  source = [
    str(path),
    request.image_size,
    request.num_channels,
    request.background,
    request.seed,
  ]
  try:
    path.stat()
  except OSError as error:
    raise request.refuse(
      f'cannot be read ({error.strerror}; tried {path}): name a folder, an'
      ' .npz or an .npy file'
    ) from error
  if path.is_dir():
    folder = image_folder.find(path, request)
    fingerprint, read_fn = folder.fingerprint, lambda: folder
  elif path.is_file() and path.suffix.lower() in array_files.SUFFIXES:
    fingerprint = array_cache.fingerprint_of([path])
    read_fn = functools.partial(array_files.read, path, request)
  else:
    raise request.refuse(
      'must be a folder, an .npz or an .npy file; give an image by its folder'
    )
  write_fn = functools.partial(_write_entry, path, read_fn, request)
  arrays = array_cache.load_or_write('images', source, fingerprint, write_fn)
  sizes = _split_sizes(arrays['sizes'], request)
  cut = lambda array: _cut(array, arrays['sizes'], sizes)
  images, labels = cut(arrays['images']), _labels(arrays, path)
  _report(arrays, images, labels, path)
  if labels is None:
    return images, None, 0
  return images, cut(labels), len(arrays['classes'])


class _Given(request_lib.Request):
  """Images of --mode=encode: errors name its flag."""

  def conflict(self, names, explanation: str) -> errors.UserError:
    """Returns the error '--images=PATH ...'."""
    del names
    return errors.UserError(f'--images={self.path} {explanation}')


def read(
  path: str, image_shape: tuple[int, int, int], background: int
) -> np.ndarray:
  """Reads a folder, an .npz or an .npy file; no image is held out or moved.

  Args:
    path: Its files are sorted by name. Files are resized and cropped where the
      images are square.
    image_shape: (H, W, C).
    background: The grey level behind transparent pixels.

  Returns:
    uint8, shape [N, H, W, C].

  Raises:
    UserError: The path cannot be used, or its images have another shape.
  """
  height, width, num_channels = image_shape
  request = _Given(
    name='images',
    path=path,
    image_size=height if height == width else 0,
    num_channels=num_channels if num_channels in (1, 3) else 0,
    background=background,
  )
  source = array_cache.expand(path)
  with tempfile.TemporaryDirectory() as folder:
    target = pathlib.Path(folder)
    if source.is_dir():
      found: _Found = image_folder.find(source, request)
    elif source.is_file() and source.suffix.lower() in array_files.SUFFIXES:
      found = array_files.read(source, request)
    else:
      raise request.refuse(
        'is no folder, .npz or .npy file, and no split (train, validation,'
        ' test)'
      )
    rows = np.arange(int(found.sizes.sum()))
    error = _convert(source, found, rows, request, target, {})
    if error is not None:
      raise error
    images = np.load(target / 'images.npy')
  if images.shape[1:] != tuple(image_shape):
    raise request.refuse(
      f'holds images of shape {images.shape[1:]}, but the run has'
      f' {tuple(image_shape)}'
    )
  return images


# What is written into the cache, all in one order: images.npy, dark.npy and
# labels.npy. sizes.npy has the numbers of images that the source gives for each
# split, classes.npy the names of classes, extremes.npy the values of pixels.


def _write_entry(
  path: pathlib.Path,
  read_fn: Callable[[], _Found],
  request: request_lib.Request,
  target: pathlib.Path,
  previous: array_cache.Arrays,
) -> errors.UserError | None:
  """Writes an entry; returns the error for files that cannot be decoded."""
  found = read_fn()
  order = _begin(found.sizes, request, target)
  rows = np.argsort(order)
  error = _convert(path, found, rows, request, target, previous)
  if error is None:
    _finish(found, order, target)
  return error


def _convert(
  path, found: _Found, rows: np.ndarray, request, target, previous
) -> errors.UserError | None:
  """Writes images.npy and dark.npy; image i becomes row rows[i]."""
  if isinstance(found, image_folder.Folder):
    return image_files.write(path, found, rows, request, target, previous)
  array_files.write(found, rows, request, target)
  return None


def _begin(sizes: np.ndarray, request: request_lib.Request, target):
  """Returns the order of the images, after checks before the long work."""
  _split_sizes(sizes, request)
  count = int(sizes.sum())
  wanted = count * request.image_size**2 * (request.num_channels or 1)
  free = shutil.disk_usage(target).free
  if wanted > free:
    raise request.conflict(
      ('image_size',),
      f'makes {count} images of {wanted:,} bytes, but {target.parent} has'
      f' {free:,} free: use a smaller size, or set LDC_VAE_CACHE to a folder'
      ' with more free space',
    )
  return splits.order(sizes, request.seed)


def _finish(source: _Found, order, target) -> None:
  """Writes sizes, extremes, labels and classes beside the images."""
  images = np.load(target / 'images.npy', mmap_mode='r')
  starts = range(0, len(images), array_cache.CHUNK)
  parts = [images[start : start + array_cache.CHUNK] for start in starts]
  extremes = [min(x.min() for x in parts), max(x.max() for x in parts)]
  np.save(target / 'extremes.npy', np.array(extremes))
  np.save(target / 'sizes.npy', source.sizes)
  if source.labels is not None:
    np.save(target / 'labels.npy', source.labels[order])
    np.save(target / 'classes.npy', np.array(source.classes))


# Splits, labels and messages.


def _split_sizes(
  given: np.ndarray, request: request_lib.Request
) -> tuple[int, int]:
  """Returns the numbers of validation and test images to cut from the training.

  Args:
    given: The numbers of images that the source gives for each split.
    request: The request.

  Raises:
    UserError: They leave no image to train on.
  """
  num_train, own_validation, own_test = map(int, given)
  count = num_train + own_validation + own_test
  if count < 3:
    raise request.refuse(
      f'holds {count} image{"s" * (count != 1)}: train, validation and test'
      ' need at least 3'
    )
  if own_test and request.num_test:
    raise request.conflict(
      ('num_test', 'path'),
      f'has no effect: the data have a test split of {own_test} images; leave'
      ' it at 0',
    )
  tenth = max(1, num_train // 10)
  num_validation = 0 if own_validation else min(request.num_validation, tenth)
  num_test = 0 if own_test else request.num_test or tenth
  if num_test + num_validation >= num_train:
    raise request.conflict(
      ('num_test', 'path'),
      f'cuts {num_test} test and {num_validation} validation images, and'
      f' leaves none of the {num_train} images to train on',
    )
  return num_validation, num_test


def _cut(
  array: np.ndarray, given: np.ndarray, sizes: tuple[int, int]
) -> dict[str, np.ndarray]:
  """Returns the splits of an array in the order of the cache."""
  train, *others = np.split(array, np.cumsum(given)[:-1])
  own = {n: part for n, part in zip(splits.NAMES[1:], others) if len(part)}
  return {**splits.cut(train, *sizes), **own}


def _labels(
  arrays: array_cache.Arrays, path: pathlib.Path
) -> np.ndarray | None:
  """Returns the labels, or None where a classifier can learn nothing."""
  labels = arrays.get('labels')
  if labels is None:
    return None
  classes = arrays['classes']
  if len(classes) == 1:
    logging.warning('%s: all labels are %s: they are ignored', path, classes[0])
    return None
  if 2 * len(classes) > len(labels):
    logging.warning(
      '%s: %d labels for %d images are ids rather than classes: they are'
      ' ignored',
      path,
      len(classes),
      len(labels),
    )
    return None
  return labels


def _report(arrays, images, labels, path: pathlib.Path) -> None:
  """Says what was understood, and warns of images that are nearly black."""
  has_splits = arrays['sizes'][0] < arrays['sizes'].sum()
  numbers = [
    f'{len(images[name])} {name}{" as given" if has_splits and given else ""}'
    for name, given in zip(splits.NAMES, arrays['sizes'])
  ]
  classes = 'no labels'
  if labels is not None:
    names = list(arrays['classes'])
    more = ', ...' if len(names) > _NUM_NAMED else ''
    classes = f'{len(names)} classes: {", ".join(names[:_NUM_NAMED])}{more}'
  height, width, channels = images['train'].shape[1:]
  logging.info(
    '%s: %s; %dx%d pixels, %s; %s',
    path,
    ', '.join(numbers),
    width,
    height,
    'grey' if channels == 1 else 'colour',
    classes,
  )
  lowest, highest = map(int, arrays['extremes'])
  if lowest == highest:
    logging.warning(
      '%s: every pixel of all images is %d of 255: there is nothing to learn',
      path,
      highest,
    )
  elif highest <= arrays['dark'].min():
    logging.warning(
      '%s: the images are nearly black, the brightest pixel of all is %d of'
      ' 255: scale them to the full range of their type and run again',
      path,
      highest,
    )
