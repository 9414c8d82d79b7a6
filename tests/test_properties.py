"""Properties of the pure functions, for many shapes and extreme values.

NaN goes in, NaN comes out: a number that is not known must not look like one.
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import elbo
from ldc_vae import energy
from ldc_vae import svgd
from ldc_vae.metrics import frechet
from ldc_vae.metrics import latent

# The same examples each time, and few: each new shape is compiled.
_settings = hypothesis.settings(
    derandomize=True, deadline=None, database=None, max_examples=8,
    suppress_health_check=list(hypothesis.HealthCheck),
)

# Squares of what is moved by it have no digit left of a unit in float32.
_OFFSET = 3000.0

_NUMBERS = st.floats(-4.0, 4.0, width=32)
_EXTREMES = st.sampled_from([0.0, 1e-30, 1.0, -1.0, 88.0, -88.0, 1e4, -1e4])
_IMAGE = (2, 3, 1)


def _arrays(shape, elements=_NUMBERS):
  return hnp.arrays(np.float32, shape, elements=elements)


@st.composite
def _sets(draw, least=1):
  """Particles and as many scores, [n, D] of a few shapes."""
  shapes = [x for x in ((1, 3), (2, 1), (5, 3)) if x[0] >= least]
  n, dim = draw(st.sampled_from(shapes))
  return draw(_arrays((n, dim))), draw(_arrays((n, dim)))


@st.composite
def _images(draw):
  """Logits, or means, of any size, and an image in [0, 1]."""
  image = draw(_arrays(_IMAGE, st.floats(0.0, 1.0, width=32)))
  return draw(_arrays(_IMAGE, _EXTREMES)), image


def _with_nan(x):
  x = np.array(x)
  x.flat[x.size // 2] = np.nan
  return x


def _given(*strategies):
  """`hypothesis.given` with this file's settings."""
  return lambda test: _settings(hypothesis.given(*strategies)(test))


_LIKELIHOODS = {
    'bernoulli': elbo.bernoulli_log_likelihood,
    'gaussian': functools.partial(
        elbo.gaussian_log_likelihood, log_scale=jnp.float32(-1.0)
    ),
    'logistic': functools.partial(
        elbo.discretized_logistic_log_likelihood, log_scale=jnp.float32(-3.0)
    ),
}
_LIKELIHOODS = {name: jax.jit(fn) for name, fn in _LIKELIHOODS.items()}


class LikelihoodTest(parameterized.TestCase):

  @parameterized.named_parameters(*_LIKELIHOODS.items())
  def test_is_a_finite_scalar_whatever_the_network_says(self, fn):
    grad_fn = jax.jit(jax.grad(fn))

    @_given(_images())
    def check(pair):
      value = fn(*pair)
      self.assertEqual((value.shape, value.dtype), ((), jnp.float32))
      self.assertTrue(np.isfinite(value), value)
      self.assertTrue(np.isfinite(grad_fn(*pair)).all())
    check()

  @parameterized.parameters('bernoulli', 'logistic')
  def test_a_probability_is_at_most_one(self, name):
    @_given(_images())
    def check(pair):
      self.assertLessEqual(float(_LIKELIHOODS[name](*pair)), 0.0)
    check()

  @parameterized.named_parameters(*_LIKELIHOODS.items())
  def test_the_order_of_the_pixels_does_not_matter(self, fn):
    @_given(_images(), st.permutations(range(6)))
    def check(pair, order):
      moved = [x.reshape(-1)[order].reshape(_IMAGE) for x in pair]
      # rtol: float32 sums of 6 terms, some of 1e8
      np.testing.assert_allclose(fn(*moved), fn(*pair), rtol=1e-5)
    check()

  @parameterized.named_parameters(*_LIKELIHOODS.items())
  def test_nan_stays_nan(self, fn):
    @_given(_images())
    def check(pair):
      logits, image = pair
      self.assertTrue(np.isnan(fn(_with_nan(logits), image)))
      self.assertTrue(np.isnan(fn(logits, _with_nan(image))))
    check()


