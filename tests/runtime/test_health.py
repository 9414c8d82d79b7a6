"""Tests of ldc_vae.runtime.health."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp

from ldc_vae.runtime import health


def _watch(policy, **options):
  return health.Watch(
    policy,
    skipped=options.pop('skipped', 0),
    depth=options.pop('depth', 3),
    seconds=60.0,
    last_good_fn=lambda: 'run/checkpoints/5 is the last good checkpoint',
  )


def _metrics(skipped, loss=1.0, kl=1.0):
  values = {'loss': loss, 'kl': kl, 'skipped': skipped}
  return {name: jnp.asarray(x) for name, x in values.items()}


class WatchTest(parameterized.TestCase):
  def test_stop_names_the_first_step_and_its_terms(self):
    watch = _watch('stop')
    watch.add(6, _metrics(0))
    watch.add(7, _metrics(1, loss=math.nan, kl=math.inf))
    watch.add(8, _metrics(2, kl=math.nan))
    with self.assertRaisesRegex(
      FloatingPointError,
      r'^loss, kl not finite at step 7; run/checkpoints/5 is the last good'
      r' checkpoint: run again with --config.train.non_finite=skip',
    ):
      watch.drain()

  def test_newest_loss_is_that_of_the_last_step_looked_at(self):
    watch = _watch('stop', depth=2)
    self.assertTrue(math.isnan(watch.newest_loss()))
    for step in range(1, 6):
      watch.add(step, _metrics(0, loss=float(step)))
    self.assertEqual(watch.newest_loss(), 3.0)
    watch.drain()
    self.assertEqual(watch.newest_loss(), 5.0)

  def test_a_step_is_looked_at_when_so_many_are_under_way(self):
    watch = _watch('stop', depth=3)
    watch.add(1, _metrics(1, loss=math.nan))
    watch.add(2, _metrics(1))
    watch.add(3, _metrics(1))
    with self.assertRaisesRegex(FloatingPointError, 'at step 1;'):
      watch.add(4, _metrics(1))

  def test_what_was_skipped_in_an_earlier_part_stops_nothing(self):
    watch = _watch('stop', skipped=4)
    watch.add(9, _metrics(4))
    watch.drain()
    watch.add(10, _metrics(5, kl=math.nan))
    with self.assertRaisesRegex(FloatingPointError, '^kl not .* at step 10;'):
      watch.drain()

  def test_skip_goes_on_and_says_so_ever_more_rarely(self):
    watch = _watch('skip')
    with self.assertLogs('absl', 'WARNING') as logs:
      for step in range(1, 100):
        watch.add(2 * step, _metrics(step, loss=math.nan))
        watch.add(2 * step + 1, _metrics(step))
      watch.drain()
    self.assertLen(logs.output, 7)  # at 1, 2, 4, ..., 64
    self.assertIn(
      'step 2: loss not finite, the update is left out (1 so far)',
      logs.output[0],
    )

  def test_skip_stops_where_no_step_moves_any_more(self):
    watch = _watch('skip')
    with self.assertRaisesRegex(
      FloatingPointError, 'at step 120, as at each of the 100 steps up to it'
    ):
      for step in range(1, 200):
        watch.add(step, _metrics(max(0, step - 20), loss=math.nan))

  def test_finite_metrics_mean_that_the_statistics_were_not(self):
    watch = _watch('stop')
    watch.add(1, _metrics(1))
    with self.assertRaisesRegex(
      FloatingPointError, '^the statistics of the latents not finite at'
    ):
      watch.drain()

  def test_unknown_policy_is_an_error(self):
    with self.assertRaisesRegex(ValueError, "'ignore'; known: stop, skip"):
      _watch('ignore')


class FirstNonFiniteTest(parameterized.TestCase):
  @parameterized.parameters(math.nan, math.inf, -math.inf)
  def test_is_named(self, value):
    tree = {'a': jnp.zeros(2, jnp.bfloat16), 'b': {'c': jnp.arange(3.0)}}
    self.assertIsNone(health.first_non_finite(tree))
    tree['b']['c'] = tree['b']['c'].at[1].set(value)
    self.assertEqual(health.first_non_finite(tree), 'b.c')


class AlarmsTest(parameterized.TestCase):
  def alarms(self, num_steps=1000, kl_warmup=0.0):
    return health.Alarms(
      latent_size=16,
      num_steps=num_steps,
      more_likelihood='lower config.method.beta',
      less_likelihood='raise config.method.beta',
      kl_warmup=kl_warmup,
    )

  @parameterized.parameters(
    ('train/posterior_std', 0.019, 0.021, 'points .*; raise config.method.bet'),
    ('train/posterior_std', 2.1, 1.9, 'wider .* config.optimizer.learning_ra'),
    ('train/sampler_std', 0.49, 0.51, 'a part .* config.optimizer.latent_lea'),
    ('train/sampler_std', 2.1, 1.9, 'beyond .* config.optimizer.latent_lear'),
    ('train/kernel_mass', 0.009, 0.011, 'raise config.method.sampler_mass'),
    (
      'validation/active_units',
      1.0,
      2.0,
      'fewer than 2 .*; lower config.metho',
    ),
  )
  def test_each_rings_once_and_on_its_side_of_the_threshold(
    self, name, bad, good, part
  ):
    alarms = self.alarms()
    self.assertEmpty(alarms.check(500, {name: good}))
    with self.assertLogs('absl', 'WARNING') as logs:
      (sentence,) = alarms.check(501, {name: bad, 'train/loss': 1.0})
    self.assertLen(logs.output, 1)
    self.assertStartsWith(sentence, f'step 501: {name}={bad:.3g}: ')
    self.assertRegex(sentence, part)
    self.assertEmpty(alarms.check(502, {name: bad}))

  def test_the_first_tenth_of_training_is_passed_over(self):
    alarms = self.alarms(num_steps=2000)
    self.assertEmpty(alarms.check(199, {'train/sampler_std': 0.1}))
    self.assertLen(alarms.check(200, {'train/sampler_std': 0.1}), 1)

  def test_a_short_run_has_no_alarms(self):
    alarms = self.alarms(num_steps=24)
    row = {'validation/active_units': 0.0, 'train/sampler_std': 0.1}
    for step in range(1, 25):
      self.assertEmpty(alarms.check(step, row))

  def test_posteriors_are_watched_after_the_warm_up(self):
    alarms = self.alarms(kl_warmup=0.3)
    row = {'train/posterior_std': 0.01, 'validation/active_units': 0.0}
    self.assertEmpty(alarms.check(299, row))
    self.assertLen(alarms.check(300, row), 2)

  def test_a_weak_repulsion_rings_while_it_is_hot(self):
    alarms = self.alarms(num_steps=20_000)
    row = {'train/repulsion_share': 0.009, 'train/temperature': 0.31}
    self.assertEmpty(alarms.check(199, row))  # the first hundredth
    self.assertEmpty(alarms.check(200, {**row, 'train/temperature': 0.29}))
    self.assertEmpty(alarms.check(200, {**row, 'train/repulsion_share': 0.011}))
    self.assertEmpty(alarms.check(200, {'train/repulsion_share': 0.009}))
    (sentence,) = alarms.check(200, row)
    self.assertIn("the sampler's kernel does not act", sentence)
    self.assertIn('raise config.method.sampler_mass', sentence)
    self.assertEmpty(alarms.check(201, row))

  def test_a_plain_autoencoder_has_points_by_design(self):
    self.assertEmpty(self.alarms().check(500, {'train/posterior_std': 0.0}))

  def test_nan_is_no_collapse(self):
    row = {'train/posterior_std': math.nan, 'validation/active_units': math.nan}
    self.assertEmpty(self.alarms().check(500, row))


if __name__ == '__main__':
  absltest.main()
