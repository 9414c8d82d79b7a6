"""Tests of ae, rae_l2, rae_gp, wae_mmd, info_vae and aae."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import errors
from ldc_vae.methods import aae
from ldc_vae.methods import ae
from ldc_vae.methods import base
from ldc_vae.methods import info_vae
from ldc_vae.methods import moments
from ldc_vae.methods import rae
from ldc_vae.methods import wae_mmd
from ldc_vae.models import model as model_lib
from tests.methods import method_case

_SHAPE = (4, 4, 1)
_SCALE = 0.5
_BATCH, _DIM = 6, 3

_params, _norm = method_case.params, method_case.norm
_images = functools.partial(method_case.images, (_BATCH, *_SHAPE))
_keys = functools.partial(method_case.keys, _BATCH)


def _model(encoder: str) -> model_lib.Model:
  """Small networks for 4x4 images."""
  return model_lib.create_model(
    _SHAPE,
    latent_size=_DIM,
    hidden_sizes=(12,),
    energy_width=8,
    energy_blocks=1,
    noise_size=4,
    scale=_SCALE,
    encoder=encoder,
  )


def _context(**kwargs) -> base.Context:
  """A context on one device."""
  stats = {'latents': moments.init(_DIM)}
  return base.Context(**{'progress': 0.0, 'stats': stats, **kwargs})


def _run(method, params, phase=0, **context):
  """A phase's (loss, (metrics, updates)) and the gradient by all `params`."""
  return method_case.run(
    method.phases[phase].objective_fn,
    params,
    _images(),
    _keys(),
    _context(**context),
  )


def _reconstruction(model, params, z) -> float:
  """-log N(x; D(z), scale^2) in NumPy, the mean over images."""
  decoded = np.asarray(jax.jit(model.decode)(params, z))
  residual = (_images() - decoded) / _SCALE
  terms = 0.5 * residual**2 + math.log(_SCALE * math.sqrt(2 * math.pi))
  return float(np.mean(np.sum(terms, axis=(1, 2, 3))))


class AeTest(chex.TestCase):
  def test_loss_is_the_reconstruction_of_one_code(self):
    model = _model('deterministic')
    params = _params(model, 'encoder', 'decoder')
    method = ae.Ae(moments_decay=0.9).build(model)
    (loss, (metrics, updates)), grads = _run(method, params)
    z = jax.jit(model.modules['encoder'].apply)(params['encoder'], _images())
    # float32 sums of 16 pixels
    np.testing.assert_allclose(
      loss, _reconstruction(model, params, z), rtol=1e-5
    )
    np.testing.assert_allclose(updates['latents'][:, 0], z, rtol=1e-5)
    self.assertEqual(float(metrics['posterior_std']), 0.0)
    for network in ('encoder', 'decoder'):
      self.assertGreater(_norm(grads[network]), 1e-3)

  def test_generates_a_gaussian_of_the_codes_moments(self):
    model = _model('deterministic')
    method = ae.Ae(moments_decay=0.9).build(model)
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(500, _DIM)) @ rng.normal(size=(_DIM, _DIM)) + 1.0
    codes[:, 2] = 3.0  # an unused dimension
    codes = codes.astype(np.float32)
    update_fn = jax.jit(moments.update)
    stats = {'latents': update_fn(moments.init(_DIM), codes, 0.0)}
    keys = jax.random.split(jax.random.key(0), 4000)
    z = np.asarray(jax.jit(method.generate)({}, stats, keys))
    error = 4.0 / math.sqrt(4000)  # four standard errors, in stds
    std = np.std(codes, axis=0)
    np.testing.assert_array_less(
      np.abs(np.mean(z, axis=0) - np.mean(codes, axis=0)), error * std + 1e-2
    )
    actual = np.cov(z[:, :2], rowvar=False)
    expected = np.cov(codes[:, :2], rowvar=False)
    # the error of a covariance is at most 2^(1/2) of the variances'
    np.testing.assert_allclose(
      actual, expected, atol=1.5 * error * np.max(np.diag(expected))
    )
    self.assertLess(np.std(z[:, 2]), 1e-2)

  def test_running_moments_are_those_of_the_codes(self):
    model = _model('deterministic')
    params = _params(model, 'encoder', 'decoder')
    method = ae.Ae(moments_decay=0.0).build(model)
    (_, (_, updates)), _ = _run(method, params)
    codes = updates['latents'][:, 0]
    mean, covariance = moments.mean_and_covariance(updates['stats']['latents'])
    np.testing.assert_allclose(mean, np.mean(codes, axis=0), rtol=1e-5)
    # float32, a difference of moments
    np.testing.assert_allclose(
      covariance, np.cov(codes, rowvar=False, bias=True), atol=1e-5
    )


