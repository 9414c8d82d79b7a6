"""Tests of the loop: resume, interruption, refusal."""

from concurrent import futures
import errno
import os
import pathlib
import signal
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import evaluate
from ldc_vae import experiment as experiment_lib
from ldc_vae import step as step_lib
from ldc_vae import train
from ldc_vae.data import datasets
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import cluster
from ldc_vae.runtime import files
from ldc_vae.runtime import health
from ldc_vae.runtime import manifest
from ldc_vae.runtime import metric_writer
from ldc_vae.runtime import progress
from ldc_vae.runtime import signals

_NUM_STEPS = 12


def _config(method='vae', **overrides):
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
    return checkpointer.restore(experiment.abstract_state())


def _rows(workdir):
  """The lines of metrics.jsonl, but for clocks."""
  return [
      {k: v for k, v in row.items() if k != 'train/images_per_sec'}
      for row in metric_writer.read_metrics(
          pathlib.Path(workdir) / 'metrics.jsonl'
      )
  ]


def _assert_same(actual, expected, **tolerances):
  leaves = zip(
      jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  )
  tolerances = {'rtol': 0.0, 'atol': 0.0, **tolerances}
  for a, b in leaves:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), **tolerances)


class _Programs:
  """Compiles for the first run of a config what its later starts use, too.

  Each start compiles the same programs, which is most of the time of a few
  steps. Those of test_cluster_runs.py and test_torture.py do so in processes of
  their own, and end bit-identical.
  """

  def __init__(self):
    self._kept = {}

  def patches(self):
    """A patch for each function whose results are kept, by what they are of."""
    config_key = lambda config, *unused: (
        config.to_json(), step_lib.keep_finite  # which a test replaces
    )
    method_key = lambda experiment: experiment.method
    validation_key = lambda experiment, *rest: (experiment.method, *rest)
    return (
        self._keep(experiment_lib, 'create_method', config_key),
        self._keep(experiment_lib, 'make_train_step', config_key),
        self._keep(step_lib, 'pmap_train_step', lambda train_step: train_step),
        self._keep(
            experiment_lib.Experiment, 'init_state', method_key, _copies
        ),
        self._keep(experiment_lib.Experiment, 'abstract_state', method_key),
        self._keep(train, 'make_validation_fn', validation_key),
    )

  def _keep(self, module, name, key_fn, use_fn=lambda result: result):
    function = getattr(module, name)

    def kept(*args):
      key = name, key_fn(*args)
      if key not in self._kept:
        with jax.ensure_compile_time_eval():  # a state's shapes are asked first
          self._kept[key] = function(*args)
      return use_fn(self._kept[key])

    return mock.patch.object(module, name, kept)


def _copies(state):
  """A state that can be donated, as often as asked for."""
  return jax.tree.map(jnp.copy, state)


class TrainAndEvaluateTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    for patch in _Programs().patches():
      cls.enterClassContext(patch)

  def setUp(self):
    super().setUp()
    # a slow machine must not end the process of the tests
    self.enter_context(mock.patch.object(signals, 'GRACE', 300.0))
    # evaluation has tests of its own; here the loop is what is looked at
    self.enter_context(mock.patch.object(evaluate, 'evaluate'))
    self.dir = pathlib.Path(self.create_tempdir().full_path)

  @parameterized.named_parameters(
      ('ldc', 'ldc', 7), ('vae', 'vae', 1), ('at_a_checkpoint', 'vae', 5)
  )
  def test_interrupted_run_ends_bit_identical(self, method, stop_after):
    config = _config(method)
    train.train_and_evaluate(config, self.dir / 'whole')
    real_update = progress.ProgressBar.update

    def interrupt(bar, step):
      real_update(bar, step)
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
        {path.name for path in folder.iterdir()}, {'10', '12', '12.corrupt'}
        | {path.name for path in (self.dir / 'whole' / 'checkpoints').iterdir()}
    )
    _assert_same(
        _final_state(config, self.dir / 'parts').state,
        _final_state(config, self.dir / 'whole').state,
    )

  def test_a_save_that_fails_stops_the_run_before_the_next_one(self):
    config = _config(**{'train.log_every': 1})
    real_save = checkpoint.Checkpointer.save
    real_write = checkpoint.Checkpointer._write_with_orbax

    def write(checkpointer, manifest, values):
      if manifest['step'] > 5:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      real_write(checkpointer, manifest, values)

    def save(checkpointer, *args, **kwargs):
      real_save(checkpointer, *args, **kwargs)
      futures.wait([checkpointer._saving])  # as if a step took as long

    with mock.patch.multiple(
        checkpoint.Checkpointer, save=save, _write_with_orbax=write
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
    other = _config(**{'optimizer.b2': 0.99})
    message = r'holds a run with config\.optimizer\.b2=0\.999, not 0\.99; use'
    with self.assertRaisesRegex(ValueError, message):
      train.train_and_evaluate(other, self.dir)
    (self.dir / 'config.json').unlink()  # the checkpoints have it too
    with self.assertRaisesRegex(ValueError, message):
      train.train_and_evaluate(other, self.dir)
    self.assertFalse((self.dir / 'config.json').exists())
    train.train_and_evaluate(config, self.dir)
    self.assertTrue((self.dir / 'config.json').exists())

  def test_loss_that_is_not_finite_stops_with_its_step(self):
    config = _config(**{'optimizer.learning_rate': 1e30})
    with self.assertRaisesRegex(
        health.NonFiniteError, r'^loss, .* not finite at step \d; no checkpoint'
    ):
      train.train_and_evaluate(config, self.dir)

  def test_a_step_that_is_not_finite_is_skipped_or_stops_as_asked(self):
    config = _config()
    skipping = _config(**{'train.non_finite': 'skip'})
    keep_finite = step_lib.keep_finite

    def break_step_7(state, new_state, metrics, **kwargs):
      bad = state.step == 6
      metrics['kl'] = jnp.where(bad, jnp.nan, metrics['kl'])
      return keep_finite(state, new_state, metrics, **kwargs)

    def rows(name):
      path = self.dir / name / 'metrics.jsonl'
      rows = metric_writer.read_metrics(path)
      return {x['step']: x['train/skipped'] for x in rows
              if 'train/skipped' in x}

    with mock.patch.object(step_lib, 'keep_finite', break_step_7):
      with self.assertLogs('absl', 'WARNING') as logs:
        train.train_and_evaluate(skipping, self.dir / 'skip')
      self.assertIn('step 7: kl not finite, the update is left out (1 so far)',
                    ' '.join(logs.output))
      self.assertEqual(rows('skip'), {1: 0, 3: 0, 6: 0, 9: 1, 12: 1})
      with self.assertRaisesRegex(
          health.NonFiniteError,
          '^kl not finite at step 7; .*/stop/checkpoints/5 is the last good',
      ):
        train.train_and_evaluate(config, self.dir / 'stop')
      self.assertEqual(
          [x.name for x in (self.dir / 'stop' / 'checkpoints').iterdir()], ['5']
      )
      train.train_and_evaluate(skipping, self.dir / 'stop')  # as it was told
    # two programs, which may round differently: one step more moves a weight
    # by a hundred times the tolerance
    _assert_same(
        _final_state(config, self.dir / 'stop').state,
        _final_state(config, self.dir / 'skip').state,
        rtol=1e-3,
        atol=1e-5,
    )

  def test_a_collapsed_run_is_warned_of_once(self):
    alarm = mock.Mock(return_value=[])
    with mock.patch.object(health.Alarms, 'check', alarm):
      train.train_and_evaluate(_config(), self.dir)
    rows = {step: row for (step, row), _ in alarm.call_args_list}
    self.assertContainsSubset([1, 3, 5, 6, 9, 10, 12], rows)
    self.assertIn('train/posterior_std', rows[3])
    self.assertBetween(rows[12]['validation/active_units'], 0, 8)

  def test_batch_size_that_devices_cannot_share_is_refused(self):
    config = _config(**{'train.batch_size': 30})
    with self.assertRaisesRegex(
        ValueError, 'batch_size=30 is not divisible by 4 devices'
    ):
      train.train_and_evaluate(config, self.dir)

  def test_other_data_do_not_continue_a_run(self):
    config = _config(**{'train.num_steps': 5})
    train.train_and_evaluate(config, self.dir)
    train.train_and_evaluate(config, self.dir)  # the same data do
    whole = experiment_lib.load_dataset(config)
    images = {**whole.images, 'train': whole.images['train'][::-1]}
    fewer = {**whole.images, 'test': whole.images['test'][1:]}
    for changed, part in (
        (images, 'other train images'), (fewer, r'\d+ test images, not \d+')
    ):
      with mock.patch.object(
          experiment_lib, 'load_dataset',
          return_value=whole._replace(images=changed),
      ):
        with self.assertRaisesRegex(
            ValueError, f'checkpoints holds a run on {part}: the splits'
        ):
          train.train_and_evaluate(config, self.dir)

  def test_the_commit_that_began_a_run_is_kept(self):
    path = self.dir / 'config.json'
    for commit, later in (('a', None), ('b', ['b']), ('a', ['b']),
                          ('c', ['b', 'c'])):
      described = {'versions': {}, 'git_commit': commit}
      with mock.patch.object(config_lib, 'describe', lambda: described):
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

    class Clock(train._Clock):

      def paused(self):
        left.append(len(watches[-1]._under_way))
        return super().paused()

    with mock.patch.object(health, 'Watch', Watch):
      with mock.patch.object(train, '_Clock', Clock):
        train.train_and_evaluate(_config(), self.dir)
    self.assertNotEmpty(left)
    self.assertEqual(sum(left), 0)

  @parameterized.parameters(
      ('config.seed', 3, 'config.seed is 3 on process 1 and 0 on process 0'),
      ('the train images', [1], 'same config and data'),
  )
  def test_processes_of_other_config_or_data_are_refused(
      self, name, value, part
  ):
    def barrier(unused_name, own):
      return [own, {**own, name: value}]

    config = _config()
    with mock.patch.object(cluster, 'barrier', barrier):
      with self.assertRaisesRegex(ValueError, part):
        train._check_agreement(config, experiment_lib.create(config))

  def test_validation_is_the_mean_over_every_image(self):
    experiment = experiment_lib.create(_config())
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
    key = jax.random.fold_in(experiment.key, 2**31 + 1)
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


if __name__ == '__main__':
  absltest.main()
