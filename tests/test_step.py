"""Tests of ldc_vae.step."""

import functools
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from ldc_vae import methods
from ldc_vae import step as step_lib
from ldc_vae import svgd
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib
from ldc_vae.runtime import checkpoint

_SHAPE = (4, 4, 1)
_BATCH = 8
_NUM_STEPS = 40
_METHODS = {
    'aae': ('aae', dict(num_discriminator_updates=2)),
    'ae': ('ae', {}),
    'beta_vae': ('beta_vae', {}),
    'info_vae': ('info_vae', {}),
    'iwae': ('iwae', {}),
    'lebm': ('lebm', dict(posterior_steps=2, prior_steps=2)),
    'rae_gp': ('rae_gp', {}),
    'rae_l2': ('rae_l2', {}),
    'stein_vae': ('stein_vae', {}),
    'vamp': ('vamp', {}),
    # a weight whose rounding is not larger than the rest
    'wae_mmd': ('wae_mmd', dict(mmd_weight=10.0)),
    'vae': ('vae', dict(num_samples=2)),
    'ldc': (
        'ldc',
        dict(
            num_particles=3,
            num_latent_updates=2,
            latents_per_image=2,
            latent_energy_weight=0.5,
        ),
    ),
    'ldc_default': ('ldc', {}),
}


@functools.cache
def _model(name: str = 'vae') -> model_lib.Model:
  """Small networks for 4x4 images, with the encoder of a method."""
  encoder = default.create(_METHODS[name][0]).model.encoder
  sizes = model_lib.Sizes(
      latent_size=2,
      hidden_sizes=(12,),
      sampler_width=8,
      sampler_blocks=1,
      energy_width=8,
      energy_blocks=1,
      noise_size=3,
      num_pseudo_inputs=3,
  )
  return model_lib.create_model(_SHAPE, sizes, scale=0.5, encoder=encoder)


@functools.cache
def _method(name: str) -> base.Method:
  """A method of `_METHODS`."""
  key, overrides = _METHODS[name]
  fields = {**default.OBJECTIVES[key], **overrides}
  return methods.METHODS[key](_model(name), **fields)


@functools.cache
def _setup(name: str, optimizer: str):
  """The method, its optimisers, and `train_step` but for the axis."""
  method = _method(name)
  if optimizer == 'sgd':
    txs = {name: optax.sgd(0.02) for name in method.trained}
  else:
    txs = {name: optax.adam(1e-3) for name in method.trained}
  train_step = functools.partial(
      step_lib.train_step,
      method=method,
      txs=txs,
      num_steps=_NUM_STEPS,
      log_every=4,
      non_finite='stop',
      ema_decay=0.15,
      binarize=False,
      accumulate=1,
  )
  return method, txs, train_step


def _create_state(name: str, optimizer: str) -> step_lib.TrainState:
  """The state before the first step."""
  method, txs, _ = _setup(name, optimizer)
  return step_lib.create_train_state(
      jax.random.key(0), _model(name), method, txs
  )


@functools.cache
def _first_state(name: str, optimizer: str = 'sgd') -> step_lib.TrainState:
  """`_create_state`, compiled once, as NumPy arrays."""
  return jax.device_get(_create_state(name, optimizer))


def _state(name: str, optimizer: str = 'sgd') -> step_lib.TrainState:
  """A fresh state, the same each time."""
  return jax.tree.map(jnp.array, _first_state(name, optimizer))


def _images(index: int = 0) -> np.ndarray:
  """The batch of a step, uint8 [8, H, W, C]."""
  rng = np.random.default_rng((0, index))
  return rng.integers(0, 256, size=(_BATCH, *_SHAPE), dtype=np.uint8)


def _split(images: np.ndarray, num_devices: int) -> np.ndarray:
  """[B, ...] -> [num_devices, B / num_devices, ...]."""
  return images.reshape(num_devices, -1, *images.shape[1:])


def _make_step(train_step, kind: str):
  """`(state, images [8, ...], key) -> (state, metrics)` in one of its forms.

  Args:
    train_step: But for the axis.
    kind: 'single' (no axis), 'pmap_N' (N devices) or 'vmap_N' (emulated).
  """
  if kind == 'single':
    return jax.jit(functools.partial(train_step, axis_name=None))
  form, num_devices = kind.split('_')
  num_devices = int(num_devices)
  if form == 'pmap':
    mapped = step_lib.pmap_train_step(train_step, num_devices)
  else:
    mapped = jax.jit(
        jax.vmap(
            functools.partial(train_step, axis_name=step_lib.AXIS_NAME),
            axis_name=step_lib.AXIS_NAME,
            in_axes=(None, 0, None),
            out_axes=None,
        )
    )
  return lambda state, images, key: mapped(
      state, _split(images, num_devices), key
  )