class RaeTest(chex.TestCase):
  def test_l2_adds_codes_and_kernels(self):
    model = _model('deterministic')
    params = _params(model, 'encoder', 'decoder')
    method = rae.RaeL2(
      embedding_weight=0.7,
      decoder_weight=0.3,
      moments_decay=0.9,
    ).build(model)
    (loss, (_, updates)), _ = _run(method, params)
    z = np.asarray(updates['latents'][:, 0])
    kernels = [
      layer['kernel'] for layer in params['decoder']['params'].values()
    ]
    self.assertLen(kernels, 2)
    expected = (
      _reconstruction(model, params, z)
      + 0.7 * np.mean(0.5 * np.sum(z**2, axis=1))
      + 0.3 * sum(np.sum(np.square(kernel)) for kernel in kernels)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)  # float32

  def test_gp_of_a_linear_decoder_is_its_squared_frobenius_norm(self):
    matrix = np.random.default_rng(0).normal(size=(_DIM, 5)).astype(np.float32)
    decode_fn = lambda z: z @ matrix + 1.0
    directions = jax.random.normal(jax.random.key(0), (20_000, _DIM))
    directions = np.asarray(directions)
    penalty_fn = functools.partial(rae.gradient_penalty, decode_fn)
    values = jax.jit(jax.vmap(penalty_fn, (None, 0)))(
      jnp.ones(_DIM), directions
    )
    # at each direction it is |J v|^2; float32
    np.testing.assert_allclose(
      values, np.sum((directions @ matrix) ** 2, axis=1), rtol=1e-4
    )
    # 20,000 directions: four standard errors
    self.assertAlmostEqual(
      float(np.mean(values)),
      float(np.sum(matrix**2)),
      delta=4.0 * float(np.std(values)) / math.sqrt(20_000),
    )

  def test_gp_adds_codes_and_the_decoders_slope(self):
    model = _model('deterministic')
    params = _params(model, 'encoder', 'decoder')
    method = rae.RaeGp(
      embedding_weight=0.7,
      gradient_weight=0.3,
      moments_decay=0.9,
    ).build(model)
    (loss, (metrics, updates)), grads = _run(method, params)
    z = np.asarray(updates['latents'][:, 0])
    expected = (
      _reconstruction(model, params, z)
      + 0.7 * np.mean(0.5 * np.sum(z**2, axis=1))
      + 0.3 * metrics['gradient_penalty']
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)  # float32
    # by finite differences along the same directions
    directions = base.draw_normal(base.fold_in(_keys(), 1), (_DIM,))
    directions, step = np.asarray(directions), 1e-2
    decode_fn = jax.jit(model.decode)
    after, before = jax.device_get(
      [decode_fn(params, z + sign * step * directions) for sign in (1, -1)]
    )
    slopes = (after - before) / (2.0 * step)
    # central differences: an error of order step^2
    np.testing.assert_allclose(
      metrics['gradient_penalty'],
      np.mean(np.sum(np.square(slopes), axis=(1, 2, 3))),
      rtol=2e-3,
    )
    self.assertGreater(_norm(grads['encoder']), 1e-3)

  @parameterized.parameters(ae.Ae, rae.RaeL2, rae.RaeGp)
  def test_an_encoder_with_noise_is_an_error(self, method_class):
    with self.assertRaisesRegex(
      errors.UserError, '=gaussian .* encoder deterministic'
    ):
      method_class().build(_model('gaussian'))


def _mmd_loop(x: np.ndarray, y: np.ndarray) -> float:
  """The unbiased squared MMD of seven multiquadrics, pair by pair."""

  def kernel(a, b):
    squared = np.sum((a - b) ** 2)
    constants = [2.0 * _DIM * s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)]
    return np.mean([c / (c + squared) for c in constants])

  n = len(x)
  different = [(i, j) for i in range(n) for j in range(n) if i != j]
  within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in different)
  between = sum(kernel(a, b) for a in x for b in y)
  return within / (n * (n - 1)) - 2.0 * between / n**2


