"""Tests of ldc_vae.methods.stein_vae."""

import math
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from configs import default
from ldc_vae import svgd
from ldc_vae.methods import ldc
from ldc_vae.methods import moments
from ldc_vae.methods import stein_vae
from tests.methods import bound_case
from tests.methods import method_case

_DIM = bound_case.DIM
_LONE = bound_case.LONE
_STEIN_FIELDS = bound_case.STEIN_FIELDS
_context = bound_case.create_context
_images = bound_case.images
_keys = bound_case.keys
_model = bound_case.create_model
_run = bound_case.run_phase
_params = method_case.params


class SteinVaeTest(chex.TestCase):

  def test_is_the_first_phase_of_ldc_at_the_bayes_posterior(self):
    model = _model('implicit')
    params = _params(model, 'encoder', 'decoder')
    method = stein_vae.create(model, **_STEIN_FIELDS)
    fields = {**default.OBJECTIVES['ldc'], **_STEIN_FIELDS}
    twin = ldc.create(
        model,
        **{
            **fields,
            'inverse_temperature': 1.0,
            'whiten': False,
        },
    )
    stats = {'distance': moments.init_distance()}
    (loss, _), grads = _run(method, params, stats=stats)
    stats['latents'] = moments.init(_DIM)
    (expected, _), expected_grads = _run(
        twin, params, stats=stats, ema_params={}
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    # float32
    chex.assert_trees_all_close(grads, expected_grads, rtol=1e-4, atol=1e-6)
    self.assertEqual(method.trained, ('encoder', 'decoder'))

  @parameterized.named_parameters(
      # 2 D of N(0, I), and 11 / 0.5
      ('ldc', ldc, {}, 6.0),
      ('ldc_not_whitened', ldc, {'whiten': False}, 22.0),
      ('stein_vae', stein_vae, {}, 22.0),
      ('of_a_lone_particle', stein_vae, _LONE, 6.0),
  )
  def test_the_bandwidth_is_of_an_expected_distance(
      self, module, fields, distance
  ):
    name = module.__name__.rpartition('.')[2]
    fields = {**default.OBJECTIVES[name], 'bandwidth_factor': 0.3, **fields}
    model = _model('gaussian')
    method = module.create(model, **fields)
    params = _params(model, *method.trained)
    # the sampler's moments are another matter
    stats = dict(method.init_stats(), latents=moments.init(_DIM))
    if 'distance' in stats:
      stats['distance'] = {'distance': 11.0, 'weight': 0.5}
    made = mock.Mock(side_effect=svgd.stein_particles)

    @jax.jit
    def run(stats):
      context = _context(stats=stats, ema_params=params)
      objective_fn = method.phases[0].objective_fn
      _, (_, updates) = objective_fn(params, _images(), _keys(), context)
      return made.call_args.kwargs['bandwidth'], updates['stats']

    with mock.patch.object(svgd, 'stein_particles', made):
      h, stats = run(stats)
    expected = 0.3 * distance / math.sqrt(_DIM)
    self.assertAlmostEqual(float(h), expected, 5)
    self.assertEqual('distance' in stats, distance == 22.0)

  def test_a_number_is_the_bandwidth(self):
    fields = {**_STEIN_FIELDS, 'bandwidth': '2.5'}  # as of a flag
    method = stein_vae.create(_model(), **fields)
    self.assertEqual(method.init_stats(), ())
    objective_fn = method.phases[0].objective_fn
    kernel = objective_fn.keywords['kernel']
    self.assertEqual(float(kernel.bandwidth_fn(jnp.zeros((2, 3)))), 2.5)

  @parameterized.parameters(
      ({'num_particles': 1}, 'num_particles=1: .*at least 2'),
      ({'kernel': 'rfb'}, "objective.kernel='rfb'; known: .*rbf"),
      ({'bandwidth': 'median'}, "bandwidth='median' is neither 'expected'"),
  )
  def test_wrong_field_is_an_error(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      stein_vae.create(_model('implicit'), **{**_STEIN_FIELDS, **fields})

  def test_one_code_for_an_image_is_an_error(self):
    with self.assertRaisesRegex(ValueError, "or gaussian, got 'deterministic'"):
      stein_vae.create(_model('deterministic'), **_STEIN_FIELDS)


if __name__ == '__main__':
  absltest.main()