def _run(step_fn, state, num_steps: int):
  """The state after some steps, and each step's metrics."""
  history = []
  for index in range(num_steps):
    state, metrics = step_fn(state, _images(index), jax.random.key(5))
    history.append(jax.device_get(metrics))  # blocks, too
  return jax.device_get(state), history


@functools.cache
def _step_fn(name: str, optimizer: str, kind: str):
  """The step of a method in one of its forms, compiled once."""
  _, _, train_step = _setup(name, optimizer)
  return _make_step(train_step, kind)


@functools.cache
def _run_single(name: str, optimizer: str, num_steps: int):
  """`_run` of the step without an axis."""
  step_fn = _step_fn(name, optimizer, 'single')
  return _run(step_fn, _state(name, optimizer), num_steps)


def _largest_change(before, after) -> float:
  """Largest absolute difference of two trees."""
  before, after = jax.device_get((before, after))
  differences = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), before, after)
  return float(max(jax.tree.leaves(differences)))


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
      'ae', 'beta_vae', 'info_vae', 'iwae', 'rae_gp', 'rae_l2', 'stein_vae',
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


class AverageTest(chex.TestCase):

  def test_averages_follow_their_law(self):
    step_fn = _step_fn('vae', 'sgd', 'single')
    state = _state('vae')
    for decay in (0.1, 0.15, 0.15):  # (1 + step) / (10 + step), then its bound
      following, _ = step_fn(state, _images(), jax.random.key(5))
      expected = jax.tree.map(
          lambda old, new, d=decay: d * old + (1.0 - d) * new,
          *jax.device_get((state.ema_params, following.params)),
      )
      # float32
      chex.assert_trees_all_close(
          following.ema_params, expected, rtol=1e-5, atol=1e-7
      )
      state = following


def _probe(num_updates: int = 1, num_phases: int = 1) -> base.Method:
  """A method of one weight that reports what it is given."""

  def objective_fn(params, images, keys, context, *, name):
    noise = base.draw_normal(keys, ())
    metrics = {
        f'noise_{name}': jnp.mean(noise),
        f'square_{name}': jnp.mean(noise**2),
        f'progress_{name}': context['progress'],
        f'update_{name}': context['update'],
        'images': images,
    }
    return jnp.sum(params['weight']), (metrics, {})

  phases = tuple(
      base.Phase(
          functools.partial(objective_fn, name=index), ('weight',), num_updates
      )
      for index in range(num_phases)
  )
  return base.Method(phases, tuple, None)


def _run_probe(
    num_steps, *, kind='single', binarize=False, num_updates=1, num_phases=1
):
  """Metrics of each step of a probe."""
  tx = optax.sgd(1.0)
  weight = jnp.zeros(())
  state = step_lib.TrainState(
      step=jnp.zeros((), jnp.int32),
      params={'weight': weight},
      ema_params={'weight': jnp.copy(weight)},
      opt_state={'weight': tx.init(weight)},
      stats=(),
      skipped=jnp.zeros((), jnp.int32),
  )
  train_step = functools.partial(
      step_lib.train_step,
      method=_probe(num_updates, num_phases),
      txs={'weight': tx},
      num_steps=_NUM_STEPS,
      log_every=1,
      non_finite='stop',
      ema_decay=0.0,
      binarize=binarize,
      accumulate=1,
  )
  step_fn = _make_step(train_step, kind)
  history = []
  for _ in range(num_steps):
    state, metrics = step_fn(state, _images(), jax.random.key(5))
    history.append(jax.device_get(metrics))
  return history, jax.device_get(state)


def _fragile(term):
  """A method whose loss, or gradient, is NaN where one image is white."""

  @jax.custom_vjp
  def spoil_gradient(x, spoilt):
    del spoilt
    return x

  spoil_gradient.defvjp(
      lambda x, spoilt: (x, spoilt),
      lambda spoilt, g: (jnp.where(spoilt, jnp.nan, g), None),
  )

  def objective_fn(params, images, keys, context):
    del keys, context
    white = jnp.any(jnp.all(images == 1.0, axis=(1, 2, 3)))
    weight = spoil_gradient(params['weight'], white & (term == 'gradient'))
    loss = jnp.mean(jnp.square(weight - images))
    if term == 'loss':
      loss = jnp.where(white, jnp.nan, loss)
    first = jnp.where(white & (term == 'stats'), jnp.inf, jnp.mean(images))
    return loss, ({'loss': loss}, {'stats': {'first': first}})

  phase = base.Phase(objective_fn, ('weight',))
  return base.Method((phase,), lambda: {'first': jnp.zeros(())}, None)


