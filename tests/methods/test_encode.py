"""Tests of the posteriors of a method, and of their metrics."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from ldc_vae import errors
from ldc_vae.methods import base
from ldc_vae.methods import iwae
from ldc_vae.methods import lebm
from ldc_vae.methods import stein_vae
from ldc_vae.methods import vamp
from tests.methods import bound_case
from tests.methods import method_case

_LEBM_FIELDS = bound_case.LEBM_FIELDS
_STEIN_FIELDS = bound_case.STEIN_FIELDS
_images = bound_case.images
_keys = bound_case.keys
_model = bound_case.create_model
_params = method_case.params
_norm = method_case.norm


class DensityTest(chex.TestCase):
  @parameterized.parameters(iwae.Iwae, vamp.Vamp)
  def test_an_encoder_without_one_is_an_error(self, method_class):
    with self.assertRaisesRegex(
      errors.UserError, '=implicit .* encoder gaussian'
    ):
      method_class().build(_model('implicit'))


class EncodeTest(chex.TestCase):
  def _encode(self, encoder, method_fn):
    model = _model(encoder)
    params = _params(model, *model.autoencoder_names())
    run = jax.jit(
      functools.partial(base.encode, method_fn(model), model, stats=())
    )
    posterior = run(params, images=_images(), keys=_keys())
    return model, params, jax.device_get(posterior)

  def test_a_gaussian_has_its_moments(self):
    method_fn = iwae.Iwae(num_samples=1).build
    model, params, posterior = self._encode('gaussian', method_fn)
    z, mean, logvar, mean_variance = posterior
    encode_fn = jax.jit(model.modules['encoder'].apply)
    expected = encode_fn(params['encoder'], _images())
    chex.assert_trees_all_close((mean, logvar), expected, rtol=1e-5)
    self.assertGreater(_norm(z - mean), 1e-3)  # a draw
    self.assertIsNone(mean_variance)

  def test_images_that_are_no_floats_are_an_error(self):
    model = _model('gaussian')
    params = _params(model, *model.autoencoder_names())
    algorithm = iwae.Iwae(num_samples=1).build(model)
    images = (255 * _images()).astype(np.uint8)
    with self.assertRaisesRegex(AssertionError, 'float.*uint8|uint8.*float'):
      base.encode(algorithm, model, params, (), images, _keys())

  def test_the_mean_of_an_implicit_one_is_of_its_particles(self):
    method_fn = stein_vae.SteinVae(**_STEIN_FIELDS).build
    model, params, posterior = self._encode('implicit', method_fn)
    z, mean, logvar, mean_variance = posterior
    particles_fn = functools.partial(model.particles, num_particles=16)
    particles, _, _ = jax.jit(particles_fn)(params, _images(), _keys())
    particles = np.asarray(particles)
    np.testing.assert_allclose(z, particles[:, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
      mean, np.mean(particles, axis=1), rtol=1e-4, atol=1e-6
    )
    self.assertIsNone(logvar)
    np.testing.assert_allclose(
      mean_variance, np.var(particles, axis=1, ddof=1) / 16, rtol=1e-3
    )

  def test_the_chains_of_a_method_without_a_net_are_its_draws(self):
    model = _model('none')
    params = _params(model, 'decoder', 'energy')
    method = lebm.Lebm(**_LEBM_FIELDS).build(model)
    run = jax.jit(functools.partial(base.encode, method, model, stats=()))
    posterior = run(params, images=_images(), keys=_keys())
    chains = np.asarray(jax.jit(method.encode)(params, (), _images(), _keys()))
    np.testing.assert_allclose(posterior.z, chains[:, 0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
      posterior.mean, np.mean(chains, axis=1), rtol=1e-3, atol=1e-5
    )
    self.assertIsNone(posterior.logvar)


class PosteriorMetricsTest(absltest.TestCase):
  def test_deviations_are_unbiased_for_any_number_of_normal_particles(self):
    for count in (2, 4, 8):
      z = jax.random.normal(jax.random.key(count), (20_000, count, 3))
      metrics = jax.jit(base.posterior_metrics)(None, 0.5 * np.asarray(z))
      # 60,000 sets: four standard errors, 0.76 of the deviation for two
      self.assertAlmostEqual(
        float(metrics['posterior_std']), 0.5, delta=4 * 0.38 / 60_000**0.5
      )
      self.assertAlmostEqual(
        float(metrics['latent_mean_square']), 0.25, delta=0.01
      )

  def test_a_lone_particle_has_none(self):
    metrics = jax.jit(base.posterior_metrics)(None, np.ones((5, 1, 3)))
    self.assertEqual(float(metrics['posterior_std']), 0.0)


if __name__ == '__main__':
  absltest.main()
