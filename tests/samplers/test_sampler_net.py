"""Tests of ldc_vae.samplers.sampler_net."""

import dataclasses
import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import energy
from ldc_vae import errors
from ldc_vae import svgd
from ldc_vae.samplers import registry
from ldc_vae.samplers import sampler_net
from ldc_vae.samplers import sampler_options
from tests import device_case
from tests.samplers import latent_case

_OPTIONS = sampler_options.SamplerOptions(
  sampler_mass=1.5,
  temperature_start=2.0,
  temperature_end=0.02,
  temperature_fraction=0.5,
  gradient_penalty=0.3,
)
_NUM, _DIM = 8, 3


def _sampler_fn(params, noise):
  """An affine sampler, u = xi A + b."""
  return noise @ params['matrix'] + params['shift'][None, :]


def _energy_fn(params, u):
  """An energy whose gradients are simple, of points [D]."""
  return jnp.sum(params['weights'] * jnp.sin(u + params['phase']))


def _normal(rng, *shape: int) -> np.ndarray:
  """Draws of N(0, I), float32."""
  return rng.normal(size=shape).astype(np.float32)


class TemperatureTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.0, 2.0), (0.25, 0.2), (0.5, 0.02), (0.75, 0.02), (1.0, 0.02)
  )
  def test_falls_geometrically_and_then_rests(self, progress, expected):
    actual = sampler_net.repulsion_temperature(
      progress, start=2.0, end=0.02, fraction=0.5
    )
    # float32 power
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


class ObjectiveTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(jax.numpy_rank_promotion('raise'))
    rng = np.random.default_rng(0)
    self.params = {
      'sampler': {
        'matrix': _normal(rng, _DIM, _DIM),
        'shift': _normal(rng, _DIM),
      },
      'energy': {'weights': _normal(rng, _DIM), 'phase': _normal(rng, _DIM)},
    }
    self.noise, self.aggregate = _normal(rng, 2, _NUM, _DIM)
    self.at_aggregate = np.arange(_NUM) % 3 == 0

  def _objective(self, params, noise, aggregate, at_aggregate, **options):
    """`sampler_net.objective` at a quarter of the training."""
    axis_name = options.pop('axis_name', None)
    return sampler_net.objective(
      params,
      noise,
      aggregate,
      at_aggregate,
      0.25,
      sampler_fn=_sampler_fn,
      energy_fn=_energy_fn,
      options=dataclasses.replace(_OPTIONS, **options),
      axis_name=axis_name,
    )

  def _grad(self, **options):
    """Gradients by the weights, and metrics."""
    grad_fn = jax.jit(
      jax.grad(functools.partial(self._objective, **options), has_aux=True)
    )
    return jax.device_get(
      grad_fn(self.params, self.noise, self.aggregate, self.at_aggregate)
    )

  def _scores(self):
    """u and -grad f(u), shape [n, D], in float64."""
    u = np.asarray(_sampler_fn(self.params['sampler'], self.noise), np.float64)
    weights, phase = self.params['energy'].values()
    return u, -weights * np.cos(u + phase)

  def _pulled_back(self, direction):
    """-J^T phi / n of the affine sampler's two weights."""
    cotangent = -direction / _NUM
    return {
      'matrix': self.noise.T @ cotangent,
      'shift': np.sum(cotangent, axis=0),
    }

  def test_sampler_follows_the_normalised_direction(self):
    grads, metrics = self._grad()
    u, scores = self._scores()
    h = float(svgd.mass_bandwidth(self.aggregate, 1.5))
    temperature = 0.2  # half the way from 2 to 0.02, geometrically
    rows, masses = [], []
    for i in range(_NUM):
      total, mass = np.zeros(_DIM), 0.0
      for j in range(_NUM):
        k = math.exp(-np.sum((u[j] - u[i]) ** 2) / h)
        total += k * scores[j] + temperature * 2.0 * (u[i] - u[j]) / h * k
        mass += k
      rows.append(total / mass)
      masses.append(mass)
    # float32, 8 particles
    chex.assert_trees_all_close(
      grads['sampler'],
      self._pulled_back(np.stack(rows)),
      rtol=1e-4,
      atol=1e-5,
    )
    np.testing.assert_allclose(metrics['temperature'], temperature, rtol=1e-5)
    np.testing.assert_allclose(
      metrics['kernel_mass'], np.mean(masses) - 1.0, rtol=1e-4
    )
    np.testing.assert_allclose(
      metrics['sampler_std'], np.mean(np.std(u, axis=0)), rtol=1e-5
    )

  def test_without_svgd_it_descends_the_energy(self):
    grads, metrics = self._grad(sampler_svgd=False)
    _, scores = self._scores()
    chex.assert_trees_all_close(
      grads['sampler'], self._pulled_back(scores), rtol=1e-4, atol=1e-6
    )
    self.assertSameElements(
      metrics, ('sampler_std', 'energy_gap', 'gradient_penalty')
    )

  def test_kernel_is_of_the_aggregate_not_of_the_particles(self):
    narrow, _ = self._grad()
    self.aggregate *= np.float32(3.0)
    wide, _ = self._grad()
    difference = narrow['sampler']['shift'] - wide['sampler']['shift']
    self.assertGreater(np.max(np.abs(difference)), 1e-3)

  @parameterized.parameters(True, False)
  def test_energy_is_trained_by_pairs_alone(self, use_svgd):
    grads, metrics = self._grad(sampler_svgd=use_svgd)
    u = _sampler_fn(self.params['sampler'], self.noise)

    def loss_fn(params):
      return energy.paired_loss(
        _energy_fn, params, self.aggregate, u, self.at_aggregate, 0.3
      )

    grad_fn = jax.jit(jax.grad(loss_fn, has_aux=True))
    expected, terms = grad_fn(self.params['energy'])
    # float32 sums of 8 particles; `follow` adds nothing
    chex.assert_trees_all_close(grads['energy'], expected, rtol=1e-5, atol=1e-6)
    for name, term in terms.items():
      np.testing.assert_allclose(metrics[name], term, rtol=1e-5, atol=1e-6)

  def test_aggregate_latents_do_not_move(self):
    by_aggregate = jax.grad(self._objective, argnums=2, has_aux=True)
    grads, _ = jax.jit(by_aggregate)(
      self.params, self.noise, self.aggregate, self.at_aggregate
    )
    np.testing.assert_array_equal(grads, np.zeros((_NUM, _DIM)))

  @parameterized.parameters(('vmap', 4), ('vmap', 2), ('pmap', 4))
  def test_devices_share_their_particles(self, mapping, num_devices):
    expected, expected_metrics = self._grad()
    split = lambda x: x.reshape(num_devices, -1, *x.shape[1:])

    def grad_fn(noise, aggregate, at_aggregate):
      objective_fn = functools.partial(self._objective, axis_name='devices')
      return jax.lax.pmean(
        jax.grad(objective_fn, has_aux=True)(
          self.params, noise, aggregate, at_aggregate
        ),
        'devices',
      )

    mapped = getattr(jax, mapping)(grad_fn, axis_name='devices')
    grads, metrics = jax.tree.map(
      lambda x: x[0],
      jax.jit(mapped)(
        split(self.noise), split(self.aggregate), split(self.at_aggregate)
      ),
    )
    # float32 means in another order
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-5)
    # each device's share is a ratio of its own particles
    del metrics['repulsion_share'], expected_metrics['repulsion_share']
    chex.assert_trees_all_close(metrics, expected_metrics, rtol=1e-4, atol=1e-6)


