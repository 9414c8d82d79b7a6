"""The Stein VAE: amortised SVGD trains an encoder with any distribution.

Pu et al. (2017), https://arxiv.org/abs/1704.05155. It is the first phase of
`ldc` at inverse temperature 1, which gives the Bayes posterior under N(0, I).
It has no sampler net: images are generated from the prior.
"""

import dataclasses
from typing import ClassVar

from ldc_vae.methods import base
from ldc_vae.methods import gibbs
from ldc_vae.models import model as model_lib


@dataclasses.dataclass(frozen=True)
class SteinVae(gibbs.SteinMethod):
  """The Stein VAE. Pu et al. (2017)."""

  name: ClassVar[str] = 'stein_vae'
  label: ClassVar[str] = 'Stein VAE'
  encoders: ClassVar[tuple[str, ...]] = ('implicit', 'warped', 'gaussian')

  num_particles: int = gibbs.num_particles_field(4)

  def build(self, model: model_lib.Model) -> base.Algorithm:
    phase, init_stats = self.stein_phase(model)
    algorithm = base.with_normal_prior(model, phase)
    return algorithm._replace(init_stats=lambda: init_stats() or ())
