"""Blocks of the kernel matrix: they bound the memory and fit into caches."""

import jax
import jax.numpy as jnp

Array = jax.Array

# The numbers in a block of the kernel matrix, by platform. On a CPU, 8 MB stay
# in the caches between the two products. Elsewhere 256 MB bound the memory.
_BLOCK_NUMBERS = {'cpu': 2**21}
_OTHER_BLOCK_NUMBERS = 2**26

# The least number of rows in a block: with fewer, the products become slow.
_MIN_BLOCK_ROWS = 64

# The particles in a block, by platform, if there are more than _MAX_WHOLE_ROW:
# with all of them, blocks would have too few rows. Elsewhere all of them.
_BLOCK_COLUMNS = {'cpu': 2048}
_MAX_WHOLE_ROW = 4096


def choose_block(
  num_queries: int,
  num_particles: int,
  platform: str,
  numbers_per_pair: int = 1,
) -> tuple[int, int]:
  """The part of the kernel matrix that is computed at a time.

  A block has as many rows as fit into 2^21 numbers (8 MB) on a CPU and 2^26
  elsewhere, but at least 64; all blocks have equal size. On a CPU a block has
  all rows of up to 1,448 particles, 1,024 rows of 2,048 and 512 rows of 4,096.
  Of more particles it has at most 2,048 at a time.

  Args:
    num_queries: m, the rows that are wanted.
    num_particles: n.
    platform: The name that `jax.default_backend` gives it.
    numbers_per_pair: 1, or D for a kernel that is a function, whose gradients
      are computed too.

  Returns:
    The rows, at most m, and the particles, at most n, of a block.
  """
  numbers = _BLOCK_NUMBERS.get(platform, _OTHER_BLOCK_NUMBERS)
  columns = num_particles
  if (
    platform in _BLOCK_COLUMNS
    and num_particles > _MAX_WHOLE_ROW
    and num_queries * num_particles * numbers_per_pair > numbers
  ):
    columns = _equal_part(num_particles, _BLOCK_COLUMNS[platform])
  rows = max(numbers // max(columns * numbers_per_pair, 1), _MIN_BLOCK_ROWS)
  return _equal_part(num_queries, rows), columns


def check_block_size(block_size: int | None) -> None:
  """Raises a ValueError if a block would have no rows."""
  if block_size is not None and block_size < 1:
    raise ValueError(
      f'block_size={block_size} leaves a block without rows; use 1 or more,'
      ' or None to have it chosen'
    )


def _equal_part(total: int, most: int) -> int:
  """The size of equal parts of about `most` items, a multiple of 8."""
  if most >= total:
    return total
  num_parts = -(-total // most)
  return min(8 * -(-total // (8 * num_parts)), total)


def sum_parts(contract_fn, particles, scores, size) -> Array:
  """The sum of `contract_fn(particles, scores, first index)` over parts."""
  n, dim = particles.shape
  if size >= n:
    return contract_fn(particles, scores, 0)
  first = n - (n - 1) // size * size  # the first part has 1 to `size`
  total = contract_fn(particles[:first], scores[:first], 0)

  def add(total, part):
    return total + contract_fn(*part), None

  rest = [x[first:].reshape(-1, size, dim) for x in (particles, scores)]
  return jax.lax.scan(add, total, (*rest, jnp.arange(first, n, size)))[0]


def map_blocks(rows_fn, queries, indices, block_size) -> Array:
  """Applies `rows_fn` to one block of rows after another; pads the last."""
  m, dim = queries.shape
  num_blocks = -(-m // block_size)
  padding = num_blocks * block_size - m
  queries = jnp.pad(queries, ((0, padding), (0, 0)))
  indices = jnp.pad(indices, (0, padding), constant_values=-1)
  blocks = jax.lax.map(
    rows_fn,
    (
      queries.reshape(num_blocks, block_size, dim),
      indices.reshape(num_blocks, block_size),
    ),
  )
  return blocks.reshape(-1, dim)[:m]
