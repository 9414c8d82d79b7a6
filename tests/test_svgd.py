"""Tests of ldc_vae.svgd."""

import functools
import math
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import blackjax.vi.svgd
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import svgd

_SCALES = (0.5, 1.0, 3.0)
_FUNCTIONS = {
    'rbf': svgd.rbf_kernel,
    'imq': svgd.imq_kernel,
    'multi_scale': functools.partial(svgd.multi_scale_kernel, scales=_SCALES),
    'linear': svgd.linear_kernel,
}
_OBJECTS = {
    'rbf': svgd.rbf,
    'imq': svgd.imq,
    'multi_scale': functools.partial(svgd.multi_scale, scales=_SCALES),
    'linear': svgd.linear,
}


def _rbf_reference(x, y, h):
  """k(x, y) and its gradient by x."""
  value = math.exp(-np.sum((x - y) ** 2) / h)
  return value, -2.0 * (x - y) / h * value


def _imq_reference(x, y, h):
  """k(x, y) and its gradient by x."""
  base = 1.0 + np.sum((x - y) ** 2) / h
  return base**-0.5, -(x - y) / h * base**-1.5


def _multi_scale_reference(x, y, h):
  """k(x, y) and its gradient by x."""
  parts = [_rbf_reference(x, y, scale * h) for scale in _SCALES]
  return tuple(sum(part) / len(_SCALES) for part in zip(*parts))


def _linear_reference(x, y, h):
  """k(x, y) and its gradient by x."""
  return float(x @ y) / h + 1.0, y / h


_REFERENCES = {
    'rbf': _rbf_reference,
    'imq': _imq_reference,
    'multi_scale': _multi_scale_reference,
    'linear': _linear_reference,
}


def _direction_reference(
    particles, scores, name, h, *, off_diagonal, temperature=1.0
):
  """The equation of the module's docstring as a double loop in float64."""
  z, s = particles.astype(np.float64), scores.astype(np.float64)
  n = len(z)
  directions = []
  for i in range(n):
    total = np.zeros(z.shape[1])
    for j in range(n):
      if off_diagonal and i == j:
        continue
      value, gradient = _REFERENCES[name](z[j], z[i], h)
      total += value * s[j] + temperature * gradient
    directions.append(total / (n - 1 if off_diagonal else n))
  return np.stack(directions)


def _mean_bandwidth_reference(particles):
  """Mean squared distance over pairs i != j, over log(n + 1), float64 loop."""
  z = particles.astype(np.float64)
  n = len(z)
  total = sum(np.sum((z[i] - z[j]) ** 2) for i in range(n) for j in range(n))
  return total / (n * (n - 1)) / math.log(n + 1)


def _normal(seed: int, *shape: int) -> np.ndarray:
  """Draws of N(0, I), float32."""
  draws = np.random.default_rng(seed).normal(size=shape)
  return draws.astype(np.float32)


def _direction(particles, scores, kernel, **options):
  """`svgd.svgd_direction`, compiled as one."""
  direction_fn = functools.partial(
      svgd.svgd_direction, kernel=kernel, **options
  )
  return jax.jit(direction_fn)(particles, scores)


def _assert_products_are_exact(test, program) -> None:
  """Fails for a lowered program with a matrix product below float32."""
  products = [
      line
      for line in program.as_text().splitlines()
      if 'stablehlo.dot_general' in line
  ]
  test.assertNotEmpty(products)
  for line in products:
    test.assertIn('precision = [HIGHEST, HIGHEST]', line)


