"""The plain autoencoder, and the loss that all penalised autoencoders share.

    L = E_x[-log p(x|z)] + penalty(z),    z the code of x.

`rae_l2`, `rae_gp`, `wae_mmd` and `aae` differ only in the penalty, which is 0
here. The codes have no prior. Their distribution is estimated separately, as in
Ghosh et al. (2020), https://arxiv.org/abs/1903.12436, section 4. The generator
is a Gaussian with the running mean and covariance of the codes, and the
evaluation fits mixtures to them.
"""

from collections.abc import Callable
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from ldc_vae.methods import base
from ldc_vae.methods import moments
from ldc_vae.models import model as model_lib

Array = jax.Array
PenaltyFn = Callable[..., tuple[Array, dict[str, Array]]]


def no_penalty(
  params, z: Array, keys: Array, context: base.Context
) -> tuple[Array, dict[str, Array]]:
  """Returns the penalty of the plain autoencoder, 0."""
  del params, z, keys, context
  return jnp.zeros(()), {}


def objective(
  params,
  images: Array,
  keys: Array,
  context: base.Context,
  *,
  model: model_lib.Model,
  penalty_fn: PenaltyFn,
) -> base.Output:
  """Returns the mean -log p(x|z) plus a penalty, with one code per image.

  Args:
    params: Weights with 'encoder', 'decoder' and the keys of the penalty.
    images: Shape [B, H, W, C], in [0, 1].
    keys: PRNG keys, shape [B].
    context: The context, which is passed on to the penalty.
    model: The networks, with any encoder. If the encoder is random, one draw is
      the code.
    penalty_fn: `(params, z [B, D], keys, context) -> (penalty [], metrics)`.
      The penalty is in nats and includes its weight.

  Returns:
    The loss in nats, the metrics and latents [B, 1, D].
  """
  z, _, logvar = model.particles(params, images, keys, 1)
  reconstruction = -jnp.mean(model.log_likelihood(params, images, z))
  # new keys, because the noise of the codes has used the others
  penalty, terms = penalty_fn(params, z[:, 0], base.fold_in(keys, 1), context)
  loss = reconstruction + penalty
  metrics = {
    'loss': loss,
    'reconstruction': reconstruction,
    **terms,
    **base.posterior_metrics(logvar, z),
  }
  # no gradient: a loss on these latents must not train the encoder
  return base.Output(loss, metrics, latents=jax.lax.stop_gradient(z))


def generate(params, stats, keys: Array) -> Array:
  """Draws z ~ N(mean, covariance of the codes), shape [N, D]."""
  del params
  mean, covariance = moments.mean_and_covariance(stats['latents'])
  # eigenvectors, because a Cholesky factor fails where a dimension is constant
  values, vectors = jnp.linalg.eigh(covariance)
  root = vectors * jnp.sqrt(jnp.maximum(values, 0.0))
  noise = base.draw_normal(keys, mean.shape)
  return mean + jnp.matmul(noise, root.T, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Ae(base.Method):
  """The plain autoencoder, and the base class of those with a penalty."""

  name: ClassVar[str] = 'ae'
  label: ClassVar[str] = 'Autoencoder'
  encoders: ClassVar[tuple[str, ...]] = ('deterministic',)
  encoder_reason: ClassVar[str] = 'it has one code for each image'

  moments_decay: float = moments.decay_field('codes')

  def penalty_fn(self, model: model_lib.Model) -> PenaltyFn:
    """Returns the penalty of `objective`, a mean over images."""
    del model
    return no_penalty

  def build(self, model: model_lib.Model) -> base.Algorithm:
    self.require_encoder(model.encoder)
    penalty_fn = self.penalty_fn(model)

    def phase(params, images, keys, context):
      output = objective(
        params, images, keys, context, model=model, penalty_fn=penalty_fn
      )
      codes = moments.update(
        context.stats['latents'], output.latents[:, 0], self.moments_decay
      )
      return output.replace(stats={'latents': codes})

    return base.Algorithm(
      phases=(base.Phase(phase, model.autoencoder_names()),),
      init_stats=lambda: {'latents': moments.init(model.latent_size)},
      generate=generate,
      log_prior=None,  # the codes have no density in the model
    )
