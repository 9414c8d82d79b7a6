"""TFDS sets, read as ArrayRecord and prepared if they are missing.

A set that is not prepared is downloaded and prepared without TensorFlow: with
Tensor features, and with TFDS's own downloads and checksums. The prepared set
is decoded once into the array cache.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import threading
import time
from typing import Any

from absl import logging
import numpy as np

from ldc_vae import errors
from ldc_vae.data import array_cache
from ldc_vae.data import splits
from ldc_vae.data import tfds_recipes

_PROBE_SECONDS = 4.0  # a missing network is reported within 5 s


def load(
  name: str, *, data_dir: str, num_validation: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None, int]:
  """Loads a TFDS set; the first time, prepares and decodes it.

  Args:
    name: A key of `tfds_recipes.RECIPES`.
    data_dir: The field of `request.Source`.
    num_validation: The number of validation images. They are the end of a
      permutation of the training split, or the start of the official
      validation split where the set has one.
    seed: The seed of the permutation.

  Returns:
    `images`, `labels` and `num_classes` of a `datasets.Dataset`.

  Raises:
    FileNotFoundError: Nothing is prepared and the network cannot be reached.
    OSError: The set cannot be prepared, read or cached.
    UserError: `num_validation` leaves nothing to train on.
  """
  recipe = tfds_recipes.RECIPES[name]
  roots = _roots(data_dir)
  directory = _find_prepared(name, recipe, roots)
  if directory is None:
    directory = _prepare(name, recipe, roots)
  arrays = array_cache.load_or_write(
    name,
    [str(directory), seed],
    array_cache.fingerprint_of(directory.iterdir()),
    lambda folder, _: _decode_records(directory, name, recipe, seed, folder),
  )
  names = ('train', 'validation', 'test')
  images = {s: arrays[f'{s}_images'] for s in names if f'{s}_images' in arrays}
  labels = {s: arrays[f'{s}_labels'] for s in names if f'{s}_labels' in arrays}
  num_train = len(images['train'])
  if 'validation' not in images and num_validation >= num_train:
    raise errors.UserError(
      f'config.dataset.num_validation={num_validation} leaves nothing to train'
      f' on: {name} in {directory} has {num_train} training images'
    )
  for arrays in filter(None, (images, labels)):
    if 'validation' in arrays:
      arrays['validation'] = arrays['validation'][:num_validation]
    else:
      arrays['validation'] = arrays['train'][-num_validation:]
      arrays['train'] = arrays['train'][:-num_validation]
  return images, labels or None, recipe.num_classes


# The search for a prepared set.


def _find_prepared(
  name: str, recipe: tfds_recipes.Recipe, roots: list[pathlib.Path]
) -> pathlib.Path | None:
  """Returns the folder of a complete ArrayRecord set, or None."""
  # Our own build comes first: CelebA's images are already cropped there.
  folders = (name, _builder_name(name), recipe.tfds_name)
  for root in roots:
    for folder in folders:
      versions = [
        ([int(part) for part in path.name.split('.')], path)
        for path in (root / folder).glob('*.*.*')
        if re.fullmatch(r'\d+\.\d+\.\d+', path.name)
      ]
      for _, directory in sorted(versions, reverse=True):
        if _is_prepared(directory):
          return directory
  return None


def _roots(data_dir: str) -> list[pathlib.Path]:
  """Returns the folders to search; new sets are prepared in the last one."""
  if data_dir:
    roots = [data_dir]
  else:
    roots = [os.environ.get('TFDS_DATA_DIR'), array_cache.cache_dir() / 'tfds']
  return [array_cache.expand(root) for root in roots if root]


def _is_prepared(directory: pathlib.Path) -> bool:
  """Returns whether a folder has all files that its description names."""
  try:
    info = json.loads((directory / 'dataset_info.json').read_text())
    json.loads((directory / 'features.json').read_text())
    num_shards = sum(len(s['shardLengths']) for s in info['splits'])
  except Exception:  # a description may be anything
    return False
  num_files = len(list(directory.glob('*.array_record*')))
  return 0 < num_shards <= num_files


def _builder_name(name: str) -> str:
  """Returns the name of our own build; TFDS's build has other features."""
  return f'{name}_arrays'


