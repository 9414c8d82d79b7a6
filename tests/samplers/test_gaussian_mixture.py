"""Tests of ldc_vae.samplers.gaussian_mixture."""

import warnings

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from scipy import stats
from sklearn import mixture

from ldc_vae.samplers import gaussian_mixture
from tests.samplers import latent_case


class FitTest(parameterized.TestCase):
  def test_components_may_outnumber_different_latents(self):
    z = np.repeat(latent_case.two_clusters(3), 4, axis=0)
    draws = gaussian_mixture.fit(z, 10, seed=0)(100, 0)
    distances = np.linalg.norm(draws[:, None] - z[None], axis=2).min(axis=1)
    self.assertLess(np.max(distances), 0.1)

  def test_an_end_before_it_converged_is_reported(self):
    z = latent_case.two_clusters(500)
    with absltest.mock.patch.object(gaussian_mixture, '_MAX_ITERATIONS', 2):
      with self.assertLogs(level='WARNING') as logs:
        gaussian_mixture.fit(z, 9, seed=0)
    self.assertIn('gmm_9: EM was stopped after 2 iter', logs.output[0])
    with self.assertNoLogs(level='WARNING'):
      gaussian_mixture.fit(z, 9, seed=0)


class MaximiseTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 5)
  def test_ends_where_scikit_learn_does(self, num_components):
    u = latent_case.two_clusters(700)
    u = (u - u.mean(axis=0)) / u.std(axis=0)
    labels = np.argsort(np.argsort(u[:, 0])) * num_components // len(u)
    start = np.eye(num_components)[labels]
    theirs = mixture.GaussianMixture(
      num_components, reg_covar=1e-6, tol=1e-3, max_iter=1000
    )
    with (
      warnings.catch_warnings(),
      absltest.mock.patch.object(
        mixture.GaussianMixture,
        '_initialize_parameters',
        lambda self, x, random_state, xp=None: self._initialize(x, start),
      ),
    ):
      warnings.simplefilter('ignore')
      theirs.fit(u)
    ours, gain = gaussian_mixture.maximise(u, labels, num_components)
    self.assertLess(gain, 1e-3)
    np.testing.assert_allclose(ours.shares, theirs.weights_, rtol=1e-6)
    np.testing.assert_allclose(ours.means, theirs.means_, atol=1e-6)
    np.testing.assert_allclose(ours.covariances, theirs.covariances_, atol=1e-6)

  def test_is_the_same_in_blocks(self):
    u = latent_case.two_clusters(70) - [9.0, -5.0, 1.0]
    labels = (u[:, 0] > 0).astype(int)
    whole, _ = gaussian_mixture.maximise(u, labels, 2)
    with absltest.mock.patch.object(gaussian_mixture, '_BLOCK_ROWS', 16):
      parts, _ = gaussian_mixture.maximise(u, labels, 2)
    for actual, expected in zip(parts, whole, strict=True):
      np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)

  def test_is_the_same_bits_with_any_number_of_threads(self):
    u = latent_case.two_clusters(5000)
    labels = (u[:, 0] > 0).astype(int)
    found = []
    for num_threads in (1, 2):
      with (
        absltest.mock.patch.object(
          gaussian_mixture, '_MOST_THREADS', num_threads
        ),
        absltest.mock.patch.object(
          gaussian_mixture.jobs, 'num_cores', return_value=2
        ),
      ):
        found.append(gaussian_mixture.maximise(u, labels, 2)[0])
    for one, two in zip(*found, strict=True):
      np.testing.assert_array_equal(one, two)


class CoefficientsTest(parameterized.TestCase):
  def test_give_the_log_densities_of_scipy(self):
    own = gaussian_mixture.Mixture(
      np.array(latent_case.SHARES),
      latent_case.MEANS,
      np.einsum('kde,kdf->kef', latent_case.AXES, latent_case.AXES),
    )
    u = latent_case.two_clusters(6)
    expected = np.stack(
      [
        np.log(own.shares[k])
        + stats.multivariate_normal.logpdf(u, own.means[k], own.covariances[k])
        for k in range(2)
      ],
      axis=1,
    )
    actual = (
      gaussian_mixture._features(u) @ gaussian_mixture._coefficients(own).T
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


if __name__ == '__main__':
  absltest.main()