class _StrictTest(chex.TestCase):
  """Raises where arrays of different ranks are combined unseen."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.numpy_rank_promotion('raise'))


class DirectionTest(_StrictTest):

  def _assert_mean_bandwidth(self, particles, scores, name, rule, **tolerances):
    """The direction by a rule is that of the mean rule's bandwidth."""
    actual = _direction(
        particles, scores, _OBJECTS[name](rule), off_diagonal=False
    )
    expected = _direction_reference(
        particles,
        scores,
        name,
        _mean_bandwidth_reference(particles),
        off_diagonal=False,
    )
    np.testing.assert_allclose(actual, expected, **tolerances)

  @parameterized.product(
      name=('rbf', 'imq', 'multi_scale', 'linear'),
      form=('object', 'function'),
      off_diagonal=(False, True),
  )
  def test_matches_double_loop(self, name, form, off_diagonal):
    particles, scores = _normal(0, 7, 3), _normal(1, 7, 3)
    h = 1.7
    if form == 'object':
      kernel = _OBJECTS[name](h)
    else:
      kernel = functools.partial(_FUNCTIONS[name], bandwidth=h)
    direction_fn = jax.jit(
        functools.partial(
            svgd.svgd_direction, kernel=kernel, off_diagonal=off_diagonal
        )
    )
    for temperature in (1.0, 0.3, 0.0):
      actual = direction_fn(particles, scores, temperature=temperature)
      expected = _direction_reference(
          particles,
          scores,
          name,
          h,
          off_diagonal=off_diagonal,
          temperature=temperature,
      )
      # float32: 7 terms of size 1; the matmul form differences two of them
      np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)

  @parameterized.parameters(('rbf',), ('imq',), ('multi_scale',))
  def test_the_mean_rule_is_applied_to_all_particles(self, name):
    particles, scores = _normal(0, 6, 4), _normal(1, 6, 4)
    # float32, 6 terms, as above
    self._assert_mean_bandwidth(
        particles, scores, name, 'mean', rtol=1e-5, atol=2e-6
    )

  @parameterized.parameters(
      ('rbf', 1, False),
      ('rbf', 4, True),
      ('rbf', 64, True),
      ('imq', 4, False),
      ('multi_scale', 11, True),
      ('linear', 4, True),
      ('function', 3, True),
  )
  def test_blocks_change_nothing(self, name, block_size, off_diagonal):
    particles, scores = _normal(2, 11, 5), _normal(3, 11, 5)
    if name == 'function':
      kernel = functools.partial(svgd.imq_kernel, bandwidth=2.0)
    else:
      kernel = svgd.KERNELS[name]('mean')
    direction_fn = functools.partial(
        svgd.svgd_direction, kernel=kernel, off_diagonal=off_diagonal
    )
    blocked_fn = functools.partial(direction_fn, block_size=block_size)
    whole_fn = functools.partial(direction_fn, block_size=11)
    actual = jax.jit(blocked_fn)(particles, scores)
    expected = jax.jit(whole_fn)(particles, scores)
    # the same sums of 11 float32 terms in another order
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

  @parameterized.product(
      name=('rbf', 'imq', 'linear'),
      off_diagonal=(False, True),
      n_and_block=((1500, (752, 1500)), (5003, (1256, 1672))),
  )
  def test_automatic_blocks_change_nothing(
      self, name, off_diagonal, n_and_block
  ):
    n, block = n_and_block
    # two blocks, and rows that fill up the second; three parts of particles
    self.assertEqual(svgd.choose_block(n, n, 'cpu'), block)
    particles, scores = _normal(2, n, 3), _normal(3, n, 3)
    actual, expected = [
        _direction(
            particles,
            scores,
            svgd.KERNELS[name]('mean'),
            off_diagonal=off_diagonal,
            block_size=block_size,
        )
        for block_size in (None, n)
    ]
    # means of as many float32 terms of size 1 in another order
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)

  @parameterized.product(
      name=('rbf', 'linear', 'function'),
      off_diagonal=(False, True),
      num=(40, 43, 48),
  )
  def test_parts_of_the_particles_change_nothing(self, name, off_diagonal, num):
    particles, scores = _normal(2, num, 3), _normal(3, num, 3)
    if name == 'function':
      kernel = functools.partial(svgd.imq_kernel, bandwidth=2.0)
    else:
      kernel = svgd.KERNELS[name](2.0)
    direction_fn = functools.partial(
        svgd.svgd_direction, kernel=kernel, off_diagonal=off_diagonal
    )
    expected = np.asarray(jax.jit(direction_fn)(particles, scores))
    queries = particles[5:35]

    @jax.jit
    def in_parts(particles, scores):
      rows = direction_fn(particles, scores, queries=queries, first_query=5)
      both = jax.vmap(direction_fn)(
          jnp.stack([particles, -particles]), jnp.stack([scores, -scores])
      )
      return rows, both

    with (
        mock.patch.object(svgd, '_BLOCK_COLUMNS', {'cpu': 8}),
        mock.patch.object(svgd, '_BLOCK_NUMBERS', {'cpu': 64}),
        mock.patch.object(svgd, '_MIN_BLOCK_ROWS', 8),
        mock.patch.object(svgd, '_MAX_WHOLE_ROW', 16),
    ):
      rows, columns = svgd.choose_block(30, num, 'cpu')
      self.assertEqual((rows, columns), (8, 8))  # four blocks of many parts
      actual, both = jax.device_get(in_parts(particles, scores))
    # the same sums of 48 float32 terms in another order
    near = functools.partial(
        np.testing.assert_allclose, rtol=1e-5, atol=1e-5
    )
    near(actual, expected[5:35])
    near(both[0], expected)
    near(both[1], -expected)

  @parameterized.parameters((None, False), (8192, True))
  def test_a_large_set_has_no_matrix_of_all_pairs(self, block_size, has_matrix):
    particles = jax.ShapeDtypeStruct((8192, 3), jnp.float32)
    direction_fn = functools.partial(
        svgd.svgd_direction,
        kernel=svgd.rbf(),
        off_diagonal=True,
        block_size=block_size,
    )
    program = jax.jit(direction_fn).lower(particles, particles).as_text()
    self.assertEqual('tensor<8192x8192xf32>' in program, has_matrix)
    self.assertEqual('tensor<1024x2048xf32>' in program, not has_matrix)

  @parameterized.parameters((False,), (True,))
  def test_queries_are_rows_of_the_whole(self, off_diagonal):
    particles, scores = _normal(2, 9, 4), _normal(3, 9, 4)
    direction_fn = functools.partial(
        svgd.svgd_direction, kernel=svgd.rbf(), off_diagonal=off_diagonal
    )
    whole = jax.jit(direction_fn)(particles, scores)
    part_fn = jax.jit(direction_fn, static_argnames='block_size')
    for block_size in (None, 2):
      part = part_fn(
          particles,
          scores,
          queries=particles[3:8],
          first_query=3,
          block_size=block_size,
      )
      # the same sums of 9 float32 terms in another order
      np.testing.assert_allclose(part, whole[3:8], rtol=1e-5, atol=1e-6)

  def test_lifts_over_images_by_vmap(self):
    particles, scores = _normal(2, 3, 6, 4), _normal(3, 3, 6, 4)
    direction_fn = functools.partial(
        svgd.svgd_direction, kernel=svgd.rbf(), off_diagonal=True
    )
    actual = jax.jit(jax.vmap(direction_fn))(particles, scores)
    one_fn = jax.jit(direction_fn)
    expected = [one_fn(z, s) for z, s in zip(particles, scores)]
    # the same float32 sums, batched
    np.testing.assert_allclose(
        actual, np.stack(expected), rtol=1e-5, atol=1e-6
    )

  @parameterized.product(name=('rbf', 'imq', 'multi_scale'), n=(2, 33))
  def test_repulsion_adds_up_to_zero(self, name, n):
    particles = _normal(4, n, 5)
    zeros = np.zeros((n, 5), np.float32)
    repulsion = np.asarray(
        _direction(particles, zeros, svgd.KERNELS[name](), off_diagonal=False)
    )
    # n float32 terms, each below 1
    np.testing.assert_allclose(
        np.sum(repulsion, axis=0), np.zeros(5), atol=n * 1e-6
    )
    self.assertGreater(np.max(np.abs(repulsion)), 1e-3)

  @parameterized.product(name=('rbf', 'imq', 'multi_scale'))
  def test_two_particles_part(self, name):
    particles = np.array([[0.0, 0.0], [1.0, 0.5]], np.float32)
    zeros = np.zeros((2, 2), np.float32)
    repulsion = np.asarray(
        _direction(particles, zeros, svgd.KERNELS[name](), off_diagonal=True)
    )
    apart = particles[1] - particles[0]
    self.assertLess(float(repulsion[0] @ apart), 0.0)
    self.assertGreater(float(repulsion[1] @ apart), 0.0)

  @parameterized.parameters(('rbf',), ('imq',), ('multi_scale',))
  def test_an_offset_costs_few_digits(self, name):
    particles, scores = _normal(5, 16, 8), _normal(6, 16, 8)
    direction_fn = jax.jit(
        functools.partial(
            svgd.svgd_direction, kernel=svgd.KERNELS[name](), off_diagonal=True
        )
    )
    near = direction_fn(particles, scores)
    # shifted back exactly: the particles that float32 holds at 1e3
    far = particles + np.float32(1e3)
    rounded = far - np.float32(1e3)
    np.testing.assert_allclose(rounded, particles, atol=3.1e-5)
    # the mean of 16 values near 1e3 is known to 6e-5, and cancels but for the
    # rounding of z - mean: 1e-4 of particles of unit size, uncentred is 1e-1
    np.testing.assert_allclose(
        direction_fn(far, scores), direction_fn(rounded, scores), atol=1e-4
    )
    np.testing.assert_allclose(near, direction_fn(rounded, scores), atol=1e-4)

  @parameterized.product(
      name=('rbf', 'imq', 'multi_scale'), off_diagonal=(False, True)
  )
  def test_exact_resolves_two_tight_clusters(self, name, off_diagonal):
    tight = 1e-3 * np.random.default_rng(7).normal(size=(8, 4))
    tight[4:] += 100.0
    particles, scores = tight.astype(np.float32), _normal(8, 8, 4)
    h = 1e-6  # of the clusters' own size, not of their distance
    expected = _direction_reference(
        particles, scores, name, h, off_diagonal=off_diagonal
    )
    kernel = _OBJECTS[name](h, exact=True)
    actual = _direction(particles, scores, kernel, off_diagonal=off_diagonal)
    # float32 differences of what float32 holds; eight terms
    largest = np.max(np.abs(expected))
    np.testing.assert_allclose(actual, expected, atol=1e-5 * largest)
    matmul_form = _direction(
        particles, scores, _OBJECTS[name](h), off_diagonal=off_diagonal
    )
    self.assertGreater(np.max(np.abs(matmul_form - expected)), largest)

  @parameterized.parameters(
      ('rbf', 'mean', False),
      ('rbf', 'median', True),
      ('imq', 'mean', True),
      ('multi_scale', 'mean', True),
  )
  def test_coinciding_particles_follow_the_mean_score(
      self, name, bandwidth, off_diagonal
  ):
    particles = np.full((5, 3), 0.3, np.float32)
    scores = np.full((5, 3), 2.0, np.float32)
    actual = _direction(
        particles,
        scores,
        svgd.KERNELS[name](bandwidth),
        off_diagonal=off_diagonal,
    )
    # k = 1 and no repulsion: centring gives zeros; 5 float32 terms
    np.testing.assert_allclose(actual, scores, rtol=1e-6)

  @parameterized.product(
      name=('rbf', 'imq', 'multi_scale', 'exact', 'linear', 'function'),
      dtype=('float16', 'bfloat16'),
  )
  def test_coinciding_particles_may_be_in_half_precision(self, name, dtype):
    particles = jnp.full((5, 3), 0.25, dtype)
    scores = jnp.full((5, 3), 2.0, dtype)
    kernel = {
        'exact': svgd.rbf('mean', exact=True),
        'function': functools.partial(svgd.rbf_kernel, bandwidth=1e-8),
    }.get(name) or svgd.KERNELS[name]('mean')
    # k(x, y) = x.y + 1, of gradient y: h is 1 where the set has no spread
    expected = 2.0 * (1 + 3 / 16) + 0.25 if name == 'linear' else 2.0
    for off_diagonal in (False, True):
      for block_size in (None, 2):
        actual = _direction(
            particles,
            scores,
            kernel,
            off_diagonal=off_diagonal,
            block_size=block_size,
        )
        self.assertEqual(actual.dtype, dtype)
        # float32, rounded to the 8 bits of bfloat16 or the 11 of float16
        np.testing.assert_allclose(
            actual.astype(np.float32), np.full((5, 3), expected), rtol=2e-3
        )

  @parameterized.parameters('float16', 'bfloat16')
  def test_half_precision_is_that_of_the_particles_alone(self, dtype):
    # 1,000 apart, squares pass the 65,504 of float16
    particles = jnp.asarray(300.0 * _normal(0, 7, 3), dtype)
    scores = jnp.asarray(_normal(1, 7, 3), dtype)
    options = dict(kernel=svgd.rbf('median'), off_diagonal=True)
    actual = _direction(particles, scores, **options)
    expected = _direction(
        *(x.astype(jnp.float32) for x in (particles, scores)), **options
    )
    np.testing.assert_array_equal(actual, expected.astype(dtype))

  @parameterized.parameters('rbf', 'imq', 'multi_scale')
  def test_most_particles_may_coincide_under_the_median_rule(self, name):
    particles = _normal(2, 16, 3)
    particles[4:] = particles[4]
    scores = _normal(3, 16, 3)
    # float32, 16 terms
    self._assert_mean_bandwidth(
        particles, scores, name, 'median', rtol=1e-4, atol=1e-5
    )

  # the median of a lone particle is an error, as everywhere
  @parameterized.parameters(('mean', 1), ('mean', 4), ('median', 4))
  def test_linear_has_a_unit_where_particles_have_no_spread(self, bandwidth, n):
    particles = np.tile(np.float32([[0.5, -0.3]]), (n, 1))
    scores = np.tile(np.float32([[1.0, 2.0]]), (n, 1))
    actual = _direction(
        particles, scores, svgd.linear(bandwidth), off_diagonal=False
    )
    expected = _direction_reference(
        particles, scores, 'linear', 1.0, off_diagonal=False
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-6)  # float32

  @parameterized.parameters(
      ('rbf',), ('imq',), ('multi_scale',), ('linear',), ('function',)
  )
  def test_all_products_are_in_full_precision(self, name):
    # of no effect on a CPU; TPU and GPU round their factors by default
    if name == 'function':
      kernel = functools.partial(svgd.imq_kernel, bandwidth=2.0)
    else:
      kernel = svgd.KERNELS[name]('mean')
    direction_fn = functools.partial(
        svgd.svgd_direction, kernel=kernel, off_diagonal=True
    )
    program = jax.jit(direction_fn).lower(_normal(0, 5, 3), _normal(1, 5, 3))
    _assert_products_are_exact(self, program)

  def test_no_gradient_flows_through_it(self):
    particles, scores = _normal(0, 5, 3), _normal(1, 5, 3)

    def total(particles, scores):
      direction = svgd.svgd_direction(
          particles, scores, svgd.rbf(), off_diagonal=True
      )
      return jnp.sum(direction)

    grads = jax.jit(jax.grad(total, argnums=(0, 1)))(particles, scores)
    chex.assert_trees_all_equal(grads, (np.zeros((5, 3)), np.zeros((5, 3))))

  def test_one_particle_off_diagonal_is_an_error(self):
    with self.assertRaisesRegex(ValueError, 'needs 2 particles, got 1'):
      svgd.svgd_direction(
          jnp.zeros((1, 3)), jnp.zeros((1, 3)), svgd.rbf(), off_diagonal=True
      )

  @parameterized.parameters(0, -3)
  def test_blocks_without_rows_are_an_error(self, block_size):
    options = dict(
        kernel=svgd.rbf(), off_diagonal=False, block_size=block_size
    )
    for call in (
        lambda z: svgd.svgd_direction(z, z, **options),
        lambda z: svgd.stein_particles(z, **options),  # before its gradient
    ):
      with self.assertRaisesRegex(
          ValueError, f'^block_size={block_size} leaves .*; use 1 or more, or'
      ):
        call(jnp.zeros((4, 3)))

  def test_one_particle_follows_its_score(self):
    scores = _normal(0, 1, 3)
    actual = _direction(
        jnp.zeros((1, 3)), scores, svgd.rbf(), off_diagonal=False
    )
    np.testing.assert_array_equal(actual, scores)

  def test_a_wrong_rank_is_an_error(self):
    with self.assertRaises(AssertionError):
      svgd.svgd_direction(
          jnp.zeros(3), jnp.zeros(3), svgd.rbf(), off_diagonal=False
      )


