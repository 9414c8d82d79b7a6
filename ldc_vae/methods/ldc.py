r"""LDC-VAE: encoder, decoder and sampler net on one Gibbs posterior, by SVGD.

Arxiv 2109.10640. Each train step has two phases.

*Autoencoder.* The encoder and the decoder descend the Gibbs energy; the encoder
does so by SVGD, see `gibbs`.

*Latent.* The sampler net learns the aggregate posterior E_x p(z|x), on which
the decoder is trained. Latents are standardised with running moments. The net's
particles move by SVGD on a latent energy, which learns to tell them from the
encoder's latents, see `samplers.sampler_net`.

With several devices, the latent phase gathers the particles of the sampler and
those of the encoder from all devices, so each particle interacts with all
others. The K particles of an image stay on their device. The running moments
are means over the global batch.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from ldc_vae import energy
from ldc_vae import fields
from ldc_vae import sections
from ldc_vae.methods import base
from ldc_vae.methods import gibbs
from ldc_vae.methods import moments
from ldc_vae.models import model as model_lib
from ldc_vae.samplers import sampler_net
from ldc_vae.samplers import sampler_options

Array = jax.Array


def latent_objective(
  params,
  images: Array,
  keys: Array,
  context: base.Context,
  *,
  model: model_lib.Model,
  latents_per_image: int,
  options: sampler_options.SamplerOptions,
) -> base.Output:
  """Returns the loss of one update of the sampler net and the latent energy.

  Args:
    params: Weights with 'sampler' and 'energy'.
    images: Unused.
    keys: PRNG keys, shape [B].
    context: The context with latents [B, K, D] and the statistics of `Ldc`.
    model: The networks.
    latents_per_image: g; a set has g particles for each image of the batch.
    options: The options of `sampler_net.objective`.

  Returns:
    The loss and the metrics.
  """
  del images
  latents = context.latents
  assert latents is not None  # the first phase gave them
  batch, num_particles, dim = latents.shape
  group = min(latents_per_image, num_particles)
  first = context.update * group
  chosen = (first + jnp.arange(group)) % num_particles
  aggregate = jnp.take(latents, chosen, axis=1).reshape(batch * group, dim)
  noise = base.draw_normal(keys, (group, dim)).reshape(batch * group, dim)
  mu, sigma = moments.mean_and_std(context.stats['latents'])
  flips = jax.vmap(lambda key: jax.random.bernoulli(key, shape=(group,)))
  loss, metrics = sampler_net.objective(
    params,
    noise,
    energy.standardise(aggregate, mu, sigma),
    flips(base.fold_in(keys, 1)).reshape(-1),
    context.progress,
    sampler_fn=model.modules['sampler'].apply,
    energy_fn=model.modules['energy'].apply,
    options=options,
    axis_name=context.axis_name,
  )
  return base.Output(loss, metrics)


def generate(params, stats, keys: Array, *, model: model_lib.Model) -> Array:
  """Draws z = m + L L_S^-1 (u - m_S), with u = xi + net(xi) and xi ~ N(0, I).

  m and L L^T are the mean and covariance of the aggregate latents. m_S and
  L_S L_S^T are those of u. So z has the known mean and covariance.

  Args:
    params: Weights with 'sampler'.
    stats: Statistics with the moments 'latents' and 'sampler'.
    keys: PRNG keys, shape [N].
    model: The networks.

  Returns:
    Latents, shape [N, D].
  """
  noise = base.draw_normal(keys, (model.latent_size,))
  u = model.modules['sampler'].apply(params['sampler'], noise)
  return moments.affine_match(u, stats['sampler'], stats['latents'])


@dataclasses.dataclass(frozen=True)
class Ldc(gibbs.SteinMethod, sampler_options.SamplerOptions):
  """LDC-VAE: encoder, decoder and sampler net on one Gibbs posterior."""

  group: ClassVar[str] = 'method'
  name: ClassVar[str] = 'ldc'
  label: ClassVar[str] = 'LDC-VAE'
  encoders: ClassVar[tuple[str, ...]] = ('gaussian', 'implicit', 'warped')
  defaults: ClassVar[Mapping[str, Any]] = {
    'model.learn_scale': True,
    'model.energy_width': 128,
    'optimizer.learning_rate': 2e-3,
    'optimizer.latent_optimizer': 'muon',
    'optimizer.latent_learning_rate': 2e-3,
    'optimizer.latent_final_fraction': 0.0,
  }

  # 1 gives the Bayes posterior; more gives sharper reconstructions
  inverse_temperature: float = fields.positive(
    default=8.0, help='lambda of U = lambda * -log p(x|z) + |z|^2 / 2'
  )
  whiten: bool = fields.field(
    True,
    'measure distances in posterior standard deviations (gaussian encoder)',
  )
  latent_energy_weight: float = fields.at_least(
    0, default=0.0, help='weight of the latent energy f(u) inside U'
  )
  num_latent_updates: int = fields.at_least(
    1, default=2, help='updates of sampler net and latent energy per step'
  )
  latents_per_image: int = fields.at_least(
    1,
    default=1,
    help='particles of each image in one latent update; 256 in a batch are'
    ' enough',
  )
  moments_decay: float = moments.decay_field('latents')

  def check(self) -> None:
    super().check()
    if self.latents_per_image > self.num_particles:
      raise self.conflict(
        ('latents_per_image', 'num_particles'),
        'is more than the particles of an image; use num_particles at most',
      )

  def check_with(self, groups: sections.Groups) -> None:
    super().check_with(groups)
    self._check_whiten(groups.model.encoder)
    batch_size = groups.train.batch_size
    if batch_size * self.latents_per_image - 1 <= self.sampler_mass:
      raise fields.conflict(
        {
          'train.batch_size': batch_size,
          'method.latents_per_image': self.latents_per_image,
          'method.sampler_mass': self.sampler_mass,
        },
        'gives a particle too few others to interact with; use a batch_size'
        ' above sampler_mass + 1',
      )

  def _check_whiten(self, encoder: str) -> None:
    if self.whiten and encoder != 'gaussian':
      raise fields.conflict(
        {'method.whiten': self.whiten, 'model.encoder': encoder},
        'does not go together: only a gaussian encoder has standard'
        ' deviations; use whiten=false or encoder gaussian',
      )

  def build(self, model: model_lib.Model) -> base.Algorithm:
    phase, init_distance = self.stein_phase(
      model,
      inverse_temperature=self.inverse_temperature,
      whiten=self.whiten,
      latent_energy_weight=self.latent_energy_weight,
    )
    self._check_whiten(model.encoder)

    def autoencoder_fn(params, images, keys, context):
      output = phase.objective_fn(params, images, keys, context)
      dim = output.latents.shape[-1]
      stats = dict(output.stats)
      stats['latents'] = moments.update(
        stats['latents'], output.latents.reshape(-1, dim), self.moments_decay
      )
      # the averaged weights generate images, so their moments are needed
      averaged = context.ema_params.get('sampler')
      if averaged is not None:  # None if this phase is trained alone
        noise = base.draw_normal(
          base.fold_in(keys, 1), (self.latents_per_image, dim)
        )
        u = model.modules['sampler'].apply(averaged, noise.reshape(-1, dim))
        stats['sampler'] = moments.update(
          stats['sampler'], u, self.moments_decay
        )
      return output.replace(stats=stats)

    latent_fn = functools.partial(
      latent_objective,
      model=model,
      latents_per_image=self.latents_per_image,
      options=self,
    )

    def init_stats():
      names = ('latents', 'sampler')
      own = {name: moments.init(model.latent_size) for name in names}
      return {**own, **init_distance()}

    return base.Algorithm(
      phases=(
        phase._replace(objective_fn=autoencoder_fn),
        base.Phase(
          latent_fn,
          ('sampler', 'energy'),
          self.num_latent_updates,
          per_image=False,
          role=base.LATENT,
        ),
      ),
      init_stats=init_stats,
      generate=functools.partial(generate, model=model),
    )