# The decoding of a prepared set into the array cache.


def _decode_records(directory, name, recipe, seed, folder) -> None:
  """Writes <split>_images.npy and <split>_labels.npy into `folder`."""
  import tensorflow_datasets as tfds  # the import takes half a second

  logging.info('decoding %s from %s', name, directory)
  with _readable(name, directory):
    builder = tfds.builder_from_directory(directory)
    sources = {s: builder.as_data_source(s) for s in builder.info.splits}
    if not {'train', 'test'} <= set(sources):
      raise ValueError(
        f'its splits are {sorted(sources)}, but train and test are needed'
      )
  for split, source in sources.items():
    count = len(source)
    # Image i is written to rows[i]. The validation images are cut from the
    # end, so the rows are permuted in case the file is sorted by class.
    rows = np.arange(count)
    if split == 'train' and 'validation' not in sources:
      rows = np.argsort(splits.permutation(count, seed))
    shape = (count, *recipe.image_shape)
    images = array_cache.create_array(
      folder, f'{split}_images', np.uint8, shape
    )
    if recipe.num_classes:
      labels = array_cache.create_array(
        folder, f'{split}_labels', np.int32, (count,)
      )
    for start in array_cache.chunks(count):
      chunk = rows[start : start + array_cache.CHUNK]
      with _readable(name, directory):
        examples = source.__getitems__(list(range(start, start + len(chunk))))
        images[chunk] = [_fit(e['image'], recipe) for e in examples]
        if recipe.num_classes:
          labels[chunk] = [e['label'] for e in examples]


@contextlib.contextmanager
def _readable(name: str, directory: pathlib.Path):
  """Replaces any exception of a damaged prepared set by one sentence."""
  try:
    yield
  except Exception as error:  # TFDS, ArrayRecord and Pillow raise many types
    raise OSError(
      f'{name} in {directory} cannot be read'
      f' ({array_cache.first_line(error)}): delete that folder, and the set'
      ' is prepared again, or set config.dataset.data_dir to another folder'
    ) from error


def _fit(image: np.ndarray, recipe: tfds_recipes.Recipe) -> np.ndarray:
  """Returns the image in the recipe's shape, cropped if necessary."""
  if image.shape != recipe.image_shape and recipe.crop_fn is not None:
    image = recipe.crop_fn(image)
  if image.shape != recipe.image_shape:
    raise ValueError(
      f'an image has shape {image.shape}, not {recipe.image_shape}'
    )
  return image


# The preparation of a set without TensorFlow.


def _prepare(
  name: str, recipe: tfds_recipes.Recipe, roots: list[pathlib.Path]
) -> pathlib.Path:
  """Downloads and prepares a set as ArrayRecord; returns its folder."""
  import tensorflow_datasets as tfds  # the import takes half a second

  downloads = roots[-1] / 'downloads'
  # one folder per set, because two sets have files of the same names
  manual = downloads / 'manual' / name
  by_hand = f'put {", ".join(recipe.files)} into {manual}'
  url_infos = _url_infos(recipe)
  absent = [
    url
    for url, url_info in url_infos.items()
    if not (manual / url_info.filename).exists()
    and not _is_downloaded(downloads, url, url_info)
  ]
  # The network is checked first, because TFDS would retry for minutes.
  reason = _unreachable_reason(absent[0]) if absent else ''
  if reason:
    raise FileNotFoundError(
      f'config.dataset.data_dir: {name} is not prepared (as ArrayRecord) in'
      f' {" or ".join(map(str, roots))} and the network cannot be reached'
      f' ({reason}); prepare it on a machine with a network and copy that'
      ' folder, or set TFDS_DATA_DIR or --config.dataset.data_dir to a folder'
      f' that contains it, or {by_hand}'
    )
  builder_name = _builder_name(name)
  with array_cache.locked(roots[-1] / f'{builder_name}.lock'):
    # another process may have prepared it while this one waited
    found = _find_prepared(name, recipe, roots)
    if found is not None:
      return found
    for leftover in (roots[-1] / builder_name).glob('incomplete.*'):
      shutil.rmtree(leftover, ignore_errors=True)
    try:
      builder = _make_builder(builder_name, recipe, roots[-1], url_infos)
      builder.download_and_prepare(
        download_dir=downloads,
        download_config=tfds.download.DownloadConfig(
          manual_dir=manual,
          # TFDS would otherwise reuse a folder without description.
          download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS,
          force_checksums_validation=True,
          try_download_gcs=False,
        ),
      )
      time.sleep(array_cache.FRESH_SECONDS)  # else it would be decoded twice
    except Exception as error:  # downloads and parsers raise many types
      raise OSError(
        f'{name} could not be prepared in {roots[-1]}'
        f' ({array_cache.first_line(error)}): delete a damaged download and'
        f' run again, or {by_hand}'
      ) from error
  return pathlib.Path(builder.data_dir)


