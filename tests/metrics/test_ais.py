"""Tests of ldc_vae.metrics.ais."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from ldc_vae import elbo
from ldc_vae.metrics import ais

_NUM_LEAPFROG = 5


def _linear_gaussian(latent_size=3, num_pixels=6, noise=0.3):
  """Weights W of x = W z + noise: log p(x|z), and the exact log p(x)."""
  weights = np.random.default_rng(0).normal(size=(num_pixels, latent_size))
  covariance = weights @ weights.T + noise**2 * np.eye(num_pixels)
  exact = scipy.stats.multivariate_normal(np.zeros(num_pixels), covariance)
  weights = weights.astype(np.float32)

  def log_likelihood(x, z):
    logvar = jnp.full(num_pixels, 2.0 * math.log(noise))
    return elbo.gaussian_log_prob(x, weights @ z, logvar)

  return weights, log_likelihood, exact


def _run(key, z, log_target_fn, path, step_sizes):
  """Log weights [n] of chains from z [n, D]."""

  def chain(key, z):
    return ais.ais(
      key,
      z,
      elbo.standard_normal_log_prob,
      log_target_fn,
      path,
      step_sizes,
      _NUM_LEAPFROG,
    )

  return jax.vmap(chain)(jax.random.split(key, len(z)), z)


def _bounds(key, x, truth, log_likelihood, *, num_chains, num_temperatures):
  """Bounds of log p(x) from below and, with its latent, from above."""
  log_target_fn = lambda z: (
    elbo.standard_normal_log_prob(z) + log_likelihood(x, z)
  )
  path = ais.sigmoid_schedule(num_temperatures)
  z_key, adapt_key, down_key, up_key = jax.random.split(key, 4)
  z = jax.random.normal(z_key, (num_chains, truth.shape[0]))
  sizes = ais.adapt_step_sizes(
    adapt_key,
    z,
    elbo.standard_normal_log_prob,
    log_target_fn,
    path,
    _NUM_LEAPFROG,
  )
  lower = _run(down_key, z, log_target_fn, path, sizes)
  upper = _run(
    up_key,
    jnp.tile(truth[None], (num_chains, 1)),
    log_target_fn,
    *ais.reverse_path(path, sizes),
  )
  return (
    elbo.importance_weighted_bound(lower.log_weight),
    -elbo.importance_weighted_bound(upper.log_weight),
    lower.acceptance,
  )


class _RankPromotionTest(chex.TestCase):
  """Raises where arrays of different ranks are combined unseen."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.numpy_rank_promotion('raise'))


class ScheduleTest(_RankPromotionTest):
  def test_goes_from_0_to_1_densely_at_both_ends(self):
    path = np.asarray(ais.sigmoid_schedule(10))
    self.assertEqual(path.shape, (11,))
    np.testing.assert_allclose(path[[0, 5, 10]], [0.0, 0.5, 1.0], atol=1e-6)
    steps = np.diff(path)
    self.assertGreater(steps.min(), 0.0)
    self.assertLess(steps[0], 0.5 * steps[5])
    np.testing.assert_allclose(steps, steps[::-1], atol=1e-6)

  def test_no_temperatures_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'num_temperatures=0'):
      ais.sigmoid_schedule(0)

  def test_the_way_back_moves_at_the_same_temperatures(self):
    path, sizes = jnp.array([0.0, 0.2, 0.7, 1.0]), jnp.array([2.0, 7.0, 10.0])
    back, back_sizes = ais.reverse_path(path, sizes)
    np.testing.assert_allclose(back, [1.0, 0.7, 0.2, 0.0])
    # moves at 0.7, at 0.2, and at 0
    np.testing.assert_allclose(back_sizes, [7.0, 2.0, 2.0])


