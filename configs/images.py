r"""LDC-VAE on your own images: a folder, an .npz or an .npy file.

python -m ldc_vae.main --config=configs/images.py --workdir=runs/images \\
    --config.dataset.path=PATH --config.dataset.image_size=32
"""

from ldc_vae.configs import default


def get_config(arg: str = ''):
  """Returns the config for `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'images'
  config.dataset.num_validation = 1_000  # at most a tenth of the images
  config.model.architecture = 'conv'
  config.model.latent_size = 32
  config.train.batch_size = 64
  config.train.num_epochs = 100
  return default.finish(config)