def _url_infos(recipe: tfds_recipes.Recipe) -> dict[str, Any]:
  """Returns {url: size, checksum, file name}, as TFDS registers the files."""
  import tensorflow_datasets as tfds  # the import takes half a second

  tfds_path = tfds.core.tfds_path()
  path = tfds_path / 'url_checksums' / f'{recipe.tfds_name}.txt'
  if not path.exists():
    path = tfds_path / 'datasets' / recipe.tfds_name / 'checksums.tsv'
  registered = tfds.core.download.checksums.load_url_infos(path)
  return {
    url: url_info
    for url, url_info in registered.items()
    if url_info.filename in recipe.files
  }


def _is_downloaded(downloads: pathlib.Path, url: str, url_info: Any) -> bool:
  """Returns whether TFDS's download manager already has the file."""
  import tensorflow_datasets as tfds  # the import takes half a second

  file_name = tfds.core.download.resource.get_dl_fname(url, url_info.checksum)
  return any(downloads.glob(f'**/{file_name}'))


def _unreachable_reason(url: str) -> str:
  """Returns why `url` cannot be read, or ''; takes at most `_PROBE_SECONDS`."""
  import requests  # only a download needs it

  reasons = []

  def probe():
    try:
      # A GET whose body is not read; some hosts do not answer a HEAD.
      with requests.get(url, stream=True, timeout=_PROBE_SECONDS / 2) as answer:
        ok = answer.status_code < 400
        reasons.append('' if ok else f'HTTP {answer.status_code}')
    except requests.RequestException as error:
      reasons.append(type(error).__name__)

  # The probe runs in a thread, because a look-up of a name has no timeout.
  thread = threading.Thread(target=probe, daemon=True)
  thread.start()
  thread.join(_PROBE_SECONDS)
  return reasons[0] if reasons else f'no answer in {_PROBE_SECONDS:.0f} s'


def _make_builder(builder_name, recipe, root, url_infos):
  """Returns a TFDS builder whose features are written without TensorFlow."""
  import tensorflow_datasets as tfds  # the import takes half a second

  registered_infos = url_infos
  features = {
    'image': tfds.features.Tensor(shape=recipe.image_shape, dtype=np.uint8)
  }
  if recipe.num_classes:
    features['label'] = tfds.features.ClassLabel(num_classes=recipe.num_classes)

  class Arrays(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = builder_name
    VERSION = tfds.core.Version('1.0.0')
    url_infos = registered_infos

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      urls = {info.filename: url for url, info in registered_infos.items()}
      paths = dl_manager.download(urls)
      return {
        split: self._generate_examples(examples)
        for split, examples in recipe.read_fn(paths).items()
      }

    def _generate_examples(self, examples):
      for index, (image, label) in enumerate(examples):
        example = {'image': image}
        if recipe.num_classes:
          example['label'] = label
        yield index, example

  return Arrays(data_dir=os.fspath(root), file_format='array_record')
