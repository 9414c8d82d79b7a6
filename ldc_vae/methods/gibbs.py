"""The encoder's SVGD on the Gibbs energy, which `ldc` and `stein_vae` share.

Arxiv 2109.10640; Pu et al. (2017), https://arxiv.org/abs/1704.05155. The loss
is the mean of the Gibbs energy U(z; x) over K particles of each image. One
backward pass trains both nets. The decoder follows the plain gradient. For the
encoder, `svgd.stein_particles` replaces the gradient by the SVGD direction.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ldc_vae import elbo
from ldc_vae import energy
from ldc_vae import fields
from ldc_vae import svgd
from ldc_vae.methods import base
from ldc_vae.methods import moments
from ldc_vae.models import model as model_lib

Array = jax.Array


def whitened_particles(
  z: Array,
  mean: Array,
  logvar: Array,
  stein_fn: Callable[[Array], Array],
) -> Array:
  """Returns Stein particles for the kernel k((x - m) / s, (y - m) / s).

  m and s are the posterior's own mean and standard deviations. A kernel with
  one width for all dimensions of z is as wide as the widest dimension. Then the
  narrow dimensions, which the decoder uses most, learn their width slowly and
  stay too narrow.

  Args:
    z: Particles, shape [B, K, D].
    mean: Shape [B, D].
    logvar: Shape [B, D].
    stein_fn: `svgd.stein_particles` with its kernel.

  Returns:
    z, unchanged. In the backward pass, its gradient is the SVGD direction.
  """
  # no gradient: like the bandwidth, m and s are constants of the update
  mean, std = jax.lax.stop_gradient((mean, jnp.exp(0.5 * logvar)))
  mean, std = mean[:, None], std[:, None]
  return energy.unstandardise(
    stein_fn(energy.standardise(z, mean, std)), mean, std
  )


def keeps_distance(
  bandwidth: float | str, num_particles: int, whiten: bool
) -> bool:
  """Returns whether stats must have 'distance', the running E|x - y|^2.

  It is needed only if the bandwidth depends on an unknown distance.
  """
  return bandwidth == 'expected' and num_particles > 1 and not whiten


def encoder_kernel(name: str, bandwidth: float | str) -> svgd.Kernel:
  """Returns a kernel for the few particles of an image.

  Args:
    name: A key of `svgd.KERNELS`. The linear kernel has no width: its
      equilibrium is the same for any h. There h only weighs the direction's
      part for the covariance against its part for the mean.
    bandwidth: A number, or 'expected' if h is given with each direction.

  Returns:
    The kernel.
  """
  if bandwidth == 'expected':
    return svgd.KERNELS[name]()
  return svgd.KERNELS[name](float(bandwidth))


def autoencoder_objective(
  params,
  images: Array,
  keys: Array,
  context: base.Context,
  *,
  model: model_lib.Model,
  inverse_temperature: float,
  num_particles: int,
  kernel: svgd.Kernel,
  bandwidth: float | str,
  bandwidth_factor: float,
  off_diagonal: bool,
  whiten: bool,
  latent_energy_weight: float,
  kl_warmup: float,
) -> base.Output:
  """Returns the mean Gibbs energy; its gradient is SVGD for the encoder.

  Args:
    params: Weights with 'encoder', 'decoder' and, if
      `latent_energy_weight` is not 0, 'energy'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: PRNG keys, shape [B].
    context: The context. Its statistics must have 'distance' if
      `keeps_distance`, see `moments.mean_distance`.
    model: The networks.
    inverse_temperature: lambda.
    num_particles: K.
    kernel: The kernel of the K particles of one image, see `encoder_kernel`.
    bandwidth: The kernel's number h, or 'expected'. Then h is
      E|x - y|^2 / sqrt(D) for two particles x and y of an image. This is
      2 sqrt(D) if they are whitened; else it is a running mean over images and
      steps.
    bandwidth_factor: A factor of the bandwidth 'expected'.
    off_diagonal: Whether to leave out the term j = i.
    whiten: Whether the kernel's distances are in standard deviations of each
      image's posterior, see `whitened_particles`.
    latent_energy_weight: The weight w of w f(u) in U.
    kl_warmup: Fraction of the training in which a weight b rises from 0 to 1.
      It multiplies the repulsion, and all terms of U except the likelihood. At
      a weight b the fixed point is p(x|z)^(lambda / b) N(z; 0, I) exp(-w f).

  Returns:
    The loss in nats, the metrics, latents [B, K, D] and stats. The logged
    'loss' of an implicit encoder is E U. That of a gaussian encoder is the free
    energy lambda E(-log p(x|z)) + b KL(q || N(0, I)) + b w E f.
  """
  z, mean, logvar = model.particles(params, images, keys, num_particles)
  stats = context.stats
  h = None  # the kernel has its own bandwidth
  if bandwidth == 'expected':
    dim = z.shape[-1]
    distance = 2.0 * dim  # for N(0, I)
    if keeps_distance(bandwidth, num_particles, whiten):
      # The mean is over the steps before this one. So no particle changes its
      # own bandwidth, and all micro-batches have the same bandwidth.
      distance = moments.mean_distance(stats['distance'], dim)
    h = svgd.expected_bandwidth(distance, dim, factor=bandwidth_factor)
  weight = base.kl_weight(context.progress, kl_warmup)
  # only U gets the Stein particles; all else gets the latents, no gradient
  stein_fn = functools.partial(
    svgd.stein_particles,
    kernel=kernel,
    bandwidth=h,
    off_diagonal=off_diagonal,
    temperature=weight,
  )
  if whiten:
    assert mean is not None and logvar is not None  # of a gaussian encoder
    particles = whitened_particles(z, mean, logvar, stein_fn)
  else:
    particles = stein_fn(z)
  log_likelihoods = model.log_likelihood(params, images, particles)
  latent_energies = jnp.zeros(log_likelihoods.shape)
  if latent_energy_weight:
    # no gradient into f: only the latent phase trains it
    frozen = jax.lax.stop_gradient(params['energy'])
    mu, sigma = moments.mean_and_std(context.stats['latents'])
    u = energy.standardise(particles, mu, sigma)
    f = model.modules['energy'].apply(frozen, u)
    latent_energies = weight * latent_energy_weight * f
  axes = (0, 0, None, 0, None)
  energies = jax.vmap(jax.vmap(energy.gibbs_energy, axes), axes)(
    log_likelihoods, particles, inverse_temperature, latent_energies, weight
  )
  loss = jnp.mean(energies)
  metrics = {
    'loss': loss,
    'reconstruction': -jnp.mean(log_likelihoods),
    **base.posterior_metrics(logvar, z),
  }
  if mean is not None and logvar is not None:
    # The logged loss is KL(q || p_lambda) up to log Z, which SVGD descends. It
    # needs a density of q. The mean energy alone would prefer a collapsed q.
    kl = jnp.mean(jax.vmap(elbo.gaussian_kl)(mean, logvar))
    metrics['kl'] = kl
    metrics['loss'] = (
      inverse_temperature * metrics['reconstruction']
      + weight * kl
      + jnp.mean(latent_energies)
    )
  # no gradient: a loss on these latents must not train the encoder
  z = jax.lax.stop_gradient(z)
  if keeps_distance(bandwidth, num_particles, whiten):
    distance = moments.update_distance(stats['distance'], z)
    stats = {**stats, 'distance': distance}
  return base.Output(loss, metrics, latents=z, stats=stats)


_TINY = 2.0**-126  # the smallest normal float32


def _is_bandwidth(value: str | float) -> bool:
  """Returns whether a value is 'expected' or a positive float32."""
  try:
    return value == 'expected' or _TINY <= float(value) < float('inf')
  except ValueError:
    return False


def _explain_bandwidth(value: str) -> str:
  """Returns the error message for a wrong bandwidth.

  A rule that depends on the few particles of an image makes posteriors up to
  six times too wide with K = 2.
  """
  remedy = 'use expected, or a positive number'
  if value in ('mean', 'median'):
    return (
      'depends on the few particles of an image, which makes posteriors too'
      f' wide; {remedy}'
    )
  return f'is unknown; {remedy}'


def num_particles_field(default: int) -> int:
  """Returns the field `num_particles`."""
  return fields.at_least(1, default=default, help='K, particles per image')


@dataclasses.dataclass(frozen=True)
class SteinMethod(base.Method):
  """A method whose encoder follows SVGD on the Gibbs energy."""

  encoder_reason: ClassVar[str] = 'SVGD moves particles that differ'

  num_particles: int = num_particles_field(2)
  kernel: str = fields.one_of(
    svgd.KERNELS, default='rbf', help="kernel of the encoder's SVGD"
  )
  bandwidth: str | float = fields.field(
    'expected',
    'expected, or a number, in squared posterior standard deviations if'
    ' whitened, else in squared latent units; expected is 2 sqrt(D) if'
    ' whitened, else it follows a running mean of squared distances',
    fields.Range(_is_bandwidth, 'or a positive number', _explain_bandwidth),
    also=(float, int),
  )
  bandwidth_factor: float = fields.positive(
    default=1.0, help='factor of the bandwidth if that is expected'
  )
  off_diagonal: bool = fields.field(
    True, "leave a particle's own gradient (j = i) out of its direction"
  )
  kl_warmup: float = base.kl_warmup_field()

  def check(self) -> None:
    if self.off_diagonal and self.num_particles < 2:
      raise self.conflict(
        ('num_particles', 'off_diagonal'),
        'gives a single particle no direction; use 2 particles or more',
      )
    if self.bandwidth_factor != 1 and self.bandwidth != 'expected':
      raise self.conflict(
        ('bandwidth_factor', 'bandwidth'),
        'has no effect: the factor belongs to bandwidth=expected; use factor 1,'
        ' or bandwidth expected',
      )

  def stein_phase(
    self,
    model: model_lib.Model,
    *,
    inverse_temperature: float = 1.0,
    whiten: bool = False,
    latent_energy_weight: float = 0.0,
  ) -> tuple[base.Phase, Callable[[], dict[str, Any]]]:
    """Returns the first phase, and a function that gives its statistics.

    Args:
      model: The networks.
      inverse_temperature: See `autoencoder_objective`.
      whiten: See `autoencoder_objective`.
      latent_energy_weight: See `autoencoder_objective`.
    """
    phase = self.first_phase(
      model,
      autoencoder_objective,
      inverse_temperature=inverse_temperature,
      num_particles=self.num_particles,
      kernel=encoder_kernel(self.kernel, self.bandwidth),
      bandwidth=self.bandwidth,
      bandwidth_factor=self.bandwidth_factor,
      off_diagonal=self.off_diagonal,
      whiten=whiten,
      latent_energy_weight=latent_energy_weight,
      kl_warmup=self.kl_warmup,
    )

    def init_stats():
      if keeps_distance(self.bandwidth, self.num_particles, whiten):
        return {'distance': moments.init_distance()}
      return {}

    return phase, init_stats
