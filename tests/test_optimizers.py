"""Tests of the learning rates and the optimisers."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import optimizers
from ldc_vae import sections
from ldc_vae.samplers import training
from tests import step_case

_largest_change = step_case.largest_change
_algorithm = step_case.create_algorithm


class LearningRateTest(chex.TestCase):
  @parameterized.parameters(('cosine',), ('constant',))
  def test_warms_up_from_zero(self, name):
    rate = optimizers.learning_rate_schedule(
      name, 2.0, warmup_steps=10, num_steps=100
    )
    # float32
    np.testing.assert_allclose(
      [rate(count) for count in (0, 5, 10)], [0.0, 1.0, 2.0], rtol=1e-6
    )

  @parameterized.parameters((0.0,), (0.1,))
  def test_cosine_ends_at_its_fraction(self, final_fraction):
    rate = optimizers.learning_rate_schedule(
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
    rate = optimizers.learning_rate_schedule(
      'constant', 2.0, warmup_steps=0, num_steps=100
    )
    self.assertEqual([float(rate(count)) for count in (0, 50, 99)], [2.0] * 3)

  def test_warm_up_is_half_of_a_short_run_at_most(self):
    rate = optimizers.learning_rate_schedule(
      'cosine', 2.0, warmup_steps=100, num_steps=10
    )
    self.assertEqual(float(rate(5)), 2.0)

  def test_unknown_name_is_an_error(self):
    with self.assertRaisesRegex(ValueError, "'cosin'; known: cosine, constant"):
      optimizers.learning_rate_schedule(
        'cosin', 1.0, warmup_steps=0, num_steps=1
      )


class OptimizersTest(chex.TestCase):
  def _create(self, num_steps=100, **overrides):
    fields = dict(
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
    options = sections.Optimizer(**{**fields, **overrides})
    return optimizers.create_optimizers(
      _algorithm('ldc'), options, num_steps=num_steps
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
    ('encoder', 0.1, 0.9),
    ('decoder', 0.1, 0.9),
    ('sampler', 0.2, 0.5),
    ('energy', 0.2, 0.5),
  )
  def test_is_adam_of_its_rate_and_decay(self, name, rate, b1):
    grads = [jnp.array([1.0, -3.0]), jnp.array([0.5, 2.0])]
    actual = self._updates(self._create()[name], grads)
    expected = self._updates(optax.adam(rate, b1, 0.99), grads)
    chex.assert_trees_all_equal(actual, expected)

  @parameterized.parameters('sampler', 'energy')
  def test_latent_networks_may_have_muon(self, name):
    weights = jnp.ones((3, 5))
    grads = [jnp.arange(15.0).reshape(3, 5), jnp.eye(3, 5)]
    tx = self._create(latent_optimizer='muon')[name]
    expected = self._updates(training.muon(0.2, 0.5, 0.99), grads, weights)
    chex.assert_trees_all_equal(self._updates(tx, grads, weights), expected)
    adam = self._updates(self._create()[name], grads, weights)
    self.assertGreater(_largest_change(adam, expected), 1e-2)

  def test_encoder_keeps_adam_beside_muon(self):
    weights, grads = jnp.ones((3, 5)), [jnp.arange(15.0).reshape(3, 5)]
    tx = self._create(latent_optimizer='muon')['encoder']
    expected = self._updates(optax.adam(0.1, 0.9, 0.99), grads, weights)
    chex.assert_trees_all_equal(self._updates(tx, grads, weights), expected)

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
