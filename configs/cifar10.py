"""LDC-VAE on CIFAR-10, colour images of 32x32 pixels.

python -m ldc_vae.main --config=configs/cifar10.py --workdir=runs/cifar10
"""

from ldc_vae.configs import default


def get_config(arg: str = ''):
  """Returns the config for `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'cifar10'
  config.dataset.num_validation = 5_000
  config.model.architecture = 'conv'
  config.model.channels = (64, 128, 256)
  config.model.latent_size = 64
  config.train.num_epochs = 100
  return default.finish(config)
