"""The widths of all networks of a run."""

from typing import NamedTuple


class Sizes(NamedTuple):
  """The widths of all networks, as in `config.model`.

  Attributes:
    latent_size: D, the numbers of a latent.
    hidden_sizes: Dense layers of the encoder; the decoder mirrors them.
    channels: Convolutions of the encoder; the decoder mirrors them.
    sampler_width: Features of the sampler net.
    sampler_blocks: Residual blocks of the sampler net.
    energy_width: Features of the latent energy and the discriminator.
    energy_blocks: Their residual blocks and their layers.
    noise_size: M, the noise that an implicit or warped encoder takes.
    num_pseudo_inputs: Components of a VampPrior.
  """

  latent_size: int
  hidden_sizes: tuple[int, ...] = (512, 512)
  channels: tuple[int, ...] = (32, 64, 128)
  sampler_width: int = 128
  sampler_blocks: int = 4
  energy_width: int = 256
  energy_blocks: int = 2
  noise_size: int = 16
  num_pseudo_inputs: int = 500
