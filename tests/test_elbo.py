"""Tests of ldc_vae.elbo."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.special
import scipy.stats

from ldc_vae import elbo

_SHAPE = (3, 2, 1)


def _normal(seed: int, *shape: int) -> np.ndarray:
  """Draws of N(0, I), float32."""
  draws = np.random.default_rng(seed).normal(size=shape)
  return draws.astype(np.float32)


def _levels(seed: int, *shape: int) -> np.ndarray:
  """Grey levels k / 255, float32; the first two are 0 and 1."""
  levels = np.random.default_rng(seed).integers(0, 256, size=shape)
  levels.flat[:2] = 0, 255
  return (levels / 255.0).astype(np.float32)


class _StrictTest(chex.TestCase):
  """Raises where arrays of different ranks are combined unseen."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.numpy_rank_promotion('raise'))


class BernoulliTest(_StrictTest):
  def test_matches_scipy(self):
    logits = 3.0 * _normal(0, *_SHAPE)
    image = (_normal(1, *_SHAPE) > 0).astype(np.float32)
    probability = scipy.special.expit(logits.astype(np.float64))
    expected = np.sum(scipy.stats.bernoulli.logpmf(image, probability))
    # float32, 6 terms of size 1
    np.testing.assert_allclose(
      jax.jit(elbo.bernoulli_log_likelihood)(logits, image),
      expected,
      rtol=1e-5,
    )

  def test_grey_is_the_cross_entropy(self):
    logits, image = _normal(0, *_SHAPE), _levels(1, *_SHAPE)
    p = scipy.special.expit(logits.astype(np.float64))
    expected = np.sum(image * np.log(p) + (1.0 - image) * np.log1p(-p))
    # float32, 6 terms of size 1
    np.testing.assert_allclose(
      jax.jit(elbo.bernoulli_log_likelihood)(logits, image),
      expected,
      rtol=1e-5,
    )

  @parameterized.parameters((-1e4,), (1e4,))
  def test_extreme_logits_stay_finite(self, logit):
    value_and_grad = jax.value_and_grad(elbo.bernoulli_log_likelihood)
    value, gradient = jax.jit(value_and_grad)(
      np.full((2, 1, 1), logit, np.float32),
      np.array([0.0, 1.0], np.float32).reshape(2, 1, 1),
    )
    # the one that is wrong costs its logit, the other nothing
    self.assertEqual(float(value), -1e4)
    chex.assert_tree_all_finite(gradient)


class GaussianTest(_StrictTest):
  @parameterized.parameters((False,), (True,))
  def test_matches_scipy(self, per_pixel):
    mean, image = _normal(0, *_SHAPE), _levels(1, *_SHAPE)
    log_scale = _normal(2, *_SHAPE) if per_pixel else np.float32(-1.3)
    actual = jax.jit(elbo.gaussian_log_likelihood)(mean, image, log_scale)
    expected = scipy.stats.norm.logpdf(
      image.astype(np.float64),
      mean,
      np.exp(np.asarray(log_scale, np.float64)),
    )
    # float32, 6 terms, of size 10
    np.testing.assert_allclose(actual, np.sum(expected), rtol=1e-5)

  @parameterized.parameters((-15.0,), (15.0,))
  def test_extreme_scales_stay_finite(self, log_scale):
    value_and_grad = jax.value_and_grad(
      elbo.gaussian_log_likelihood, argnums=(0, 2)
    )
    results = jax.jit(value_and_grad)(
      jnp.zeros(_SHAPE), _levels(0, *_SHAPE), jnp.float32(log_scale)
    )
    chex.assert_tree_all_finite(results)

  def test_best_scale_is_the_root_mean_square_of_the_residuals(self):
    mean, image = _normal(0, *_SHAPE), _levels(1, *_SHAPE)
    best = 0.5 * math.log(np.mean((image - mean) ** 2))
    grad_fn = jax.jit(jax.grad(elbo.gaussian_log_likelihood, argnums=2))
    gradient = grad_fn(mean, image, best)
    # float32: 6 terms of size 1 cancel
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)


