r"""The sampler net of LDC-VAE on latents of any autoencoder, from a file.

python -m ldc_vae.main --config=configs/latents.py --workdir=runs/latents \\
  --config.dataset.path=latents.npz
python -m ldc_vae.main --mode=sample --num_samples=1000 --workdir=runs/latents

The file is an .npy, .npz or .safetensors file of latents [N, D]; it may have
posterior standard deviations too, see `ldc_vae/api/latent_files.py`. Fields
that count are `seed`, `dataset.path`, `train.num_steps`, `train.batch_size`,
`optimizer.latent_learning_rate`, `evaluate.samplers` (what the net's draws are
compared with) and, in `method`, the options of the sampler's SVGD.
"""

from ldc_vae.api import latent_sampler
from ldc_vae.configs import default
from ldc_vae.samplers import sampler_net


def get_config(arg: str = ''):
  """Returns the config for `arg`, see `default.create`."""
  config = default.create(arg)
  config.dataset.name = 'latents'
  config.train.num_steps = sampler_net.NUM_STEPS
  config.train.batch_size = sampler_net.BATCH_SIZE
  config.optimizer.latent_learning_rate = sampler_net.LEARNING_RATE
  config.evaluate.samplers = latent_sampler.RIVALS
  return default.finish(config)
