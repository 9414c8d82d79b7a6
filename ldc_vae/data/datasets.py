"""Data sets as uint8 arrays with fixed splits, and batches of their images.

There are three kinds of sources: scikit-learn's digits, TFDS sets, and the
user's own folder or array file. TFDS sets are downloaded and prepared if they
are missing, without TensorFlow. A set is decoded once into .npy files in the
cache; large arrays stay memory-mapped. The splits never depend on the seed of a
run. The train step, not this module, binarises images.
"""

from collections.abc import Callable, Iterator, Mapping
import concurrent.futures
import hashlib
import importlib.metadata
import json
from typing import Any, NamedTuple
import zlib

import numpy as np

from ldc_vae import errors
from ldc_vae import fields
from ldc_vae.data import array_cache
from ldc_vae.data import request as request_lib
from ldc_vae.data import splits

cache_dir = array_cache.cache_dir
Parts = tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None, int]
_MAX_REFERENCE = 20_000  # the test split of CelebA, the largest of all sets
_BLOCK_BYTES = 2**22  # of images that a core digests at a time

_DIGITS_TEST = 360  # a fifth of the 1,797 images
_DIGITS_VALIDATION = 180


class Dataset(NamedTuple):
  """The images of the three splits and, if they exist, their labels.

  Attributes:
    name: A key of `DATASETS`.
    images: A dict from 'train', 'validation' and 'test' to uint8 [N, H, W, C].
      The arrays are read-only; large ones are memory-mapped.
    labels: A dict from the same keys to int32 [N]; None without labels.
    num_classes: The number of classes; 0 without labels.
  """

  name: str
  images: dict[str, np.ndarray]
  labels: dict[str, np.ndarray] | None
  num_classes: int

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Shape (H, W, C) of one image."""
    return self.images['train'].shape[1:]

  def reference(self, split: str) -> np.ndarray:
    """Returns the images of a split that an evaluation compares with.

    They are its first 20,000: all images of the named sets, and a random part
    of a larger set of the user's own, whose images are permuted.
    """
    return self.images[split][:_MAX_REFERENCE]


def fingerprint(dataset: Dataset) -> dict[str, list[Any]]:
  """Returns the shape and a digest of the images of each split.

  Two data sets with equal fingerprints are taken to be the same.

  Args:
    dataset: The data.

  Returns:
    A dict, which JSON can store. It maps each split to the shape of its images
    and half of a SHA-256 of all their bytes.
  """
  return {
    split: [*images.shape, _digest(images)]
    for split, images in sorted(dataset.images.items())
  }


def _digest(images: np.ndarray) -> str:
  """Returns a digest of the digests of blocks, which all cores compute."""
  size = max(1, _BLOCK_BYTES // max(1, images[:1].nbytes))
  digest_fn = lambda start: hashlib.sha256(
    np.ascontiguousarray(images[start : start + size]).data
  ).digest()
  with concurrent.futures.ThreadPoolExecutor() as executor:
    parts = executor.map(digest_fn, range(0, len(images), size))
    return hashlib.sha256(b''.join(parts)).hexdigest()[:32]


def _sampled_fingerprint(dataset: Dataset) -> dict[str, list[Any]]:
  """Returns what earlier versions recorded: a CRC-32 of a sample of images."""
  found = {}
  for split, images in sorted(dataset.images.items()):
    sample = images[:: max(1, len(images) // 1000)].tobytes()
    found[split] = [*images.shape, zlib.crc32(sample)]
  return found


def describe(dataset: Dataset) -> str:
  """Returns eight hexadecimal digits that identify the data of an evaluation.

  They depend on the `fingerprint` and, for the user's own images, on the
  labels. A user can add or change labels later, which changes the feature
  classifier.
  """
  return _describe(dataset, fingerprint(dataset))


def descriptions(
  dataset: Dataset, seen: Mapping[str, list[Any]]
) -> tuple[str, ...]:
  """Returns what `describe` says of the data, and what it said earlier.

  Args:
    dataset: The data.
    seen: Their `fingerprint`.
  """
  return tuple(
    _describe(dataset, each) for each in (seen, _sampled_fingerprint(dataset))
  )


def _describe(dataset: Dataset, seen: Mapping[str, list[Any]]) -> str:
  """Returns what `describe` says of data with a fingerprint."""
  seen = {split: list(value) for split, value in seen.items()}
  if dataset.name == 'images' and dataset.labels is not None:
    for split, labels in sorted(dataset.labels.items()):
      seen[split].append(zlib.crc32(labels.tobytes()))
  text = json.dumps(seen, sort_keys=True)
  return f'{zlib.crc32(text.encode()):08x}'


def check_same(
  stored: Mapping[str, list[Any]] | None,
  present: Mapping[str, list[Any]],
  dataset: Dataset,
  where: str,
) -> None:
  """Raises a `UserError` if a run was trained on other images.

  Args:
    stored: The `fingerprint` of the run's training data; None is not checked.
    present: The `fingerprint` of the present data.
    dataset: The present data.
    where: The run's folder, for the message.
  """
  stored = stored or {}
  if any(isinstance(value[-1], int) for value in stored.values()):
    present = _sampled_fingerprint(dataset)  # as an earlier version did
  for split, now in present.items():
    before = stored.get(split, now)
    if list(before) != now:
      num, total = before[0], now[0]
      what = (
        f'{num} {split} images, not {total}'
        if num != total
        else (f'other {split} images')
      )
      raise errors.UserError(
        f'{where} holds a run on {what}: training and test images would mix;'
        ' use the same data as before (config.dataset), or another --workdir'
      )


def load(name: str, **options) -> Dataset:
  """Loads a data set; the first time, downloads and decodes it.

  Args:
    name: A key of `DATASETS`.
    **options: Fields of `request.Request`.

  Returns:
    The data set.

  Raises:
    UserError: The name is unknown, or an option does not fit the data.
    OSError: The data cannot be read.
  """
  if name not in DATASETS:
    raise errors.UserError(
      f'config.dataset.name={name} is unknown{fields.suggest(name, DATASETS)};'
      f' known: {", ".join(DATASETS)}'
    )
  request = request_lib.Request(name=name, **options)
  return Dataset(name, *DATASETS[name](request))


def _refuse_latents(request: request_lib.Request) -> Parts:
  """Latents have a job of their own, `ldc_vae/latents.py`."""
  raise errors.UserError(
    f'config.dataset.name={request.name}: latents are no images;'
    ' only --mode=train and --mode=sample take them'
  )


def _load_images(request: request_lib.Request) -> Parts:
  """Loads the user's own folder or array file."""
  from ldc_vae.data import own_images  # it imports Pillow, which few sets need

  return own_images.load(request)


