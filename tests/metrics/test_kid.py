"""Tests of ldc_vae.metrics.kid."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np
from sklearn.metrics import pairwise

from ldc_vae.metrics import kid


def _normal(seed, num, dim):
  """Draws of N(0, I), float32 [num, dim]."""
  draws = np.random.default_rng(seed).normal(size=(num, dim))
  return draws.astype(np.float32)


class PolynomialMmdTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(jax.numpy_rank_promotion('raise'))

  @chex.all_variants(with_pmap=False)
  @parameterized.parameters((7, 9, 3), (40, 30, 16))
  def test_matches_the_kernel_of_scikit_learn(self, n, m, dim):
    x, y = _normal(0, n, dim), 0.7 * _normal(1, m, dim) + 0.4
    kernel = lambda a, b: pairwise.polynomial_kernel(
      a.astype(np.float64), b.astype(np.float64), degree=3, coef0=1.0
    )
    off_diagonal = lambda k: (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
    expected = (
      off_diagonal(kernel(x, x))
      + off_diagonal(kernel(y, y))
      - 2.0 * kernel(x, y).mean()
    )
    # float32: a difference of three means of up to 5
    np.testing.assert_allclose(
      self.variant(kid.polynomial_mmd)(x, y), expected, atol=5e-6
    )

  def test_a_pair_on_the_line_has_a_closed_form(self):
    # F = 1: x = {0, 1}, y = {1, 1}: 1 + 8 - 2 (1 + 1 + 8 + 8) / 4
    x, y = np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]])
    np.testing.assert_allclose(kid.polynomial_mmd(x, y), 0.0, atol=1e-6)
    # y = {2, 2}: k(x, y) = 1 and 27, k(y, y) = 125
    np.testing.assert_allclose(
      kid.polynomial_mmd(x, 2.0 * y), 1 + 125 - 2 * (1 + 27) / 2, rtol=1e-6
    )

  def test_sets_of_different_dimension_are_refused(self):
    with self.assertRaises(AssertionError):
      kid.polynomial_mmd(_normal(0, 5, 3), _normal(1, 5, 4))


class KernelDistanceTest(parameterized.TestCase):
  def _distance(self, x, y, num_subsets=5, subset_size=100, seed=0):
    return kid.kernel_distance(
      x, y, num_subsets=num_subsets, subset_size=subset_size, seed=seed
    )

  def test_one_distribution_expects_nothing(self):
    draws = [
      (_normal(2 * i, 400, 8), _normal(2 * i + 1, 300, 8)) for i in range(20)
    ]
    means = [self._distance(x, y, num_subsets=10).mean() for x, y in draws]
    error = np.std(means) / np.sqrt(len(means))
    self.assertLess(abs(np.mean(means)), 3 * error)  # three standard errors
    self.assertLess(min(means), 0.0)

  def test_the_mean_over_subsets_estimates_the_distance_of_the_sets(self):
    x, y = _normal(0, 400, 8), 0.5 + _normal(1, 300, 8)
    values = self._distance(x, y, num_subsets=50)
    self.assertEqual(values.shape, (50,))
    error = values.std() / np.sqrt(len(values))
    self.assertAlmostEqual(
      values.mean(), float(kid.polynomial_mmd(x, y)), delta=3 * error
    )

  def test_a_subset_of_everything_is_taken_once(self):
    x, y = _normal(0, 60, 4), 0.5 + _normal(1, 60, 4)
    values = self._distance(x, y)
    self.assertEqual(values.shape, (1,))
    np.testing.assert_allclose(
      values[0],
      kid.polynomial_mmd(x, y),
      atol=1e-5,  # order of float32 sums
    )

  def test_the_seed_decides_the_subsets(self):
    x, y = _normal(0, 300, 4), _normal(1, 300, 4)
    np.testing.assert_array_equal(self._distance(x, y), self._distance(x, y))
    self.assertFalse(
      np.array_equal(self._distance(x, y), self._distance(x, y, seed=1))
    )

  def test_a_single_vector_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'at least 2'):
      self._distance(_normal(0, 1, 3), _normal(1, 5, 3))


if __name__ == '__main__':
  absltest.main()
