"""The request that the loader of a data set gets."""

import dataclasses
from typing import ClassVar

from ldc_vae import errors
from ldc_vae import fields

LATENTS = 'latents'  # a file of latents instead of images
_WITH_PATH = {
  'images': 'a folder, an .npz or an .npy file',
  LATENTS: 'an .npy, an .npz or a .safetensors file of latents',
}

_LEVEL = fields.Range(
  lambda x: 0 <= x <= 255,
  '0 to 255',
  lambda x: 'is no grey level; use 0 (black) to 255 (white)',
)


@dataclasses.dataclass(frozen=True)
class Source(fields.Options):
  """The choice of images and of their splits: fields of `config.dataset`.

  A relative `data_dir` is relative to the current directory. A set that is not
  prepared there is downloaded into it.

  `path` is a folder, an .npz file or an .npy file. A folder is searched
  recursively, and its files are sorted by name. Its folders 'train', 'val' and
  'test' are splits; folders below them, or in their place, are classes. An .npz
  file has 'images' and optionally 'labels', or 'x_train', 'y_train', 'x_test'
  and so on. Arrays have shape [N, H, W] or [N, H, W, C], and are uint8, bool or
  float in [0, 1].

  At most 180 images of 'digits' and a tenth of 'images' are held out for
  validation; 'celeba64' and some folders have a validation split of their own.
  """

  group: ClassVar[str] = 'dataset'

  name: str = fields.field('digits', 'the data set')
  data_dir: str = fields.field(
    '', 'folder of prepared TFDS data; empty: TFDS_DATA_DIR, or the cache'
  )
  path: str = fields.field(
    '',
    'images: a folder of image files, or an .npz or .npy file; latents: an'
    ' .npy, .npz or .safetensors file',
  )
  image_size: int = fields.at_least(
    0, default=0, help='images: side after resize and centre crop; 0: native'
  )
  num_channels: int = fields.one_of(
    (0, 1, 3), default=0, help='images: 1 grey, 3 colour; 0: as in the files'
  )
  background: int = fields.field(
    255, 'images: grey level behind transparent pixels', _LEVEL
  )
  num_validation: int = fields.at_least(
    1, default=10_000, help='training images held out to choose options by'
  )
  num_test: int = fields.at_least(
    0, default=0, help='images: images held out for the test; 0: a tenth'
  )

  def check(self) -> None:
    if self.name in _WITH_PATH and not self.path:
      raise self.refuse(f'is empty: give {_WITH_PATH[self.name]}')
    if self.name not in _WITH_PATH and self.path:
      raise self.conflict(
        ('name', 'path'),
        'does not go together; only config.dataset.name=images and latents'
        ' have a path',
      )
    own = ('image_size', 'num_channels', 'background', 'num_test')
    for each in dataclasses.fields(self) if self.name != 'images' else ():
      if each.name in own and getattr(self, each.name) != each.default:
        raise self.conflict(
          (each.name, 'name'),
          'does not go together; only config.dataset.name=images has this'
          f' option: leave it at {each.default}',
        )

  def refuse(self, explanation: str) -> errors.UserError:
    """Returns the error for what `path` holds: 'config.dataset.path=...'."""
    return self.conflict(('path',), explanation)


@dataclasses.dataclass(frozen=True)
class Request(Source):
  """A source, and the seed of its splits, which is the same for all runs."""

  seed: int = fields.at_least(0, default=0, help='seed of the splits')
