"""Tests of the loop: resume, interruption, what is kept."""

from concurrent import futures
import errno
import os
import shutil
import signal
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import config as config_lib
from ldc_vae import loop
from ldc_vae import run as run_lib
from ldc_vae import step as step_lib
from ldc_vae import train
from ldc_vae.data import datasets
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import files
from ldc_vae.runtime import health
from ldc_vae.runtime import lock
from ldc_vae.runtime import manifest
from ldc_vae.runtime import metric_writer
from ldc_vae.runtime import orbax_writer
from ldc_vae.runtime import progress
from ldc_vae.runtime import provenance
from tests import train_case

_NUM_STEPS = train_case.NUM_STEPS
_assert_same = train_case.assert_same
_config = train_case.load_config
_final_state = train_case.final_state
_rows = train_case.rows


class TrainAndEvaluateTest(train_case.TrainTest):
  def test_a_start_removes_what_a_killed_evaluation_left(self):
    config = _config(**{'train.num_steps': 3})
    train.train_and_evaluate(config, self.dir)
    left = self.dir / '.evaluation-unfinished'
    left.mkdir()
    (left / 'samples.npz').write_bytes(b'PK')
    with lock.lock_workdir(self.dir, lock.EVALUATION_LOCK_NAME):
      train.train_and_evaluate(config, self.dir)
      self.assertTrue(left.exists())  # another process may be at work
    train.train_and_evaluate(config, self.dir)
    self.assertFalse(left.exists())

  @parameterized.named_parameters(
    ('ldc', 'ldc', 7),
    ('vae', 'vae', 1),
    ('at_a_checkpoint', 'vae', 5),
    ('with_flips', 'vae', 7, True),
  )
  def test_interrupted_run_ends_bit_identical(
    self, method, stop_after, flip=False
  ):
    config = _config(method, **{'dataset.flip': flip})
    train.train_and_evaluate(config, self.dir / 'whole')
    real_update = progress.ProgressBar.update

    def interrupt(bar, step, loss_fn):
      real_update(bar, step, loss_fn)
      if step == stop_after:
        signal.raise_signal(signal.SIGINT)

    with mock.patch.object(progress.ProgressBar, 'update', interrupt):
      with self.assertRaises(KeyboardInterrupt):
        train.train_and_evaluate(config, self.dir / 'parts')
    # the step under way is finished, and saved
    self.assertEqual(_final_state(config, self.dir / 'parts').step, stop_after)
    train.train_and_evaluate(config, self.dir / 'parts')
    whole = _final_state(config, self.dir / 'whole')
    parts = _final_state(config, self.dir / 'parts')
    self.assertEqual(parts.step, _NUM_STEPS)
    _assert_same(parts.state, whole.state)

  def test_resumed_metrics_have_no_gaps_or_doubles(self):
    config = _config(**{'train.validate_every': 5})
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
    expected = _rows(self.dir / 'whole')
    self.assertEqual(_rows(self.dir / 'parts'), expected)
    self.assertIn('validation/loss', expected[-1])
    self._stop_in_validations(config, expected)

  def _stop_in_validations(self, config, expected):
    """Stops within validations; what resumes must be as the whole run."""
    real_batches, workdir = datasets.eval_batches, self.dir / 'stopped'
    # the validation to stop in; a start's first one is that left by the last
    for step, stopped in ((5, 1), (10, 2), (10, 1), (12, 2)):
      count = 0

      def batches(*args, stopped=stopped):
        nonlocal count
        count += 1
        for each in real_batches(*args):
          if count == stopped:
            signal.raise_signal(signal.SIGTERM)
          yield each

      with mock.patch.object(datasets, 'eval_batches', batches):
        with self.assertRaises(SystemExit):
          train.train_and_evaluate(config, workdir)
      self.assertEqual(_final_state(config, workdir).step, step)
      rows = [row for row in expected if row['step'] < step]
      self.assertEqual(_rows(workdir), rows)
    train.train_and_evaluate(config, workdir)
    self.assertEqual(_rows(workdir), expected)
    for each in ('whole', 'parts', 'stopped'):
      last = _final_state(config, self.dir / each)
      self.assertNotIn('unfinished', last.meta)

  def test_a_corrupt_checkpoint_costs_the_steps_since_the_one_before(self):
    config = _config()
    for name in ('whole', 'parts'):
      train.train_and_evaluate(config, self.dir / name)
    folder = self.dir / 'parts' / 'checkpoints'
    for path in (folder / '12').glob('state/**/d/*'):
      path.write_bytes(path.read_bytes()[:-1])
    with self.assertLogs('absl', 'WARNING') as logs:
      train.train_and_evaluate(config, self.dir / 'parts')
    self.assertRegex(
      logs.output[0],
      'checkpoints/12 is corrupt .*set aside as 12.corrupt, using checkpoint'
      ' 10 instead',
    )
    self.assertEqual(
      {path.name for path in folder.iterdir()},
      {'10', '12', '12.corrupt'}
      | {path.name for path in (self.dir / 'whole' / 'checkpoints').iterdir()},
    )
    _assert_same(
      _final_state(config, self.dir / 'parts').state,
      _final_state(config, self.dir / 'whole').state,
    )

  def test_a_save_that_fails_stops_the_run_before_the_next_one(self):
    config = _config(**{'train.log_every': 1})
    real_save = checkpoint.Checkpointer.save
    real_write = orbax_writer.write

    def write(directory, record, values, **kwargs):
      if record['step'] > 5:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      real_write(directory, record, values, **kwargs)

    def save(checkpointer, *args, **kwargs):
      real_save(checkpointer, *args, **kwargs)
      futures.wait([checkpointer._saving])  # as if a step took as long

    with (
      mock.patch.object(checkpoint.Checkpointer, 'save', save),
      mock.patch.object(orbax_writer, 'write', write),
    ):
      with self.assertRaisesRegex(
        manifest.CheckpointError, 'checkpoint 10 could .*; free some disk'
      ):
        train.train_and_evaluate(config, self.dir)
    rows = metric_writer.read_metrics(self.dir / 'metrics.jsonl')
    self.assertEqual(rows[-1]['step'], 10)
    self.assertEqual(
      [x.name for x in (self.dir / 'checkpoints').iterdir()], ['5']
    )

  @parameterized.named_parameters(
    ('progress', progress.ProgressBar, 'update', 7, 7),
    ('a_row', metric_writer.MetricWriter, 'write', 3, 5),
    ('an_alarm', health.Alarms, 'check', 4, 6),
    ('a_look_at_the_disk', checkpoint.Checkpointer, 'check', 12, 12),
    ('the_last_save', checkpoint.Checkpointer, 'save', 3, _NUM_STEPS),
  )
  def test_an_error_in_the_loop_saves_the_step(self, owner, name, call, step):
    config = _config(**{'train.validate_every': 5})
    train.train_and_evaluate(config, self.dir / 'whole')
    real, calls = getattr(owner, name), []

    def fail(*args, **kwargs):
      calls.append(args)
      if len(calls) == call:
        raise RuntimeError('a bug')
      return real(*args, **kwargs)

    with mock.patch.object(owner, name, fail):
      with self.assertRaisesRegex(RuntimeError, 'a bug'):
        train.train_and_evaluate(config, self.dir / 'parts')
    self.assertEqual(_final_state(config, self.dir / 'parts').step, step)
    train.train_and_evaluate(config, self.dir / 'parts')
    parts, whole = (
      _final_state(config, self.dir / x) for x in ('parts', 'whole')
    )
    _assert_same(parts.state, whole.state)
    loss = 'validation/loss'  # which decides the best checkpoint
    self.assertEqual(parts.metrics[loss], whole.metrics[loss])
    self.assertEqual(_rows(self.dir / 'parts'), _rows(self.dir / 'whole'))

  def test_an_error_where_there_is_no_finite_state_saves_none(self):
    bad = mock.patch.object(health, 'first_non_finite', return_value='params')
    fail = mock.patch.object(
      progress.ProgressBar, 'update', side_effect=RuntimeError('a bug')
    )
    with bad, fail, self.assertRaisesRegex(RuntimeError, 'a bug'):
      train.train_and_evaluate(_config(), self.dir)
    self.assertEmpty(list((self.dir / 'checkpoints').iterdir()))

  def test_checkpoints_by_time_change_nothing_else(self):
    config = _config()
    train.train_and_evaluate(config, self.dir / 'whole')
    saved, real = [], checkpoint.Checkpointer.save

    def save(checkpointer, step, *args, **kwargs):
      saved.append(step)
      real(checkpointer, step, *args, **kwargs)

    with mock.patch.object(checkpoint.Checkpointer, 'save', save):
      train.train_and_evaluate(
        _config(**{'train.checkpoint_minutes': 1e-9}), self.dir / 'timed'
      )
    self.assertEqual(saved, list(range(1, _NUM_STEPS + 1)))
    _assert_same(
      _final_state(config, self.dir / 'timed').state,
      _final_state(config, self.dir / 'whole').state,
    )
    self.assertEqual(_rows(self.dir / 'timed'), _rows(self.dir / 'whole'))

  def test_rows_that_were_changed_are_reported(self):
    train.train_and_evaluate(_config(), self.dir)
    path = self.dir / 'metrics.jsonl'
    path.write_bytes(path.read_bytes().replace(b'"step": 3', b'"step": 4'))
    with self.assertLogs('absl', 'WARNING') as logs:
      train.train_and_evaluate(_config(), self.dir)
    self.assertIn('is not as it was written', logs.output[0])

  def test_done_run_is_left_alone(self):
    config = _config()
    train.train_and_evaluate(config, self.dir)
    before = (self.dir / 'metrics.jsonl').read_bytes()
    with mock.patch.object(step_lib, 'train_step') as train_step:
      train.train_and_evaluate(config, self.dir)
    train_step.assert_not_called()
    self.assertEqual((self.dir / 'metrics.jsonl').read_bytes(), before)

  def test_a_collapsed_run_is_warned_of_once(self):
    alarm = mock.Mock(return_value=[])
    with mock.patch.object(health.Alarms, 'check', alarm):
      train.train_and_evaluate(_config(), self.dir)
    rows = {step: row for (step, row), _ in alarm.call_args_list}
    self.assertContainsSubset([1, 3, 5, 6, 9, 10, 12], rows)
    self.assertIn('train/posterior_std', rows[3])
    self.assertBetween(rows[12]['validation/active_units'], 0, 8)

  @parameterized.parameters(
    ('ldc', 'gaussian', 'raise config.method.inverse_temperature'),
    ('beta_vae', 'gaussian', 'lower config.method.beta'),
    ('iwae', 'gaussian', 'lower config.model.scale'),
    ('iwae', 'bernoulli', 'lower config.optimizer.learning_rate'),
  )
  def test_an_alarm_names_a_field_of_the_run(self, method, likelihood, remedy):
    config = config_lib.load(
      f'configs/digits.py:{method}', {'model.likelihood': likelihood}
    )
    alarms = loop._create_alarms(config, 1000)
    (sentence,) = alarms.check(500, {'validation/active_units': 0.0})
    self.assertEndsWith(sentence, f'the decoder ignores them; {remedy}')

  def test_another_number_of_devices_is_reported(self):
    config = _config(**{'train.num_steps': 10, 'train.checkpoint_every': 5})
    with mock.patch.object(run_lib.jax, 'device_count', return_value=2):
      train.train_and_evaluate(config, self.dir)
    shutil.rmtree(self.dir / 'checkpoints' / '10')
    with self.assertLogs('absl', 'WARNING') as logs:
      train.train_and_evaluate(config, self.dir)
    self.assertIn(
      'this run had 2 devices and has 4 now', '\n'.join(logs.output)
    )

  def test_the_commit_that_began_a_run_is_kept(self):
    path = self.dir / 'config.json'
    for commit, later in (
      ('a', None),
      ('b', ['b']),
      ('a', ['b']),
      ('c', ['b', 'c']),
    ):
      described = {'versions': {}, 'git_commit': commit}
      with mock.patch.object(provenance, 'describe', return_value=described):
        train.train_and_evaluate(_config(**{'train.num_steps': 5}), self.dir)
      record = files.read_json(path)
      self.assertEqual(record['git_commit'], 'a')
      self.assertEqual(record.get('later_commits'), later)

  def test_what_has_saved_nothing_holds_no_run(self):
    with mock.patch.object(
      step_lib, 'pmap_train_step', side_effect=MemoryError
    ):
      with self.assertRaises(MemoryError):
        train.train_and_evaluate(_config(), self.dir)
    self.assertTrue((self.dir / 'config.json').exists())
    config = _config(**{'train.accumulate': 2})
    train.train_and_evaluate(config, self.dir)
    self.assertEqual(_final_state(config, self.dir).step, _NUM_STEPS)

  def test_steps_under_way_are_done_before_the_clock_stops(self):
    watches, left = [], []

    class Watch(health.Watch):
      def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        watches.append(self)

    class Clock(loop._Clock):
      def paused(self):
        left.append(len(watches[-1]._under_way))
        return super().paused()

    with mock.patch.object(health, 'Watch', Watch):
      with mock.patch.object(loop, '_Clock', Clock):
        train.train_and_evaluate(_config(), self.dir)
    self.assertNotEmpty(left)
    self.assertEqual(sum(left), 0)


if __name__ == '__main__':
  absltest.main()
