"""Tests of ldc_vae.metrics.frechet."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import scipy.linalg

from ldc_vae.metrics import frechet


def _random_covariance(seed: int, dim: int, rank: int) -> np.ndarray:
  """A covariance [dim, dim] of the given rank."""
  factor = np.random.default_rng(seed).normal(size=(dim, rank))
  return factor @ factor.T


class FrechetFromMomentsTest(parameterized.TestCase):
  def test_equal_moments_are_at_distance_zero(self):
    mean, cov = np.ones(6), _random_covariance(0, 6, 6)
    actual = frechet.frechet_from_moments(mean, cov, mean, cov)
    # float64: 1e-16 times traces of about 40
    self.assertLess(actual, 1e-13)

  def test_a_shift_costs_its_squared_length(self):
    cov, shift = _random_covariance(0, 4, 4), np.array([1.0, -2.0, 0.0, 0.5])
    actual = frechet.frechet_from_moments(np.zeros(4), cov, shift, cov)
    np.testing.assert_allclose(actual, 5.25, rtol=1e-13)  # float64

  def test_diagonal_covariances_compare_their_stds(self):
    std1, std2 = np.array([1.0, 2.0, 0.0]), np.array([3.0, 0.5, 1.0])
    actual = frechet.frechet_from_moments(
      np.zeros(3), np.diag(std1**2), np.zeros(3), np.diag(std2**2)
    )
    np.testing.assert_allclose(actual, 4.0 + 2.25 + 1.0, rtol=1e-13)

  @parameterized.named_parameters(('one', 1), ('few', 5), ('many', 32))
  def test_matches_the_matrix_square_root_of_the_product(self, dim):
    rng = np.random.default_rng(dim)
    mean1, mean2 = rng.normal(size=(2, dim))
    cov1 = _random_covariance(1, dim, 2 * dim)
    cov2 = _random_covariance(2, dim, 2 * dim)
    root = scipy.linalg.sqrtm(cov1 @ cov2)
    expected = np.sum((mean1 - mean2) ** 2) + np.trace(
      cov1 + cov2 - 2 * np.real(root)
    )
    actual = frechet.frechet_from_moments(mean1, cov1, mean2, cov2)
    # float64; sqrtm of the unsymmetric product loses the square root of eps
    np.testing.assert_allclose(actual, expected, rtol=1e-8)

  def test_commuting_singular_covariances_have_a_closed_form(self):
    # Projections on a plane and on a line of it, rotated out of the axes:
    # tr S1 + tr S2 - 2 tr (S1 S2)^{1/2} = 2 + 1 - 2.
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))
    plane = basis[:, :2] @ basis[:, :2].T
    line = basis[:, :1] @ basis[:, :1].T
    actual = frechet.frechet_from_moments(np.zeros(5), plane, np.zeros(5), line)
    # The square root of rounded zeros: sqrt(1e-16), not 1e-16.
    np.testing.assert_allclose(actual, 1.0, atol=1e-7)

  def test_orthogonal_ranges_share_nothing(self):
    cov1, cov2 = np.diag([2.0, 0.0]), np.diag([0.0, 3.0])
    actual = frechet.frechet_from_moments(np.zeros(2), cov1, np.zeros(2), cov2)
    np.testing.assert_allclose(actual, 5.0, rtol=1e-13)

  def test_is_symmetric(self):
    rng = np.random.default_rng(0)
    mean1, mean2 = rng.normal(size=(2, 7))
    cov1, cov2 = _random_covariance(3, 7, 7), _random_covariance(4, 7, 3)
    np.testing.assert_allclose(
      frechet.frechet_from_moments(mean1, cov1, mean2, cov2),
      frechet.frechet_from_moments(mean2, cov2, mean1, cov1),
      rtol=1e-10,  # float64, a singular value decomposition
    )

  def test_its_root_obeys_the_triangle_inequality(self):
    covs = [_random_covariance(seed, 4, 4) for seed in range(3)]
    zero = np.zeros(4)
    sides = [
      np.sqrt(frechet.frechet_from_moments(zero, covs[i], zero, covs[j]))
      for i, j in ((0, 1), (1, 2), (0, 2))
    ]
    self.assertLess(sides[2], sides[0] + sides[1])

  def test_unequal_shapes_are_refused(self):
    with self.assertRaises(AssertionError):
      frechet.frechet_from_moments(
        np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)
      )


class FrechetDistanceTest(parameterized.TestCase):
  def test_a_set_is_at_distance_zero_of_itself(self):
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    self.assertLess(frechet.frechet_distance(x, x), 1e-13)

  def test_a_shifted_set_is_at_its_squared_shift(self):
    x = np.random.default_rng(0).normal(size=(50, 8))
    actual = frechet.frechet_distance(x, x + 3.0)
    np.testing.assert_allclose(actual, 9.0 * 8, rtol=1e-12)

  def test_a_scaled_set_is_at_its_change_of_std(self):
    # S2 = s^2 S1 commute: (s - 1)^2 tr S1 + (s - 1)^2 |m1|^2.
    x = np.random.default_rng(0).normal(size=(50, 8)) + 1.0
    mean, cov = frechet.moments(x)
    expected = 0.25 * (np.trace(cov) + mean @ mean)
    actual = frechet.frechet_distance(x, 1.5 * x)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)

  def test_fewer_vectors_than_features_are_fine(self):
    x, y = np.random.default_rng(0).normal(size=(2, 5, 30))
    actual = frechet.frechet_distance(x, y)
    self.assertTrue(np.isfinite(actual))
    # ... the distance of the same points in their own 9-dimensional span
    basis, _ = np.linalg.qr(np.concatenate([x, y]).T)
    np.testing.assert_allclose(
      actual, frechet.frechet_distance(x @ basis, y @ basis), rtol=1e-6
    )

  def test_a_rotation_of_both_sets_changes_nothing(self):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 6)), 2.0 + rng.normal(size=(30, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    np.testing.assert_allclose(
      frechet.frechet_distance(x @ rotation, y @ rotation),
      frechet.frechet_distance(x, y),
      rtol=1e-10,
    )

  @parameterized.parameters(np.nan, np.inf)
  def test_features_that_are_not_finite_are_refused(self, value):
    x = np.zeros((4, 3))
    x[1, 2] = value
    with self.assertRaisesRegex(ValueError, '1 of 12 features are not finite'):
      frechet.frechet_distance(np.zeros((4, 3)), x)

  def test_one_vector_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'at least 2'):
      frechet.frechet_distance(np.zeros((1, 3)), np.zeros((4, 3)))

  def test_moments_are_numpys(self):
    x = np.random.default_rng(0).normal(size=(20, 4)) + 100.0
    mean, cov = frechet.moments(x)
    np.testing.assert_allclose(mean, np.mean(x, axis=0), rtol=1e-14)
    np.testing.assert_allclose(cov, np.cov(x, rowvar=False), rtol=1e-12)


class ComponentsTest(parameterized.TestCase):
  @parameterized.named_parameters(('tall', 60, 9), ('wide', 12, 40))
  def test_match_the_singular_vectors(self, num, dim):
    x = np.random.default_rng(0).normal(size=(num, dim))
    mean, components = frechet.fit_components(x, 4)
    _, _, expected = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-12)
    overlap = np.abs(np.sum(components * expected[:4], axis=1))  # sign is free
    np.testing.assert_allclose(overlap, 1.0, rtol=1e-10)

  @parameterized.named_parameters(('tall', 60, 9), ('wide', 12, 40))
  def test_coordinates_are_uncorrelated_and_sorted(self, num, dim):
    x = np.random.default_rng(0).normal(size=(num, dim))
    _, cov = frechet.moments(frechet.project(x, *frechet.fit_components(x, 5)))
    np.testing.assert_allclose(cov, np.diag(np.diag(cov)), atol=1e-12)
    self.assertTrue(np.all(np.diff(np.diag(cov)) < 0))

  def test_all_components_keep_all_distances(self):
    x, y = np.random.default_rng(0).normal(size=(2, 30, 6))
    mean, components = frechet.fit_components(y, 64)
    self.assertEqual(components.shape, (6, 6))
    np.testing.assert_allclose(
      frechet.frechet_distance(
        frechet.project(x, mean, components),
        frechet.project(y, mean, components),
      ),
      frechet.frechet_distance(x, y),
      rtol=1e-10,
    )

  def test_constant_pixels_leave_orthonormal_components(self):
    x = np.zeros((6, 20))
    x[:, 0] = np.arange(6)
    _, components = frechet.fit_components(x, 3)
    np.testing.assert_allclose(components @ components.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(abs(components[0, 0]), 1.0, rtol=1e-12)

  def test_large_images_are_fitted_on_evenly_spaced_rows(self):
    x = np.random.default_rng(0).normal(size=(9, 5))
    with absltest.mock.patch.object(frechet, '_MAX_SIZE', 3):
      mean, components = frechet.fit_components(x, 4)
    np.testing.assert_allclose(mean, x[[0, 4, 8]].mean(axis=0), rtol=1e-12)
    self.assertEqual(components.shape, (2, 5))

  def test_bytes_are_taken_as_numbers(self):
    x = np.random.default_rng(0).integers(0, 256, (20, 6), dtype=np.uint8)
    mean, components = frechet.fit_components(x, 3)
    expected = (x.astype(np.float64) - x.mean(axis=0)) @ components.T
    actual = frechet.project(x, mean, components)
    np.testing.assert_allclose(actual, expected, atol=1e-10)

  def test_images_of_another_size_are_refused(self):
    mean, components = frechet.fit_components(np.eye(4), 2)
    with self.assertRaises(AssertionError):
      frechet.project(np.zeros((3, 5)), mean, components)


if __name__ == '__main__':
  absltest.main()
