"""Tests that a step does the same on any number of devices."""

import functools
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldc_vae import methods
from ldc_vae import step as step_lib
from ldc_vae import svgd
from ldc_vae.runtime import checkpoint
from tests import step_case

_METHODS = step_case.METHODS
_create_state = step_case.create_state
_first_state = step_case.first_state
_images = step_case.batch_images
_largest_change = step_case.largest_change
_make_step = step_case.make_step
_model = step_case.create_model
_run = step_case.run_steps
_run_single = step_case.run_single
_setup = step_case.set_up
_split = step_case.split_batch
_state = step_case.fresh_state
_step_fn = step_case.compiled_step


class ShardedStepTest(chex.TestCase):
  """Four devices with a quarter of the batch each do what one does."""

  @parameterized.parameters(
    ('vae', 'pmap_4'),
    ('vae', 'pmap_2'),
    ('vae', 'vmap_4'),
    ('ldc', 'pmap_4'),
    ('ldc', 'vmap_4'),
    ('ldc_default', 'pmap_4'),
    ('stein_vae', 'vmap_4'),
  )
  def test_plain_gradient_steps_are_equal(self, name, kind):
    expected, expected_metrics = _run_single(name, 'sgd', 3)
    actual, metrics = _run(_step_fn(name, 'sgd', kind), _state(name), 3)
    # float32 means of 8 images in another order, 3 steps, 2 latent updates in
    # each
    chex.assert_trees_all_close(
      (actual.params, actual.ema_params, actual.stats),
      (expected.params, expected.ema_params, expected.stats),
      rtol=1e-4,
      atol=2e-6,
    )
    self.assertEqual(int(actual.step), 3)
    self.assertGreater(
      _largest_change(_first_state(name).params, actual.params), 1e-2
    )
    # a metric that is a mean over images is that of the whole batch; float32
    keys = ('loss', 'reconstruction', 'posterior_std', 'latent_mean_square')
    has_sampler = 'sampler' in expected.params
    if has_sampler:
      keys += ('sampler_std', 'kernel_mass', 'energy_gap')
    for key in keys:
      np.testing.assert_allclose(
        [step[key] for step in metrics],
        [step[key] for step in expected_metrics],
        rtol=1e-4,
      )
    for key in ('grad_norm_encoder', 'grad_norm_decoder'):
      np.testing.assert_allclose(
        metrics[0][key], expected_metrics[0][key], rtol=1e-4
      )

  def test_gradient_norms_are_taken_in_logged_steps_only(self):
    step_fn = _step_fn('ldc', 'sgd', 'pmap_4')
    _, metrics = _run(step_fn, _state('ldc'), 5)
    for key in ('grad_norm_encoder', 'grad_norm_sampler'):
      values = [step[key] for step in metrics]
      taken = [True, False, False, True, False]  # the first and the fourth
      self.assertEqual((np.asarray(values) >= 0.0).tolist(), taken)
      self.assertTrue(np.all(np.isfinite(values)))  # for JAX_DEBUG_NANS

  def test_every_method_has_its_line(self):
    self.assertEqual(
      {key for key, _ in _METHODS.values()}, set(methods.METHODS)
    )

  def _one_step_is_that_of_one_device(self, name, kind):
    expected, expected_metrics = _run_single(name, 'sgd', 1)
    actual, metrics = _run(_step_fn(name, 'sgd', kind), _state(name), 1)
    # float32 means of 8 images in another order, and of their Langevin chains
    chex.assert_trees_all_close(
      (actual.params, actual.stats),
      (expected.params, expected.stats),
      rtol=1e-4,
      atol=2e-6,
    )
    np.testing.assert_allclose(
      metrics[0]['loss'], expected_metrics[0]['loss'], rtol=1e-4
    )
    for network in actual.params:  # each is trained
      before = _first_state(name).params[network]
      change = _largest_change(before, actual.params[network])
      self.assertGreater(change, 1e-6, network)

  # a set of latents over the devices; latents of one phase in the next; chains
  @parameterized.parameters(
    ('wae_mmd', 'pmap_4'), ('aae', 'vmap_4'), ('lebm', 'vmap_4')
  )
  def test_one_step_is_that_of_one_device(self, name, kind):
    self._one_step_is_that_of_one_device(name, kind)

  @parameterized.parameters(
    'ae',
    'beta_vae',
    'info_vae',
    'iwae',
    'rae_gp',
    'rae_l2',
    'stein_vae',
    'vamp',
  )
  @pytest.mark.slow
  def test_one_step_of_any_method_is_that_of_one_device(self, name):
    self._one_step_is_that_of_one_device(name, 'pmap_4')

  @parameterized.parameters(('vae',), ('ldc',), ('ldc_default',))
  def test_twenty_steps_stay_near(self, name):
    expected, _ = _run_single(name, 'sgd', 20)
    actual, _ = _run(_step_fn(name, 'sgd', 'pmap_4'), _state(name), 20)
    # the rounding of the test above through 20 steps, 40 of the sampler: ten
    # times its bounds
    chex.assert_trees_all_close(
      actual.params, expected.params, rtol=1e-3, atol=2e-4
    )

  def test_twenty_adam_steps_stay_near(self):
    expected, _ = _run_single('vae', 'adam', 20)
    actual, _ = _run(
      _step_fn('vae', 'adam', 'pmap_4'), _state('vae', 'adam'), 20
    )
    # Adam divides a gradient by its size: one of 1e-7 that is all rounding may
    # move a weight by the whole rate, 1e-3, here in one step of 20 at most
    chex.assert_trees_all_close(
      actual.params, expected.params, rtol=1e-3, atol=1e-3
    )
    self.assertGreater(
      _largest_change(_first_state('vae', 'adam').params, actual.params),
      1.5e-2,
    )

  def test_a_missing_mean_over_devices_would_be_seen(self):
    _, _, train_step = _setup('vae', 'sgd')
    expected, _ = _run_single('vae', 'sgd', 1)
    mapped = jax.vmap(
      functools.partial(train_step, axis_name=step_lib.AXIS_NAME),
      axis_name=step_lib.AXIS_NAME,
      in_axes=(None, 0, None),
    )
    with mock.patch.object(jax.lax, 'pmean', lambda x, axis_name: x):
      states, _ = jax.jit(mapped)(
        _state('vae'), _split(_images(), 4), jax.random.key(5)
      )
    for device in range(4):
      own = jax.tree.map(lambda x, d=device: x[d], states.params)
      self.assertGreater(_largest_change(expected.params, own), 1e-3)

  def test_samplers_that_see_their_own_device_only_would_be_seen(self):
    _, _, train_step = _setup('ldc', 'sgd')
    expected, _ = _run_single('ldc', 'sgd', 1)
    normalised_update = svgd.normalised_update

    def of_one_device(particles, scores, kernel, **options):
      options['axis_name'] = None
      return normalised_update(particles, scores, kernel, **options)

    with mock.patch.object(svgd, 'normalised_update', of_one_device):
      actual, _ = _run(_make_step(train_step, 'vmap_4'), _state('ldc'), 1)
    for name, is_same in (('encoder', True), ('sampler', False)):
      change = _largest_change(expected.params[name], actual.params[name])
      self.assertEqual(change < 2e-6, is_same, f'{name} {change}')  # as above

  @parameterized.parameters('ldc', 'stein_vae')
  def test_micro_batches_add_up(self, name):
    _, _, train_step = _setup(name, 'sgd')
    expected, _ = _run_single(name, 'sgd', 3)
    step_fn = _make_step(functools.partial(train_step, accumulate=2), 'single')
    actual, _ = _run(step_fn, _state(name), 3)
    # float32 means of 8 images in another order, 3 steps
    chex.assert_trees_all_close(
      (actual.params, actual.stats),
      (expected.params, expected.stats),
      rtol=1e-4,
      atol=2e-6,
    )

  def test_the_state_given_is_donated(self):
    step_fn = _step_fn('vae', 'adam', 'pmap_4')
    # the first call moves the state to all devices, the second takes it
    state, _ = step_fn(_state('vae', 'adam'), _images(), jax.random.key(5))
    jax.block_until_ready(state)
    following, _ = step_fn(state, _images(), jax.random.key(5))
    jax.block_until_ready(following)
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
      self.assertTrue(leaf.is_deleted())

  @parameterized.parameters('vae', 'ldc')
  def test_traces_where_float64_is_enabled(self, name):
    method, txs, train_step = _setup(name, 'adam')
    with jax.enable_x64(True):
      state = jax.eval_shape(
        lambda: step_lib.create_train_state(
          jax.random.key(0), _model(name), method, txs
        )
      )
      after, _ = jax.eval_shape(
        functools.partial(train_step, axis_name=None),
        state,
        _images(),
        jax.random.key(5),
      )
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)

  def test_fresh_averages_are_copies(self):
    state = _create_state('vae', 'sgd')
    pairs = zip(
      jax.tree.leaves(state.params), jax.tree.leaves(state.ema_params)
    )
    for weight, average in pairs:
      np.testing.assert_array_equal(weight, average)
      self.assertNotEqual(
        weight.unsafe_buffer_pointer(), average.unsafe_buffer_pointer()
      )