def _fragile_run(term, kind, non_finite):
  """The step of a fragile method in one of its forms, and a state for it."""
  tx = optax.adam(0.1)
  weight = jnp.full((), 0.25)
  state = step_lib.TrainState(
      step=jnp.zeros((), jnp.int32),
      params={'weight': weight},
      ema_params={'weight': jnp.copy(weight)},
      opt_state={'weight': tx.init(weight)},
      stats={'first': jnp.zeros(())},
      skipped=jnp.zeros((), jnp.int32),
  )
  train_step = functools.partial(
      step_lib.train_step,
      method=_fragile(term),
      txs={'weight': tx},
      num_steps=_NUM_STEPS,
      log_every=100,
      non_finite=non_finite,
      ema_decay=0.5,
      binarize=False,
      accumulate=1,
  )
  return _make_step(train_step, kind), state


class NonFiniteTest(parameterized.TestCase):
  """A step that is not finite on one device leaves all as they were."""

  @parameterized.product(
      kind=('single', 'pmap_4'), term=('loss', 'gradient', 'stats')
  )
  def test_the_update_never_happened(self, kind, term):
    step_fn, state = _fragile_run(term, kind, 'skip')
    good, bad = _images(0), _images(1).copy()
    bad[5] = 255  # of device 2 of 4
    histories = {}
    for name, batches in (('with', (good, bad, good)), ('without', (good,))):
      own, history = jax.tree.map(jnp.copy, state), []
      for images in batches:
        own, metrics = step_fn(own, images, jax.random.key(0))
        history.append((jax.device_get(own), jax.device_get(metrics)))
      histories[name] = history
    after_good, after_bad, after_all = [x for x, _ in histories['with']]
    self.assertEqual([m['skipped'] for _, m in histories['with']], [0, 1, 1])
    self.assertEqual(after_bad.step, 2)
    self.assertEqual(after_bad.skipped, 1)
    chex.assert_trees_all_equal(
        after_bad.replace(step=1, skipped=0),
        after_good.replace(step=1, skipped=0),
    )
    chex.assert_tree_all_finite(after_all)
    self.assertNotEqual(
        after_all.params['weight'], after_bad.params['weight']
    )
    chex.assert_trees_all_equal(after_good, histories['without'][0][0])

  @parameterized.parameters('loss', 'gradient', 'stats')
  def test_a_step_is_counted_where_the_run_will_stop(self, term):
    step_fn, state = _fragile_run(term, 'single', 'stop')
    bad = _images(1).copy()
    bad[5] = 255
    counts = []
    for images in (_images(0), bad, _images(0)):
      state, metrics = step_fn(state, images, jax.random.key(0))
      counts.append(int(metrics['skipped']))
    # a gradient is looked at through the loss of the step that follows it
    expected = {'loss': [0, 1, 1], 'gradient': [0, 0, 1], 'stats': [0, 1, 1]}
    self.assertEqual(counts, expected[term])


class CheckpointTest(parameterized.TestCase):
  """A state saved on four devices goes on on any number of them."""

  def test_goes_on_alike_on_another_number_of_devices(self):
    middle, _ = _run(
        _step_fn('ldc', 'sgd', 'pmap_4'), _state('ldc', 'sgd'), 3
    )
    with tempfile.TemporaryDirectory() as folder:
      with checkpoint.Checkpointer(folder + '/checkpoints') as checkpointer:
        checkpointer.save(3, middle, metrics={}, meta={})
        restored = checkpointer.restore(_state('ldc', 'sgd')).state
    chex.assert_trees_all_equal(restored, middle)
    ends = {
        kind: _run(
            _step_fn('ldc', 'sgd', kind), jax.tree.map(jnp.copy, restored),
            3,
        )[0]
        for kind in ('pmap_4', 'pmap_2', 'single')
    }
    whole, _ = _run(
        _step_fn('ldc', 'sgd', 'pmap_4'), _state('ldc', 'sgd'), 3
    )
    for end in ends.values():
      self.assertEqual(end.step, 6)
      # rtol, atol: float32 sums over other parts of the batch, six steps
      chex.assert_trees_all_close(
          end.params, ends['pmap_4'].params, rtol=1e-4, atol=1e-5
      )
    self.assertGreater(
        _largest_change(whole.params, ends['single'].params), 1e-3
    )


