"""Tests of ldc_vae.samplers.drifting."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import svgd
from ldc_vae.samplers import drifting
from ldc_vae.samplers import training
from tests import device_case
from tests.samplers import latent_case


class FitTest(parameterized.TestCase):
  def test_two_clusters_are_matched(self):
    with (
      absltest.mock.patch.multiple(
        drifting, _WIDTH=64, _BATCH_SIZE=200, _LEARNING_RATE=3e-3
      ),
      device_case.optimised(
        training, 'train', static_argnames=('net', 'num_steps')
      ),
    ):
      z = latent_case.two_clusters(5000)
      draws = drifting.fit(z, seed=0, num_steps=1000)(5000, 0)
    # As in test_flow_matching.py; but sets of 200 tell shares less well, and
    # one pass leaves some draws between the clusters.
    latent_case.check_clusters(
      self, draws, share=0.04, mean=0.15, covariance=0.3
    )


class DriftingLossTest(parameterized.TestCase):
  def test_gradient_is_that_of_the_squared_step(self):
    # Deng et al. write |x - stop_gradient(x + V)|^2: its gradient is -2 V.
    rng = np.random.default_rng(0)
    points, ends = rng.normal(size=(2, 6, 3)).astype(np.float32)
    field = svgd.smoothed_flow(points, ends, (0.02, 0.05, 0.2))
    written = lambda x: jnp.mean(
      jnp.sum(jnp.square(x - (points + field)), axis=1)
    )
    np.testing.assert_allclose(
      2.0 * jax.grad(drifting.drifting_loss)(points, ends),
      jax.grad(written)(points),
      rtol=1e-4,
      atol=1e-6,
    )

  def test_no_gradient_flows_into_latents(self):
    rng = np.random.default_rng(0)
    points, ends = rng.normal(size=(2, 6, 3)).astype(np.float32)
    grads = jax.grad(drifting.drifting_loss, argnums=1)(points, ends)
    np.testing.assert_array_equal(grads, np.zeros_like(ends))


if __name__ == '__main__':
  absltest.main()
