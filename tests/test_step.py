"""Tests of ldc_vae.step: averages, steps that are not finite, keys, images."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import step as step_lib
from ldc_vae import streams
from ldc_vae.methods import base
from tests import step_case

_BATCH = step_case.BATCH
_NUM_STEPS = step_case.NUM_STEPS
_images = step_case.batch_images
_make_step = step_case.make_step
_state = step_case.fresh_state
_step_fn = step_case.compiled_step


class AverageTest(chex.TestCase):
  def test_averages_follow_their_distribution(self):
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


def _probe(num_updates: int = 1, num_phases: int = 1) -> base.Algorithm:
  """An algorithm of one weight that reports what it is given."""

  def objective_fn(params, images, keys, context, *, name):
    noise = base.draw_normal(keys, ())
    metrics = {
      f'noise_{name}': jnp.mean(noise),
      f'square_{name}': jnp.mean(noise**2),
      f'progress_{name}': context.progress,
      f'update_{name}': context.update,
      'images': images,
    }
    return base.Output(jnp.sum(params['weight']), metrics)

  phases = tuple(
    base.Phase(
      functools.partial(objective_fn, name=index), ('weight',), num_updates
    )
    for index in range(num_phases)
  )
  return base.Algorithm(phases, tuple, None)


def _run_probe(
  num_steps,
  *,
  kind='single',
  binarize=False,
  flip=False,
  num_updates=1,
  num_phases=1,
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
    algorithm=_probe(num_updates, num_phases),
    txs={'weight': tx},
    num_steps=_NUM_STEPS,
    log_every=1,
    non_finite='stop',
    ema_decay=0.0,
    binarize=binarize,
    flip=flip,
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
    return base.Output(loss, {'loss': loss}, stats={'first': first})

  phase = base.Phase(objective_fn, ('weight',))
  return base.Algorithm((phase,), lambda: {'first': jnp.zeros(())}, None)


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
    algorithm=_fragile(term),
    txs={'weight': tx},
    num_steps=_NUM_STEPS,
    log_every=100,
    non_finite=non_finite,
    ema_decay=0.5,
    binarize=False,
    flip=False,
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
    self.assertNotEqual(after_all.params['weight'], after_bad.params['weight'])
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


class KeysTest(chex.TestCase):
  def test_every_image_of_the_global_batch_has_its_own(self):
    key = jax.random.key(3)
    whole = streams.image_keys(key, _BATCH, None)
    data = jax.random.key_data(whole)
    self.assertLen(np.unique(data, axis=0), _BATCH)
    parts = jax.vmap(
      lambda _: streams.image_keys(key, 2, 'devices'), axis_name='devices'
    )(jnp.arange(4))
    np.testing.assert_array_equal(
      jax.random.key_data(parts).reshape(data.shape), data
    )
    later = streams.image_keys(key, _BATCH - 3, None, 3)
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
    np.testing.assert_allclose(metrics['images'], _images() / 255.0, rtol=1e-6)

  def test_binarised_images_are_drawn_again_each_step(self):
    (first, second), _ = _run_probe(2, binarize=True)
    for metrics in (first, second):
      self.assertEqual(set(np.unique(metrics['images'])), {0.0, 1.0})
    self.assertTrue(np.any(first['images'] != second['images']))

  def test_a_flip_mirrors_half_of_the_images_others_in_each_step(self):
    history, _ = _run_probe(20, flip=True)
    original, mirrored = _images() / 255.0, _images()[:, :, ::-1] / 255.0
    chosen = []
    for metrics in history:
      # float32 division
      same, flipped = (
        np.all(np.isclose(metrics['images'], x, rtol=1e-6), axis=(1, 2, 3))
        for x in (original, mirrored)
      )
      np.testing.assert_array_equal(same, ~flipped)
      chosen.append(flipped)
    self.assertGreater(len(set(map(bytes, chosen))), 10)
    # four standard errors
    self.assertAlmostEqual(
      np.mean(chosen), 0.5, delta=4 * 0.5 / np.size(chosen) ** 0.5
    )

  def test_flips_depend_on_the_step_and_the_image_alone(self):
    whole, _ = _run_probe(2, flip=True)
    again, _ = _run_probe(2, flip=True)
    for one, other in zip(whole, again):
      np.testing.assert_array_equal(one['images'], other['images'])
    noise, _ = _run_probe(2)
    self.assertEqual(whole[1]['noise_0'], noise[1]['noise_0'])

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

  def test_floats_are_not_divided_again(self):
    images, key = jnp.asarray(_images()), jax.random.key(0)
    floats = images.astype(jnp.float32) / 255.0
    expected, _ = step_lib.eval_images(images, key, False, 0)
    actual, _ = step_lib.eval_images(floats, key, False, 0)
    np.testing.assert_array_equal(actual, expected)

  def test_outside_of_training_pixels_do_not_tell_the_noise(self):
    grey = jnp.full((4000, 2, 2, 1), 128, jnp.uint8)
    images, keys = step_lib.eval_images(grey, jax.random.key(0), True, 0)
    noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
    both = np.corrcoef(images.reshape(4000, 4), noise, rowvar=False)
    # four standard errors of a correlation that is 0
    np.testing.assert_allclose(both[:4, 4:], 0.0, atol=4.0 / 4000**0.5)


if __name__ == '__main__':
  absltest.main()