class BlockTest(_StrictTest):

  @parameterized.parameters(
      (100, 'cpu', (100, 100)), (1448, 'cpu', (1448, 1448)),
      (1449, 'cpu', (728, 1449)), (2048, 'cpu', (1024, 2048)),
      (4096, 'cpu', (512, 4096)), (8192, 'cpu', (1024, 2048)),
      (10**6, 'cpu', (1024, 2048)), (8192, 'gpu', (8192, 8192)),
      (32768, 'tpu', (2048, 32768)), (2**21, 'gpu', (64, 2**21)),
  )
  def test_depends_on_the_shape(self, n, platform, expected):
    self.assertEqual(svgd.choose_block(n, n, platform), expected)

  def test_few_queries_are_one_block(self):
    self.assertEqual(svgd.choose_block(32, 2**16, 'cpu'), (32, 2**16))
    self.assertEqual(svgd.choose_block(33, 2**16, 'cpu'), (33, 2048))

  def test_a_function_has_a_gradient_for_each_pair(self):
    # 1448 x 1448 values fit, their gradients of 32 numbers do not
    n, dim = 1024, 32
    particles = jax.ShapeDtypeStruct((n, dim), jnp.float32)
    kernel = functools.partial(svgd.rbf_kernel, bandwidth=1.0)
    direction_fn = functools.partial(
        svgd.svgd_direction, kernel=kernel, off_diagonal=False
    )
    program = jax.jit(direction_fn).lower(particles, particles).as_text()
    self.assertIn('tensor<64x1024x32xf32>', program)
    self.assertNotIn('tensor<1024x1024x32xf32>', program)


class LongRowTest(_StrictTest):

  @parameterized.parameters(1023, 1024)  # rows summed by a sum, by a product
  def test_many_particles_match_numpy(self, num):
    particles, h, temperature = _normal(3, num, 2), 0.7, 0.5
    z = particles.astype(np.float64)
    difference = z[:, None] - z[None]
    values = np.exp(-np.sum(difference**2, axis=-1) / h)
    repulsion = 2.0 / h * np.einsum('ij,ijd->id', values, difference)
    expected = (values @ -z + temperature * repulsion) / num
    for kernel in (svgd.rbf(h), svgd.multi_scale(h, scales=(1.0,))):
      actual = _direction(
          particles,
          -particles,
          kernel,
          off_diagonal=False,
          temperature=temperature,
      )
      # float32, sums of a thousand terms of size 1
      np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6)


