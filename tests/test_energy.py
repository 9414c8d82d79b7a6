"""Tests of ldc_vae.energy."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import elbo
from ldc_vae import energy


def _normal(seed: int, *shape: int) -> np.ndarray:
  """Draws of N(0, I), float32."""
  draws = np.random.default_rng(seed).normal(size=shape)
  return draws.astype(np.float32)


class _StrictTest(chex.TestCase):
  """Raises where arrays of different ranks are combined unseen."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.numpy_rank_promotion('raise'))


class GibbsEnergyTest(_StrictTest):
  @parameterized.parameters((1.0, 0.0), (3.0, 0.5))
  def test_is_the_sum_of_its_terms(self, inverse_temperature, latent_energy):
    z = _normal(0, 5)
    actual = energy.gibbs_energy(
      jnp.float32(-7.0), z, inverse_temperature, latent_energy
    )
    expected = inverse_temperature * 7.0 + latent_energy
    expected += 0.5 * sum(float(value) ** 2 for value in z)
    # float32, 5 terms
    np.testing.assert_allclose(actual, expected, rtol=1e-6)

  def test_a_batch_is_an_error(self):
    with self.assertRaises(AssertionError):
      energy.gibbs_energy(jnp.zeros(3), jnp.zeros((3, 2)), 1.0)


class GibbsPosteriorTest(_StrictTest):
  """x = W z + b + sigma eps has a Gaussian Gibbs posterior."""

  def setUp(self):
    super().setUp()
    self.sigma = 0.7
    self.weights, self.offset = _normal(0, 6, 3), _normal(1, 6)
    self.image = _normal(2, 6)

  def _log_likelihood(self, z):
    mean = jnp.matmul(self.weights, z) + self.offset
    return elbo.gaussian_log_likelihood(mean, self.image, np.log(self.sigma))

  def _posterior(self, inverse_temperature):
    """Mean [3] and precision [3, 3] of exp(-U), in float64."""
    weights = self.weights.astype(np.float64)
    factor = inverse_temperature / self.sigma**2
    precision = np.eye(3) + factor * weights.T @ weights
    residual = self.image.astype(np.float64) - self.offset
    return np.linalg.solve(precision, factor * weights.T @ residual), precision

  @parameterized.parameters((0.3,), (1.0,), (10.0,))
  def test_the_score_is_that_of_the_gaussian_posterior(
    self, inverse_temperature
  ):
    mean, precision = self._posterior(inverse_temperature)
    energy_fn = lambda z: energy.gibbs_energy(
      self._log_likelihood(z), z, inverse_temperature
    )
    score_fn = jax.jit(lambda z: -jax.grad(energy_fn)(z))
    for seed in range(3):
      z = _normal(seed, 3)
      actual = score_fn(z)
      expected = -precision @ (z - mean)
      # float32, 6 pixels, each gradient up to lambda / sigma^2 = 20 in size
      np.testing.assert_allclose(
        actual, expected, rtol=1e-5, atol=1e-4 * inverse_temperature
      )


class StandardiseTest(_StrictTest):
  @parameterized.parameters(((3,),), ((5, 3),), ((2, 5, 3),))
  def test_the_two_are_inverse(self, shape):
    z, mean, std = _normal(0, *shape), _normal(1, 3), np.exp(_normal(2, 3))
    u = energy.standardise(z, mean, std)
    # float32, one division
    np.testing.assert_allclose(u, (z - mean) / std, rtol=1e-6)
    np.testing.assert_allclose(
      energy.unstandardise(u, mean, std), z, rtol=1e-5, atol=1e-6
    )


