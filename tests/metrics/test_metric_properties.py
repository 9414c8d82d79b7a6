"""Properties of ldc_vae.metrics, for many shapes and extreme values.

NaN goes in, NaN comes out: a number that is not known must not look like one.
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
from hypothesis import strategies as st
import jax
import numpy as np

from ldc_vae.metrics import frechet
from ldc_vae.metrics import latent
from tests import property_case

_arrays = property_case.arrays
_given = property_case.given
_with_nan = property_case.with_nan


class FrechetTest(parameterized.TestCase):
  @_given(_arrays((5, 3)), _arrays((4, 3)))
  def test_is_a_distance_of_sets(self, x, y):
    distance = frechet.frechet_distance(x, y)
    self.assertGreaterEqual(distance, 0.0)
    self.assertAlmostEqual(frechet.frechet_distance(y, x), distance, delta=1e-6)
    self.assertAlmostEqual(
      frechet.frechet_distance(x[::-1], y[::-1]), distance, delta=1e-6
    )
    # the square root of a rounded 0 in a covariance of 16 is of 1e-7
    self.assertAlmostEqual(frechet.frechet_distance(x, x), 0.0, delta=1e-5)
    moved = frechet.frechet_distance(x, x.astype(np.float64) + 2.0)
    self.assertAlmostEqual(moved, 3 * 4.0, delta=1e-5)

  @_given(_arrays(3), _arrays(3))
  def test_of_two_points_is_their_squared_distance(self, x, y):
    distance = frechet.frechet_distance(np.tile(x, (4, 1)), np.tile(y, (4, 1)))
    expected = np.sum(np.square(x.astype(np.float64) - y))
    self.assertAlmostEqual(distance, expected, delta=1e-6)

  @parameterized.parameters(np.nan, np.inf, -np.inf)
  def test_refuses_what_is_not_finite(self, value):
    x = np.zeros((5, 3))
    bad = x.copy()
    bad[2, 1] = value
    for pair in ((x, bad), (bad, x)):
      with self.assertRaisesRegex(ValueError, '1 of 15 features are not fin'):
        frechet.frechet_distance(*pair)

  def test_refuses_one_vector(self):
    with self.assertRaisesRegex(ValueError, 'no covariance; give at least 2'):
      frechet.frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


class LatentTest(parameterized.TestCase):
  @_given(_arrays((5, 3)), _arrays((4, 3)))
  def test_mmd_is_a_distance_of_sets(self, x, y):
    value = float(latent.mmd(x, y))
    self.assertLessEqual(value, 2.0 + 1e-5)
    for other in (
      latent.mmd(y, x),
      latent.mmd(x[::-1], y[::-1]),
      latent.mmd(x + 8, y + 8),
    ):
      self.assertAlmostEqual(float(other), value, delta=1e-4)
    for bad in ((_with_nan(x), y), (x, _with_nan(y))):
      self.assertTrue(np.isnan(latent.mmd(*bad)))

  def test_mmd_of_coincident_sets(self):
    x = np.ones((4, 3), np.float32)
    self.assertAlmostEqual(float(latent.mmd(x, x)), 0.0, delta=1e-6)
    far = float(latent.mmd(x, x + 1e6))
    self.assertAlmostEqual(far, 2.0, delta=1e-5)

  _sliced_wasserstein = staticmethod(
    jax.jit(functools.partial(latent.sliced_wasserstein, num_projections=8))
  )

  @_given(_arrays((5, 3)), _arrays((4, 3)))
  def test_sliced_wasserstein_is_a_distance_of_sets(self, x, y):
    key = jax.random.key(0)
    distance = lambda x, y: float(self._sliced_wasserstein(x, y, key))
    value = distance(x, y)
    self.assertGreaterEqual(value, 0.0)
    self.assertAlmostEqual(distance(y, x), value, delta=1e-4)
    self.assertAlmostEqual(distance(x[::-1], y), value, delta=1e-4)
    self.assertAlmostEqual(distance(3 * x, 3 * y), 3 * value, delta=1e-3)
    self.assertAlmostEqual(distance(x, x[::-1]), 0.0, delta=1e-5)
    for bad in ((_with_nan(x), y), (x, _with_nan(y))):
      self.assertTrue(np.isnan(distance(*bad)))

  @_given(st.integers(0, 3), st.floats(-1e3, 1e3, width=32))
  def test_active_units_count_what_moves(self, count, offset):
    means = np.full((6, 3), offset, np.float32)
    means[::2, :count] += 1.0
    self.assertEqual(float(latent.active_units(means)), count)
    self.assertTrue(np.isnan(latent.active_units(_with_nan(means))))
    means[0, 0] = np.inf
    self.assertTrue(np.isnan(latent.active_units(means)))


if __name__ == '__main__':
  absltest.main()
