"""Tests of ldc_vae.samplers.two_stage."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from ldc_vae import elbo
from ldc_vae.samplers import two_stage
from tests import device_case


def _ring(num):
  """Latents on a ring of radius 3 around (10, -5), std 0.2."""
  rng = np.random.default_rng(0)
  angles = 2.0 * np.pi * rng.random(num)
  ring = 3.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
  return np.array([10.0, -5.0]) + ring + 0.2 * rng.normal(size=(num, 2))


class FitTest(parameterized.TestCase):
  def test_a_ring_is_found(self):
    with (
      absltest.mock.patch.multiple(
        two_stage, _WIDTH=64, _BATCH_SIZE=128, _LEARNING_RATE=3e-3
      ),
      device_case.optimised(two_stage, '_train', static_argnames='num_steps'),
    ):
      sample_fn = two_stage.fit(_ring(4000), seed=0, num_steps=3000)
      radii = np.linalg.norm(sample_fn(2000, 0) - [10.0, -5.0], axis=1)
    # A Gaussian of the ring's moments has the median radius 2.5 and a third of
    # its mass within 2; nearly all of the ring is beyond 2.4.
    self.assertAlmostEqual(np.median(radii), 3.0, delta=0.2)
    self.assertLess(np.mean(radii < 2.0), 0.1)

  def test_draws_have_the_decoders_noise_besides(self):
    latents, num = _ring(100), 10_000
    inputs = np.zeros((1, 2), np.float32)
    params = jax.jit(two_stage.Decoder().init)(jax.random.key(0), inputs)

    def draw(log_scale):
      params['params']['log_scale'] = np.float32(log_scale)
      with absltest.mock.patch.object(
        two_stage, '_train', return_value={'decoder': params}
      ):
        z = two_stage.fit(latents, seed=0)(num, 0)
      return (z - latents.mean(axis=0)) / latents.std(axis=0)

    decoded = draw(-200.0)  # a scale of 0 in float32
    noise = (draw(0.3) - decoded) / np.exp(0.3)
    # four errors of a std, and of a correlation: none with u
    np.testing.assert_allclose(
      noise.std(axis=0), [1.0, 1.0], rtol=4 / np.sqrt(2 * num)
    )
    self.assertGreater(decoded.std(), 0.3)
    correlations = np.corrcoef(noise, decoded, rowvar=False)
    off_diagonal = correlations[np.triu_indices(4, k=1)]
    off_diagonal = np.delete(off_diagonal, -1)  # of decoded with itself
    np.testing.assert_allclose(off_diagonal, 0.0, atol=4 / np.sqrt(num))


class NegativeElboTest(parameterized.TestCase):
  def test_is_above_the_entropy_of_the_latents(self):
    # -ELBO >= cross entropy >= entropy, here of N(0, I).
    z = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)
    key = jax.random.key(0)
    params = {
      'encoder': jax.jit(two_stage.Encoder().init)(key, z[:1]),
      'decoder': jax.jit(two_stage.Decoder().init)(key, z[:1]),
    }
    entropy = -np.mean(jax.jit(jax.vmap(elbo.standard_normal_log_prob))(z))
    value = jax.jit(two_stage.negative_elbo)(params, z, key)
    self.assertGreater(value, entropy)

  def test_is_exact_where_the_latent_is_not_used(self):
    # q(u|z) = N(0, I) and p(z|u) = N(0, s^2 I): the cross entropy with it.
    z = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    key = jax.random.key(0)
    shapes = {
      'encoder': jax.eval_shape(two_stage.Encoder().init, key, z[:1]),
      'decoder': jax.eval_shape(two_stage.Decoder().init, key, z[:1]),
    }
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    params['decoder']['params']['log_scale'] = np.float32(0.3)
    expected = np.mean(
      np.sum(0.5 * (z / np.exp(0.3)) ** 2 + 0.3, axis=1)
    ) + 1.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(
      jax.jit(two_stage.negative_elbo)(params, z, key), expected, rtol=1e-6
    )


if __name__ == '__main__':
  absltest.main()
