"""Tests of ldc_vae.methods.vamp."""

import functools
import math

from absl.testing import absltest
import chex
import jax
import numpy as np
import scipy.special

from ldc_vae.methods import vamp
from tests.methods import bound_case
from tests.methods import method_case

_DIM = bound_case.DIM
_SHAPE = bound_case.SHAPE
_images = bound_case.images
_log_likelihoods = bound_case.log_likelihoods
_log_normal = bound_case.log_normal
_model = bound_case.create_model
_posterior = bound_case.posterior
_run = bound_case.run_phase
_params = method_case.params
_norm = method_case.norm


class VampTest(chex.TestCase):
  def test_loss_is_the_bound_under_the_mixture(self):
    num_pseudo_inputs = 3
    model = _model(num_pseudo_inputs=num_pseudo_inputs)
    params = _params(model, 'encoder', 'decoder', 'pseudo_inputs')
    (loss, (metrics, _)), grads = _run(
      vamp.Vamp(num_samples=2).build(model), params
    )
    logits = params['pseudo_inputs']['params']['logits']
    chex.assert_shape(logits, (num_pseudo_inputs, *_SHAPE))
    encode_fn = jax.jit(model.modules['encoder'].apply)
    means, logvars = jax.device_get(
      encode_fn(params['encoder'], 1.0 / (1.0 + np.exp(-logits)))
    )
    mean, std, z = _posterior(model, params, 2)
    components = [
      _log_normal(z, m, np.exp(0.5 * v)) for m, v in zip(means, logvars)
    ]
    log_prior = scipy.special.logsumexp(components, axis=0)
    log_prior -= np.log(num_pseudo_inputs)
    kl = np.mean(_log_normal(z, mean, std) - log_prior)
    reconstruction = -np.mean(_log_likelihoods(model, params, z))
    # float32
    np.testing.assert_allclose(loss, reconstruction + kl, rtol=1e-5)
    np.testing.assert_allclose(metrics['kl'], kl, rtol=1e-4)
    for network in ('encoder', 'decoder', 'pseudo_inputs'):
      self.assertGreater(_norm(grads[network]), 1e-4)

  def test_one_pseudo_input_is_the_kl_to_its_posterior(self):
    model = _model(num_pseudo_inputs=1)
    params = _params(model, 'encoder', 'pseudo_inputs')
    components_fn = functools.partial(vamp.prior_components, model=model)
    (m, v), (mean, logvar) = (
      [np.asarray(x[0], np.float64) for x in pair]
      for pair in (
        jax.jit(components_fn)(params),
        jax.jit(model.modules['encoder'].apply)(params['encoder'], _images()),
      )
    )
    expected = 0.5 * np.sum(
      v - logvar + np.exp(logvar - v) + (mean - m) ** 2 * np.exp(-v) - 1.0
    )
    noise = np.random.default_rng(0).normal(size=(4000, _DIM))
    z = (mean + np.exp(0.5 * logvar) * noise).astype(np.float32)
    method = vamp.Vamp(num_samples=1).build(model)
    log_prior_fn = functools.partial(method.log_prior, params, ())
    log_prior = np.asarray(jax.jit(jax.vmap(log_prior_fn))(z), np.float64)
    draws = _log_normal(z, mean, np.exp(0.5 * logvar)) - log_prior
    # 4000 draws: four standard errors
    self.assertAlmostEqual(
      np.mean(draws), expected, delta=4.0 * np.std(draws) / math.sqrt(4000)
    )

  def test_generates_from_its_components(self):
    model = _model(num_pseudo_inputs=2)
    params = _params(model, 'encoder', 'pseudo_inputs')
    method = vamp.Vamp(num_samples=1).build(model)
    keys = jax.random.split(jax.random.key(0), 4000)
    z = np.asarray(jax.jit(method.generate)(params, (), keys))
    components_fn = functools.partial(vamp.prior_components, model=model)
    means, logvars = jax.device_get(jax.jit(components_fn)(params))
    variances = np.exp(logvars)
    # 4000 draws: four standard errors
    variance = np.mean(variances + means**2, axis=0)
    variance -= np.mean(means, axis=0) ** 2
    error = 4.0 / math.sqrt(4000)
    np.testing.assert_array_less(
      np.abs(np.mean(z, axis=0) - np.mean(means, axis=0)),
      error * np.sqrt(variance),
    )
    np.testing.assert_allclose(np.var(z, axis=0), variance, rtol=2 * error)

  def test_pseudo_inputs_are_different_images(self):
    model = _model(num_pseudo_inputs=5)

    @jax.jit
    def draw(key):
      params = model.init(key, ('pseudo_inputs',))
      return model.modules['pseudo_inputs'].apply(params['pseudo_inputs'])

    inputs = np.asarray(draw(jax.random.key(0)))
    self.assertGreater(np.min(inputs), 0.0)
    self.assertLess(np.max(inputs), 1.0)
    self.assertGreater(np.min(np.std(inputs, axis=0)), 0.01)


if __name__ == '__main__':
  absltest.main()
