"""A second VAE, trained on the latents of a first one.

Dai and Wipf (2019), section 4, https://arxiv.org/abs/1903.05789. Images are
near a surface of few dimensions, which the first VAE cannot match. The
aggregate posterior fills its whole space, so a VAE with the same latent size
and a learned noise can match it.

Letters: N latents, D latent size, B latents of a batch.
"""

import functools

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import elbo
from ldc_vae.models import latent_nets
from ldc_vae.samplers import training

Array = jax.Array

NUM_STEPS = 1200  # updates; half a minute on one core at D = 16

_BATCH_SIZE = 512  # smaller batches with more steps were worse in equal time
_LEARNING_RATE = 1e-3  # the initial rate; it falls to 0 along a cosine
_WIDTH, _NUM_BLOCKS = 256, 2  # residual blocks of each net
_MIN_STD = 1e-6  # added to all; avoids a division by 0 for constant latents


class Encoder(nn.Module):
  """Maps standardised latents z [..., D] to mean and logvar of u [..., D]."""

  @nn.compact
  def __call__(self, z: Array) -> tuple[Array, Array]:
    features = latent_nets.ResidualMlp(_WIDTH, _NUM_BLOCKS)(z)
    mean = nn.Dense(z.shape[-1], name='mean')(features)
    return mean, nn.Dense(z.shape[-1], name='logvar')(features)


class Decoder(nn.Module):
  """Maps u [..., D] to the mean of z [..., D], and its log scale []."""

  @nn.compact
  def __call__(self, u: Array) -> tuple[Array, Array]:
    features = latent_nets.ResidualMlp(_WIDTH, _NUM_BLOCKS)(u)
    log_scale = self.param('log_scale', nn.initializers.zeros_init(), ())
    return nn.Dense(u.shape[-1])(features), log_scale


def fit(
  latents: np.ndarray, *, seed: int, num_steps: int = NUM_STEPS
) -> training.SampleFn:
  """Trains the second VAE on latents.

  Args:
    latents: Draws of the aggregate posterior, shape [N, D].
    seed: The seed of the weights, the batches and the noise.
    num_steps: Updates of Adam, at least 1.

  Returns:
    A function `(num, seed) -> float32 [num, D]`.

  Raises:
    UserError: The training diverged, or has no steps.
  """
  training.check_steps(num_steps, 'second VAE')
  latents = np.asarray(latents, np.float32)
  chex.assert_rank(latents, 2)
  mean, std = latents.mean(axis=0), latents.std(axis=0) + _MIN_STD
  params = _train(
    jnp.asarray((latents - mean) / std), jax.random.key(seed), num_steps
  )
  training.check_trained(params, num_steps, 'second VAE')

  def sample(num: int, seed: int) -> np.ndarray:
    z = _sample(params, training.draw_key(seed), (num, latents.shape[1]))
    return (mean + std * np.asarray(z)).astype(np.float32)

  return sample


def negative_elbo(params: chex.ArrayTree, z: Array, key: Array) -> Array:
  """Returns the mean -ELBO of standardised latents z [B, D], in nats."""
  mean, logvar = Encoder().apply(params['encoder'], z)
  u = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, z.shape)
  decoded, log_scale = Decoder().apply(params['decoder'], u)
  log_likelihoods = jax.vmap(elbo.gaussian_log_prob, in_axes=(0, 0, None))(
    z, decoded, jnp.full(z.shape[1], 2.0 * log_scale)
  )
  return jnp.mean(jax.vmap(elbo.gaussian_kl)(mean, logvar) - log_likelihoods)


@functools.partial(jax.jit, static_argnames='num_steps')
def _train(z: Array, key: Array, num_steps: int) -> chex.ArrayTree:
  """Returns the weights after `num_steps` updates on z [N, D]."""
  encoder_key, decoder_key, steps_key = jax.random.split(key, 3)
  params = {
    'encoder': Encoder().init(encoder_key, z[:1]),
    'decoder': Decoder().init(decoder_key, z[:1]),
  }
  keys = jax.random.split(steps_key, num_steps)

  def loss_fn(params, index):
    rows_key, noise_key = jax.random.split(keys[index])
    rows = jax.random.randint(rows_key, (_BATCH_SIZE,), 0, z.shape[0])
    return negative_elbo(params, z[rows], noise_key), ()

  tx = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, num_steps))
  return training.descend(loss_fn, params, tx, num_steps, ema_decay=0.0)[0]


@functools.partial(jax.jit, static_argnames='shape')
def _sample(
  params: chex.ArrayTree, key: Array, shape: tuple[int, int]
) -> Array:
  """Draws standardised latents of shape [N, D]: u ~ N(0, I), z ~ p(z|u)."""
  u_key, z_key = jax.random.split(key)
  decoded, log_scale = Decoder().apply(
    params['decoder'], jax.random.normal(u_key, shape)
  )
  return decoded + jnp.exp(log_scale) * jax.random.normal(z_key, shape)