class DiscretizedLogisticTest(_StrictTest):
  @parameterized.parameters((-5.0,), (-3.0,), (-1.0,), (1.0,))
  def test_matches_cdf_differences(self, log_scale):
    mean = scipy.special.expit(_normal(0, *_SHAPE))
    image = _levels(1, *_SHAPE)
    actual = jax.jit(elbo.discretized_logistic_log_likelihood)(
      mean, image, log_scale
    )
    x, mu, half = image.astype(np.float64), mean.astype(np.float64), 0.5 / 255.0
    logistic = scipy.stats.logistic(mu, math.exp(log_scale))
    lower = np.where(x == 0.0, -np.inf, x - half)
    upper = np.where(x == 1.0, np.inf, x + half)
    # the tail on the side of x, so that float64 keeps its digits
    left = logistic.cdf(upper) - logistic.cdf(lower)
    right = logistic.sf(lower) - logistic.sf(upper)
    expected = np.sum(np.log(np.where(x < mu, left, right)))
    # float32: x is rounded to 6e-8, times 1 / scale <= 150, six terms of 1-100
    np.testing.assert_allclose(actual, expected, rtol=2e-5)

  @parameterized.product(mean=(-0.1, 0.0, 0.5, 0.999), log_scale=(-7.0, -2.0))
  def test_probabilities_of_all_levels_add_up_to_one(self, mean, log_scale):
    levels = (np.arange(256) / 255.0).astype(np.float32)
    log_probs_fn = jax.vmap(
      lambda level: elbo.discretized_logistic_log_likelihood(
        jnp.full((1, 1, 1), mean), jnp.full((1, 1, 1), level), log_scale
      )
    )
    log_probs = jax.jit(log_probs_fn)(levels)
    # float32: a level is rounded to 6e-8, times 1 / scale <= 1100
    np.testing.assert_allclose(np.sum(np.exp(log_probs)), 1.0, rtol=1e-4)
    self.assertLessEqual(np.max(log_probs), 0.0)

  @parameterized.parameters((-15.0,), (15.0,))
  def test_extreme_scales_stay_finite(self, log_scale):
    value_and_grad = jax.value_and_grad(
      elbo.discretized_logistic_log_likelihood, argnums=(0, 2)
    )
    value_and_grad = jax.jit(value_and_grad)
    for mean in (0.0, 0.5, 1.0):
      value, grads = value_and_grad(
        np.full((16, 16, 1), mean, np.float32),
        _levels(0, 16, 16, 1),
        jnp.float32(log_scale),
      )
      chex.assert_tree_all_finite((value, grads))
      self.assertLess(float(value), 0.0)

  def test_far_tail_is_the_linear_one(self):
    # log p -> -|x - mean| / scale + log(2 sinh(half / scale)): both sigmoids
    # round to 1, so that their difference would be log 0
    scale, half = 1e-3, 0.5 / 255.0
    actual = jax.jit(elbo.discretized_logistic_log_likelihood)(
      np.full((1, 1, 1), 0.2, np.float32),
      np.full((1, 1, 1), 153 / 255, np.float32),  # 0.6
      math.log(scale),
    )
    expected = -0.4 / scale + math.log(2.0 * math.sinh(half / scale))
    # float32: 0.4 is rounded to 6e-8, 1.5e-7 of it
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


class DensityTest(_StrictTest):
  def test_gaussian_matches_scipy(self):
    z, mean, logvar = _normal(0, 3, 5)
    expected = scipy.stats.norm.logpdf(
      z.astype(np.float64), mean, np.exp(0.5 * logvar.astype(np.float64))
    )
    # float32, 5 terms
    np.testing.assert_allclose(
      jax.jit(elbo.gaussian_log_prob)(z, mean, logvar),
      np.sum(expected),
      rtol=1e-5,
    )

  def test_standard_normal_matches_scipy(self):
    z = _normal(0, 5)
    # float32, 5 terms
    np.testing.assert_allclose(
      jax.jit(elbo.standard_normal_log_prob)(z),
      np.sum(scipy.stats.norm.logpdf(z.astype(np.float64))),
      rtol=1e-6,
    )


