"""Tests of whole runs in a bucket: several processes, and a real service."""

import os
import pathlib
import shutil
import signal
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from ldc_vae.runtime import storage
from tests import main_case
from tests.runtime import process_case
from tests.runtime import service_case

# Each process has a cache, and so a disk, of its own. The first one alone may
# use the storage.
_NO_SHARED_DISK = """
import os, sys
index = sys.argv[-1].removeprefix('--process_id=')
os.environ['LDC_VAE_CACHE'] += index
import fsspec
if index == '1':
  def url_to_fs(*unused_args, **unused_kwargs):
    raise AssertionError('process 1 looks at the bucket')
  fsspec.url_to_fs = url_to_fs
"""

_ARGV = [
  '--config=configs/digits.py:ldc,debug',
  '--config.train.num_steps=150',
  '--config.train.checkpoint_every=25',
]


class _RunsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.enter_context(
      mock.patch.dict(os.environ, LDC_VAE_CACHE=str(self.folder / 'cache'))
    )

  def assert_same(self, folder, other):
    """Both have the same last step and the same weights, bit for bit."""
    step, values = process_case.final_values(folder)
    other_step, other_values = process_case.final_values(other)
    self.assertEqual(step, other_step)
    for name, value in values.items():
      np.testing.assert_array_equal(value, other_values[name], err_msg=name)


class CommandTest(main_case.MainTestCase):
  def test_a_mode_gets_the_local_folder_which_is_copied(self):
    store = self.folder / 'store' / 'run'
    shutil.copytree(self.trained(), store)
    (store / 'checkpoints' / '10' / 'manifest').mkdir()
    (store / 'checkpoints' / '10' / 'manifest' / 'metadata').write_text('{}')
    local = f'{self.folder}/cache/buckets/file{store}'
    code, calls, _, err = self.run_main(
      '--mode=sample', f'--workdir=file://{store}'
    )
    self.assertEqual(code, 0, err)
    (call,) = calls
    self.assertEqual(call[2], local)
    self.assertEqual(call[3]['output'], f'{local}/generated.npz')
    self.assertTrue(pathlib.Path(local, 'config.json').exists())
    code, calls, _, err = self.run_main(
      '--config=toy.py', f'--workdir=file://{store}2'
    )
    self.assertEqual(code, 0, err)
    self.assertEqual(calls[0][2], f'{local}2')


class ClusterTest(_RunsTest):
  @pytest.mark.slow
  def test_two_processes_without_a_shared_disk_come_back_elsewhere(self):
    store = self.folder / 'store' / 'run'

    def pair(workdir, before=_NO_SHARED_DISK):
      return process_case.Processes(
        2, workdir, before=before, devices=2, argv=_ARGV
      )

    with pair(f'file://{store}') as run:
      deadline = time.monotonic() + 200
      while not (store / 'checkpoints' / '50' / 'manifest').exists():
        self.assertLess(time.monotonic(), deadline, run.printed)
        time.sleep(0.02)
      start = time.monotonic()
      run.running[1].send_signal(signal.SIGTERM)
      self.assertEqual(run.wait(60), [143, 143], run.printed)
      self.assertLess(time.monotonic() - start, 10.0)
      self.assertIn('has all files of the run', run.printed[0])
    # the machines are lost
    for index in '01':
      shutil.rmtree(self.folder / f'cache{index}')
    with pair(f'file://{store}') as run:
      self.assertEqual(run.wait(), [0, 0], run.printed)
      self.assertRegex(run.printed[0], r'restored step \d+ from file://')
      self.assertIn('continuing from step', run.printed[0])
    self.assertFalse((self.folder / 'cache1' / 'buckets').exists())
    with pair(self.folder / 'whole', before='') as run:
      self.assertEqual(run.wait(), [0, 0], run.printed)
    self.assert_same(store, self.folder / 'whole')
    self.assertTrue((store / 'report.html').exists())


class ServiceTest(_RunsTest):
  """Runs against services that answer as Amazon's and Google's do."""

  def run_once(self, workdir, argv=_ARGV):
    return process_case.Processes(1, workdir, argv=argv, config=argv is _ARGV)

  @parameterized.parameters('s3', 'gs')
  @pytest.mark.slow
  def test_a_killed_run_comes_back_on_another_machine(self, protocol):
    workdir = service_case.start(self, protocol).address
    bucket = storage.Bucket(workdir)
    with self.run_once(workdir) as run:
      deadline = time.monotonic() + 200
      while 'checkpoints/50/manifest/metadata' not in bucket.sizes():
        self.assertLess(time.monotonic(), deadline, run.printed)
        time.sleep(0.1)
      run.running[0].kill()
    shutil.rmtree(self.folder / 'cache' / 'buckets')
    with self.run_once(workdir) as run:
      self.assertEqual(run.wait(), [0], run.printed)
      self.assertRegex(run.printed[0], rf'restored step \d+ from {workdir}')
      self.assertIn(f'{workdir} has all files of', run.printed[0])
    with self.run_once(self.folder / 'whole') as run:
      self.assertEqual(run.wait(), [0], run.printed)
    copy = storage.fetch(workdir, self.folder / 'copy')
    self.assert_same(copy, self.folder / 'whole')
    shutil.rmtree(self.folder / 'cache' / 'buckets')
    argv = ['--mode=sample', '--num_samples=5']
    with self.run_once(workdir, argv) as run:
      self.assertEqual(run.wait(), [0], run.printed)
    self.assertIn('generated.npz', bucket.sizes())

  @parameterized.parameters('s3', 'gs')
  @pytest.mark.slow
  def test_an_outage_in_the_middle_changes_nothing(self, protocol):
    service = service_case.start(self, protocol)
    workdir = service.address
    with self.run_once(workdir) as run:
      run.await_line('is copied after each checkpoint')
      service.stop()
      run.await_line(f'{workdir} cannot be written .*the run goes on')
      run.await_line('report:')  # trained and evaluated meanwhile
      service.start()  # it has forgotten everything
      self.assertEqual(run.wait(), [0], run.printed)
      self.assertIn(f'{workdir} has caught up', run.printed[0])
    shutil.rmtree(self.folder / 'cache' / 'buckets')
    with self.run_once(workdir) as run:
      self.assertEqual(run.wait(), [0], run.printed)
      self.assertIn('already done', run.printed[0])

  @parameterized.parameters('s3', 'gs')
  @pytest.mark.slow
  def test_a_missing_bucket_is_told_before_the_run(self, protocol):
    service_case.start(self, protocol)
    workdir = f'{protocol}://none/run'
    with self.run_once(workdir) as run:
      self.assertEqual(run.wait(), [2], run.printed)
    self.assertRegex(
      run.printed[0], f'error: --workdir={workdir}: it cannot be used'
    )


if __name__ == '__main__':
  absltest.main()
