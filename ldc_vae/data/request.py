"""What a data set's loader is asked for."""

from typing import NamedTuple


class Request(NamedTuple):
  """Which data, and how they are split.

  Attributes:
    name: The data set's name.
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
  """

  name: str
  data_dir: str = ''
  path: str = ''
  image_size: int = 0
  num_channels: int = 0
  num_validation: int = 10_000
  num_test: int = 0
  seed: int = 0
