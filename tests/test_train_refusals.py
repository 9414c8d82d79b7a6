"""Tests of what stops a run: another config, other data, no finite loss."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import run as run_lib
from ldc_vae import step as step_lib
from ldc_vae import train
from ldc_vae.data import datasets
from ldc_vae.runtime import cluster
from ldc_vae.runtime import files
from ldc_vae.runtime import health
from ldc_vae.runtime import metric_writer
from tests import train_case

_assert_same = train_case.assert_same
_config = train_case.load_config
_final_state = train_case.final_state


class RefusalTest(train_case.TrainTest):
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

  def test_a_run_whose_steps_are_all_skipped_has_trained_nothing(self):
    keep_finite = step_lib.keep_finite

    def break_all(state, new_state, metrics, **kwargs):
      return keep_finite(state, new_state, {**metrics, 'kl': jnp.nan}, **kwargs)

    with mock.patch.object(step_lib, 'keep_finite', break_all):
      with self.assertRaisesRegex(
        FloatingPointError, 'all 12 updates were not finite .*learning_rate'
      ):
        train.train_and_evaluate(
          _config(**{'train.non_finite': 'skip'}), self.dir
        )
    # nor does another start pass it off as done
    with self.assertRaisesRegex(FloatingPointError, 'all 12 updates'):
      train.train_and_evaluate(
        _config(**{'train.non_finite': 'skip'}), self.dir
      )

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
      return {
        x['step']: x['train/skipped'] for x in rows if 'train/skipped' in x
      }

    with mock.patch.object(step_lib, 'keep_finite', break_step_7):
      with self.assertLogs('absl', 'WARNING') as logs:
        train.train_and_evaluate(skipping, self.dir / 'skip')
      self.assertIn(
        'step 7: kl not finite, the update is left out (1 so far)',
        ' '.join(logs.output),
      )
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
      (images, 'other train images'),
      (fewer, r'\d+ test images, not \d+'),
    ):
      with mock.patch.object(
        experiment_lib,
        'load_dataset',
        return_value=whole._replace(images=changed),
      ):
        with self.assertRaisesRegex(
          ValueError, f'checkpoints holds a run on {part}: training and'
        ):
          train.train_and_evaluate(config, self.dir)

  def test_images_that_are_exchanged_later_are_found(self):
    path = self.dir / 'images.npz'
    images = np.random.default_rng(0).integers(
      0, 256, (5500, 8, 8), dtype=np.uint8
    )
    np.savez(path, images=images)
    config = config_lib.load(
      'configs/images.py:vae,debug',
      {
        'dataset.path': str(path),
        'dataset.image_size': 0,
        'train.num_steps': 5,
      },
    )
    workdir = self.dir / 'run'
    train.train_and_evaluate(config, workdir)
    before = _contents(workdir)
    used = experiment_lib.load_dataset(config).images['train']
    kept = {each.tobytes() for each in used[::4]}
    exchanged = {each.tobytes() for each in used} - kept
    for i, each in enumerate(images):
      if each.tobytes() in exchanged:
        images[i] = 0
    self.assertLen(exchanged, 3 * len(used) // 4)
    np.savez(path, images=images)
    with self.assertRaisesRegex(
      errors.UserError, 'holds a run on other train images: training and test'
    ):
      train.train_and_evaluate(config, workdir)
    self.assertEqual(_contents(workdir), before)

  def test_a_run_that_has_sampled_its_images_goes_on_with_the_same(self):
    config = _config(**{'train.num_steps': 5})
    whole = experiment_lib.load_dataset(config)
    earlier = datasets._sampled_fingerprint(whole)
    # of the version that has sampled them
    self.assertEqual(earlier['train'], [1373, 8, 8, 1, 2415956631])
    with mock.patch.object(datasets, 'fingerprint', return_value=earlier):
      train.train_and_evaluate(config, self.dir)
    train.train_and_evaluate(config, self.dir)
    images = {**whole.images, 'test': whole.images['test'][::-1]}
    with mock.patch.object(
      experiment_lib, 'load_dataset', return_value=whole._replace(images=images)
    ):
      with self.assertRaisesRegex(ValueError, 'other test images'):
        train.train_and_evaluate(config, self.dir)

  def test_a_run_of_a_version_with_fewer_fields_goes_on(self):
    config = _config(**{'train.num_steps': 5})
    train.train_and_evaluate(config, self.dir)
    path = self.dir / 'config.json'
    record = files.read_json(path)
    del record['config']['train']['checkpoint_minutes']
    del record['config']['dataset']['background']
    del record['config']['dataset']['flip']
    del record['config']['optimizer']['latent_optimizer']
    files.write_json(path, record)
    self.assertEqual(config_lib.read(self.dir), config)
    train.train_and_evaluate(config, self.dir)
    del record['config']['train']['batch_size']  # which decides the weights
    files.write_json(path, record)
    with self.assertRaisesRegex(ValueError, 'train.batch_size is missing'):
      train.train_and_evaluate(config, self.dir)

  def test_processes_may_have_their_own_places(self):
    def barrier(unused_name, own):
      other = {f'config.{name}': 'there' for name in config_lib.HOST_FIELDS}
      return [own, {**own, **other}]

    config = _config()
    with mock.patch.object(cluster, 'barrier', barrier):
      run = run_lib.Run(self.dir, config, experiment_lib.create(config))
      run.check_agreement()

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
        run_lib.Run(
          self.dir, config, experiment_lib.create(config)
        ).check_agreement()


def _contents(folder):
  """The bytes of every file in a folder."""
  return {
    path: path.read_bytes() for path in folder.rglob('*') if path.is_file()
  }


if __name__ == '__main__':
  absltest.main()
