"""The user's own images: a folder of PNG and JPEG files, or an array file.

The images are resized, cropped, converted, permuted and written once into the
array cache. Every error message names the file and a remedy.
"""

import concurrent.futures
import os
import pathlib
import shutil
from typing import NoReturn

from absl import logging
import numpy as np
from PIL import Image
from PIL import ImageOps

from ldc_vae import errors
from ldc_vae.data import array_cache
from ldc_vae.data import request as request_lib
from ldc_vae.data import splits

_SUFFIXES = ('.png', '.jpg', '.jpeg')
_MAX_CLASSES = 2**16  # larger values are probably not class labels


def load(
  request: request_lib.Request,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None, int]:
  """Loads a folder, an .npz or an .npy file, and cuts it into fixed splits.

  Args:
    request: The request, with numbers that are not negative.

  Returns:
    `images`, `labels` and `num_classes` of a `datasets.Dataset`.

  Raises:
    UserError: The path, a file, an array or a number cannot be used; the
      message names it.
    OSError: The cache cannot be written.
  """
  if not request.path:
    raise errors.UserError(
      "dataset.path='' must name a folder of PNG or JPEG files, an .npz or an"
      ' .npy file when dataset.name=images'
    )
  path = array_cache.expand(request.path)
  try:
    path.stat()
  except OSError as error:
    raise errors.UserError(
      f'dataset.path={request.path!r} cannot be read ({error.strerror};'
      f' tried {path}): name a folder, an .npz or an .npy file'
    ) from error
  if path.is_dir():
    files = _list_images(path)
    write_fn = lambda folder: _decode_files(files, request, folder)
  elif path.suffix in ('.npz', '.npy'):
    files = [path]
    write_fn = lambda folder: _convert_array_file(path, request, folder)
  else:
    raise errors.UserError(
      f'dataset.path={request.path!r} must be a folder, an .npz or an .npy file'
    )
  try:
    fingerprint = array_cache.fingerprint_of(files)
  except OSError as error:  # e.g. a broken link
    raise errors.UserError(
      f'dataset.path: {error.filename} cannot be read ({error.strerror}):'
      ' remove or replace it'
    ) from error
  source = [str(path), request.image_size, request.num_channels, request.seed]
  arrays = array_cache.load_or_write('images', source, fingerprint, write_fn)
  num_test, num_validation = _split_sizes(len(arrays['images']), request)
  cut = lambda array: splits.cut(array, num_validation, num_test)
  images, labels = cut(arrays['images']), arrays.get('labels')
  if labels is not None and labels.min() == labels.max():
    logging.warning('all labels are %d: they are ignored', labels[0])
    labels = None  # a classifier of one class has nothing to learn
  if labels is None:
    return images, None, 0
  return images, cut(labels), int(labels.max()) + 1


