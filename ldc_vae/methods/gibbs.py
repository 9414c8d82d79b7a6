"""The encoder's SVGD on the Gibbs energy: what `ldc` and `stein_vae` share.

Arxiv 2109.10640. The loss is the mean of the Gibbs energy U(z; x) over K
particles of each image. Its gradient trains the decoder as it is, and the
encoder after `svgd.stein_particles` has turned it into the SVGD direction: one
backward pass. Pu et al. (2017), https://arxiv.org/abs/1704.05155.
"""

from collections.abc import Callable
import functools

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
  """Stein particles under the kernel k((x - m) / s, (y - m) / s).

  m and s are the posterior's own mean and standard deviations. A kernel that is
  scalar in z is as wide as the widest dimension, so that the narrow ones, which
  the decoder uses most, learn their width slowly and stay too narrow.

  Args:
    z: Particles, shape [B, K, D].
    mean: Shape [B, D].
    logvar: Shape [B, D].
    stein_fn: `svgd.stein_particles` with its kernel.

  Returns:
    z, unchanged; backwards, the SVGD direction.
  """
  # the metric is a constant of the update, as the bandwidth is
  mean, std = jax.lax.stop_gradient((mean, jnp.exp(0.5 * logvar)))
  mean, std = mean[:, None], std[:, None]
  return energy.unstandardise(
      stein_fn(energy.standardise(z, mean, std)), mean, std
  )


def keeps_distance(
    bandwidth: float | str, num_particles: int, whiten: bool
) -> bool:
  """Whether stats hold 'distance': E|x - y|^2 is needed and not known."""
  return bandwidth == 'expected' and num_particles > 1 and not whiten


def encoder_kernel(name: str, bandwidth: float | str) -> svgd.Kernel:
  """A kernel for the few particles of an image.

  Args:
    name: A key of `svgd.KERNELS`. The linear one has no width: it is at rest
      at the same posteriors with any h, which only weighs the covariance's part
      of the direction against the mean's.
    bandwidth: A number, or 'expected' where h is given with each direction.

  Returns:
    The kernel.

  Raises:
    ValueError: The bandwidth is another rule, by which the distance of an
      image's particles would be their own measure. Nothing but their repulsion
      would then decide how wide they are: with K = 2 up to six times too wide.
  """
  if bandwidth == 'expected':
    return svgd.KERNELS[name]()
  try:
    h = float(bandwidth)
  except (TypeError, ValueError):
    raise ValueError(
        f"bandwidth={bandwidth!r} is neither 'expected' nor a number; a rule"
        ' that looks at one image makes its posterior too wide'
    ) from None
  return svgd.KERNELS[name](h)


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
  """Mean Gibbs energy; its gradient is SVGD for the encoder. Nats.

  Args:
    params: With 'encoder', 'decoder' and, where the weight is not 0, 'energy'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: Shape [B].
    context: For `keeps_distance` its statistics hold 'distance', the running
      mean of `moments`.
    model: The networks.
    inverse_temperature: lambda.
    num_particles: K.
    kernel: Of the K particles of one image, see `encoder_kernel`.
    bandwidth: Its number h, or 'expected': h is then E|x - y|^2 / sqrt(D) of
      two particles of an image, 2 sqrt(D) where they are whitened, and by a
      running mean over images and steps where not.
    bandwidth_factor: Multiplies the bandwidth 'expected'.
    off_diagonal: Leave out j = i.
    whiten: Measure the kernel's distances in standard deviations of each
      image's posterior, see `whitened_particles`.
    latent_energy_weight: w of w f(u) in U.
    kl_warmup: Fraction of the training until what is not likelihood in U, and
      the repulsion that balances it, weigh 1. At a weight b the fixed point is
      p(x|z)^(lambda / b) N(z; 0, I) exp(-w f).

  Returns:
    The loss, the metrics, latents [B, K, D] and stats. The logged 'loss' of a
    gaussian encoder is the free energy
    lambda E(-log p(x|z)) + b KL(q || N(0, I)) + b w E f with the warm-up's
    weight b; that of an implicit encoder is E U.
  """
  z, mean, logvar = model.particles(params, images, keys, num_particles)
  stats = context.stats
  h = None  # the kernel's own number
  if bandwidth == 'expected':
    dim = z.shape[-1]
    distance = 2.0 * dim  # of N(0, I)
    if keeps_distance(bandwidth, num_particles, whiten):
      # of the steps before this one: no particle has a part in its bandwidth,
      # and all parts of a batch have the same
      distance = moments.mean_distance(stats['distance'], dim)
    h = svgd.expected_bandwidth(distance, dim, factor=bandwidth_factor)
  weight = base.kl_weight(context.progress, kl_warmup)
  # U only: every other use takes the latents without gradient, below
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
    # f shapes the posterior here; it is trained in the latent phase only
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
    # KL(q || p_lambda) up to log Z: what SVGD descends, and what can be logged
    # where q has a density. The mean energy alone would favour collapse.
    kl = jnp.mean(jax.vmap(elbo.gaussian_kl)(mean, logvar))
    metrics['kl'] = kl
    metrics['loss'] = (
        inverse_temperature * metrics['reconstruction']
        + weight * kl
        + jnp.mean(latent_energies)
    )
  # the sampler learns from the latents; the encoder must not please it
  z = jax.lax.stop_gradient(z)
  if keeps_distance(bandwidth, num_particles, whiten):
    distance = moments.update_distance(stats['distance'], z)
    stats = {**stats, 'distance': distance}
  return base.Output(loss, metrics, latents=z, stats=stats)


