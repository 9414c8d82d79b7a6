"""Tests of ldc_vae.samplers.flow_matching."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.samplers import flow_matching


class VelocityTest(parameterized.TestCase):
  def test_starts_as_that_of_the_normal_distribution(self):
    net = flow_matching.Velocity(8, 1)
    u = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    t = np.linspace(0.0, 1.0, 5, dtype=np.float32)
    params = net.init(jax.random.key(0), u, t)
    # E[latent - noise | u] of two standard normals, by their covariance with u
    expected = u * ((t - (1 - t)) / (t**2 + (1 - t) ** 2))[:, None]
    np.testing.assert_allclose(net.apply(params, u, t), expected, rtol=1e-5)


class MatchingLossTest(parameterized.TestCase):
  def test_matches_a_loop(self):
    rng = np.random.default_rng(0)
    noise, ends = rng.normal(size=(2, 4, 3)).astype(np.float32)
    times = rng.random(4).astype(np.float32)
    velocity_fn = lambda u, t: jnp.sin(u) * t[:, None]
    expected = np.mean(
      [
        np.sum((np.sin((1 - t) * x + t * y) * t - (y - x)) ** 2)
        for x, y, t in zip(noise, ends, times, strict=True)
      ]
    )
    with jax.numpy_rank_promotion('raise'):
      actual = flow_matching.matching_loss(velocity_fn, noise, ends, times)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)

  def test_is_least_at_the_conditional_mean(self):
    # Of 1-D latents N(3, 0.5^2): the velocity is linear in u.
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(20_000, 1)).astype(np.float32)
    ends = (3.0 + 0.5 * rng.normal(size=(20_000, 1))).astype(np.float32)
    times = rng.random(20_000).astype(np.float32)

    def velocity(u, t, tilt):
      t = t[:, None]
      gain = (0.25 * t - (1 - t)) / (0.25 * t**2 + (1 - t) ** 2)
      return 3.0 + (1.0 + tilt) * gain * (u - 3.0 * t)

    loss = lambda tilt: flow_matching.matching_loss(
      functools.partial(velocity, tilt=tilt), noise, ends, times
    )
    self.assertLess(loss(0.0), loss(0.1))
    self.assertLess(loss(0.0), loss(-0.1))


class HeunTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 5)
  def test_is_the_second_order_of_an_exponential(self, num_steps):
    start = np.array([[1.0], [-2.0]], np.float32)
    length = 0.7 / num_steps
    end = flow_matching.heun(lambda u, t: 0.7 * u, start, num_steps)
    growth = (1.0 + length + 0.5 * length**2) ** num_steps
    np.testing.assert_allclose(end, growth * start, rtol=1e-5)

  def test_evaluates_as_often_as_is_said(self):
    count = 0

    def velocity_fn(u, t):
      nonlocal count
      count += 1
      return 0.0 * u

    with jax.disable_jit():
      flow_matching.heun(
        velocity_fn, jnp.zeros((1, 1)), flow_matching._HEUN_STEPS
      )
    self.assertEqual(count, flow_matching.NUM_EVALUATIONS)

  def test_keeps_the_normal_distribution_where_the_net_is_0(self):
    net = flow_matching.NET
    shapes = jax.eval_shape(
      net.init, jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1)
    )
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    key = jax.random.key(1)
    draws = flow_matching.draws(params, key, (50, 2))
    # u(t) = s(t) u(0): back at u(0), up to the steps' error
    np.testing.assert_allclose(
      draws, jax.random.normal(key, (50, 2)), rtol=2e-3
    )


if __name__ == '__main__':
  absltest.main()
