"""Recipes for TFDS sets: the files that the authors publish, and their readers.

A recipe names the files of a set and reads images and labels from them with
NumPy and Pillow alone. To add another TFDS set, add a recipe.
"""

from collections.abc import Callable, Iterator
import gzip
import os
import pathlib
import struct
import tarfile
from typing import Any, NamedTuple
import zipfile

import numpy as np


class Recipe(NamedTuple):
  """The files of one TFDS set, and the function that reads them.

  Attributes:
    tfds_name: The set's name in TFDS.
    files: The names of the files to download, as in TFDS's checksums.
    read_fn: Maps {file name: path} to {split: iterator of (image, label)}.
    image_shape: Shape (H, W, C) of the images.
    num_classes: The number of classes; 0 if labels are not kept.
    crop_fn: Maps an image of another shape to one of `image_shape`, or None.
  """

  tfds_name: str
  files: tuple[str, ...]
  read_fn: Callable[[dict[str, pathlib.Path]], dict[str, Iterator[Any]]]
  image_shape: tuple[int, int, int]
  num_classes: int
  crop_fn: Callable[[np.ndarray], np.ndarray] | None = None


def _read_mnist(paths) -> dict[str, Iterator[Any]]:
  """Reads MNIST's format: images [N, 28, 28] and labels [N] as IDX files."""
  examples: dict[str, Iterator[Any]] = {}
  for split, prefix in (('train', 'train'), ('test', 't10k')):
    images = _read_idx(paths[f'{prefix}-images-idx3-ubyte.gz'])
    labels = _read_idx(paths[f'{prefix}-labels-idx1-ubyte.gz'])
    if len(images) != len(labels):
      raise ValueError(f'{len(images)} images but {len(labels)} labels')
    examples[split] = zip(images[..., np.newaxis], labels)
  return examples


def _read_idx(path) -> np.ndarray:
  """Reads a gzipped IDX file of bytes: 0 0 8 rank, big-endian sizes, values."""
  with gzip.open(os.fspath(path)) as file:
    content = file.read()
  if content[:3] != b'\0\0\x08':
    raise ValueError(f'{path} is not an IDX file of bytes')
  rank = content[3]
  shape = struct.unpack_from(f'>{rank}I', content, 4)
  return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _read_cifar(paths) -> dict[str, Iterator[Any]]:
  """Reads CIFAR-10's binary files: rows of a label and a [3, 32, 32] image."""
  batches = {
    'train': [f'data_batch_{i}.bin' for i in range(1, 6)],
    'test': ['test_batch.bin'],
  }
  examples: dict[str, Iterator[Any]] = {}
  with tarfile.open(os.fspath(paths['cifar-10-binary.tar.gz'])) as archive:
    members = {os.path.basename(m.name): m for m in archive.getmembers()}

    def read(name: str) -> bytes:
      file = archive.extractfile(members[name])
      assert file is not None  # it is no folder
      return file.read()

    for split, names in batches.items():
      content = b''.join(map(read, names))
      rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
      images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
      examples[split] = zip(images, rows[:, 0])
  return examples


def _read_celeba(paths) -> dict[str, Iterator[Any]]:
  """Reads and crops CelebA's aligned JPEGs, in the official partition."""
  from PIL import Image  # only this set needs a decoder

  partition = {'0': [], '1': [], '2': []}
  lines = pathlib.Path(paths['list_eval_partition.txt']).read_text().split('\n')
  for line in filter(None, map(str.strip, lines)):
    file_name, split = line.split()
    partition[split].append(file_name)

  def examples(names):
    with zipfile.ZipFile(os.fspath(paths['img_align_celeba.zip'])) as archive:
      members = {os.path.basename(name): name for name in archive.namelist()}
      for name in names:
        if name not in members:
          raise ValueError(f'img_align_celeba.zip lacks {name}')
        with archive.open(members[name]) as file:
          yield _crop_celeba(np.asarray(Image.open(file).convert('RGB'))), 0

  splits = zip(('train', 'validation', 'test'), partition.values())
  return {split: examples(names) for split, names in splits}


def _crop_celeba(image: np.ndarray) -> np.ndarray:
  """Crops the centre 140x140 of [218, 178, 3], and resizes it to 64x64.

  The resize is bicubic, with antialiasing.
  """
  from PIL import Image  # only this set needs a decoder

  if image.shape != (218, 178, 3):
    raise ValueError(
      f'an aligned CelebA image has shape {image.shape}, not (218, 178, 3)'
    )
  face = Image.fromarray(image[39:179, 19:159])
  return np.asarray(face.resize((64, 64), Image.Resampling.BICUBIC))


_MNIST_FILES = (
  'train-images-idx3-ubyte.gz',
  'train-labels-idx1-ubyte.gz',
  't10k-images-idx3-ubyte.gz',
  't10k-labels-idx1-ubyte.gz',
)
RECIPES = {
  'mnist': Recipe('mnist', _MNIST_FILES, _read_mnist, (28, 28, 1), 10),
  'fashion_mnist': Recipe(
    'fashion_mnist', _MNIST_FILES, _read_mnist, (28, 28, 1), 10
  ),
  'cifar10': Recipe(
    'cifar10', ('cifar-10-binary.tar.gz',), _read_cifar, (32, 32, 3), 10
  ),
  'celeba64': Recipe(
    'celeb_a',
    ('img_align_celeba.zip', 'list_eval_partition.txt'),
    _read_celeba,
    (64, 64, 3),
    0,
    _crop_celeba,
  ),
}