class GaussianKlTest(_StrictTest):
  def test_matches_quadrature(self):
    mean, logvar = _normal(0, 2, 4)

    def integrand(x, m, s):
      log_q = scipy.stats.norm.logpdf(x, m, s)
      return np.exp(log_q) * (log_q - scipy.stats.norm.logpdf(x))

    expected = 0.0
    for m, s in zip(mean.astype(np.float64), np.exp(0.5 * logvar)):
      grid = np.linspace(m - 12 * s, m + 12 * s, 4001)
      expected += scipy.integrate.simpson(integrand(grid, m, s), x=grid)
    # float32, 4 terms; the quadrature is exact to 1e-10
    np.testing.assert_allclose(
      jax.jit(elbo.gaussian_kl)(mean, logvar), expected, rtol=1e-5
    )

  def test_zero_at_the_prior(self):
    value_and_grad = jax.value_and_grad(elbo.gaussian_kl, argnums=(0, 1))
    value, grads = jax.jit(value_and_grad)(jnp.zeros(3), jnp.zeros(3))
    self.assertEqual(float(value), 0.0)
    chex.assert_trees_all_equal(grads, (np.zeros(3), np.zeros(3)))

  def test_keeps_its_digits_near_the_prior(self):
    # (l^2 / 2 + l^3 / 6) / 2 at l = 1e-3, which exp(l) - 1 - l would miss by
    # a tenth; expm1 and the difference round by 1.2e-10 of 5e-7 in all
    actual = jax.jit(elbo.gaussian_kl)(jnp.zeros(1), jnp.full(1, 1e-3))
    np.testing.assert_allclose(actual, 2.5e-7 * (1 + 1e-3 / 3), rtol=5e-4)


class ElboTest(_StrictTest):
  @parameterized.parameters((1.0,), (4.0,))
  def test_is_the_mean_minus_beta_kl(self, beta):
    log_likelihoods, mean, logvar = _normal(0, 7), _normal(1, 4), _normal(2, 4)
    kl = 0.5 * np.sum(mean**2 + np.exp(logvar) - logvar - 1.0)
    # float32, 7 terms
    np.testing.assert_allclose(
      jax.jit(elbo.elbo)(log_likelihoods, mean, logvar, beta),
      np.mean(log_likelihoods) - beta * kl,
      rtol=1e-5,
    )


class EvidenceTest(_StrictTest):
  """x = W z + sigma eps with orthogonal columns: a diagonal posterior."""

  def setUp(self):
    super().setUp()
    self.sigma = 0.8
    orthogonal = np.linalg.qr(_normal(0, 6, 3).astype(np.float64))[0]
    self.weights = orthogonal * np.array([0.5, 1.0, 2.0])
    self.image = _normal(1, 6).astype(np.float64)
    covariance = self.weights @ self.weights.T + self.sigma**2 * np.eye(6)
    self.evidence = scipy.stats.multivariate_normal.logpdf(
      self.image, np.zeros(6), covariance
    )
    variance = 1 / (1 + np.array([0.5, 1.0, 2.0]) ** 2 / self.sigma**2)
    mean = variance * (self.weights.T @ self.image) / self.sigma**2
    self.posterior = mean.astype(np.float32), np.log(variance, dtype=np.float32)

  def _bounds(self, mean, logvar, num_sets, num_samples):
    """ELBO and importance bounds [num_sets] of sets of posterior samples."""
    weights = self.weights.astype(np.float32)
    image = self.image.astype(np.float32)

    def one(noise):
      z = mean + jnp.exp(0.5 * logvar) * noise
      log_likelihood = elbo.gaussian_log_likelihood(
        jnp.matmul(weights, z), image, math.log(self.sigma)
      )
      log_weight = elbo.log_weight(log_likelihood, z, mean, logvar)
      return log_likelihood, log_weight

    def one_set(noise):
      log_likelihoods, log_weights = jax.vmap(one)(noise)
      return (
        elbo.elbo(log_likelihoods, mean, logvar),
        elbo.importance_weighted_bound(log_weights),
      )

    noise = _normal(2, num_sets, num_samples, 3)
    return jax.jit(jax.vmap(one_set))(noise)

  @parameterized.parameters((1,), (2,), (50,))
  def test_exact_posterior_gives_the_evidence(self, num_samples):
    _, bounds = self._bounds(*self.posterior, 5, num_samples)
    # every weight is p(x); float32, ten terms of size 1-10
    np.testing.assert_allclose(bounds, self.evidence, rtol=3e-6)

  def test_bounds_are_ordered(self):
    mean, logvar = self.posterior
    wrong = mean + np.float32(0.3), logvar + np.float32(0.5)
    lower, last = [], None
    for num_samples in (1, 4, 32):
      bounds, importance = self._bounds(*wrong, 4000, num_samples)
      if num_samples == 1:
        lower.append(np.asarray(bounds))
      lower.append(np.asarray(importance))
    # ELBO = the bound of one sample <= of 4 <= of 32 <= log p, in the mean;
    # differences of a few standard errors, four for equality
    errors = [np.std(values) / math.sqrt(4000) for values in lower]
    means = [np.mean(values) for values in lower]
    self.assertLess(abs(means[0] - means[1]), 4 * (errors[0] + errors[1]))
    for last, following in ((1, 2), (2, 3)):
      gap = means[following] - means[last]
      self.assertGreater(gap, 4 * (errors[last] + errors[following]))
    self.assertLess(means[3], self.evidence)
    self.assertLess(self.evidence - means[3], 0.1)

  def test_more_samples_are_tighter_over_the_subsets(self):
    # Burda et al., theorem 1, holds for the subsets of any set of weights
    log_weights = 3.0 * _normal(4, 6)
    bound_fn = jax.jit(elbo.importance_weighted_bound)
    parts = [bound_fn(np.delete(log_weights, i)) for i in range(6)]
    self.assertLess(float(np.mean(parts)), float(bound_fn(log_weights)))
    self.assertLess(float(np.mean(log_weights)), float(np.mean(parts)))

  def test_importance_bound_survives_large_weights(self):
    bound_fn = jax.jit(elbo.importance_weighted_bound)
    actual = bound_fn(np.array([-9e4, -9e4, -1e5], np.float32))
    # float32 of 9e4 is known to 8e-3
    np.testing.assert_allclose(actual, -9e4 + math.log(2 / 3), atol=8e-3)


