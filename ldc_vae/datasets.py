"""Data sets as uint8 arrays with fixed splits, and the batches made of them.

Sources: scikit-learn's embedded digits; TFDS sets, read as ArrayRecord (and
downloaded and prepared where they are missing) without TensorFlow; the user's
own folder or array file. A set is decoded once into .npy files in the cache;
arrays too large for memory stay memory-mapped. The splits never depend on the
seed of a run. Binarisation belongs to the train step.
"""

from collections.abc import Iterator
import concurrent.futures
import difflib
import importlib.util
import os
import pathlib
from typing import NamedTuple

from absl import logging
import numpy as np
from PIL import Image
from PIL import ImageOps

from ldc_vae import array_cache
from ldc_vae import splits

cache_dir = array_cache.cache_dir

_DIGITS_TEST = 360  # of 1,797 images, a fifth
_DIGITS_VALIDATION = 180
_SUFFIXES = ('.png', '.jpg', '.jpeg')
_MAX_CLASSES = 2**16  # beyond it, labels are something else
_PROBE_SECONDS = 4.0  # so that a missing network is reported within 5 s


class Dataset(NamedTuple):
  """Images and, where there are any, labels of the three splits.

  Attributes:
    name: As in `load`.
    images: 'train', 'validation', 'test' to uint8, shape [N, H, W, C]. Read
      only; large ones are memory-mapped.
    labels: The same keys to int32, shape [N], or None.
    num_classes: 0 without labels.
  """

  name: str
  images: dict[str, np.ndarray]
  labels: dict[str, np.ndarray] | None
  num_classes: int

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C)."""
    return self.images['train'].shape[1:]


def load(
    name: str,
    *,
    data_dir: str = '',
    path: str = '',
    image_size: int = 0,
    num_channels: int = 0,
    num_validation: int = 10_000,
    num_test: int = 0,
    seed: int = 0,
) -> Dataset:
  """Loads a data set; the first time, downloads and decodes what is missing.

  Args:
    name: 'digits', 'mnist', 'fashion_mnist', 'cifar10', 'celeba64' or 'images'.
    data_dir: Folder of prepared TFDS data, absolute or relative to the current
      directory. '': $TFDS_DATA_DIR, then `cache_dir()`/tfds. What is not
      prepared there is downloaded into `data_dir` or, if that is '', the cache.
    path: For 'images': a folder (searched recursively for PNG and JPEG, in the
      order of their names), an .npz (array 'images' or the only array, and
      optionally 'labels') or an .npy file; arrays are [N, H, W] or
      [N, H, W, C], uint8 or float in [0, 1].
    image_size: For 'images': the shorter side is resized to it (bicubic with
      antialiasing), then the centre is cropped to a square. 0: as it is.
    num_channels: For 'images': 1 is grey, 3 is colour. 0: as it is.
    num_validation: Images held out of the training split; at most 180 for
      'digits', a tenth for 'images', the official ones for 'celeba64'.
    num_test: For 'images': held out for test. 0: a tenth. The other data sets
      have their official test split ('digits': 360 images).
    seed: Of the split, not of a run: runs that are compared share the split.

  Returns:
    The data set.
  """
  if name not in _LOADERS:
    near = difflib.get_close_matches(name, _LOADERS, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise ValueError(
        f'dataset.name={name!r} is unknown{hint} (known: {", ".join(_LOADERS)})'
    )
  if num_validation < 1:
    raise ValueError(
        f'dataset.num_validation={num_validation} must be at least 1: the best'
        ' checkpoint is chosen on the validation images'
    )
  for field, value in (
      ('image_size', image_size),
      ('num_channels', num_channels),
      ('num_test', num_test),
  ):
    if value < 0:
      raise ValueError(f'dataset.{field}={value} must not be negative')
  own = dict(
      path=path,
      image_size=image_size,
      num_channels=num_channels,
      num_test=num_test,
  )
  for field, value in own.items():
    if value and name != 'images':
      raise ValueError(
          f'dataset.{field}={value!r} applies to dataset.name=images only, not'
          f' to {name}: leave it at its default'
      )
  return _LOADERS[name](
      _Request(name=name, data_dir=data_dir, seed=seed,
               num_validation=num_validation, **own)
  )


def train_batches(
    images: np.ndarray,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[np.ndarray]:
  """Endless batches; the batch of a step depends on (seed, step) only.

  An epoch is floor(N / batch_size) steps over the permutation of
  default_rng((seed, epoch)).

  Args:
    images: uint8, shape [N, H, W, C].
    batch_size: Images per step, over all processes.
    seed: Of the run, at least 0.
    start_step: The step of the first batch.
    process_index: Which contiguous slice of each batch this process gets.
    process_count: Number of slices.

  Returns:
    An iterator of uint8 arrays, shape [batch_size / process_count, H, W, C].
  """
  num_images = len(images)
  if not 1 <= batch_size <= num_images:
    raise ValueError(
        f'train.batch_size={batch_size} must be between 1 and the number of'
        f' training images, {num_images}'
    )
  if batch_size % process_count:
    raise ValueError(
        f'train.batch_size={batch_size} is not divisible by {process_count}'
        ' processes'
    )
  if not 0 <= process_index < process_count:
    raise ValueError(
        f'process_index={process_index} must be in [0, {process_count})'
    )
  if start_step < 0 or seed < 0:
    raise ValueError(
        f'start_step={start_step} and seed={seed} must not be negative'
    )
  return _train_batches(
      images, batch_size, seed, start_step, process_index, process_count
  )


def eval_batches(
    images: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Every image once, in order; the last batch is padded, never dropped.

  Args:
    images: uint8, shape [N, H, W, C].
    batch_size: Images per batch.

  Returns:
    An iterator of (images uint8 [batch_size, H, W, C] padded with zeros, mask
    bool [batch_size], False on the padding).
  """
  if batch_size < 1:
    raise ValueError(f'evaluate.batch_size={batch_size} must be at least 1')
  return _eval_batches(images, batch_size)


