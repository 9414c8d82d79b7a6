"""Shared by the tests of data: folders of their own, a small prepared set."""

import os
import pathlib
import shutil
import tempfile
from unittest import mock

from absl.testing import parameterized
import numpy as np
from PIL import Image

from ldc_vae.data import array_cache
from ldc_vae.data import datasets

SPLITS = ('train', 'validation', 'test')


class DatasetTestCase(parameterized.TestCase):
  """Every test has its own folder and cache, and no TFDS_DATA_DIR."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(tempfile.mkdtemp())
    # TFDS's other downloads may still write after one of them has failed
    self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
    self.cache = self.root / 'cache'
    environment = {'LDC_VAE_CACHE': os.fspath(self.cache)}
    self.enterContext(mock.patch.dict(os.environ, environment))
    os.environ.pop('TFDS_DATA_DIR', None)
    # the files of a test are new, and would be read once more for their stamps
    fresh = mock.patch.object(array_cache, 'FRESH_SECONDS', 0.0)
    self.enterContext(fresh)

  def count_calls(self, module, name):
    """Wraps a function of a module; the mock counts its calls."""
    return self.enterContext(
      mock.patch.object(module, name, wraps=getattr(module, name))
    )


class FolderTestCase(DatasetTestCase):
  """Every test has a folder of pictures."""

  def setUp(self):
    super().setUp()
    self.folder = self.root / 'pictures'
    self.folder.mkdir()

  def write(self, name, size=(10, 10), value=0, mode='L', **options):
    """Writes a picture of one value."""
    path = self.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path, **options)

  def write_greys(self, count, first=0, **options):
    """Writes pictures of the values `first`, `first` + 1 and so on."""
    for i in range(count):
      self.write(f'{i:03d}.png', value=first + i, **options)

  def load(self, **options):
    """Loads the folder."""
    return datasets.load('images', path=os.fspath(self.folder), **options)

  def messages(self, level='WARNING', **options):
    """Loads the folder; returns the data set and what was logged."""
    with self.assertLogs('absl', 'INFO') as logs:
      dataset = self.load(**options)
    return dataset, [
      record.getMessage()
      for record in logs.records
      if record.levelname == level
    ]


class PreparedTestCase(DatasetTestCase):
  """A small prepared set of Tensor features stands for MNIST."""

  def prepare(self, root, num_train=40, labels=None, name='mnist'):
    """Writes root/<name>/3.0.1; image i of train is constant i."""
    import tensorflow_datasets as tfds  # where a set is prepared

    labels = np.arange(num_train) % 10 if labels is None else labels
    builder_name, shape = name, (28, 28, 1)
    examples = lambda first, labels: {
      i: dict(image=np.full(shape, first + i, np.uint8), label=label)
      for i, label in enumerate(labels)
    }.items()

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
      name = builder_name
      VERSION = tfds.core.Version('3.0.1')

      def _info(self):
        features = tfds.features.FeaturesDict(
          {
            'image': tfds.features.Tensor(shape=shape, dtype=np.uint8),
            'label': tfds.features.ClassLabel(num_classes=10),
          }
        )
        return tfds.core.DatasetInfo(
          builder=self, features=features, disable_shuffling=True
        )

      def _split_generators(self, dl_manager):
        return {
          'train': self._generate_examples(0, labels),
          'test': self._generate_examples(200, range(5)),
        }

      def _generate_examples(self, first, labels):
        yield from examples(first, labels)

    builder = Builder(data_dir=os.fspath(root), file_format='array_record')
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)
