"""Tests of beta_vae, iwae, vamp, stein_vae and lebm."""

import functools
import math
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from configs import binarized_mnist
from configs import default
from ldc_vae import svgd
from ldc_vae.methods import base
from ldc_vae.methods import beta_vae
from ldc_vae.methods import iwae
from ldc_vae.methods import ldc
from ldc_vae.methods import lebm
from ldc_vae.methods import moments
from ldc_vae.methods import stein_vae
from ldc_vae.methods import vae
from ldc_vae.methods import vamp
from ldc_vae.models import model as model_lib
from tests.methods import method_case

_SHAPE = (4, 4, 1)
_SCALE = 0.5
_BATCH, _DIM = 4, 3
_STEIN_FIELDS = dict(
    num_particles=3,
    kernel='rbf',
    bandwidth='expected',
    bandwidth_factor=1.0,
    off_diagonal=True,
)
_LONE = {'num_particles': 1, 'off_diagonal': False}
_LEBM_FIELDS = dict(
    posterior_steps=3,
    posterior_step_size=0.1,
    prior_steps=2,
    prior_step_size=0.4,
    r1_weight=0.0,
)

_params, _norm = method_case.params, method_case.norm
_images = functools.partial(method_case.images, (_BATCH, *_SHAPE))
_keys = functools.partial(method_case.keys, _BATCH)


def _model(encoder: str = 'gaussian', num_pseudo_inputs=2) -> model_lib.Model:
  """Small networks for 4x4 images."""
  sizes = model_lib.Sizes(
      latent_size=_DIM,
      hidden_sizes=(12,),
      energy_width=8,
      energy_blocks=1,
      noise_size=4,
      num_pseudo_inputs=num_pseudo_inputs,
  )
  return model_lib.create_model(_SHAPE, sizes, scale=_SCALE, encoder=encoder)


def _context(**kwargs) -> base.Context:
  """A context on one device."""
  return {
      'stats': (),
      'axis_name': None,
      'latents': None,
      'progress': 0.5,
      **kwargs,
  }


def _run(method, params, phase=0, **context):
  """A phase's (loss, (metrics, updates)) and the gradient by all `params`."""
  return method_case.run(
      method.phases[phase].objective_fn,
      params,
      _images(),
      _keys(),
      _context(**context),
  )


def _posterior(model, params, num_samples):
  """mean, std [B, 1, D] and draws z [B, K, D] in NumPy."""
  encode_fn = jax.jit(model.modules['encoder'].apply)
  mean, logvar = jax.device_get(encode_fn(params['encoder'], _images()))
  mean, std = mean[:, None], np.exp(0.5 * logvar)[:, None]
  noise = np.asarray(base.draw_normal(_keys(), (num_samples, _DIM)))
  return mean, std, mean + std * noise


def _log_likelihoods(model, params, z):
  """log N(x; D(z), scale^2) [B, K] in NumPy."""
  decoded = np.asarray(jax.jit(model.decode)(params, z))
  terms = scipy.stats.norm.logpdf(_images()[:, None], decoded, _SCALE)
  return np.sum(terms, axis=(2, 3, 4))


def _log_normal(z, mean, std):
  """log N(z; mean, std^2), summed over the last axis, in NumPy."""
  return np.sum(scipy.stats.norm.logpdf(z, mean, std), axis=-1)


