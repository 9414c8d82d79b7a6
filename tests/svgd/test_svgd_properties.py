"""Properties of ldc_vae.svgd, for many shapes and values.

NaN goes in, NaN comes out: a number that is not known must not look like one.
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import svgd
from tests import property_case

_arrays = property_case.arrays
_given = property_case.given
_sets = property_case.sets
_with_nan = property_case.with_nan

# Squares of what is moved by it have no digit left of a unit in float32.
_OFFSET = 3000.0
_KERNELS = {name: make() for name, make in svgd.KERNELS.items()}
_BANDWIDTHS = [
  jax.jit(rule) for rule in (svgd.mean_bandwidth, svgd.median_bandwidth)
]


@jax.jit
def _stein_particles(particles, targets):
  """They, and the gradient through them of the mean of |z - t|^2 / 2."""

  def loss(z):
    z = svgd.stein_particles(z, _KERNELS['rbf'], off_diagonal=True)
    return 0.5 * jnp.mean(jnp.sum(jnp.square(z - targets), axis=-1)), z

  gradient, same = jax.grad(loss, has_aux=True)(particles)
  return same, gradient


_rbf_direction = jax.jit(
  functools.partial(
    svgd.svgd_direction, kernel=_KERNELS['rbf'], off_diagonal=True
  )
)


class DirectionTest(parameterized.TestCase):
  @parameterized.product(name=list(_KERNELS), off_diagonal=(False, True))
  def test_shape_order_and_nan(self, name, off_diagonal):
    direction_fn = jax.jit(
      functools.partial(
        svgd.svgd_direction, kernel=_KERNELS[name], off_diagonal=off_diagonal
      )
    )

    @_given(_sets(least=2))
    def check(pair):
      particles, scores = pair
      phi = direction_fn(particles, scores)
      self.assertEqual((phi.shape, phi.dtype), (particles.shape, jnp.float32))
      self.assertTrue(np.isfinite(phi).all())
      turned = direction_fn(particles[::-1], scores[::-1])
      scale = 1e-5 * max(1.0, np.abs(phi).max())  # float32 sums
      np.testing.assert_allclose(turned[::-1], phi, atol=20 * scale)
      bad = direction_fn(_with_nan(particles), scores)
      self.assertTrue(np.isnan(bad).all(axis=0).any())
      self.assertTrue(np.isnan(bad).any(axis=1).all())  # of every particle
      bad = direction_fn(particles, _with_nan(scores))
      self.assertTrue(np.isnan(bad).any(axis=1).all())

    check()

  @parameterized.product(name=list(_KERNELS), dtype=(jnp.bfloat16, jnp.float16))
  def test_half_precision_keeps_its_type_and_its_digits(self, name, dtype):
    direction_fn = jax.jit(
      functools.partial(
        svgd.svgd_direction, kernel=_KERNELS[name], off_diagonal=False
      )
    )

    # apart from each other: of coinciding ones only rounding is left
    @_given(_arrays((5, 3)), st.permutations(range(5)))
    def check(scores, order):
      particles = np.linspace(-1.0, 1.0, 15).reshape(5, 3)[order]
      particles = jnp.asarray(particles, dtype)
      scores = jnp.asarray(scores, dtype)
      phi = direction_fn(particles, scores)
      self.assertEqual((phi.shape, phi.dtype), ((5, 3), dtype))
      exact = direction_fn(
        particles.astype(jnp.float32), scores.astype(jnp.float32)
      )
      scale = max(1.0, np.abs(exact).max())
      np.testing.assert_allclose(  # a sum of five rounded products
        phi.astype(jnp.float32),
        exact,
        atol=5 * float(jnp.finfo(dtype).eps) * scale,
      )

    check()

  @parameterized.product(
    name=('rbf', 'imq', 'multi_scale'), off_diagonal=(False, True)
  )
  def test_does_not_depend_on_the_origin(self, name, off_diagonal):
    direction_fn = jax.jit(
      functools.partial(
        svgd.svgd_direction, kernel=_KERNELS[name], off_diagonal=off_diagonal
      )
    )
    # quarters, of which float32 keeps every bit when they are moved
    quarters = st.integers(-16, 16).map(lambda x: x / 4)

    @_given(_arrays((5, 3), quarters), _arrays((5, 3)))
    def check(particles, scores):
      phi = direction_fn(particles, scores)
      moved = direction_fn(particles + np.float32(_OFFSET), scores)
      # the centre of moved particles is rounded to 1e-4; the bandwidth may be
      # small where most coincide
      scale = max(1.0, np.abs(phi).max())
      np.testing.assert_allclose(moved, phi, atol=2e-3 * scale)

    check()

  @parameterized.product(
    name=('rbf', 'imq', 'multi_scale'),
    rule=('mean', 'median'),
    off_diagonal=(False, True),
  )
  def test_coincident_particles_share_their_mean_score(
    self, name, rule, off_diagonal
  ):
    direction_fn = jax.jit(
      functools.partial(
        svgd.svgd_direction,
        kernel=svgd.KERNELS[name](rule),
        off_diagonal=off_diagonal,
      )
    )

    @_given(_arrays(3), _arrays((4, 3)))
    def check(point, scores):
      particles = np.tile(point, (4, 1))
      phi = direction_fn(particles, scores)
      expected = np.tile(scores.mean(axis=0), (4, 1))
      if off_diagonal:
        expected = (4 * expected - scores) / 3
      # atol: 1e-7 of rounding in the centre, over a bandwidth of 1e-8
      np.testing.assert_allclose(phi, expected, atol=1e-4, rtol=1e-4)

    check()

  @parameterized.parameters('rbf', 'imq', 'multi_scale')
  def test_a_lone_particle_climbs_its_score(self, name):
    direction_fn = jax.jit(
      functools.partial(
        svgd.svgd_direction, kernel=_KERNELS[name], off_diagonal=False
      )
    )

    @_given(_arrays((1, 3)), _arrays((1, 3)))
    def check(particle, score):
      phi = direction_fn(particle, score)
      np.testing.assert_allclose(phi, score, rtol=1e-6)

    check()
    with self.assertRaisesRegex(ValueError, 'needs 2 particles, got 1'):
      svgd.svgd_direction(
        np.zeros((1, 3), np.float32),
        np.zeros((1, 3), np.float32),
        _KERNELS[name],
        off_diagonal=True,
      )

  @_given(_sets(least=2), st.sampled_from([0.25, 3.0]))
  def test_bandwidth_is_of_the_square_of_the_unit(self, pair, factor):
    for rule in _BANDWIDTHS:
      h = float(rule(pair[0]))
      self.assertGreaterEqual(h, svgd.BANDWIDTH_FLOOR * 0.999)
      if h > 1e-3:  # well above the floor
        scaled = float(rule(np.float32(factor) * pair[0]))
        self.assertAlmostEqual(scaled / (factor**2 * h), 1.0, delta=1e-3)
      self.assertTrue(np.isnan(rule(_with_nan(pair[0]))))

  @_given(_sets(least=2))
  def test_stein_particles_change_the_gradient_only(self, pair):
    particles, targets = pair
    same, gradient = _stein_particles(particles, targets)
    np.testing.assert_array_equal(same, particles)
    phi = np.asarray(_rbf_direction(particles, targets - particles))
    scale = max(1.0, np.abs(phi).max())
    np.testing.assert_allclose(
      gradient, -phi / len(particles), atol=1e-5 * scale
    )
    _, bad = _stein_particles(_with_nan(particles), targets)
    self.assertTrue(np.isnan(bad).any(axis=1).all())


class FlowTest(parameterized.TestCase):
  _flow = staticmethod(
    jax.jit(functools.partial(svgd.smoothed_flow, scales=(0.2, 1.0)))
  )

  @_given(_sets(least=2), _arrays((3, 3)))
  def test_shape_order_and_nan(self, pair, targets):
    particles, targets = pair[0], targets[:, : pair[0].shape[1]]
    flow = self._flow(particles, targets)
    self.assertEqual((flow.shape, flow.dtype), (particles.shape, jnp.float32))
    self.assertTrue(np.isfinite(flow).all())
    np.testing.assert_allclose(
      self._flow(particles[::-1], targets[::-1])[::-1], flow, atol=1e-3
    )
    for bad in (
      self._flow(_with_nan(particles), targets),
      self._flow(particles, _with_nan(targets)),
    ):
      self.assertTrue(np.isnan(bad).any(axis=1).all())

  def test_does_not_depend_on_the_origin(self):
    rng = np.random.default_rng(0)
    # eighths, of which float32 keeps every bit when they are moved
    particles, targets = np.float32(rng.integers(-16, 17, (2, 64, 3)) / 8)
    flow = self._flow(particles, targets)
    moved = self._flow(
      particles + np.float32(_OFFSET), targets + np.float32(_OFFSET)
    )
    np.testing.assert_allclose(moved, flow, atol=1e-3)

  def test_coincident_particles_move_alike(self):
    targets = np.float32([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    flow = self._flow(np.zeros((4, 2), np.float32), targets)
    self.assertTrue(np.isfinite(flow).all())
    np.testing.assert_allclose(flow, np.tile(flow[:1], (4, 1)), atol=1e-6)

  def test_a_lone_particle_is_refused(self):
    one = np.zeros((1, 3), np.float32)
    with self.assertRaisesRegex(ValueError, 'needs 2 particles, got 1'):
      svgd.smoothed_flow(one, np.ones((4, 3), np.float32), (0.2,))


if __name__ == '__main__':
  absltest.main()