def _ring(num: int) -> np.ndarray:
  """Draws [num, 2] of 8 Gaussians of std 0.12 on a circle of radius 2."""
  rng = np.random.default_rng(0)
  angles = 2.0 * np.pi * rng.integers(0, 8, size=num) / 8
  means = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
  return means + 0.12 * rng.normal(size=(num, 2))


def _ring_masses(z: np.ndarray) -> tuple[np.ndarray, float]:
  """Shares [8] of draws within 4 stds of a mode, and their sum."""
  index = np.round(np.arctan2(z[:, 1], z[:, 0]) / (np.pi / 4)).astype(int) % 8
  angles = index * np.pi / 4
  modes = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
  near = np.linalg.norm(z - modes, axis=1) < 4 * 0.12
  return np.bincount(index[near], minlength=8) / len(z), float(np.mean(near))


_SHARES = np.array([0.1, 0.2, 0.3, 0.4])


def _mixture(num: int) -> np.ndarray:
  """Draws [num, 16] of unit Gaussians of unequal shares, 7 from each other."""
  rng = np.random.default_rng(0)
  k = rng.choice(4, size=num, p=_SHARES)
  return 5.0 * np.eye(16)[k] + rng.normal(size=(num, 16))


def _mixture_masses(z: np.ndarray) -> np.ndarray:
  """Shares [4] of draws within 3 of a centre, in the plane of the centres."""
  distances = np.linalg.norm(z[:, None, :4] - 5.0 * np.eye(4), axis=2)
  near = np.min(distances, axis=1) < 3.0
  return np.bincount(np.argmin(distances, axis=1)[near], minlength=4) / len(z)


