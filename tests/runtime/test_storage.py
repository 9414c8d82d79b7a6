"""Tests for ldc_vae.runtime.storage and addresses."""

import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import errors
from ldc_vae.runtime import addresses
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import storage
from tests.runtime import bucket_case


class FetchTest(bucket_case.BucketTestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(mock.patch.dict(addresses.PACKAGES, memory='fsspec'))
    self.cache = self.folder / 'cache'
    self.stored = bucket_case.Storage()

  def fetch(self):
    return storage.fetch(bucket_case.ADDRESS, self.cache)

  def fetched_step(self):
    with checkpoint.Checkpointer(
      self.fetch() / 'checkpoints', read_only=True
    ) as checkpointer:
      return checkpointer.restore(bucket_case.value(0)).step

  def test_a_run_is_copied_once_and_again_when_it_has_grown(self):
    self.save(10)
    with self.mirrored():
      pass
    self.assertEqual(self.fetched_step(), 10)
    with mock.patch.object(storage.Bucket, 'get', side_effect=AssertionError):
      self.assertEqual(self.fetched_step(), 10)
    self.save(20)
    with self.mirrored():
      pass
    self.assertEqual(self.fetched_step(), 20)

  def test_it_writes_nothing(self):
    self.save(10)
    with self.mirrored():
      pass
    before = list(self.stored.done)
    with mock.patch.object(
      bucket_case.Storage, 'pipe_file', side_effect=AssertionError
    ):
      self.fetch()
    self.assertEqual(self.stored.done, before)

  def test_exported_files_are_those_of_the_bucket(self):
    for text in (b'first', b'other'):
      self.stored.pipe_file('/store/run/config.json', text)
      self.assertEqual((self.fetch() / 'config.json').read_bytes(), text)
    self.assertLen(list(self.fetch().parent.iterdir()), 1)

  def test_half_a_checkpoint_is_told(self):
    self.stored.pipe_file('/store/run/checkpoints/10/state/data', b'x')
    with self.assertRaisesRegex(errors.UserError, 'no checkpoint is whole'):
      self.fetch()

  def test_nothing_is_told(self):
    with self.assertRaisesRegex(errors.UserError, 'run: nothing is there'):
      self.fetch()

  def test_a_forbidden_bucket_is_told(self):
    fault = PermissionError('403')
    with mock.patch.object(storage.Bucket, 'sizes', side_effect=fault):
      with self.assertRaisesRegex(errors.UserError, 'you may read'):
        self.fetch()


class LocalFolderTest(parameterized.TestCase):
  def test_each_address_has_its_folder(self):
    folder = addresses.local_folder('gs://b/x/run/', pathlib.Path('/c'))
    self.assertEqual(folder, pathlib.Path('/c/buckets/gs/b/x/run'))

  @parameterized.parameters(
    'ftp://a/b', 'gs://', 'gs://bucket', 'gs://b/../x', 'gs://b//x', 'x://'
  )
  def test_others_are_refused(self, address):
    with self.assertRaisesRegex(errors.UserError, f'--workdir={address}: '):
      addresses.local_folder(address, pathlib.Path('/c'))


if __name__ == '__main__':
  absltest.main()