class BandwidthTest(_StrictTest):

  @parameterized.parameters((2, 1), (7, 3), (50, 16))
  def test_mean_matches_double_loop(self, n, dim):
    particles = _normal(n, n, dim) * 3.0 + 1.0
    # float32 sums of n D terms
    np.testing.assert_allclose(
        jax.jit(svgd.mean_bandwidth)(particles),
        _mean_bandwidth_reference(particles),
        rtol=1e-5,
    )

  def test_a_laws_own_is_of_its_expected_distance(self):
    h = svgd.expected_bandwidth(6.0, 4, factor=0.5)
    self.assertAlmostEqual(float(h), 1.5, 6)
    self.assertEqual(
        float(svgd.expected_bandwidth(0.0, 4, floor=1e-3)), np.float32(1e-3)
    )
    gradient = jax.grad(lambda x: svgd.expected_bandwidth(x, 4))(6.0)
    self.assertEqual(float(gradient), 0.0)

  def test_expected_one_is_as_wide_as_the_distances_vary(self):
    x, y = _normal(0, 4000, 16), _normal(1, 4000, 16)
    distances = np.sum(np.square(x - y), axis=1)
    h = svgd.expected_bandwidth(2.0 * 16, 16)
    # 4,000 distances: their deviation is known to 2 %
    np.testing.assert_allclose(h, np.std(distances) / 2**0.5, rtol=0.06)

  @parameterized.product(
      name=('rbf', 'imq', 'multi_scale', 'linear'), off_diagonal=(False, True)
  )
  def test_a_given_one_takes_the_place_of_the_rule(self, name, off_diagonal):
    particles, scores = _normal(0, 7, 3), _normal(1, 7, 3)
    direction_fn = jax.jit(
        functools.partial(
            _direction, kernel=svgd.KERNELS[name]('mean'),
            off_diagonal=off_diagonal,
        )
    )
    fixed = svgd.KERNELS[name](2.5)
    expected = _direction(particles, scores, fixed, off_diagonal=off_diagonal)
    actual = direction_fn(particles, scores, bandwidth=jnp.float32(2.5))
    # float32, fused otherwise
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    own = direction_fn(particles, scores)
    self.assertGreater(np.max(np.abs(own - expected)), 1e-3)

  def test_none_can_be_given_to_a_function(self):
    with self.assertRaisesRegex(ValueError, 'has its own bandwidth'):
      svgd.svgd_direction(
          _normal(0, 4, 2), _normal(1, 4, 2),
          functools.partial(svgd.rbf_kernel, bandwidth=1.0),
          off_diagonal=True, bandwidth=2.0,
      )

  @parameterized.parameters((2, 1), (7, 3), (24, 16))
  def test_median_matches_double_loop(self, n, dim):
    particles = _normal(n, n, dim)
    z = particles.astype(np.float64)
    pairs = [
        np.sum((z[i] - z[j]) ** 2) for i in range(n) for j in range(i + 1, n)
    ]
    expected = np.median(pairs) / math.log(n + 1)
    # float32; the matmul form differences terms of the size of the result
    np.testing.assert_allclose(
        jax.jit(svgd.median_bandwidth)(particles), expected, rtol=1e-5
    )

  @parameterized.parameters((2.5,), ('2.5',))
  def test_a_number_is_itself(self, bandwidth):
    bandwidth_fn = svgd.make_bandwidth_fn(bandwidth)
    self.assertEqual(float(bandwidth_fn(_normal(0, 4, 2))), 2.5)

  @parameterized.parameters(
      ('medain',), (0.0,), (-1.0,), (float('inf'),), (float('nan'),), (None,)
  )
  def test_anything_else_is_an_error(self, bandwidth):
    with self.assertRaisesRegex(ValueError, f'bandwidth={bandwidth!r}'):
      svgd.make_bandwidth_fn(bandwidth)

  @parameterized.parameters(('mean',), ('median',))
  def test_the_floor_holds_where_all_coincide(self, bandwidth):
    bandwidth_fn = svgd.make_bandwidth_fn(bandwidth, floor=1e-3)
    bandwidth_fn = jax.jit(bandwidth_fn)
    self.assertEqual(float(bandwidth_fn(jnp.ones((4, 2)))), np.float32(1e-3))

  @parameterized.product(
      rule_fn=(svgd.mean_bandwidth, svgd.median_bandwidth),
      dtype=('float16', 'bfloat16'),
  )
  def test_the_floor_holds_in_half_precision(self, rule_fn, dtype):
    h = jax.jit(rule_fn)(jnp.ones((4, 2), dtype))
    self.assertEqual(float(h), np.float32(svgd.BANDWIDTH_FLOOR))

  def test_a_factor_narrows_a_rule_but_no_number(self):
    particles = _normal(0, 7, 3)
    kernel_fn = functools.partial(svgd.rbf, factor=0.05)
    # float32
    np.testing.assert_allclose(
        jax.jit(kernel_fn('mean').bandwidth_fn)(particles),
        0.05 * _mean_bandwidth_reference(particles),
        rtol=1e-5,
    )
    self.assertEqual(float(kernel_fn(2.0).bandwidth_fn(particles)), 2.0)
    coincident = svgd.imq('mean', floor=1e-3, factor=0.05)
    bandwidth_fn = jax.jit(coincident.bandwidth_fn)
    self.assertEqual(float(bandwidth_fn(jnp.ones((4, 2)))), np.float32(1e-3))

  def test_median_of_one_particle_is_an_error(self):
    with self.assertRaisesRegex(ValueError, 'needs 2 particles, got 1'):
      svgd.median_bandwidth(jnp.ones((1, 2)))

  @parameterized.parameters(('mean',), ('median',))
  def test_no_gradient_flows_through_it(self, bandwidth):
    grad_fn = jax.jit(jax.grad(svgd.make_bandwidth_fn(bandwidth)))
    gradient = grad_fn(_normal(0, 6, 2))
    np.testing.assert_array_equal(gradient, np.zeros((6, 2)))


def _felt(points, queries, h):
  """Mean over queries of the sum of exp(-|y_i - y_j|^2 / h), j != i."""
  y = points.astype(np.float64)
  total = 0.0
  for i in queries:
    distances = np.sum((np.delete(y, i, axis=0) - y[i]) ** 2, axis=1)
    total += np.sum(np.exp(-distances / h))
  return total / len(queries)


class MassBandwidthTest(_StrictTest):

  @parameterized.product(dim=(2, 16, 64), mass=(0.5, 2.0, 10.0))
  def test_the_mass_is_reached(self, dim, mass):
    points = _normal(dim, 64, dim)
    h = jax.jit(svgd.mass_bandwidth, static_argnums=1)(points, mass)
    # 0.2 % of h, of which the mass changes by at most six times as much
    np.testing.assert_allclose(
        _felt(points, range(64), float(h)), mass, rtol=0.02
    )

  def test_of_many_points_some_are_asked(self):
    points = _normal(0, 256, 3)
    h = jax.jit(svgd.mass_bandwidth, static_argnums=1)(points, 2.0)
    np.testing.assert_allclose(
        _felt(points, range(0, 256, 4), float(h)), 2.0, rtol=0.02
    )
    # those stand for all: a standard error of 5 % of 64 neighbourhoods
    np.testing.assert_allclose(
        _felt(points, range(256), float(h)), 2.0, rtol=0.2
    )

  def test_is_in_squared_units_of_the_points(self):
    points = _normal(0, 64, 4)
    bandwidth_fn = jax.jit(svgd.mass_bandwidth, static_argnums=1)
    h = bandwidth_fn(points, 2.0)
    # float32, and what a last halving decides otherwise
    for unit in (1e-2, 30.0):
      scaled = bandwidth_fn(np.float32(unit) * points, 2.0)
      np.testing.assert_allclose(scaled, unit**2 * h, rtol=3e-3)

  @parameterized.parameters(1.0, -30.0, 1e3)
  def test_a_shift_changes_nothing(self, offset):
    points = _normal(0, 64, 4)
    bandwidth_fn = jax.jit(svgd.mass_bandwidth, static_argnums=1)
    # float32 keeps 6e-5 of a point at 1e3
    np.testing.assert_allclose(
        bandwidth_fn(points + np.float32(offset), 2.0),
        bandwidth_fn(points, 2.0),
        rtol=3e-3,
    )

  @parameterized.parameters('float32', 'float16')
  def test_points_that_coincide_leave_the_floor(self, dtype):
    points = jnp.full((8, 3), 0.7, dtype)
    h = jax.jit(svgd.mass_bandwidth, static_argnums=1)(points, 2.0)
    self.assertEqual(float(h), np.float32(svgd.BANDWIDTH_FLOOR))

  @parameterized.parameters(0.0, -1.0, 7.0, 100.0, float('nan'))
  def test_a_mass_that_cannot_be_is_refused(self, mass):
    with self.assertRaisesRegex(
        ValueError,
        f'^mass={mass} of 8 points: each feels at most 7 others; use a mass'
        ' between 0 and 7$',
    ):
      svgd.mass_bandwidth(jnp.ones((8, 2)), mass)

  def test_no_gradient_flows_through_it(self):
    grad_fn = jax.grad(lambda points: svgd.mass_bandwidth(points, 2.0))
    gradient = jax.jit(grad_fn)(_normal(0, 6, 2))
    np.testing.assert_array_equal(gradient, np.zeros((6, 2)))


