"""Tests of ldc_vae.runtime.checkpoint."""

import shutil

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax

from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import manifest
from tests.runtime import checkpoint_case as case


class RoundTripTest(case.CheckpointTestCase):
  def test_empty_directory_restores_none(self):
    self.assertIsNone(self.restore())
    self.assertEqual(checkpoint_folder.verify(self.directory), [])

  def test_train_state_is_bit_identical(self):
    self.save(7)
    restored = self.restore()
    self.assertEqual(restored.step, 7)
    self.assertEqual(restored.meta, {'epoch': 7})
    self.assertEqual(restored.metrics, {'validation/loss': 7.0})
    self.assertIs(type(restored.state), case.TrainState)
    case.assert_identical(restored.state, case.train_state(7))

  @parameterized.named_parameters(
    ('python_int', 3),
    ('python_float', 0.1),
    ('python_bool', True),
    ('numpy_scalar', np.uint64(2**63 + 1)),
    ('float64', np.array([0.1, -0.0, np.inf])),
    ('nan_payload', np.array([0x7FC00001], np.uint32).view(np.float32)),
    ('big_endian', np.arange(3, dtype='>f4')),
    ('column_major', np.asfortranarray(np.arange(6.0).reshape(2, 3))),
    ('empty', np.zeros((0, 3), np.float32)),
    ('bool', np.array([True, False])),
    ('complex', np.array([1 + 2j], np.complex64)),
    ('int4', np.arange(-8, 8).astype(ml_dtypes.int4)),
    ('float8', np.ones(3, ml_dtypes.float8_e4m3fn)),
    ('bfloat16', np.array([1e-3, 3.0], ml_dtypes.bfloat16)),
  )
  def test_leaf_of_any_kind_is_bit_identical(self, leaf):
    state = {'x': leaf, 'none': None, 'dotted.name/slash': [leaf]}
    self.save(1, state=state)
    actual = self.restore(state).state
    expected = jax.tree.map(
      lambda x: x.astype('=f4') if _is_big_endian(x) else x, state
    )
    case.assert_identical(actual, expected)

  def test_keys_of_every_implementation(self):
    state = {
      'threefry': jax.random.split(jax.random.key(1), 3),
      'rbg': jax.random.key(2, impl='rbg'),
      'raw': jax.random.PRNGKey(3),
    }
    self.save(1, state=state)
    actual = self.restore(state).state
    case.assert_identical(actual, state)
    self.assertEqual(actual['rbg'].dtype, state['rbg'].dtype)

  def test_weak_types_stay_weak(self):
    state = {'weak': jnp.full((2,), 0.5), 'strong': jnp.ones((2,))}
    self.assertTrue(state['weak'].weak_type)
    self.save(1, state=state)
    actual = self.restore(state).state
    case.assert_identical(actual, state)
    self.assertTrue(actual['weak'].weak_type)
    self.assertFalse(actual['strong'].weak_type)

  def test_shapes_are_a_template_as_arrays_are(self):
    state = {
      'weak': jnp.full((2,), 0.5),
      'counts': jnp.asarray(3),
      'bfloat16': jnp.ones((2, 3), jnp.bfloat16),
    }
    self.save(1, state=state)
    actual = self.restore(jax.eval_shape(lambda: state)).state
    case.assert_identical(actual, state)
    self.assertTrue(actual['weak'].weak_type)
    self.assertFalse(actual['bfloat16'].weak_type)
    with self.assertRaisesRegex(manifest.CheckpointError, 'counts'):
      self.restore(jax.eval_shape(lambda: {**state, 'counts': jnp.ones(2)}))

  def test_path_with_spaces_and_accents(self):
    self.directory = self.directory.with_name('my run, été #1 100%')
    self.save(1)
    case.assert_identical(self.restore().state, case.train_state(1))

  def test_a_save_that_kept_nothing_is_an_error(self):
    # brackets are a pattern to tensorstore, which then keeps no array
    self.directory = self.directory.with_name('rate[0.1]')
    with self.assertRaisesRegex(
      manifest.CheckpointError, 'could not be saved.* has kept nothing'
    ):
      self.save(1)
    self.assertFalse((self.directory / '1').exists())

  def test_state_without_a_value(self):
    self.save(1, state={'opt': optax.EmptyState(), 'x': np.zeros(0)})
    self.assertEqual(
      self.restore({'opt': optax.EmptyState(), 'x': np.zeros(0)}).step, 1
    )

  def test_state_that_is_one_array(self):
    self.save(1, state=np.arange(3))
    np.testing.assert_array_equal(
      self.restore(np.zeros(3, int)).state, np.arange(3)
    )

  def test_restored_arrays_go_to_any_number_of_devices(self):
    state = {'x': _add_over_devices(jnp.arange(3.0), 4)}
    self.assertLen(state['x'].sharding.device_set, 4)
    self.save(1, state=state)
    restored = self.restore(state).state['x']
    np.testing.assert_array_equal(restored, [4.0, 5.0, 6.0])
    for num_devices in (1, 2, 4):
      np.testing.assert_array_equal(
        _add_over_devices(restored, num_devices), restored + num_devices
      )

  def test_changing_the_state_after_save_changes_nothing(self):
    array = np.ones(1000)
    donated = jnp.ones(1000)
    with checkpoint.Checkpointer(self.directory) as checkpointer:
      state = {'array': array, 'donated': donated}
      checkpointer.save(1, state, metrics={}, meta={})
      array[:] = 2.0
      donated = jax.jit(lambda x: 3 * x, donate_argnums=0)(donated)
      donated.block_until_ready()
    like = {'array': np.zeros(1000), 'donated': jnp.zeros(1000)}
    restored = self.restore(like).state
    chex.assert_trees_all_equal(restored, jax.tree.map(np.ones_like, like))

  def test_changing_what_was_restored_is_allowed(self):
    self.save(1, state={'x': np.ones(3)})
    restored = self.restore({'x': np.zeros(3)}).state
    restored['x'][:] = 5.0
    np.testing.assert_array_equal(
      self.restore({'x': np.zeros(3)}).state['x'], np.ones(3)
    )


