"""Tests of the second phase of ldc, its generator and its options."""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.methods import ldc
from ldc_vae.methods import moments
from ldc_vae.samplers import sampler_net
from ldc_vae.samplers import sampler_options
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
_params = method_case.params
_norm = method_case.norm


class GenerateTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    model = _model()
    # a net of some size: fresh ones are 0
    params = _params(model, 'sampler')
    keys = jax.random.split(jax.random.key(1), 4000)
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    self.u = model.modules['sampler'].apply(params['sampler'], noise)
    self.stats = {
      'latents': _moments(),
      'sampler': moments.update(moments.init(3), self.u, 0.9),
    }
    method = ldc.Ldc(**_LDC_FIELDS).build(model)
    z = jax.jit(method.generate)(params, self.stats, keys)
    self.z = np.asarray(z, np.float64)

  def test_mean_and_covariance_are_the_latents(self):
    mean, covariance = moments.mean_and_covariance(self.stats['latents'])
    # float32, and what keeps roots positive: 1e-6 of all variances
    np.testing.assert_allclose(np.mean(self.z, axis=0), mean, atol=1e-4)
    np.testing.assert_allclose(
      np.cov(self.z, rowvar=False, bias=True), covariance, atol=1e-3
    )

  def test_is_an_affine_map_of_what_the_net_makes(self):
    u = np.asarray(self.u, np.float64)
    own_root = np.linalg.cholesky(np.cov(u, rowvar=False, bias=True))
    mean, covariance = jax.device_get(
      moments.mean_and_covariance(self.stats['latents'])
    )
    white = np.linalg.solve(own_root, (u - u.mean(axis=0)).T)
    expected = mean + (np.linalg.cholesky(covariance) @ white).T
    np.testing.assert_allclose(self.z, expected, atol=1e-3)  # as above


class LdcLatentTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.model = _model()
    self.params = _params(self.model, 'encoder', 'decoder', 'sampler', 'energy')
    rng = np.random.default_rng(5)
    latents = rng.normal(size=(_BATCH, _PARTICLES, 3)) + 0.5
    self.latents = latents.astype(np.float32)
    self.context = _context(latents=self.latents, stats={'latents': _moments()})

  def _grad(self, context=None, argnums=0, **fields):
    """Gradient of the latent phase, and (metrics, updates)."""
    method = ldc.Ldc(**{**_LDC_FIELDS, **fields}).build(self.model)
    objective_fn = method.phases[1].objective_fn
    context = context or self.context

    def loss_fn(params, latents):
      full = dataclasses.replace(context, latents=latents)
      return method_case.unpack(objective_fn(params, _images(), _keys(), full))

    grad_fn = jax.jit(jax.grad(loss_fn, argnums=argnums, has_aux=True))
    return jax.device_get(grad_fn(self.params, context.latents))

  def _aggregate(self, columns):
    """Standardised latents [B g, D] of the chosen particles."""
    mean, std = moments.mean_and_std(_moments())
    chosen = np.asarray(self.latents)[:, columns].reshape(-1, 3)
    return (chosen - np.asarray(mean)) / np.asarray(std)

  def _draws(self, group):
    """Noise [B g, D], and where the penalty looks, bool [B g]."""
    noise = [jax.random.normal(key, (group, 3)) for key in _keys()]
    looks = [
      jax.random.bernoulli(jax.random.fold_in(key, 1), shape=(group,))
      for key in _keys()
    ]
    return jnp.concatenate(noise), jnp.concatenate(looks)

  @parameterized.parameters(
    (0, 2, [0, 1], True),
    (1, 2, [2, 3], True),
    (2, 2, [4, 0], True),
    (3, 1, [3], False),
  )
  def test_updates_take_the_particles_in_turn(
    self, update, group, columns, use_svgd
  ):
    context = dataclasses.replace(
      self.context, update=jnp.int32(update), progress=jnp.float32(0.25)
    )
    grads, (metrics, updates) = self._grad(
      context, latents_per_image=group, sampler_svgd=use_svgd
    )
    noise, looks = self._draws(group)
    objective_fn = functools.partial(
      sampler_net.objective,
      noise=noise,
      aggregate=self._aggregate(columns),
      at_aggregate=looks,
      progress=0.25,
      sampler_fn=self.model.modules['sampler'].apply,
      energy_fn=self.model.modules['energy'].apply,
      options=sampler_options.SamplerOptions(
        sampler_svgd=use_svgd,
        sampler_mass=1.5,
        temperature_end=0.01,
        temperature_fraction=0.5,
        gradient_penalty=0.3,
      ),
    )
    expected, terms = jax.jit(jax.grad(objective_fn, has_aux=True))(self.params)
    # float32 sums of 4 or 8 particles, second derivatives
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(metrics, terms, rtol=1e-4, atol=1e-5)
    self.assertEqual(updates, {})
    self.assertEqual('temperature' in metrics, use_svgd)

  @parameterized.parameters(True, False)
  def test_neither_autoencoder_nor_latents_move(self, use_svgd):
    (grads, by_latents), _ = self._grad(argnums=(0, 1), sampler_svgd=use_svgd)
    self.assertEqual(
      _norm((grads['encoder'], grads['decoder'], by_latents)), 0.0
    )
    self.assertGreater(_norm(grads['sampler']), 1e-3)
    self.assertGreater(_norm(grads['energy']), 1e-3)


class LdcCreateTest(chex.TestCase):
  @parameterized.named_parameters(
    ('lone_particle', dict(num_particles=1), 'num_particles=1 .*use 2 part'),
    (
      'bandwidth_of_a_set',
      dict(bandwidth='mean'),
      'method.bandwidth=mean depends on the few',
    ),
    ('bandwidth', dict(bandwidth=-1.0), 'bandwidth=-1.0'),
    (
      'kernel',
      dict(kernel='rfb'),
      'method.kernel=rfb is unknown .*known: .*rbf',
    ),
    (
      'sampler_kernel',
      dict(sampler_kernel='rfb'),
      'method.sampler_kernel=rfb is unknown .*known: .*rbf',
    ),
    (
      'kernel_with_negative_values',
      dict(sampler_kernel='linear'),
      'method.sampler_kernel=linear is unknown; known: rbf, imq',
    ),
    (
      'start',
      dict(temperature_start=0.0),
      'method.temperature_start=0.0 is not positive',
    ),
    (
      'end',
      dict(temperature_end=0.0),
      'method.temperature_end=0.0 is not positive',
    ),
    (
      'fraction',
      dict(temperature_fraction=0.0),
      r'method.temperature_fraction=0.0 is outside \(0, 1\]',
    ),
  )
  def test_wrong_field_is_an_error(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      ldc.Ldc(**{**_LDC_FIELDS, **fields}).build(_model())

  def test_an_unknown_option_is_an_error(self):
    with self.assertRaisesRegex(TypeError, 'latent_target'):
      ldc.Ldc(**{**_LDC_FIELDS, 'latent_target': 'learned'}).build(_model())

  def test_trains_the_autoencoder_and_the_latent_nets(self):
    method = ldc.Ldc(**_LDC_FIELDS).build(_model())
    self.assertEqual(
      method.trained, ('encoder', 'decoder', 'sampler', 'energy')
    )
    self.assertSameElements(
      method.init_stats(), ('latents', 'sampler', 'distance')
    )


if __name__ == '__main__':
  absltest.main()
