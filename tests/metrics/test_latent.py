"""Tests of ldc_vae.metrics.latent."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np
import scipy.stats

from ldc_vae.metrics import latent


def _normal(seed: int, num: int, dim: int) -> np.ndarray:
  """Draws of N(0, I), float32 [num, dim]."""
  draws = np.random.default_rng(seed).normal(size=(num, dim))
  return draws.astype(np.float32)


def _mmd_reference(x, y, scales):
  """The unbiased estimate as loops over pairs, in float64."""
  x, y = x.astype(np.float64), y.astype(np.float64)

  def kernel(a, b):
    constants = [2 * len(a) * scale for scale in scales]
    squared = np.sum((a - b) ** 2)
    return np.mean([c / (c + squared) for c in constants])

  def mean(a, b, skip):
    values = [
      kernel(a[i], b[j])
      for i in range(len(a))
      for j in range(len(b))
      if not (skip and i == j)
    ]
    return np.mean(values)

  return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


class _RankPromotionTest(chex.TestCase):
  """Raises where arrays of different ranks are combined unseen."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.numpy_rank_promotion('raise'))


class MmdTest(_RankPromotionTest):
  @chex.all_variants(with_pmap=False)
  @parameterized.named_parameters(
    ('one_block', 9, 7, 64), ('partial_block', 9, 14, 4), ('rows', 5, 6, 1)
  )
  def test_matches_loops(self, num_x, num_y, block_size):
    x, y = _normal(0, num_x, 3), 0.7 * _normal(1, num_y, 3) + 0.5
    scales = (0.3, 1.0, 4.0)
    actual = self.variant(
      functools.partial(latent.mmd, scales=scales, block_size=block_size)
    )(x, y)
    # float32: a difference of three means of about 0.6
    np.testing.assert_allclose(actual, _mmd_reference(x, y, scales), atol=1e-6)

  def test_two_points_have_a_closed_form(self):
    # D = 1, s = 1/2: k = 1 / (1 + d^2); x = {0, 1}, y = {3, 3}.
    x, y = np.array([[0.0], [1.0]]), np.array([[3.0], [3.0]])
    actual = latent.mmd(x, y, scales=(0.5,))
    expected = 1 / 2 + 1.0 - 2 * (1 / 10 + 1 / 5) / 2
    np.testing.assert_allclose(actual, expected, rtol=1e-6)  # float32

  def test_does_not_depend_on_the_block_size(self):
    x, y = _normal(0, 100, 8), _normal(1, 90, 8)
    np.testing.assert_allclose(
      latent.mmd(x, y, block_size=7),
      latent.mmd(x, y, block_size=512),
      atol=1e-6,  # float32: another order of the sums
    )

  def test_is_symmetric(self):
    x, y = _normal(0, 50, 4), 1.0 + _normal(1, 40, 4)
    np.testing.assert_allclose(
      latent.mmd(x, y),
      latent.mmd(y, x),
      atol=1e-6,  # float32
    )

  def test_an_offset_of_both_sets_changes_nothing(self):
    # Integers, so that the shifted sets are exact in float32.
    rng = np.random.default_rng(0)
    x, y = rng.integers(-3, 4, size=(2, 40, 4)).astype(np.float32)
    np.testing.assert_allclose(
      latent.mmd(x + 1e4, y + 1e4), latent.mmd(x, y), atol=1e-5
    )

  def test_is_unbiased_on_one_distribution(self):
    draws = [
      float(latent.mmd(_normal(seed, 50, 3), _normal(100 + seed, 50, 3)))
      for seed in range(60)
    ]
    error = np.std(draws) / np.sqrt(len(draws))
    self.assertLess(abs(np.mean(draws)), 3 * error)  # three standard errors
    self.assertLess(min(draws), 0.0)

  def test_grows_with_the_shift(self):
    x, y = _normal(0, 200, 4), _normal(1, 200, 4)
    shifts = (0.0, 0.5, 2.0, 50.0)
    values = [float(latent.mmd(x, y + shift)) for shift in shifts]
    self.assertSequenceEqual(values, sorted(values))
    self.assertLessEqual(values[-1], 2.0)

  def test_a_single_latent_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'at least 2'):
      latent.mmd(_normal(0, 1, 3), _normal(1, 5, 3))

  def test_scales_that_are_not_positive_are_refused(self):
    with self.assertRaisesRegex(ValueError, r'scales=\(1.0, 0.0\)'):
      latent.mmd(_normal(0, 5, 3), _normal(1, 5, 3), scales=(1.0, 0.0))

  def test_sets_of_different_dimension_are_refused(self):
    with self.assertRaises(AssertionError):
      latent.mmd(_normal(0, 5, 3), _normal(1, 5, 4))


