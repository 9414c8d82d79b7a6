"""Tests of ldc_vae.samplers.training."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.samplers import training
from tests.samplers import latent_case


class WhitenTest(parameterized.TestCase):
  def test_u_is_uncorrelated_with_std_1(self):
    u, _ = training.whiten(latent_case.two_clusters(500))
    self.assertEqual(u.dtype, np.float32)
    np.testing.assert_allclose(u.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(u.T @ u / 500, np.eye(3), atol=1e-5)

  def test_comes_back(self):
    z = latent_case.two_clusters(500)
    u, unwhiten = training.whiten(z)
    np.testing.assert_allclose(unwhiten(u), z, rtol=1e-5, atol=1e-5)

  def test_leaves_out_what_does_not_vary(self):
    z = latent_case.two_clusters(50)[:, :2]
    z = np.concatenate([z, np.full((50, 1), 7.0), z[:, :1] - z[:, 1:]], axis=1)
    u, unwhiten = training.whiten(z)
    self.assertEqual(u.shape, (50, 2))
    np.testing.assert_allclose(unwhiten(u), z, rtol=1e-5, atol=1e-5)

  @parameterized.parameters(1, 3)
  def test_latents_that_are_the_same_keep_one_direction(self, num):
    z = np.tile(latent_case.two_clusters(1), (num, 1))
    u, unwhiten = training.whiten(z)
    np.testing.assert_array_equal(u, np.zeros((num, 1)))
    np.testing.assert_allclose(unwhiten(u + 5.0), z, rtol=1e-6)


class MuonTest(parameterized.TestCase):
  def _change(self, gradient):
    tx = training.muon(0.1, 0.5)
    weights = jnp.zeros_like(gradient)
    return tx.update(gradient, tx.init(weights), weights)[0]

  @parameterized.parameters((4, 4), (4, 16), (16, 4))
  def test_all_directions_of_a_matrix_change_alike(self, rows, columns):
    rng = np.random.default_rng(0)
    u, _, v = np.linalg.svd(
      rng.normal(size=(rows, columns)), full_matrices=False
    )
    gradient = jnp.asarray((u * [1.0, 0.3, 0.1, 0.03]) @ v, jnp.float32)
    change = np.asarray(self._change(gradient))
    lengths = np.linalg.svd(change, compute_uv=False)
    # the root mean square of all entries would be the rate at exactly 1; five
    # steps of Newton and Schulz leave 0.7 to 1.2
    lengths /= 0.1 * np.sqrt(max(rows, columns))
    self.assertBetween(lengths.min(), 0.6, 1.3)
    self.assertBetween(lengths.max(), 0.6, 1.3)
    # it descends
    self.assertLess(np.sum(change * np.asarray(gradient)), 0.0)

  def test_all_else_changes_by_adam(self):
    gradient = jnp.array([1.0, -3.0, 0.01])
    # of equal size at the first update, whatever the gradients are
    sizes = np.abs(self._change(gradient))
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-4)


class CheckTest(parameterized.TestCase):
  def test_weights_that_are_not_finite_are_reported(self):
    training.check_trained({'w': np.ones(2)}, 7, 'net')
    with self.assertRaisesRegex(ValueError, 'the net diverged within num_st'):
      training.check_trained({'w': np.array([1.0, np.inf])}, 7, 'net')

  def test_no_steps_are_reported(self):
    training.check_steps(1, 'net')
    with self.assertRaisesRegex(ValueError, 'num_steps=0 trains no net; use 1'):
      training.check_steps(0, 'net')

  def test_draws_have_a_key_that_training_has_not(self):
    key, draw_key = jax.random.key(3), training.draw_key(3)
    splits = jax.random.key_data(jax.random.split(key, 100))
    self.assertFalse((splits == jax.random.key_data(draw_key)).all(1).any())


class TrainTest(parameterized.TestCase):
  def _net(self, loss_fn, size, **kwargs):
    return training.NetSampler(
      name='net',
      init_fn=lambda key, u: jnp.zeros(size),
      loss_fn=loss_fn,
      draws_fn=lambda params, key, shape: jnp.tile(params, (shape[0], 1)),
      **{'num_steps': 400, **kwargs},
    )

  def test_finds_the_mean(self):
    u = jnp.asarray(np.random.default_rng(0).normal(size=(40, 2)) + [3.0, -1.0])

    def loss_fn(params, rows, key):
      del key
      return jnp.mean(jnp.sum(jnp.square(rows - params), axis=1))

    net = self._net(loss_fn, 2, batch_size=64, learning_rate=0.1, ema_decay=0.9)
    params = training.train(net, u, jax.random.key(0), 400)
    # 64 rows have the mean within 1 / 8; the end of the cosine averages many
    np.testing.assert_allclose(params, u.mean(axis=0), atol=0.05)
    # whitened latents have the mean 0
    draws = net.fit(np.asarray(u), seed=0)(3, 0)
    np.testing.assert_allclose(draws, np.tile(u.mean(axis=0), (3, 1)), atol=0.1)

  def test_the_average_lags_behind(self):
    # Adam with a gradient of 1 moves by the rate, here 1, (1 + cos) / 2 in all
    # 2 steps: to -1, -1.5. The average weighs 1 / 10, then 2 / 11 of the old.
    net = self._net(
      lambda params, rows, key: params,
      (),
      batch_size=1,
      learning_rate=1.0,
      ema_decay=0.9,
    )
    params = training.train(net, jnp.zeros((3, 1)), jax.random.key(0), 2)
    first = -0.9
    np.testing.assert_allclose(params, 2 / 11 * first - 9 / 11 * 1.5, rtol=1e-5)

  def test_the_end_of_the_cosine_and_the_decay_are_those_given(self):
    # the rates of 2 steps are 1 and (1 + 0.4) / 2; without an average
    net = self._net(
      lambda params, rows, key: params,
      (),
      batch_size=1,
      learning_rate=1.0,
      ema_decay=0.0,
      final_fraction=0.4,
    )
    params = training.train(net, jnp.zeros((3, 1)), jax.random.key(0), 2)
    np.testing.assert_allclose(params, -1.7, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