class ContrastiveLossTest(_StrictTest):
  @parameterized.parameters((0.0,), (0.3,))
  def test_matches_loop(self, r1_weight):
    aggregate, samples = _normal(0, 7, 3), _normal(1, 5, 3)
    slope = np.array([0.5, -1.0, 2.0], np.float32)
    energy_fn = lambda u: jnp.sum(slope * jnp.sin(u))
    loss_fn = functools.partial(
      energy.contrastive_loss, energy_fn, r1_weight=r1_weight
    )
    loss, terms = jax.jit(loss_fn)(aggregate, samples)
    values = [np.sum(slope * np.sin(u.astype(np.float64))) for u in aggregate]
    others = [np.sum(slope * np.sin(u.astype(np.float64))) for u in samples]
    squared = [
      np.sum((slope * np.cos(u.astype(np.float64))) ** 2) for u in aggregate
    ]
    gap, penalty = np.mean(others) - np.mean(values), np.mean(squared)
    # float32, means of 5 and 7 values below 4
    np.testing.assert_allclose(terms['energy_gap'], gap, atol=2e-6)
    np.testing.assert_allclose(terms['gradient_penalty'], penalty, rtol=1e-6)
    np.testing.assert_allclose(
      loss, -gap + 0.5 * r1_weight * penalty, atol=2e-6
    )

  def test_gradient_of_a_linear_energy(self):
    # f = w.u: L = w.(mean y - mean u) + R1 |w|^2 / 2
    aggregate, samples = _normal(0, 7, 3), _normal(1, 5, 3)
    weights = _normal(2, 3)

    def loss_fn(weights):
      energy_fn = lambda u: jnp.sum(weights * u)
      return energy.contrastive_loss(energy_fn, aggregate, samples, 0.3)[0]

    expected = np.mean(aggregate, 0) - np.mean(samples, 0) + 0.3 * weights
    # float32, 7 terms
    actual = jax.jit(jax.grad(loss_fn))(weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)

  def test_descent_lowers_the_energy_where_the_latents_are(self):
    # f = w u: latents at +1, samples at -1
    def loss_fn(weight):
      return energy.contrastive_loss(
        lambda u: weight * u[0], jnp.ones((4, 1)), -jnp.ones((4, 1)), 0.0
      )[0]

    self.assertGreater(float(jax.jit(jax.grad(loss_fn))(0.0)), 0.0)

  def test_equal_sets_leave_the_penalty_alone(self):
    latents = _normal(0, 6, 3)
    energy_fn = lambda u: jnp.sum(jnp.sin(u))
    loss, terms = energy.contrastive_loss(energy_fn, latents, latents, 2.0)
    self.assertEqual(float(terms['energy_gap']), 0.0)
    self.assertEqual(float(loss), float(terms['gradient_penalty']))

  def test_neither_set_moves_to_please_the_energy(self):
    def loss_fn(aggregate, samples):
      energy_fn = lambda u: jnp.sum(jnp.sin(u))
      return energy.contrastive_loss(energy_fn, aggregate, samples, 1.0)[0]

    grad_fn = jax.grad(loss_fn, argnums=(0, 1))
    grads = grad_fn(_normal(0, 6, 3), _normal(1, 4, 3))
    chex.assert_trees_all_equal(grads, (np.zeros((6, 3)), np.zeros((4, 3))))


def _sine_energy(params, u):
  """An energy whose gradients are simple, of points [3]."""
  return jnp.sum(params['weights'] * jnp.sin(u + params['shift']))


def _pairs():
  """Aggregate [7, 3], samples [7, 3], where to look [7], and parameters."""
  params = {'weights': _normal(2, 3), 'shift': _normal(3, 3)}
  at_aggregate = np.array([True, False, False, True, True, False, True])
  return _normal(0, 7, 3), _normal(1, 7, 3) + 0.5, at_aggregate, params