class SlicedWassersteinTest(_RankPromotionTest):
  def _distance(self, x, y, num_projections=64):
    return self.variant(
      functools.partial(
        latent.sliced_wasserstein, num_projections=num_projections
      )
    )(x, y, jax.random.key(0))

  @chex.variants(with_jit=True, without_jit=True)
  def test_a_shift_on_the_line_costs_its_length(self):
    x = _normal(0, 30, 1)
    np.testing.assert_allclose(self._distance(x, x + 2.5), 2.5, rtol=1e-5)

  @chex.variants(with_jit=True, without_jit=True)
  def test_a_shift_costs_its_length_over_the_root_of_the_dimension(self):
    x = _normal(0, 30, 4)
    shift = np.array([[3.0, 0.0, -4.0, 0.0]], np.float32)
    actual = self._distance(x, x + shift, num_projections=4000)
    # E cos^2 = 1/D; a mean of 4000 values has a relative std of 0.01, its root
    # half of it: three of these.
    np.testing.assert_allclose(actual, 5.0 / 2.0, rtol=0.03)

  @chex.variants(with_jit=True, without_jit=True)
  @parameterized.named_parameters(
    ('equal', 12, 12), ('multiple', 6, 18), ('coprime', 7, 11)
  )
  def test_matches_a_loop_over_quantiles(self, num_x, num_y):
    x, y = _normal(0, num_x, 3), 1.5 * _normal(1, num_y, 3)
    directions = jax.random.normal(jax.random.key(0), (64, 3))
    directions = np.asarray(directions, np.float64)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    total = 0.0
    for direction in directions:
      # Repeated so that both sets have num_x * num_y points of equal mass.
      a = np.sort(np.repeat(x @ direction, num_y))
      b = np.sort(np.repeat(y @ direction, num_x))
      total += np.mean((a - b) ** 2)
    expected = np.sqrt(total / len(directions))
    np.testing.assert_allclose(self._distance(x, y), expected, rtol=1e-5)

  @chex.variants(with_jit=True)
  def test_gaussians_on_the_line_compare_moments(self):
    # W_2^2 = (m1 - m2)^2 + (s1 - s2)^2, on midpoint quantiles of both.
    quantiles = scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    x = quantiles[:, None].astype(np.float32)
    actual = self._distance(x, 3.0 * x + 1.0, num_projections=1)
    # The tails beyond the outermost midpoints are missing: about 1e-4.
    np.testing.assert_allclose(actual, np.sqrt(1.0 + 4.0), rtol=3e-4)

  @chex.variants(with_jit=True)
  def test_order_does_not_matter(self):
    x, y = _normal(0, 30, 4), _normal(1, 20, 4)
    np.testing.assert_array_equal(
      self._distance(x, y), self._distance(x[::-1].copy(), y)
    )
    np.testing.assert_array_equal(self._distance(x, x[::-1].copy()), 0.0)

  @chex.variants(without_jit=True)
  def test_sets_of_different_dimension_are_refused(self):
    with self.assertRaises(AssertionError):
      self._distance(_normal(0, 5, 3), _normal(1, 5, 4))


class ActiveUnitsTest(_RankPromotionTest):
  @chex.all_variants(with_pmap=False)
  def test_counts_the_variances_above_the_threshold(self):
    signs = np.array([[1.0], [-1.0]], np.float32)
    means = signs * np.array([[1.0, 0.11, 0.09, 0.0]], np.float32) + 50.0
    self.assertEqual(self.variant(latent.active_units)(means), 2)
    stricter = functools.partial(latent.active_units, threshold=0.5)
    self.assertEqual(self.variant(stricter)(means), 1)

  def test_noise_of_estimated_means_is_no_dependence_on_the_image(self):
    # 4 draws of N(0, 1) posteriors, of which only the first latent moves
    moves = np.array([1.0, 0.0, 0.0], np.float32)
    own = moves * np.asarray(_normal(1, 4000, 3))
    draws = own[:, None] + np.asarray(_normal(0, 16_000, 3)).reshape(-1, 4, 3)
    means = np.mean(draws, axis=1)
    self.assertEqual(latent.active_units(means), 3)
    noise = np.var(draws, axis=1, ddof=1) / 4
    # a fourth of the variance 1 +- 0.006 * 2
    count = latent.active_units(means, noise, threshold=0.03)
    self.assertEqual(count, 1)

  def test_is_a_whole_scalar(self):
    count = latent.active_units(_normal(0, 10, 3))
    chex.assert_shape(count, ())
    self.assertEqual(count, 3)


class MissedShareTest(parameterized.TestCase):
  def _draws(self, seed, num, shares, dim=16):
    """Draws of a mixture of ten narrow Gaussians, far from each other."""
    means = 3.0 * np.random.default_rng(0).normal(size=(10, dim))
    rng = np.random.default_rng(seed)
    chosen = rng.choice(10, p=np.divide(shares, np.sum(shares)), size=num)
    return means[chosen] + 0.3 * rng.normal(size=(num, dim))

  @parameterized.parameters(2, 16)
  def test_sets_of_one_distribution_miss_nothing(self, dim):
    even = np.ones(10)
    share = latent.missed_share(
      self._draws(1, 10_000, even, dim), self._draws(2, 10_000, even, dim)
    )
    self.assertLess(share, 0.01)  # at most one of 50 cells by chance

  @parameterized.parameters(0.0, 0.3)
  def test_a_mode_below_half_of_its_mass_is_missed(self, left):
    shares = np.ones(10)
    shares[[3, 7]] = left
    share = latent.missed_share(
      self._draws(1, 10_000, np.ones(10)), self._draws(2, 10_000, shares)
    )
    self.assertBetween(share, 0.17, 0.23)  # two modes of ten

  def test_a_mode_above_half_of_its_mass_is_not(self):
    shares = np.ones(10)
    shares[3] = 0.8
    share = latent.missed_share(
      self._draws(1, 10_000, np.ones(10)), self._draws(2, 10_000, shares)
    )
    self.assertLess(share, 0.01)

  def test_units_of_a_latent_do_not_matter(self):
    shares = np.ones(10)
    shares[3] = 0.0
    sets = self._draws(1, 5000, np.ones(10)), self._draws(2, 5000, shares)
    unit = np.ones(16)
    unit[0], unit[1] = 1e4, 0.0  # and one that is constant
    share = latent.missed_share(*sets)
    scaled = latent.missed_share(*(each * unit for each in sets))
    np.testing.assert_allclose(scaled, share, atol=0.02)

  def test_a_few_points_are_one_cell(self):
    z = np.random.default_rng(0).normal(size=(20, 3))
    self.assertEqual(latent.missed_share(z, z[:2]), 0.0)


if __name__ == '__main__':
  absltest.main()
