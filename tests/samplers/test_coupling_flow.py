"""Tests of ldc_vae.samplers.coupling_flow."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.samplers import coupling_flow

_SMALL = dict(_NUM_LAYERS=3, _WIDTH=8, _NUM_BLOCKS=1, _NUM_BINS=4)


def _random_params(dim):
  """Weights for [..., dim], some way from where they start."""
  init_fn = jax.jit(lambda key: coupling_flow.init(key, jnp.zeros(dim)))
  params = init_fn(jax.random.key(0))
  rng = np.random.default_rng(0)
  return jax.tree.map_with_path(
    lambda path, x: (
      x
      if 'rotation' in jax.tree_util.keystr(path)
      else x + np.asarray(0.1 * rng.normal(size=x.shape), np.float32)
    ),
    params,
  )


class SplineTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(1)
    self.free = [rng.normal(size=size).astype(np.float32) for size in (5, 5, 4)]
    self.spline = functools.partial(coupling_flow.spline, bound=2.0)
    self.x = np.linspace(-2.5, 2.5, 201, dtype=np.float32)

  def _map(self, x, inverse=False):
    function = functools.partial(self.spline, inverse=inverse)
    return jax.vmap(lambda x: function(x, *self.free))(x)

  def test_rises_from_end_to_end(self):
    y, _ = self._map(self.x)
    self.assertTrue(np.all(np.diff(y) > 0.0))
    outside = np.abs(self.x) >= 2.0
    np.testing.assert_array_equal(y[outside], self.x[outside])
    # it is a bend that is tested
    self.assertGreater(np.max(np.abs(y - self.x)), 0.1)

  def test_comes_back(self):
    y, log_derivatives = self._map(self.x)
    back, log_inverse = self._map(y, inverse=True)
    np.testing.assert_allclose(back, self.x, atol=1e-5)  # float32, slopes of 10
    np.testing.assert_allclose(log_inverse, -log_derivatives, atol=1e-4)

  def test_log_derivative_is_that_of_autodiff(self):
    value = lambda x: self.spline(x, *self.free)[0]
    expected = jnp.log(jax.vmap(jax.grad(value))(self.x))
    np.testing.assert_allclose(
      self._map(self.x)[1], expected, rtol=1e-4, atol=1e-5
    )

  def test_passes_its_knots(self):
    shares = lambda free: 0.001 + 0.995 * np.exp(free) / np.sum(np.exp(free))
    knots_x = np.cumsum(4.0 * shares(self.free[0]))[:-1] - 2.0
    knots_y = np.cumsum(4.0 * shares(self.free[1]))[:-1] - 2.0
    y, log_derivatives = self._map(knots_x.astype(np.float32))
    np.testing.assert_allclose(y, knots_y, atol=1e-5)
    shift = np.log(np.expm1(1.0 - 1e-3))
    slopes = 1e-3 + np.log1p(np.exp(self.free[2] + shift))
    np.testing.assert_allclose(np.exp(log_derivatives), slopes, rtol=1e-4)

  def test_starts_as_the_identity(self):
    free = [np.zeros(size, np.float32) for size in (5, 5, 4)]
    y, log_derivatives = jax.vmap(lambda x: self.spline(x, *free))(self.x)
    np.testing.assert_allclose(y, self.x, atol=1e-6)
    np.testing.assert_allclose(log_derivatives, 0.0, atol=1e-5)


@absltest.mock.patch.multiple(coupling_flow, **_SMALL)
class TransformTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 5)
  def test_comes_back(self, dim):
    params = _random_params(dim)
    u = np.random.default_rng(0).normal(size=(20, dim)).astype(np.float32)
    transform = jax.jit(coupling_flow.transform, static_argnames='inverse')
    noise, log_det = transform(params, u)
    self.assertGreater(np.max(np.abs(noise - u)), 0.1)
    back, log_inverse = transform(params, noise, inverse=True)
    np.testing.assert_allclose(back, u, atol=1e-4)
    np.testing.assert_allclose(log_inverse, -log_det, atol=1e-3)

  @parameterized.parameters((1, False), (2, False), (5, False), (5, True))
  def test_log_determinant_is_that_of_autodiff(self, dim, inverse):
    params = _random_params(dim)
    apply = lambda u: coupling_flow.transform(params, u, inverse)
    u = np.random.default_rng(0).normal(size=(20, dim)).astype(np.float32)
    jacobian_fn = jax.jacfwd(lambda u: apply(u)[0])
    jacobians = jax.jit(jax.vmap(jacobian_fn))(u)
    expected = np.linalg.slogdet(jacobians)[1]
    # float32, and determinants of matrices of some condition
    np.testing.assert_allclose(jax.jit(apply)(u)[1], expected, atol=1e-3)


@absltest.mock.patch.multiple(coupling_flow, **_SMALL)
class LogProbTest(parameterized.TestCase):
  def test_integrates_to_1(self):
    params = _random_params(2)
    line = np.arange(-12.0, 12.0, 0.03, dtype=np.float32)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    log_probs = jax.jit(jax.vmap(coupling_flow.log_prob, (None, 0)))(
      params, grid
    )
    # not normal
    self.assertGreater(np.std(log_probs + 0.5 * np.sum(grid**2, axis=1)), 0.2)
    total = np.sum(np.exp(np.asarray(log_probs, np.float64))) * 0.03**2
    self.assertAlmostEqual(total, 1.0, delta=2e-3)

  def test_is_that_of_a_normal_distribution_where_it_starts(self):
    u = np.array([1.0, -2.0, 0.5], np.float32)
    params = coupling_flow.init(jax.random.key(0), jnp.zeros(3))
    expected = -0.5 * np.sum(u**2 + np.log(2.0 * np.pi))
    value = coupling_flow.log_prob(params, u)
    np.testing.assert_allclose(value, expected, rtol=1e-5)

  def test_draws_are_of_the_density(self):
    # E[1 / p(u)] over draws u in a box is the box's size
    params = _random_params(2)
    draws = coupling_flow.draws.__wrapped__  # compiled with other sizes
    u = draws(params, jax.random.key(0), (20_000, 2))
    log_probs = jax.vmap(coupling_flow.log_prob, (None, 0))(params, u)
    inside = np.max(np.abs(u), axis=1) < 0.5
    size = np.sum(np.exp(-np.asarray(log_probs))[inside]) / len(u)
    # some 2,000 draws: an error of 3 %
    self.assertAlmostEqual(size, 1.0, delta=0.1)


if __name__ == '__main__':
  absltest.main()
