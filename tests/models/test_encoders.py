"""Tests of ldc_vae.models.encoders."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.models import model as model_lib
from tests.models import model_case

_SIZES = model_case.SIZES
_images = model_case.images
_keys = model_case.keys
_params = model_case.params


class GaussianEncoderTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.model = model_lib.create_model((8, 8, 1), **_SIZES)
    self.params = _params(self.model, 'encoder')

  def _with_raw_log_std(self, raw):
    """The weights with `raw` as the pre-activation of log sigma."""
    weights = dict(self.params['encoder']['params'])
    weights['moments'] = {
      'kernel': np.zeros_like(weights['moments']['kernel']),
      'bias': np.array([0.0] * 3 + [raw] * 3, np.float32),
    }
    return {'encoder': {'params': weights}}

  @parameterized.parameters((-3.0,), (3.0,))
  def test_extreme_scales_have_a_way_back(self, raw):
    def total(params):
      z, _, logvar = self.model.particles(
        params, _images(2, (8, 8, 1)), _keys(2), 1
      )
      del z
      return jnp.sum(logvar)

    params = self._with_raw_log_std(raw)
    value, grads = jax.jit(jax.value_and_grad(total))(params)
    std = math.exp(0.5 * float(value) / 6)
    self.assertBetween(std, math.exp(-5.0), math.exp(1.0))
    gradient = np.asarray(grads['encoder']['params']['moments']['bias'])
    gradient = gradient[3:]  # the first three are the mean's
    # 2 images x 2 x 3 (1 - tanh(3)^2) = 0.12; a hard clip has 0
    np.testing.assert_allclose(gradient, 12.0 / np.cosh(3.0) ** 2, rtol=1e-4)

  def test_bounds_of_the_scale_are_finite(self):
    encoder_fn = jax.jit(self.model.modules['encoder'].apply)
    for raw, bound in ((-1e6, -5.0), (1e6, 1.0)):
      _, logvar = encoder_fn(
        self._with_raw_log_std(raw)['encoder'], _images(1, (8, 8, 1))
      )
      np.testing.assert_allclose(logvar, 2.0 * bound, rtol=1e-6)

  def test_particles_are_reparameterised_draws(self):
    images = _images(2, (8, 8, 1))
    particles_fn = jax.jit(
      functools.partial(self.model.particles, num_particles=4000)
    )
    z, mean, logvar = jax.device_get(
      particles_fn(self.params, images, _keys(2))
    )
    # 4000 draws: four standard errors of the mean and of the std
    std = np.exp(0.5 * logvar)
    error = 4.0 / math.sqrt(4000)
    self.assertLess(np.max(np.abs(np.mean(z, axis=1) - mean) / std), error)
    np.testing.assert_allclose(np.std(z, axis=1) / std, 1.0, atol=error)


class ParticlesTest(chex.TestCase):
  @parameterized.parameters('gaussian', 'implicit', 'warped')
  def test_an_image_knows_its_own_key_only(self, encoder):
    model = model_lib.create_model((8, 8, 1), **_SIZES, encoder=encoder)
    params = _params(model, 'encoder')
    images, keys = _images(4, (8, 8, 1)), _keys(4)
    particles_fn = jax.jit(functools.partial(model.particles, num_particles=3))
    whole = np.asarray(particles_fn(params, images, keys)[0])
    for rows in (slice(0, 1), slice(1, 4)):
      part, _, _ = particles_fn(params, images[rows], keys[rows])
      # the noise is equal; matmuls of another batch may round differently
      np.testing.assert_allclose(part, whole[rows], rtol=1e-5, atol=1e-6)
    other, _, _ = particles_fn(params, images, _keys(4, seed=1))
    self.assertGreater(np.min(np.abs(other - whole)), 0.0)

  @parameterized.parameters('gaussian', 'implicit', 'warped')
  def test_particles_of_one_image_differ(self, encoder):
    model = model_lib.create_model((8, 8, 1), **_SIZES, encoder=encoder)
    params = _params(model, 'encoder')
    particles_fn = jax.jit(functools.partial(model.particles, num_particles=2))
    z = np.asarray(particles_fn(params, _images(1, (8, 8, 1)), _keys(1))[0])
    self.assertGreater(np.max(np.abs(z[:, 0] - z[:, 1])), 1e-3)

  def test_a_warped_encoder_begins_as_a_gaussian_and_may_be_another(self):
    model = model_lib.create_model((8, 8, 1), **_SIZES, encoder='warped')
    encoder, images = model.modules['encoder'], _images(2, (8, 8, 1))
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(2, 4, 3 + 5)).astype(np.float32)

    encoder_fn = jax.jit(encoder.apply)

    def spread(params, noise):
      still = encoder_fn(params, images, np.zeros_like(noise))
      return np.asarray(encoder_fn(params, images, noise)) - np.asarray(still)

    init_fn = jax.jit(lambda key: model.init(key, ['encoder']))
    first = init_fn(jax.random.key(0))['encoder']
    own = spread(first, noise)
    ratio = own / noise[..., :3]  # the standard deviations of an image
    np.testing.assert_allclose(ratio, ratio[:, :1] + 0 * own, rtol=1e-4)
    self.assertBetween(np.exp(np.mean(np.log(ratio))), 0.5, 2.0)
    self.assertGreater(np.min(ratio), 0.0)
    self.assertGreater(np.max(np.abs(ratio[0] - ratio[1])), 1e-4)
    params = _params(model, 'encoder')['encoder']  # its warp is not 0
    bent = spread(params, 2.0 * noise) - 2.0 * spread(params, noise)
    self.assertGreater(np.max(np.abs(bent)), 1e-2)
    others = spread(params, noise * (np.arange(8) >= 3)[None, None])
    self.assertGreater(np.min(np.std(others, axis=1)), 1e-3)

  def test_those_of_a_deterministic_encoder_are_its_code(self):
    model = model_lib.create_model((8, 8, 1), **_SIZES, encoder='deterministic')
    params = _params(model, 'encoder')
    particles_fn = jax.jit(functools.partial(model.particles, num_particles=3))
    z, mean, _ = jax.device_get(
      particles_fn(params, _images(2, (8, 8, 1)), _keys(2))
    )
    for k in range(3):
      np.testing.assert_array_equal(z[:, k], mean)


if __name__ == '__main__':
  absltest.main()
