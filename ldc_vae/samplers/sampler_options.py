"""The options of the sampler net's SVGD.

They are fields of `config.method` for `ldc`, and options of the latent sampler
`svgd`. One set of defaults is used for all data sets.
"""

from collections.abc import Iterable
import dataclasses
from typing import ClassVar

from ldc_vae import fields
from ldc_vae import svgd


class _PositiveKernels(Iterable):
  """The names of the kernels without negative values.

  Each direction is divided by its kernel sum, which must be positive.
  """

  def __iter__(self):
    return iter(
      [name for name, make in svgd.KERNELS.items() if make().positive]
    )


@dataclasses.dataclass(frozen=True)
class SamplerOptions(fields.Options):
  """The options of the training of the sampler net and the latent energy.

  The defaults were measured on several sets of latents: docs/lab-notes.md.
  """

  group: ClassVar[str] = 'svgd'

  sampler_svgd: bool = fields.field(
    True, 'if False, particles follow the gradient of the energy (ablation)'
  )
  sampler_kernel: str = fields.one_of(
    _PositiveKernels(), default='rbf', help="kernel of the sampler's SVGD"
  )
  sampler_mass: float = fields.positive(
    default=2.0,
    help='weight of all other particles together, in units of the weight of'
    ' the particle itself; the bandwidth follows from it and from the'
    ' aggregate latents, see svgd.mass_bandwidth',
  )
  temperature_start: float = fields.positive(
    default=1.0, help='repulsion temperature T at the start'
  )
  # The penalty blurs the sampler's distribution by a variance of about
  # 4 T gradient_penalty, in standardised units. So T must be small at the end.
  temperature_end: float = fields.positive(
    default=0.01, help='T from temperature_fraction on'
  )
  temperature_fraction: float = fields.fraction(
    low=False, default=0.7, help='fraction of training in which T falls'
  )
  gradient_penalty: float = fields.at_least(
    0, default=1.0, help='weight c of the penalty in energy.paired_loss'
  )
