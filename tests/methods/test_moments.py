"""Tests of ldc_vae.methods.moments."""

from absl.testing import absltest
import chex
import jax.numpy as jnp
import numpy as np

from ldc_vae.methods import moments


class MomentsTest(chex.TestCase):
  def test_none_seen_is_mean_zero_and_covariance_one(self):
    mean, covariance = moments.mean_and_covariance(moments.init(3))
    np.testing.assert_array_equal(mean, np.zeros(3))
    np.testing.assert_array_equal(covariance, np.eye(3))

  def test_match_weighted_averages_over_the_steps(self):
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(6, 4, 5, 3)).astype(np.float32) * 2.0 + 1.0
    running = moments.init(3)
    for z in batches:
      running = moments.update(running, z.reshape(-1, 3), 0.7)
    mean, covariance = moments.mean_and_covariance(running)
    weights = 0.7 ** np.arange(5, -1, -1.0)  # the last counts most
    weights /= np.sum(weights)
    flat = batches.astype(np.float64).reshape(6, 20, 3)
    expected = np.tensordot(weights, np.mean(flat, axis=1), 1)
    products = np.einsum('snd,sne->sde', flat, flat) / 20
    second = np.tensordot(weights, products, 1)
    # float32, 120 terms
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    np.testing.assert_allclose(
      covariance, second - np.outer(expected, expected), rtol=1e-4, atol=1e-5
    )

  def test_an_unused_dimension_keeps_a_positive_std(self):
    running = moments.update(moments.init(3), jnp.ones((8, 3)), 0.9)
    root = np.asarray(moments.root(running))
    self.assertGreater(np.min(np.diagonal(root)), 0.0)
    _, std = moments.mean_and_std(running)
    self.assertGreater(float(jnp.min(std)), 0.0)

  def test_stds_are_those_of_the_covariance(self):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(9, 3)), jnp.float32)
    running = moments.update(moments.init(3), 2.0 * z + 1.0, 0.5)
    mean, std = moments.mean_and_std(running)
    wanted_mean, covariance = moments.mean_and_covariance(running)
    np.testing.assert_array_equal(mean, wanted_mean)
    np.testing.assert_allclose(std**2, np.diag(covariance), rtol=1e-6)

  def test_affine_match_gives_mean_and_covariance(self):
    rng = np.random.default_rng(0)
    u = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + 2.0
    z = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 3)) - 1.0
    both = [
      moments.update(moments.init(3), jnp.asarray(x, jnp.float32), 0.0)
      for x in (u, z)
    ]
    actual = moments.affine_match(jnp.asarray(u, jnp.float32), *both)
    # float32, and 1e-6 on the diagonals of both covariances
    np.testing.assert_allclose(
      np.mean(actual, axis=0), np.mean(z, axis=0), atol=1e-4
    )
    np.testing.assert_allclose(
      np.cov(actual, rowvar=False),
      np.cov(z, rowvar=False),
      rtol=5e-3,  # and 1/499 against 1/399
      atol=1e-3,
    )

  def test_affine_match_of_equal_moments_changes_nothing(self):
    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(50, 3)), jnp.float32)
    z = rng.normal(size=(64, 3)) * [0.5, 1.0, 2.0] + [1.0, 0.0, -1.0]
    running = moments.update(moments.init(3), jnp.asarray(z, jnp.float32), 0.9)
    actual = moments.affine_match(u, running, running)
    np.testing.assert_allclose(actual, u, rtol=1e-4, atol=1e-5)  # float32

  def test_a_collapsed_dimension_far_from_0_stays_finite(self):
    rng = np.random.default_rng(0)
    z = np.concatenate(
      [5.0 + 1e-3 * rng.normal(size=(256, 8)), rng.normal(size=(256, 8))], 1
    )
    both = [
      moments.update(moments.init(16), jnp.asarray(x, jnp.float32), 0.0)
      for x in (rng.normal(size=(256, 16)), z)
    ]
    actual = moments.affine_match(
      jnp.asarray(rng.normal(size=(64, 16)), jnp.float32), *both
    )
    self.assertTrue(np.all(np.isfinite(actual)))
    np.testing.assert_allclose(np.std(actual[:, 8:], axis=0), 1.0, atol=0.4)

  def test_narrow_directions_beside_a_wide_one_stay_finite(self):
    for seed in range(5):
      rng = np.random.default_rng(seed)
      axis = rng.normal(size=(1, 16))
      running = moments.init(16)
      for _ in range(20):
        z = 30.0 * rng.normal(size=(256, 1)) * axis
        z += 0.0067 * rng.normal(size=(256, 16))
        running = moments.update(running, jnp.asarray(z, jnp.float32), 0.9)
      root = np.asarray(moments.root(running))
      _, covariance = moments.mean_and_covariance(running)
      np.testing.assert_allclose(  # float32, and 1e-6 of all variances
        root @ root.T, covariance, atol=3e-6 * np.trace(covariance)
      )


class DistanceTest(chex.TestCase):
  def test_none_seen_is_that_of_standard_normal_particles(self):
    distance = moments.mean_distance(moments.init_distance(), 3)
    self.assertEqual(float(distance), 6.0)

  def test_is_the_mean_over_pairs_images_and_steps(self):
    # each image at another place, of which the distances know nothing
    z = np.random.default_rng(0).normal(size=(6, 4, 3, 2))
    z += 10.0 * np.arange(4.0)[:, None, None]
    running, means, weights = moments.init_distance(), [], []
    for step, batch in enumerate(z):
      running = moments.update_distance(running, batch.astype(np.float32))
      pairs = [
        np.sum((image[i] - image[j]) ** 2)
        for image in batch
        for i in range(3)
        for j in range(3)
        if i != j
      ]
      means.append(np.mean(pairs))
      weights.append(0.9 ** (5 - step))  # the last counts most
    # float32, coordinates of up to 30
    np.testing.assert_allclose(
      moments.mean_distance(running, 2),
      np.average(means, weights=weights),
      rtol=1e-4,
    )


if __name__ == '__main__':
  absltest.main()
