"""LDC-VAE on Fashion-MNIST, 28x28 grey.

python -m ldc_vae.main --config=configs/fashion_mnist.py --workdir=runs/fashion
"""

from configs import default


def get_config(arg: str = ''):
  """The config of `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'fashion_mnist'
  default.apply_search(config)
  if config.objective.name == 'ldc':
    # by trials on the validation split: benchmarks/results/sampler_updates.md
    config.objective.inverse_temperature = 4.0
    config.objective.latent_target = 'ratio'
    config.objective.r1_weight = 0.3
    config.objective.num_latent_updates = 6
    config.objective.sampler_noise = 2.0
    config.optimizer.learning_rate = 2e-3
    config.optimizer.latent_learning_rate = 2e-3
    config.optimizer.latent_b1 = 0.9
    config.optimizer.latent_final_fraction = 0.0
  config.train.num_epochs = 30  # its sampler settles later than on MNIST
  return default.finish(config)
