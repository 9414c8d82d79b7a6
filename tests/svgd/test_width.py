"""Tests of the final width of amortised posteriors with known targets.

The encoder is a mean and standard deviations, or a matrix, for all images. It
follows the objective of the package towards a Gaussian, with fresh noise at
each step.
"""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import svgd
from ldc_vae.methods import base
from ldc_vae.methods import gibbs
from ldc_vae.methods import ldc
from ldc_vae.methods import moments
from ldc_vae.methods import stein_vae
from tests import device_case

_BATCH = 64
_STEIN_PARTICLES = svgd.stein_particles


class _Model:
  """z = m + s noise, or m + L noise, for a Gaussian of stds `target`."""

  def __init__(self, target, encoder: str):
    self.encoder = encoder
    self.latent_size = len(target)
    self._target = target

  def autoencoder_names(self):
    return ('encoder',)

  def init(self):
    """Half as wide as the target, or a turned N(0, I) for a matrix."""
    dim = self.latent_size
    scale = jnp.log(0.5 * self._target)
    if self.encoder == 'implicit':
      normal = np.random.default_rng(0).normal(size=(dim, dim))
      scale = jnp.asarray(np.linalg.qr(normal)[0], jnp.float32)
    return {'encoder': {'mean': jnp.zeros(dim), 'scale': scale}}

  def factor(self, params):
    """L [D, D], the covariance being L L^T."""
    scale = params['encoder']['scale']
    return scale if self.encoder == 'implicit' else jnp.diag(jnp.exp(scale))

  def particles(self, params, images, keys, num_particles):
    del images
    noise = base.draw_normal(keys, (num_particles, self.latent_size))
    mean = params['encoder']['mean']
    if self.encoder == 'implicit':
      return mean + noise @ self.factor(params).T, None, None
    batch_shape = (len(keys), self.latent_size)
    mean = jnp.broadcast_to(mean, batch_shape)
    log_std = jnp.broadcast_to(params['encoder']['scale'], batch_shape)
    z = mean[:, None] + jnp.exp(log_std)[:, None] * noise
    return z, mean, 2.0 * log_std

  def log_likelihood(self, params, images, z):
    """The target without N(0, I), which the objective adds itself."""
    del params, images
    return -0.5 * jnp.sum(jnp.square(z) * (self._target**-2.0 - 1.0), axis=-1)


def _widths(objective_fn, targets, encoder, stats=(), **options) -> np.ndarray:
  """Final standard deviations over the right ones, for T targets [T, D].

  Args:
    objective_fn: `(model, params, keys, context) -> Output`.
    targets: The right standard deviations.
    encoder: 'gaussian' or 'implicit', see `_Model`.
    stats: The stats of the method, before the first step.
    **options: `num_steps` and the first `rate` of Adam.
  """
  num_steps = options.get('num_steps', 2000)
  rate = options.get('rate', 1e-2)
  tx = optax.adam(optax.cosine_decay_schedule(rate, num_steps))

  def train(target, keys):
    model = _Model(target, encoder)

    def step(carry, key):
      params, state, stats = carry
      context = base.Context(progress=1.0, stats=stats)
      keys = jax.random.split(key, _BATCH)

      def loss_fn(params):
        output = objective_fn(model, params, keys, context)
        return output.loss, output.stats

      grads, stats = jax.grad(loss_fn, has_aux=True)(params)
      changes, state = tx.update(grads, state)
      params = optax.apply_updates(params, changes)
      return (params, state, stats), None

    params = model.init()
    start = params, tx.init(params), stats
    (params, _, _), _ = jax.lax.scan(step, start, keys)
    factor = model.factor(params)
    return jnp.sqrt(jnp.sum(jnp.square(factor), axis=1)) / target

  keys = jax.random.split(jax.random.key(0), num_steps)
  train_fn = jax.jit(
    jax.vmap(train, in_axes=(0, None)),
    compiler_options=device_case.OPTIMISED,
  )
  return np.asarray(train_fn(jnp.asarray(targets, jnp.float32), keys))


