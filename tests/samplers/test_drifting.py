"""Tests of ldc_vae.samplers.drifting."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import svgd
from ldc_vae.samplers import drifting


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
