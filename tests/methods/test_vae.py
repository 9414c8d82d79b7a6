"""Tests of ldc_vae.methods.vae."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from ldc_vae.methods import vae
from tests.methods import ldc_case
from tests.methods import method_case

_BATCH = ldc_case.BATCH
_context = ldc_case.create_context
_images = ldc_case.images
_keys = ldc_case.keys
_model = ldc_case.create_model
_params = method_case.params


class VaeTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.model = _model()
    self.params = _params(self.model, 'encoder', 'decoder')

  def _objective(self, params, beta=1.0, num_samples=2):
    method = vae.Vae(beta=beta, num_samples=num_samples).build(self.model)
    (phase,) = method.phases
    objective_fn = lambda params: method_case.unpack(
      phase.objective_fn(params, _images(), _keys(), _context())
    )
    return jax.jit(objective_fn)(params)

  def _by_hand(self, params, beta=1.0, num_samples=2):
    """-ELBO written out, from the same noise."""
    images, modules = _images(), self.model.modules
    mean, logvar = modules['encoder'].apply(params['encoder'], images)
    noise = [jax.random.normal(key, (num_samples, 3)) for key in _keys()]
    std = jnp.sqrt(jnp.exp(logvar))
    z = mean[:, None] + std[:, None] * jnp.stack(noise)  # [B, K, D]
    logits = modules['decoder'].apply(params['decoder'], z)
    residual = (images[:, None] - 1.0 / (1.0 + jnp.exp(-logits))) / 0.5
    log_density = -0.5 * residual**2 - math.log(0.5 * math.sqrt(2 * math.pi))
    log_likelihood = jnp.sum(log_density) / (num_samples * _BATCH)
    kl = 0.5 * jnp.sum(mean**2 + std**2 - 1.0 - logvar) / _BATCH
    return -log_likelihood + beta * kl

  @parameterized.parameters((1.0, 1), (0.3, 2))
  def test_loss_and_gradient_are_those_of_the_elbo(self, beta, num_samples):
    actual_fn = lambda params: self._objective(params, beta, num_samples)[0]
    expected_fn = lambda params: self._by_hand(params, beta, num_samples)
    actual = jax.jit(jax.value_and_grad(actual_fn))(self.params)
    expected = jax.jit(jax.value_and_grad(expected_fn))(self.params)
    # float32 sums of 16 pixels and 3 latents
    chex.assert_trees_all_close(actual, expected, rtol=2e-5, atol=2e-6)

  def test_metrics_add_up_to_the_loss(self):
    loss, (metrics, updates) = self._objective(self.params, beta=0.3)
    # float32
    np.testing.assert_allclose(
      metrics['reconstruction'] + 0.3 * metrics['kl'], loss, rtol=1e-6
    )
    self.assertEqual(updates, {})

  def test_an_implicit_encoder_is_an_error(self):
    with self.assertRaisesRegex(ValueError, 'use encoder gaussian'):
      vae.Vae(beta=1.0, num_samples=1).build(_model(encoder='implicit'))

  def test_generates_from_the_prior(self):
    method = vae.Vae(beta=1.0, num_samples=1).build(self.model)
    keys = jax.random.split(jax.random.key(0), 2000)
    z = jax.jit(method.generate)(self.params, method.init_stats(), keys)
    chex.assert_shape(z, (2000, 3))
    for column in np.asarray(z).T:
      # at this seed; a scale off by 0.1 would give 1e-3 in the mean
      self.assertGreater(scipy.stats.kstest(column, 'norm').pvalue, 0.01)

  def test_trains_the_autoencoder_and_a_learned_scale(self):
    method = vae.Vae(beta=1.0, num_samples=1).build(self.model)
    self.assertEqual(method.trained, ('encoder', 'decoder'))
    method = vae.Vae(beta=1.0, num_samples=1).build(_model(learn_scale=True))
    self.assertEqual(method.trained, ('encoder', 'decoder', 'scale'))


if __name__ == '__main__':
  absltest.main()
