"""A storage in memory that fails, and a workdir that is copied to it."""

import pathlib
import shutil
import time
from unittest import mock

from absl.testing import parameterized
import fsspec
from fsspec.implementations import memory
import numpy as np

from ldc_vae.runtime import bucket
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import durable
from ldc_vae.runtime import storage

ADDRESS = 'memory://store/run'


class Storage(memory.MemoryFileSystem):
  """Fails as a test says, and lists what is done."""

  store: dict = {}
  pseudo_dirs = ['']
  done: list = []
  fault_fn = staticmethod(lambda path: None)

  def put_file(self, lpath, rpath, **kwargs):
    self.fault_fn(rpath)
    super().put_file(lpath, rpath, **kwargs)
    self.done.append(('put', rpath.removeprefix('/store/run/')))

  def rm_file(self, path):
    super().rm_file(path)
    self.done.append(('delete', path.removeprefix('/store/run/')))


def value(step):
  return {'w': np.arange(1000.0) + step}


class BucketTestCase(parameterized.TestCase):
  address = ADDRESS

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.workdir = self.folder / 'a' / 'run'
    Storage.store, Storage.pseudo_dirs, Storage.done = {}, [''], []
    before = fsspec.get_filesystem_class('memory')
    fsspec.register_implementation('memory', Storage, clobber=True)
    self.addCleanup(
      fsspec.register_implementation, 'memory', before, clobber=True
    )
    self.enter_context(
      mock.patch.multiple(
        bucket, _PERIOD=0.01, _PATIENCE=60.0, _SHORT_PATIENCE=60.0
      )
    )
    self.enter_context(
      mock.patch.multiple(
        storage, FIRST_DELAY=0.01, LONGEST_DELAY=0.02, _START_PATIENCE=60.0
      )
    )

  def fault(self, fault_fn):
    """From now on each upload calls `fault_fn` with its path."""
    patch = mock.patch.object(Storage, 'fault_fn', staticmethod(fault_fn))
    self.enter_context(patch)

  def mirrored(self, workdir=None):
    return bucket.mirrored(self.address, workdir or self.workdir)

  def save(self, *steps):
    """Leaves what a run has at these steps; the latest two are kept."""
    durable.make_folder(self.workdir)
    for step in steps:
      (self.workdir / 'metrics.jsonl').write_text('x' * step)
      path = self.workdir / 'checkpoints'
      with checkpoint.Checkpointer(path) as checkpointer:
        checkpointer.save(step, value(step), metrics={}, meta={})

  def restored(self):
    """The step that another machine restores."""
    workdir = self.folder / 'b' / 'run'
    shutil.rmtree(workdir, ignore_errors=True)
    with self.mirrored(workdir):
      with checkpoint.Checkpointer(workdir / 'checkpoints') as checkpointer:
        found = checkpointer.restore(value(0))
    if found is None:
      return None
    np.testing.assert_array_equal(found.state['w'], value(found.step)['w'])
    return found.step

  def names(self):
    return {name.removeprefix('/store/run/') for name in Storage.store}

  def await_step(self, step):
    """Waits until the bucket has the manifest of a checkpoint."""
    deadline = time.monotonic() + 60.0
    name = f'checkpoints/{step}/manifest/metadata'
    while name not in self.names():
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.01)
