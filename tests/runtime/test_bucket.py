"""Tests for ldc_vae.runtime.bucket, with a storage in memory that fails."""

import contextlib
import shutil
import threading
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import fsspec

from ldc_vae import errors
from ldc_vae.runtime import bucket
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import durable
from ldc_vae.runtime import storage
from tests.runtime import bucket_case


class CopyTest(bucket_case.BucketTestCase):
  def test_another_machine_goes_on_from_the_copy(self):
    with self.mirrored():
      self.save(10)
      self.await_step(10)  # while the run goes on
      self.save(20, 30)
      (self.workdir / 'results.json').write_text('{}')
    self.assertEqual(self.restored(), 30)
    for path in self.workdir.rglob('*'):
      copy = self.folder / 'b' / 'run' / path.relative_to(self.workdir)
      self.assertEqual(copy.is_file(), path.is_file())
      if path.is_file():
        self.assertEqual(copy.read_bytes(), path.read_bytes())
    steps = {x.split('/')[1] for x in self.names() if 'checkpoints/' in x}
    self.assertEqual(steps, {'20', '30'})  # as in the workdir

  def test_what_is_copied_verifies_only_when_it_is_whole(self):
    self.save(10, 20)
    (self.workdir / 'results.json').write_text('{}')
    (self.workdir / 'report.html').write_text('')
    with self.mirrored():
      self.await_step(10)
      shutil.rmtree(self.workdir / 'checkpoints' / '10')
    names = [name for _, name in bucket_case.Storage.done]
    metrics = names.index('metrics.jsonl')
    for step in (10, 20):
      own = [i for i, x in enumerate(names) if f'checkpoints/{step}/' in x]
      own = [i for i in own if bucket_case.Storage.done[i][0] == 'put']
      manifest = names.index(f'checkpoints/{step}/manifest/metadata')
      self.assertEqual(manifest, max(own))
      self.assertLess(metrics, min(own))
    done = [x for x in bucket_case.Storage.done if x != ('delete', '.probe')]
    num_put = sum(how == 'put' for how, _ in done)
    self.assertEqual(done[num_put - 1], ('put', 'results.json'))
    deleted = done[num_put:]
    self.assertEqual(deleted[0], ('delete', 'checkpoints/10/manifest/metadata'))
    self.assertGreater(len(deleted), 3)

  def test_nothing_is_copied_twice(self):
    self.save(10)
    with self.mirrored():
      self.await_step(10)
    bucket_case.Storage.done.clear()
    self.assertEqual(self.restored(), 10)
    self.assertEmpty(bucket_case.Storage.done)

  def test_unfinished_files_links_and_files_of_others_stay(self):
    bucket_case.Storage().pipe_file('/store/run/notes.txt', b'mine')
    self.save(10)
    secret = self.folder / 'secret'
    secret.write_text('')
    (self.workdir / 'link.txt').symlink_to(secret)
    for name in (
      '.lock',
      '.x.tmp/y',
      'checkpoints/7.corrupt/z',
      'f.replaced/z',
    ):
      path = self.workdir / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text('')
    with self.mirrored():
      pass
    others = {x for x in self.names() if not x.startswith('checkpoints/10/')}
    self.assertEqual(others, {'metrics.jsonl', 'notes.txt'})

  def test_a_checkpoint_that_is_deleted_meanwhile_is_left_out(self):
    self.save(10, 20)

    def fault(path):
      if path.endswith('20/manifest/metadata'):
        with contextlib.suppress(FileNotFoundError):
          shutil.rmtree(self.workdir / 'checkpoints' / '20')

    self.fault(fault)
    with self.mirrored():
      pass
    self.assertEqual(self.restored(), 10)
    self.assertFalse([x for x in self.names() if 'checkpoints/20/' in x])


