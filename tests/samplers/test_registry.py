"""Tests of ldc_vae.samplers.registry."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.samplers import registry

_NAMES = tuple(name.replace('_K', '_2') for name in registry.SAMPLERS)


def _two_clusters(num: int) -> np.ndarray:
  """A quarter of the latents at (-5, 0), the rest at (5, 0), stds 0.5, 1."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(num, 2)) * np.array([0.5, 1.0])
  return z + np.where(np.arange(num) % 4 == 0, -5.0, 5.0)[:, None] * [1.0, 0.0]


class FitTest(parameterized.TestCase):
  @parameterized.parameters('prior', 'gaussian', 'gmm_1', 'gmm_2', 'gmm_7')
  def test_draws_depend_on_the_seed_alone(self, name):
    z = _two_clusters(100)
    first = registry.fit(name, z, seed=1)(20, 3)
    again = registry.fit(name, z, seed=1)(20, 3)
    self.assertEqual(first.dtype, np.float32)
    self.assertEqual(first.shape, (20, 2))
    np.testing.assert_array_equal(first, again)
    self.assertFalse(np.array_equal(first, registry.fit(name, z)(20, 4)))

  @parameterized.parameters('gaussian', 'gmm_1')
  def test_draws_have_the_moments_of_the_latents(self, name):
    z = _two_clusters(400) @ np.array([[1.0, 0.5], [0.0, 0.3]])
    draws = registry.fit(name, z)(40_000, 0)
    # A mean of 40,000 draws of std 4.4 errs by 0.022; a covariance by
    # sqrt(2 / 40,000) of 19, that is 0.14: four of each.
    np.testing.assert_allclose(draws.mean(axis=0), z.mean(axis=0), atol=0.09)
    np.testing.assert_allclose(
      np.cov(draws, rowvar=False), np.cov(z, rowvar=False), atol=0.55
    )

  def test_the_prior_is_standard_whatever_the_latents(self):
    draws = registry.fit('prior', 100.0 + _two_clusters(10))(40_000, 0)
    np.testing.assert_allclose(draws.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(
      np.cov(draws, rowvar=False),
      np.eye(2),
      atol=0.03,  # four errors
    )

  def test_a_mixture_finds_clusters_and_their_mass(self):
    draws = registry.fit('gmm_2', _two_clusters(2000))(20_000, 0)
    left = draws[draws[:, 0] < 0]
    # Binomial: sqrt(0.25 * 0.75 / 20,000) = 0.003; four of it.
    self.assertAlmostEqual(len(left) / len(draws), 0.25, delta=0.0125)
    np.testing.assert_allclose(left.mean(axis=0), [-5.0, 0.0], atol=0.2)
    # 500 latents of the cluster: an error of 3 %; four of it.
    np.testing.assert_allclose(left.std(axis=0), [0.5, 1.0], rtol=0.13)

  def test_draws_of_a_mixture_are_in_random_order(self):
    draws = registry.fit('gmm_2', _two_clusters(400))(1000, 0)
    left = (draws[:, 0] < 0).astype(np.float64)
    # Each half has its share: 500 draws, std 0.02; four of it.
    self.assertAlmostEqual(left[:500].mean(), 0.25, delta=0.08)
    self.assertAlmostEqual(left[500:].mean(), 0.25, delta=0.08)

  @parameterized.parameters('gaussian', 'gmm_2')
  def test_a_constant_latent_stays_constant(self, name):
    z = np.concatenate([_two_clusters(50), np.full((50, 1), 7.0)], axis=1)
    draws = registry.fit(name, z)(100, 0)
    # Std 1e-3 at most: scikit-learn adds 1e-6 to the variance.
    np.testing.assert_allclose(draws[:, 2], 7.0, atol=5e-3)

  def test_draws_may_be_none(self):
    for name in ('prior', 'gaussian', 'gmm_2'):
      self.assertEqual(registry.fit(name, _two_clusters(9))(0, 0).shape, (0, 2))

  @parameterized.parameters(
    'gmm', 'gmm_', 'gmm_K', 'gmm_-1', 'gmm_2x', 'prior_3', 'vamp', ''
  )
  def test_an_unknown_name_lists_the_known(self, name):
    with self.assertRaisesRegex(
      ValueError,
      'known: .*, gaussian, gmm_K, langevin, .*prior, .*two_stage',
    ):
      registry.fit(name, _two_clusters(10))

  @parameterized.parameters(('gmm_11', 10), ('gmm_0', 10))
  def test_more_components_than_latents_are_refused(self, name, num):
    with self.assertRaisesRegex(ValueError, f'{name} .*between 1 and {num}'):
      registry.fit(name, _two_clusters(num))

  @parameterized.product(name=_NAMES, value=(np.nan, np.inf))
  def test_latents_that_are_not_finite_are_refused(self, name, value):
    z = _two_clusters(10)
    z[3, 1] = value
    with self.assertRaisesRegex(
      ValueError, f"1 of 10 latents are not finite, so '{name}'"
    ):
      registry.fit(name, z)

  @parameterized.parameters(((5,),), ((0, 3),), ((3, 0),), ((2, 2, 2),))
  def test_latents_of_a_wrong_shape_are_refused(self, shape):
    with self.assertRaisesRegex(ValueError, r'needs shape \[N, D\]'):
      registry.fit('prior', np.zeros(shape))

  def test_one_latent_has_no_gaussian(self):
    with self.assertRaisesRegex(ValueError, 'at least 2'):
      registry.fit('gaussian', np.zeros((1, 3)))

  def test_a_new_sampler_is_one_line(self):
    def fit_point(z, number, *, seed):
      del seed
      return lambda num, seed: np.repeat(z[number : number + 1], num, axis=0)

    z = _two_clusters(5)
    with absltest.mock.patch.dict(registry.SAMPLERS, {'point_K': fit_point}):
      draws = registry.fit('point_3', z)(2, 0)
    np.testing.assert_array_equal(draws, z[[3, 3]])


if __name__ == '__main__':
  absltest.main()