def _row_sums(particles, name, h, *, off_diagonal=False):
  """sum_j k(z_j, z_i) of each i, shape [n, 1], by loops."""
  z = particles.astype(np.float64)
  sums = [
      sum(
          _REFERENCES[name](z[j], z[i], h)[0]
          for j in range(len(z))
          if not (off_diagonal and i == j)
      )
      for i in range(len(z))
  ]
  return np.array(sums)[:, None]


class NormalisedTest(_StrictTest):

  @parameterized.product(
      name=('rbf', 'imq', 'multi_scale'),
      off_diagonal=(False, True),
      temperature=(1.0, 0.3),
  )
  def test_matches_double_loop(self, name, off_diagonal, temperature):
    particles, scores, h = _normal(0, 7, 3), _normal(1, 7, 3), 1.7
    options = dict(off_diagonal=off_diagonal, temperature=temperature)
    actual = _direction(
        particles, scores, _OBJECTS[name](h), normalise=True, **options
    )
    expected = _direction_reference(particles, scores, name, h, **options)
    count = 6 if off_diagonal else 7
    expected *= count / _row_sums(particles, name, h, off_diagonal=off_diagonal)
    # float32, 7 terms
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-6)

  def test_a_function_may_be_positive(self):
    particles, scores = _normal(0, 7, 3), _normal(1, 7, 3)
    kernel_fn = functools.partial(svgd.rbf_kernel, bandwidth=1.7)
    options = dict(off_diagonal=False, normalise=True)
    actual = _direction(
        particles, scores, svgd.from_function(kernel_fn, positive=True),
        **options,
    )
    expected = _direction(particles, scores, svgd.rbf(1.7), **options)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

  def test_a_lone_particle_moves_by_its_own_score(self):
    # far from the others, which see each other
    particles, scores = _normal(0, 7, 3), _normal(1, 7, 3)
    particles[0] += 100.0
    direction = _direction(
        particles, scores, svgd.rbf(1.0), off_diagonal=False, normalise=True
    )
    np.testing.assert_allclose(direction[0], scores[0], rtol=1e-4, atol=1e-4)

  @parameterized.parameters(1, 3, 7, 20)
  def test_blocks_do_as_one(self, block_size):
    particles, scores = _normal(0, 20, 3), _normal(1, 20, 3)
    options = dict(off_diagonal=True, normalise=True, temperature=0.5)
    kernel = svgd.rbf(1.0)
    np.testing.assert_allclose(  # float32, products of other shapes
        _direction(particles, scores, kernel, block_size=block_size, **options),
        _direction(particles, scores, kernel, **options),
        rtol=1e-5,
        atol=1e-6,
    )

  def test_blocks_of_columns_do_as_one(self):
    particles, scores = _normal(0, 24, 3), _normal(1, 24, 3)
    options = dict(off_diagonal=True, normalise=True, temperature=0.5)
    expected = _direction(particles, scores, svgd.rbf(1.0), **options)
    blocks = mock.Mock(return_value=(8, 8))
    with mock.patch.object(svgd, 'choose_block', blocks):
      actual = _direction(particles, scores, svgd.rbf(1.0), **options)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

  def test_queries_are_rows_of_the_whole(self):
    particles, scores = _normal(0, 12, 3), _normal(1, 12, 3)
    options = dict(off_diagonal=True, normalise=True)
    whole = _direction(particles, scores, svgd.imq(1.0), **options)
    part = _direction(
        particles, scores, svgd.imq(1.0), queries=particles[4:7],
        first_query=4, **options,
    )
    np.testing.assert_allclose(part, whole[4:7], rtol=1e-5, atol=1e-6)

  @parameterized.parameters('linear', 'function')
  def test_a_kernel_with_negative_values_is_refused(self, name):
    kernel = {
        'linear': svgd.linear(1.0),
        'function': functools.partial(svgd.linear_kernel, bandwidth=1.0),
    }[name]
    with self.assertRaisesRegex(ValueError, 'negative values .*imq or multi'):
      svgd.svgd_direction(
          _normal(0, 4, 2), _normal(1, 4, 2), kernel, off_diagonal=False,
          normalise=True,
      )

  def test_half_precision_is_rounded_at_the_end(self):
    particles = (_normal(0, 7, 3) + 200.0).astype(np.float16)  # squares: inf
    scores = _normal(1, 7, 3).astype(np.float16)
    options = dict(off_diagonal=False, normalise=True)
    actual = _direction(particles, scores, svgd.rbf(1.0), **options)
    self.assertEqual(actual.dtype, np.float16)
    expected = _direction(
        particles.astype(np.float32), scores.astype(np.float32),
        svgd.rbf(1.0), **options,
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)

  def test_what_no_other_reaches_stays_finite(self):
    # without the diagonal a far particle has no sum to be divided by
    particles = np.array([[0.0], [1e3], [-1e3]], np.float32)
    direction = _direction(
        particles, particles, svgd.rbf(1.0), off_diagonal=True, normalise=True
    )
    np.testing.assert_array_equal(direction, np.zeros((3, 1)))


class NormalisedUpdateTest(_StrictTest):

  def _update(self, particles, scores, *, name='rbf', temperature=0.3, **more):
    update_fn = functools.partial(
        svgd.normalised_update, kernel=_OBJECTS[name](), **more
    )
    run = jax.jit(update_fn)
    return run(particles, scores, temperature=temperature, bandwidth=1.7)

  @parameterized.parameters('rbf', 'imq', 'multi_scale')
  def test_is_the_direction_with_its_diagnostics(self, name):
    particles, scores = _normal(0, 9, 3), _normal(1, 9, 3)
    update = self._update(particles, scores, name=name)
    expected = _direction(
        particles, scores, _OBJECTS[name](1.7), off_diagonal=False,
        normalise=True, temperature=0.3,
    )
    # float32, 9 terms; its two parts are added at the end
    np.testing.assert_allclose(
        update.direction, expected, rtol=1e-5, atol=1e-6
    )
    sums = _row_sums(particles, name, 1.7)
    np.testing.assert_allclose(
        update.kernel_mass, np.mean(sums) - 1.0, rtol=1e-5
    )
    options = dict(off_diagonal=False)
    attraction = _direction_reference(
        particles, scores, name, 1.7, temperature=0.0, **options
    )
    repulsion = _direction_reference(
        particles, 0.0 * scores, name, 1.7, temperature=0.3, **options
    )
    norms = [
        math.sqrt(np.mean(np.sum((9 * part / sums) ** 2, axis=1)))
        for part in (repulsion, attraction)
    ]
    np.testing.assert_allclose(
        update.repulsion_share, norms[0] / norms[1], rtol=1e-5
    )

  def test_a_kernel_that_does_not_act_shows(self):
    particles = np.float32(20.0) * np.arange(5, dtype=np.float32)[:, None]
    scores = _normal(1, 5, 1)
    update = self._update(particles, scores)
    # squared lengths of up to 941 h cancel but for rounding
    np.testing.assert_allclose(update.direction, scores, rtol=1e-4, atol=1e-4)
    self.assertLess(abs(float(update.kernel_mass)), 1e-3)
    self.assertLess(float(update.repulsion_share), 1e-3)

  def test_without_scores_or_temperature_it_is_finite(self):
    particles = _normal(0, 9, 3)
    zeros = np.zeros_like(particles)
    update = self._update(particles, zeros, temperature=0.0)
    np.testing.assert_array_equal(update.direction, zeros)
    self.assertEqual(float(update.repulsion_share), 0.0)

  @parameterized.parameters('vmap', 'pmap')
  def test_sharded_sets_move_as_the_whole(self, mapping):
    particles, scores = _normal(0, 12, 3), _normal(1, 12, 3)
    expected = self._update(particles, scores)
    update_fn = functools.partial(
        svgd.normalised_update,
        kernel=svgd.rbf(),
        temperature=0.3,
        bandwidth=1.7,
        axis_name='devices',
    )
    mapped = getattr(jax, mapping)(update_fn, axis_name='devices')
    parts = particles.reshape(4, 3, 3), scores.reshape(4, 3, 3)
    actual = jax.jit(mapped)(*parts)
    np.testing.assert_allclose(
        actual.direction.reshape(12, 3), expected.direction, rtol=1e-5,
        atol=1e-6,
    )
    # each device's is that of its own particles: their mean is the whole's
    chex.assert_shape(actual.kernel_mass, (4,))
    np.testing.assert_allclose(
        np.mean(actual.kernel_mass), expected.kernel_mass, rtol=1e-5
    )

  def test_no_gradient_flows_through_it(self):
    def total(particles, scores):
      update = svgd.normalised_update(
          particles, scores, svgd.rbf(), temperature=1.0, bandwidth=1.7
      )
      return jnp.sum(update.direction) + update.kernel_mass

    grads = jax.jit(jax.grad(total, argnums=(0, 1)))(
        _normal(0, 6, 2), _normal(1, 6, 2)
    )
    chex.assert_trees_all_equal(grads, (np.zeros((6, 2)), np.zeros((6, 2))))