class AisTest(_RankPromotionTest):
  def test_agrees_with_the_exact_evidence_and_importance_sampling(self):
    weights, log_likelihood, exact = _linear_gaussian()
    noise = 0.3

    def image(key):
      key, z_key, x_key, q_key = jax.random.split(key, 4)
      z = jax.random.normal(z_key, (3,))
      x = weights @ z + noise * jax.random.normal(x_key, (6,))
      lower, upper, acceptance = _bounds(
        key, x, z, log_likelihood, num_chains=64, num_temperatures=500
      )
      # importance sampling from a posterior of the right mean, too wide
      precision = jnp.eye(3) + weights.T @ weights / noise**2
      mean = jnp.linalg.solve(precision, weights.T @ x / noise**2)
      logvar = jnp.log(2.0 * jnp.diagonal(jnp.linalg.inv(precision)))
      samples = mean[None] + jnp.exp(0.5 * logvar)[None] * jax.random.normal(
        q_key, (4000, 3)
      )
      log_weights = jax.vmap(
        lambda z: elbo.log_weight(log_likelihood(x, z), z, mean, logvar)
      )(samples)
      importance = elbo.importance_weighted_bound(log_weights)
      return x, lower, upper, importance, acceptance

    x, lower, upper, importance, acceptance = jax.jit(jax.vmap(image))(
      jax.random.split(jax.random.key(0), 8)
    )
    expected = exact.logpdf(np.asarray(x, np.float64))
    np.testing.assert_allclose(lower, expected, atol=0.15)
    # what is reported is the mean over images
    self.assertAlmostEqual(np.mean(lower), np.mean(expected), delta=0.05)
    self.assertAlmostEqual(np.mean(upper), np.mean(expected), delta=0.05)
    self.assertAlmostEqual(np.mean(importance), np.mean(expected), delta=0.05)
    # adapted to 0.65; the mean over the path lags a little behind
    self.assertBetween(float(np.mean(acceptance)), 0.5, 0.85)

  def test_bounds_of_a_decoder_enclose_the_evidence_within_a_nat(self):
    rng = np.random.default_rng(0)
    first = jnp.asarray(rng.normal(size=(8, 2)), jnp.float32)
    second = jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)

    def logits(z):
      return second @ jnp.tanh(first @ z)

    def log_likelihood(x, z):
      return elbo.bernoulli_log_likelihood(logits(z), x)

    def image(key):
      key, z_key, x_key, grid_key = jax.random.split(key, 4)
      z = jax.random.normal(z_key, (2,))
      x = jax.random.bernoulli(x_key, jax.nn.sigmoid(logits(z))).astype(z.dtype)
      draws = jax.random.normal(grid_key, (20_000, 2))  # of the prior
      log_likelihoods = jax.vmap(lambda z: log_likelihood(x, z))(draws)
      evidence = elbo.importance_weighted_bound(log_likelihoods)
      lower, upper, _ = _bounds(
        key, x, z, log_likelihood, num_chains=16, num_temperatures=60
      )
      return lower, evidence, upper

    lower, evidence, upper = jax.jit(jax.vmap(image))(
      jax.random.split(jax.random.key(1), 8)
    )
    # 20,000 draws in two dimensions, 8 images: an error of a few hundredths
    self.assertBetween(np.mean(evidence - lower), -0.1, 0.5)
    self.assertBetween(np.mean(upper - evidence), -0.1, 0.5)
    self.assertLess(np.mean(upper - lower), 1.0)

  def test_weights_without_moves_are_those_of_importance_sampling(self):
    # Step size 0: z stays, and the steps of b add up to 1.
    _, log_likelihood, _ = _linear_gaussian()
    x = jnp.ones(6)
    z = jax.random.normal(jax.random.key(0), (4, 3))
    log_target_fn = lambda z: (
      elbo.standard_normal_log_prob(z) + log_likelihood(x, z)
    )
    path = ais.sigmoid_schedule(7)
    run = jax.jit(lambda key: _run(key, z, log_target_fn, path, jnp.zeros(7)))
    result = run(jax.random.key(1))
    np.testing.assert_allclose(
      result.log_weight,
      jax.jit(jax.vmap(lambda z: log_likelihood(x, z)))(z),
      rtol=1e-5,  # float32: a sum of 7 terms
    )
    np.testing.assert_array_equal(result.z, z)
    np.testing.assert_allclose(result.acceptance, 1.0, rtol=1e-6)

  def test_chains_end_in_the_target(self):
    # p_1 = N(2, 0.5^2), whose normaliser is 3.
    log_target_fn = lambda z: (
      math.log(3.0)
      + elbo.gaussian_log_prob(z, jnp.full(1, 2.0), jnp.full(1, math.log(0.25)))
    )
    z = jax.random.normal(jax.random.key(0), (2000, 1))
    path = ais.sigmoid_schedule(50)
    run = jax.jit(
      lambda key: _run(key, z, log_target_fn, path, jnp.full(50, 0.3))
    )
    result = jax.device_get(run(jax.random.key(1)))
    # The weights correct for the distance that the chains lag behind. 2000
    # chains, fewer in effect: errors of 0.015 and 0.01; four of each.
    weights = scipy.special.softmax(result.log_weight)
    mean = weights @ result.z[:, 0]
    std = np.sqrt(weights @ np.square(result.z[:, 0] - mean))
    self.assertAlmostEqual(float(mean), 2.0, delta=0.06)
    self.assertAlmostEqual(float(std), 0.5, delta=0.04)
    self.assertAlmostEqual(
      float(jax.jit(elbo.importance_weighted_bound)(result.log_weight)),
      math.log(3.0),
      delta=0.03,
    )

  @parameterized.parameters(np.inf, np.nan)
  def test_a_move_to_nowhere_is_rejected(self, value):
    target = lambda z: jnp.where(
      z[0] == 0.5, -0.5 * jnp.sum(jnp.square(z)), value
    )
    z = np.array([[0.5]], np.float32)
    path = ais.sigmoid_schedule(5)
    run = jax.jit(lambda key: _run(key, z, target, path, jnp.ones(5)))
    result = run(jax.random.key(0))
    np.testing.assert_array_equal(result.z, z)
    np.testing.assert_array_equal(result.acceptance, 0.0)

  def test_the_key_decides_everything(self):
    _, log_likelihood, _ = _linear_gaussian()
    z = jax.random.normal(jax.random.key(0), (3, 3))
    log_target_fn = lambda z: log_likelihood(jnp.ones(6), z)
    run = jax.jit(
      lambda key: (
        _run(
          key, z, log_target_fn, ais.sigmoid_schedule(7), jnp.full(7, 0.1)
        ).log_weight
      )
    )
    first, again, other = (run(jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    self.assertFalse(np.array_equal(first, other))


if __name__ == '__main__':
  absltest.main()