class KeysTest(chex.TestCase):

  def test_every_image_of_the_global_batch_has_its_own(self):
    key = jax.random.key(3)
    whole = step_lib.image_keys(key, _BATCH, None)
    data = jax.random.key_data(whole)
    self.assertLen(np.unique(data, axis=0), _BATCH)
    parts = jax.vmap(
        lambda _: step_lib.image_keys(key, 2, 'devices'), axis_name='devices'
    )(jnp.arange(4))
    np.testing.assert_array_equal(
        jax.random.key_data(parts).reshape(data.shape), data
    )
    later = step_lib.image_keys(key, _BATCH - 3, None, 3)
    np.testing.assert_array_equal(jax.random.key_data(later), data[3:])

  def test_noise_is_that_of_any_device_count_and_of_one_step_only(self):
    single, _ = _run_probe(3, num_phases=2)
    sharded, _ = _run_probe(3, kind='pmap_4', num_phases=2)
    noises = []
    for one, other in zip(single, sharded):
      for name in ('noise_0', 'noise_1', 'square_0', 'square_1'):
        # float32 mean of 8
        np.testing.assert_allclose(one[name], other[name], rtol=1e-5, atol=1e-6)
      noises += [float(one['noise_0']), float(one['noise_1'])]
    # 3 steps x 2 phases, all different
    self.assertLen(set(noises), 6)

  def test_updates_of_a_phase_have_noise_of_their_own(self):
    (once,), _ = _run_probe(1, num_updates=1)
    (thrice,), state = _run_probe(1, num_updates=3)
    self.assertEqual(float(state.params['weight']), -3.0)
    self.assertEqual(float(thrice['update_0']), 1.0)  # mean of 0, 1, 2
    self.assertNotEqual(float(once['noise_0']), float(thrice['noise_0']))

  def test_progress_is_the_fraction_of_training_done(self):
    history, _ = _run_probe(3)
    np.testing.assert_allclose(
        [metrics['progress_0'] for metrics in history],
        np.arange(3) / _NUM_STEPS,
        rtol=1e-6,  # float32
    )


class ImagesTest(chex.TestCase):

  def test_grey_values_are_in_the_unit_interval(self):
    (metrics,), _ = _run_probe(1)
    # float32 division
    np.testing.assert_allclose(
        metrics['images'], _images() / 255.0, rtol=1e-6
    )

  def test_binarised_images_are_drawn_anew_each_step(self):
    (first, second), _ = _run_probe(2, binarize=True)
    for metrics in (first, second):
      self.assertEqual(set(np.unique(metrics['images'])), {0.0, 1.0})
    self.assertTrue(np.any(first['images'] != second['images']))

  def test_grey_is_the_probability_of_white(self):
    images = np.repeat(np.array([0, 64, 255], np.uint8), 4000)
    keys = jax.random.split(jax.random.key(0), 3)
    drawn = step_lib.prepare_images(
        jnp.asarray(images.reshape(3, 4000, 1, 1)), keys, True
    )
    self.assertEqual(drawn.dtype, jnp.float32)
    means = np.mean(drawn, axis=(1, 2, 3))
    self.assertEqual((means[0], means[2]), (0.0, 1.0))
    # 4000 draws: four standard errors
    self.assertAlmostEqual(means[1], 64 / 255, delta=4 * 0.434 / 4000**0.5)

  def test_outside_of_training_pixels_do_not_tell_the_noise(self):
    grey = jnp.full((4000, 2, 2, 1), 128, jnp.uint8)
    images, keys = step_lib.eval_images(grey, jax.random.key(0), True, 0)
    noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
    both = np.corrcoef(images.reshape(4000, 4), noise, rowvar=False)
    # four standard errors of a correlation that is 0
    np.testing.assert_allclose(both[:4, 4:], 0.0, atol=4.0 / 4000**0.5)