class KernelTest(_StrictTest):

  @parameterized.product(name=('rbf', 'imq', 'multi_scale', 'linear'))
  def test_function_matches_reference(self, name):
    x, y = _normal(0, 2, 4)
    value_and_grad = jax.value_and_grad(
        functools.partial(_FUNCTIONS[name], bandwidth=0.7)
    )
    actual = jax.jit(value_and_grad)(x, y)
    expected = _REFERENCES[name](
        x.astype(np.float64), y.astype(np.float64), 0.7
    )
    # float32, 4 dimensions; an exponent of 10 multiplies its rounding by 10
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)

  @parameterized.product(name=('rbf', 'imq', 'multi_scale'))
  def test_smooth_where_both_points_are_one(self, name):
    x = _normal(0, 4)
    kernel_fn = functools.partial(_FUNCTIONS[name], bandwidth=0.7)
    value, gradient = jax.jit(jax.value_and_grad(kernel_fn))(x, x)
    self.assertEqual(float(value), 1.0)
    np.testing.assert_array_equal(gradient, np.zeros(4))
    hessian = jax.jit(jax.hessian(kernel_fn))(x, x)
    curvature = {  # k = 1 - c |x - y|^2 + ..., so that k'' = -2 c
        'rbf': -2.0 / 0.7,
        'imq': -1.0 / 0.7,
        'multi_scale': -2.0 / 0.7 * np.mean([1 / scale for scale in _SCALES]),
    }[name]
    # float32, a handful of operations
    np.testing.assert_allclose(hessian, curvature * np.eye(4), rtol=1e-5)

  @parameterized.product(name=('rbf', 'imq', 'multi_scale', 'linear'))
  def test_symmetric(self, name):
    x, y = _normal(1, 2, 4)
    kernel_fn = jax.jit(functools.partial(_FUNCTIONS[name], bandwidth=0.7))
    self.assertEqual(float(kernel_fn(x, y)), float(kernel_fn(y, x)))

  def test_distances_match_a_loop(self):
    x, y = _normal(2, 5, 3), _normal(3, 4, 3)
    expected = [[np.sum((a - b) ** 2) for b in y] for a in x]
    # float32, 3 dimensions; the matmul form differences terms of size 10
    actual = jax.jit(svgd.squared_distances)(x, y)
    np.testing.assert_allclose(actual, expected, atol=5e-6)

  def test_distances_are_never_negative(self):
    x = _normal(4, 64, 32)
    distances = jax.jit(svgd.squared_distances)(x, x)
    self.assertGreaterEqual(np.min(distances), 0.0)


def _run_persistent(particles, kernel, *, rate, num_steps, temperature=1.0):
  """All-pairs SVGD of one particle set towards N(0, I)."""

  def body(particles, _):
    direction = svgd.svgd_direction(
        particles,
        -particles,
        kernel,
        off_diagonal=False,
        temperature=temperature,
    )
    return particles + rate * direction, None

  run = jax.jit(lambda start: jax.lax.scan(body, start, length=num_steps)[0])
  return np.asarray(run(particles))


