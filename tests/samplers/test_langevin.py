"""Tests of ldc_vae.samplers.langevin."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.metrics import latent
from ldc_vae.models import latent_nets
from ldc_vae.samplers import langevin
from ldc_vae.samplers import registry
from ldc_vae.samplers import training
from tests import device_case

_ANGLES = 2.0 * np.pi * np.arange(8) / 8
_MODES = np.array([10.0, -5.0]) + 3.0 * np.stack(
  [np.cos(_ANGLES), np.sin(_ANGLES)], axis=1
)


def _ring(num, seed=0):
  """8 Gaussians on a ring of radius 3 around (10, -5), std 0.3: [num, 2]."""
  rng = np.random.default_rng(seed)
  return _MODES[rng.integers(8, size=num)] + 0.3 * rng.normal(size=(num, 2))


def _masses(z):
  """The share of each Gaussian within 3 stds, times 8, [8]."""
  distances = np.linalg.norm(z[:, None] - _MODES[None], axis=2)
  near = np.min(distances, axis=1) <= 0.9
  nearest = np.argmin(distances, axis=1)[near]
  return np.bincount(nearest, minlength=8) / len(z) * 8


class FitTest(parameterized.TestCase):
  def test_a_ring_of_gaussians_is_found(self):
    truth = _ring(2000, seed=1)
    net = latent_nets.LatentEnergy(width=64, num_blocks=1)
    sampler = dataclasses.replace(
      langevin.SAMPLER, batch_size=128, learning_rate=6e-3
    )
    with (
      absltest.mock.patch.object(langevin, 'NET', net),
      device_case.optimised(
        training, 'train', static_argnames=('net', 'num_steps')
      ),
    ):
      sample_fn = sampler.fit(_ring(4000), seed=0, num_steps=1200)
      draws = sample_fn(2000, 0)
    gaussian = registry.fit('gaussian', _ring(4000))(2000, 0)
    # 0.989 of the ring's own mass is within 3 stds, but a third of that
    # of a Gaussian with its moments; a share of 250 draws errs by 0.06.
    self.assertGreater(np.mean(_masses(draws)), 0.85)
    self.assertGreater(np.min(_masses(draws)), 0.65)
    self.assertLess(np.max(_masses(draws)), 1.3)
    self.assertLess(np.mean(_masses(gaussian)), 0.5)
    distance = lambda z: float(
      latent.mmd(jnp.asarray(z, jnp.float32), jnp.asarray(truth, jnp.float32))
    )
    self.assertLess(distance(draws), 0.1 * distance(gaussian))

  def test_starts_as_the_gaussian_of_the_latents(self):
    # Untrained, f is nearly flat, and the chains stay in N(0, I), whitened.
    z = _ring(100) @ np.array([[1.0, 0.5], [0.0, 0.02]])
    draws = langevin.SAMPLER.fit(z, seed=0, num_steps=3)(5000, 0)
    np.testing.assert_allclose(
      np.cov(draws, rowvar=False), np.cov(z, rowvar=False), rtol=0.15
    )


class WhitenedEnergyTest(parameterized.TestCase):
  def test_is_that_of_the_normal_distribution_where_f_is_0(self):
    net = langevin.NET
    u = np.array([1.0, -2.0], np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), u)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    value = jax.jit(langevin.whitened_energy)(params, u)
    np.testing.assert_allclose(value, 2.5, rtol=1e-6)

  def test_chains_rest_in_the_normal_distribution_where_f_is_0(self):
    net = latent_nets.LatentEnergy(width=4, num_blocks=1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(2))
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    with absltest.mock.patch.object(langevin, 'NET', net):
      z = langevin.draws(params, jax.random.key(1), (20_000, 2))
    # v / (1 - s^2 / 4) at s = 0.3 is 1.02; 40,000 numbers err by 0.007.
    np.testing.assert_allclose(np.var(z), 1.01, atol=0.04)
    np.testing.assert_allclose(np.mean(z), 0.0, atol=0.02)


if __name__ == '__main__':
  absltest.main()
