"""Tests of the first phase of ldc, which trains the autoencoder."""

import dataclasses
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import energy
from ldc_vae import svgd
from ldc_vae.methods import ldc
from ldc_vae.methods import moments
from tests.methods import ldc_case
from tests.methods import method_case

_BATCH = ldc_case.BATCH
_LDC_FIELDS = ldc_case.LDC_FIELDS
_PARTICLES = ldc_case.PARTICLES
_context = ldc_case.create_context
_images = ldc_case.images
_keys = ldc_case.keys
_model = ldc_case.create_model
_moments = ldc_case.running_moments
_stats = ldc_case.stats
_params = method_case.params
_norm = method_case.norm


class LdcAutoencoderTest(chex.TestCase):
  def _grad(self, model, params, context=None, **fields):
    """Gradient by all of `params`, and (metrics, updates)."""
    method = ldc.Ldc(**{**_LDC_FIELDS, **fields}).build(model)
    objective_fn = method.phases[0].objective_fn

    @jax.jit
    def run(params, arrays):
      own = dataclasses.replace(context or _context(), **arrays)
      loss_fn = lambda params: method_case.unpack(
        objective_fn(params, _images(), _keys(), own)
      )
      return jax.grad(loss_fn, has_aux=True)(params)

    given = context or _context()
    arrays = {'stats': given.stats, 'ema_params': given.ema_params}
    return jax.device_get(run(params, arrays))

  def _by_hand(self, model, params, weight=0.0, running=None, **fields):
    """Encoder: -1/(BK) sum J' phi. Decoder: lambda E grad(-log p)."""
    fields = {**_LDC_FIELDS, **fields}
    images = _images()
    inverse_temperature = fields['inverse_temperature']

    def particles_fn(encoder):
      return model.particles({'encoder': encoder}, images, _keys(), _PARTICLES)[
        0
      ]

    z, pull_back = jax.vjp(particles_fn, params['encoder'])
    latent_energy_fn = lambda point: 0.0
    if weight:
      mean, std = moments.mean_and_std(running)
      latent_energy_fn = lambda point: (
        weight
        * model.modules['energy'].apply(params['energy'], (point - mean) / std)
      )

    def score(point, image):
      def energy_fn(point):
        z = point[None, None]  # one image, one particle
        log_likelihood = model.log_likelihood(params, image[None], z)[0, 0]
        return energy.gibbs_energy(
          log_likelihood, point, inverse_temperature, latent_energy_fn(point)
        )

      return -jax.grad(energy_fn)(point)

    h = fields['bandwidth']
    if h == 'expected':
      h = 7.0 / math.sqrt(3)  # see `_stats`
    kernel = svgd.KERNELS[fields['kernel']](h)
    directions = []
    for index, (particles, image) in enumerate(zip(z, images)):
      scores = jax.vmap(score, in_axes=(0, None))(particles, image)
      if fields['whiten']:
        kernel = self._whitened_kernel(model, params, particles, index)
      directions.append(
        svgd.svgd_direction(
          particles, scores, kernel, off_diagonal=fields['off_diagonal']
        )
      )
    (encoder,) = pull_back(-jnp.stack(directions) / (_BATCH * _PARTICLES))

    def reconstruction(decoder):
      return -jnp.mean(model.log_likelihood({'decoder': decoder}, images, z))

    decoder = jax.tree.map(
      lambda g: inverse_temperature * g,
      jax.grad(reconstruction)(params['decoder']),
    )
    return encoder, decoder

  def _whitened_kernel(self, model, params, particles, index):
    """k((x - m) / s, (y - m) / s) as a function, by autodiff."""
    _, means, logvars = model.particles(params, _images(), _keys(), 1)
    mean, std = means[index], jnp.exp(0.5 * logvars[index])
    h = 2.0 * math.sqrt(particles.shape[1])
    return lambda x, y: svgd.rbf_kernel((x - mean) / std, (y - mean) / std, h)

  @parameterized.named_parameters(
    ('default', 'gaussian', {}),
    ('whitened', 'gaussian', dict(whiten=True)),
    ('imq_fixed', 'gaussian', dict(kernel='imq', bandwidth=2.0)),
    ('all_pairs', 'gaussian', dict(off_diagonal=False)),
    ('implicit', 'implicit', {}),
    ('warped', 'warped', {}),
  )
  def test_gradients_are_svgd_and_the_decoders_own(self, encoder, fields):
    model = _model(encoder=encoder)
    params = _params(model, 'encoder', 'decoder')
    grads, _ = self._grad(model, params, **fields)
    expected = jax.jit(lambda params: self._by_hand(model, params, **fields))(
      params
    )
    # float32 sums of 20 particles x 16 pixels in another order
    chex.assert_trees_all_close(
      (grads['encoder'], grads['decoder']), expected, rtol=2e-4, atol=2e-5
    )
    self.assertGreater(_norm(grads['encoder']), 1e-2)

  def test_latent_energy_shapes_the_encoder_and_is_not_trained_by_it(self):
    model = _model()
    params = _params(model, 'encoder', 'decoder', 'sampler', 'energy')
    context = _context(stats=_stats(_moments()))
    grads, _ = self._grad(model, params, context, latent_energy_weight=5.0)
    expected = jax.jit(
      lambda params: self._by_hand(
        model, params, weight=5.0, running=_moments()
      )
    )(params)
    # float32 sums of 20 particles x 16 pixels in another order
    chex.assert_trees_all_close(
      (grads['encoder'], grads['decoder']), expected, rtol=2e-4, atol=2e-5
    )
    self.assertEqual(_norm((grads['energy'], grads['sampler'])), 0.0)
    without, _ = self._grad(model, params, context)
    difference = jax.tree.map(
      lambda a, b: a - b, grads['encoder'], without['encoder']
    )
    self.assertGreater(_norm(difference), 1e-2)

  def test_a_gaussian_encoder_logs_the_free_energy(self):
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    _, (metrics, updates) = self._grad(model, params)
    encode_fn = jax.jit(model.modules['encoder'].apply)
    mean, logvar = jax.device_get(encode_fn(params['encoder'], _images()))
    kl = 0.5 * np.sum(mean**2 + np.exp(logvar) - 1.0 - logvar, axis=1)
    z = updates['latents']
    chex.assert_shape(z, (_BATCH, _PARTICLES, 3))
    likelihood_fn = jax.jit(model.log_likelihood)
    reconstruction = -np.mean(likelihood_fn(params, _images(), z))
    # float32
    np.testing.assert_allclose(metrics['kl'], np.mean(kl), rtol=1e-5)
    np.testing.assert_allclose(
      metrics['loss'], 3.0 * reconstruction + np.mean(kl), rtol=1e-5
    )

  def test_latents_carry_no_gradient(self):
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    method = ldc.Ldc(**_LDC_FIELDS).build(model)

    def total(params):
      output = method.phases[0].objective_fn(
        params, _images(), _keys(), _context()
      )
      return jnp.sum(output.latents)

    self.assertEqual(_norm(jax.jit(jax.grad(total))(params)), 0.0)

  def test_stats_move_by_the_latents(self):
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    context = _context(stats=_stats(_moments()))
    _, (_, updates) = self._grad(model, params, context, moments_decay=0.8)
    z = updates['latents']
    expected = {
      'latents': moments.update(_moments(), z.reshape(-1, 3), 0.8),
      'distance': moments.update_distance(context.stats['distance'], z),
    }
    # float32; products of matmuls
    chex.assert_trees_all_close(updates['stats'], expected, rtol=1e-5)

  def test_stats_hold_the_moments_of_the_averaged_sampler(self):
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    averaged = _params(model, 'sampler')
    stats = {**_stats(_moments()), 'sampler': moments.init(3)}
    _, (_, updates) = self._grad(
      model,
      params,
      _context(stats=stats, ema_params=averaged),
      moments_decay=0.0,
      latents_per_image=2,
    )
    keys = [jax.random.fold_in(key, 1) for key in _keys()]
    noise = jnp.concatenate([jax.random.normal(key, (2, 3)) for key in keys])
    u = model.modules['sampler'].apply(averaged['sampler'], noise)
    mean, covariance = moments.mean_and_covariance(updates['stats']['sampler'])
    # float32
    np.testing.assert_allclose(mean, np.mean(u, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
      covariance, np.cov(u, rowvar=False, bias=True), rtol=1e-4, atol=1e-5
    )


if __name__ == '__main__':
  absltest.main()
