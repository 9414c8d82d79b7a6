"""The widths of all networks of a run."""

import dataclasses
from typing import ClassVar

from ldc_vae import fields


@dataclasses.dataclass(frozen=True)
class Sizes(fields.Options):
  """The widths of all networks."""

  group: ClassVar[str] = 'model'

  latent_size: int = fields.at_least(1, default=16, help='dimension D of z')
  hidden_sizes: tuple[int, ...] = fields.sizes(
    default=(512, 512),
    empty=True,
    help='mlp, gated_mlp: encoder widths, which the decoder mirrors',
  )
  channels: tuple[int, ...] = fields.sizes(
    default=(32, 64, 128),
    help='conv, conv64, resnet: channels after each stride of 2',
  )
  sampler_width: int = fields.at_least(
    1, default=128, help="width of the sampler net's residual blocks"
  )
  sampler_blocks: int = fields.between(
    1, 1000, default=4, help='residual blocks of the sampler net'
  )
  energy_width: int = fields.at_least(
    1, default=256, help='width of the latent energy, or of the discriminator'
  )
  energy_blocks: int = fields.between(
    1,
    1000,
    default=2,
    help='blocks of the latent energy, layers of discriminator',
  )
  noise_size: int = fields.at_least(
    1,
    default=16,
    help='implicit encoder: dimension of its noise; warped: of the noise'
    ' beyond latent_size',
  )
  num_pseudo_inputs: int = fields.at_least(
    1, default=500, help='vamp: components of the prior'
  )
