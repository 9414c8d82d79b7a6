"""Tests of ldc_vae.svgd.sampling: SVGD of a user's log density."""

import functools
import math
import warnings

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import svgd
from ldc_vae.svgd import sampling
from tests.svgd import svgd_case

_normal = svgd_case.normal

_MEAN = np.array([1.0, -2.0, 0.5], np.float32)
_COVARIANCE = np.array(
  [[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]], np.float32
)


def _gaussian(z):
  """log N(z; _MEAN, _COVARIANCE) up to a constant."""
  return -0.5 * (z - _MEAN) @ jnp.linalg.solve(_COVARIANCE, z - _MEAN)


def _standard(z):
  """log N(z; 0, I) up to a constant."""
  return -0.5 * jnp.sum(jnp.square(z))


def _steps(particles, num_steps, *, log_density, optimizer, kernel, **options):
  """The particles after some steps, one by one."""
  state = sampling.init(particles, optimizer)
  step = jax.jit(
    functools.partial(
      sampling.step,
      log_density=log_density,
      optimizer=optimizer,
      kernel=kernel,
      **options,
    )
  )
  for _ in range(num_steps):
    state = step(state)
  return state.particles


class StepTest(svgd_case.StrictTest):
  @parameterized.parameters('rbf', 'imq', 'multi_scale', 'linear')
  def test_follows_the_equation(self, name):
    particles = _normal(0, 6, 3)
    scores = -particles.astype(np.float64)
    direction = svgd_case.direction_reference(
      particles, scores, name, 1.3, off_diagonal=False
    )
    state = sampling.init(particles, optax.sgd(0.1))
    self.assertTrue(math.isnan(state.speed))
    state = sampling.step(
      state, _standard, optax.sgd(0.1), svgd_case.OBJECTS[name](1.3)
    )
    # float32, 6 terms
    np.testing.assert_allclose(
      state.particles, particles + 0.1 * direction, rtol=1e-5, atol=1e-6
    )
    speed = math.sqrt(np.mean(np.sum(direction**2, axis=1)))
    np.testing.assert_allclose(state.speed, speed, rtol=1e-5)

  def test_one_particle_climbs_as_the_optimiser_alone_does(self):
    optimizer = optax.adam(0.1)
    x = _normal(0, 3)
    opt_state = optimizer.init(x)
    for _ in range(5):
      gradient = -jax.grad(_gaussian)(x)
      updates, opt_state = optimizer.update(gradient, opt_state, x)
      x = optax.apply_updates(x, updates)
    actual = _steps(
      _normal(0, 3)[None],
      5,
      log_density=_gaussian,
      optimizer=optimizer,
      kernel=svgd.rbf(1.0),
    )
    np.testing.assert_allclose(actual[0], x, rtol=1e-5)  # float32, 5 steps

  def test_a_function_is_a_kernel_too(self):
    optimizer = optax.sgd(0.1)
    kernel_fn = functools.partial(svgd.rbf_kernel, bandwidth=0.7)
    ends = [
      _steps(
        _normal(0, 5, 3),
        3,
        log_density=_gaussian,
        optimizer=optimizer,
        kernel=kernel,
      )
      for kernel in (kernel_fn, svgd.rbf(0.7))
    ]
    np.testing.assert_allclose(*ends, rtol=1e-5, atol=1e-6)

  def test_a_tree_moves_as_its_array_does(self):
    z = _normal(0, 8, 3)
    tree = {'a': z[:, :1], 'b': (z[:, 1], z[:, 2:].reshape(8, 1, 1))}
    run = functools.partial(
      _steps, num_steps=4, optimizer=optax.adam(0.1), kernel=svgd.rbf('mean')
    )
    expected = run(z, log_density=_gaussian)

    def of_tree(tree):
      a, (b, c) = tree['a'], tree['b']
      return _gaussian(jnp.concatenate([a, b[None], c.reshape(1)]))

    actual = run(tree, log_density=of_tree)
    self.assertEqual(actual['b'][1].shape, (8, 1, 1))
    # float32, 4 steps
    np.testing.assert_allclose(
      sampling.ravel(actual), expected, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
      sampling.scores(of_tree, tree), sampling.scores(_gaussian, z), rtol=1e-5
    )

  def test_half_precision_stays(self):
    particles = jnp.asarray(_normal(0, 4, 2), jnp.bfloat16)
    state = sampling.init(particles, optax.sgd(0.1))
    state = sampling.step(
      state,
      _standard,
      optax.sgd(0.1),
      svgd.rbf('mean'),
      noise=svgd.Noise(0.1, 0.1),
      key=jax.random.key(0),
    )
    self.assertEqual(state.particles.dtype, jnp.bfloat16)

  @parameterized.parameters(False, True)
  def test_sets_in_a_vmap_are_independent(self, has_noise):
    sets = _normal(0, 3, 5, 2)
    optimizer = optax.adam(0.1)
    states = jax.vmap(lambda z: sampling.init(z, optimizer))(sets)
    keys = jax.random.split(jax.random.key(0), 3)

    def step(state, key):
      return sampling.step(
        state,
        _standard,
        optimizer,
        svgd.rbf('mean'),
        noise=svgd.Noise(0.1, 0.1) if has_noise else None,
        key=key,
      )

    together = jax.jit(jax.vmap(step))(states, keys)
    for index in range(3):
      state = sampling.init(sets[index], optimizer)
      alone = step(state, keys[index])
      np.testing.assert_allclose(
        together.particles[index], alone.particles, rtol=1e-5, atol=1e-6
      )

  def test_a_set_that_is_divided_over_devices_is_one_set(self):
    self.assertEqual(jax.local_device_count(), 4)
    z = _normal(0, 8, 3)
    optimizer = optax.adam(0.1)
    step = functools.partial(
      sampling.step,
      log_density=_gaussian,
      optimizer=optimizer,
      kernel=svgd.rbf('mean'),
    )
    whole = step(sampling.init(z, optimizer))
    parts = jax.pmap(lambda z: sampling.init(z, optimizer))(z.reshape(4, 2, 3))
    parts = jax.pmap(functools.partial(step, axis_name='i'), axis_name='i')(
      parts
    )
    np.testing.assert_allclose(
      parts.particles.reshape(8, 3), whole.particles, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(parts.speed, np.full(4, whole.speed), rtol=1e-5)

  def test_devices_draw_their_own_noise(self):
    z = np.zeros((4, 1, 2), np.float32)
    optimizer = optax.sgd(0.1)
    step = functools.partial(
      sampling.step,
      log_density=_standard,
      optimizer=optimizer,
      kernel=svgd.rbf(1.0),
      noise=svgd.Noise(1.0, 0.1),
      axis_name='i',
    )
    states = jax.pmap(lambda z: sampling.init(z, optimizer))(z)
    keys = jnp.stack([jax.random.key(0)] * 4)
    states = jax.pmap(lambda state, key: step(state, key=key), axis_name='i')(
      states, keys
    )
    self.assertLen(np.unique(np.asarray(states.particles)), 8)


class NoiseTest(svgd_case.StrictTest):
  def test_one_particle_rests_at_its_closed_form(self):
    # A single particle climbs (1 + w) s, and its step of rate r is an AR(1)
    # process: x <- (1 - r (1 + w)) x + sqrt(2 w r) xi.
    weight, rate = 0.5, 0.2
    noise = svgd.Noise(weight, rate)

    def run(key):
      return sampling.run(
        _standard,
        jnp.zeros((1, 4)),
        optimizer=optax.sgd(rate),
        kernel=svgd.rbf(1.0),
        num_steps=40,
        noise=noise,
        key=key,
      ).particles

    ends = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 4000))
    drift = rate * (1.0 + weight)
    expected = 2.0 * weight * rate / (1.0 - (1.0 - drift) ** 2)
    # four standard errors of a variance of 16,000 draws
    np.testing.assert_allclose(
      np.var(ends), expected, rtol=4 * math.sqrt(2 / 16_000)
    )

  def test_keeps_the_variance_where_svgd_loses_it(self):
    n, dim, rate = 40, 64, 0.2

    def variance(noise):
      particles = sampling.run(
        _standard,
        _normal(0, n, dim),
        optimizer=optax.sgd(rate),
        kernel=svgd.rbf('mean'),
        num_steps=1500,
        noise=noise,
        key=jax.random.key(0),
      ).particles
      return np.mean(np.var(particles, axis=0, ddof=1))

    # log(n + 1) / D, see test_rest
    self.assertLess(variance(None), 1.05 * math.log(n + 1) / dim)
    # alone, Langevin dynamics ends at 1 / (1 - w r / 2); the SVGD part of a
    # direction is up to 1/n s_i more, and the variance is of n D numbers
    self.assertBetween(variance(svgd.Noise(1.0, rate)), 0.95, 1.2)

  def test_zero_weight_is_svgd(self):
    ends = [
      _steps(
        _normal(0, 5, 3),
        2,
        log_density=_gaussian,
        optimizer=optax.sgd(0.1),
        kernel=svgd.rbf('mean'),
        noise=noise,
        key=jax.random.key(0),
      )
      for noise in (None, svgd.Noise(0.0, 0.1))
    ]
    np.testing.assert_allclose(*ends, rtol=1e-6)

  @parameterized.parameters(
    (svgd.Noise(-1.0, 0.1), True, 'weight=-1.0'),
    (svgd.Noise(0.1, math.nan), True, 'step_size=nan'),
    (svgd.Noise(0.1, 0.1), False, 'key=KEY'),
  )
  def test_what_cannot_be_drawn_is_refused(self, noise, has_key, message):
    optimizer = optax.sgd(0.1)
    with self.assertRaisesRegex(ValueError, message):
      sampling.step(
        sampling.init(_normal(0, 5, 3), optimizer),
        _standard,
        optimizer,
        svgd.rbf('mean'),
        noise=noise,
        key=jax.random.key(0) if has_key else None,
      )


