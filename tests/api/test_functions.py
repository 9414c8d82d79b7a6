"""Tests of ldc_vae.api.functions: pure functions of the weights of a run."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import streams
from ldc_vae.api import functions
from tests import evaluate_case


class FunctionsTest(evaluate_case.LoadedTest):
  def test_those_of_a_run_are_of_its_networks(self):
    self.assertIsInstance(self.run_.functions, functions.Functions)

  def test_they_agree_with_the_methods(self):
    run, pure = self.run_, self.run_.functions
    key = jax.random.key(3)
    posterior = jax.jit(pure.encode)(run.params, self.images, key)
    np.testing.assert_allclose(
      posterior.z, run.encode(self.images, seed=3), rtol=1e-5, atol=1e-5
    )
    z = run.encode(self.images)
    decoded = jax.jit(pure.decode)(run.params, z)
    np.testing.assert_allclose(255 * decoded, run.decode(z), atol=0.51)
    np.testing.assert_allclose(
      255 * pure.reconstruct(run.params, self.images, key),
      run.reconstruct(self.images),
      atol=0.51,
    )
    walks = pure.interpolate(run.params, z[:2], z[2:4], 4)
    np.testing.assert_allclose(
      255 * walks, run.interpolate(z[:2], z[2:4], 4), atol=0.51
    )
    own = jax.random.fold_in(jax.random.key(9), streams.Stream.SAMPLE.value)
    draw_fn = jax.jit(pure.sample_latents, static_argnums=2)
    np.testing.assert_allclose(
      draw_fn(run.params, own, 6),
      run.sample_latents(6, seed=9),
      rtol=1e-5,
      atol=1e-5,
    )
    np.testing.assert_allclose(
      255 * pure.sample(run.params, own, 6),
      run.sample(6, seed=9),
      atol=0.51,
    )
    likelihood_fn = jax.jit(pure.log_likelihood, static_argnums=3)
    np.testing.assert_allclose(
      likelihood_fn(run.params, self.images, key, 8),
      run.log_likelihood(self.images, seed=3, num_samples=8),
      rtol=1e-4,
    )

  def test_they_have_gradients(self):
    def total(params):
      return jnp.sum(
        self.run_.functions.log_likelihood(
          params, self.images, jax.random.key(0), 4
        )
      )

    grads = jax.grad(total)(self.run_.params)
    for name in ('encoder', 'decoder'):
      norms = [float(jnp.abs(x).max()) for x in jax.tree.leaves(grads[name])]
      self.assertTrue(np.isfinite(norms).all(), name)
      self.assertGreater(max(norms), 0.0, name)


if __name__ == '__main__':
  absltest.main()
