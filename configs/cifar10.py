r"""LDC-VAE on CIFAR-10, colour images of 32x32 pixels.

python -m ldc_vae.main --config=configs/cifar10.py --workdir=runs/cifar10

This is a short form, for two cores and less than an hour. A step takes so many
seconds of CPU time, and a bit more than half of that on two free cores:

| channels | `ae`, conv | `ae`, resnet | `ldc`, conv | `ldc`, resnet |
|---|---|---|---|---|
| 32, 64, 128 | 0.30 | 0.95 | | 1.70 |
| 64, 128, 256 | 0.79 | 2.50 | 1.38 | |

So 8 epochs of `ldc`, 2,808 steps, take about 45 minutes. On a GPU, use wider
nets and train longer:

python -m ldc_vae.main --config=configs/cifar10.py --workdir=runs/cifar10 \\
  --config.model.channels=128,256,512 --config.train.num_epochs=100
"""

from ldc_vae.configs import default


def get_config(arg: str = ''):
  """Returns the config for `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'cifar10'
  config.dataset.num_validation = 5_000
  config.dataset.flip = True
  config.model.architecture = 'resnet'
  config.model.channels = (32, 64, 128)
  config.model.latent_size = 128
  # Rybkin et al. (2021), https://arxiv.org/abs/2006.13202: a fixed scale blurs
  # images. The penalties of codes have weights for the fixed scale.
  config.model.learn_scale = config.model.encoder != 'deterministic'
  config.train.batch_size = 128
  config.train.num_epochs = 8
  return default.finish(config)
