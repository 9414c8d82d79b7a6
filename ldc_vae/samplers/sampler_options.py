"""The options of the sampler net's SVGD, with the values that serve every set.

They are fields of `config.objective` for `ldc`, and the sampler `svgd` of
`latents.SAMPLERS` is fitted with them. This file loads no jax: configs are
checked before it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SamplerOptions:
  """How the sampler net and the latent energy are trained.

  Measured on eight sets of latents: benchmarks/README.md.

  Attributes:
    sampler_svgd: False follows the plain gradient of the energy (an ablation).
    sampler_kernel: A key of `svgd.KERNELS` without negative values.
    sampler_mass: What a particle feels of all others, in units of its own
      kernel value; the bandwidth follows from it and from the aggregate
      latents, see `svgd.mass_bandwidth`.
    temperature_start: Repulsion temperature T at the start, > 0.
    temperature_end: T from `temperature_fraction` on, > 0. The penalty blurs
      the sampler's distribution by a variance of about 4 T
      `gradient_penalty`, in standardised units: it must end small.
    temperature_fraction: Of the training, in (0, 1].
    gradient_penalty: c of `energy.paired_loss`.
  """

  sampler_svgd: bool = True
  sampler_kernel: str = 'rbf'
  sampler_mass: float = 2.0
  temperature_start: float = 1.0
  temperature_end: float = 3e-4
  temperature_fraction: float = 0.7
  gradient_penalty: float = 0.2
