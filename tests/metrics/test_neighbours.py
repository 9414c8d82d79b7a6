"""Tests of ldc_vae.metrics.neighbours."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from sklearn import neighbors

from ldc_vae.metrics import neighbours

_NAMES = ('precision', 'recall', 'density', 'coverage')


def _measures(real, fake, k):
  return neighbours.precision_recall_density_coverage(real, fake, k)


def _loop_reference(real, fake, k):
  """The four measures by loops over pairs."""
  distance = lambda a, b: np.sqrt(np.sum((a - b) ** 2))

  def radius(i, x):
    others = [distance(x[i], x[j]) for j in range(len(x)) if j != i]
    return sorted(others)[k - 1]

  real_radii = [radius(i, real) for i in range(len(real))]
  fake_radii = [radius(j, fake) for j in range(len(fake))]
  inside_real = np.array(
    [[distance(x, y) < r for y in fake] for x, r in zip(real, real_radii)]
  )
  inside_fake = np.array(
    [[distance(x, y) < r for y, r in zip(fake, fake_radii)] for x in real]
  )
  return {
    'precision': np.mean(inside_real.any(axis=0)),
    'recall': np.mean(inside_fake.any(axis=1)),
    'density': np.sum(inside_real) / (k * len(fake)),
    'coverage': np.mean(inside_real.any(axis=1)),
  }


class PrecisionRecallDensityCoverageTest(parameterized.TestCase):
  @parameterized.product(k=(1, 3), sizes=((20, 20), (12, 25)), block=(7, 1000))
  def test_matches_loops(self, k, sizes, block):
    rng = np.random.default_rng(0)
    real = 10.0 + rng.normal(size=(sizes[0], 3))
    fake = 10.2 + 0.8 * rng.normal(size=(sizes[1], 3))
    with mock.patch.object(neighbours, '_BLOCK_SIZE', block):
      actual = _measures(real, fake, k)
    expected = _loop_reference(real, fake, k)
    self.assertSameElements(actual, _NAMES)
    for name in _NAMES:
      self.assertAlmostEqual(actual[name], expected[name], places=12, msg=name)

  @parameterized.parameters(1, 5)
  def test_radii_are_those_of_scikit_learn(self, k):
    x = np.random.default_rng(0).normal(size=(50, 4))
    distances, _ = neighbors.NearestNeighbors(n_neighbors=k).fit(x).kneighbors()
    np.testing.assert_allclose(
      np.sqrt(neighbours._neighbour_distances(x, k)),
      distances[:, -1],
      rtol=1e-12,
    )

  def test_one_distribution_has_the_expected_density_and_coverage(self):
    # Naeem et al. (2020), section 3.3: E density = 1, and E coverage =
    # 1 - prod_{i <= k} (n - i) / (n + m - i), here 1 - 2^-k nearly.
    k, n = 3, 100
    draws = np.random.default_rng(0).normal(size=(100, 2, n, 2))
    values = [_measures(real, fake, k) for real, fake in draws]
    expected = 1.0 - np.prod([(n - i) / (2 * n - i) for i in range(1, k + 1)])
    for name, wanted in (('density', 1.0), ('coverage', expected)):
      found = [each[name] for each in values]
      error = np.std(found) / np.sqrt(len(found))
      self.assertAlmostEqual(np.mean(found), wanted, delta=3 * error, msg=name)

  def test_a_lost_mode_costs_recall_and_not_precision(self):
    rng = np.random.default_rng(0)
    modes = np.where(np.arange(400) % 2 == 0, -10.0, 10.0)[:, None]
    real = rng.normal(size=(400, 2)) + modes
    fake = rng.normal(size=(400, 2)) + 10.0
    values = _measures(real, fake, 5)
    self.assertGreater(values['precision'], 0.95)
    self.assertGreater(values['density'], 0.8)
    # exactly the half of the reals that is at the mode can be reached
    self.assertBetween(values['recall'], 0.45, 0.5)
    self.assertBetween(values['coverage'], 0.45, 0.5)

  def test_an_invented_mode_costs_precision_and_not_recall(self):
    rng = np.random.default_rng(0)
    modes = np.where(np.arange(400) % 2 == 0, -10.0, 10.0)[:, None]
    real = rng.normal(size=(400, 2)) + 10.0
    fake = rng.normal(size=(400, 2)) + modes
    values = _measures(real, fake, 5)
    self.assertBetween(values['precision'], 0.45, 0.5)
    self.assertGreater(values['recall'], 0.9)

  @parameterized.parameters(0, 5, 9)
  def test_more_neighbours_than_vectors_are_refused(self, k):
    x = np.zeros((5, 2))
    with self.assertRaisesRegex(ValueError, f'num_neighbours={k} '):
      _measures(x, np.zeros((9, 2)), k)

  def test_features_that_are_not_finite_are_refused(self):
    x = np.zeros((5, 2))
    with self.assertRaisesRegex(ValueError, '1 of 10 features'):
      _measures(x, np.where(np.arange(10).reshape(5, 2) == 3, np.nan, x), 2)


class KthSmallestTest(parameterized.TestCase):
  @parameterized.product(
    size=(8, 24, 300), k=(0, 3, 7), groups=(4, 128), levels=(3, 10**6)
  )
  def test_is_that_of_sorted_rows(self, size, k, groups, levels):
    x = np.random.default_rng(size).integers(0, levels, (30, size)) / 7.0
    with mock.patch.object(neighbours, '_NUM_GROUPS', groups):
      actual = neighbours._kth_smallest(x, k)
    np.testing.assert_array_equal(actual, np.sort(x, axis=1)[:, k])


class NearestDistancesTest(parameterized.TestCase):
  @parameterized.parameters(1, 64, 2**24)
  def test_matches_scikit_learn(self, block):
    rng = np.random.default_rng(0)
    x, reference = rng.normal(size=(20, 5)), rng.normal(size=(70, 5))
    tree = neighbors.NearestNeighbors(n_neighbors=1).fit(reference)
    expected = tree.kneighbors(x)[0][:, 0]
    with mock.patch.object(neighbours, '_BLOCK_NUMBERS', block):
      actual = neighbours.nearest_distances(x, reference)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)

  def test_a_copy_is_at_distance_0(self):
    images = np.random.default_rng(0).integers(0, 256, (50, 784), np.uint8)
    np.testing.assert_array_equal(
      neighbours.nearest_distances(images[10:20], images), 0.0
    )

  def test_is_in_units_of_the_vectors(self):
    # 3, 4, 5: the sides of a triangle
    distances = neighbours.nearest_distances(
      np.array([[3.0, 4.0], [0.0, 1.0]]), np.array([[0.0, 0.0], [9.0, 9.0]])
    )
    np.testing.assert_allclose(distances, [5.0, 1.0])

  def test_an_empty_reference_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'empty reference'):
      neighbours.nearest_distances(np.zeros((2, 3)), np.zeros((0, 3)))


if __name__ == '__main__':
  absltest.main()
