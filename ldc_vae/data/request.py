"""The request that the loader of a data set gets."""

import dataclasses
from typing import ClassVar

from ldc_vae import fields


@dataclasses.dataclass(frozen=True)
class Source(fields.Options):
  """The choice of images and of their splits: fields of `config.dataset`.

  A relative `data_dir` is relative to the current directory. A set that is not
  prepared there is downloaded into it.

  `path` is a folder, an .npz file or an .npy file. A folder is searched
  recursively, and its files are sorted by name. An .npz file has the array
  'images', or only one array, and optionally 'labels'. Arrays have shape
  [N, H, W] or [N, H, W, C], and are uint8 or float in [0, 1].

  At most 180 images of 'digits' and a tenth of 'images' are held out for
  validation; 'celeba64' has an official validation split.
  """

  group: ClassVar[str] = 'dataset'

  name: str = fields.field('digits', 'the data set')
  data_dir: str = fields.field(
    '', 'folder of prepared TFDS data; empty: TFDS_DATA_DIR, or the cache'
  )
  path: str = fields.field(
    '', 'images: a folder of PNG/JPEG files, or an .npz or .npy file'
  )
  image_size: int = fields.at_least(
    0, default=0, help='images: side after resize and centre crop; 0: native'
  )
  num_channels: int = fields.one_of(
    (0, 1, 3), default=0, help='images: 1 grey, 3 colour; 0: as in the files'
  )
  num_validation: int = fields.at_least(
    1, default=10_000, help='training images held out to choose options by'
  )
  num_test: int = fields.at_least(
    0, default=0, help='images: images held out for the test; 0: a tenth'
  )

  def check(self) -> None:
    if (self.name == 'images') != bool(self.path):
      raise self.conflict(
        ('name', 'path'),
        'does not go together; only dataset.name=images has a path, and it'
        ' needs one',
      )
    own = ('image_size', 'num_channels', 'num_test')
    for name in own if self.name != 'images' else ():
      if getattr(self, name):
        raise fields.conflict(
          {f'dataset.{name}': getattr(self, name), 'dataset.name': self.name},
          'does not go together; only dataset.name=images has this option:'
          ' leave it at 0',
        )


@dataclasses.dataclass(frozen=True)
class Request(Source):
  """A source, and the seed of its splits, which is the same for all runs."""

  seed: int = fields.at_least(0, default=0, help='seed of the splits')
