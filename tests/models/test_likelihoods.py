"""Tests of ldc_vae.models.likelihoods."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import elbo
from ldc_vae.models import model as model_lib
from tests.models import model_case

_SIZES = model_case.SIZES
_images = model_case.images
_params = model_case.params


class LikelihoodTest(chex.TestCase):
  @parameterized.parameters(
    ('bernoulli',), ('gaussian',), ('discretized_logistic',)
  )
  def test_matches_one_image_and_particle_at_a_time(self, likelihood):
    model = model_lib.create_model(
      (8, 8, 1), **_SIZES, likelihood=likelihood, scale=0.2
    )
    params = _params(model, 'decoder')
    images = np.round(_images(2, (8, 8, 1)) * 255.0) / np.float32(255.0)
    z = np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)
    actual = np.asarray(jax.jit(model.log_likelihood)(params, images, z))

    @jax.jit
    def one(image, z):
      logits = model.modules['decoder'].apply(params['decoder'], z)
      if likelihood == 'bernoulli':
        return elbo.bernoulli_log_likelihood(logits, image)
      likelihood_fn = {
        'gaussian': elbo.gaussian_log_likelihood,
        'discretized_logistic': elbo.discretized_logistic_log_likelihood,
      }[likelihood]
      return likelihood_fn(jax.nn.sigmoid(logits), image, math.log(0.2))

    for b in range(2):
      for k in range(3):
        # float32, 64 pixels
        np.testing.assert_allclose(
          actual[b, k], one(images[b], z[b, k]), rtol=1e-5
        )

  def test_a_learned_scale_starts_where_it_is_put_and_learns(self):
    fixed = model_lib.create_model((8, 8, 1), **_SIZES, scale=0.2)
    learned = model_lib.create_model(
      (8, 8, 1), **_SIZES, scale=0.2, learn_scale=True
    )
    names = learned.autoencoder_names()
    params = jax.jit(lambda key: learned.init(key, names))(jax.random.key(0))
    images, z = _images(2, (8, 8, 1)), np.ones((2, 1, 3), np.float32)
    # float32, 64 pixels
    np.testing.assert_allclose(
      jax.jit(learned.log_likelihood)(params, images, z),
      jax.jit(fixed.log_likelihood)(params, images, z),
      rtol=1e-6,
    )

    @jax.jit
    @jax.grad
    def grad_fn(scale):
      scaled = {**params, 'scale': scale}
      return jnp.mean(learned.log_likelihood(scaled, images, z))

    gradient = grad_fn(params['scale'])
    # images uniform in [0, 1], grey means: residuals of 0.29 > 0.2: wider
    self.assertGreater(float(gradient['params']['log_scale']), 0.0)


if __name__ == '__main__':
  absltest.main()
