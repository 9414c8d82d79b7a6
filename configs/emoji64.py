r"""LDC-VAE on 3,781 drawings of 64x64 pixels in nine categories: emoji.

The images are those of Google's Noto, under the Apache licence, in a package of
npm. These commands fetch 74 MB and write data/emoji64, a folder for each
category:

npm pack emoji-datasource-google@16.0.0
tar -xzf emoji-datasource-google-16.0.0.tgz package/emoji.json \\
  package/img/google/64
python -m ldc_vae.configs.emoji64 package data/emoji64

Then, with the transparent parts in white (`dataset.background`):

python -m ldc_vae.main --config=configs/emoji64.py --workdir=runs/emoji64
"""

import json
import pathlib
import shutil
import sys

from ldc_vae.configs import default

_LEFT_OUT = 'Component'  # five patches of skin colours


def get_config(arg: str = ''):
  """Returns the config for `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'images'
  config.dataset.path = 'data/emoji64'
  config.dataset.num_channels = 3
  config.dataset.num_validation = 378
  config.model.architecture = 'resnet'
  config.model.channels = (32, 64, 128, 128)
  config.model.latent_size = 64
  # as in cifar10
  config.model.learn_scale = config.model.encoder != 'deterministic'
  config.train.batch_size = 64
  config.train.num_epochs = 30
  config.evaluate.num_draws = 5  # one set of 378 images varies by a fifth
  return default.finish(config)


def arrange(package: pathlib.Path, folder: pathlib.Path) -> int:
  """Copies the images of the package into a folder for each category.

  Args:
    package: The folder 'package' of the npm package.
    folder: Where the categories are made.

  Returns:
    The number of images.
  """
  count = 0
  for emoji in json.loads((package / 'emoji.json').read_text()):
    if emoji['category'] == _LEFT_OUT:
      continue
    category = folder / emoji['category']
    category.mkdir(parents=True, exist_ok=True)
    for each in (emoji, *emoji.get('skin_variations', {}).values()):
      image = package / 'img' / 'google' / '64' / each['image']
      shutil.copyfile(image, category / image.name)
      count += 1
  return count


if __name__ == '__main__':
  num_images = arrange(*map(pathlib.Path, sys.argv[1:]))
  print(f'{num_images} images in {sys.argv[2]}')
