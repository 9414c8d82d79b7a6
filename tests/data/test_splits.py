"""Tests of ldc_vae.data.splits."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.data import splits


class PermutationTest(absltest.TestCase):
  def test_is_fixed_by_the_seed(self):
    # Every cached array is in this order: NumPy 2.1's default_rng(0).
    np.testing.assert_array_equal(
      splits.permutation(10, 0), [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]
    )
    self.assertFalse(
      np.array_equal(splits.permutation(10, 1), splits.permutation(10, 0))
    )


class CutTest(parameterized.TestCase):
  @parameterized.parameters((2, 3), (1, 1), (5, 5), (0, 0))
  def test_parts_follow_each_other(self, num_validation, num_test):
    array = np.arange(20).reshape(10, 2)
    cut = splits.cut(array, num_validation, num_test)
    self.assertEqual(list(cut), ['train', 'validation', 'test'])
    self.assertLen(cut['validation'], num_validation)
    self.assertLen(cut['test'], num_test)
    np.testing.assert_array_equal(np.concatenate(list(cut.values())), array)

  def test_parts_are_views(self):
    # A memory-mapped array stays on disk.
    array = np.arange(10)
    for part in splits.cut(array, 2, 3).values():
      self.assertTrue(np.shares_memory(part, array))


class OrderTest(parameterized.TestCase):
  def test_one_part_is_permuted(self):
    np.testing.assert_array_equal(
      splits.order(np.array([9, 0, 0]), 3), splits.permutation(9, 3)
    )

  def test_parts_are_permuted_in_their_places(self):
    order = splits.order(np.array([50, 0, 30]), 0)
    self.assertCountEqual(order[:50], range(50))
    self.assertCountEqual(order[50:], range(50, 80))
    self.assertFalse(np.array_equal(order[:50], np.arange(50)))
    self.assertFalse(np.array_equal(order[50:], np.arange(50, 80)))


if __name__ == '__main__':
  absltest.main()
