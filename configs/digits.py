"""LDC-VAE on the 1,797 digits of 8x8 pixels inside scikit-learn.

python -m ldc_vae.main --config=configs/digits.py --workdir=runs/digits
"""

from configs import default


def get_config(arg: str = ''):
  """The config of `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'digits'
  config.dataset.num_validation = 180
  config.train.batch_size = 128
  config.train.num_epochs = 200
  return default.finish(config)