class _Request(NamedTuple):
  """The arguments of `load`."""

  name: str
  data_dir: str
  path: str
  image_size: int
  num_channels: int
  num_validation: int
  num_test: int
  seed: int


def _train_batches(
    images, batch_size, seed, start_step, process_index, process_count
):
  """The generator behind `train_batches`, which checks at once."""
  num_steps = len(images) // batch_size
  local_size = batch_size // process_count
  epoch, step = divmod(start_step, num_steps)
  while True:
    permutation = np.random.default_rng((seed, epoch)).permutation(len(images))
    while step < num_steps:
      start = step * batch_size + process_index * local_size
      yield np.asarray(images[permutation[start : start + local_size]])
      step += 1
    epoch, step = epoch + 1, 0


def _eval_batches(images, batch_size):
  """The generator behind `eval_batches`, which checks at once."""
  for start in range(0, len(images), batch_size):
    chunk = np.asarray(images[start : start + batch_size])
    padded = np.zeros((batch_size, *images.shape[1:]), images.dtype)
    padded[: len(chunk)] = chunk
    yield padded, np.arange(batch_size) < len(chunk)


# Digits.


def _load_digits(request: _Request) -> Dataset:
  """1,797 images of 8x8 pixels with values 0..16, scaled to 0..255."""
  # the file itself: importing scikit-learn for it takes two seconds
  package = pathlib.Path(importlib.util.find_spec('sklearn').origin).parent
  digits = np.loadtxt(
      package / 'datasets' / 'data' / 'digits.csv.gz', delimiter=','
  )
  digits = digits[splits.permutation(len(digits), request.seed)]
  images = np.round(digits[:, :-1] * (255 / 16)).astype(np.uint8)
  images = images.reshape(-1, 8, 8)
  labels = digits[:, -1].astype(np.int32)
  images.flags.writeable = labels.flags.writeable = False
  num_validation = min(request.num_validation, _DIGITS_VALIDATION)
  cut = lambda array: splits.cut(array, num_validation, _DIGITS_TEST)
  return Dataset(
      request.name, cut(images[..., np.newaxis]), cut(labels), num_classes=10
  )


# TFDS sets.


def _load_tfds(request: _Request) -> Dataset:
  """A set of `tfds_recipes.RECIPES`."""
  from ldc_vae import tfds_sets  # where one is wanted

  parts = tfds_sets.load(
      request.name,
      data_dir=request.data_dir,
      num_validation=request.num_validation,
      seed=request.seed,
  )
  return Dataset(request.name, *parts)


# The user's own images.