def _load_tfds(request: request_lib.Request) -> Parts:
  """Loads a TFDS set."""
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
  """Returns endless batches; a step's batch depends on (seed, step) only.

  An epoch is floor(N / batch_size) steps over the permutation of
  default_rng((seed, epoch)).

  Args:
    images: uint8, shape [N, H, W, C].
    batch_size: Images per step, over all processes.
    seed: The run's seed, at least 0.
    start_step: The step of the first batch.
    process_index: The index of this process's contiguous slice of each batch.
    process_count: The number of slices.

  Returns:
    An iterator of uint8 arrays, shape [batch_size / process_count, H, W, C].
  """
  num_images = len(images)
  if not 1 <= batch_size <= num_images:
    raise errors.UserError(
      f'config.train.batch_size={batch_size} must be between 1 and the number'
      f' of training images, {num_images}'
    )
  if batch_size % process_count:
    raise errors.UserError(
      f'config.train.batch_size={batch_size} is not divisible by'
      f' {process_count} processes'
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
  """Returns batches with every image once, in order; the last one is padded.

  Args:
    images: uint8, shape [N, H, W, C].
    batch_size: Images per batch.

  Returns:
    An iterator of pairs (images uint8 [batch_size, H, W, C], mask bool
    [batch_size]). The padding is zeros, and its mask is False.
  """
  if batch_size < 1:
    raise errors.UserError(
      f'config.evaluate.batch_size={batch_size} must be at least 1'
    )
  return _eval_batches(images, batch_size)


def _train_batches(
  images, batch_size, seed, start_step, process_index, process_count
):
  """Yields the batches of `train_batches`, which has checked the arguments."""
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
  """Yields the batches of `eval_batches`, which has checked the arguments."""
  for start in range(0, len(images), batch_size):
    chunk = np.asarray(images[start : start + batch_size])
    padded = np.zeros((batch_size, *images.shape[1:]), images.dtype)
    padded[: len(chunk)] = chunk
    yield padded, np.arange(batch_size) < len(chunk)


def _load_digits(num_validation: int, seed: int):
  """Loads 1,797 images of 8x8 pixels, and scales values 0..16 to 0..255."""
  # the file is read directly: an import of scikit-learn takes two seconds
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


# A new data set needs a loading function and a line here. The function maps a
# `request.Request` to the images and the labels (or None) of 'train',
# 'validation' and 'test', and the number of classes (0 without labels).
DATASETS: dict[str, Callable[[request_lib.Request], Parts]] = {
  'digits': lambda request: _load_digits(request.num_validation, request.seed),
  'mnist': _load_tfds,
  'fashion_mnist': _load_tfds,
  'cifar10': _load_tfds,
  'celeba64': _load_tfds,
  'images': _load_images,
  request_lib.LATENTS: _refuse_latents,
}
