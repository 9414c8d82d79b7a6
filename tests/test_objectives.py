"""Tests of ldc_vae.objectives."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

from configs import default
from ldc_vae import energy
from ldc_vae import networks
from ldc_vae import svgd
from ldc_vae.objectives import base
from ldc_vae.objectives import ldc
from ldc_vae.objectives import moments
from ldc_vae.objectives import vae
from tests import device_case
from tests import objective_case

_SHAPE = (4, 4, 1)
_SIZES = networks.Sizes(
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
    latent_target='learned',
    latent_energy_weight=0.0,
    num_latent_updates=2,
    latents_per_image=1,
    sampler_kernel='rbf',
    sampler_bandwidth_factor=0.5,
    sampler_off_diagonal=False,
    sampler_svgd=True,
    temperature_start=1.0,
    temperature_end=0.01,
    temperature_fraction=0.5,
    r1_weight=0.3,
    flow_scales=(0.05, 0.2),
    moments_decay=0.9,
    match_moments=False,
    sampler_noise=0.0,
    whiten=False,
)

_params, _norm = objective_case.params, objective_case.norm
_images = functools.partial(objective_case.images, (_BATCH, *_SHAPE))
_keys = functools.partial(objective_case.keys, _BATCH)


def _model(**kwargs) -> networks.Model:
  """Small networks for 4x4 images."""
  return networks.create_model(_SHAPE, _SIZES, scale=0.5, **kwargs)


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
      mu, sigma = moments.mean_and_std(running)
      latent_energy_fn = lambda point: weight * model.modules['energy'].apply(
          params['energy'], (point - mu) / sigma
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
      h = 7.0 / math.log(_PARTICLES + 1)  # see `_stats`
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
    h = 2.0 * particles.shape[1] / math.log(_PARTICLES + 1)
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
        match_moments=True,
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

  @parameterized.parameters('gaussian', 'implicit')
  def test_stats_hold_the_covariance_of_the_posteriors(self, encoder):
    model = _model(encoder=encoder)
    params = _params(model, 'encoder', 'decoder')
    stats = {**_stats(_moments()), 'posterior': moments.init(3)}
    _, (_, updates) = self._grad(
        model,
        params,
        _context(stats=stats),
        moments_decay=0.0,
        sampler_noise=0.7,
    )
    z = np.asarray(updates['latents'], np.float64)
    expected = np.mean([np.cov(each, rowvar=False) for each in z], axis=0)
    mean, covariance = moments.mean_and_covariance(
        updates['stats']['posterior']
    )
    # float32
    np.testing.assert_allclose(mean, np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(covariance, expected, rtol=1e-4, atol=1e-6)


class GenerateTest(chex.TestCase):

  def setUp(self):
    super().setUp()
    self.model = _model()
    # a net of some size: fresh ones are 0
    self.params = _params(self.model, 'sampler')
    rng = np.random.default_rng(7)
    deviations = rng.normal(size=(100, 3)) @ rng.normal(size=(3, 3))
    posterior = jnp.asarray(0.7 * deviations, jnp.float32)
    self.stats = {
        'latents': _moments(),
        'posterior': moments.update(moments.init(3), posterior, 0.9),
    }
    self.keys = jax.random.split(jax.random.key(1), 40_000)

  def _generate(self, stats, **fields):
    method = ldc.create(self.model, **{**_LDC_FIELDS, **fields})
    return np.asarray(jax.jit(method.generate)(self.params, stats, self.keys))

  def test_noise_is_added_to_what_the_net_makes(self):
    plain = self._generate(self.stats)
    once = self._generate(self.stats, sampler_noise=1.0) - plain
    twice = self._generate(self.stats, sampler_noise=2.0) - plain
    # float32 differences of numbers below 10
    np.testing.assert_allclose(twice, 2.0 * once, rtol=1e-4, atol=1e-5)
    _, covariance = moments.mean_and_covariance(self.stats['posterior'])
    scale = float(np.max(np.diagonal(covariance)))
    # 40,000 draws: a few deviations of a covariance's entries
    np.testing.assert_allclose(np.mean(once, axis=0), 0.0, atol=0.03)
    np.testing.assert_allclose(
        np.cov(once, rowvar=False), covariance, atol=0.03 * scale
    )
    both = np.cov(np.concatenate([plain, once], axis=1), rowvar=False)
    np.testing.assert_allclose(both[:3, 3:], 0.0, atol=0.06 * scale)

  @parameterized.parameters(0.0, 1.0)
  def test_mean_and_covariance_are_the_latents(self, sampler_noise):
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(self.keys)
    u = self.model.modules['sampler'].apply(self.params['sampler'], noise)
    stats = {
        **self.stats, 'sampler': moments.update(moments.init(3), u, 0.9)
    }
    z = self._generate(stats, match_moments=True, sampler_noise=sampler_noise)
    mean, covariance = moments.mean_and_covariance(stats['latents'])
    scale = float(np.max(np.diagonal(covariance)))
    # 40,000 draws of the noise; those of the net are the same
    np.testing.assert_allclose(np.mean(z, axis=0), mean, atol=0.03)
    np.testing.assert_allclose(
        np.cov(z, rowvar=False), covariance, atol=0.03 * scale
    )


class TemperatureTest(chex.TestCase):

  @parameterized.parameters(
      (0.0, 2.0), (0.25, 0.2), (0.5, 0.02), (0.75, 0.02), (1.0, 0.02)
  )
  def test_falls_geometrically_and_then_rests(self, progress, expected):
    actual = ldc.repulsion_temperature(
        progress, start=2.0, end=0.02, fraction=0.5
    )
    # float32 power
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


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
    chosen = np.asarray(self.latents)[:, columns]
    return ((chosen - mean) / std).reshape(-1, 3)

  def _sampler(self, group=1):
    """Samples [B g, D], and the function that pulls a cotangent back."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (group, 3)))(_keys())
    noise = noise.reshape(-1, 3)
    apply_fn = jax.jit(self.model.modules['sampler'].apply)

    @jax.jit
    def pull_back(cotangent):
      sampler_fn = lambda params: apply_fn(params, noise)
      return jax.vjp(sampler_fn, self.params['sampler'])[1](cotangent)

    return apply_fn(self.params['sampler'], noise), pull_back

  def _energy_fn(self, params, u):
    return self.model.modules['energy'].apply(params, u)

  @parameterized.parameters((False, 0.0, 1.0), (True, 0.5, 0.01))
  def test_sampler_follows_svgd_on_the_energy(
      self, off_diagonal, progress, temperature
  ):
    context = {**self.context, 'progress': jnp.float32(progress)}
    grads, (metrics, _) = self._grad(
        context, sampler_off_diagonal=off_diagonal
    )
    u, pull_back = self._sampler()

    @jax.jit
    def direction_fn(u):
      grad_fn = jax.grad(self._energy_fn, argnums=1)
      return svgd.svgd_direction(
          u,
          -jax.vmap(grad_fn, (None, 0))(self.params['energy'], u),
          svgd.rbf('mean', factor=0.5),
          off_diagonal=off_diagonal,
          temperature=temperature,
      )

    (expected,) = pull_back(-direction_fn(u) / _BATCH)
    # float32 sums of 4 particles
    chex.assert_trees_all_close(
        grads['sampler'], expected, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(metrics['temperature'], temperature, rtol=1e-5)

  def test_without_svgd_it_descends_the_energy(self):
    grads, _ = self._grad(sampler_svgd=False)
    u, pull_back = self._sampler()
    grad_fn = jax.grad(
        lambda u: jnp.mean(self._energy_fn(self.params['energy'], u))
    )
    gradient = jax.jit(grad_fn)(u)
    (expected,) = pull_back(gradient)
    # float32 sums of 4 particles
    chex.assert_trees_all_close(
        grads['sampler'], expected, rtol=1e-4, atol=1e-6
    )

  @parameterized.parameters((True,), (False,))
  def test_energy_is_trained_by_the_contrast_alone(self, use_svgd):
    grads, (metrics, _) = self._grad(sampler_svgd=use_svgd)
    u, _ = self._sampler()

    def loss_fn(params):
      return energy.contrastive_loss(
          functools.partial(self._energy_fn, params),
          self._aggregate([0]),
          u,
          0.3,
      )

    grad_fn = jax.jit(jax.grad(loss_fn, has_aux=True))
    expected, terms = grad_fn(self.params['energy'])
    # float32 sums of 4 particles, second derivatives
    chex.assert_trees_all_close(grads['energy'], expected, rtol=1e-4, atol=1e-6)
    # float32: a difference of means
    np.testing.assert_allclose(
        metrics['energy_gap'], terms['energy_gap'], atol=1e-6
    )

  @parameterized.parameters(('learned',), ('ratio',), ('smoothed',))
  def test_neither_autoencoder_nor_latents_move(self, latent_target):
    (grads, by_latents), _ = self._grad(
        argnums=(0, 1), latent_target=latent_target
    )
    self.assertEqual(
        _norm((grads['encoder'], grads['decoder'], by_latents)), 0.0
    )
    self.assertGreater(_norm(grads['sampler']), 1e-3)

  def test_ratio_target_moves_the_sampler_alike_and_trains_by_logistic_loss(
      self,
  ):
    actual, _ = self._grad(latent_target='ratio')
    alike, _ = self._grad(latent_target='learned')
    # float32 sums of 4 particles
    chex.assert_trees_all_close(
        actual['sampler'], alike['sampler'], rtol=1e-4, atol=1e-6
    )
    u, _ = self._sampler()

    def loss_fn(params):
      return energy.ratio_loss(
          self._energy_fn, params, self._aggregate([0]), u, 0.3
      )[0]

    expected = jax.jit(jax.grad(loss_fn))(self.params['energy'])
    # second derivatives too
    chex.assert_trees_all_close(
        actual['energy'], expected, rtol=1e-4, atol=1e-6
    )

  def test_trains_without_the_noise_that_generates(self):
    plain, noisy = self._grad(), self._grad(sampler_noise=2.0)
    chex.assert_trees_all_equal(noisy[0]['sampler'], plain[0]['sampler'])

  def test_smoothed_target_follows_the_flow(self):
    grads, _ = self._grad(latent_target='smoothed', latents_per_image=2)
    u, pull_back = self._sampler(group=2)
    flow_fn = jax.jit(functools.partial(svgd.smoothed_flow, scales=(0.05, 0.2)))
    flow = flow_fn(u, self._aggregate([0, 1]))
    (expected,) = pull_back(-flow / (2 * _BATCH))
    # float32; distances over the least scale, 0.05
    chex.assert_trees_all_close(
        grads['sampler'], expected, rtol=1e-3, atol=1e-5
    )
    self.assertEqual(_norm(grads['energy']), 0.0)

  @parameterized.parameters((0, 2, [0, 1]), (1, 2, [2, 3]), (2, 2, [4, 0]))
  def test_updates_take_the_particles_in_turn(self, update, group, columns):
    context = {**self.context, 'update': jnp.int32(update)}
    grads, _ = self._grad(context, latents_per_image=group)
    u, _ = self._sampler(group)

    def loss_fn(params):
      energy_fn = functools.partial(self._energy_fn, params)
      aggregate = self._aggregate(columns)
      return energy.contrastive_loss(energy_fn, aggregate, u, 0.3)[0]

    expected = jax.jit(jax.grad(loss_fn))(self.params['energy'])
    # float32 sums of 8 particles, second derivatives
    chex.assert_trees_all_close(grads['energy'], expected, rtol=1e-4, atol=1e-6)


class LdcCreateTest(chex.TestCase):

  @parameterized.named_parameters(
      ('lone_particle', dict(num_particles=1), 'num_particles=1: .*at least 2'),
      (
          'noise_of_a_lone_particle',
          dict(num_particles=1, off_diagonal=False, sampler_noise=1.0),
          'num_particles=1: objective.sampler_noise=1.0 .*at least 2',
      ),
      (
          'target',
          dict(latent_target='lerned'),
          "'lerned'; known: learned, ratio, smoothed",
      ),
      (
          'weight_of_no_energy',
          dict(latent_target='smoothed', latent_energy_weight=1.0),
          "latent_energy_weight=1.0 needs .*latent_target='learned'",
      ),
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

  def test_each_target_trains_its_networks(self):
    method = ldc.create(_model(), **_LDC_FIELDS)
    names = ('encoder', 'decoder', 'sampler', 'energy')
    self.assertEqual(method.trained, names)
    method = ldc.create(_model(), **{**_LDC_FIELDS, 'latent_target': 'ratio'})
    self.assertEqual(method.trained, names)
    method = ldc.create(
        _model(), **{**_LDC_FIELDS, 'latent_target': 'smoothed'}
    )
    self.assertEqual(method.trained, ('encoder', 'decoder', 'sampler'))

  def test_generates_by_the_sampler_in_the_latents_units(self):
    model = _model()
    method = ldc.create(model, **_LDC_FIELDS)
    params = _params(model, 'sampler')
    generate_fn = jax.jit(method.generate)
    z = generate_fn(params, {'latents': _moments()}, _keys())
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(_keys())
    u = jax.jit(model.modules['sampler'].apply)(params['sampler'], noise)
    mean, std, u = jax.device_get((*moments.mean_and_std(_moments()), u))
    # float32
    np.testing.assert_allclose(z, mean + std * u, rtol=1e-5, atol=1e-6)


def _ring(rng: np.random.Generator, num: int) -> np.ndarray:
  """Draws [num, 2] of 8 Gaussians of deviation 0.12 on a circle of radius 2."""
  angles = 2.0 * np.pi * rng.integers(0, 8, size=num) / 8
  means = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
  return (means + 0.12 * rng.normal(size=(num, 2))).astype(np.float32)


def _train_ring(
    latent_target: str, num_updates: int, batch: int, seed: int = 0
):
  """Samples [10_000, 2] of a sampler trained on the ring by SVGD."""
  sizes = networks.Sizes(
      latent_size=2,
      hidden_sizes=(4,),
      sampler_width=64,
      sampler_blocks=2,
      energy_width=64,
      energy_blocks=2,
  )
  model = networks.create_model((1, 1, 1), sizes)
  fields = dict(
      _LDC_FIELDS,
      latent_target=latent_target,
      sampler_bandwidth_factor=0.05,
      temperature_end=0.003,
      temperature_fraction=0.7,
      r1_weight=1.0,
      flow_scales=(0.02, 0.05, 0.2),
  )
  method = ldc.create(model, **fields)
  latent_phase = method.phases[1]
  points = jnp.asarray(_ring(np.random.default_rng(0), 20_000))
  stats = {'latents': moments.update(moments.init(2), points, 0.0)}
  init_key, train_key, sample_key = jax.random.split(jax.random.key(seed), 3)
  tx = optax.adam(
      optax.cosine_decay_schedule(1e-3, num_updates, 0.1), b1=0.5
  )

  def loss_fn(params, key, update):
    latents_key, noise_key = jax.random.split(key)
    rows = jax.random.randint(latents_key, (batch,), 0, len(points))
    context = {
        'progress': update / num_updates,
        'update': 0,
        'stats': stats,
        'axis_name': None,
        'latents': points[rows][:, None, :],
    }
    keys = jax.random.split(noise_key, batch)
    images = jnp.zeros((batch, 1, 1, 1))
    return latent_phase.objective_fn(params, images, keys, context)[0]

  def body(carry, update):
    params, average, opt_state = carry
    key = jax.random.fold_in(train_key, update)
    grads = jax.grad(loss_fn)(params, key, update)
    changes, opt_state = tx.update(grads, opt_state)
    params = optax.apply_updates(params, changes)
    average = optax.incremental_update(params, average, 0.005)
    return (params, average, opt_state), None

  params = model.init(init_key, latent_phase.trains)
  start = params, params, tx.init(params)
  (_, average, _), _ = jax.jit(
      lambda start: jax.lax.scan(body, start, jnp.arange(num_updates)),
      compiler_options=device_case.OPTIMISED,
  )(start)
  keys = jax.random.split(sample_key, 10_000)
  return np.asarray(method.generate(average, stats, keys))


def _ring_masses(z: np.ndarray) -> tuple[np.ndarray, float]:
  """Shares [8] of samples within 4 deviations of a mode, and their sum."""
  index = np.round(np.arctan2(z[:, 1], z[:, 0]) / (np.pi / 4)).astype(int) % 8
  angles = index * np.pi / 4
  modes = 2.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
  near = np.linalg.norm(z - modes, axis=1) < 4 * 0.12
  return np.bincount(index[near], minlength=8) / len(z), float(np.mean(near))


class RingTest(chex.TestCase):
  """A target whose modes can be counted."""

  @parameterized.parameters(
      ('learned', 2500, 128), ('ratio', 2500, 256), ('smoothed', 1500, 128)
  )
  def test_sampler_covers_all_modes(self, latent_target, num_updates, batch):
    masses, near = _ring_masses(_train_ring(latent_target, num_updates, batch))
    # between half and twice their mass of 1/8
    self.assertTrue(np.all(masses > 1 / 16), masses)
    self.assertTrue(np.all(masses < 1 / 4), masses)
    # a continuous map of the plane bridges the modes somewhere
    self.assertGreater(near, 0.75)

  def test_the_start_covers_none_of_them_so(self):
    z = np.random.default_rng(0).normal(size=(10_000, 2)) * 2.0**0.5
    masses, near = _ring_masses(z)
    self.assertLess(near, 0.3)
    self.assertTrue(np.all(masses < 1 / 16), masses)


if __name__ == '__main__':
  absltest.main()