# The fields that `ldc` and `stein_vae` share.


def num_particles_field(default: int) -> int:
  """Returns the field `num_particles`."""
  return fields.at_least(1, default=default, help='K, particles per image')


def kernel_field() -> str:
  """Returns the field `kernel`."""
  return fields.one_of(
      svgd.KERNELS, default='rbf', help="kernel of the encoder's SVGD"
  )


def bandwidth_field() -> str | float:
  """Returns the field `bandwidth`, see `encoder_kernel`."""
  return fields.field(
      'expected',
      'expected, or a number: squared posterior standard deviations where'
      ' whitened, squared latent units where not; expected is 2 sqrt(D) where'
      ' whitened and follows a running mean of squared distances where not',
      fields.Range(_is_bandwidth, 'or a positive number', _explain_bandwidth),
      also=(float, int),
  )


def bandwidth_factor_field() -> float:
  """Returns the field `bandwidth_factor`."""
  return fields.positive(
      default=1.0, help='multiplies the bandwidth where it is expected'
  )


def off_diagonal_field() -> bool:
  """Returns the field `off_diagonal`."""
  return fields.field(
      True, "leave a particle's own gradient (j = i) out of its direction"
  )


def check_particles(options) -> None:
  """Raises a `UserError` for particle fields that do not fit each other."""
  if options.off_diagonal and options.num_particles < 2:
    raise fields.conflict(
        {
            'method.num_particles': options.num_particles,
            'method.off_diagonal': options.off_diagonal,
        },
        'leaves a lone particle no direction; use 2 particles or more',
    )
  if options.bandwidth_factor != 1 and options.bandwidth != 'expected':
    raise fields.conflict(
        {
            'method.bandwidth_factor': options.bandwidth_factor,
            'method.bandwidth': options.bandwidth,
        },
        'multiplies no rule; use factor 1, or bandwidth expected',
    )


_TINY = 2.0**-126  # the least float32 with all its digits


def _is_bandwidth(value: str | float) -> bool:
  """Whether a value is 'expected' or a positive float32."""
  try:
    return value == 'expected' or _TINY <= float(value) < float('inf')
  except ValueError:
    return False


def _explain_bandwidth(value: str) -> str:
  """Says what is wrong with a bandwidth."""
  remedy = 'use expected, or a positive number'
  if value in ('mean', 'median'):
    return (
        'follows the few particles of an image, which makes posteriors too'
        f' wide; {remedy}'
    )
  return f'is unknown; {remedy}'