class MmdTest(chex.TestCase):
  def _draws(self):
    """The prior's draws behind the codes of `_keys`."""
    return np.asarray(base.draw_normal(base.fold_in(_keys(), 1), (_DIM,)))

  def test_wae_adds_the_mmd_of_the_codes(self):
    model = _model('deterministic')
    params = _params(model, 'encoder', 'decoder')
    method = wae_mmd.WaeMmd(mmd_weight=20.0).build(model)
    (loss, (metrics, updates)), grads = _run(method, params)
    z = np.asarray(updates['latents'][:, 0])
    mmd = _mmd_loop(z, self._draws())
    # float32 means of 36 pairs
    np.testing.assert_allclose(metrics['mmd'], mmd, rtol=1e-4, atol=1e-6)
    expected = _reconstruction(model, params, z) + 20.0 * mmd
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    self.assertGreater(_norm(grads['encoder']), 1e-3)

  def test_info_vae_weighs_kl_and_mmd(self):
    alpha, scaling = 0.4, 3.0
    model = _model('gaussian')
    params = _params(model, 'encoder', 'decoder')
    method = info_vae.InfoVae(alpha=alpha, mmd_scaling=scaling).build(model)
    (loss, (metrics, _)), _ = _run(method, params)
    encode_fn = jax.jit(model.modules['encoder'].apply)
    mean, logvar = jax.device_get(encode_fn(params['encoder'], _images()))
    noise = np.asarray(base.draw_normal(_keys(), (1, _DIM)))[:, 0]
    z = mean + np.exp(0.5 * logvar) * noise
    kl = 0.5 * np.mean(np.sum(mean**2 + np.exp(logvar) - 1 - logvar, axis=1))
    mmd = _mmd_loop(z, self._draws())
    expected = _reconstruction(model, params, z)
    expected += (1.0 - alpha) * kl + (alpha + scaling - 1.0) * mmd
    np.testing.assert_allclose(metrics['kl'], kl, rtol=1e-5)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)  # float32

  def test_gradient_pulls_codes_to_the_prior(self):
    keys = jax.random.split(jax.random.key(0), 64)
    z = base.draw_normal(jax.random.split(jax.random.key(1), 64), (_DIM,))
    mmd_fn = jax.jit(
      jax.value_and_grad(lambda z: wae_mmd.prior_mmd(z, keys, None))
    )
    near, _ = mmd_fn(z)
    far, gradient = mmd_fn(z + 2.0)
    self.assertGreater(float(far), 10.0 * abs(float(near)))
    self.assertGreater(float(jnp.mean(gradient)), 0.0)  # descent goes back

  def test_a_lone_code_has_none(self):
    mmd = wae_mmd.prior_mmd(jnp.ones((1, _DIM)), _keys()[:1], None)
    self.assertEqual(float(mmd), 0.0)

  def test_sets_are_seen_whole(self):
    for method in (
      wae_mmd.WaeMmd(mmd_weight=1.0).build(_model('deterministic')),
      info_vae.InfoVae(alpha=0.0, mmd_scaling=1.0).build(_model('gaussian')),
    ):
      self.assertFalse(method.phases[0].per_image)

  def test_other_encoders_are_errors(self):
    with self.assertRaisesRegex(
      errors.UserError, '=deterministic .* encoder gaussian'
    ):
      info_vae.InfoVae().build(_model('deterministic'))
    for method in (wae_mmd.WaeMmd(), aae.Aae()):
      with self.assertRaisesRegex(errors.UserError, '=none .* or warped'):
        method.build(_model('none'))


class AaeTest(chex.TestCase):
  def setUp(self):
    super().setUp()
    self.model = _model('deterministic')
    self.params = _params(self.model, 'encoder', 'decoder', 'discriminator')
    self.method = aae.Aae(
      adversarial_weight=0.7,
      num_discriminator_updates=1,
    ).build(self.model)

  def _logits(self, z):
    net = self.model.modules['discriminator']
    return np.asarray(jax.jit(net.apply)(self.params['discriminator'], z))

  def test_discriminator_is_undecided_at_first(self):
    init_fn = jax.jit(lambda key: self.model.init(key, ('discriminator',)))
    fresh = init_fn(jax.random.key(0))
    latents = jax.random.normal(jax.random.key(1), (_BATCH, 1, _DIM))
    (loss, (metrics, _)), grads = _run(
      self.method, fresh, phase=1, latents=latents
    )
    # float32
    np.testing.assert_allclose(loss, 2.0 * math.log(2.0), rtol=1e-6)
    self.assertEqual(float(metrics['discriminator_accuracy']), 0.0)
    self.assertGreater(_norm(grads), 1e-3)  # and learns

  def test_discriminator_loss_is_a_cross_entropy(self):
    latents = jax.random.normal(jax.random.key(1), (_BATCH, 1, _DIM))
    latents = np.asarray(latents) + np.float32(1.0)
    (loss, (metrics, _)), grads = _run(
      self.method, self.params, phase=1, latents=latents
    )
    draws = np.asarray(base.draw_normal(_keys(), (_DIM,)))
    prior = 1.0 / (1.0 + np.exp(-self._logits(draws)))
    codes = 1.0 / (1.0 + np.exp(-self._logits(latents[:, 0])))
    expected = -np.mean(np.log(prior)) - np.mean(np.log(1.0 - codes))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)  # float32
    accuracy = 0.5 * np.mean(prior > 0.5) + 0.5 * np.mean(codes < 0.5)
    np.testing.assert_allclose(
      metrics['discriminator_accuracy'], accuracy, rtol=1e-6
    )
    self.assertEqual(_norm((grads['encoder'], grads['decoder'])), 0.0)
    self.assertGreater(_norm(grads['discriminator']), 1e-3)

  def test_encoder_confuses_a_frozen_discriminator(self):
    (loss, (_, updates)), grads = _run(self.method, self.params)
    z = np.asarray(updates['latents'][:, 0])
    probabilities = 1.0 / (1.0 + np.exp(-self._logits(z)))
    expected = _reconstruction(self.model, self.params, z)
    expected += -0.7 * np.mean(np.log(probabilities))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)  # float32
    self.assertEqual(_norm(grads['discriminator']), 0.0)
    without = aae.Aae(
      adversarial_weight=0.0,
      num_discriminator_updates=1,
    ).build(self.model)
    _, plain = _run(without, self.params)
    difference = jax.tree.map(
      lambda a, b: a - b, grads['encoder'], plain['encoder']
    )
    self.assertGreater(_norm(difference), 1e-3)


if __name__ == '__main__':
  absltest.main()