class FitTest(parameterized.TestCase):
  def _fit(self, z, num_steps, num_draws):
    """Draws of a small net after a short training, and its metrics."""
    with (
      absltest.mock.patch.multiple(
        sampler_net,
        _SAMPLER_WIDTH=64,
        _SAMPLER_BLOCKS=2,
        _ENERGY_WIDTH=64,
      ),
      device_case.optimised(
        sampler_net,
        '_train',
        static_argnames=(
          'num_steps',
          'batch_size',
          'learning_rate',
          'options',
        ),
      ),
    ):
      sample_fn = sampler_net.fit(
        z, seed=0, num_steps=num_steps, batch_size=128, learning_rate=4e-3
      )
      return sample_fn(num_draws, 0), sample_fn.metrics

  def _check_acts(self, metrics, num_steps):
    """Asserts that the kernel acts, and that the repulsion does."""
    self.assertSameElements(
      metrics,
      (
        'energy_gap',
        'gradient_penalty',
        'kernel_mass',
        'repulsion_share',
        'sampler_std',
        'temperature',
      ),
    )
    self.assertEqual(metrics['kernel_mass'].shape, (num_steps,))
    last = metrics['kernel_mass'][-num_steps // 10 :]
    self.assertGreater(np.min(last), 0.3)
    hot = metrics['temperature'] > 0.3
    self.assertGreater(np.sum(hot), num_steps // 20)
    self.assertGreater(np.min(metrics['repulsion_share'][hot]), 0.05)

  def test_the_modes_of_a_ring_are_covered(self):
    z = _ring(20_000)
    draws, metrics = self._fit(z, 1500, 20_000)
    masses, near = _ring_masses(draws)
    # between half and twice their mass of 1/8
    self.assertTrue(np.all(masses > 1 / 16), masses)
    self.assertTrue(np.all(masses < 1 / 4), masses)
    # a continuous map of the plane bridges the modes somewhere
    self.assertGreater(near, 0.75)
    self._check_acts(metrics, 1500)
    # set by 50,000 draws, and seen by 20,000: stds of 1.4 and 2
    np.testing.assert_allclose(draws.mean(axis=0), z.mean(axis=0), atol=0.06)
    np.testing.assert_allclose(
      np.cov(draws, rowvar=False), np.cov(z, rowvar=False), atol=0.08
    )

  def test_modes_have_their_masses_in_many_dimensions(self):
    z = _mixture(20_000)
    draws, metrics = self._fit(z, 700, 20_000)
    masses, wanted = _mixture_masses(draws), _mixture_masses(z)
    # 6 % of a Gaussian's draws in 4 dimensions are farther out
    np.testing.assert_allclose(wanted, 0.94 * _SHARES, rtol=0.1)
    self.assertTrue(np.all(masses > wanted / 2), masses)
    self.assertTrue(np.all(masses < wanted * 2), masses)
    self._check_acts(metrics, 700)
    np.testing.assert_allclose(draws.mean(axis=0), z.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(
      np.cov(draws, rowvar=False), np.cov(z, rowvar=False), atol=0.25
    )

  def test_one_gaussian_covers_none_of_them_so(self):
    ring = registry.fit('gaussian', _ring(5000))(10_000, 0)
    masses, near = _ring_masses(ring)
    self.assertLess(near, 0.3)
    self.assertTrue(np.all(masses < 1 / 16), masses)
    z = _mixture(5000)
    masses = _mixture_masses(registry.fit('gaussian', z)(10_000, 0))
    self.assertTrue(np.any(masses < _mixture_masses(z) / 2), masses)

  def test_latents_that_are_missed_are_reported(self):
    small = dict(_SAMPLER_WIDTH=8, _ENERGY_WIDTH=8, _NUM_CHECKED=4000)
    with (
      absltest.mock.patch.multiple(sampler_net, **small),
      self.assertLogs('absl', 'WARNING') as logs,
    ):
      sampler_net.fit(_ring(5000), seed=0, num_steps=2)
    self.assertIn('misses a share of', logs.output[0])
    self.assertIn('num_steps=2', logs.output[0])

  def test_a_mass_above_the_batch_is_refused(self):
    part = r'batch_size=256 is too small; use more than sampler_mass=300 \+ 1'
    with self.assertRaisesRegex(errors.UserError, part):
      sampler_net.fit(
        latent_case.two_clusters(10), seed=0, num_steps=1, sampler_mass=300.0
      )


if __name__ == '__main__':
  absltest.main()
