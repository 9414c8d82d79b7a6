"""Shared by the tests of pictures."""

import pathlib
import tempfile

from absl.testing import parameterized
import numpy as np
from PIL import Image
from sklearn import datasets as sklearn_datasets


def digits(num: int, channels: int = 1) -> np.ndarray:
  """Real 8x8 digits, uint8 [num, 8, 8, channels]."""
  images = sklearn_datasets.load_digits().images[:num]
  images = np.round(images * 255 / 16).astype(np.uint8)[..., None]
  return np.repeat(images, channels, axis=-1)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def pixels(path: pathlib.Path) -> np.ndarray:
  with Image.open(path) as image:
    return np.asarray(image.convert('RGB'))


def corner(canvas: np.ndarray, patch: np.ndarray) -> tuple[int, int] | None:
  """Returns the places of `patch` [h, w, 3] in `canvas` [H, W, 3]."""
  height, width, _ = patch.shape
  num_rows = canvas.shape[0] - height + 1
  num_columns = canvas.shape[1] - width + 1
  candidates = np.ones((num_rows, num_columns), bool)
  for t in np.linspace(0, 1, 9):  # the patch's diagonal rules out nearly all
    y, x = round(t * (height - 1)), round(t * (width - 1))
    window = canvas[y : y + num_rows, x : x + num_columns]
    candidates &= np.all(window == patch[y, x], axis=-1)
  for y, x in np.argwhere(candidates):
    if np.array_equal(canvas[y : y + height, x : x + width], patch):
      return int(y), int(x)
  return None


def contains(canvas: np.ndarray, patch: np.ndarray) -> bool:
  return corner(canvas, patch) is not None


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
  large = np.kron(image, np.ones((factor, factor, 1), np.uint8))
  return np.broadcast_to(large, (*large.shape[:2], 3))


class PictureTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)
    self.path = self.folder / 'figure.png'

  def assert_whole_png(self, path: pathlib.Path) -> None:
    """The file decodes, and no temporary file is left beside it."""
    with Image.open(path) as image:
      image.load()
      self.assertEqual(image.format, 'PNG')
    self.assertEqual([p.name for p in path.parent.iterdir()], [path.name])

  def assert_nothing_clipped(self, path: pathlib.Path) -> None:
    """No ink touches the border: whatever was drawn ended before it."""
    canvas = pixels(path)
    border = np.concatenate(
      [canvas[0], canvas[-1], canvas[:, 0], canvas[:, -1]]
    )
    self.assertTrue(np.all(border == 255))
