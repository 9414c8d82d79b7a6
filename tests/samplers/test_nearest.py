"""Tests of ldc_vae.samplers.nearest."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.samplers import nearest
from tests.samplers import latent_case


class FitTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.3, 2.0)
  def test_draws_are_so_far_from_a_latent(self, noise):
    # a grid whose whitened neighbours are all equally far apart
    line = np.arange(30.0)
    z = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    sample_fn = nearest.fit(z, seed=0, noise=noise)
    rows = np.random.default_rng(5).integers(len(z), size=4000)
    moves = sample_fn(4000, 5) - z[rows]
    root_mean_square = np.sqrt(np.mean(np.sum(moves**2, axis=1)))
    # 8,000 squared normal numbers: an error of 0.8 %; four of it
    np.testing.assert_allclose(root_mean_square, noise, rtol=0.03, atol=1e-5)

  @parameterized.parameters(-0.1, float('nan'))
  def test_no_share_is_refused(self, noise):
    with self.assertRaisesRegex(ValueError, f'noise={noise} is not a fraction'):
      nearest.fit(latent_case.two_clusters(10), seed=0, noise=noise)


class MedianDistanceTest(parameterized.TestCase):
  def test_matches_a_loop(self):
    points = np.random.default_rng(0).normal(size=(9, 3))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    expected = np.median(distances.min(axis=1)[:5])
    actual = nearest.median_distance(points[:5], points)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)

  def test_copies_have_no_distance(self):
    self.assertEqual(
      nearest.median_distance(np.ones((4, 2)), np.ones((4, 2))), 0.0
    )


if __name__ == '__main__':
  absltest.main()
