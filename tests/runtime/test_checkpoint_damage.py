"""Tests of damaged checkpoints."""

import functools
import os
import random
import shutil
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import cluster
from ldc_vae.runtime import manifest
from tests.runtime import checkpoint_case as case


class CorruptionTest(case.CheckpointTestCase):
  def test_falls_back_with_a_warning_and_sets_aside(self):
    self.save(1, 2)
    case.corrupt(self.directory, 2)
    with self.assertLogs('absl', 'WARNING') as logs:
      restored = self.restore()
    self.assertEqual(restored.step, 1)
    case.assert_identical(restored.state, case.train_state(1))
    self.assertRegex(logs.output[0], r'ckpt/2 is corrupt .*2\.corrupt')
    self.assertTrue((self.directory / '2.corrupt').is_dir())
    self.save(2)  # as the resumed run will
    self.assertEqual(self.restore().step, 2)

  def test_best_falls_back_to_the_next_best(self):
    self.save(1, 2, 3)
    case.corrupt(self.directory, 1)
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
    case.corrupt(self.directory, 1)
    (self.directory / '2' / 'manifest' / 'metadata').write_bytes(b'')
    for _ in range(2):  # and does not pass for an empty directory later
      with self.assertRaisesRegex(
        manifest.CheckpointError,
        r'every checkpoint in .*ckpt is damaged \(2: manifest/metadata cannot'
        r' be read; 1: [\w.]+ (cannot be read from [\w./]+|does not match its'
        r' digest)\); .*remove',
      ):
        self.restore()

  def test_all_processes_end_with_the_same_exit_code(self):
    self.save(1)
    (self.directory / '1' / 'manifest' / 'metadata').write_bytes(b'')
    sent = []
    with (
      mock.patch('jax.process_count', return_value=2),
      mock.patch.object(cluster, 'broadcast') as broadcast,
    ):
      broadcast.side_effect = lambda data: sent.append(data) or data
      with self.assertRaises(manifest.AllDamagedError):
        self.restore()
      broadcast.side_effect = list(sent)
      with mock.patch('jax.process_index', return_value=1):
        with self.assertRaisesRegex(manifest.AllDamagedError, 'is damaged'):
          self.restore()

  def test_verify_names_the_corrupt(self):
    self.save(1, 2)
    case.corrupt(self.directory, 1)
    first, second = checkpoint_folder.verify(self.directory)
    self.assertEqual((first.step, first.ok), (1, False))
    self.assertNotEmpty(first.reason)
    self.assertEqual(second, checkpoint_folder.Verification(2, True, ''))
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
    case.corrupt(self.directory, 2)
    with checkpoint.Checkpointer(self.directory, read_only=True) as reader:
      with self.assertLogs('absl', 'WARNING'):
        self.assertEqual(reader.restore(case.train_state()).step, 1)
      with self.assertRaisesRegex(OSError, 'read_only=True'):
        reader.save(3, case.train_state(), metrics={}, meta={})
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
    self.state_fn = functools.partial(case.train_state, width=width)
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
    state_fn = getattr(self, 'state_fn', case.train_state)
    restored = self.restore(state_fn())
    self.assertIn(restored.step, (1, 2))
    self.assertEqual(restored.meta, {'epoch': restored.step})
    self.assertEqual(restored.metrics, {'validation/loss': restored.step})
    case.assert_identical(restored.state, state_fn(restored.step))
    found = restored.step == 1
    self.assertEqual((self.directory / '2.corrupt').exists(), found)
    return found

  def files(self, step):
    return sorted(
      path for path in (self.directory / str(step)).rglob('*') if path.is_file()
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
      case.corrupt(self.directory, 2)
      with self.assertLogs('absl', 'WARNING'):
        self.restore()
    self.assertEqual(
      {path.name for path in self.directory.iterdir()},
      {'1', '2.corrupt', '2.corrupt_2', '2.corrupt_3'},
    )

  def test_meta_is_read_without_a_state(self):
    self.assertIsNone(checkpoint_folder.read_meta(self.directory))
    self.save(1, 2)
    self.assertEqual(checkpoint_folder.read_meta(self.directory), {'epoch': 2})
    (self.directory / '2' / 'manifest' / 'metadata').write_bytes(b'')
    self.assertEqual(checkpoint_folder.read_meta(self.directory), {'epoch': 1})


class MismatchTest(case.CheckpointTestCase):
  @parameterized.named_parameters(
    (
      'shape',
      lambda: case.train_state(width=9),
      r'params\.encoder\.bias: bfloat16\[8\] where .* bfloat16\[9\]',
    ),
    (
      'dtype',
      lambda: case.train_state().replace(step=np.int16(0)),
      r'step: int32\[\] where this run has int16\[\]',
    ),
    (
      'missing',
      lambda: case.train_state().replace(params={'a': jnp.ones(1)}),
      r'params\.a: nothing where this run has float32\[1\]',
    ),
    (
      'extra',
      lambda: case.train_state().replace(key=None),
      r'key: key<fry>\[\] where this run has nothing',
    ),
    (
      'key',
      lambda: case.train_state().replace(key=jax.random.key(0, impl='rbg')),
      r'key: key<fry>\[\] where this run has key<rbg>\[\]',
    ),
  )
  def test_first_difference_is_named_and_nothing_set_aside(self, like, regex):
    self.save(1, 2)
    with self.assertRaisesRegex(manifest.CheckpointError, regex):
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


if __name__ == '__main__':
  absltest.main()