class CheckpointTest(parameterized.TestCase):
  """A state saved on four devices goes on on any number of them."""

  def test_goes_on_alike_on_another_number_of_devices(self):
    middle, _ = _run(_step_fn('ldc', 'sgd', 'pmap_4'), _state('ldc', 'sgd'), 3)
    with tempfile.TemporaryDirectory() as folder:
      with checkpoint.Checkpointer(folder + '/checkpoints') as checkpointer:
        checkpointer.save(3, middle, metrics={}, meta={})
        restored = checkpointer.restore(_state('ldc', 'sgd')).state
    chex.assert_trees_all_equal(restored, middle)
    ends = {
      kind: _run(
        _step_fn('ldc', 'sgd', kind),
        jax.tree.map(jnp.copy, restored),
        3,
      )[0]
      for kind in ('pmap_4', 'pmap_2', 'single')
    }
    whole, _ = _run(_step_fn('ldc', 'sgd', 'pmap_4'), _state('ldc', 'sgd'), 3)
    for end in ends.values():
      self.assertEqual(end.step, 6)
      # rtol, atol: float32 sums over other parts of the batch, six steps
      chex.assert_trees_all_close(
        end.params, ends['pmap_4'].params, rtol=1e-4, atol=1e-5
      )
    self.assertGreater(
      _largest_change(whole.params, ends['single'].params), 1e-3
    )


if __name__ == '__main__':
  absltest.main()