class BoundTest(parameterized.TestCase):

  @_given(_arrays(3, _EXTREMES.filter(lambda x: abs(x) < 90)), _arrays(3))
  def test_kl_is_not_negative_and_finite(self, mean, logvar):
    value = elbo.gaussian_kl(mean, logvar)
    self.assertGreaterEqual(float(value), 0.0)
    self.assertTrue(np.isfinite(value))
    for args in ((_with_nan(mean), logvar), (mean, _with_nan(logvar))):
      self.assertTrue(np.isnan(elbo.gaussian_kl(*args)))

  @_given(
      st.sampled_from([1, 2, 7]).flatmap(lambda k: _arrays(k, _EXTREMES)),
      st.floats(-1e3, 1e3, width=32),
  )
  def test_importance_weights_lie_between_mean_and_largest(self, weights, by):
    bound_fn = jax.jit(elbo.importance_weighted_bound)
    bound = float(bound_fn(weights))
    slack = 1e-5 * np.max(np.abs(weights)) + 1e-5  # float32
    self.assertLessEqual(bound, np.max(weights) + slack)
    self.assertGreaterEqual(bound, np.mean(weights) - slack)
    moved = bound_fn(weights + np.float32(by))
    np.testing.assert_allclose(moved, bound + by, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(
        bound_fn(weights[::-1]), bound, rtol=1e-6, atol=1e-6
    )

  def test_one_importance_weight_is_the_bound(self):
    for value in (0.0, -745.0, 1e30):
      self.assertEqual(
          float(elbo.importance_weighted_bound(jnp.float32([value]))),
          np.float32(value),
      )

  def test_impossible_weights_give_no_number(self):
    inf = jnp.float32([-jnp.inf, -jnp.inf])
    self.assertEqual(float(elbo.importance_weighted_bound(inf)), -np.inf)
    for bad in (jnp.float32([0.0, jnp.nan]), jnp.float32([jnp.nan])):
      self.assertTrue(np.isnan(elbo.importance_weighted_bound(bad)))

  @_given(_arrays(3), _arrays(3), _arrays(2))
  def test_nan_reaches_the_bound_and_the_weights(self, mean, logvar, terms):
    for bad in range(3):
      args = [terms, mean, logvar]
      args[bad] = _with_nan(args[bad])
      self.assertTrue(np.isnan(elbo.elbo(*args)))
    self.assertTrue(
        np.isnan(elbo.log_weight(jnp.float32(0), mean, _with_nan(mean), logvar))
    )


class EnergyTest(parameterized.TestCase):

  @_given(_arrays(3, _EXTREMES), st.floats(0.125, 8.0, width=32))
  def test_gibbs_energy_is_linear_in_the_likelihood(self, z, weight):
    at = lambda x: float(energy.gibbs_energy(jnp.float32(x), z, weight))
    # atol: the energies are of 1e8 where z is of 1e4
    scale = 1.0 + abs(at(0.0))
    self.assertAlmostEqual(
        (at(-3.0) - at(0.0)) / scale, 3.0 * weight / scale, delta=1e-5
    )
    self.assertTrue(np.isnan(at(np.nan)))
    self.assertTrue(
        np.isnan(energy.gibbs_energy(jnp.float32(0), _with_nan(z), weight))
    )

  @_given(_arrays((4, 3)), _arrays(3), _arrays(3, st.floats(0.125, 8.0)))
  def test_standardising_is_undone(self, z, mean, std):
    u = energy.standardise(z, mean, std)
    back = energy.unstandardise(u, mean, std)
    np.testing.assert_allclose(back, z, atol=1e-5)  # float32 of up to 8
    bad = energy.standardise(_with_nan(z), mean, std)
    self.assertEqual(int(np.isnan(bad).sum()), 1)

  @_given(_sets(), _sets())
  def test_contrastive_loss_knows_sets_not_orders(self, one, two):
    aggregate, samples = one[0][:, :1], two[0][:, :1]
    fn = lambda x: jnp.sum(jnp.sin(x))
    loss = jax.jit(lambda a, s: energy.contrastive_loss(fn, a, s, 0.5))
    value, terms = loss(aggregate, samples)
    turned, _ = loss(aggregate[::-1], samples[::-1])
    np.testing.assert_allclose(turned, value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        terms['energy_gap'], -loss(samples, aggregate)[1]['energy_gap'],
        atol=1e-6,
    )
    self.assertGreaterEqual(float(terms['gradient_penalty']), 0.0)
    self.assertTrue(np.isnan(loss(_with_nan(aggregate), samples)[0]))
    self.assertTrue(np.isnan(loss(aggregate, _with_nan(samples))[0]))


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


_rbf_direction = jax.jit(functools.partial(
    svgd.svgd_direction, kernel=_KERNELS['rbf'], off_diagonal=True
))


class DirectionTest(parameterized.TestCase):

  @parameterized.product(name=list(_KERNELS), off_diagonal=(False, True))
  def test_shape_order_and_nan(self, name, off_diagonal):
    direction_fn = jax.jit(functools.partial(
        svgd.svgd_direction, kernel=_KERNELS[name], off_diagonal=off_diagonal
    ))

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

  @parameterized.product(
      name=list(_KERNELS), dtype=(jnp.bfloat16, jnp.float16)
  )
  def test_half_precision_keeps_its_type_and_its_digits(self, name, dtype):
    direction_fn = jax.jit(functools.partial(
        svgd.svgd_direction, kernel=_KERNELS[name], off_diagonal=False
    ))

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
          phi.astype(jnp.float32), exact,
          atol=5 * float(jnp.finfo(dtype).eps) * scale,
      )
    check()

  @parameterized.product(
      name=('rbf', 'imq', 'multi_scale'), off_diagonal=(False, True)
  )
  def test_does_not_depend_on_the_origin(self, name, off_diagonal):
    direction_fn = jax.jit(functools.partial(
        svgd.svgd_direction, kernel=_KERNELS[name], off_diagonal=off_diagonal
    ))
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

  @parameterized.parameters('rbf', 'imq', 'multi_scale')
  def test_coincident_particles_share_their_mean_score(self, name):
    direction_fn = jax.jit(functools.partial(
        svgd.svgd_direction, kernel=_KERNELS[name], off_diagonal=False
    ))

    @_given(_arrays(3), _arrays((4, 3)))
    def check(point, scores):
      particles = np.tile(point, (4, 1))
      phi = direction_fn(particles, scores)
      expected = np.tile(scores.mean(axis=0), (4, 1))
      # atol: 1e-7 of rounding in the centre, over a bandwidth of 1e-8
      np.testing.assert_allclose(phi, expected, atol=1e-4, rtol=1e-4)
    check()

  @parameterized.parameters('rbf', 'imq', 'multi_scale')
  def test_a_lone_particle_climbs_its_score(self, name):
    direction_fn = jax.jit(functools.partial(
        svgd.svgd_direction, kernel=_KERNELS[name], off_diagonal=False
    ))

    @_given(_arrays((1, 3)), _arrays((1, 3)))
    def check(particle, score):
      phi = direction_fn(particle, score)
      np.testing.assert_allclose(phi, score, rtol=1e-6)
    check()
    with self.assertRaisesRegex(ValueError, 'needs 2 particles, got 1'):
      svgd.svgd_direction(
          np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32),
          _KERNELS[name], off_diagonal=True,
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
        latent.mmd(y, x), latent.mmd(x[::-1], y[::-1]), latent.mmd(x + 8, y + 8)
    ):
      self.assertAlmostEqual(float(other), value, delta=1e-4)
    for bad in ((_with_nan(x), y), (x, _with_nan(y))):
      self.assertTrue(np.isnan(latent.mmd(*bad)))

  def test_mmd_of_coincident_sets(self):
    x = np.ones((4, 3), np.float32)
    self.assertAlmostEqual(float(latent.mmd(x, x)), 0.0, delta=1e-6)
    far = float(latent.mmd(x, x + 1e6))
    self.assertAlmostEqual(far, 2.0, delta=1e-5)

  _sliced_wasserstein = staticmethod(jax.jit(functools.partial(
      latent.sliced_wasserstein, num_projections=8
  )))

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
