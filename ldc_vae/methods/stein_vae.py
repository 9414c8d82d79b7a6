"""The Stein VAE: amortised SVGD trains an encoder with any distribution.

Pu et al. (2017), https://arxiv.org/abs/1704.05155. It is the first phase of
`ldc` at inverse temperature 1, which gives the Bayes posterior under N(0, I).
It has no sampler net: images are generated from the prior.
"""

import dataclasses
import functools
from typing import ClassVar

from ldc_vae.methods import base
from ldc_vae.methods import gibbs
from ldc_vae.methods import moments
from ldc_vae.models import model as model_lib


@dataclasses.dataclass(frozen=True)
class SteinVae(base.Method):
  """The Stein VAE. Pu et al. (2017)."""

  name: ClassVar[str] = 'stein_vae'
  label: ClassVar[str] = 'Stein VAE'
  encoders: ClassVar[tuple[str, ...]] = ('implicit', 'warped', 'gaussian')
  encoder_reason: ClassVar[str] = 'SVGD moves particles that differ'

  num_particles: int = gibbs.num_particles_field(4)
  kernel: str = gibbs.kernel_field()
  bandwidth: str | float = gibbs.bandwidth_field()
  bandwidth_factor: float = gibbs.bandwidth_factor_field()
  off_diagonal: bool = gibbs.off_diagonal_field()
  kl_warmup: float = base.kl_warmup_field()

  def check(self) -> None:
    gibbs.check_particles(self)

  def build(self, model: model_lib.Model) -> base.Algorithm:
    self.require_encoder(model.encoder)
    objective_fn = functools.partial(
      gibbs.autoencoder_objective,
      model=model,
      inverse_temperature=1.0,
      num_particles=self.num_particles,
      kernel=gibbs.encoder_kernel(self.kernel, self.bandwidth),
      bandwidth=self.bandwidth,
      bandwidth_factor=self.bandwidth_factor,
      off_diagonal=self.off_diagonal,
      whiten=False,
      latent_energy_weight=0.0,
      kl_warmup=self.kl_warmup,
    )
    phase = base.Phase(objective_fn, model.autoencoder_names())
    algorithm = base.with_normal_prior(model, phase)
    if gibbs.keeps_distance(self.bandwidth, self.num_particles, whiten=False):
      algorithm = algorithm._replace(
        init_stats=lambda: {'distance': moments.init_distance()}
      )
    return algorithm
