"""Tests of the fixed points of SVGD, in closed form."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import blackjax.vi.svgd
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import svgd
from tests.svgd import svgd_case

_direction = svgd_case.direction
_normal = svgd_case.normal


def _run_persistent(particles, kernel, *, rate, num_steps, temperature=1.0):
  """All-pairs SVGD of one particle set towards N(0, I)."""

  def body(particles, _):
    direction = svgd.svgd_direction(
      particles,
      -particles,
      kernel,
      off_diagonal=False,
      temperature=temperature,
    )
    return particles + rate * direction, None

  run = jax.jit(lambda start: jax.lax.scan(body, start, length=num_steps)[0])
  return np.asarray(run(particles))


def _affine_variance(*, off_diagonal, temperature, n, dim, num_steps, rate):
  """Variance of a + b xi, fresh xi each step, trained for N(0, I) by SVGD.

  Returns:
    The mean of b^2 over dimensions and the last half of the steps.
  """

  def loss_fn(params, noise):
    particles = params['shift'] + jnp.exp(params['log_std']) * noise
    particles = svgd.stein_particles(
      particles,
      svgd.rbf(),
      off_diagonal=off_diagonal,
      temperature=temperature,
    )
    return jnp.mean(0.5 * jnp.sum(jnp.square(particles), axis=-1))

  def body(params, key):
    noise = jax.random.normal(key, (n, dim))
    grads = jax.grad(loss_fn)(params, noise)
    params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
    return params, jnp.mean(jnp.exp(2.0 * params['log_std']))

  start = {
    'shift': np.full((1, dim), 0.5, np.float32),
    'log_std': np.full((1, dim), -0.7, np.float32),
  }
  keys = jax.random.split(jax.random.key(0), num_steps)
  variances = jax.jit(lambda start: jax.lax.scan(body, start, keys)[1])(start)
  return float(np.mean(np.asarray(variances)[num_steps // 2 :]))


class LawTest(svgd_case.StrictTest):
  """Closed forms of where SVGD comes to rest."""

  @parameterized.parameters(0.5, 1.0, 2.0)
  def test_mean_rule_rests_at_variance_log_n_over_dim(self, factor):
    # n <= D + 1 particles come to rest at equal distances d^2, so that
    # h = f d^2 / log(n + 1) makes k = (n + 1)^(-1/f) for each pair. phi_i = 0
    # reads h = 2 n k / (1 - k), and d^2 = 2 D variance (of n - 1 degrees of
    # freedom): variance = log(n + 1) / D at the factor f = 1.
    n, dim = 16, 64
    particles = _run_persistent(
      _normal(0, n, dim),
      svgd.rbf('mean', factor=factor),
      rate=1.0,
      num_steps=3000,
    )
    variance = np.mean(np.var(particles, axis=0, ddof=1))
    k = (n + 1) ** (-1.0 / factor)
    expected = n * k / (1.0 - k) * math.log(n + 1) / (factor * dim)
    if factor == 1.0:
      self.assertAlmostEqual(expected, math.log(n + 1) / dim)
    # what is left of the way after 3000 steps, and float32
    np.testing.assert_allclose(variance, expected, rtol=1e-3)
    np.testing.assert_allclose(np.mean(particles, axis=0), 0.0, atol=1e-4)

  @parameterized.parameters((8, 32), (32, 4))
  def test_linear_kernel_rests_at_the_right_rank(self, n, dim):
    # sum_i z_i z_i' / n is a projection at rest, of rank min(n - 1, D):
    # variance = min(1, (n - 1) / D).
    particles = _run_persistent(
      _normal(1, n, dim), svgd.linear(1.0), rate=0.1, num_steps=1000
    )
    variance = np.mean(np.var(particles, axis=0))
    # linear convergence, complete after 1000 steps; the rest is float32
    np.testing.assert_allclose(variance, min(1.0, (n - 1) / dim), rtol=1e-4)

  @parameterized.parameters((1.0, 16, 16), (0.25, 32, 2))
  def test_amortised_off_diagonal_rests_at_the_power(self, temperature, n, dim):
    # the fixed point is p^(1/T), here N(0, T I)
    variance = _affine_variance(
      off_diagonal=True,
      temperature=temperature,
      n=n,
      dim=dim,
      num_steps=1500,
      rate=0.5,
    )
    # the noise of 750 averaged steps of n D draws, and h, which sees the set
    np.testing.assert_allclose(variance, temperature, rtol=0.05)

  def test_amortised_all_pairs_collapses(self):
    variance = _affine_variance(
      off_diagonal=False,
      temperature=1.0,
      n=16,
      dim=16,
      num_steps=400,
      rate=0.5,
    )
    # 0.15 in the long run (measured); 400 steps come near it
    self.assertLess(variance, 0.25)

  def test_persistent_set_diverges_off_diagonal(self):
    # no particle then holds itself back, and the repulsion wins
    start = _normal(0, 16, 16)

    def body(particles, _):
      direction = svgd.svgd_direction(
        particles, -particles, svgd.rbf(), off_diagonal=True
      )
      return particles + direction, None

    end, _ = jax.jit(lambda z: jax.lax.scan(body, z, length=500))(start)
    self.assertGreater(np.var(end), 2.0)

  def test_one_step_is_that_of_blackjax(self):
    particles = _normal(3, 12, 5)
    precision = np.linspace(0.5, 2.0, 5, dtype=np.float32)
    score_fn = lambda z: -precision * (z - 0.3)
    h = float(jax.jit(svgd.mean_bandwidth)(particles))
    peer = blackjax.vi.svgd.as_top_level_api(score_fn, optax.sgd(0.1))

    @jax.jit
    def peer_step(particles):
      state = peer.init(particles, {'length_scale': h})
      return peer.step(state).particles

    expected = peer_step(particles)
    scores = -precision[None] * (particles - np.float32(0.3))
    direction = _direction(particles, scores, svgd.rbf(h), off_diagonal=False)
    # float32, 12 terms; their form is autodiff, ours matmuls
    np.testing.assert_allclose(
      particles + 0.1 * direction, expected, rtol=1e-5, atol=1e-6
    )


if __name__ == '__main__':
  absltest.main()
