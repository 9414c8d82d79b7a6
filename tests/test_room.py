"""Tests of ldc_vae.room."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import room
from ldc_vae.runtime import memory

_SPEC = 'configs/digits.py:ldc,debug'


def _check(*overrides, spec=_SPEC):
  config = config_lib.load(spec, [f'--config.{each}' for each in overrides])
  room.check(config, experiment_lib.create(config))


class RoomTest(parameterized.TestCase):
  @parameterized.parameters(
    ('model.latent_size=100000000', 'needs .* of memory at least'),
    ('model.hidden_sizes=(2000000, 2000000)', 'needs 640,0'),
    ('model.sampler_width=100000000', 'needs '),
    ('method.num_particles=1000000000', 'needs '),
    ('evaluate.batch_size=1000000000', 'needs 1,024.0 GB'),
    ('evaluate.importance_samples=1000000000', 'needs 512.0 GB'),
    ('evaluate.ais_chains=1000000000', 'needs 512.0 GB'),
  )
  def test_an_absurd_size_is_refused_at_once(self, override, part):
    name = override.partition('=')[0]
    with self.assertRaisesRegex(errors.UserError, part) as raised:
      _check(override)
    self.assertIn(f'config.{name}=', str(raised.exception))
    self.assertRegex(str(raised.exception), r'GB are free; lower (it|one of)')

  @parameterized.parameters('ldc', 'lebm', 'vamp', 'ae', 'stein_vae')
  def test_a_run_that_fits_passes(self, method):
    _check(spec=f'configs/digits.py:{method}')

  def test_the_patches_of_convolutions_count_with_all_draws(self):
    config = config_lib.load(
      'configs/celeba64.py', ['--config.model.channels=(32,64,128)']
    )
    model = experiment_lib.create_model(config, (128, 128, 3))
    algorithm = experiment_lib.create_algorithm(config, model)
    state = experiment_lib.abstract_state(config, model, algorithm)
    experiment = mock.Mock(model=model)
    experiment.abstract_state = lambda: state
    # 66 x 66 inputs of 128 channels, 3 x 3 patches of 32 and the kernel
    product = 4 * (66**2 * (128 + 9 * 32) + 128 * 9 * 32 / 2**20)
    count = config.evaluate.batch_size * config.method.num_particles
    for free, fits in ((1.01, True), (0.99, False)):
      free = int(free * count * product)
      with mock.patch.object(memory, 'available', lambda free=free: free):
        if fits:
          room.check(config, experiment)
        else:
          with self.assertRaisesRegex(
            errors.UserError, 'evaluate.batch_size=500.*method.num_particles=2'
          ):
            room.check(config, experiment)

  def test_the_bound_is_that_of_the_weights(self):
    config = config_lib.load(_SPEC)
    experiment = experiment_lib.create(config)
    state = experiment.init_state()
    arrays = lambda tree: sum(
      x.nbytes for x in jax.tree.leaves(tree) if hasattr(x, 'nbytes')
    )
    wanted = jax.device_count() * (arrays(state) + arrays(state.params))
    for free, fits in ((wanted, True), (0.99 * wanted, False)):
      with mock.patch.object(memory, 'available', lambda free=free: free):
        if fits:
          room.check(config, experiment)
        else:
          with self.assertRaises(errors.UserError):
            room.check(config, experiment)

  def test_what_a_step_keeps_for_its_gradient_is_a_warning(self):
    overrides = {'model.architecture': 'conv', 'model.convolution': 'patches'}
    config = config_lib.load('configs/digits.py:vae', overrides)
    experiment = experiment_lib.create(config)
    state = experiment.abstract_state()
    # a convolution keeps its input and its patches at least
    product = room._largest_product(experiment, state)
    self.assertGreater(room._kept(experiment, state), 0.5 * product)
    enough = lambda: 10**12
    with mock.patch.object(memory, 'available', enough):
      with self.assertNoLogs(level='WARNING'):
        room.check(config, experiment)
    kept = config.train.batch_size * room._kept(experiment, state)
    weights = room._bytes(state) + room._bytes(state.params)
    free = jax.device_count() * weights + kept // 2
    with mock.patch.object(memory, 'available', lambda: free):
      with self.assertLogs(level='WARNING') as logs:
        room.check(config, experiment)
    size = config.train.batch_size
    self.assertIn(f'config.train.batch_size={size}, config.', logs.output[0])
    self.assertIn('may not fit', logs.output[0])
    self.assertIn('raise config.train.accumulate', logs.output[0])


if __name__ == '__main__':
  absltest.main()