class FaultTest(bucket_case.BucketTestCase):
  def test_an_outage_is_told_once_and_holds_nothing_up(self):
    is_away = threading.Event()
    is_away.set()

    def fault(path):
      if is_away.is_set():
        raise OSError('503 Service Unavailable')

    self.fault(fault)
    with self.assertLogs(level='WARNING') as logs:
      with self.mirrored():
        for step in (10, 20, 30):
          self.save(step)
        while not logs.output:
          time.sleep(0.01)
        self.assertEmpty(self.names())
        is_away.clear()
        self.await_step(30)
    self.assertLen(logs.output, 1)
    self.assertRegex(
      logs.output[0], r'cannot be written \(OSError: 503.*the run goes on'
    )
    self.assertEqual(self.restored(), 30)

  def test_a_slow_bucket_is_told(self):
    has_begun, is_saved = threading.Event(), threading.Event()

    def fault(path):
      has_begun.set()
      self.assertTrue(is_saved.wait(60.0))

    self.fault(fault)
    self.save(10)
    with self.assertLogs(level='WARNING') as logs:
      with self.mirrored():
        self.assertTrue(has_begun.wait(60.0))
        self.save(20, 30)
        is_saved.set()
    self.assertLen(logs.output, 1)
    self.assertIn(f'{bucket_case.ADDRESS} lags: ', logs.output[0])
    self.assertEqual(self.restored(), 30)

  @parameterized.parameters('manifest/metadata', 'state/manifest.ocdbt')
  def test_a_cut_upload_leaves_the_checkpoint_before(self, last):
    with self.mirrored():
      self.save(10)

    def fault(path):
      if path.endswith(f'20/{last}'):
        raise ConnectionResetError('cut')

    self.fault(fault)
    self.enter_context(mock.patch.object(bucket, '_PATIENCE', 0.3))
    with self.assertRaisesRegex(durable.FileError, 'lacks files of .*same com'):
      with self.mirrored():
        self.save(20)
    self.assertTrue([x for x in self.names() if 'checkpoints/20/' in x])
    with self.assertNoLogs(level='WARNING'):
      self.assertEqual(self.restored(), 10)
    self.fault(lambda path: None)
    with self.mirrored():  # the same command
      pass
    self.assertEqual(self.restored(), 20)

  def test_half_a_file_does_not_verify(self):
    self.save(10, 20)
    with self.mirrored():
      pass
    name = max(x for x in bucket_case.Storage.store if '/20/state/d/' in x)
    data = bucket_case.Storage().cat_file(name)
    bucket_case.Storage().pipe_file(name, data[: len(data) // 2])
    with self.assertLogs(level='WARNING') as logs:
      self.assertEqual(self.restored(), 10)
    self.assertIn('20 is corrupt', logs.output[0])

  def test_an_error_of_the_run_is_kept(self):
    def fault(path):
      raise OSError('503')

    self.fault(fault)
    with mock.patch.object(bucket, '_SHORT_PATIENCE', 0.1):
      with self.assertLogs(level='WARNING') as logs:
        with self.assertRaisesRegex(ZeroDivisionError, 'mine'):
          with self.mirrored():
            self.save(10)
            raise ZeroDivisionError('mine')
    self.assertIn('lacks files of', logs.output[-1])


class StartTest(bucket_case.BucketTestCase):
  def test_a_folder_that_is_ahead_stays(self):
    with self.mirrored():
      self.save(10)
    self.save(20)
    with self.mirrored():
      self.assertEqual(
        checkpoint_folder.steps(self.workdir / 'checkpoints'), [10, 20]
      )
    self.assertEqual(self.restored(), 20)

  def test_a_folder_that_is_behind_or_damaged_is_set_aside(self):
    self.save(10, 20)
    with self.mirrored():
      pass
    for path in (self.workdir / 'checkpoints' / '20').rglob('d/*'):
      path.write_bytes(b'')
    with self.assertLogs(level='WARNING') as logs:
      with self.mirrored():
        pass
    self.assertIn('was behind the bucket: moved to', logs.output[0])
    self.assertTrue(self.workdir.with_name('run.behind').is_dir())
    self.assertEqual(self.restored(), 20)

  def test_no_name_of_the_bucket_leads_out_of_the_folder(self):
    self.save(10)
    with self.mirrored():
      pass
    for name in ('../evil', 'x/../../../evil', '.bashrc'):
      bucket_case.Storage().pipe_file(f'/store/run/{name}', b'')
    self.assertEqual(self.restored(), 10)
    self.assertEmpty(list(self.folder.rglob('evil')))
    self.assertEmpty(list(self.folder.rglob('.bashrc')))

  def test_an_outage_is_waited_for(self):
    answers = [OSError('503'), OSError('503'), None]

    def probe(unused_self):
      if (answer := answers.pop(0)) is not None:
        raise answer

    with mock.patch.object(storage.Bucket, 'probe', probe):
      with self.assertLogs(level='WARNING') as logs:
        with self.mirrored():
          self.save(10)
    self.assertLen(logs.output, 2)
    self.assertEqual(self.restored(), 10)

  @parameterized.parameters(
    (OSError('503'), durable.FileError, r'cannot be reached \(OSError: 503\)'),
    (PermissionError('403'), errors.UserError, r'may write to'),
    (FileNotFoundError('no bucket'), errors.UserError, r'no bucket'),
  )
  def test_what_cannot_be_used_is_told_before_the_run(self, fault, kind, text):
    self.enter_context(mock.patch.object(storage, '_START_PATIENCE', 0.1))
    with mock.patch.object(storage.Bucket, 'probe', side_effect=fault):
      with self.assertRaisesRegex(kind, text):
        with self.mirrored():
          self.fail('the run has begun')

  def test_other_processes_never_look_at_it(self):
    with mock.patch.object(bucket.cluster, 'is_first', lambda: False):
      with bucket.mirrored('no_such_protocol://x/y', self.workdir):
        pass

  def test_a_missing_package_is_named(self):
    with mock.patch.object(
      fsspec, 'url_to_fs', side_effect=ImportError('Install s3fs')
    ):
      with self.assertRaisesRegex(errors.UserError, r"install 'ldc_vae\[s3\]'"):
        with bucket.mirrored('s3://bucket/run', self.workdir):
          pass


if __name__ == '__main__':
  absltest.main()