class PairedLossTest(_StrictTest):
  def _loss(self, params, aggregate, samples, at_aggregate, penalty=0.3):
    return energy.paired_loss(
      _sine_energy, params, aggregate, samples, at_aggregate, penalty
    )

  def test_matches_loop(self):
    aggregate, samples, at_aggregate, params = _pairs()
    loss, terms = jax.jit(self._loss)(params, aggregate, samples, at_aggregate)
    weights, shift = (
      params[name].astype(np.float64) for name in ('weights', 'shift')
    )
    f = lambda u: np.sum(weights * np.sin(u.astype(np.float64) + shift))
    losses, gaps, squares = [], [], []
    for y, u, looks_at_y in zip(aggregate, samples, at_aggregate):
      losses.append(math.log(1.0 + math.exp(f(y) - f(u))))
      gaps.append(f(u) - f(y))
      slope = weights * np.cos((y if looks_at_y else u) + shift)
      squares.append(np.sum(slope**2))
    # float32, means of 7 values below 4
    np.testing.assert_allclose(
      terms['energy_gap'], np.mean(gaps), rtol=1e-5, atol=2e-6
    )
    np.testing.assert_allclose(
      terms['gradient_penalty'], np.mean(squares), rtol=1e-5
    )
    np.testing.assert_allclose(
      loss, np.mean(losses) + 0.15 * np.mean(squares), rtol=1e-5
    )

  @parameterized.parameters(True, False)
  def test_penalty_looks_only_where_it_is_reported(self, at_aggregate):
    aggregate, samples, _, params = _pairs()
    everywhere = np.full(7, at_aggregate)
    other = samples if at_aggregate else aggregate
    _, terms = self._loss(params, aggregate, samples, everywhere)
    sets = (aggregate, other + 1.0) if at_aggregate else (other + 1.0, samples)
    _, moved = self._loss(params, *sets, everywhere)
    self.assertEqual(
      float(terms['gradient_penalty']), float(moved['gradient_penalty'])
    )
    self.assertNotEqual(float(terms['energy_gap']), float(moved['energy_gap']))

  def test_gradient_is_that_of_pairs_and_penalty(self):
    # f = w.u: grad L = E (y - u) / (1 + exp(w.(u - y))) + c w
    aggregate, samples, at_aggregate, params = _pairs()
    weights = params['weights']

    def loss_fn(weights):
      linear = lambda weights, u: jnp.sum(weights * u)
      return energy.paired_loss(
        linear, weights, aggregate, samples, at_aggregate, 0.3
      )[0]

    difference = aggregate.astype(np.float64) - samples
    shares = 1.0 / (1.0 + np.exp(-difference @ weights))
    expected = np.mean(shares[:, None] * difference, axis=0) + 0.3 * weights
    actual = jax.jit(jax.grad(loss_fn))(weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

  def test_an_energy_of_zero_is_at_rest_between_equal_sets(self):
    # f = w.u at w = 0: grad L = E (y - u) / 2, and no penalty
    def grad_of(shift):
      aggregate, samples = _normal(0, 40_000, 2), _normal(1, 40_000, 2)
      looks = np.arange(40_000) % 2 == 0

      def loss_fn(weights):
        return energy.paired_loss(
          lambda weights, u: jnp.sum(weights * u),
          weights,
          aggregate + np.float32(shift),
          samples,
          looks,
          1.0,
        )[0]

      return jax.jit(jax.grad(loss_fn))(jnp.zeros(2))

    # a mean of 40,000 differences with std sqrt(2) / 2: four errors
    np.testing.assert_allclose(grad_of(0.0), np.zeros(2), atol=0.015)
    np.testing.assert_allclose(grad_of(0.5), np.full(2, 0.25), atol=0.015)

  def test_any_energy_is_pulled_flat_between_equal_sets(self):
    # E (y - u) / (1 + exp(w.(u - y))) of equal distributions points along w.
    # So descent shrinks an energy that separates equal sets.
    aggregate, samples = _normal(0, 40_000, 2), _normal(1, 40_000, 2)
    looks = np.zeros(40_000, bool)

    def loss_fn(scale):
      weights = jnp.array([0.6, -0.8])
      linear = lambda scale, u: scale * jnp.sum(weights * u)
      return energy.paired_loss(linear, scale, aggregate, samples, looks, 0.0)[
        0
      ]

    grad_fn = jax.jit(jax.grad(loss_fn))
    self.assertLess(abs(float(grad_fn(0.0))), 0.015)
    self.assertGreater(float(grad_fn(1.0)), 0.1)
    self.assertLess(float(grad_fn(-1.0)), -0.1)

  def test_neither_set_moves_to_please_the_energy(self):
    aggregate, samples, at_aggregate, params = _pairs()

    def loss_fn(aggregate, samples):
      return self._loss(params, aggregate, samples, at_aggregate)[0]

    grads = jax.grad(loss_fn, argnums=(0, 1))(aggregate, samples)
    chex.assert_trees_all_equal(grads, (np.zeros((7, 3)), np.zeros((7, 3))))

  def test_sets_of_other_shapes_are_an_error(self):
    aggregate, samples, at_aggregate, params = _pairs()
    with self.assertRaises(AssertionError):
      self._loss(params, aggregate, samples[:5], at_aggregate)
    with self.assertRaises(AssertionError):
      self._loss(params, aggregate, samples, at_aggregate[:5])


class LangevinTest(_StrictTest):
  def test_reaches_the_variance_of_a_gaussian(self):
    variance, step_size = 0.25, 0.3
    keys = jax.random.split(jax.random.key(0), 4000)
    energy_fn = lambda z: jnp.sum(jnp.square(z - 1.0)) / (2.0 * variance)

    @jax.jit
    @jax.vmap
    def draw(key):
      return energy.langevin(
        key, jnp.zeros(2), energy_fn, step_size=step_size, num_steps=60
      )

    z = np.asarray(draw(keys), np.float64)
    expected = variance / (1.0 - step_size**2 / (4.0 * variance))
    error = 4.0 / math.sqrt(8000)  # four standard errors of 8000 draws
    self.assertAlmostEqual(np.mean(z), 1.0, delta=error * math.sqrt(expected))
    np.testing.assert_allclose(
      np.mean((z - 1.0) ** 2), expected, rtol=error * math.sqrt(2.0)
    )

  def test_one_step_is_that_of_its_equation(self):
    key = jax.random.key(3)
    start = np.array([1.0, -2.0], np.float32)
    step_fn = functools.partial(
      energy.langevin, energy_fn=lambda z: jnp.sum(z**4), num_steps=1
    )
    actual = jax.jit(step_fn)(key, start, step_size=0.2)
    noise = jax.random.normal(jax.random.split(key, 1)[0], (2,))
    noise = np.asarray(noise)
    expected = start - 0.02 * 4.0 * start**3 + 0.2 * noise
    np.testing.assert_allclose(actual, expected, rtol=1e-5)  # float32

  def test_each_step_may_have_its_own_size(self):
    key = jax.random.key(3)
    start = np.array([1.0, -2.0], np.float32)
    steps_fn = functools.partial(
      energy.langevin, energy_fn=jnp.sum, num_steps=2
    )
    sizes = np.array([0.2, 0.6], np.float32)
    actual = jax.jit(steps_fn)(key, start, step_size=sizes)
    noise = [
      np.asarray(jax.random.normal(each, (2,)))
      for each in jax.random.split(key, 2)
    ]
    expected = start - 0.02 - 0.18 + 0.2 * noise[0] + 0.6 * noise[1]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)  # float32

  def test_no_step_stays(self):
    start = jnp.array([1.0, -2.0])
    actual = energy.langevin(
      jax.random.key(0), start, jnp.sum, step_size=0.2, num_steps=0
    )
    np.testing.assert_array_equal(actual, start)


if __name__ == '__main__':
  absltest.main()
