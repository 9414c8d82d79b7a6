"""Data sets as uint8 arrays with fixed splits, and the batches made of them.

Sources: scikit-learn's embedded digits; TFDS sets, read as ArrayRecord (and
downloaded and prepared where they are missing) without TensorFlow; the user's
own folder or array file. A set is decoded once into .npy files in the cache;
arrays too large for memory stay memory-mapped. The splits never depend on the
seed of a run. Binarisation belongs to the train step.
"""

from collections.abc import Callable, Iterator, Mapping
import importlib.metadata
import json
from typing import NamedTuple
import zlib

import numpy as np

from ldc_vae import errors
from ldc_vae import fields
from ldc_vae.data import array_cache
from ldc_vae.data import request as request_lib
from ldc_vae.data import splits

cache_dir = array_cache.cache_dir
Parts = tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None, int]
_FINGERPRINT_IMAGES = 1000  # of each split

_DIGITS_TEST = 360  # of 1,797 images, a fifth
_DIGITS_VALIDATION = 180


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


def fingerprint(dataset: Dataset) -> dict[str, list[int]]:
  """What tells two data sets apart: shapes, and checksums of a sample.

  Args:
    dataset: The data.

  Returns:
    For each split the shape of its images and a CRC-32 of a thousand of them,
    evenly spaced; JSON can hold it.
  """
  found = {}
  for split, images in sorted(dataset.images.items()):
    stride = max(1, len(images) // _FINGERPRINT_IMAGES)
    sample = images[::stride].tobytes()
    found[split] = [*images.shape, zlib.crc32(sample)]
  return found


def describe(dataset: Dataset) -> str:
  """Eight hexadecimal digits for all that an evaluation sees of the data.

  That is the `fingerprint` and, of the user's own images, the labels: they may
  come or change later, and the judge with them.
  """
  seen = fingerprint(dataset)
  if dataset.name == 'images' and dataset.labels is not None:
    for split, labels in sorted(dataset.labels.items()):
      seen[split].append(zlib.crc32(labels.tobytes()))
  text = json.dumps(seen, sort_keys=True)
  return f'{zlib.crc32(text.encode()):08x}'


def check_same(
    stored: Mapping[str, list[int]] | None, dataset: Dataset, where: str
) -> None:
  """Raises a `UserError` where a run was trained on other images.

  Args:
    stored: The `fingerprint` of what it was trained on; None is not checked.
    dataset: The data at hand.
    where: What holds the run, for the message.
  """
  for split, now in fingerprint(dataset).items():
    before = (stored or {}).get(split, now)
    if list(before) != now:
      num, total = before[0], now[0]
      what = f'{num} {split} images, not {total}' if num != total else (
          f'other {split} images'
      )
      raise errors.UserError(
          f'{where} holds a run on {what}: the splits would mix; give it the'
          ' data that it had (config.dataset), or use another --workdir'
      )


def load(name: str, **options) -> Dataset:
  """Loads a data set; the first time, downloads and decodes what is missing.

  Args:
    name: A key of `DATASETS`.
    **options: The fields of `request.Request`.

  Returns:
    The data set.

  Raises:
    UserError: The name is unknown, or an option does not fit the data.
    OSError: The data cannot be read.
  """
  if name not in DATASETS:
    raise errors.UserError(
        f'dataset.name={name!r} is unknown{fields.suggest(name, DATASETS)};'
        f' known: {", ".join(DATASETS)}'
    )
  request = request_lib.Request(name=name, **options)
  return Dataset(name, *DATASETS[name](request))


def _load_images(request: request_lib.Request) -> Parts:
  """The user's own folder or array file."""
  from ldc_vae.data import own_images  # with Pillow, which few sets need

  return own_images.load(request)


def _load_tfds(request: request_lib.Request) -> Parts:
  """A set of TFDS."""
  from ldc_vae.data import tfds_sets

  return tfds_sets.load(
      request.name,
      data_dir=request.data_dir,
      num_validation=request.num_validation,
      seed=request.seed,
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
    raise errors.UserError(
        f'train.batch_size={batch_size} must be between 1 and the number of'
        f' training images, {num_images}'
    )
  if batch_size % process_count:
    raise errors.UserError(
        f'train.batch_size={batch_size} is not divisible by {process_count}'
        ' processes'
    )
  if not 0 <= process_index < process_count:
    raise errors.UserError(
        f'process_index={process_index} must be in [0, {process_count})'
    )
  if start_step < 0 or seed < 0:
    raise errors.UserError(
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
    raise errors.UserError(
        f'evaluate.batch_size={batch_size} must be at least 1'
    )
  return _eval_batches(images, batch_size)


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


def _load_digits(num_validation: int, seed: int):
  """1,797 images of 8x8 pixels with values 0..16, scaled to 0..255."""
  # the file itself: importing scikit-learn for it takes two seconds
  package = importlib.metadata.distribution('scikit-learn')
  path = package.locate_file('sklearn/datasets/data/digits.csv.gz')
  digits = np.loadtxt(str(path), delimiter=',')
  digits = digits[splits.permutation(len(digits), seed)]
  images = np.round(digits[:, :-1] * (255 / 16)).astype(np.uint8)
  images = images.reshape(-1, 8, 8)
  labels = digits[:, -1].astype(np.int32)
  images.flags.writeable = labels.flags.writeable = False
  num_validation = min(num_validation, _DIGITS_VALIDATION)
  cut = lambda array: splits.cut(array, num_validation, _DIGITS_TEST)
  return cut(images[..., np.newaxis]), cut(labels), 10


# A new data set is a function of its `request.Request` and a line here. It
# returns the images and the labels (or None) of 'train', 'validation' and
# 'test', and the number of classes (0 without labels).
DATASETS: dict[str, Callable[[request_lib.Request], Parts]] = {
    'digits': lambda request: _load_digits(
        request.num_validation, request.seed
    ),
    'mnist': _load_tfds,
    'fashion_mnist': _load_tfds,
    'cifar10': _load_tfds,
    'celeba64': _load_tfds,
    'images': _load_images,
}
