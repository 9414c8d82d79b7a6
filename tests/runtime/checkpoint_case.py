"""A small train state, and a test case that saves and restores it."""

import pathlib
import tempfile
from typing import Any

from absl.testing import parameterized
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae.runtime import checkpoint


@flax.struct.dataclass
class TrainState:
  step: jax.Array
  params: dict[str, Any]
  opt_state: Any
  key: jax.Array


def train_state(seed=0, width=8):
  kernel_key, state_key = jax.random.split(jax.random.key(seed))
  params = {
    'encoder': {
      'kernel': jax.random.normal(kernel_key, (4, width)),
      'bias': jnp.zeros((width,), jnp.bfloat16),
    }
  }
  return TrainState(
    step=jnp.int32(seed),
    params=params,
    opt_state=optax.adam(1e-3).init(params),
    key=state_key,
  )


def _bits(leaf):
  """Returns (dtype, shape, bytes): equality of these is bit-identity."""
  if isinstance(leaf, jax.Array) and jnp.issubdtype(
    leaf.dtype, jax.dtypes.prng_key
  ):
    leaf = jax.random.key_data(leaf)
  leaf = np.asarray(leaf)
  return leaf.dtype.name, leaf.shape, leaf.tobytes()


def assert_identical(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for one, other in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert type(one) is type(other), (type(one), type(other))
    assert _bits(one) == _bits(other)


def corrupt(directory, step):
  """Flips one byte of the arrays of a step."""
  (path,) = (directory / str(step) / 'state' / 'd').iterdir()
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


class CheckpointTestCase(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    temporary = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(temporary) / 'ckpt'

  def save(self, *steps, loss=None, state=None):
    """Saves `steps`; the loss of each is its step unless given."""
    with checkpoint.Checkpointer(self.directory) as checkpointer:
      for step in steps:
        checkpointer.save(
          step,
          train_state(step) if state is None else state,
          metrics={'validation/loss': step if loss is None else loss},
          meta={'epoch': step},
        )

  def restore(self, like=None, which='latest'):
    like = train_state() if like is None else like
    with checkpoint.Checkpointer(self.directory) as checkpointer:
      return checkpointer.restore(like, which)

  def steps(self):
    return {int(x.name) for x in self.directory.iterdir() if x.name.isdigit()}
