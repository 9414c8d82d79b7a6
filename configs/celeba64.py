"""LDC-VAE on CelebA; the central 140x140 pixels are resized to 64x64.

python -m ldc_vae.main --config=configs/celeba64.py --workdir=runs/celeba64
"""

from ldc_vae.configs import default


def get_config(arg: str = ''):
  """Returns the config for `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'celeba64'
  config.model.architecture = 'conv64'
  config.model.channels = (64, 128, 256, 512)
  config.model.latent_size = 64
  config.train.num_epochs = 50
  return default.finish(config)