def _load_images(request: _Request) -> Dataset:
  """A folder, an .npz or an .npy file, cut along a fixed permutation."""
  if not request.path:
    raise ValueError(
        "dataset.path='' must name a folder of PNG or JPEG files, an .npz or an"
        ' .npy file when dataset.name=images'
    )
  if request.num_channels not in (0, 1, 3):
    raise ValueError(
        f'dataset.num_channels={request.num_channels} must be 1 (grey), 3'
        ' (colour) or 0 (as the files are)'
    )
  path = pathlib.Path(request.path).expanduser().absolute()
  if path.is_dir():
    files = _list_images(path)
    write_fn = lambda folder: _decode_files(files, request, folder)
  elif not path.exists():
    raise FileNotFoundError(
        f'dataset.path={request.path!r} does not exist (looked for {path}):'
        ' name a folder, an .npz or an .npy file'
    )
  elif path.suffix in ('.npz', '.npy'):
    files = [path]
    write_fn = lambda folder: _convert_array_file(path, request, folder)
  else:
    raise ValueError(
        f'dataset.path={request.path!r} must be a folder, an .npz or an .npy'
        ' file'
    )
  source = [str(path), request.image_size, request.num_channels, request.seed]
  arrays = array_cache.load_or_write(
      request.name, source, array_cache.fingerprint_of(files), write_fn
  )
  num_test, num_validation = _split_sizes(len(arrays['images']), request)
  cut = lambda array: splits.cut(array, num_validation, num_test)
  images, labels = cut(arrays['images']), arrays.get('labels')
  if labels is None:
    return Dataset(request.name, images, None, 0)
  return Dataset(request.name, images, cut(labels), int(labels.max()) + 1)


def _split_sizes(num_images: int, request: _Request) -> tuple[int, int]:
  """Number of test and validation images; refuses what leaves none to train."""
  if num_images < 3:
    raise ValueError(
        f'dataset.path={request.path!r} holds {num_images} image'
        f'{"s" * (num_images != 1)}: train, validation and test need at least 3'
    )
  tenth = max(1, num_images // 10)
  num_test = request.num_test or tenth
  num_validation = min(request.num_validation, tenth)
  if num_test + num_validation >= num_images:
    raise ValueError(
        f'dataset.num_test={num_test} and {num_validation} validation images'
        f' leave none of the {num_images} images of {request.path!r} to train'
        ' on'
    )
  return num_test, num_validation


def _list_images(folder: pathlib.Path) -> list[pathlib.Path]:
  """All PNG and JPEG files below `folder`, in the order of their names."""
  files = []
  for parent, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith('.')]
    files += [
        pathlib.Path(parent, name)
        for name in names
        if name.lower().endswith(_SUFFIXES) and not name.startswith('.')
    ]
  if not files:
    raise ValueError(
        f'dataset.path={os.fspath(folder)!r} holds no PNG or JPEG file: name'
        ' the folder that has them'
    )
  return sorted(files)


def _decode_files(files, request: _Request, folder) -> None:
  """Writes images.npy, permuted, decoding in parallel into the file itself."""
  _split_sizes(len(files), request)  # refuse before the work, not after
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
        raise ValueError(_differs(files[0], shape, files[i], image.shape))
      images[rows[i]] = image

  num_workers = min(8, os.cpu_count() or 1)
  pool = concurrent.futures.ThreadPoolExecutor(num_workers)
  try:
    for _ in pool.map(decode_chunk, range(0, len(files), array_cache.CHUNK)):
      pass
  finally:
    pool.shutdown(cancel_futures=True)


def _differs(first, first_shape, second, second_shape) -> str:
  """The sentence on two files that do not go into one array."""
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
  """One file as uint8 [H, W, C], upright; an alpha channel is dropped."""
  try:
    with Image.open(file) as image:
      image = ImageOps.exif_transpose(image)
      if image.mode.startswith('I'):  # 16-bit grey, which Pillow would clip
        values = np.asarray(image, np.float64) / 257
        image = Image.fromarray(np.round(values).clip(0, 255).astype(np.uint8))
      grey = image.mode in ('1', 'L', 'LA')
      image = image.convert('L' if grey else 'RGB')
  except Exception as error:  # Pillow's decoders raise many types
    raise ValueError(
        f'dataset.path: {file} cannot be decoded'
        f' ({array_cache.first_line(error)}): remove or replace it'
    ) from error
  return _conform(image, image_size, num_channels)


