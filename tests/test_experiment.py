"""Tests of what a config becomes, for every run file."""

import dataclasses
import functools
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import methods
from ldc_vae import step as step_lib
from ldc_vae.data import datasets
from ldc_vae.models import model as model_lib

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_RUN_FILES = sorted(
  path.stem
  for path in (_ROOT / 'configs').glob('*.py')
  if path.stem not in ('default', '__init__', 'latents')  # that has no images
)
# What each data set's images are, where it has to be had from elsewhere.
_SHAPES = {
  'mnist': (28, 28, 1),
  'fashion_mnist': (28, 28, 1),
  'cifar10': (32, 32, 3),
  'celeba64': (64, 64, 3),
  'images': (32, 32, 3),
}


def _stand_in(name, **unused_options):
  """Random images in the shape of a data set that is not on hand."""
  rng = np.random.default_rng(0)
  shape = _SHAPES[name]
  images = {
    split: rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    for split, count in (('train', 40), ('validation', 8), ('test', 8))
  }
  return datasets.Dataset(name, images, None, 0)


def _create(name, arg, overrides=None):
  spec = f'configs/{name}.py:{arg}'
  overrides = dict(overrides or {})
  if name == 'images':
    overrides['dataset.path'] = 'somewhere'
  config = config_lib.load(spec, overrides)
  if config.dataset.name not in _SHAPES:
    return config, experiment_lib.create(config)
  with mock.patch.object(datasets, 'load', _stand_in):
    return config, experiment_lib.create(config)


class CreateTest(parameterized.TestCase):
  @parameterized.parameters(
    *((name, 'ldc') for name in _RUN_FILES), ('cifar10', 'vae')
  )
  def test_every_run_file_trains(self, name, method):
    config, experiment = _create(
      name, f'{method},debug', {'train.batch_size': 8}
    )
    train_step = jax.jit(
      functools.partial(
        experiment_lib.make_train_step(
          config,
          experiment.algorithm,
          experiment.txs,
          experiment.num_steps,
        ),
        axis_name=None,
      )
    )
    state = experiment.init_state()
    images = experiment.dataset.images['train'][:8]
    after = state
    for _ in range(2):  # the warm-up's first rate is 0
      after, metrics = train_step(after, images, experiment.key)
    self.assertTrue(np.isfinite(metrics['loss']))
    for network, params in after.params.items():
      moved = jax.tree.map(
        lambda a, b: np.max(np.abs(np.asarray(a) - np.asarray(b))),
        params,
        state.params[network],
      )
      self.assertGreater(max(jax.tree.leaves(moved)), 0.0, network)

  @parameterized.parameters(*methods.METHODS)
  def test_every_method_suits_convolutions(self, method):
    config, experiment = _create('cifar10', f'{method},debug')
    train_step = functools.partial(
      experiment_lib.make_train_step(
        config, experiment.algorithm, experiment.txs, experiment.num_steps
      ),
      axis_name=None,
    )
    images = experiment.dataset.images['train'][:8]

    def run(key):
      state = step_lib.create_train_state(
        key, experiment.model, experiment.algorithm, experiment.txs
      )
      after, metrics = train_step(state, images, key)
      keys = jax.random.split(key, 5)
      z = experiment.algorithm.generate(after.params, after.stats, keys)
      return state, after, metrics, experiment.model.decode(after.params, z)

    state, after, metrics, decoded = jax.eval_shape(run, experiment.key)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    self.assertEqual(metrics['loss'].shape, ())
    self.assertEqual(decoded.shape, (5, 32, 32, 3))

  def test_state_is_the_same_for_the_same_seed(self):
    _, experiment = _create('digits', 'ldc,debug')
    _, other = _create('digits', 'ldc,debug', {'seed': 1})
    first = jax.tree.leaves(experiment.init_state().params)
    again = jax.tree.leaves(experiment.init_state().params)
    for a, b in zip(first, again, strict=True):
      np.testing.assert_array_equal(a, b)
    different = jax.tree.leaves(other.init_state().params)
    self.assertTrue(
      any(np.any(a != b) for a, b in zip(first, different, strict=True))
    )

  def test_images_of_one_column_are_not_mirrored(self):
    column = mock.patch.dict(_SHAPES, cifar10=(32, 1, 3))
    flip = {'dataset.flip': True}
    with column, self.assertRaisesRegex(errors.UserError, r'flip=True: .*one'):
      _create('cifar10', 'vae,debug', flip)
    _create('cifar10', 'vae,debug', flip)

  def test_devices_that_do_not_share_a_batch_evaluate_all_the_same(self):
    # the tests have four
    batch_size = {'train.batch_size': 30}
    _, experiment = _create('digits', 'vae,debug', batch_size)
    with self.assertRaisesRegex(ValueError, '30 is not divisible by 4'):
      experiment_lib.check_batch_size(30, 1)
    self.assertGreater(experiment.num_steps, 0)

  def test_epochs_that_are_too_many_to_count_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'num_epochs=1000000000 is 19.*low'):
      _create('digits', 'vae', {'train.num_epochs': 10**9})

  def test_epochs_count_whole_batches(self):
    _, experiment = _create(
      'digits',
      'vae',
      {'train.num_epochs': 3, 'train.batch_size': 100},
    )
    num_train = len(experiment.dataset.images['train'])
    self.assertEqual(experiment.steps_per_epoch, num_train // 100)
    self.assertEqual(experiment.num_steps, 3 * (num_train // 100))

  def test_batch_larger_than_the_data_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'batch_size=2000 is more than'):
      _create('digits', 'vae', {'train.batch_size': 2000})

  def test_a_data_set_of_floats_is_refused(self):
    config, _ = _create('digits', 'vae,debug')
    found = datasets.load('digits')
    images = {name: x / np.float32(255) for name, x in found.images.items()}
    with (
      mock.patch.object(
        datasets, 'load', return_value=found._replace(images=images)
      ),
      self.assertRaisesRegex(
        errors.UserError,
        r'name=digits: train images are float32\[.*\]; give uint8 \[N, H',
      ),
    ):
      experiment_lib.load_dataset(config)

  def test_micro_batches_must_divide_what_a_device_gets(self):
    with self.assertRaisesRegex(ValueError, 'accumulate=16 does not divide'):
      # 32 images are 8 on each of the 4 devices of the tests
      experiment_lib.check_batch_size(32, 16)

  @parameterized.parameters(*_RUN_FILES)
  def test_every_run_file_suits_every_method(self, name):
    for method in methods.METHODS:
      overrides = {'dataset.path': 'here'} if name == 'images' else {}
      config = config_lib.load(f'configs/{name}.py:{method}', overrides)
      self.assertEqual(config.method.name, method)
      self.assertEqual(
        set(config.method),
        {'name', *dataclasses.asdict(methods.METHODS[method]())},
      )


class LogParametersTest(absltest.TestCase):
  def test_counts_are_those_of_the_trees(self):
    _, experiment = _create('digits', 'vae,debug')
    state = experiment.init_state()
    with self.assertLogs('absl', 'INFO') as logs:
      experiment_lib.log_parameters(state)
    for params in state.params.values():
      self.assertIn(f'{model_lib.num_parameters(params):,}', logs.output[0])


if __name__ == '__main__':
  absltest.main()
