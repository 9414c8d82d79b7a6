"""Tests of ldc_vae.runtime.checkpoint."""

from concurrent import futures
import errno
import functools
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from typing import Any

from absl.testing import absltest
from absl.testing import parameterized
import chex
import flax.struct
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from ldc_vae.runtime import checkpoint
from tests.runtime import rights_case


@flax.struct.dataclass
class TrainState:
  step: jax.Array
  params: dict[str, Any]
  opt_state: Any
  key: jax.Array


def _train_state(seed=0, width=8):
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


def _assert_identical(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for one, other in zip(
      jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert type(one) is type(other), (type(one), type(other))
    assert _bits(one) == _bits(other)


def _corrupt(directory, step):
  """Flips one byte of the arrays of a step."""
  (path,) = (directory / str(step) / 'state' / 'd').iterdir()
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


class _TestCase(parameterized.TestCase):

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
            _train_state(step) if state is None else state,
            metrics={'validation/loss': step if loss is None else loss},
            meta={'epoch': step},
        )

  def restore(self, like=None, which='latest'):
    like = _train_state() if like is None else like
    with checkpoint.Checkpointer(self.directory) as checkpointer:
      return checkpointer.restore(like, which)

  def steps(self):
    return {int(x.name) for x in self.directory.iterdir() if x.name.isdigit()}


class RoundTripTest(_TestCase):

  def test_empty_directory_restores_none(self):
    self.assertIsNone(self.restore())
    self.assertEqual(checkpoint.verify(self.directory), [])

  def test_train_state_is_bit_identical(self):
    self.save(7)
    restored = self.restore()
    self.assertEqual(restored.step, 7)
    self.assertEqual(restored.meta, {'epoch': 7})
    self.assertEqual(restored.metrics, {'validation/loss': 7.0})
    self.assertIs(type(restored.state), TrainState)
    _assert_identical(restored.state, _train_state(7))

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
    _assert_identical(actual, expected)

  def test_keys_of_every_implementation(self):
    state = {
        'threefry': jax.random.split(jax.random.key(1), 3),
        'rbg': jax.random.key(2, impl='rbg'),
        'raw': jax.random.PRNGKey(3),
    }
    self.save(1, state=state)
    actual = self.restore(state).state
    _assert_identical(actual, state)
    self.assertEqual(actual['rbg'].dtype, state['rbg'].dtype)

  def test_weak_types_stay_weak(self):
    state = {'weak': jnp.full((2,), 0.5), 'strong': jnp.ones((2,))}
    self.assertTrue(state['weak'].weak_type)
    self.save(1, state=state)
    actual = self.restore(state).state
    _assert_identical(actual, state)
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
    _assert_identical(actual, state)
    self.assertTrue(actual['weak'].weak_type)
    self.assertFalse(actual['bfloat16'].weak_type)
    with self.assertRaisesRegex(checkpoint.CheckpointError, 'counts'):
      self.restore(jax.eval_shape(lambda: {**state, 'counts': jnp.ones(2)}))

  def test_path_with_spaces_and_accents(self):
    self.directory = self.directory.with_name('my run, été #1 100%')
    self.save(1)
    _assert_identical(self.restore().state, _train_state(1))

  def test_a_save_that_kept_nothing_is_an_error(self):
    # brackets are a pattern to tensorstore, which then keeps no array
    self.directory = self.directory.with_name('rate[0.1]')
    with self.assertRaisesRegex(
        checkpoint.CheckpointError, 'could not be saved.* has kept nothing'
    ):
      self.save(1)
    self.assertFalse((self.directory / '1').exists())

  def test_state_without_a_value(self):
    self.save(1, state={'opt': optax.EmptyState(), 'x': np.zeros(0)})
    self.assertEqual(self.restore({'opt': optax.EmptyState(),
                                   'x': np.zeros(0)}).step, 1)

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


class RetentionTest(_TestCase):

  def test_latest_two_and_the_best_are_kept(self):
    with checkpoint.Checkpointer(self.directory) as checkpointer:
      for step, loss in enumerate([5.0, 1.0, 4.0, np.nan, 3.0, 2.0]):
        checkpointer.save(
            step, {'x': np.int32(step)}, metrics={'validation/loss': loss},
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
    self.assertEqual(
        [x.name for x in (self.directory / 'deleted').iterdir()], ['2']
    )

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
    self.save(1, state=_train_state(9))
    _assert_identical(self.restore().state, _train_state(9))
    self.assertEqual({x.name for x in self.directory.iterdir()}, {'1'})

  def test_saving_again_heals_a_corrupt_step(self):
    self.save(1)
    _corrupt(self.directory, 1)
    self.save(1)
    _assert_identical(self.restore().state, _train_state(1))

  def test_interrupted_replacement_is_completed(self):
    self.save(1, 2)
    for step in (1, 2):
      shutil.copytree(
          self.directory / str(step), self.directory / f'{step}.replaced'
      )
    shutil.rmtree(self.directory / '2')  # killed before the new one was there
    self.assertEqual(self.restore().step, 2)
    self.assertEqual({x.name for x in self.directory.iterdir()}, {'1', '2'})


class CorruptionTest(_TestCase):

  def test_falls_back_with_a_warning_and_sets_aside(self):
    self.save(1, 2)
    _corrupt(self.directory, 2)
    with self.assertLogs('absl', 'WARNING') as logs:
      restored = self.restore()
    self.assertEqual(restored.step, 1)
    _assert_identical(restored.state, _train_state(1))
    self.assertRegex(logs.output[0], r'ckpt/2 is corrupt .*2\.corrupt')
    self.assertTrue((self.directory / '2.corrupt').is_dir())
    self.save(2)  # as the resumed run will
    self.assertEqual(self.restore().step, 2)

  def test_best_falls_back_to_the_next_best(self):
    self.save(1, 2, 3)
    _corrupt(self.directory, 1)
    with self.assertLogs('absl', 'WARNING'):
      self.assertEqual(self.restore(which='best').step, 2)

  def test_corrupt_manifest_of_the_best_is_not_passed_over_in_silence(self):
    self.save(1, 2, 3)
    path = self.directory / '1' / 'manifest' / 'metadata'
    path.write_text(path.read_text().replace('1.0', '9.0'))
    with self.assertLogs('absl', 'WARNING'):
      self.assertEqual(self.restore(which='best').step, 2)

  def test_none_verifies(self):
    self.save(1, 2)
    _corrupt(self.directory, 1)
    (self.directory / '2' / 'manifest' / 'metadata').write_bytes(b'')
    for _ in range(2):  # and does not pass for an empty directory later
      with self.assertRaisesRegex(
          checkpoint.CheckpointError, 'no checkpoint in .*ckpt verifies.*remove'
      ):
        self.restore()

  def test_verify_names_the_corrupt(self):
    self.save(1, 2)
    _corrupt(self.directory, 1)
    first, second = checkpoint.verify(self.directory)
    self.assertEqual((first.step, first.ok), (1, False))
    self.assertNotEmpty(first.reason)
    self.assertEqual(second, checkpoint.Verification(2, True, ''))
    self.assertEqual(self.steps(), {1, 2})

  def test_a_corrupt_old_checkpoint_does_not_stop_a_save(self):
    self.save(1, 2)
    for path in (self.directory / '2').rglob('*'):
      if path.is_file():
        path.write_bytes(b'\xff' * 10)
    self.save(3)
    self.assertEqual(self.restore().step, 3)

  def test_a_true_best_survives_a_corrupt_manifest(self):
    self.save(1, 2, 3)
    (self.directory / '3' / 'manifest' / 'metadata').write_bytes(b'')
    self.save(4, 5)
    self.assertEqual(self.steps(), {1, 4, 5})

  def test_read_only_changes_nothing(self):
    self.save(1, 2)
    _corrupt(self.directory, 2)
    with checkpoint.Checkpointer(self.directory, read_only=True) as reader:
      with self.assertLogs('absl', 'WARNING'):
        self.assertEqual(reader.restore(_train_state()).step, 1)
      with self.assertRaisesRegex(OSError, 'read_only=True'):
        reader.save(3, _train_state(), metrics={}, meta={})
    self.assertEqual(self.steps(), {1, 2})

  @parameterized.parameters('flip', 'delete')
  def test_damage_anywhere_is_found_or_harmless(self, damage):
    self.damage(damage, 20, random.Random(damage))

  def test_truncation_of_any_file_is_found_or_harmless(self):
    self.save(1, 2)
    original = self.keep_original()
    num_found = 0
    for path in self.files(2):
      size = path.stat().st_size
      for length in {0, size // 2, size - 1}:
        os.truncate(path, length)
        num_found += self.found_or_harmless()
        self.put_back(original)
    self.assertGreaterEqual(num_found, 9)  # manifest, arrays and their index

  @pytest.mark.slow
  def test_hundreds_of_flips_are_found_or_harmless(self):
    # 50 kB of noise, so that arrays have files of their own
    num_found = self.damage('flip', 400, random.Random(0), width=1000)
    print(f'400 flips: {num_found} found, the others harmless')

  def damage(self, kind, times, rng, width=8):
    """Damages a file of checkpoint 2 that many times; counts what is found."""
    self.state_fn = functools.partial(_train_state, width=width)
    for step in (1, 2):
      self.save(step, state=self.state_fn(step))
    original = self.keep_original()
    files = self.files(2)
    sizes = [path.stat().st_size for path in files]
    num_found = 0
    for i in range(times):
      # every file, and the large ones byte by byte
      path = rng.choices(files, sizes if i % 2 else None)[0]
      data = bytearray(path.read_bytes())
      if kind == 'flip':
        data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        path.write_bytes(data)
      else:
        path.unlink()
      num_found += self.found_or_harmless()
      self.put_back(original)
    self.assertBetween(num_found, 1, times - 1)  # some files hold nothing
    return num_found

  def found_or_harmless(self):
    """Whether checkpoint 2 was found damaged; if not, it is what was saved."""
    state_fn = getattr(self, 'state_fn', _train_state)
    restored = self.restore(state_fn())
    self.assertIn(restored.step, (1, 2))
    self.assertEqual(restored.meta, {'epoch': restored.step})
    self.assertEqual(restored.metrics, {'validation/loss': restored.step})
    _assert_identical(restored.state, state_fn(restored.step))
    found = restored.step == 1
    self.assertEqual((self.directory / '2.corrupt').exists(), found)
    return found

  def files(self, step):
    return sorted(
        path for path in (self.directory / str(step)).rglob('*')
        if path.is_file()
    )

  def keep_original(self):
    original = self.directory.with_name('original')
    shutil.copytree(self.directory, original)
    return original

  def put_back(self, original):
    shutil.rmtree(self.directory)
    shutil.copytree(original, self.directory)

  def test_a_renamed_checkpoint_is_found(self):
    self.save(1, 2)
    (self.directory / '2').rename(self.directory / '20')
    with self.assertLogs('absl', 'WARNING') as logs:
      self.assertEqual(self.restore().step, 1)
    self.assertIn('its manifest is that of step 2', logs.output[0])

  def test_what_was_set_aside_before_is_kept(self):
    self.save(1)
    for _ in range(3):
      self.save(2)
      _corrupt(self.directory, 2)
      with self.assertLogs('absl', 'WARNING'):
        self.restore()
    self.assertEqual(
        {path.name for path in self.directory.iterdir()},
        {'1', '2.corrupt', '2.corrupt_2', '2.corrupt_3'},
    )

  def test_meta_is_read_without_a_state(self):
    self.assertIsNone(checkpoint.read_meta(self.directory))
    self.save(1, 2)
    self.assertEqual(checkpoint.read_meta(self.directory), {'epoch': 2})
    (self.directory / '2' / 'manifest' / 'metadata').write_bytes(b'')
    self.assertEqual(checkpoint.read_meta(self.directory), {'epoch': 1})


class MismatchTest(_TestCase):

  @parameterized.named_parameters(
      ('shape', lambda: _train_state(width=9),
       r'params\.encoder\.bias: bfloat16\[8\] where .* bfloat16\[9\]'),
      ('dtype', lambda: _train_state().replace(step=np.int16(0)),
       r'step: int32\[\] where this run has int16\[\]'),
      ('missing', lambda: _train_state().replace(params={'a': jnp.ones(1)}),
       r'params\.a: nothing where this run has float32\[1\]'),
      ('extra', lambda: _train_state().replace(key=None),
       r'key: key<fry>\[\] where this run has nothing'),
      ('key', lambda: _train_state().replace(key=jax.random.key(0, impl='rbg')),
       r'key: key<fry>\[\] where this run has key<rbg>\[\]'),
  )
  def test_first_difference_is_named_and_nothing_set_aside(self, like, regex):
    self.save(1, 2)
    with self.assertRaisesRegex(checkpoint.CheckpointError, regex):
      self.restore(like())
    self.assertEqual(self.steps(), {1, 2})

  def test_unknown_which(self):
    with self.assertRaisesRegex(ValueError, "which='newest'.*latest, best"):
      self.restore(which='newest')

  @parameterized.named_parameters(
      ('text', {'name': 'x'}, 'name is a str'),
      ('object', {'f': object()}, 'f is a object'),
      ('collision', {'a': {'b': 1}, 'a.b': 2}, r"two leaves .*'a\.b'"),
  )
  def test_state_that_cannot_be_saved(self, state, regex):
    with self.assertRaisesRegex(ValueError, regex):
      self.save(1, state=state)
    self.assertEqual(self.steps(), set())

  @parameterized.named_parameters(
      ('metrics', {'metrics': {'loss': np.ones(2)}}, 'metric loss has shape'),
      ('meta', {'meta': {'x': object()}}, 'meta cannot be saved'),
      ('step', {'step': -1}, 'step=-1'),
  )
  def test_argument_that_cannot_be_saved(self, change, regex):
    arguments = {'step': 1, 'metrics': {}, 'meta': {}} | change
    with checkpoint.Checkpointer(self.directory) as checkpointer:
      with self.assertRaisesRegex(ValueError, regex):
        checkpointer.save(state={'x': 1}, **arguments)


class DirectoryTest(_TestCase):

  def test_missing_parent(self):
    with self.assertRaisesRegex(
        checkpoint.CheckpointError, 'directory .*b cannot be used.*create .*a'
    ):
      checkpoint.Checkpointer(self.directory / 'a' / 'b')

  def test_file_in_its_place(self):
    self.directory.write_text('')
    with self.assertRaisesRegex(checkpoint.CheckpointError, 'move it away'):
      checkpoint.Checkpointer(self.directory)

  def test_directory_that_cannot_be_written(self):
    self.save(1)
    self.directory.chmod(0o555)
    with self.assertRaisesRegex(
        checkpoint.CheckpointError,
        r'ckpt cannot be used \(Permission denied\); make .* writable',
    ), rights_case.as_nobody(self.directory):
      checkpoint.Checkpointer(self.directory)
    self.assertEqual([x.name for x in self.directory.iterdir()], ['1'])

  def test_only_what_a_failed_save_left_behind_is_silenced(self):
    shown = absltest.mock.Mock()
    self.enter_context(
        absltest.mock.patch.object(sys, 'excepthook', shown)
    )
    with self.assertRaises(OSError), checkpoint._silent_orbax():
      raise OSError('full')
    closed = RuntimeError('Event loop is closed')
    sys.excepthook(RuntimeError, closed, None)
    shown.assert_not_called()
    sys.excepthook(RuntimeError, RuntimeError('else'), None)
    sys.excepthook(OSError, OSError('Event loop is closed'), None)
    self.assertEqual(shown.call_count, 2)
    sys.excepthook = shown
    with checkpoint._silent_orbax():
      pass
    self.assertIs(sys.excepthook, shown)

  def test_full_disk_keeps_the_last_good_one(self):
    self.directory.mkdir()
    size = 2**20
    options = ('-t', 'tmpfs', '-o', f'size={size}', 'tmpfs')
    mounted = subprocess.run(
        ('mount', *options, self.directory), capture_output=True, check=False
    )
    if mounted.returncode:
      self.skipTest('only root mounts a disk of its own')
    self.addCleanup(
        subprocess.run, ('umount', '-l', self.directory), check=True
    )
    self.save(1)
    noise = np.random.default_rng(0).normal(size=2 * size // 8)
    checkpointer = checkpoint.Checkpointer(self.directory)
    checkpointer.save(2, {'x': noise}, metrics={}, meta={})
    with self.assertNoLogs(level='ERROR'), self.assertRaisesRegex(
        checkpoint.CheckpointError,
        r'^checkpoint 2 could not be saved in .*ckpt \(No space left on'
        r' device\); free some disk space and run again: the checkpoints before'
        r' it are whole$',
    ):
      checkpointer.wait()
    self.assertEqual([x.name for x in self.directory.iterdir()], ['1'])
    _assert_identical(checkpointer.restore(_train_state()).state,
                      _train_state(1))
    checkpointer.close()

  def test_failed_save_surfaces_and_keeps_the_last_good_one(self):
    self.save(1)
    state = {'x': np.random.default_rng(0).normal(size=100_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    checkpointer = checkpoint.Checkpointer(self.directory)
    try:
      resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
      checkpointer.save(2, state, metrics={}, meta={})
      with self.assertNoLogs(level='ERROR'), self.assertRaisesRegex(
          OSError, 'checkpoint 2 could not be saved in .*ckpt'
      ) as caught:
        checkpointer.wait()
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
      signal.signal(signal.SIGXFSZ, handler)
    self.assertEqual(caught.exception.errno, errno.EFBIG)
    self.assertNotIn('\n', str(caught.exception))
    self.assertEqual({x.name for x in self.directory.iterdir()}, {'1'})
    self.assertEqual(checkpointer.restore(_train_state()).step, 1)
    checkpointer.save(2, state, metrics={}, meta={})  # when there is room
    checkpointer.close()
    self.assertEqual(self.steps(), {1, 2})

  def test_a_failure_is_told_as_soon_as_it_is_asked_for(self):
    checkpointer = checkpoint.Checkpointer(self.directory)
    finish = threading.Event()

    def write(unused_manifest, unused_values):
      finish.wait(10)
      raise OSError(28, 'full')

    self.enter_context(
        absltest.mock.patch.object(
            checkpointer, '_write_with_orbax', side_effect=write
        )
    )
    checkpointer.check()  # nothing to tell
    checkpointer.save(1, {'x': 1}, metrics={}, meta={})
    checkpointer.check()  # nothing yet
    finish.set()
    futures.wait([checkpointer._saving])
    with self.assertRaisesRegex(OSError, 'free some disk space'):
      checkpointer.check()
    checkpointer.check()  # it was told
    checkpointer.close()

  def test_failed_replacement_puts_the_old_one_back(self):
    self.save(1)
    checkpointer = checkpoint.Checkpointer(self.directory)
    self.enter_context(
        absltest.mock.patch.object(
            checkpointer, '_write_with_orbax', side_effect=OSError(28, 'full')
        )
    )
    checkpointer.save(1, _train_state(9), metrics={}, meta={})
    with self.assertRaisesRegex(OSError, 'free some disk space'):
      checkpointer.close()
    _assert_identical(self.restore().state, _train_state(1))

  def test_kill_during_a_save_leaves_the_last_good_one(self):
    # The child kills itself at the moment when Orbax would commit.
    child = textwrap.dedent(f"""
        import os, signal, sys
        import numpy as np
        from ldc_vae.runtime import checkpoint
        checkpointer = checkpoint.Checkpointer({str(self.directory)!r})
        checkpointer.save(1, {{'x': np.ones(9)}}, metrics={{}}, meta={{}})
        checkpointer.wait()
        def kill(audit_event, args):
          if audit_event == 'os.rename' and str(args[1]).endswith('/2'):
            os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill)
        checkpointer.save(2, {{'x': np.zeros(9)}}, metrics={{}}, meta={{}})
        checkpointer.wait()
    """)
    done = subprocess.run([sys.executable, '-c', child], check=False)
    self.assertEqual(done.returncode, -signal.SIGKILL)
    self.assertLen(list(self.directory.glob('2.*tmp*')), 1)
    with checkpoint.Checkpointer(self.directory) as checkpointer:
      restored = checkpointer.restore({'x': np.zeros(9)})
      self.assertEqual(restored.step, 1)
      np.testing.assert_array_equal(restored.state['x'], np.ones(9))
      checkpointer.save(2, {'x': np.zeros(9)}, metrics={}, meta={})
    self.assertEqual({x.name for x in self.directory.iterdir()}, {'1', '2'})

  def test_save_returns_before_it_has_written(self):
    started = threading.Event()
    finish = threading.Event()

    def write(unused_manifest, unused_values):
      started.set()
      finish.wait(10)

    checkpointer = checkpoint.Checkpointer(self.directory)
    self.enter_context(
        absltest.mock.patch.object(
            checkpointer, '_write_with_orbax', side_effect=write
        )
    )
    checkpointer.save(1, {'x': 1}, metrics={}, meta={})
    self.assertTrue(started.wait(10))
    finish.set()
    checkpointer.close()

  def test_manifest_is_readable_json(self):
    self.save(3)
    path = self.directory / '3' / 'manifest' / 'metadata'
    leaves = json.loads(path.read_text())['leaves']
    self.assertEqual(leaves['params.encoder.kernel']['shape'], [4, 8])
    self.assertEqual(leaves['params.encoder.kernel']['dtype'], 'float32')


if __name__ == '__main__':
  absltest.main()