def _add_over_devices(x, num_devices):
  """Returns x + num_devices, replicated over the devices."""
  add_fn = jax.pmap(
    lambda x, ones: x + jax.lax.psum(ones, 'devices'),
    axis_name='devices',
    in_axes=(None, 0),
    out_axes=None,
    devices=jax.devices()[:num_devices],
  )
  return add_fn(x, np.ones(num_devices, np.float32))


def _is_big_endian(x):
  return isinstance(x, np.ndarray) and x.dtype.byteorder == '>'


class RetentionTest(case.CheckpointTestCase):
  def test_latest_two_and_the_best_are_kept(self):
    with checkpoint.Checkpointer(self.directory) as checkpointer:
      for step, loss in enumerate([5.0, 1.0, 4.0, np.nan, 3.0, 2.0]):
        checkpointer.save(
          step,
          {'x': np.int32(step)},
          metrics={'validation/loss': loss},
          meta={},
        )
      checkpointer.wait()
      self.assertEqual(checkpointer.latest_step(), 5)
    self.assertEqual(self.steps(), {1, 4, 5})
    like = {'x': np.int32(0)}
    self.assertEqual(self.restore(like).step, 5)
    self.assertEqual(self.restore(like, 'best').state, {'x': 1})

  def test_nothing_is_seen_half_deleted(self):
    self.save(1, 2)
    self.enter_context(absltest.mock.patch.object(shutil, 'rmtree'))
    self.save(3)  # killed, as it were, before what it replaced was deleted
    self.assertEqual(self.steps(), {1, 2, 3})
    self.save(4)
    self.assertEqual(self.steps(), {1, 3, 4})
    self.assertTrue((self.directory / '2.deleted').exists())

  def test_without_a_loss_the_best_is_the_latest(self):
    with checkpoint.Checkpointer(self.directory) as checkpointer:
      for step in (1, 2, 3):
        checkpointer.save(step, {'x': 1.0}, metrics={}, meta={})
    self.assertEqual(self.steps(), {2, 3})
    self.assertEqual(self.restore({'x': 0.0}, 'best').step, 3)

  def test_a_step_before_the_latest_is_kept_when_saved(self):
    self.save(10, 20, 30)
    self.save(15, loss=99.0)
    self.assertIn(15, self.steps())

  def test_same_step_and_state_is_a_no_op(self):
    self.save(1)
    written = (self.directory / '1').stat().st_ino
    self.save(1)
    self.assertEqual((self.directory / '1').stat().st_ino, written)

  def test_same_step_and_another_state_replaces(self):
    self.save(1)
    self.save(1, state=case.train_state(9))
    case.assert_identical(self.restore().state, case.train_state(9))
    self.assertEqual({x.name for x in self.directory.iterdir()}, {'1'})

  def test_saving_again_heals_a_corrupt_step(self):
    self.save(1)
    case.corrupt(self.directory, 1)
    self.save(1)
    case.assert_identical(self.restore().state, case.train_state(1))

  def test_interrupted_replacement_is_completed(self):
    self.save(1, 2)
    for step in (1, 2):
      shutil.copytree(
        self.directory / str(step), self.directory / f'{step}.replaced'
      )
    shutil.rmtree(self.directory / '2')  # killed before the new one was there
    self.assertEqual(self.restore().step, 2)
    self.assertEqual({x.name for x in self.directory.iterdir()}, {'1', '2'})


if __name__ == '__main__':
  absltest.main()
