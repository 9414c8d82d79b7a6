"""Tests of the weight of the KL term: beta_vae, and its warm-up."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from configs import binarized_mnist
from ldc_vae import methods
from ldc_vae import svgd
from ldc_vae.methods import base
from ldc_vae.methods import gibbs
from ldc_vae.methods import moments
from ldc_vae.methods import stein_vae
from ldc_vae.methods import vae
from tests.methods import bound_case
from tests.methods import method_case

_DIM = bound_case.DIM
_STEIN_FIELDS = bound_case.STEIN_FIELDS
_context = bound_case.create_context
_images = bound_case.images
_keys = bound_case.keys
_model = bound_case.create_model
_run = bound_case.run_phase
_params = method_case.params
_norm = method_case.norm


class BetaVaeTest(chex.TestCase):
  def test_is_the_vae_of_that_weight(self):
    self.assertIs(vae.BetaVae.build, vae.Vae.build)
    self.assertGreater(vae.BetaVae().beta, 1.0)


class KlWarmupTest(parameterized.TestCase):
  @parameterized.parameters((0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0))
  def test_weight_rises_linearly_to_one(self, progress, expected):
    self.assertAlmostEqual(float(base.kl_weight(progress, 0.2)), expected, 6)

  def test_without_warm_up_the_weight_is_one_from_the_start(self):
    self.assertEqual(base.kl_weight(0.0, 0.0), 1.0)

  @parameterized.parameters('vae', 'iwae', 'vamp')
  def test_loss_has_the_weighed_share_of_the_divergence(self, name):
    # one sample: each loss is then linear in the weight
    fields = {'vae': dict(beta=2.0), 'iwae': {}, 'vamp': {}}[name]
    model = _model()
    params = _params(model, 'encoder', 'decoder', 'pseudo_inputs')
    method_class = methods.METHODS[name]
    create = lambda **own: method_class(num_samples=1, **fields, **own).build(
      model
    )

    @jax.jit
    def losses(progress):
      full, warming = (
        method.phases[0].objective_fn(
          params, _images(), _keys(), _context(progress=progress)
        )
        for method in (create(), create(kl_warmup=0.2))
      )
      return full.loss, warming.loss, full.metrics['reconstruction']

    for progress in (0.0, 0.1, 0.7):
      full, loss, reconstruction = jax.device_get(losses(progress))
      weight = min(progress / 0.2, 1.0)
      np.testing.assert_allclose(
        loss - reconstruction, weight * (full - reconstruction), atol=1e-4
      )
      self.assertGreater(abs(full - reconstruction), 0.1)

  @parameterized.parameters(
    ('gaussian', False, 0.0),
    ('implicit', False, 0.0),
    ('gaussian', True, 0.7),
  )
  def test_svgd_follows_the_tempered_posterior(self, encoder, whiten, f_weight):
    # at weight b, b times the direction for p(x|z)^(1/b) N(z; 0, I) exp(-w f)
    weight = 0.25
    model = _model(encoder)
    params = _params(model, 'encoder', 'decoder', 'energy')
    objective_fn = functools.partial(
      gibbs.autoencoder_objective,
      model=model,
      num_particles=3,
      kernel=svgd.rbf(),
      bandwidth='expected',
      bandwidth_factor=1.0,
      off_diagonal=True,
      whiten=whiten,
      latent_energy_weight=f_weight,
    )
    context = _context(
      progress=0.2,
      stats={
        'latents': moments.init(_DIM),
        'distance': moments.init_distance(),
      },
    )
    run = lambda **fields: method_case.run(
      functools.partial(objective_fn, **fields),
      params,
      _images(),
      _keys(),
      context,
    )[1]
    actual = run(inverse_temperature=1.0, kl_warmup=0.8)
    expected = run(inverse_temperature=1.0 / weight, kl_warmup=0.0)
    full = run(inverse_temperature=1.0, kl_warmup=0.0)
    for net in ('encoder', 'decoder'):
      chex.assert_trees_all_close(
        actual[net],
        jax.tree.map(lambda leaf: weight * leaf, expected[net]),
        rtol=1e-4,
        atol=1e-4,
      )
    differences = jax.tree.map(np.subtract, actual['encoder'], full['encoder'])
    self.assertGreater(_norm(differences), 1e-2)

  def test_stein_vae_warms_up(self):
    model = _model('implicit')
    params = _params(model, 'encoder', 'decoder')
    method = stein_vae.SteinVae(kl_warmup=0.8, **_STEIN_FIELDS).build(model)

    @jax.jit
    @jax.grad
    def grad_fn(params, progress):
      objective_fn = method.phases[0].objective_fn
      context = _context(progress=progress, stats=method.init_stats())
      return objective_fn(params, _images(), _keys(), context).loss

    grads = jax.device_get([grad_fn(params, p) for p in (0.2, 0.8, 1.0)])
    full = _run(
      stein_vae.SteinVae(**_STEIN_FIELDS).build(model),
      params,
      stats=method.init_stats(),
    )[1]
    chex.assert_trees_all_close(grads[1], full, rtol=1e-5)
    chex.assert_trees_all_close(grads[2], full, rtol=1e-5)
    differences = jax.tree.map(
      np.subtract, grads[0]['encoder'], full['encoder']
    )
    self.assertGreater(_norm(differences), 1e-2)

  def test_a_config_of_the_binarised_set_warms_up(self):
    for method, has_it in (('vae', True), ('stein_vae', True), ('ae', False)):
      own = binarized_mnist.get_config(method).method
      self.assertEqual(own.get('kl_warmup', 0.0) > 0.0, has_it)


if __name__ == '__main__':
  absltest.main()
