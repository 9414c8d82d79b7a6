"""Power cuts of a real disk: a device whose file is copied under a run.

It needs root, and a system with loop devices:

  python -m pytest -m slow -s tests/runtime/test_power_cuts.py
"""

import contextlib
import fcntl
import os
import random
import shutil
import subprocess
import time

from absl.testing import absltest
import pytest

from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import metric_writer
from tests.runtime import folder_case
from tests.runtime import process_case

_NUM_CUTS = 60
_MEGABYTES = 64
_FREEZE, _THAW = 0xC0045877, 0xC0045878  # FIFREEZE and FITHAW of linux/fs.h
_NO_SYNC = """
from ldc_vae.runtime import durable
durable.sync = lambda path: None
"""


def _call(*words):
  subprocess.run([str(word) for word in words], check=True, capture_output=True)


@contextlib.contextmanager
def _mounted(image, folder):
  """Mounts a file with a file system."""
  folder.mkdir(exist_ok=True)
  _call('mount', '-o', 'loop', image, folder)
  try:
    yield folder
  finally:
    _call('umount', folder)


@contextlib.contextmanager
def _new_disk(folder, name, megabytes):
  """Makes and mounts a file system in a file `name`.img of a folder."""
  image = folder / f'{name}.img'
  with open(image, 'wb') as file:
    file.truncate(megabytes * 2**20)
  _call('mkfs.ext4', '-q', image)
  with _mounted(image, folder / name) as mounted:
    yield mounted


class Disk:
  """A disk whose content can be had as of one moment.

  The file of the disk is on another disk. Freezing that one stops what is
  written to the file, and nothing is synced that the run has not synced.
  """

  def __init__(self, folder):
    self._folder, self._stack = folder, contextlib.ExitStack()

  def __enter__(self):
    with contextlib.ExitStack() as stack:
      self._outer = stack.enter_context(
        _new_disk(self._folder, 'outer', 4 * _MEGABYTES)
      )
      self.path = stack.enter_context(
        _new_disk(self._outer, 'disk', _MEGABYTES)
      )
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *exc_info):
    self._stack.close()

  @contextlib.contextmanager
  def cut(self):
    """Cuts the power for a copy of the disk; yields what is there later."""
    copy = self._folder / 'copy.img'
    descriptor = os.open(self._outer, os.O_RDONLY)
    fcntl.ioctl(descriptor, _FREEZE, 0)
    try:
      shutil.copyfile(self._outer / 'disk.img', copy)
    finally:
      fcntl.ioctl(descriptor, _THAW, 0)
      os.close(descriptor)
    with _mounted(copy, self._folder / 'later') as later:
      yield later


class PowerCutsTest(folder_case.FolderTestCase):
  def setUp(self):
    super().setUp()
    if os.geteuid() != 0:
      self.skipTest('only root can mount a disk')
    try:
      self.disk = self.enterContext(Disk(self.directory))
    except (OSError, subprocess.CalledProcessError) as error:
      self.skipTest(f'no disk can be made: {error}')

  def _cut(self, num_cuts, program=''):
    """Cuts the power of a run at random moments.

    Returns:
      What was lost at each cut at which something was lost.
    """
    generator, lost = random.Random(0), []
    workdir = self.disk.path / 'run'
    with process_case.Processes(
      1,
      workdir,
      program,
      argv=(
        '--config=configs/digits.py:vae,debug',
        '--config.train.num_steps=1000000',
        '--config.train.checkpoint_every=20',
        '--config.train.log_every=1',
      ),
    ) as processes:
      (process,) = processes.running
      while len(checkpoint_folder.steps(workdir / 'checkpoints')) < 2:
        self.assertIsNone(process.poll(), processes.printed)
        time.sleep(0.05)
      for _ in range(num_cuts):
        time.sleep(generator.uniform(0.0, 0.3))
        self.assertIsNone(process.poll(), processes.printed)
        before = checkpoint_folder.steps(workdir / 'checkpoints')
        with self.disk.cut() as later:
          lost += self._lost(later / 'run', before[-2])
    return lost

  def _lost(self, workdir, step):
    """What a cut has taken that was there: a checkpoint, or rows of it."""
    path = workdir / 'checkpoints'
    verdicts = checkpoint_folder.verify(path)
    whole = [verdict.step for verdict in verdicts if verdict.ok]
    if max(whole, default=-1) < step:
      return [f'{step} of {verdicts}']
    record = checkpoint_folder.read_meta(path)[metric_writer.NAME]
    damage = metric_writer.damage(workdir / metric_writer.NAME, record)
    return [damage] if damage else []

  @pytest.mark.slow
  def test_the_checkpoint_before_the_last_is_left(self):
    lost = self._cut(_NUM_CUTS)
    print(f'{_NUM_CUTS} power cuts, {len(lost)} with a loss')
    self.assertEmpty(lost)

  @pytest.mark.slow
  def test_a_run_that_syncs_nothing_is_found(self):
    lost = self._cut(20, _NO_SYNC)
    print(f'20 power cuts without syncs, {len(lost)} with a loss')
    self.assertNotEmpty(lost)


if __name__ == '__main__':
  absltest.main()
