"""LDC-VAE on Fashion-MNIST, 28x28 grey.

python -m ldc_vae.main --config=configs/fashion_mnist.py --workdir=runs/fashion
"""

from ldc_vae.configs import default


def get_config(arg: str = ''):
  """The config of `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'fashion_mnist'
  default.apply_search(config)
  config.train.num_epochs = 30
  return default.finish(config)
