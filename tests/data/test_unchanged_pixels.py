"""The pixels of plain folders stay the same, bit for bit."""

import hashlib
import os

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from ldc_vae.data import datasets
from tests.data import dataset_case


class UnchangedPixelsTest(dataset_case.DatasetTestCase):
  # Origin: commit ff0f38f with Pillow 13.0.0, before other formats,
  # transparency and classes were read.
  @parameterized.parameters(
    ('png', 'RGB', {}, '591aac800292bece'),
    ('png', 'RGB', dict(image_size=16), 'abe8849909af0234'),
    ('png', 'L', {}, 'ee7b7b2b21033499'),
    ('png', 'L', dict(num_channels=3), '38017e52a636e526'),
    ('png', '1', {}, '394d54d525cebcf3'),
    ('png', 'P', {}, 'ada1ed3b6fbd34b9'),
    ('jpg', 'RGB', {}, '1518cbe995ac9a2f'),
    ('jpg', 'RGB', dict(image_size=16, num_channels=1), '483eac09f67ee93c'),
    ('jpg', 'L', dict(image_size=12, seed=3), 'b95dde51456e7182'),
    ('jpg', 'CMYK', {}, '22e2ae00dd2023e2'),
  )
  def test_digest(self, suffix, mode, options, digest):
    random = np.random.default_rng(0)
    folder = self.root / 'pictures'
    folder.mkdir()
    for i in range(23):
      pixels = random.integers(0, 256, (20, 27, 3), np.uint8)
      pixels[5:] //= 1 + i % 3
      image = Image.fromarray(pixels).convert(mode)
      exif = Image.Exif()
      if suffix == 'jpg' and i % 4 == 0:  # a camera that was turned over
        exif[0x0112] = 3
      image.save(folder / f'{i:02d}.{suffix}', exif=exif)
    dataset = datasets.load('images', path=os.fspath(folder), **options)
    seen = hashlib.sha256()
    for split in dataset_case.SPLITS:
      images = dataset.images[split]
      seen.update(f'{images.shape}'.encode() + images.tobytes())
    self.assertEqual(seen.hexdigest()[:16], digest)
    self.assertIsNone(dataset.labels)


if __name__ == '__main__':
  absltest.main()