class BetaVaeTest(chex.TestCase):

  def test_is_the_vae_of_that_weight(self):
    self.assertIs(beta_vae.create, vae.create)
    self.assertGreater(default.OBJECTIVES['beta_vae']['beta'], 1.0)


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
    create = {'vae': vae, 'iwae': iwae, 'vamp': vamp}[name].create
    create = functools.partial(create, model, num_samples=1, **fields)

    @jax.jit
    def losses(progress):
      (full, (metrics, _)), (loss, _) = (
          method.phases[0].objective_fn(
              params, _images(), _keys(), _context(progress=progress)
          )
          for method in (create(), create(kl_warmup=0.2))
      )
      return full, loss, metrics['reconstruction']

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
        ldc.autoencoder_objective,
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
        params, _images(), _keys(), context,
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
    differences = jax.tree.map(
        np.subtract, actual['encoder'], full['encoder']
    )
    self.assertGreater(_norm(differences), 1e-2)

  def test_stein_vae_warms_up(self):
    model = _model('implicit')
    params = _params(model, 'encoder', 'decoder')
    method = stein_vae.create(model, kl_warmup=0.8, **_STEIN_FIELDS)

    @jax.jit
    @jax.grad
    def grad_fn(params, progress):
      objective_fn = method.phases[0].objective_fn
      context = _context(progress=progress, stats=method.init_stats())
      return objective_fn(params, _images(), _keys(), context)[0]

    grads = jax.device_get([grad_fn(params, p) for p in (0.2, 0.8, 1.0)])
    full = _run(
        stein_vae.create(model, **_STEIN_FIELDS),
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
      objective = binarized_mnist.get_config(method).objective
      self.assertEqual(objective.get('kl_warmup', 0.0) > 0.0, has_it)


class IwaeTest(chex.TestCase):

  def test_loss_is_the_bound_by_hand(self):
    num_samples = 3
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    (loss, _), grads = _run(iwae.create(model, num_samples=num_samples), params)
    mean, std, z = _posterior(model, params, num_samples)
    log_weights = (
        _log_likelihoods(model, params, z)
        + _log_normal(z, 0.0, 1.0)
        - _log_normal(z, mean, std)
    )
    bounds = scipy.special.logsumexp(log_weights, axis=1) - np.log(num_samples)
    np.testing.assert_allclose(loss, -np.mean(bounds), rtol=1e-5)  # float32
    self.assertGreater(_norm(grads['encoder']), 1e-2)

  def test_one_sample_is_the_elbo(self):
    # whose KL divergence is then that of the sample: equal on average
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    method = iwae.create(model, num_samples=1)
    keys = jax.random.split(jax.random.key(0), 500)

    @jax.jit
    def losses(keys):
      one = lambda key: method.phases[0].objective_fn(
          params, _images()[:1], key[None], _context()
      )
      loss, (metrics, _) = jax.vmap(one)(keys)
      return loss, metrics['reconstruction'] + metrics['kl']

    iwae_losses, elbo_losses = losses(keys)
    difference = np.asarray(iwae_losses - elbo_losses, np.float64)
    # 500 draws: four standard errors
    self.assertLess(
        abs(np.mean(difference)), 4.0 * np.std(difference) / math.sqrt(500)
    )
    self.assertGreater(np.std(difference), 0.1)


class VampTest(chex.TestCase):

  def test_loss_is_the_bound_under_the_mixture(self):
    num_pseudo_inputs = 3
    model = _model(num_pseudo_inputs=num_pseudo_inputs)
    params = _params(model, 'encoder', 'decoder', 'pseudo_inputs')
    (loss, (metrics, _)), grads = _run(
        vamp.create(model, num_samples=2), params
    )
    logits = params['pseudo_inputs']['params']['logits']
    chex.assert_shape(logits, (num_pseudo_inputs, *_SHAPE))
    encode_fn = jax.jit(model.modules['encoder'].apply)
    means, logvars = jax.device_get(
        encode_fn(params['encoder'], 1.0 / (1.0 + np.exp(-logits)))
    )
    mean, std, z = _posterior(model, params, 2)
    components = [
        _log_normal(z, m, np.exp(0.5 * v)) for m, v in zip(means, logvars)
    ]
    log_prior = scipy.special.logsumexp(components, axis=0)
    log_prior -= np.log(num_pseudo_inputs)
    kl = np.mean(_log_normal(z, mean, std) - log_prior)
    reconstruction = -np.mean(_log_likelihoods(model, params, z))
    # float32
    np.testing.assert_allclose(loss, reconstruction + kl, rtol=1e-5)
    np.testing.assert_allclose(metrics['kl'], kl, rtol=1e-4)
    for network in ('encoder', 'decoder', 'pseudo_inputs'):
      self.assertGreater(_norm(grads[network]), 1e-4)

  def test_one_pseudo_input_is_the_kl_to_its_posterior(self):
    model = _model(num_pseudo_inputs=1)
    params = _params(model, 'encoder', 'pseudo_inputs')
    components_fn = functools.partial(vamp.prior_components, model=model)
    (m, v), (mean, logvar) = (
        [np.asarray(x[0], np.float64) for x in pair]
        for pair in (
            jax.jit(components_fn)(params),
            jax.jit(model.modules['encoder'].apply)(
                params['encoder'], _images()
            ),
        )
    )
    expected = 0.5 * np.sum(
        v - logvar + np.exp(logvar - v) + (mean - m) ** 2 * np.exp(-v) - 1.0
    )
    noise = np.random.default_rng(0).normal(size=(4000, _DIM))
    z = (mean + np.exp(0.5 * logvar) * noise).astype(np.float32)
    method = vamp.create(model, num_samples=1)
    log_prior_fn = functools.partial(method.log_prior, params, ())
    log_prior = np.asarray(jax.jit(jax.vmap(log_prior_fn))(z), np.float64)
    draws = _log_normal(z, mean, np.exp(0.5 * logvar)) - log_prior
    # 4000 draws: four standard errors
    self.assertAlmostEqual(
        np.mean(draws), expected, delta=4.0 * np.std(draws) / math.sqrt(4000)
    )

  def test_generates_from_its_components(self):
    model = _model(num_pseudo_inputs=2)
    params = _params(model, 'encoder', 'pseudo_inputs')
    method = vamp.create(model, num_samples=1)
    keys = jax.random.split(jax.random.key(0), 4000)
    z = np.asarray(jax.jit(method.generate)(params, (), keys))
    components_fn = functools.partial(vamp.prior_components, model=model)
    means, logvars = jax.device_get(jax.jit(components_fn)(params))
    variances = np.exp(logvars)
    # 4000 draws: four standard errors
    variance = np.mean(variances + means**2, axis=0)
    variance -= np.mean(means, axis=0) ** 2
    error = 4.0 / math.sqrt(4000)
    np.testing.assert_array_less(
        np.abs(np.mean(z, axis=0) - np.mean(means, axis=0)),
        error * np.sqrt(variance),
    )
    np.testing.assert_allclose(np.var(z, axis=0), variance, rtol=2 * error)

  def test_pseudo_inputs_are_different_images(self):
    model = _model(num_pseudo_inputs=5)

    @jax.jit
    def draw(key):
      params = model.init(key, ('pseudo_inputs',))
      return model.modules['pseudo_inputs'].apply(params['pseudo_inputs'])

    inputs = np.asarray(draw(jax.random.key(0)))
    self.assertGreater(np.min(inputs), 0.0)
    self.assertLess(np.max(inputs), 1.0)
    self.assertGreater(np.min(np.std(inputs, axis=0)), 0.01)


class DensityTest(chex.TestCase):

  @parameterized.parameters(
      (iwae.create, dict(num_samples=2)), (vamp.create, dict(num_samples=2))
  )
  def test_an_encoder_without_one_is_an_error(self, create, fields):
    with self.assertRaisesRegex(ValueError, "=gaussian, got 'implicit'"):
      create(_model('implicit'), **fields)


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
    """What three steps of 0.1 give."""

    @jax.grad
    def score_fn(z):
      decoded = self.model.decode(self.params, z)
      residual = (_images() - decoded) / _SCALE
      log_joint = -0.5 * jnp.sum(jnp.square(residual))
      return log_joint - jnp.sum(self._energy(z)) - 0.5 * jnp.sum(z**2)

    return self._chains(score_fn, keys, 3, 0.1)

  def test_decoder_learns_at_posterior_draws(self):
    method = lebm.create(self.model, **_LEBM_FIELDS)
    (loss, (_, updates)), grads = _run(method, self.params)
    z = np.asarray(jax.jit(self._posterior_draws)(_keys()))
    # float32, three steps
    np.testing.assert_allclose(
        updates['latents'][:, 0], z, rtol=1e-4, atol=1e-5
    )

    def loss_fn(decoder):
      return -jnp.mean(
          self.model.log_likelihood(
              {'decoder': decoder}, _images(), z[:, None]
          )
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
    method = lebm.create(self.model, **_LEBM_FIELDS)
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
    chex.assert_trees_all_close(
        grads['energy'], gradient, rtol=1e-3, atol=1e-5
    )
    self.assertEqual(_norm(grads['decoder']), 0.0)

  def test_draws_follow_a_prior_that_is_known(self):
    # f = 0: the prior is N(0, I), and Langevin's is wider by its step
    params = jax.tree.map(np.zeros_like, self.params)
    method = lebm.create(
        self.model, **{**_LEBM_FIELDS, 'prior_steps': 30}
    )
    keys = jax.random.split(jax.random.key(0), 2000)
    z = jax.jit(method.generate)(params, (), keys)
    # 6000 draws: four standard errors of a variance
    self.assertAlmostEqual(
        float(np.mean(np.square(z))) * (1.0 - 0.4**2 / 4.0),
        1.0,
        delta=4.0 * math.sqrt(2.0 / 6000),
    )

  def test_encodes_by_its_chains(self):
    method = lebm.create(self.model, **_LEBM_FIELDS)
    z = jax.jit(method.encode)(self.params, (), _images(), _keys())
    draw_fn = jax.jit(self._posterior_draws)
    chains = [draw_fn(base.fold_in(_keys(), index)) for index in range(4)]
    # float32, three steps
    np.testing.assert_allclose(
        z, np.stack(chains, axis=1), rtol=1e-4, atol=1e-5
    )

  def test_has_neither_an_encoder_nor_a_normalised_prior(self):
    method = lebm.create(self.model, **_LEBM_FIELDS)
    self.assertEqual(method.trained, ('decoder', 'energy'))
    self.assertIsNone(method.log_prior)
    with self.assertRaisesRegex(ValueError, "=none, got 'gaussian'"):
      lebm.create(_model('gaussian'), **_LEBM_FIELDS)


class EncodeTest(chex.TestCase):

  def _encode(self, encoder, method_fn):
    model = _model(encoder)
    params = _params(model, *model.autoencoder_names())
    run = jax.jit(
        functools.partial(base.encode, method_fn(model), model, stats=())
    )
    posterior = run(params, images=_images(), keys=_keys())
    return model, params, jax.device_get(posterior)

  def test_a_gaussian_has_its_moments(self):
    method_fn = functools.partial(iwae.create, num_samples=1)
    model, params, posterior = self._encode('gaussian', method_fn)
    z, mean, logvar, mean_variance = posterior
    encode_fn = jax.jit(model.modules['encoder'].apply)
    expected = encode_fn(params['encoder'], _images())
    chex.assert_trees_all_close((mean, logvar), expected, rtol=1e-5)
    self.assertGreater(_norm(z - mean), 1e-3)  # a draw
    self.assertIsNone(mean_variance)

  def test_the_mean_of_an_implicit_one_is_of_its_particles(self):
    method_fn = lambda model: stein_vae.create(model, **_STEIN_FIELDS)
    model, params, posterior = self._encode('implicit', method_fn)
    z, mean, logvar, mean_variance = posterior
    particles_fn = functools.partial(model.particles, num_particles=16)
    particles, _, _ = jax.jit(particles_fn)(params, _images(), _keys())
    particles = np.asarray(particles)
    np.testing.assert_allclose(z, particles[:, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        mean, np.mean(particles, axis=1), rtol=1e-4, atol=1e-6
    )
    self.assertIsNone(logvar)
    np.testing.assert_allclose(
        mean_variance, np.var(particles, axis=1, ddof=1) / 16, rtol=1e-3
    )

  def test_the_chains_of_a_method_without_a_net_are_its_draws(self):
    model = _model('none')
    params = _params(model, 'decoder', 'energy')
    method = lebm.create(model, **_LEBM_FIELDS)
    run = jax.jit(functools.partial(base.encode, method, model, stats=()))
    posterior = run(params, images=_images(), keys=_keys())
    chains = np.asarray(
        jax.jit(method.encode)(params, (), _images(), _keys())
    )
    np.testing.assert_allclose(
        posterior.z, chains[:, 0], rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(
        posterior.mean, np.mean(chains, axis=1), rtol=1e-3, atol=1e-5
    )
    self.assertIsNone(posterior.logvar)


class PosteriorMetricsTest(absltest.TestCase):

  def test_deviations_are_unbiased_for_any_number_of_normal_particles(self):
    for count in (2, 4, 8):
      z = jax.random.normal(jax.random.key(count), (20_000, count, 3))
      metrics = jax.jit(base.posterior_metrics)(None, 0.5 * np.asarray(z))
      # 60,000 sets: four standard errors, 0.76 of the deviation for two
      self.assertAlmostEqual(
          float(metrics['posterior_std']), 0.5, delta=4 * 0.38 / 60_000**0.5
      )
      self.assertAlmostEqual(
          float(metrics['latent_mean_square']), 0.25, delta=0.01
      )

  def test_a_lone_particle_has_none(self):
    metrics = jax.jit(base.posterior_metrics)(None, np.ones((5, 1, 3)))
    self.assertEqual(float(metrics['posterior_std']), 0.0)


if __name__ == '__main__':
  absltest.main()
