"""Tests of ldc_vae.metrics.stein."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from ldc_vae.metrics import stein


def _normal(seed, num, dim):
  """Draws of N(0, I), float32 [num, dim]."""
  draws = np.random.default_rng(seed).normal(size=(num, dim))
  return draws.astype(np.float32)


class _RankPromotionTest(chex.TestCase):
  """Raises where arrays of different ranks are combined unseen."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.numpy_rank_promotion('raise'))


class KernelSteinDiscrepancyTest(_RankPromotionTest):
  @chex.all_variants(with_pmap=False)
  @parameterized.parameters((2, 1, 1.0), (9, 3, 0.7))
  def test_matches_pairs_with_derivatives_of_the_kernel(self, num, dim, scale):
    points, scores = 5.0 + _normal(0, num, dim), _normal(1, num, dim)

    def kernel(x, y):
      return (scale**2 + jnp.sum(jnp.square(x - y))) ** -0.5

    def stein_kernel(x, y, score_x, score_y):
      mixed = jax.jacfwd(jax.grad(kernel, 0), 1)(x, y)
      return (
        score_x @ score_y * kernel(x, y)
        + score_x @ jax.grad(kernel, 1)(x, y)
        + score_y @ jax.grad(kernel, 0)(x, y)
        + jnp.trace(mixed)
      )

    pairs = [(i, j) for i in range(num) for j in range(num) if i != j]
    i, j = np.array(pairs).T
    values = jax.jit(jax.vmap(stein_kernel))(
      points[i], points[j], scores[i], scores[j]
    )
    actual = self.variant(stein.kernel_stein_discrepancy)(points, scores, scale)
    # float32, terms of order 1
    np.testing.assert_allclose(actual, np.mean(values), atol=1e-5)

  def test_two_points_have_a_closed_form(self):
    # D = 1, c = 1, x = 0, y = 2, scores -x, -y: q = 5, k = 5^-1/2,
    # u = 0 + [(0 + 2) (0 - 2) + 1] 5^-3/2 - 3 * 4 * 5^-5/2.
    points = np.array([[0.0], [2.0]], np.float32)
    actual = stein.kernel_stein_discrepancy(points, -points, 1.0)
    expected = -3.0 * 5**-1.5 - 12.0 * 5**-2.5
    np.testing.assert_allclose(actual, expected, rtol=1e-6)

  def test_a_sample_of_the_distribution_expects_nothing(self):
    values = []
    discrepancy_fn = jax.jit(stein.kernel_stein_discrepancy)
    for seed in range(40):
      x = _normal(seed, 100, 3)
      values.append(float(discrepancy_fn(x, -x, 1.0)))
    error = np.std(values) / np.sqrt(len(values))
    self.assertLess(abs(np.mean(values)), 3 * error)  # three standard errors
    self.assertLess(min(values), 0.0)

  def test_grows_with_the_distance_from_the_distribution(self):
    x = _normal(0, 300, 3)
    discrepancy_fn = jax.jit(stein.kernel_stein_discrepancy)
    values = [
      float(discrepancy_fn(x + shift, -(x + shift), 1.0))
      for shift in (0.0, 0.3, 1.0, 3.0)
    ]
    self.assertSequenceEqual(values, sorted(values))
    self.assertGreater(values[1], 10 * abs(values[0]))

  def test_a_single_point_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'at least 2'):
      stein.kernel_stein_discrepancy(_normal(0, 1, 2), _normal(0, 1, 2), 1.0)