class MixtureTest(_StrictTest):
  def _components(self, z, means, logvars):
    """log N(z; mean_c, exp(logvar_c)) in NumPy, [C]."""
    std = np.exp(0.5 * logvars)
    return np.sum(scipy.stats.norm.logpdf(z[None], means, std), axis=1)

  def test_is_the_mean_density_of_its_components(self):
    z, means, logvars = _normal(0, 3), _normal(1, 4, 3), _normal(2, 4, 3)
    expected = np.log(np.mean(np.exp(self._components(z, means, logvars))))
    # float32, three terms each
    np.testing.assert_allclose(
      jax.jit(elbo.mixture_log_prob)(z, means, logvars), expected, rtol=1e-5
    )

  def test_one_component_is_a_gaussian(self):
    z, mean, logvar = _normal(0, 3), _normal(1, 3), _normal(2, 3)
    np.testing.assert_allclose(
      jax.jit(elbo.mixture_log_prob)(z, mean[None], logvar[None]),
      jax.jit(elbo.gaussian_log_prob)(z, mean, logvar),
      rtol=1e-6,  # float32
    )

  def test_is_finite_far_from_every_component(self):
    means, logvars = jnp.zeros((4, 3)), jnp.full((4, 3), -8.0)
    log_prob_fn = jax.jit(elbo.mixture_log_prob)
    actual = log_prob_fn(jnp.full(3, 10.0), means, logvars)
    # 3 x 10^2 / 2 x exp(8) = 4.5e5 below the top, where exp underflows
    np.testing.assert_allclose(actual, -150.0 * np.exp(8.0), rtol=1e-3)

  def test_weighs_as_the_prior(self):
    z, mean, logvar = _normal(0, 3), _normal(1, 3), _normal(2, 3)
    means, logvars = _normal(3, 4, 3), _normal(4, 4, 3)
    weight_fn = functools.partial(
      elbo.log_weight,
      log_prior_fn=lambda z: elbo.mixture_log_prob(z, means, logvars),
    )
    actual = jax.jit(weight_fn)(jnp.float32(-3.0), z, mean, logvar)
    prior = np.log(np.mean(np.exp(self._components(z, means, logvars))))
    posterior = self._components(z, mean[None], logvar[None])[0]
    np.testing.assert_allclose(actual, -3.0 + prior - posterior, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