def _conform(image: Image.Image, image_size, num_channels) -> np.ndarray:
  """An 'L' or 'RGB' image as uint8 [H, W, C] of the wanted size and colour."""
  if num_channels:
    image = image.convert('L' if num_channels == 1 else 'RGB')
  if image_size:
    scale = image_size / min(image.size)
    # The shorter side is exact; the other is never below it.
    size = [max(image_size, round(side * scale)) for side in image.size]
    if size != list(image.size):
      image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = [(side - image_size) // 2 for side in size]
    image = image.crop((left, top, left + image_size, top + image_size))
  array = np.asarray(image)
  return array if array.ndim == 3 else array[..., np.newaxis]


def _read_array_file(path) -> tuple[np.ndarray, np.ndarray | None]:
  """The images of an .npz or .npy file as they are, and labels int32 [N]."""
  labels = None
  try:
    # Never allow_pickle: loading a pickle runs whatever its author wrote.
    if path.suffix == '.npy':
      images = np.load(path, mmap_mode='r', allow_pickle=False)
    else:
      with np.load(path, allow_pickle=False) as archive:
        names = [name for name in archive.files if name != 'labels']
        if 'images' not in names and len(names) != 1:
          raise ValueError(f'arrays {names}, none of them named images')
        images = archive['images' if 'images' in names else names[0]]
        labels = archive['labels'] if 'labels' in archive.files else None
  except Exception as error:  # NumPy and zipfile raise many types
    raise ValueError(
        f'dataset.path: {path} cannot be read as an array file'
        f' ({array_cache.first_line(error)}): write it anew with'
        ' np.savez(path, images=images) or np.save(path, images)'
    ) from error
  if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
    raise ValueError(
        f'dataset.path: {path} holds {images.dtype} images: convert them to'
        ' uint8, or to float in [0, 1]'
    )
  if images.ndim == 3:
    images = images[..., np.newaxis]
  if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
    raise ValueError(
        f'dataset.path: {path} holds an array of shape {images.shape}: expected'
        ' [N, H, W], [N, H, W, 1] or [N, H, W, 3]'
    )
  if labels is not None:
    if labels.shape != (len(images),) or not (
        np.issubdtype(labels.dtype, np.integer)
        and labels.min() >= 0
        and labels.max() < _MAX_CLASSES
    ):
      raise ValueError(
          f'dataset.path: the labels of {path} are {labels.dtype} of shape'
          f' {labels.shape}: expected integers in [0,'
          f' {_MAX_CLASSES}) of shape ({len(images)},)'
      )
    labels = labels.astype(np.int32)
  return images, labels


def _convert_array_file(path, request: _Request, folder) -> None:
  """Writes images.npy, permuted uint8, and labels.npy where there are any."""
  images, labels = _read_array_file(path)
  _split_sizes(len(images), request)  # refuse before the work, not after
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
      chunk = np.stack([
          _conform(
              Image.fromarray(mode_of(image)), request.image_size, num_channels
          )
          for image in chunk
      ])
    written[rows[start : start + array_cache.CHUNK]] = chunk
  if labels is not None:
    order = splits.permutation(len(images), request.seed)
    written = array_cache.create_array(
        folder, 'labels', np.int32, labels.shape
    )
    written[:] = labels[order]


def _to_uint8(path, images: np.ndarray, start: int) -> np.ndarray:
  """Images [n, H, W, C] from `start` on, float in [0, 1] scaled to 0..255."""
  if images.dtype == np.uint8:
    return np.asarray(images)
  lowest = images.min(axis=(1, 2, 3))
  highest = images.max(axis=(1, 2, 3))
  # NaN fails every comparison, and min and max keep it.
  good = (lowest >= 0) & (highest <= 1)
  if not good.all():
    i = int(np.argmin(good))
    what = 'NaN' if np.isnan(lowest[i]) else f'[{lowest[i]:g}, {highest[i]:g}]'
    raise ValueError(
        f'dataset.path: image {start + i} of {path} holds {what}: float images'
        ' must be in [0, 1], others uint8'
    )
  return np.round(images.astype(np.float32) * 255).astype(np.uint8)


_LOADERS = {
    'digits': _load_digits,
    'mnist': _load_tfds,
    'fashion_mnist': _load_tfds,
    'cifar10': _load_tfds,
    'celeba64': _load_tfds,
    'images': _load_images,
}