class RunTest(svgd_case.StrictTest):
  def test_is_its_steps(self):
    options = dict(
      log_density=_gaussian, optimizer=optax.adam(0.1), kernel=svgd.imq('mean')
    )
    start = _normal(0, 7, 3)
    result = sampling.run(particles=start, num_steps=5, **options)
    np.testing.assert_allclose(
      result.particles, _steps(start, 5, **options), rtol=1e-5, atol=1e-6
    )
    self.assertEqual(result.speeds.shape, (5,))

  def test_the_linear_kernel_finds_mean_and_covariance(self):
    # Liu and Wang (2018): exact for a Gaussian and n > D, also by Adam
    result = sampling.run(
      _gaussian,
      _normal(0, 20, 3),
      optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 2000)),
      kernel=svgd.linear(1.0),
      num_steps=2000,
    )
    particles = np.asarray(result.particles)
    # float32, at rest
    np.testing.assert_allclose(particles.mean(axis=0), _MEAN, atol=1e-3)
    np.testing.assert_allclose(
      np.cov(particles.T, bias=True), _COVARIANCE, atol=2e-3
    )
    self.assertLess(result.speeds[-1], 1e-3)

  def test_batches_have_the_same_mean(self):
    # The posterior of a mean under N(0, 1) noise and a flat prior; batches of
    # half of the data, and a rate that falls to 0.
    data = 3.0 + _normal(0, 64)

    def log_density(z, batch):
      scale = len(data) / len(batch)
      return -0.5 * scale * jnp.sum(jnp.square(batch - z))

    result = sampling.run(
      log_density,
      0.1 * _normal(1, 20),
      optimizer=optax.sgd(optax.cosine_decay_schedule(0.01, 3000)),
      kernel=svgd.rbf('mean'),
      num_steps=3000,
      batch_fn=lambda key: jax.random.choice(key, data, (32,), replace=False),
      key=jax.random.key(0),
    )
    # a tenth of the posterior's standard deviation, 1/8: noise of the batches
    np.testing.assert_allclose(
      np.mean(result.particles), np.mean(data), atol=0.1 / 8
    )
    self.assertEqual(result.particles.shape, (20,))

  def test_temperature_reaches_the_direction(self):
    ends = [
      sampling.run(
        _standard,
        _normal(0, 32, 1),
        optimizer=optax.sgd(0.5),
        kernel=svgd.rbf('mean'),
        num_steps=1000,
        temperature=temperature,
      ).particles
      for temperature in (1.0, 0.25)
    ]
    # the fixed point is p^(1/T), a quarter of the variance; 32 particles
    ratio = np.var(ends[1]) / np.var(ends[0])
    np.testing.assert_allclose(ratio, 0.25, rtol=0.02)

  @parameterized.parameters(
    (np.zeros(()), r'are float32\[\]; give an array of floats \[n, ...\]'),
    (np.zeros((0, 2)), r'float32\[0, 2\]'),
    (np.zeros((4, 2), int), r'int32\[4, 2\]'),
    ([[1, 2], [3, 4]], r'int32\[\], int32\[\]'),
    ({'a': np.zeros((4, 2)), 'b': np.zeros((3, 2))}, 'with the same n'),
    ({}, 'no arrays'),
  )
  def test_what_is_no_set_of_particles_is_named(self, particles, part):
    with self.assertRaisesRegex(ValueError, part):
      sampling.init(particles, optax.sgd(0.1))

  def test_numpy_particles_are_as_good_as_those_of_jax(self):
    z = np.random.default_rng(0).normal(size=(4, 2))  # float64
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      state = sampling.init(z, optax.sgd(0.1))
    self.assertEqual(state.particles.dtype, jnp.float32)

  def test_negative_steps_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'num_steps=-1 is negative'):
      sampling.run(
        _standard,
        _normal(0, 4, 2),
        optimizer=optax.sgd(0.1),
        kernel=svgd.rbf('mean'),
        num_steps=-1,
      )

  def test_random_parts_need_a_key(self):
    for options in (
      {'batch_fn': lambda key: key},
      {'noise': svgd.Noise(0.1, 0.1)},
    ):
      with self.assertRaisesRegex(ValueError, 'key=KEY'):
        sampling.run(
          _standard,
          _normal(0, 4, 2),
          optimizer=optax.sgd(0.1),
          kernel=svgd.rbf('mean'),
          num_steps=2,
          **options,
        )


if __name__ == '__main__':
  absltest.main()
