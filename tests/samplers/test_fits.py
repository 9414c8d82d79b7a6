"""Tests that every fitted latent sampler must pass."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.models import latent_nets
from ldc_vae.samplers import coupling_flow
from ldc_vae.samplers import drifting
from ldc_vae.samplers import flow_matching
from ldc_vae.samplers import langevin
from ldc_vae.samplers import nearest
from ldc_vae.samplers import registry
from ldc_vae.samplers import sampler_net
from ldc_vae.samplers import training
from ldc_vae.samplers import two_stage
from tests import device_case
from tests.samplers import latent_case

# The net samplers: module, its small values, and the name in messages.
_NETS = {
  'drifting': (drifting, {'NET': latent_nets.SamplerNet(8, 1)}, 'drifting net'),
  'flow': (coupling_flow, dict(_WIDTH=8, _NUM_LAYERS=2, _NUM_BINS=4), 'flow'),
  'flow_matching': (
    flow_matching,
    {'NET': flow_matching.Velocity(8, 1)},
    'velocity',
  ),
  'langevin': (
    langevin,
    {'NET': latent_nets.LatentEnergy(8, 1)},
    'latent energy',
  ),
  'two_stage': (two_stage, dict(_WIDTH=8, _NUM_BLOCKS=1), 'second VAE'),
  'svgd': (
    sampler_net,
    dict(
      _MOMENT_DRAWS=1000,
      _SAMPLER_WIDTH=8,
      _SAMPLER_BLOCKS=1,
      _ENERGY_WIDTH=8,
      _ENERGY_BLOCKS=1,
    ),
    'sampler net',
  ),
}
_NAMES = (*_NETS, 'nearest', 'gmm_7')

# A small net, the values of a short training, and the largest errors of a
# share, a mean and a covariance. A share of 5000 draws errs by 0.006, and so
# does that of the latents; a mean of 1250 of std 0.64 by 0.02; a net by as much
# again.
# Sets of 200 show shares less well, and one pass leaves some draws between the
# clusters.
_CLUSTERS = {
  'drifting': (
    {'NET': latent_nets.SamplerNet(64, 3)},
    dict(num_steps=1000, batch_size=200, learning_rate=3e-3),
    (0.04, 0.15, 0.3),
  ),
  'flow': (
    dict(_WIDTH=32, _NUM_LAYERS=4, _NUM_BINS=6),
    dict(num_steps=1000, batch_size=256, learning_rate=3e-3),
    (0.03, 0.1, 0.15),
  ),
  'flow_matching': (
    {'NET': flow_matching.Velocity(64, 3)},
    dict(num_steps=1500, batch_size=256, learning_rate=3e-3),
    (0.03, 0.1, 0.12),
  ),
}


class FitTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    for name, (_, small, _) in _NETS.items():
      values = {} if name == 'svgd' else {'batch_size': 32}
      self._patch(name, small, **values)
    # the seed of a fit chooses the probes
    self.enter_context(absltest.mock.patch.object(nearest, '_NUM_PROBES', 50))

  def _patch(self, name, attributes, **values):
    """Sets attributes of a net sampler's module, and values of its training."""
    module = _NETS[name][0]
    if hasattr(module, 'SAMPLER'):
      fit = dataclasses.replace(module.SAMPLER, **values).fit
      self.enter_context(
        absltest.mock.patch.dict(registry.SAMPLERS, {name: fit})
      )
    else:
      constants = {f'_{key.upper()}': value for key, value in values.items()}
      attributes = {**attributes, **constants}
    self.enter_context(absltest.mock.patch.multiple(module, **attributes))

  def _fit(self, name, z, seed=0, **options):
    if name in _NETS:
      options.setdefault('num_steps', 3)
    return registry.fit(name, z, seed=seed, **options)

  def _check_clusters(self, sample_fn, errors):
    """Asserts that draws have each cluster's share, mean and covariance."""
    draws = sample_fn(5000, 0)
    share, mean, covariance = errors
    distances = np.linalg.norm(draws[:, None] - latent_case.MEANS[None], axis=2)
    nearest_mean = np.argmin(distances, axis=1)
    for k, axes in enumerate(latent_case.AXES):
      own = draws[nearest_mean == k]
      self.assertAlmostEqual(
        len(own) / len(draws), latent_case.SHARES[k], delta=share
      )
      np.testing.assert_allclose(
        own.mean(axis=0), latent_case.MEANS[k], atol=mean
      )
      np.testing.assert_allclose(
        np.cov(own, rowvar=False), axes.T @ axes, atol=covariance
      )

  @parameterized.parameters(*_CLUSTERS)
  def test_a_net_finds_two_clusters(self, name):
    attributes, values, errors = _CLUSTERS[name]
    z = latent_case.two_clusters(5000)
    self._patch(name, attributes, **values)
    with device_case.optimised(
      training, 'train', static_argnames=('net', 'num_steps')
    ):
      self._check_clusters(registry.fit(name, z), errors)

  @parameterized.parameters('nearest', 'gmm_2')
  def test_two_clusters_are_found(self, name):
    z = latent_case.two_clusters(5000)
    self._check_clusters(self._fit(name, z), (0.03, 0.1, 0.1))

  @parameterized.parameters(*_NAMES)
  def test_draws_depend_on_the_seeds_alone(self, name):
    z = latent_case.two_clusters(100)
    first, again = self._fit(name, z, 1), self._fit(name, z, 1)
    draws = first(20, 3)
    self.assertEqual(draws.dtype, np.float32)
    self.assertEqual(draws.shape, (20, 3))
    np.testing.assert_array_equal(draws, again(20, 3))
    self.assertFalse(np.array_equal(draws, again(20, 4)))
    self.assertFalse(np.array_equal(draws, self._fit(name, z, 2)(20, 3)))
    self.assertEqual(first(0, 3).shape, (0, 3))

  @parameterized.parameters(*_NAMES)
  def test_a_constant_latent_stays_constant(self, name):
    z = latent_case.two_clusters(50)
    constant = np.concatenate([z[:, :2], np.full((50, 1), 7.0)], axis=1)
    draws = self._fit(name, constant)(100, 0)
    np.testing.assert_allclose(draws[:, 2], 7.0, atol=1e-4)
    self.assertGreater(np.min(np.std(draws[:, :2], axis=0)), 0.1)

  # two_stage does not whiten, so that its decoder's noise leaves a line
  @parameterized.parameters(*sorted(set(_NAMES) - {'two_stage'}))
  def test_latents_on_a_line_stay_there(self, name):
    z = latent_case.two_clusters(50)
    line = z[:, :1] * np.array([[1.0, -2.0, 0.5]])
    draws = self._fit(name, line)(100, 0)
    np.testing.assert_allclose(draws[:, 1], -2.0 * draws[:, 0], atol=1e-3)

  @parameterized.parameters(*sorted(set(_NAMES) - {'gmm_7'}), 'gmm_1')
  def test_one_latent_is_repeated(self, name):
    z = latent_case.two_clusters(1)
    draws = self._fit(name, z)(5, 0)
    np.testing.assert_allclose(draws, np.tile(z, (5, 1)), rtol=1e-4)

  @parameterized.parameters(*_NETS)
  def test_no_steps_are_refused(self, name):
    what = _NETS[name][2]
    with self.assertRaisesRegex(ValueError, f'num_steps=0 trains no {what}'):
      self._fit(name, latent_case.two_clusters(10), num_steps=0)

  # svgd has its rate as an option
  @parameterized.parameters(*sorted(set(_NETS) - {'svgd'}))
  def test_a_training_that_diverges_is_reported(self, name):
    _, small, what = _NETS[name]
    self._patch(name, small, batch_size=32, learning_rate=1e30)
    with self.assertRaisesRegex(ValueError, f'the {what} diverged within nu'):
      self._fit(name, latent_case.two_clusters(10), num_steps=7)


if __name__ == '__main__':
  absltest.main()
