"""Tests that every fitted latent sampler must pass."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.samplers import coupling_flow
from ldc_vae.samplers import drifting
from ldc_vae.samplers import flow_matching
from ldc_vae.samplers import langevin
from ldc_vae.samplers import nearest
from ldc_vae.samplers import registry
from ldc_vae.samplers import sampler_net
from ldc_vae.samplers import two_stage
from tests.samplers import latent_case

_SMALL = dict(_WIDTH=8, _NUM_BLOCKS=1, _BATCH_SIZE=32)
# The net samplers: module, its small values, and the name in messages.
_NETS = {
  'drifting': (drifting, _SMALL, 'drifting net'),
  'flow': (coupling_flow, dict(_SMALL, _NUM_LAYERS=2, _NUM_BINS=4), 'flow'),
  'flow_matching': (flow_matching, _SMALL, 'velocity'),
  'langevin': (langevin, _SMALL, 'latent energy'),
  'two_stage': (two_stage, _SMALL, 'second VAE'),
  'svgd': (
    sampler_net,
    dict(
      _BATCH_SIZE=32,
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


class FitTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    for module, small, _ in _NETS.values():
      self.enter_context(absltest.mock.patch.multiple(module, **small))
    # the seed of a fit chooses the probes
    self.enter_context(absltest.mock.patch.object(nearest, '_NUM_PROBES', 50))

  def _fit(self, name, z, seed=0, **options):
    if name in _NETS:
      options.setdefault('num_steps', 3)
    return registry.fit(name, z, seed=seed, **options)

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
    module, _, what = _NETS[name]
    with absltest.mock.patch.object(module, '_LEARNING_RATE', 1e30):
      with self.assertRaisesRegex(ValueError, f'the {what} diverged within nu'):
        self._fit(name, latent_case.two_clusters(10), num_steps=7)


if __name__ == '__main__':
  absltest.main()
