"""LDC-VAE on the 1,797 digits of scikit-learn, images of 8x8 pixels.

python -m ldc_vae.main --config=configs/digits.py --workdir=runs/digits
"""

from ldc_vae.configs import default


def get_config(arg: str = ''):
  """Returns the config for `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'digits'
  config.dataset.num_validation = 180
  config.model.latent_size = 8
  config.model.hidden_sizes = (256, 256)
  config.model.energy_width = 128
  # smaller than for 784 pixels, because 64 pixels have less information
  config.model.scale = 0.12
  config.train.batch_size = 64
  config.train.num_epochs = 100
  config.evaluate.num_draws = 5  # one set of 360 images varies by a fifth
  return default.finish(config)