def _whitened(model, params, keys, context, **fields):
  """The first phase of `ldc` with its defaults, at inverse temperature 1."""
  names = 'kernel', 'bandwidth', 'bandwidth_factor', 'off_diagonal', 'whiten'
  options = {name: getattr(ldc.Ldc(), name) for name in names}
  options.update(fields)
  kernel = options.pop('kernel')
  return gibbs.autoencoder_objective(
    params,
    None,
    keys,
    context,
    model=model,
    inverse_temperature=1.0,
    kernel=gibbs.encoder_kernel(kernel, options['bandwidth']),
    latent_energy_weight=0.0,
    kl_warmup=0.0,
    **options,
  )


def _not_whitened(model, params, keys, context, **fields):
  """The phase of `stein_vae` with its defaults."""
  (phase,) = stein_vae.SteinVae(**fields).build(model).phases
  return phase.objective_fn(params, None, keys, context)


def _targets(dim: int) -> np.ndarray:
  """N(0, I), and a Gaussian thirty times wider in one direction: [2, D]."""
  return np.stack([np.ones(dim), np.geomspace(0.1, 3.0, dim)])


def _own_bandwidth(particles, kernel, *, bandwidth, **options):
  """`stein_particles` by the rule that must not be: a set's own distance."""
  del kernel, bandwidth
  own = svgd.rbf('mean')
  return _STEIN_PARTICLES(particles, own, **options)


class WhitenedTest(parameterized.TestCase):
  @parameterized.parameters((2, 2), (2, 64), (3, 16), (4, 64), (8, 2), (8, 16))
  def test_any_number_of_particles_is_as_wide_as_the_target(
    self, num_particles, dim
  ):
    objective_fn = functools.partial(_whitened, num_particles=num_particles)
    widths = _widths(objective_fn, _targets(dim), 'gaussian', num_steps=1000)
    # the noise of the last steps leaves a part of 2 %
    np.testing.assert_allclose(np.mean(widths, axis=1), 1.0, atol=0.02)

  @parameterized.parameters('imq', 'multi_scale', 'linear')
  def test_any_kernel_is(self, kernel):
    objective_fn = functools.partial(_whitened, num_particles=2, kernel=kernel)
    widths = _widths(objective_fn, _targets(4), 'gaussian')
    np.testing.assert_allclose(np.mean(widths, axis=1), 1.0, atol=0.02)

  @parameterized.parameters((2, 1.5), (4, 1.05))
  def test_a_bandwidth_of_the_set_would_be_seen(self, num_particles, least):
    objective_fn = functools.partial(_whitened, num_particles=num_particles)
    with mock.patch.object(svgd, 'stein_particles', _own_bandwidth):
      widths = _widths(objective_fn, _targets(16), 'gaussian', num_steps=1000)
    self.assertGreater(np.min(np.mean(widths, axis=1)), least)


class RunningMeanTest(parameterized.TestCase):
  """One kernel for all dimensions, whose unit has to be found."""

  @parameterized.product(encoder=('gaussian', 'implicit'), num_particles=(2, 8))
  def test_is_as_wide_as_the_target(self, encoder, num_particles):
    objective_fn = functools.partial(_not_whitened, num_particles=num_particles)
    targets = np.stack([np.full(4, 0.1), np.geomspace(0.5, 2.0, 4)])
    stats = {'distance': moments.init_distance()}
    widths = _widths(objective_fn, targets, encoder, stats)
    # as above
    np.testing.assert_allclose(np.mean(widths, axis=1), 1.0, atol=0.02)

  @parameterized.parameters('gaussian', 'implicit')
  def test_a_bandwidth_of_the_set_would_be_seen(self, encoder):
    objective_fn = functools.partial(_not_whitened, num_particles=2)
    stats = {'distance': moments.init_distance()}
    with mock.patch.object(svgd, 'stein_particles', _own_bandwidth):
      widths = _widths(objective_fn, np.ones((1, 4)), encoder, stats)
    self.assertGreater(np.mean(widths), 1.5)


if __name__ == '__main__':
  absltest.main()
