r"""LDC-VAE: encoder, decoder and sampler net on one Gibbs posterior, by SVGD.

Arxiv 2109.10640. Each train step has two phases.

*Autoencoder.* The loss is the mean of the Gibbs energy U(z; x) over K particles
of each image. Its gradient trains the decoder as it is, and the encoder after
`svgd.stein_particles` has turned it into the SVGD direction: one backward pass.

*Latent.* The sampler net's distribution is to become the aggregate posterior
E_x p(z|x), which the decoder is trained on. Latents are standardised with
running moments; the net's particles move by SVGD on a latent energy that
learns to tell them from the encoder's, see `latent_svgd`.

Several devices share one set of the sampler's particles, and one of the
encoder's: a direction gathers both from all devices, so that each particle sees
every other one, while the K particles of an image stay on its device. The
running moments are means over the global batch.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp

from ldc_vae import elbo
from ldc_vae import energy
from ldc_vae import svgd
from ldc_vae.methods import base
from ldc_vae.methods import moments
from ldc_vae.models import model as model_lib
from ldc_vae.samplers import latent_svgd
from ldc_vae.samplers import sampler_options

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
        f"objective.bandwidth={bandwidth!r} is neither 'expected' nor a number;"
        ' a rule that looks at one image makes its posterior too wide'
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
) -> tuple[Array, tuple[dict[str, Array], base.Context]]:
  """Mean Gibbs energy; its gradient is SVGD for the encoder. Nats.

  Args:
    params: With 'encoder', 'decoder' and, where the weight is not 0, 'energy'.
    images: Shape [B, H, W, C], in [0, 1].
    keys: Shape [B].
    context: With 'stats' and 'progress'; for `keeps_distance` the stats hold
      'distance', the running mean of `moments`.
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
    The loss and (metrics, updates); updates hold 'latents' [B, K, D] and
    'stats'. The logged 'loss' of a gaussian encoder is the free energy
    lambda E(-log p(x|z)) + b KL(q || N(0, I)) + b w E f with the warm-up's
    weight b, of an implicit one E U.
  """
  z, mean, logvar = model.particles(params, images, keys, num_particles)
  stats = context['stats']
  h = None  # the kernel's own number
  if bandwidth == 'expected':
    dim = z.shape[-1]
    distance = 2.0 * dim  # of N(0, I)
    if keeps_distance(bandwidth, num_particles, whiten):
      # of the steps before this one: no particle has a part in its bandwidth,
      # and all parts of a batch have the same
      distance = moments.mean_distance(stats['distance'], dim)
    h = svgd.expected_bandwidth(distance, dim, factor=bandwidth_factor)
  weight = base.kl_weight(context['progress'], kl_warmup)
  # U only: every other use takes the latents without gradient, below
  stein_fn = functools.partial(
      svgd.stein_particles,
      kernel=kernel,
      bandwidth=h,
      off_diagonal=off_diagonal,
      temperature=weight,
  )
  if whiten:
    particles = whitened_particles(z, mean, logvar, stein_fn)
  else:
    particles = stein_fn(z)
  log_likelihoods = model.log_likelihood(params, images, particles)
  latent_energies = jnp.zeros(log_likelihoods.shape)
  if latent_energy_weight:
    # f shapes the posterior here; it is trained in the latent phase only
    frozen = jax.lax.stop_gradient(params['energy'])
    mu, sigma = moments.mean_and_std(context['stats']['latents'])
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
  if mean is not None:
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
  return loss, (metrics, {'latents': z, 'stats': stats})


def latent_objective(
    params,
    images: Array,
    keys: Array,
    context: base.Context,
    *,
    model: model_lib.Model,
    latents_per_image: int,
    options: sampler_options.SamplerOptions,
) -> tuple[Array, tuple[dict[str, Array], base.Context]]:
  """One update of the sampler net and of the latent energy.

  Args:
    params: With 'sampler' and 'energy'.
    images: Unused but for their number B.
    keys: Shape [B].
    context: With 'latents' [B, K, D], 'stats', 'update', 'progress' and
      'axis_name'.
    model: The networks.
    latents_per_image: g; a set has n = g B particles (over all devices).
    options: Of `latent_svgd.objective`.

  Returns:
    The loss and (metrics, updates), see `base`.
  """
  del images
  latents = context['latents']
  batch, num_particles, dim = latents.shape
  group = min(latents_per_image, num_particles)
  first = context['update'] * group
  chosen = (first + jnp.arange(group)) % num_particles
  aggregate = jnp.take(latents, chosen, axis=1).reshape(batch * group, dim)
  noise = base.draw_normal(keys, (group, dim)).reshape(batch * group, dim)
  mu, sigma = moments.mean_and_std(context['stats']['latents'])
  flips = jax.vmap(lambda key: jax.random.bernoulli(key, shape=(group,)))
  loss, metrics = latent_svgd.objective(
      params,
      noise,
      energy.standardise(aggregate, mu, sigma),
      flips(base.fold_in(keys, 1)).reshape(-1),
      context['progress'],
      sampler_fn=model.modules['sampler'].apply,
      energy_fn=model.modules['energy'].apply,
      options=options,
      axis_name=context['axis_name'],
  )
  return loss, (metrics, {})


def generate(params, stats, keys: Array, *, model: model_lib.Model) -> Array:
  """z = m + L L_S^-1 (u - m_S) of u = xi + net(xi), xi ~ N(0, I).

  m and L L^T are the mean and covariance of the aggregate latents, m_S and
  L_S L_S^T those of u: the first two moments are known, so that they are set.

  Args:
    params: With 'sampler'.
    stats: With the moments 'latents' and 'sampler'.
    keys: Shape [N].
    model: The networks.

  Returns:
    Shape [N, D].
  """
  noise = base.draw_normal(keys, (model.latent_size,))
  u = model.modules['sampler'].apply(params['sampler'], noise)
  return moments.affine_match(u, stats['sampler'], stats['latents'])


def create(
    model: model_lib.Model,
    *,
    inverse_temperature: float,
    num_particles: int,
    kernel: str,
    bandwidth: float | str,
    bandwidth_factor: float,
    off_diagonal: bool,
    whiten: bool,
    latent_energy_weight: float,
    num_latent_updates: int,
    latents_per_image: int,
    moments_decay: float,
    kl_warmup: float = 0.0,
    **options,
) -> base.Method:
  """The method `ldc`; the fields are explained in `configs/default.py`.

  Args:
    model: The networks.
    inverse_temperature: lambda.
    num_particles: K.
    kernel: Of the encoder's SVGD.
    bandwidth: Of it, see `autoencoder_objective`.
    bandwidth_factor: Of it.
    off_diagonal: Of it.
    whiten: Of it.
    latent_energy_weight: w of w f(u) in U.
    num_latent_updates: Updates of the sampler and its energy per step.
    latents_per_image: See `latent_objective`.
    moments_decay: Of the running moments.
    kl_warmup: See `autoencoder_objective`.
    **options: The fields of `sampler_options.SamplerOptions`.

  Returns:
    The method.

  Raises:
    ValueError: A field is out of range.
  """
  options = sampler_options.SamplerOptions(**options)
  base.require_encoder(
      'ldc',
      model,
      'gaussian',
      'implicit',
      'warped',
      reason='SVGD moves particles that differ',
  )
  if off_diagonal and num_particles < 2:
    raise ValueError(
        f'objective.num_particles={num_particles}: SVGD over the pairs j != i'
        ' needs at least 2 (or objective.off_diagonal=False)'
    )
  kernels = {'kernel': kernel, 'sampler_kernel': options.sampler_kernel}
  for field, value in kernels.items():
    if value not in svgd.KERNELS:
      raise ValueError(
          f'objective.{field}={value!r}; known: {", ".join(svgd.KERNELS)}'
      )
  if not svgd.KERNELS[options.sampler_kernel]().positive:
    raise ValueError(
        f'objective.sampler_kernel={options.sampler_kernel!r} has negative'
        ' values, and the sampler divides by their sum; use rbf, imq or'
        ' multi_scale'
    )
  for field in ('temperature_start', 'temperature_end', 'temperature_fraction'):
    value = getattr(options, field)
    if not value > 0.0:  # 0 has no logarithm, and no training to fall in
      raise ValueError(
          f'objective.{field}={value} must be positive: T falls geometrically'
          ' over a fraction of the training'
      )
  if whiten and model.encoder != 'gaussian':
    raise ValueError(
        'objective.whiten=True needs model.encoder=gaussian, got'
        f' {model.encoder!r}: it needs the standard deviations; set it False'
    )
  autoencoder_fn = functools.partial(
      autoencoder_objective,
      model=model,
      inverse_temperature=inverse_temperature,
      num_particles=num_particles,
      kernel=encoder_kernel(kernel, bandwidth),
      bandwidth=bandwidth,
      bandwidth_factor=bandwidth_factor,
      off_diagonal=off_diagonal,
      whiten=whiten,
      latent_energy_weight=latent_energy_weight,
      kl_warmup=kl_warmup,
  )

  def first_phase(params, images, keys, context):
    loss, (metrics, updates) = autoencoder_fn(params, images, keys, context)
    z = updates['latents']
    dim = z.shape[-1]
    stats = dict(updates['stats'])
    stats['latents'] = moments.update(
        stats['latents'], z.reshape(-1, dim), moments_decay
    )
    # the averaged weights are those that generate, so theirs are the moments
    averaged = context['ema_params'].get('sampler')
    if averaged is not None:  # None where this phase is trained alone
      noise = base.draw_normal(base.fold_in(keys, 1), (latents_per_image, dim))
      u = model.modules['sampler'].apply(averaged, noise.reshape(-1, dim))
      stats['sampler'] = moments.update(stats['sampler'], u, moments_decay)
    updates['stats'] = stats
    return loss, (metrics, updates)

  latent_fn = functools.partial(
      latent_objective,
      model=model,
      latents_per_image=latents_per_image,
      options=options,
  )

  def init_stats():
    stats = {
        name: moments.init(model.latent_size) for name in ('latents', 'sampler')
    }
    if keeps_distance(bandwidth, num_particles, whiten):
      stats['distance'] = moments.init_distance()
    return stats

  return base.Method(
      phases=(
          base.Phase(first_phase, model.autoencoder_names()),
          base.Phase(
              latent_fn,
              ('sampler', 'energy'),
              num_latent_updates,
              per_image=False,
          ),
      ),
      init_stats=init_stats,
      generate=functools.partial(generate, model=model),
  )