class EffectiveSampleSizeTest(_RankPromotionTest):
  @chex.all_variants(with_pmap=False)
  def test_two_points_have_a_closed_form(self):
    # As above: the pair has u = -3 * 5^-3/2 - 12 * 5^-5/2. At x = y the kernel
    # is s^2 + 1, which is 1 and 5: their mean 3, over that of all four.
    points = np.array([[0.0], [2.0]], np.float32)
    pair = -3.0 * 5**-1.5 - 12.0 * 5**-2.5
    actual = self.variant(stein.effective_sample_size)(points, -points, 1.0)
    np.testing.assert_allclose(actual, 12.0 / (6.0 + 2.0 * pair), rtol=1e-6)

  def test_points_that_coincide_are_one(self):
    points, scores = np.ones((20, 3), np.float32), _normal(0, 1, 3)
    actual = stein.effective_sample_size(
      points, np.repeat(scores, 20, axis=0), 1.0
    )
    np.testing.assert_allclose(actual, 1.0, rtol=1e-6)

  def test_independent_draws_count_as_they_are(self):
    size_fn = jax.jit(stein.effective_sample_size)
    inverse = []
    for seed in range(100):
      x = _normal(seed, 50, 3)
      inverse.append(50.0 / float(size_fn(x, -x, 1.0)))
    error = np.std(inverse) / np.sqrt(len(inverse))
    # three standard errors; the mean at x = y is of the sample itself
    np.testing.assert_allclose(np.mean(inverse), 1.0, atol=3 * error + 0.02)
    self.assertLess(error, 0.05)

  def test_narrow_draws_count_less(self):
    x = _normal(0, 200, 3)
    sizes = [
      float(stein.effective_sample_size(width * x, -width * x, 1.0))
      for width in (1.0, 0.7, 0.3)
    ]
    self.assertGreater(sizes[0], 5 * sizes[1])
    self.assertGreater(sizes[1], sizes[2])


class MixtureScoreTest(_RankPromotionTest):
  def _mixture(self, num, dim):
    rng = np.random.default_rng(0)
    means = 3.0 * rng.normal(size=(num, dim))
    logvars = rng.normal(size=(num, dim)) - 1.0
    return means.astype(np.float32), logvars.astype(np.float32)

  @chex.variants(with_jit=True)
  @parameterized.parameters(1, 4, 64)
  def test_is_the_gradient_of_the_log_density(self, block_size):
    means, logvars = self._mixture(11, 3)
    points = 4.0 * _normal(1, 10, 3)

    def log_density(z):
      terms = jnp.square(z[None] - means) * jnp.exp(-logvars) + logvars
      return jax.nn.logsumexp(-0.5 * jnp.sum(terms, axis=1))

    score_fn = lambda z: stein.mixture_score(
      z, means, logvars, block_size=block_size
    )
    np.testing.assert_allclose(
      self.variant(score_fn)(points),
      jax.vmap(jax.grad(log_density))(points),
      rtol=2e-4,  # float32, weights from differences of exponents of 100
      atol=1e-4,
    )

  def test_one_component_pulls_to_its_mean(self):
    points = _normal(0, 5, 2)
    means = np.array([[1.0, -2.0]], np.float32)
    logvars = np.log(np.array([[0.25, 4.0]], np.float32))
    np.testing.assert_allclose(
      stein.mixture_score(points, means, logvars),
      (means - points) / np.exp(logvars),
      rtol=1e-5,
    )

  def test_narrow_components_far_from_0_keep_their_digits(self):
    # Like posteriors of images: stds of 0.02, means of up to 100.
    rng = np.random.default_rng(0)
    means = 100.0 + 3.0 * rng.normal(size=(500, 8))
    std = 0.02 * np.exp(0.3 * rng.normal(size=(500, 8)))
    rows = rng.integers(0, 500, 40)
    points = means[rows] + std[rows] * rng.normal(size=(40, 8))
    means, points = means.astype(np.float32), points.astype(np.float32)
    logvars = 2.0 * np.log(std).astype(np.float32)
    exact = [x.astype(np.float64) for x in (points, means, logvars)]
    z, m, s = exact[0][:, None], exact[1][None], exact[2][None]
    weights = scipy.special.softmax(
      -0.5 * np.sum((z - m) ** 2 / np.exp(s) + s, axis=2), axis=1
    )
    expected = np.sum(weights[..., None] * (m - z) / np.exp(s), axis=1)
    actual = stein.mixture_score(points, means, logvars)
    # scores of order 50; float32 means of 100 are known to 4e-6, over 0.02^2
    np.testing.assert_allclose(actual, expected, atol=0.05)


if __name__ == '__main__':
  absltest.main()
