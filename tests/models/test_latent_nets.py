"""Tests of ldc_vae.models.latent_nets."""

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.models import latent_nets


class SamplerNetTest(chex.TestCase):
  def test_starts_as_the_identity(self):
    net = latent_nets.SamplerNet(width=16, num_blocks=2)
    noise = jax.random.normal(jax.random.key(1), (7, 3))
    params = jax.jit(net.init)(jax.random.key(0), noise)
    np.testing.assert_array_equal(jax.jit(net.apply)(params, noise), noise)

  def test_the_identity_is_no_trap(self):
    net = latent_nets.SamplerNet(width=16, num_blocks=2)
    noise = jax.random.normal(jax.random.key(1), (7, 3))
    params = jax.jit(net.init)(jax.random.key(0), noise)
    loss_fn = lambda params: jnp.sum(jnp.square(net.apply(params, noise) - 1.0))
    grads = jax.jit(jax.grad(loss_fn))(params)
    largest = max(np.max(np.abs(x)) for x in jax.tree.leaves(grads))
    self.assertGreater(largest, 0.1)


class LatentEnergyTest(chex.TestCase):
  def test_one_number_for_each_latent(self):
    net = latent_nets.LatentEnergy(width=16, num_blocks=2)
    u = np.asarray(jax.random.normal(jax.random.key(1), (2, 5, 3)))
    params = jax.jit(net.init)(jax.random.key(0), u)
    apply_fn = jax.jit(net.apply)
    values = np.asarray(apply_fn(params, u))
    chex.assert_shape(values, (2, 5))
    # one latent alone has the value it has among others; float32
    np.testing.assert_allclose(
      apply_fn(params, u[1, 3]), values[1, 3], rtol=1e-5, atol=1e-6
    )

  def test_smooth_to_the_second_derivative(self):
    # of R1, which differentiates a gradient: a ReLU net has curvature 0
    net = latent_nets.LatentEnergy(width=16, num_blocks=1)
    params = jax.jit(net.init)(jax.random.key(0), np.zeros(3, np.float32))
    hessian_fn = jax.jit(jax.hessian(lambda u: net.apply(params, u)))
    hessian = hessian_fn(np.ones(3, np.float32))
    self.assertGreater(np.max(np.abs(hessian)), 1e-4)


if __name__ == '__main__':
  absltest.main()
