"""Tests of ldc_vae.methods.lebm."""

import functools
import math

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.methods import base
from ldc_vae.methods import lebm
from tests.methods import bound_case
from tests.methods import method_case

_BATCH = bound_case.BATCH
_DIM = bound_case.DIM
_LEBM_FIELDS = bound_case.LEBM_FIELDS
_SCALE = bound_case.SCALE
_images = bound_case.images
_keys = bound_case.keys
_model = bound_case.create_model
_run = bound_case.run_phase
_params = method_case.params
_norm = method_case.norm


class LebmTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.model = _model('none')
    self.params = _params(self.model, 'decoder', 'energy')

  def _energy(self, z):
    """f(z) [...]."""
    return self.model.modules['energy'].apply(self.params['energy'], z)

  def _chains(self, score_fn, keys, num_steps, step_size):
    """Langevin dynamics written out: z [B, D]."""
    z = base.draw_normal(keys, (_DIM,))
    chain_keys = [
      jax.random.split(key, num_steps) for key in base.fold_in(keys, 1)
    ]
    for step in range(num_steps):
      noise = jnp.stack(
        [jax.random.normal(keys[step], (_DIM,)) for keys in chain_keys]
      )
      z = z + 0.5 * step_size**2 * score_fn(z) + step_size * noise
    return z

  def _posterior_draws(self, keys):
    """Returns the result of three steps of 0.1."""

    @jax.grad
    def score_fn(z):
      decoded = self.model.decode(self.params, z)
      residual = (_images() - decoded) / _SCALE
      log_joint = -0.5 * jnp.sum(jnp.square(residual))
      return log_joint - jnp.sum(self._energy(z)) - 0.5 * jnp.sum(z**2)

    return self._chains(score_fn, keys, 3, 0.1)

  def test_decoder_learns_at_posterior_draws(self):
    method = lebm.Lebm(**_LEBM_FIELDS).build(self.model)
    (loss, (_, updates)), grads = _run(method, self.params)
    z = np.asarray(jax.jit(self._posterior_draws)(_keys()))
    # float32, three steps
    np.testing.assert_allclose(
      updates['latents'][:, 0], z, rtol=1e-4, atol=1e-5
    )

    def loss_fn(decoder):
      return -jnp.mean(
        self.model.log_likelihood({'decoder': decoder}, _images(), z[:, None])
      )

    expected, gradient = jax.jit(jax.value_and_grad(loss_fn))(
      self.params['decoder']
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    # and along the chains flows none
    chex.assert_trees_all_close(
      grads['decoder'], gradient, rtol=1e-3, atol=1e-4
    )
    self.assertEqual(_norm(grads['energy']), 0.0)

  def test_energy_learns_the_contrast_of_posterior_and_prior(self):
    method = lebm.Lebm(**_LEBM_FIELDS).build(self.model)
    latents = jax.random.normal(jax.random.key(4), (_BATCH, 1, _DIM))
    latents = np.asarray(latents) + np.float32(1.0)
    (loss, _), grads = _run(method, self.params, phase=1, latents=latents)
    score_fn = jax.grad(
      lambda z: -jnp.sum(self._energy(z)) - 0.5 * jnp.sum(z**2)
    )
    samples = jax.jit(lambda keys: self._chains(score_fn, keys, 2, 0.4))(
      _keys()
    )

    def loss_fn(params):
      energy_fn = functools.partial(self.model.modules['energy'].apply, params)
      return jnp.mean(energy_fn(latents)) - jnp.mean(energy_fn(samples))

    expected, gradient = jax.jit(jax.value_and_grad(loss_fn))(
      self.params['energy']
    )
    # float32, two steps; a difference of means
    np.testing.assert_allclose(loss, expected, atol=1e-5)
    chex.assert_trees_all_close(grads['energy'], gradient, rtol=1e-3, atol=1e-5)
    self.assertEqual(_norm(grads['decoder']), 0.0)

  def test_draws_follow_a_prior_that_is_known(self):
    # f = 0: the prior is N(0, I), and Langevin's is wider by its step
    params = jax.tree.map(np.zeros_like, self.params)
    method = lebm.Lebm(**{**_LEBM_FIELDS, 'prior_steps': 30}).build(self.model)
    keys = jax.random.split(jax.random.key(0), 2000)
    z = jax.jit(method.generate)(params, (), keys)
    # 6000 draws: four standard errors of a variance
    self.assertAlmostEqual(
      float(np.mean(np.square(z))) * (1.0 - 0.4**2 / 4.0),
      1.0,
      delta=4.0 * math.sqrt(2.0 / 6000),
    )

  def test_encodes_by_its_chains(self):
    method = lebm.Lebm(**_LEBM_FIELDS).build(self.model)
    z = jax.jit(method.encode)(self.params, (), _images(), _keys())
    draw_fn = jax.jit(self._posterior_draws)
    chains = [draw_fn(base.fold_in(_keys(), index)) for index in range(4)]
    # float32, three steps
    np.testing.assert_allclose(
      z, np.stack(chains, axis=1), rtol=1e-4, atol=1e-5
    )

  def test_has_neither_an_encoder_nor_a_normalised_prior(self):
    method = lebm.Lebm(**_LEBM_FIELDS).build(self.model)
    self.assertEqual(method.trained, ('decoder', 'energy'))
    self.assertIsNone(method.log_prior)
    with self.assertRaisesRegex(ValueError, '=gaussian .* use encoder none'):
      lebm.Lebm(**_LEBM_FIELDS).build(_model('gaussian'))


if __name__ == '__main__':
  absltest.main()
