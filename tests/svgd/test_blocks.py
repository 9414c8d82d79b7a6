"""Tests of ldc_vae.svgd.blocks."""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import svgd
from ldc_vae.svgd import blocks
from tests.svgd import svgd_case

_direction = svgd_case.direction
_normal = svgd_case.normal


class BlockTest(svgd_case.StrictTest):
  @parameterized.parameters(
    (100, 'cpu', (100, 100)),
    (1448, 'cpu', (1448, 1448)),
    (1449, 'cpu', (728, 1449)),
    (2048, 'cpu', (1024, 2048)),
    (4096, 'cpu', (512, 4096)),
    (8192, 'cpu', (1024, 2048)),
    (10**6, 'cpu', (1024, 2048)),
    (8192, 'gpu', (8192, 8192)),
    (32768, 'tpu', (2048, 32768)),
    (2**21, 'gpu', (64, 2**21)),
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


class DirectionInBlocksTest(svgd_case.StrictTest):
  @parameterized.parameters(
    ('rbf', 1, False, True),
    ('rbf', 4, True, False),
    ('rbf', 7, True, True),
    ('rbf', 64, True, True),
    ('imq', 4, False, False),
    ('multi_scale', 11, True, False),
    ('linear', 4, True, False),
    ('function', 3, True, False),
  )
  def test_blocks_change_nothing(
    self, name, block_size, off_diagonal, normalise
  ):
    particles, scores = _normal(2, 11, 5), _normal(3, 11, 5)
    if name == 'function':
      kernel = functools.partial(svgd.imq_kernel, bandwidth=2.0)
    else:
      kernel = svgd.KERNELS[name]('mean')
    direction_fn = functools.partial(
      svgd.svgd_direction,
      kernel=kernel,
      off_diagonal=off_diagonal,
      normalise=normalise,
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
    name=('rbf', 'linear', 'function', 'normalised'),
    off_diagonal=(False, True),
    num=(40, 43, 48),
  )
  def test_parts_of_the_particles_change_nothing(self, name, off_diagonal, num):
    particles, scores = _normal(2, num, 3), _normal(3, num, 3)
    if name == 'function':
      kernel = functools.partial(svgd.imq_kernel, bandwidth=2.0)
    else:
      kernel = svgd.KERNELS.get(name, svgd.rbf)(2.0)
    direction_fn = functools.partial(
      svgd.svgd_direction,
      kernel=kernel,
      off_diagonal=off_diagonal,
      normalise=name == 'normalised',
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
      mock.patch.object(blocks, '_BLOCK_COLUMNS', {'cpu': 8}),
      mock.patch.object(blocks, '_BLOCK_NUMBERS', {'cpu': 64}),
      mock.patch.object(blocks, '_MIN_BLOCK_ROWS', 8),
      mock.patch.object(blocks, '_MAX_WHOLE_ROW', 16),
    ):
      rows, columns = svgd.choose_block(30, num, 'cpu')
      self.assertEqual((rows, columns), (8, 8))  # four blocks of many parts
      actual, both = jax.device_get(in_parts(particles, scores))
    # the same sums of 48 float32 terms in another order
    near = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
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

  @parameterized.product(off_diagonal=(False, True), normalise=(False, True))
  def test_queries_are_rows_of_the_whole(self, off_diagonal, normalise):
    particles, scores = _normal(2, 9, 4), _normal(3, 9, 4)
    direction_fn = functools.partial(
      svgd.svgd_direction,
      kernel=svgd.rbf(),
      off_diagonal=off_diagonal,
      normalise=normalise,
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

  @parameterized.parameters(0, -3)
  def test_blocks_without_rows_are_an_error(self, block_size):
    options = dict(kernel=svgd.rbf(), off_diagonal=False, block_size=block_size)
    for call in (
      lambda z: svgd.svgd_direction(z, z, **options),
      lambda z: svgd.stein_particles(z, **options),  # before its gradient
    ):
      with self.assertRaisesRegex(
        ValueError, f'^block_size={block_size} leaves .*; use 1 or more, or'
      ):
        call(jnp.zeros((4, 3)))


if __name__ == '__main__':
  absltest.main()