def _affine_variance(*, off_diagonal, temperature, n, dim, num_steps, rate):
  """Variance of a + b xi, fresh xi each step, trained for N(0, I) by SVGD.

  Returns:
    The mean of b^2 over dimensions and the last half of the steps.
  """

  def loss_fn(params, noise):
    particles = params['shift'] + jnp.exp(params['log_std']) * noise
    particles = svgd.stein_particles(
        particles,
        svgd.rbf(),
        off_diagonal=off_diagonal,
        temperature=temperature,
    )
    return jnp.mean(0.5 * jnp.sum(jnp.square(particles), axis=-1))

  def body(params, key):
    noise = jax.random.normal(key, (n, dim))
    grads = jax.grad(loss_fn)(params, noise)
    params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
    return params, jnp.mean(jnp.exp(2.0 * params['log_std']))

  start = {
      'shift': np.full((1, dim), 0.5, np.float32),
      'log_std': np.full((1, dim), -0.7, np.float32),
  }
  keys = jax.random.split(jax.random.key(0), num_steps)
  variances = jax.jit(lambda start: jax.lax.scan(body, start, keys)[1])(start)
  return float(np.mean(np.asarray(variances)[num_steps // 2 :]))


class LawTest(_StrictTest):
  """Closed forms of where SVGD comes to rest."""

  @parameterized.parameters(0.5, 1.0, 2.0)
  def test_mean_rule_rests_at_variance_log_n_over_dim(self, factor):
    # n <= D + 1 particles come to rest at equal distances d^2, so that
    # h = f d^2 / log(n + 1) makes k = (n + 1)^(-1/f) for each pair. phi_i = 0
    # reads h = 2 n k / (1 - k), and d^2 = 2 D variance (of n - 1 degrees of
    # freedom): variance = log(n + 1) / D at the factor f = 1.
    n, dim = 16, 64
    particles = _run_persistent(
        _normal(0, n, dim),
        svgd.rbf('mean', factor=factor),
        rate=1.0,
        num_steps=3000,
    )
    variance = np.mean(np.var(particles, axis=0, ddof=1))
    k = (n + 1) ** (-1.0 / factor)
    expected = n * k / (1.0 - k) * math.log(n + 1) / (factor * dim)
    if factor == 1.0:
      self.assertAlmostEqual(expected, math.log(n + 1) / dim)
    # what is left of the way after 3000 steps, and float32
    np.testing.assert_allclose(variance, expected, rtol=1e-3)
    np.testing.assert_allclose(np.mean(particles, axis=0), 0.0, atol=1e-4)

  @parameterized.parameters((8, 32), (32, 4))
  def test_linear_kernel_rests_at_the_right_rank(self, n, dim):
    # sum_i z_i z_i' / n is a projection at rest, of rank min(n - 1, D):
    # variance = min(1, (n - 1) / D).
    particles = _run_persistent(
        _normal(1, n, dim), svgd.linear(1.0), rate=0.1, num_steps=1000
    )
    variance = np.mean(np.var(particles, axis=0))
    # linear convergence, complete after 1000 steps; the rest is float32
    np.testing.assert_allclose(variance, min(1.0, (n - 1) / dim), rtol=1e-4)

  @parameterized.parameters((1.0, 16, 16), (0.25, 32, 2))
  def test_amortised_off_diagonal_rests_at_the_power(self, temperature, n, dim):
    # the fixed point is p^(1/T), here N(0, T I)
    variance = _affine_variance(
        off_diagonal=True,
        temperature=temperature,
        n=n,
        dim=dim,
        num_steps=1500,
        rate=0.5,
    )
    # the noise of 750 averaged steps of n D draws, and h, which sees the set
    np.testing.assert_allclose(variance, temperature, rtol=0.05)

  def test_amortised_all_pairs_collapses(self):
    variance = _affine_variance(
        off_diagonal=False,
        temperature=1.0,
        n=16,
        dim=16,
        num_steps=400,
        rate=0.5,
    )
    # 0.15 in the long run (measured); 400 steps come near it
    self.assertLess(variance, 0.25)

  def test_persistent_set_diverges_off_diagonal(self):
    # no particle then holds itself back, and the repulsion wins
    start = _normal(0, 16, 16)

    def body(particles, _):
      direction = svgd.svgd_direction(
          particles, -particles, svgd.rbf(), off_diagonal=True
      )
      return particles + direction, None

    end, _ = jax.jit(lambda z: jax.lax.scan(body, z, length=500))(start)
    self.assertGreater(np.var(end), 2.0)

  def test_one_step_is_that_of_blackjax(self):
    particles = _normal(3, 12, 5)
    precision = np.linspace(0.5, 2.0, 5, dtype=np.float32)
    score_fn = lambda z: -precision * (z - 0.3)
    h = float(jax.jit(svgd.mean_bandwidth)(particles))
    peer = blackjax.vi.svgd.as_top_level_api(score_fn, optax.sgd(0.1))

    @jax.jit
    def peer_step(particles):
      state = peer.init(particles, {'length_scale': h})
      return peer.step(state).particles

    expected = peer_step(particles)
    scores = -precision[None] * (particles - np.float32(0.3))
    direction = _direction(
        particles, scores, svgd.rbf(h), off_diagonal=False
    )
    # float32, 12 terms; their form is autodiff, ours matmuls
    np.testing.assert_allclose(
        particles + 0.1 * direction, expected, rtol=1e-5, atol=1e-6
    )


def _quadratic_energy(precision, z):
  """sum_d precision_d (z_d - 1)^2 / 2 of z [..., D]."""
  return 0.5 * jnp.sum(
      jnp.broadcast_to(precision, z.shape) * jnp.square(z - 1.0), axis=-1
  )


def _quadratic_score(precision, z):
  """-grad of it by z."""
  return -np.broadcast_to(precision, z.shape) * (z - 1.0)


class SteinParticlesTest(_StrictTest):

  def setUp(self):
    super().setUp()
    self.z = _normal(0, 3, 5, 4)  # [B, K, D]
    self.precision = np.array([0.5, 1.0, 2.0, 4.0], np.float32)

  def _loss(self, z, precision, temperature=1.0, off_diagonal=True, **kwargs):
    particles = svgd.stein_particles(
        z,
        svgd.rbf(),
        off_diagonal=off_diagonal,
        temperature=temperature,
        **kwargs,
    )
    return jnp.mean(_quadratic_energy(precision, particles))

  def _grad(self, z, precision, **kwargs):
    """The gradient of the loss by z, compiled."""
    loss_fn = functools.partial(self._loss, **kwargs)
    return jax.jit(jax.grad(loss_fn))(z, precision)

  def _expected(self, temperature=1.0, off_diagonal=True, bandwidth=None):
    """-phi / (B K), set by set, from scores by hand."""
    directions = [
        _direction_reference(
            z,
            _quadratic_score(self.precision, z),
            'rbf',
            bandwidth or _mean_bandwidth_reference(z),
            off_diagonal=off_diagonal,
            temperature=temperature,
        )
        for z in self.z
    ]
    return -np.stack(directions) / 15

  def test_forward_is_the_identity(self):
    actual = svgd.stein_particles(self.z, svgd.rbf(), off_diagonal=True)
    np.testing.assert_array_equal(actual, self.z)

  @parameterized.product(off_diagonal=(False, True), block_size=(None, 2))
  def test_gradient_is_minus_phi_over_count(self, off_diagonal, block_size):
    actual = self._grad(
        self.z,
        self.precision,
        off_diagonal=off_diagonal,
        block_size=block_size,
    )
    # float32, 5 terms
    np.testing.assert_allclose(
        actual, self._expected(off_diagonal=off_diagonal), rtol=1e-5, atol=1e-6
    )

  def test_scores_have_the_size_of_the_energy(self):
    # a backward pass that forgot the factor B K would take the cotangent for
    # the score: attraction 15 times too weak against the same repulsion
    no_score = -np.stack([
        _direction_reference(
            z,
            _quadratic_score(self.precision, z) / 15,
            'rbf',
            _mean_bandwidth_reference(z),
            off_diagonal=True,
        )
        for z in self.z
    ]) / 15
    actual = np.asarray(self._grad(self.z, self.precision))
    self.assertGreater(np.max(np.abs(actual - no_score)), 1e-2)

  def test_scale_of_the_sets_count_is_free(self):
    # each of two copies of the batch gets half the gradient of one
    one = self._grad(self.z, self.precision)
    two = np.asarray(
        self._grad(np.concatenate([self.z, self.z]), self.precision)
    )
    # float32, halving is exact
    np.testing.assert_allclose(2.0 * two[:3], one, rtol=1e-6, atol=1e-8)

  def test_gradient_of_the_energy_is_its_own(self):
    plain = lambda precision: jnp.mean(_quadratic_energy(precision, self.z))
    actual = jax.jit(jax.grad(self._loss, argnums=1))(self.z, self.precision)
    expected = jax.jit(jax.grad(plain))(self.precision)
    # the same float32 sums, fused otherwise
    np.testing.assert_allclose(actual, expected, rtol=1e-6)

  def test_temperature_may_be_traced_and_has_no_gradient(self):
    grad_fn = jax.jit(jax.grad(self._loss, argnums=(0, 2)))
    for temperature in (0.3, 0.01):
      actual, by_temperature = grad_fn(self.z, self.precision, temperature)
      # float32, 5 terms
      np.testing.assert_allclose(
          actual, self._expected(temperature), rtol=1e-5, atol=1e-6
      )
      self.assertEqual(float(by_temperature), 0.0)

  def test_bandwidth_may_be_traced_and_has_no_gradient(self):
    loss_fn = lambda z, h: self._loss(z, self.precision, bandwidth=h)
    grad_fn = jax.jit(jax.grad(loss_fn, argnums=(0, 1)))
    for h in (0.5, 3.0):
      actual, by_bandwidth = grad_fn(self.z, h)
      # float32, 5 terms
      np.testing.assert_allclose(
          actual, self._expected(bandwidth=h), rtol=1e-5, atol=1e-6
      )
      self.assertEqual(float(by_bandwidth), 0.0)

  def test_gradient_goes_on_to_the_weights_of_the_source(self):
    noise = _normal(1, 3, 5, 4)

    def loss_fn(scale):
      return self._loss(scale * noise, self.precision)

    gradient = jax.jit(jax.grad(loss_fn))(jnp.float32(1.5))
    self.z = np.float32(1.5) * noise
    # float32, 60 terms: J' = noise, contracted with -phi / count
    np.testing.assert_allclose(
        gradient, np.sum(noise * self._expected()), rtol=1e-5
    )

  def test_bfloat16_particles_get_a_bfloat16_gradient_near_it(self):
    gradient = self._grad(
        jnp.asarray(self.z, jnp.bfloat16), jnp.asarray(self.precision)
    )
    self.assertEqual(gradient.dtype, jnp.bfloat16)
    # the particles are rounded, all sums are float32's; bfloat16 has 8 bits
    rounded = np.asarray(jnp.asarray(self.z, jnp.bfloat16).astype(np.float32))
    self.assertGreater(np.max(np.abs(rounded - self.z)), 1e-3)
    np.testing.assert_allclose(
        gradient.astype(np.float32), self._expected(), atol=2e-3
    )

  def test_float64_particles_keep_their_digits(self):
    self.z = self.z.astype(np.float64)
    self.precision = self.precision.astype(np.float64)
    with jax.enable_x64(True):
      gradient = self._grad(self.z, self.precision)
      self.assertEqual(gradient.dtype, np.float64)
    np.testing.assert_allclose(gradient, self._expected(), rtol=1e-11)

  @parameterized.parameters(
      (True, 'rbf', None), (False, 'rbf', 3), (True, 'linear', None)
  )
  def test_sharded_set_has_the_whole_sets_gradient(
      self, off_diagonal, kernel, block
  ):
    noise = _normal(4, 16, 3)
    precision = self.precision[:3]
    kernel = svgd.KERNELS[kernel]('mean')

    def loss_fn(weights, noise, axis_name):
      particles = svgd.stein_particles(
          noise @ weights,
          kernel,
          off_diagonal=off_diagonal,
          block_size=block,
          axis_name=axis_name,
      )
      return jnp.mean(_quadratic_energy(precision, particles))

    def sharded(weights, noise):
      gradient = jax.grad(loss_fn)(weights, noise, 'devices')
      return jax.lax.pmean(gradient, 'devices')

    weights = jnp.asarray(_normal(5, 3, 3))
    grad_fn = jax.grad(loss_fn)
    whole_fn = jax.jit(lambda w, z: grad_fn(w, z, None))
    expected = whole_fn(weights, noise)
    parts = noise.reshape(4, 4, 3)
    options = dict(axis_name='devices', in_axes=(None, 0), out_axes=None)
    for mapped in (jax.pmap, jax.vmap):
      actual = jax.jit(mapped(sharded, **options))(weights, parts)
      # float32 sums of 16 terms in another order
      np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    # each device's own set is another problem: the test can fail
    own = [whole_fn(weights, part) for part in parts]
    difference = np.mean(own, axis=0) - expected
    self.assertGreater(np.max(np.abs(difference)), 1e-2)


class FollowTest(_StrictTest):

  def test_gradient_is_minus_the_direction_over_n(self):
    particles, direction = _normal(0, 6, 3), _normal(1, 6, 3)
    grad_fn = jax.jit(jax.grad(svgd.follow, argnums=(0, 1)))
    by_particles, by_direction = grad_fn(particles, direction)
    # one float32 division
    np.testing.assert_allclose(by_particles, -direction / 6, rtol=1e-6)
    np.testing.assert_array_equal(by_direction, np.zeros((6, 3)))


def _flow_reference(particles, targets, scales):
  """The docstring of `smoothed_flow` as loops in float64."""
  u, y = particles.astype(np.float64), targets.astype(np.float64)
  n, dim = u.shape
  unit = math.sqrt(2 * dim)
  total = np.zeros_like(u)
  for scale in scales:
    flows = []
    for i in range(n):
      w = [math.exp(-np.linalg.norm(u[i] - b) / (scale * unit)) for b in y]
      v = [
          0.0 if j == i
          else math.exp(-np.linalg.norm(u[i] - u[j]) / (scale * unit))
          for j in range(n)
      ]
      to_y = sum(weight * b for weight, b in zip(w, y)) / sum(w)
      to_u = sum(weight * b for weight, b in zip(v, u)) / sum(v)
      flows.append(to_y - to_u)
    flows = np.stack(flows)
    total += flows / math.sqrt(np.mean(np.sum(flows**2, axis=1)))
  return total


class SmoothedFlowTest(_StrictTest):

  @parameterized.parameters((8, 8), (9, 5))
  def test_matches_loop(self, n, m):
    particles, targets = _normal(0, n, 4), _normal(1, m, 4) + 1.0
    scales = (0.05, 0.2, 1.0)
    actual = jax.jit(functools.partial(svgd.smoothed_flow, scales=scales))(
        particles, targets
    )
    expected = _flow_reference(particles, targets, scales)
    # float32 distances over the least scale 0.05: their rounding times 20
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)

  def test_sharded_sets_have_the_flow_of_the_whole(self):
    particles, targets = _normal(0, 16, 4), _normal(1, 24, 4)
    scales = (0.05, 0.2)
    whole_fn = functools.partial(svgd.smoothed_flow, scales=scales)
    expected = jax.jit(whole_fn)(particles, targets)
    parts = particles.reshape(4, 4, 4), targets.reshape(4, 6, 4)
    flow_fn = functools.partial(
        svgd.smoothed_flow, scales=scales, axis_name='devices'
    )
    for mapped in (jax.pmap, jax.vmap):
      actual = jax.jit(mapped(flow_fn, axis_name='devices'))(*parts)
      # float32; distances over the least scale
      np.testing.assert_allclose(
          actual.reshape(16, 4), expected, rtol=1e-4, atol=1e-5
      )

  def test_all_products_are_in_full_precision(self):
    flow_fn = functools.partial(svgd.smoothed_flow, scales=(0.2,))
    program = jax.jit(flow_fn).lower(_normal(0, 5, 3), _normal(1, 5, 3))
    _assert_products_are_exact(self, program)

  def test_a_shift_is_followed(self):
    particles, targets = _normal(0, 64, 2), _normal(1, 64, 2)
    shift = np.array([1.0, 0.0], np.float32)
    flow_fn = jax.jit(functools.partial(svgd.smoothed_flow, scales=(0.2,)))
    flow = flow_fn(particles, targets + shift)
    mean = np.mean(np.asarray(flow), axis=0)
    self.assertGreater(mean[0], 0.3)  # of a root mean square of 1
    self.assertGreater(mean[0], 3 * abs(mean[1]))

  def test_at_rest_in_expectation_where_the_laws_are_equal(self):
    point = np.array([[0.8, -0.4]], np.float32)
    num_draws, n = 500, 33
    others = _normal(2, num_draws, n - 1, 2)
    targets = _normal(3, num_draws, n - 1, 2)

    def flow_at_point(others, targets):
      particles = jnp.concatenate([point, others])
      return svgd.smoothed_flow(particles, targets, (0.1, 0.3))[0]

    run = jax.jit(jax.vmap(flow_at_point))
    # n - 1 targets against n - 1 other particles: exchangeable, mean 0
    flows = np.asarray(run(others, targets))
    error = np.std(flows, axis=0) / math.sqrt(num_draws)
    np.testing.assert_array_less(np.abs(np.mean(flows, axis=0)), 4 * error)
    # the same statistic sees a shift of one half
    moved = np.asarray(run(others, targets + np.float32(0.5)))
    self.assertTrue(np.all(np.mean(moved, axis=0) > 8 * error))

  @parameterized.parameters('float16', 'bfloat16')
  def test_sets_that_coincide_are_at_rest(self, dtype):
    points = jnp.full((5, 2), 0.3, dtype)
    flow_fn = jax.jit(functools.partial(svgd.smoothed_flow, scales=(0.2,)))
    flow = flow_fn(points, points)
    self.assertEqual(flow.dtype, dtype)
    np.testing.assert_array_equal(flow, jnp.zeros((5, 2), dtype))

  def test_no_gradient_flows_through_it(self):
    total = lambda u, y: jnp.sum(svgd.smoothed_flow(u, y, (0.2,)))
    grad_fn = jax.jit(jax.grad(total, argnums=(0, 1)))
    grads = grad_fn(_normal(0, 5, 2), _normal(1, 5, 2))
    chex.assert_trees_all_equal(grads, (np.zeros((5, 2)), np.zeros((5, 2))))


if __name__ == '__main__':
  absltest.main()
