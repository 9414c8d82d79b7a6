"""LDC-VAE on Fashion-MNIST, grey images of 28x28 pixels.

python -m ldc_vae.main --config=configs/fashion_mnist.py --workdir=runs/fashion
"""

from ldc_vae.configs import default


def get_config(arg: str = ''):
  """Returns the config for `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'fashion_mnist'
  default.apply_search(config)
  config.train.num_epochs = 30
  return default.finish(config)
