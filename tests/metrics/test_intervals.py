"""Tests for standard deviations over seeds and of paired differences."""

import math

from absl.testing import absltest
import numpy as np
from scipy import stats

from ldc_vae.metrics import intervals

# Hours of extra sleep by two drugs on ten patients, Student (1908), Table I.
_FIRST = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
_SECOND = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


class ErrorTest(absltest.TestCase):
  def test_standard_error_of_three(self):
    # deviations -1, 0, 1: variance 1, standard error 1 / sqrt(3)
    self.assertAlmostEqual(intervals.standard_deviation([1.0, 2.0, 3.0]), 1.0)
    self.assertAlmostEqual(
      intervals.standard_error([1.0, 2.0, 3.0]), 1.0 / math.sqrt(3.0)
    )

  def test_one_value_has_no_spread(self):
    self.assertEqual(intervals.mean([1.5]), 1.5)
    self.assertIsNone(intervals.standard_deviation([1.5]))
    self.assertIsNone(intervals.standard_error([1.5]))

  def test_no_value_has_no_mean(self):
    self.assertIsNone(intervals.mean([]))


class PairedDifferenceTest(absltest.TestCase):
  def test_is_that_of_the_paper(self):
    difference = intervals.paired_difference(
      dict(enumerate(_SECOND)), dict(enumerate(_FIRST)), 0.95
    )
    # R: t.test(second, first, paired = TRUE), whose data set `sleep` this is
    self.assertAlmostEqual(difference.mean, 1.58)
    self.assertAlmostEqual(difference.low, 0.7001142, places=6)
    self.assertAlmostEqual(difference.high, 2.4598858, places=6)
    self.assertEqual(difference.num_pairs, 10)

  def test_three_seeds_by_hand(self):
    difference = intervals.paired_difference(
      {0: 2.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0}, 0.95
    )
    # differences 1, 2, 3; t = 4.302653 with 2 degrees of freedom (tables)
    half = 4.302653 / math.sqrt(3.0)
    self.assertAlmostEqual(difference.low, 2.0 - half, places=6)
    self.assertAlmostEqual(difference.high, 2.0 + half, places=6)

  def test_agrees_with_scipy(self):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5))
    difference = intervals.paired_difference(
      dict(enumerate(a)), dict(enumerate(b)), 0.9
    )
    low, high = stats.ttest_rel(a, b).confidence_interval(0.9)
    np.testing.assert_allclose(  # float64, 5 terms
      [difference.low, difference.high], [low, high], rtol=1e-12
    )

  def test_only_common_seeds_count_in_any_order(self):
    difference = intervals.paired_difference(
      {2: 5.0, 0: 1.0, 7: 100.0}, {0: 0.0, 2: 3.0, 1: -100.0}, 0.95
    )
    self.assertEqual(difference.num_pairs, 2)
    self.assertEqual(difference.mean, 1.5)

  def test_one_pair_has_no_interval(self):
    difference = intervals.paired_difference({0: 2.0}, {0: 1.0, 1: 5.0}, 0.95)
    self.assertEqual(difference, intervals.Difference(1.0, None, None, 1))

  def test_no_pair_has_no_difference(self):
    self.assertIsNone(intervals.paired_difference({0: 2.0}, {1: 1.0}, 0.95))


if __name__ == '__main__':
  absltest.main()
