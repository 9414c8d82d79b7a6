"""The Stein VAE: an encoder of any shape, by amortised SVGD.

Pu et al. (2017), https://arxiv.org/abs/1704.05155. It is the first phase of
`ldc` at inverse temperature 1, the Bayes posterior under N(0, I), without a
sampler net: images are made from the prior.
"""

import functools

from ldc_vae import svgd
from ldc_vae.methods import base
from ldc_vae.methods import ldc
from ldc_vae.methods import moments
from ldc_vae.models import model as model_lib


def create(
    model: model_lib.Model,
    *,
    num_particles: int,
    kernel: str,
    bandwidth: float | str,
    bandwidth_factor: float,
    off_diagonal: bool,
    kl_warmup: float = 0.0,
) -> base.Method:
  """The method `stein_vae`.

  Args:
    model: With an implicit, warped or gaussian encoder.
    num_particles: K, particles per image.
    kernel: A key of `svgd.KERNELS`.
    bandwidth: 'expected' or a number in squared latent units, see
      `ldc.autoencoder_objective`.
    bandwidth_factor: Multiplies the bandwidth 'expected'.
    off_diagonal: Leave j = i out of the direction; needs two particles.
    kl_warmup: Fraction of the training until prior and repulsion weigh 1, in
      [0, 1].

  Returns:
    The method.

  Raises:
    ValueError: The encoder has no particles, or a field is out of range.
  """
  base.require_encoder(
      'stein_vae',
      model,
      'implicit',
      'warped',
      'gaussian',
      reason='SVGD moves particles that differ',
  )
  if off_diagonal and num_particles < 2:
    raise ValueError(
        f'objective.num_particles={num_particles}: SVGD over the pairs j != i'
        ' needs at least 2 (or objective.off_diagonal=False)'
    )
  if kernel not in svgd.KERNELS:
    raise ValueError(
        f'objective.kernel={kernel!r}; known: {", ".join(svgd.KERNELS)}'
    )
  objective_fn = functools.partial(
      ldc.autoencoder_objective,
      model=model,
      inverse_temperature=1.0,
      num_particles=num_particles,
      kernel=ldc.encoder_kernel(kernel, bandwidth),
      bandwidth=bandwidth,
      bandwidth_factor=bandwidth_factor,
      off_diagonal=off_diagonal,
      whiten=False,
      latent_energy_weight=0.0,
      kl_warmup=kl_warmup,
  )
  phase = base.Phase(objective_fn, model.autoencoder_names())
  method = base.with_normal_prior(model, phase)
  if ldc.keeps_distance(bandwidth, num_particles, whiten=False):
    method = method._replace(
        init_stats=lambda: {'distance': moments.init_distance()}
    )
  return method
