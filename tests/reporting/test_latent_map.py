"""Tests of ldc_vae.reporting.latent_map."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.reporting import latent_map
from tests.reporting import picture_case as case


class LatentMapTest(case.PictureTestCase):
  def _points(self, num: int, dim: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
      'prior': rng.normal(size=(num, dim)),
      'aggregate': 2.0 * rng.normal(size=(num, dim)),
      'generator': 2.0 * rng.normal(size=(num, dim)),
    }

  @parameterized.named_parameters(
    ('one_dimension', 200, 1, False),
    ('two_dimensions', 200, 2, True),
    ('many_dimensions', 300, 16, True),
    ('few_points', 5, 3, True),
    ('one_point', 1, 4, True),
  )
  def test_is_drawn_whole(self, num, dim, with_labels):
    labels = {'aggregate': np.arange(num) % 10} if with_labels else None
    path = latent_map.latent_map(
      self._points(num, dim), self.path, labels=labels, title='Latents'
    )
    self.assert_whole_png(path)
    self.assert_nothing_clipped(path)

  @parameterized.named_parameters(('classes', 10), ('too_many_classes', 40))
  def test_class_colours(self, num_classes):
    points = {'aggregate': self._points(400, 2)['aggregate']}
    labels = {'aggregate': np.arange(400) % num_classes}
    path = latent_map.latent_map(points, self.path, labels=labels, title='L')
    indigo = np.all(case.pixels(path) == (0x33, 0x22, 0x88), axis=-1)
    self.assertEqual(indigo.any(), num_classes == 10)

  def test_collapsed_latents_are_drawn(self):
    points = self._points(200, 3) | {'aggregate': np.zeros((200, 3))}
    latent_map.latent_map(points, self.path, title='L')
    self.assert_whole_png(self.path)

  def test_projection_is_fitted_on_the_aggregate(self):
    rng = np.random.default_rng(0)
    scales = np.array([0.1, 3.0, 1.0])
    mean, basis, explained = latent_map.principal_axes(
      rng.normal(size=(20_000, 3)) * scales + 5.0
    )
    # Monte Carlo: 20,000 points give means to 3/sqrt(20000) = 0.02 and shares
    # to a relative sqrt(2/20000) = 0.01.
    np.testing.assert_allclose(mean, 5.0, atol=0.1)
    np.testing.assert_allclose(np.abs(basis[1, 0]), 1.0, atol=1e-2)
    np.testing.assert_allclose(np.abs(basis[2, 1]), 1.0, atol=1e-2)
    shares = np.square(scales) / np.sum(np.square(scales))
    np.testing.assert_allclose(explained, shares[[1, 2]], rtol=0.05)

  def test_projection_does_not_depend_on_the_order_of_points(self):
    x = np.random.default_rng(0).normal(size=(50, 4))
    _, basis, _ = latent_map.principal_axes(x)
    _, again, _ = latent_map.principal_axes(x[::-1])
    np.testing.assert_allclose(basis, again, atol=1e-9)  # float64, 50 terms

  def test_outline_encloses_its_share_of_points(self):
    # The 90 % region of N(0, I_2) is the disc of radius sqrt(2 log 10).
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    low, high = np.full(2, -5.0), np.full(2, 5.0)
    xs, ys, density, levels = latent_map.density_contours(x, low, high)
    inside = density >= levels[0]
    area = inside.sum() * (xs[1] - xs[0]) * (ys[1] - ys[0])
    # Scott's kernel widens the density by n^(-1/6) = 0.19: 3.7 % in variance.
    self.assertAlmostEqual(area / (2 * np.pi * np.log(10)), 1.04, delta=0.06)

  def test_far_outlier_does_not_shrink_the_map(self):
    x = np.random.default_rng(0).normal(size=(1000, 2))
    x[0] = 1e6
    low, high = latent_map.shared_limits({'aggregate': x})
    self.assertLess(np.max(high - low), 20.0)

  def test_refuses_labels_of_other_length(self):
    with self.assertRaises(AssertionError):
      latent_map.latent_map(
        {'aggregate': np.zeros((3, 2))},
        self.path,
        labels={'aggregate': np.zeros(2, int)},
        title='L',
      )


if __name__ == '__main__':
  absltest.main()
