"""Blocks of the kernel matrix, which bound memory and fit caches."""

import jax
import jax.numpy as jnp

Array = jax.Array

# Numbers of a block of the kernel matrix, by platform: 8 MB stay in a CPU's
# caches between the two products; elsewhere 256 MB only bound the memory.
_BLOCK_NUMBERS = {'cpu': 2**21}
_OTHER_BLOCK_NUMBERS = 2**26

# Rows of a block at least, below which the products become slow.
_MIN_BLOCK_ROWS = 64

# Particles of a block, by platform, where they are more than can be taken at
# once without blocks of too few rows; elsewhere all of them.
_BLOCK_COLUMNS = {'cpu': 2048}
_MAX_WHOLE_ROW = 4096


def choose_block(
    num_queries: int,
    num_particles: int,
    platform: str,
    numbers_per_pair: int = 1,
) -> tuple[int, int]:
  """The part of the kernel matrix that is computed at a time.

  As many rows as have 2^21 numbers (8 MB) on a CPU and 2^26 elsewhere, or 64 if
  that is more, split into blocks of one size. On a CPU all rows of up to 1,448
  particles, 1,024 of 2,048, 512 of 4,096; of more, at most 2,048 at a time.

  Args:
    num_queries: m, the rows that are wanted.
    num_particles: n.
    platform: As `jax.default_backend` names it.
    numbers_per_pair: D for a kernel that is a function, which has gradients.

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
  """Raises a ValueError for blocks without rows."""
  if block_size is not None and block_size < 1:
    raise ValueError(
        f'block_size={block_size} leaves a block without rows; use 1 or more,'
        ' or None to have it chosen'
    )


def _equal_part(total: int, most: int) -> int:
  """The size of equal parts of about `most`, in whole vectors of 8."""
  if most >= total:
    return total
  num_parts = -(-total // most)
  return min(8 * -(-total // (8 * num_parts)), total)


def sum_parts(contract_fn, particles, scores, size) -> Array:
  """The sum of `contract_fn(particles, scores, first index)` over parts."""
  n, dim = particles.shape
  if size >= n:
    return contract_fn(particles, scores, 0)
  first = n - (n - 1) // size * size  # the odd part, of 1 to `size`
  total = contract_fn(particles[:first], scores[:first], 0)

  def add(total, part):
    return total + contract_fn(*part), None

  rest = [x[first:].reshape(-1, size, dim) for x in (particles, scores)]
  return jax.lax.scan(add, total, (*rest, jnp.arange(first, n, size)))[0]


def map_blocks(rows_fn, queries, indices, block_size) -> Array:
  """Applies `rows_fn` to blocks of rows, one at a time; pads the last."""
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
