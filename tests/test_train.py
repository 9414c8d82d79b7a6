"""Tests of the loop: resume, interruption, refusal."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from ldc_vae import checkpoint
from ldc_vae import config as config_lib
from ldc_vae import evaluate
from ldc_vae import experiment as experiment_lib
from ldc_vae import step as step_lib
from ldc_vae import train
from ldc_vae import writer

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_NUM_STEPS = 12


def _config(method='ldc', **overrides):
  return config_lib.load(
      f'configs/digits.py:{method},debug',
      {
          'train.num_steps': _NUM_STEPS,
          'train.checkpoint_every': 5,
          'train.log_every': 3,
          **overrides,
      },
  )


def _final_state(config, workdir):
  experiment = experiment_lib.create(config)
  with checkpoint.Checkpointer(
      pathlib.Path(workdir) / 'checkpoints', read_only=True
  ) as checkpointer:
    return checkpointer.restore(experiment.init_state())


def _assert_same(actual, expected):
  leaves = zip(
      jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  )
  for a, b in leaves:
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


class TrainAndEvaluateTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    # evaluation has tests of its own; here the loop is what is looked at
    self.enter_context(mock.patch.object(evaluate, 'evaluate'))
    self.dir = pathlib.Path(self.create_tempdir().full_path)

  @parameterized.named_parameters(
      ('ldc', 'ldc', 7), ('vae', 'vae', 1), ('at_a_checkpoint', 'ldc', 5)
  )
  def test_interrupted_run_ends_bit_identical(self, method, stop_after):
    config = _config(method)
    train.train_and_evaluate(config, self.dir / 'whole')
    real_update = writer.ProgressBar.update

    def interrupt(bar, step):
      real_update(bar, step)
      if step == stop_after:
        signal.raise_signal(signal.SIGINT)

    with mock.patch.object(writer.ProgressBar, 'update', interrupt):
      with self.assertRaises(KeyboardInterrupt):
        train.train_and_evaluate(config, self.dir / 'parts')
    # the step under way is finished, then saved
    self.assertEqual(
        _final_state(config, self.dir / 'parts').step, stop_after + 1
    )
    train.train_and_evaluate(config, self.dir / 'parts')
    whole = _final_state(config, self.dir / 'whole')
    parts = _final_state(config, self.dir / 'parts')
    self.assertEqual(parts.step, _NUM_STEPS)
    _assert_same(parts.state, whole.state)

  def test_resumed_metrics_have_no_gaps_or_doubles(self):
    config = _config()
    train.train_and_evaluate(config, self.dir / 'whole')
    real_save = checkpoint.Checkpointer.save

    def save_then_die(checkpointer, step, *args, **kwargs):
      real_save(checkpointer, step, *args, **kwargs)
      if step == 10:
        checkpointer.wait()
        raise RuntimeError('power cut')

    # 10 is saved, and so is the line of step 9, which must not come twice
    with mock.patch.object(checkpoint.Checkpointer, 'save', save_then_die):
      with self.assertRaisesRegex(RuntimeError, 'power cut'):
        train.train_and_evaluate(config, self.dir / 'parts')
    train.train_and_evaluate(config, self.dir / 'parts')
    rows = {}
    for name in ('whole', 'parts'):
      path = self.dir / name / 'metrics.jsonl'
      rows[name] = [
          {k: v for k, v in row.items() if k != 'train/images_per_sec'}
          for row in writer.read_metrics(path)
      ]
    self.assertEqual(rows['parts'], rows['whole'])
    self.assertIn('validation/loss', rows['whole'][-1])

  def test_done_run_is_left_alone(self):
    config = _config()
    train.train_and_evaluate(config, self.dir)
    before = (self.dir / 'metrics.jsonl').read_bytes()
    with mock.patch.object(step_lib, 'train_step') as train_step:
      train.train_and_evaluate(config, self.dir)
    train_step.assert_not_called()
    self.assertEqual((self.dir / 'metrics.jsonl').read_bytes(), before)

  def test_other_config_is_refused_by_field(self):
    config = _config()
    train.train_and_evaluate(config, self.dir)
    with self.assertRaisesRegex(ValueError, r'config\.optimizer\.b2'):
      train.train_and_evaluate(_config(**{'optimizer.b2': 0.99}), self.dir)

  def test_loss_that_is_not_finite_stops_with_its_step(self):
    config = _config(**{'optimizer.learning_rate': 1e30})
    with self.assertRaisesRegex(ValueError, r'not finite at step \d+'):
      train.train_and_evaluate(config, self.dir)

  def test_batch_size_that_devices_cannot_share_is_refused(self):
    config = _config(**{'train.batch_size': 30})
    with self.assertRaisesRegex(
        ValueError, 'batch_size=30 is not divisible by 4 devices'
    ):
      train.train_and_evaluate(config, self.dir)

  def test_validation_is_the_mean_over_every_image(self):
    experiment = experiment_lib.create(_config('vae'))
    state = experiment.init_state()
    images = experiment.dataset.images['validation']
    self.assertNotEqual(len(images) % 24, 0)  # the last batch is partial
    one = train.make_validation_fn(experiment, False, len(images))(state)
    parts = train.make_validation_fn(experiment, False, 24)(state)
    # the KL term has no noise, so it must not depend on the batches
    np.testing.assert_allclose(
        parts['validation/kl'], one['validation/kl'], rtol=1e-5
    )  # rtol: float32 sums of 64 terms

  def test_validation_of_sets_is_of_sets_without_padding(self):
    experiment = experiment_lib.create(_config('wae_mmd'))
    state = experiment.init_state()
    images = experiment.dataset.images['validation']
    self.assertLen(images, 64)
    whole = train.make_validation_fn(experiment, False, 64)(state)
    parts = train.make_validation_fn(experiment, False, 60)(state)
    # a code has no noise: its loss is that of any division
    np.testing.assert_allclose(
        parts['validation/reconstruction'],
        whole['validation/reconstruction'],
        rtol=1e-5,  # float32 sums of 64 terms
    )
    objective_fn = experiment.method.phases[0].objective_fn
    key = jax.random.fold_in(
        jax.random.fold_in(experiment.key, 2**31 + 1), 0
    )
    _, (metrics, _) = objective_fn(
        state.ema_params,
        images.astype(np.float32) / 255,
        step_lib.image_keys(key, 64, None),
        {'axis_name': None},
    )
    # float32: a difference of means of 64 x 64 pairs
    np.testing.assert_allclose(
        whole['validation/mmd'], metrics['mmd'], rtol=1e-4, atol=1e-6
    )
    # two sets of 32 have an unbiased MMD too; one with padding is further off
    np.testing.assert_allclose(
        parts['validation/mmd'], metrics['mmd'], atol=0.5 * metrics['mmd']
    )


class KilledRunTest(absltest.TestCase):

  def test_sigkill_then_resume_is_bit_identical(self):
    directory = pathlib.Path(self.create_tempdir().full_path)
    program = (
        'from ldc_vae import config, evaluate, train\n'
        'import sys\n'
        'evaluate.evaluate = lambda *args, **kwargs: None\n'
        'train.train_and_evaluate(config.load("configs/digits.py:ldc,debug",'
        ' {"train.num_steps": 40, "train.checkpoint_every": 4}), sys.argv[1])'
    )
    env = dict(os.environ, PYTHONPATH=str(_ROOT))

    def start(workdir):
      return subprocess.Popen(
          [sys.executable, '-c', program, str(workdir)],
          cwd=_ROOT,
          env=env,
          stderr=subprocess.DEVNULL,
      )

    killed = start(directory / 'killed')
    first = directory / 'killed' / 'checkpoints' / '8'
    deadline = time.monotonic() + 120
    while not first.exists() and time.monotonic() < deadline:
      time.sleep(0.02)
    killed.kill()
    killed.wait()
    self.assertTrue(first.exists())
    self.assertEqual(start(directory / 'killed').wait(), 0)
    self.assertEqual(start(directory / 'whole').wait(), 0)
    config = config_lib.read(directory / 'whole')
    whole = _final_state(config, directory / 'whole')
    resumed = _final_state(config, directory / 'killed')
    self.assertEqual(resumed.step, 40)
    _assert_same(resumed.state, whole.state)


if __name__ == '__main__':
  absltest.main()
