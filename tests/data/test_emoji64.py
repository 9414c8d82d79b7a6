"""Tests of configs/emoji64.py, on a package of three images."""

import json
import pathlib

from absl.testing import absltest
import numpy as np
from PIL import Image

from ldc_vae.configs import emoji64
from ldc_vae.data import datasets


class ArrangeTest(absltest.TestCase):
  def test_categories_become_classes_on_the_background(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    images = root / 'package' / 'img' / 'google' / '64'
    images.mkdir(parents=True)
    emoji = []
    for index in range(30):
      name, variation = f'{index}.png', f'{index}-dark.png'
      for grey, file in ((0, name), (200, variation)):
        pixels = np.full((64, 64, 4), grey, np.uint8)
        pixels[:32, :, 3] = 0  # transparent
        pixels[32:, :, 3] = 255
        Image.fromarray(pixels).save(images / file)
      category = ('Objects', 'Food & Drink', 'Component')[index % 3]
      emoji.append({'image': name, 'category': category})
      if index % 3 == 1:
        emoji[-1]['skin_variations'] = {'1F3FF': {'image': variation}}
    (root / 'package' / 'emoji.json').write_text(json.dumps(emoji))
    self.assertEqual(emoji64.arrange(root / 'package', root / 'data'), 30)
    config = emoji64.get_config('vae').dataset
    dataset = datasets.load(
      'images',
      path=str(root / 'data'),
      num_channels=config.num_channels,
      background=config.background,
    )
    self.assertEqual(dataset.num_classes, 2)
    self.assertEqual(dataset.image_shape, (64, 64, 3))
    for split, images in dataset.images.items():
      np.testing.assert_array_equal(images[:, :32], 255)
      # both variations of food, the first class, and only one of objects
      greys, labels = images[:, 40, 0, 0], dataset.labels[split]
      self.assertTrue(np.all(greys[labels == 1] == 0))
    self.assertEqual(sum(map(len, dataset.images.values())), 30)


if __name__ == '__main__':
  absltest.main()
