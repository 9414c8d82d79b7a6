"""Tests of ldc_vae.methods."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from configs import default
from ldc_vae import energy
from ldc_vae import svgd
from ldc_vae.methods import base
from ldc_vae.methods import ldc
from ldc_vae.methods import moments
from ldc_vae.methods import vae
from ldc_vae.models import model as model_lib
from ldc_vae.samplers import latent_svgd
from ldc_vae.samplers import sampler_options
from tests.methods import method_case

_SHAPE = (4, 4, 1)
_SIZES = model_lib.Sizes(
    latent_size=3,
    hidden_sizes=(12,),
    sampler_width=8,
    sampler_blocks=1,
    energy_width=8,
    energy_blocks=1,
    noise_size=4,
)
_BATCH, _PARTICLES = 4, 5
_LDC_FIELDS = dict(
    default.OBJECTIVES['ldc'],
    inverse_temperature=3.0,
    num_particles=_PARTICLES,
    kernel='rbf',
    bandwidth='expected',
    bandwidth_factor=1.0,
    off_diagonal=True,
    latent_energy_weight=0.0,
    num_latent_updates=2,
    latents_per_image=1,
    sampler_kernel='rbf',
    sampler_mass=1.5,
    sampler_svgd=True,
    temperature_start=1.0,
    temperature_end=0.01,
    temperature_fraction=0.5,
    gradient_penalty=0.3,
    moments_decay=0.9,
    whiten=False,
)

_params, _norm = method_case.params, method_case.norm
_images = functools.partial(method_case.images, (_BATCH, *_SHAPE))
_keys = functools.partial(method_case.keys, _BATCH)


def _model(**kwargs) -> model_lib.Model:
  """Small networks for 4x4 images."""
  return model_lib.create_model(_SHAPE, _SIZES, scale=0.5, **kwargs)


def _context(**kwargs) -> base.Context:
  """A context on one device, before the first step."""
  context = {
      'progress': jnp.float32(0.0),
      'update': jnp.int32(0),
      'stats': _stats(moments.init(3)),
      'ema_params': {},
      'axis_name': None,
      'latents': None,
  }
  return {**context, **kwargs}


def _stats(latents: dict[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
  """Stats with moments of latents, and squared distances of 7 on average."""
  distance = {'distance': jnp.float32(3.5), 'weight': jnp.float32(0.5)}
  return {'latents': latents, 'distance': distance}


def _moments(seed: int = 3) -> dict[str, jax.Array]:
  """Running moments of means other than 0 and deviations other than 1."""
  z = np.random.default_rng(seed).normal(size=(32, 2, 3)) * [0.5, 1.0, 2.0]
  z += [1.0, 0.0, -1.0]
  z = z.reshape(-1, 3).astype(np.float32)
  return jax.jit(moments.update)(moments.init(3), z, 0.9)


class VaeTest(chex.TestCase):

  def setUp(self):
    super().setUp()
    self.model = _model()
    self.params = _params(self.model, 'encoder', 'decoder')

  def _objective(self, params, beta=1.0, num_samples=2):
    method = vae.create(self.model, beta=beta, num_samples=num_samples)
    (phase,) = method.phases
    objective_fn = lambda params: phase.objective_fn(
        params, _images(), _keys(), _context()
    )
    return jax.jit(objective_fn)(params)

  def _by_hand(self, params, beta=1.0, num_samples=2):
    """-ELBO written out, from the same noise."""
    images, modules = _images(), self.model.modules
    mean, logvar = modules['encoder'].apply(params['encoder'], images)
    noise = [jax.random.normal(key, (num_samples, 3)) for key in _keys()]
    std = jnp.sqrt(jnp.exp(logvar))
    z = mean[:, None] + std[:, None] * jnp.stack(noise)  # [B, K, D]
    logits = modules['decoder'].apply(params['decoder'], z)
    residual = (images[:, None] - 1.0 / (1.0 + jnp.exp(-logits))) / 0.5
    log_density = -0.5 * residual**2 - math.log(0.5 * math.sqrt(2 * math.pi))
    log_likelihood = jnp.sum(log_density) / (num_samples * _BATCH)
    kl = 0.5 * jnp.sum(mean**2 + std**2 - 1.0 - logvar) / _BATCH
    return -log_likelihood + beta * kl

  @parameterized.parameters((1.0, 1), (0.3, 2))
  def test_loss_and_gradient_are_those_of_the_elbo(self, beta, num_samples):
    actual_fn = lambda params: self._objective(params, beta, num_samples)[0]
    expected_fn = lambda params: self._by_hand(params, beta, num_samples)
    actual = jax.jit(jax.value_and_grad(actual_fn))(self.params)
    expected = jax.jit(jax.value_and_grad(expected_fn))(self.params)
    # float32 sums of 16 pixels and 3 latents
    chex.assert_trees_all_close(actual, expected, rtol=2e-5, atol=2e-6)

  def test_metrics_add_up_to_the_loss(self):
    loss, (metrics, updates) = self._objective(self.params, beta=0.3)
    # float32
    np.testing.assert_allclose(
        metrics['reconstruction'] + 0.3 * metrics['kl'], loss, rtol=1e-6
    )
    self.assertEqual(updates, {})

  def test_an_implicit_encoder_is_an_error(self):
    with self.assertRaisesRegex(ValueError, "encoder=gaussian, got 'implicit'"):
      vae.create(_model(encoder='implicit'), beta=1.0, num_samples=1)

  def test_generates_from_the_prior(self):
    method = vae.create(self.model, beta=1.0, num_samples=1)
    keys = jax.random.split(jax.random.key(0), 2000)
    z = jax.jit(method.generate)(self.params, method.init_stats(), keys)
    chex.assert_shape(z, (2000, 3))
    for column in np.asarray(z).T:
      # at this seed; a law off by 0.1 in scale would give 1e-3 in the mean
      self.assertGreater(scipy.stats.kstest(column, 'norm').pvalue, 0.01)

  def test_trains_the_autoencoder_and_a_learned_scale(self):
    method = vae.create(self.model, beta=1.0, num_samples=1)
    self.assertEqual(method.trained, ('encoder', 'decoder'))
    method = vae.create(_model(learn_scale=True), beta=1.0, num_samples=1)
    self.assertEqual(method.trained, ('encoder', 'decoder', 'scale'))


class LdcAutoencoderTest(chex.TestCase):

  def _grad(self, model, params, context=None, **fields):
    """Gradient by all of `params`, and (metrics, updates)."""
    method = ldc.create(model, **{**_LDC_FIELDS, **fields})
    objective_fn = method.phases[0].objective_fn

    @jax.jit
    def run(params, context):
      context = {**context, 'axis_name': None}
      return jax.grad(objective_fn, has_aux=True)(
          params, _images(), _keys(), context
      )

    context = context or _context()
    return jax.device_get(run(params, {**context, 'axis_name': 0}))

  def _by_hand(self, model, params, weight=0.0, running=None, **fields):
    """Encoder: -1/(BK) sum J' phi. Decoder: lambda E grad(-log p)."""
    fields = {**_LDC_FIELDS, **fields}
    images = _images()
    inverse_temperature = fields['inverse_temperature']

    def particles_fn(encoder):
      return model.particles(
          {'encoder': encoder}, images, _keys(), _PARTICLES
      )[0]

    z, pull_back = jax.vjp(particles_fn, params['encoder'])
    latent_energy_fn = None
    if weight:
      mean, std = moments.mean_and_std(running)
      latent_energy_fn = lambda point: weight * model.modules['energy'].apply(
          params['energy'], (point - mean) / std
      )

    def score(point, image):
      def log_likelihood_fn(point):
        z = point[None, None]  # one image, one particle
        return model.log_likelihood(params, image[None], z)[0, 0]

      return energy.gibbs_score(
          log_likelihood_fn, point, inverse_temperature, latent_energy_fn
      )

    h = fields['bandwidth']
    if h == 'expected':
      h = 7.0 / math.sqrt(3)  # see `_stats`
    kernel = svgd.KERNELS[fields['kernel']](h)
    directions = []
    for index, (particles, image) in enumerate(zip(z, images)):
      scores = jax.vmap(score, in_axes=(0, None))(particles, image)
      if fields['whiten']:
        kernel = self._whitened_kernel(model, params, particles, index)
      directions.append(
          svgd.svgd_direction(
              particles, scores, kernel, off_diagonal=fields['off_diagonal']
          )
      )
    (encoder,) = pull_back(-jnp.stack(directions) / (_BATCH * _PARTICLES))

    def reconstruction(decoder):
      return -jnp.mean(model.log_likelihood({'decoder': decoder}, images, z))

    decoder = jax.tree.map(
        lambda g: inverse_temperature * g,
        jax.grad(reconstruction)(params['decoder']),
    )
    return encoder, decoder

  def _whitened_kernel(self, model, params, particles, index):
    """k((x - m) / s, (y - m) / s) as a function, by autodiff."""
    _, means, logvars = model.particles(params, _images(), _keys(), 1)
    mean, std = means[index], jnp.exp(0.5 * logvars[index])
    h = 2.0 * math.sqrt(particles.shape[1])
    return lambda x, y: svgd.rbf_kernel((x - mean) / std, (y - mean) / std, h)

  @parameterized.named_parameters(
      ('default', 'gaussian', {}),
      ('whitened', 'gaussian', dict(whiten=True)),
      ('imq_fixed', 'gaussian', dict(kernel='imq', bandwidth=2.0)),
      ('all_pairs', 'gaussian', dict(off_diagonal=False)),
      ('implicit', 'implicit', {}),
      ('warped', 'warped', {}),
  )
  def test_gradients_are_svgd_and_the_decoders_own(self, encoder, fields):
    model = _model(encoder=encoder)
    params = _params(model, 'encoder', 'decoder')
    grads, _ = self._grad(model, params, **fields)
    expected = jax.jit(
        lambda params: self._by_hand(model, params, **fields)
    )(params)
    # float32 sums of 20 particles x 16 pixels in another order
    chex.assert_trees_all_close(
        (grads['encoder'], grads['decoder']), expected, rtol=2e-4, atol=2e-5
    )
    self.assertGreater(_norm(grads['encoder']), 1e-2)

  def test_latent_energy_shapes_the_encoder_and_is_not_trained_by_it(self):
    model = _model()
    params = _params(model, 'encoder', 'decoder', 'sampler', 'energy')
    context = _context(stats=_stats(_moments()))
    grads, _ = self._grad(
        model, params, context, latent_energy_weight=5.0
    )
    expected = jax.jit(
        lambda params: self._by_hand(
            model, params, weight=5.0, running=_moments()
        )
    )(params)
    # float32 sums of 20 particles x 16 pixels in another order
    chex.assert_trees_all_close(
        (grads['encoder'], grads['decoder']), expected, rtol=2e-4, atol=2e-5
    )
    self.assertEqual(_norm((grads['energy'], grads['sampler'])), 0.0)
    without, _ = self._grad(model, params, context)
    difference = jax.tree.map(
        lambda a, b: a - b, grads['encoder'], without['encoder']
    )
    self.assertGreater(_norm(difference), 1e-2)

  def test_a_gaussian_encoder_logs_the_free_energy(self):
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    _, (metrics, updates) = self._grad(model, params)
    encode_fn = jax.jit(model.modules['encoder'].apply)
    mean, logvar = jax.device_get(encode_fn(params['encoder'], _images()))
    kl = 0.5 * np.sum(mean**2 + np.exp(logvar) - 1.0 - logvar, axis=1)
    z = updates['latents']
    chex.assert_shape(z, (_BATCH, _PARTICLES, 3))
    likelihood_fn = jax.jit(model.log_likelihood)
    reconstruction = -np.mean(likelihood_fn(params, _images(), z))
    # float32
    np.testing.assert_allclose(metrics['kl'], np.mean(kl), rtol=1e-5)
    np.testing.assert_allclose(
        metrics['loss'], 3.0 * reconstruction + np.mean(kl), rtol=1e-5
    )

  def test_latents_carry_no_gradient(self):
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    method = ldc.create(model, **_LDC_FIELDS)

    def total(params):
      _, (_, updates) = method.phases[0].objective_fn(
          params, _images(), _keys(), _context()
      )
      return jnp.sum(updates['latents'])

    self.assertEqual(_norm(jax.jit(jax.grad(total))(params)), 0.0)

  def test_stats_move_by_the_latents(self):
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    context = _context(stats=_stats(_moments()))
    _, (_, updates) = self._grad(model, params, context, moments_decay=0.8)
    z = updates['latents']
    expected = {
        'latents': moments.update(_moments(), z.reshape(-1, 3), 0.8),
        'distance': moments.update_distance(context['stats']['distance'], z),
    }
    # float32; products of matmuls
    chex.assert_trees_all_close(updates['stats'], expected, rtol=1e-5)

  def test_stats_hold_the_moments_of_the_averaged_sampler(self):
    model = _model()
    params = _params(model, 'encoder', 'decoder')
    averaged = _params(model, 'sampler')
    stats = {**_stats(_moments()), 'sampler': moments.init(3)}
    _, (_, updates) = self._grad(
        model,
        params,
        _context(stats=stats, ema_params=averaged),
        moments_decay=0.0,
        latents_per_image=2,
    )
    keys = [jax.random.fold_in(key, 1) for key in _keys()]
    noise = jnp.concatenate(
        [jax.random.normal(key, (2, 3)) for key in keys]
    )
    u = model.modules['sampler'].apply(averaged['sampler'], noise)
    mean, covariance = moments.mean_and_covariance(updates['stats']['sampler'])
    # float32
    np.testing.assert_allclose(mean, np.mean(u, axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        covariance, np.cov(u, rowvar=False, bias=True), rtol=1e-4, atol=1e-5
    )

class GenerateTest(chex.TestCase):

  def setUp(self):
    super().setUp()
    model = _model()
    # a net of some size: fresh ones are 0
    params = _params(model, 'sampler')
    keys = jax.random.split(jax.random.key(1), 4000)
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    self.u = model.modules['sampler'].apply(params['sampler'], noise)
    self.stats = {
        'latents': _moments(),
        'sampler': moments.update(moments.init(3), self.u, 0.9),
    }
    method = ldc.create(model, **_LDC_FIELDS)
    z = jax.jit(method.generate)(params, self.stats, keys)
    self.z = np.asarray(z, np.float64)

  def test_mean_and_covariance_are_the_latents(self):
    mean, covariance = moments.mean_and_covariance(self.stats['latents'])
    # float32, and what keeps roots positive: 1e-6 of all variances
    np.testing.assert_allclose(np.mean(self.z, axis=0), mean, atol=1e-4)
    np.testing.assert_allclose(
        np.cov(self.z, rowvar=False, bias=True), covariance, atol=1e-3
    )

  def test_is_an_affine_map_of_what_the_net_makes(self):
    u = np.asarray(self.u, np.float64)
    own_root = np.linalg.cholesky(np.cov(u, rowvar=False, bias=True))
    mean, covariance = jax.device_get(
        moments.mean_and_covariance(self.stats['latents'])
    )
    white = np.linalg.solve(own_root, (u - u.mean(axis=0)).T)
    expected = mean + (np.linalg.cholesky(covariance) @ white).T
    np.testing.assert_allclose(self.z, expected, atol=1e-3)  # as above


class LdcLatentTest(chex.TestCase):

  def setUp(self):
    super().setUp()
    self.model = _model()
    self.params = _params(
        self.model, 'encoder', 'decoder', 'sampler', 'energy'
    )
    rng = np.random.default_rng(5)
    latents = rng.normal(size=(_BATCH, _PARTICLES, 3)) + 0.5
    self.latents = latents.astype(np.float32)
    self.context = _context(latents=self.latents, stats={'latents': _moments()})

  def _grad(self, context=None, argnums=0, **fields):
    """Gradient of the latent phase, and (metrics, updates)."""
    method = ldc.create(self.model, **{**_LDC_FIELDS, **fields})
    objective_fn = method.phases[1].objective_fn
    arrays = {**(context or self.context)}
    arrays.pop('axis_name')

    def loss_fn(params, latents):
      full = {**arrays, 'latents': latents, 'axis_name': None}
      return objective_fn(params, _images(), _keys(), full)

    grad_fn = jax.jit(jax.grad(loss_fn, argnums=argnums, has_aux=True))
    return jax.device_get(grad_fn(self.params, arrays['latents']))

  def _aggregate(self, columns):
    """Standardised latents [B g, D] of the chosen particles."""
    mean, std = moments.mean_and_std(_moments())
    chosen = np.asarray(self.latents)[:, columns].reshape(-1, 3)
    return (chosen - np.asarray(mean)) / np.asarray(std)

  def _draws(self, group):
    """Noise [B g, D], and where the penalty looks, bool [B g]."""
    noise = [jax.random.normal(key, (group, 3)) for key in _keys()]
    looks = [
        jax.random.bernoulli(jax.random.fold_in(key, 1), shape=(group,))
        for key in _keys()
    ]
    return jnp.concatenate(noise), jnp.concatenate(looks)

  @parameterized.parameters(
      (0, 2, [0, 1], True),
      (1, 2, [2, 3], True),
      (2, 2, [4, 0], True),
      (3, 1, [3], False),
  )
  def test_updates_take_the_particles_in_turn(
      self, update, group, columns, use_svgd
  ):
    context = {
        **self.context,
        'update': jnp.int32(update),
        'progress': jnp.float32(0.25),
    }
    grads, (metrics, updates) = self._grad(
        context, latents_per_image=group, sampler_svgd=use_svgd
    )
    noise, looks = self._draws(group)
    objective_fn = functools.partial(
        latent_svgd.objective,
        noise=noise,
        aggregate=self._aggregate(columns),
        at_aggregate=looks,
        progress=0.25,
        sampler_fn=self.model.modules['sampler'].apply,
        energy_fn=self.model.modules['energy'].apply,
        options=sampler_options.SamplerOptions(
            sampler_svgd=use_svgd,
            sampler_mass=1.5,
            temperature_end=0.01,
            temperature_fraction=0.5,
            gradient_penalty=0.3,
        ),
    )
    expected, terms = jax.jit(jax.grad(objective_fn, has_aux=True))(self.params)
    # float32 sums of 4 or 8 particles, second derivatives
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(metrics, terms, rtol=1e-4, atol=1e-5)
    self.assertEqual(updates, {})
    self.assertEqual('temperature' in metrics, use_svgd)

  @parameterized.parameters(True, False)
  def test_neither_autoencoder_nor_latents_move(self, use_svgd):
    (grads, by_latents), _ = self._grad(
        argnums=(0, 1), sampler_svgd=use_svgd
    )
    self.assertEqual(
        _norm((grads['encoder'], grads['decoder'], by_latents)), 0.0
    )
    self.assertGreater(_norm(grads['sampler']), 1e-3)
    self.assertGreater(_norm(grads['energy']), 1e-3)


class LdcCreateTest(chex.TestCase):

  @parameterized.named_parameters(
      ('lone_particle', dict(num_particles=1), 'num_particles=1: .*at least 2'),
      (
          'bandwidth_of_a_set',
          dict(bandwidth='mean'),
          "bandwidth='mean' is neither 'expected' nor a number",
      ),
      ('bandwidth', dict(bandwidth=-1.0), 'bandwidth=-1.0'),
      ('kernel', dict(kernel='rfb'), "objective.kernel='rfb'; known: .*rbf"),
      (
          'sampler_kernel',
          dict(sampler_kernel='rfb'),
          "objective.sampler_kernel='rfb'; known: .*rbf",
      ),
      (
          'kernel_with_negative_values',
          dict(sampler_kernel='linear'),
          "objective.sampler_kernel='linear' has negative values",
      ),
      (
          'start',
          dict(temperature_start=0.0),
          'objective.temperature_start=0.0 .*positive',
      ),
      (
          'end',
          dict(temperature_end=0.0),
          'objective.temperature_end=0.0 .*positive',
      ),
      (
          'fraction',
          dict(temperature_fraction=0.0),
          'objective.temperature_fraction=0.0 .*positive',
      ),
  )
  def test_wrong_field_is_an_error(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      ldc.create(_model(), **{**_LDC_FIELDS, **fields})

  def test_an_unknown_option_is_an_error(self):
    with self.assertRaisesRegex(TypeError, 'latent_target'):
      ldc.create(_model(), **{**_LDC_FIELDS, 'latent_target': 'learned'})

  def test_trains_the_autoencoder_and_the_latent_nets(self):
    method = ldc.create(_model(), **_LDC_FIELDS)
    self.assertEqual(
        method.trained, ('encoder', 'decoder', 'sampler', 'energy')
    )
    self.assertSameElements(
        method.init_stats(), ('latents', 'sampler', 'distance')
    )


if __name__ == '__main__':
  absltest.main()
