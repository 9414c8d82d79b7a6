"""Tests of the covariance of the noise of noisy SVGD."""

import math

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import svgd
from ldc_vae.svgd import sampling
from tests.svgd import svgd_case


class NoiseTest(svgd_case.StrictTest):
  def test_near_particles_have_independent_noise(self):
    weight, rate, num = 0.5, 0.2, 4000
    # the kernel of all pairs is nearly 1
    particles = jnp.array([[0.0, 0.0], [0.01, 0.0], [0.0, 0.01]])

    def run(key):
      return sampling.run(
        lambda z: -0.5 * jnp.sum(z**2),
        particles,
        optimizer=optax.sgd(rate),
        kernel=svgd.rbf(1.0),
        num_steps=1,
        noise=svgd.Noise(weight, rate),
        key=key,
      ).particles.ravel()

    ends = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), num))
    variance = 2.0 * weight * rate
    # five standard errors of a variance
    np.testing.assert_allclose(
      np.cov(ends, rowvar=False),
      variance * np.eye(6),
      atol=5 * variance * math.sqrt(2 / num),
    )


if __name__ == '__main__':
  absltest.main()
