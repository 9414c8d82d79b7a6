"""A run of seconds with all its files, and how others are compared with it."""

import shutil
from unittest import mock

import numpy as np

from ldc_vae import evaluate
from ldc_vae import run as run_lib
from ldc_vae import train
from ldc_vae.reporting import style
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import files
from ldc_vae.runtime import lock
from ldc_vae.runtime import outputs
from tests import train_case


def _evaluate(config, workdir, **unused_kwargs):
  """Writes what an evaluation writes, whose numbers need no time."""
  with (
    lock.lock_workdir(workdir, lock.EVALUATION_LOCK_NAME),
    outputs.replaced(workdir) as folder,
  ):
    files.write_npz(folder / outputs.SAMPLES, images=np.arange(9))
    for name in ('figures/grid.png', outputs.REPORT):
      style.write_bytes(folder / name, b'drawn')
    step = config.train.num_steps
    results = {
      'step': step,
      'last_step': step,
      'protocol/evaluate': run_lib.describe_evaluation(config),
    }
    results[outputs.DIGESTS] = outputs.seal(folder, results)
    files.write_json(folder / outputs.RESULTS, results)


class OutcomeTest(train_case.TrainTest):
  """Has a run that ended well, to compare others with.

  Attributes:
    config: Its config, and that of the others.
    whole: Its workdir.
  """

  def setUp(self):
    super().setUp()
    self.enter_context(mock.patch.object(evaluate, 'evaluate', _evaluate))
    self.config = train_case.load_config(**{'train.checkpoint_every': 4})
    self.whole = self.dir / 'whole'
    # compiled by now, and the caches are there
    train.train_and_evaluate(self.config, self.whole)
    self._expected = self._left_by(self.whole)

  def _left_by(self, workdir):
    """What a run left that must not depend on faults."""
    verdicts = checkpoint_folder.verify(workdir / 'checkpoints')
    self.assertTrue(verdicts[-1].ok)
    restored = train_case.final_state(self.config, workdir)
    results = files.read_json(workdir / outputs.RESULTS)
    self.assertEmpty(outputs.damage(workdir, results))
    rows = train_case.rows(workdir)
    return restored.step, rows, results, restored.state

  def copy(self, name, start):
    """A workdir to start in, from a folder or from nothing."""
    workdir = self.dir / name
    if start is not None:
      shutil.copytree(start, workdir)
    return workdir

  def assert_as_expected(self, workdir):
    """Compares a run that has ended, bit for bit."""
    actual = self._left_by(workdir)
    self.assertEqual(actual[:-1], self._expected[:-1], workdir)
    train_case.assert_same(actual[-1], self._expected[-1])
