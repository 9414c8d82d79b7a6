"""Tests of ldc_vae.methods.iwae."""

import math

from absl.testing import absltest
import chex
import jax
import numpy as np
import scipy.special

from ldc_vae.methods import iwae
from tests.methods import bound_case
from tests.methods import method_case

_context = bound_case.create_context
_images = bound_case.images
_log_likelihoods = bound_case.log_likelihoods
_log_normal = bound_case.log_normal
_model = bound_case.create_model
_posterior = bound_case.posterior
_run = bound_case.run_phase
_params = method_case.params
_norm = method_case.norm


class IwaeTest(chex.TestCase):
  def test_loss_is_the_bound_by_hand(self):
    num_samples = 3
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    algorithm = iwae.Iwae(num_samples=num_samples).build(model)
    (loss, _), grads = _run(algorithm, params)
    mean, std, z = _posterior(model, params, num_samples)
    log_weights = (
      _log_likelihoods(model, params, z)
      + _log_normal(z, 0.0, 1.0)
      - _log_normal(z, mean, std)
    )
    bounds = scipy.special.logsumexp(log_weights, axis=1) - np.log(num_samples)
    np.testing.assert_allclose(loss, -np.mean(bounds), rtol=1e-5)  # float32
    self.assertGreater(_norm(grads['encoder']), 1e-2)

  def test_one_sample_is_the_elbo(self):
    # whose KL divergence is then that of the sample: equal on average
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    method = iwae.Iwae(num_samples=1).build(model)
    keys = jax.random.split(jax.random.key(0), 500)

    @jax.jit
    def losses(keys):
      one = lambda key: method_case.unpack(
        method.phases[0].objective_fn(
          params, _images()[:1], key[None], _context()
        )
      )
      loss, (metrics, _) = jax.vmap(one)(keys)
      return loss, metrics['reconstruction'] + metrics['kl']

    iwae_losses, elbo_losses = losses(keys)
    difference = np.asarray(iwae_losses - elbo_losses, np.float64)
    # 500 draws: four standard errors
    self.assertLess(
      abs(np.mean(difference)), 4.0 * np.std(difference) / math.sqrt(500)
    )
    self.assertGreater(np.std(difference), 0.1)


if __name__ == '__main__':
  absltest.main()
