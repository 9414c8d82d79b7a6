"""Tests of ldc_vae.methods.stein_vae."""

import math
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import errors
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
    method = stein_vae.SteinVae(**_STEIN_FIELDS).build(model)
    twin = ldc.Ldc(
      **_STEIN_FIELDS, inverse_temperature=1.0, whiten=False
    ).build(model)
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
    ('ldc', ldc.Ldc, {}, 6.0),
    ('ldc_not_whitened', ldc.Ldc, {'whiten': False}, 22.0),
    ('stein_vae', stein_vae.SteinVae, {}, 22.0),
    ('of_a_lone_particle', stein_vae.SteinVae, _LONE, 6.0),
  )
  def test_the_bandwidth_is_of_an_expected_distance(
    self, method_class, fields, distance
  ):
    model = _model('gaussian')
    method = method_class(bandwidth_factor=0.3, **fields).build(model)
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
      output = objective_fn(params, _images(), _keys(), context)
      return made.call_args.kwargs['bandwidth'], output.stats

    with mock.patch.object(svgd, 'stein_particles', made):
      h, stats = run(stats)
    expected = 0.3 * distance / math.sqrt(_DIM)
    self.assertAlmostEqual(float(h), expected, 5)
    self.assertEqual('distance' in stats, distance == 22.0)

  def test_a_number_is_the_bandwidth(self):
    fields = {**_STEIN_FIELDS, 'bandwidth': '2.5'}  # as a flag gives it
    method = stein_vae.SteinVae(**fields).build(_model())
    self.assertEqual(method.init_stats(), ())
    objective_fn = method.phases[0].objective_fn
    kernel = objective_fn.keywords['kernel']
    self.assertEqual(float(kernel.bandwidth_fn(jnp.zeros((2, 3)))), 2.5)

  @parameterized.parameters(
    ({'num_particles': 1}, 'num_particles=1 with .*use 2 particles'),
    ({'kernel': 'rfb'}, 'method.kernel=rfb is unknown .*known: .*rbf'),
    ({'bandwidth': 'median'}, 'method.bandwidth=median depends on the few'),
  )
  def test_wrong_field_is_an_error(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      stein_vae.SteinVae(
        **{**_STEIN_FIELDS, **fields},
      ).build(_model('implicit'))

  def test_one_code_for_an_image_is_an_error(self):
    with self.assertRaisesRegex(
      errors.UserError, '=deterministic .* or gaussian'
    ):
      stein_vae.SteinVae(**_STEIN_FIELDS).build(_model('deterministic'))


if __name__ == '__main__':
  absltest.main()