class LearningRateTest(chex.TestCase):

  @parameterized.parameters(('cosine',), ('constant',))
  def test_warms_up_from_zero(self, name):
    rate = step_lib.learning_rate_schedule(
        name, 2.0, warmup_steps=10, num_steps=100
    )
    # float32
    np.testing.assert_allclose(
        [rate(count) for count in (0, 5, 10)], [0.0, 1.0, 2.0], rtol=1e-6
    )

  @parameterized.parameters((0.0,), (0.1,))
  def test_cosine_ends_at_its_fraction(self, final_fraction):
    rate = step_lib.learning_rate_schedule(
        'cosine',
        2.0,
        warmup_steps=10,
        num_steps=110,
        final_fraction=final_fraction,
    )
    middle = 2.0 * (0.5 + 0.5 * final_fraction)
    # float32; the cosine of pi / 2 is 4e-8
    np.testing.assert_allclose(
        [rate(60), rate(110)], [middle, 2.0 * final_fraction], atol=1e-6
    )

  def test_constant_stays(self):
    rate = step_lib.learning_rate_schedule(
        'constant', 2.0, warmup_steps=0, num_steps=100
    )
    self.assertEqual([float(rate(count)) for count in (0, 50, 99)], [2.0] * 3)

  def test_warm_up_is_half_of_a_short_run_at_most(self):
    rate = step_lib.learning_rate_schedule(
        'cosine', 2.0, warmup_steps=100, num_steps=10
    )
    self.assertEqual(float(rate(5)), 2.0)

  def test_unknown_name_is_an_error(self):
    with self.assertRaisesRegex(ValueError, "'cosin'; known: cosine, constant"):
      step_lib.learning_rate_schedule(
          'cosin', 1.0, warmup_steps=0, num_steps=1
      )


class OptimizersTest(chex.TestCase):

  def _create(self, **overrides):
    fields = dict(
        num_steps=100,
        learning_rate=0.1,
        latent_learning_rate=0.2,
        latent_final_fraction=0.5,
        schedule='constant',
        warmup_steps=0,
        b1=0.9,
        latent_b1=0.5,
        b2=0.99,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    return step_lib.create_optimizers(
        _method('ldc'), **{**fields, **overrides}
    )

  def _updates(self, tx, grads, params=None):
    """The last update of a sequence of gradients."""
    params = params if params is not None else jnp.ones(2)
    opt_state = tx.init(params)
    for gradient in grads:
      updates, opt_state = tx.update(gradient, opt_state, params)
    return updates

  def test_one_for_each_network(self):
    self.assertEqual(
        set(self._create()), {'encoder', 'decoder', 'sampler', 'energy'}
    )

  @parameterized.parameters(
      ('encoder', 0.1, 0.9), ('decoder', 0.1, 0.9),
      ('sampler', 0.2, 0.5), ('energy', 0.2, 0.5),
  )
  def test_is_adam_of_its_rate_and_decay(self, name, rate, b1):
    grads = [jnp.array([1.0, -3.0]), jnp.array([0.5, 2.0])]
    actual = self._updates(self._create()[name], grads)
    expected = self._updates(optax.adam(rate, b1, 0.99), grads)
    chex.assert_trees_all_equal(actual, expected)

  def test_latent_schedule_counts_its_own_updates(self):
    # two updates per step: the rate after 200 updates is half its peak, while
    # the encoder is at 0 after 100
    txs = self._create(schedule='cosine', num_steps=10)
    grads = [jnp.ones(2)] * 21
    # Adam's step by equal gradients is its rate; float32, 21 updates
    np.testing.assert_allclose(
        self._updates(txs['sampler'], grads), -0.1, rtol=1e-4
    )
    np.testing.assert_allclose(
        self._updates(txs['sampler'], grads[:11]), -0.15, rtol=1e-4
    )
    np.testing.assert_allclose(
        self._updates(txs['encoder'], grads[:11]), 0.0, atol=1e-7
    )

  def test_clips_the_norm_of_a_networks_gradient(self):
    grads = [jnp.array([3.0, 4.0]), jnp.array([0.3, 0.0])]
    actual = self._updates(self._create(clip_norm=1.0)['encoder'], grads)
    clipped = [jnp.array([0.6, 0.8]), jnp.array([0.3, 0.0])]
    expected = self._updates(optax.adam(0.1, 0.9, 0.99), clipped)
    # float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    unclipped = self._updates(self._create()['encoder'], grads)
    self.assertGreater(_largest_change(unclipped, expected), 1e-2)

  def test_weight_decay_pulls_without_a_gradient(self):
    tx = self._create(weight_decay=0.05)['encoder']
    updates = self._updates(tx, [jnp.zeros(2)], jnp.array([1.0, -2.0]))
    # float32: -rate x decay x weight
    np.testing.assert_allclose(updates, [-0.005, 0.01], rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