def _split_sizes(
  num_images: int, request: request_lib.Request
) -> tuple[int, int]:
  """Returns the numbers of test and validation images.

  Raises:
    UserError: They leave no image to train on.
  """
  if num_images < 3:
    raise errors.UserError(
      f'dataset.path={request.path!r} holds {num_images} image'
      f'{"s" * (num_images != 1)}: train, validation and test need at least 3'
    )
  tenth = max(1, num_images // 10)
  num_test = request.num_test or tenth
  num_validation = min(request.num_validation, tenth)
  if num_test + num_validation >= num_images:
    raise errors.UserError(
      f'dataset.num_test={num_test} and {num_validation} validation images'
      f' leave none of the {num_images} images of {request.path!r} to train'
      ' on'
    )
  return num_test, num_validation


def _check_room(num_images: int, request: request_lib.Request, folder) -> None:
  """Raises a `UserError` if the resized images need more than the free disk."""
  wanted = num_images * request.image_size**2 * (request.num_channels or 1)
  free = shutil.disk_usage(folder).free
  if wanted > free:
    raise errors.UserError(
      f'dataset.image_size={request.image_size}: {num_images} images need'
      f' {wanted:,} bytes, but {folder.parent} has {free:,} free: use a'
      ' smaller size, or set LDC_VAE_CACHE to a folder with more free space'
    )


def _list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns all PNG and JPEG files below `folder`, sorted by name."""

  def refuse(error: OSError) -> NoReturn:  # os.walk would skip the folder
    raise errors.UserError(
      f'dataset.path: the folder {error.filename} cannot be read'
      f' ({error.strerror}): make it readable, or move it away'
    ) from error

  files, seen = [], {os.path.realpath(folder)}
  for parent, folders, names in os.walk(
    folder, onerror=refuse, followlinks=True
  ):
    places = {
      os.path.realpath(os.path.join(parent, name)): name
      for name in sorted(folders)
      if not name.startswith('.')
    }
    # two links may lead to the same folder, or a link to its own parent
    folders[:] = [name for place, name in places.items() if place not in seen]
    seen.update(places)
    files += [
      pathlib.Path(parent, name)
      for name in names
      if name.lower().endswith(_SUFFIXES) and not name.startswith('.')
    ]
  if not files:
    raise errors.UserError(
      f'dataset.path={os.fspath(folder)!r} holds no PNG or JPEG file: name'
      ' the folder that contains the images'
    )
  return sorted(files)


def _decode_files(files, request: request_lib.Request, folder) -> None:
  """Decodes files in parallel, and writes them permuted into images.npy."""
  # raises before the long work, not after it
  _split_sizes(len(files), request)
  _check_room(len(files), request, folder)
  logging.info('decoding %d images', len(files))
  decode = lambda file: _decode_file(
    file, request.image_size, request.num_channels
  )
  shape = decode(files[0]).shape
  images = array_cache.create_array(
    folder, 'images', np.uint8, (len(files), *shape)
  )
  rows = np.argsort(splits.permutation(len(files), request.seed))

  def decode_chunk(start):
    for i in range(start, min(start + array_cache.CHUNK, len(files))):
      image = decode(files[i])
      if image.shape != shape:
        raise errors.UserError(_differs(files[0], shape, files[i], image.shape))
      images[rows[i]] = image

  num_workers = min(8, os.cpu_count() or 1)
  pool = concurrent.futures.ThreadPoolExecutor(num_workers)
  try:
    for _ in pool.map(decode_chunk, range(0, len(files), array_cache.CHUNK)):
      pass
  finally:
    pool.shutdown(cancel_futures=True)


def _differs(first, first_shape, second, second_shape) -> str:
  """Returns the message for two files whose shapes differ."""
  describe = lambda shape: (
    f'{shape[1]}x{shape[0]} {"grey" if shape[2] == 1 else "colour"}'
  )
  fields = []
  if first_shape[:2] != second_shape[:2]:
    fields.append('dataset.image_size')
  if first_shape[2] != second_shape[2]:
    fields.append('dataset.num_channels')
  return (
    f'dataset.path: {first} is {describe(first_shape)} but {second} is'
    f' {describe(second_shape)}: set {" and ".join(fields)} to make them'
    ' alike'
  )


def _decode_file(file, image_size: int, num_channels: int) -> np.ndarray:
  """Decodes one file to uint8 [H, W, C], upright and without alpha channel."""
  try:
    with Image.open(file) as image:
      image = ImageOps.exif_transpose(image)
      if image.mode.startswith('I'):  # 16-bit grey, which Pillow would clip
        values = np.asarray(image, np.float64) / 257
        image = Image.fromarray(np.round(values).clip(0, 255).astype(np.uint8))
      grey = image.mode in ('1', 'L', 'LA')
      image = image.convert('L' if grey else 'RGB')
  except Exception as error:  # Pillow's decoders raise many types
    raise errors.UserError(
      f'dataset.path: {file} cannot be decoded'
      f' ({array_cache.first_line(error)}): remove or replace it'
    ) from error
  return _conform(image, image_size, num_channels)


def _conform(image: Image.Image, image_size, num_channels) -> np.ndarray:
  """Converts an 'L' or 'RGB' image to uint8 [H, W, C] as requested."""
  if num_channels:
    image = image.convert('L' if num_channels == 1 else 'RGB')
  if image_size:
    scale = image_size / min(image.size)
    # The shorter side becomes image_size; the other is never smaller.
    size = [max(image_size, round(side * scale)) for side in image.size]
    if size != list(image.size):
      image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = [(side - image_size) // 2 for side in size]
    image = image.crop((left, top, left + image_size, top + image_size))
  array = np.asarray(image)
  return array if array.ndim == 3 else array[..., np.newaxis]


def _read_array_file(path) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the unconverted images of an array file, and labels int32 [N]."""
  labels = None
  try:
    # Never allow_pickle: loading a pickle runs whatever its author wrote.
    if path.suffix == '.npy':
      images = np.load(path, mmap_mode='r', allow_pickle=False)
    else:
      with np.load(path, allow_pickle=False) as archive:
        names = [name for name in archive.files if name != 'labels']
        if 'images' not in names and len(names) != 1:
          raise ValueError(f'it has arrays {names}, but none named images')
        images = archive['images' if 'images' in names else names[0]]
        labels = archive['labels'] if 'labels' in archive.files else None
  except Exception as error:  # NumPy and zipfile raise many types
    raise errors.UserError(
      f'dataset.path: {path} cannot be read as an array file'
      f' ({array_cache.first_line(error)}): write it again with'
      ' np.savez(path, images=images) or np.save(path, images)'
    ) from error
  if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
    raise errors.UserError(
      f'dataset.path: {path} holds {images.dtype} images: convert them to'
      ' uint8, or to float in [0, 1]'
    )
  if images.ndim == 3:
    images = images[..., np.newaxis]
  if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
    raise errors.UserError(
      f'dataset.path: {path} holds an array of shape {images.shape}: expected'
      ' [N, H, W], [N, H, W, 1] or [N, H, W, 3]'
    )
  if labels is not None:
    if labels.shape != (len(images),) or not (
      np.issubdtype(labels.dtype, np.integer)
      and labels.min() >= 0
      and labels.max() < _MAX_CLASSES
    ):
      raise errors.UserError(
        f'dataset.path: the labels of {path} are {labels.dtype} of shape'
        f' {labels.shape}: expected integers in [0,'
        f' {_MAX_CLASSES}) of shape ({len(images)},)'
      )
    labels = labels.astype(np.int32)
  return images, labels


def _convert_array_file(path, request: request_lib.Request, folder) -> None:
  """Writes images.npy as permuted uint8, and labels.npy if there are labels."""
  images, labels = _read_array_file(path)
  # raises before the long work, not after it
  _split_sizes(len(images), request)
  _check_room(len(images), request, folder)
  num_channels = request.num_channels or images.shape[3]
  shape = (*images.shape[1:3], num_channels)
  if request.image_size:
    shape = (request.image_size, request.image_size, num_channels)
  rows = np.argsort(splits.permutation(len(images), request.seed))
  written = array_cache.create_array(
    folder, 'images', np.uint8, (len(images), *shape)
  )
  for start in range(0, len(images), array_cache.CHUNK):
    chunk = _to_uint8(path, images[start : start + array_cache.CHUNK], start)
    if chunk.shape[1:] != shape:
      mode_of = lambda image: image[..., 0] if image.shape[2] == 1 else image
      chunk = np.stack(
        [
          _conform(
            Image.fromarray(mode_of(image)), request.image_size, num_channels
          )
          for image in chunk
        ]
      )
    written[rows[start : start + array_cache.CHUNK]] = chunk
  if labels is not None:
    order = splits.permutation(len(images), request.seed)
    written = array_cache.create_array(folder, 'labels', np.int32, labels.shape)
    written[:] = labels[order]


def _to_uint8(path, images: np.ndarray, start: int) -> np.ndarray:
  """Converts images [n, H, W, C] to uint8; floats are in [0, 1].

  Args:
    path: The array file, for the message.
    images: A part of the file's images.
    start: The number of its first image in the file.

  Returns:
    uint8 [n, H, W, C].
  """
  if images.dtype == np.uint8:
    return np.asarray(images)
  lowest = images.min(axis=(1, 2, 3))
  highest = images.max(axis=(1, 2, 3))
  # min and max return NaN if there is one, and NaN fails both comparisons.
  good = (lowest >= 0) & (highest <= 1)
  if not good.all():
    i = int(np.argmin(good))
    what = 'NaN' if np.isnan(lowest[i]) else f'[{lowest[i]:g}, {highest[i]:g}]'
    raise errors.UserError(
      f'dataset.path: image {start + i} of {path} holds {what}: values must'
      ' be floats in [0, 1], or uint8'
    )
  return np.round(images.astype(np.float32) * 255).astype(np.uint8)
