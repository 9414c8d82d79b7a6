"""LDC-VAE on the 1,797 digits of 8x8 pixels inside scikit-learn.

python -m ldc_vae.main --config=configs/digits.py --workdir=runs/digits
"""

from configs import default


def get_config(arg: str = ''):
  """The config of `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'digits'
  config.dataset.num_validation = 180
  config.model.latent_size = 8
  config.model.hidden_sizes = (256, 256)
  config.model.energy_width = 128
  config.objective.inverse_temperature = 10.0  # 64 pixels say less than 784
  config.train.batch_size = 64
  config.train.num_epochs = 100
  return default.finish(config)
