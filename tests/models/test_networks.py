"""Tests of ldc_vae.models.networks."""

import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import elbo
from ldc_vae.models import networks

_SIZES = networks.Sizes(
    latent_size=3,
    hidden_sizes=(16, 12),
    channels=(4, 8),
    sampler_width=8,
    sampler_blocks=1,
    energy_width=8,
    energy_blocks=1,
    noise_size=5,
)


def _images(num: int, image_shape: tuple[int, int, int]) -> np.ndarray:
  """Random images in [0, 1], float32 [num, H, W, C]."""
  rng = np.random.default_rng(0)
  return rng.uniform(size=(num, *image_shape)).astype(np.float32)


def _keys(num: int, seed: int = 0) -> jax.Array:
  """One key per image, shape [num]."""
  return jax.random.split(jax.random.key(seed), num)


def _params(model: networks.Model, *names: str):
  """Random weights of the shapes that `init` gives, without compiling it."""
  shapes = jax.eval_shape(
      lambda key: model.init(key, names), jax.random.key(0)
  )
  rng = np.random.default_rng(1)

  def draw(leaf):
    fan_in = leaf.size / leaf.shape[-1] if leaf.shape else 1.0
    draws = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
    return jnp.asarray(draws.astype(leaf.dtype))

  return jax.tree.map(draw, shapes)


class CreateModelTest(chex.TestCase):

  # each shape with each architecture, and each encoder with it too
  @parameterized.product(
      ({'encoder': 'gaussian', 'image_shape': (8, 8, 1)},
       {'encoder': 'gaussian', 'image_shape': (28, 28, 1)},
       {'encoder': 'gaussian', 'image_shape': (64, 64, 3)},
       {'encoder': 'gaussian', 'image_shape': (30, 21, 3)},
       {'encoder': 'implicit', 'image_shape': (32, 32, 3)},
       {'encoder': 'warped', 'image_shape': (30, 21, 3)},
       {'encoder': 'deterministic', 'image_shape': (28, 28, 1)}),
      architecture=('mlp', 'gated_mlp', 'conv', 'conv64'),
  )
  def test_shapes_for_any_image(self, architecture, encoder, image_shape):
    model = networks.create_model(
        image_shape, _SIZES, architecture=architecture, encoder=encoder
    )

    def run(key, images):
      params = model.init(key, model.autoencoder_names())
      z, mean, logvar = model.particles(params, images, _keys(2), 4)
      return (
          z,
          (mean, logvar),
          model.decode(params, z),
          model.log_likelihood(params, images, z),
      )

    z, moments, decoded, log_likelihoods = jax.eval_shape(
        run, jax.random.key(0), _images(2, image_shape)
    )
    chex.assert_shape(z, (2, 4, 3))
    chex.assert_shape(decoded, (2, 4, *image_shape))
    chex.assert_shape(log_likelihoods, (2, 4))
    if encoder == 'gaussian':
      chex.assert_shape(moments, (2, 3))
    elif encoder == 'deterministic':
      chex.assert_shape(moments[0], (2, 3))
      self.assertIsNone(moments[1])
    else:
      self.assertEqual(moments, (None, None))

  @parameterized.parameters(
      ('mlp', 'gaussian'), ('conv', 'gaussian'), ('conv64', 'implicit')
  )
  def test_bfloat16_is_only_inside(self, architecture, encoder):
    model = networks.create_model(
        (9, 6, 1),
        _SIZES,
        architecture=architecture,
        encoder=encoder,
        dtype='bfloat16',
        learn_scale=True,
    )
    images = _images(2, (9, 6, 1))

    def loss_fn(params):
      z, mean, logvar = model.particles(params, images, _keys(2), 2)
      log_likelihoods = model.log_likelihood(params, images, z)
      return -jnp.mean(log_likelihoods), (z, mean, logvar, log_likelihoods)

    params = _params(model, *model.autoencoder_names())
    grads, outputs = jax.jit(jax.grad(loss_fn, has_aux=True))(params)
    for leaf in jax.tree.leaves((params, grads, outputs)):
      self.assertEqual(leaf.dtype, jnp.float32)
    chex.assert_tree_all_finite((grads, outputs))
    for name in ('encoder', 'decoder', 'scale'):
      largest = max(np.max(np.abs(x)) for x in jax.tree.leaves(grads[name]))
      self.assertGreater(largest, 0.0)

  def test_any_number_of_channels_is_normalised(self):
    sizes = _SIZES._replace(channels=(12, 20))
    model = networks.create_model((8, 8, 1), sizes, architecture='conv64')
    params = _params(model, 'decoder')
    images = jax.jit(model.decode)(params, jnp.ones((2, 3)))
    chex.assert_shape(images, (2, 8, 8, 1))

  def test_bfloat16_is_used_and_near_float32(self):
    outputs = []
    for dtype in ('float32', 'bfloat16'):
      model = networks.create_model((8, 8, 1), _SIZES, dtype=dtype)
      params = _params(model, 'decoder')
      outputs.append(jax.jit(model.decode)(params, jnp.ones((4, 3))))
    difference = np.max(np.abs(outputs[0] - outputs[1]))
    # three layers of 8 bits each: 2^-8 a layer of logits of size 1
    self.assertBetween(difference, 1e-7, 0.02)

  def test_weights_of_the_mlp_counted_by_hand(self):
    sizes = networks.Sizes(latent_size=16, hidden_sizes=(512, 512))
    model = networks.create_model((28, 28, 1), sizes, learn_scale=True)
    params = jax.eval_shape(
        lambda key: model.init(key, ('encoder', 'decoder', 'scale')),
        jax.random.key(0),
    )
    encoder = 784 * 512 + 512 + 512 * 512 + 512 + 2 * (512 * 16 + 16)
    decoder = 16 * 512 + 512 + 512 * 512 + 512 + 512 * 784 + 784
    self.assertEqual(networks.num_parameters(params['encoder']), encoder)
    self.assertEqual(networks.num_parameters(params['decoder']), decoder)
    self.assertEqual(networks.num_parameters(params), encoder + decoder + 1)

  def test_gated_layers_match_numpy(self):
    model = networks.create_model((2, 3, 1), _SIZES, architecture='gated_mlp')
    params = _params(model, 'decoder')
    z = np.random.default_rng(0).normal(size=(4, 3))
    x = z
    layers = [
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layer)
        for _, layer in sorted(params['decoder']['params'].items())
    ]
    sigmoid = lambda a: 1.0 / (1.0 + np.exp(-a))
    for layer in layers[:-1]:
      both = x @ layer['kernel'] + layer['bias']
      size = both.shape[1] // 2
      x = both[:, :size] * sigmoid(both[:, size:])
    x = sigmoid(x @ layers[-1]['kernel'] + layers[-1]['bias'])
    # float32, sums of a few terms of size 1
    np.testing.assert_allclose(
        jax.jit(model.decode)(params, z.astype(np.float32)),
        x.reshape(4, 2, 3, 1),
        rtol=1e-5,
        atol=1e-6,
    )

  def test_weights_of_the_gated_mlp_counted_by_hand(self):
    # 784 - 300 - 300 - 40 and back, each hidden layer with its gates
    sizes = networks.Sizes(latent_size=40, hidden_sizes=(300, 300))
    model = networks.create_model(
        (28, 28, 1), sizes, architecture='gated_mlp'
    )
    params = jax.eval_shape(
        lambda key: model.init(key, ('encoder', 'decoder')), jax.random.key(0)
    )
    hidden = 2 * (784 * 300 + 300 + 300 * 300 + 300)
    mirrored = 2 * (40 * 300 + 300 + 300 * 300 + 300)
    self.assertEqual(
        networks.num_parameters(params),
        hidden + 2 * (300 * 40 + 40) + mirrored + 300 * 784 + 784,
    )

  @parameterized.parameters(('conv64', 'float32'), ('conv', 'bfloat16'))
  def test_convolutions_agree(self, architecture, dtype):
    image_shape = (6, 5, 1)
    images = _images(4, image_shape)
    values, grads = [], []
    for convolution in ('native', 'subpixel', 'patches'):
      model = networks.create_model(
          image_shape,
          _SIZES,
          architecture=architecture,
          dtype=dtype,
          convolution=convolution,
      )

      def loss_fn(params, model=model):
        encoder_fn = model.modules['encoder'].apply
        decoder_fn = model.modules['decoder'].apply
        mean, logvar = encoder_fn(params['encoder'], images)
        logits = decoder_fn(params['decoder'], mean + logvar)
        return jnp.mean(jnp.square(logits - images))

      params = _params(model, 'encoder', 'decoder')
      value, grad = jax.jit(jax.value_and_grad(loss_fn))(params)
      values.append(value)
      grads.append(grad)
    chex.assert_trees_all_equal_shapes(*grads)
    # relative to the largest of a network: float32 through 8 layers; 8 bits of
    # bfloat16, which sums of 4 products are rounded to once more
    bound = 1e-5 if dtype == 'float32' else 0.05
    for value, grad in zip(values[1:], grads[1:]):
      np.testing.assert_allclose(value, values[0], rtol=bound)
      for name in ('encoder', 'decoder'):
        native, other = (jax.tree.leaves(x[name]) for x in (grads[0], grad))
        largest = max(np.max(np.abs(x)) for x in native)
        for a, b in zip(native, other):
          self.assertLess(np.max(np.abs(a - b)), bound * largest)

  def test_init_makes_the_named_networks_of_different_weights(self):
    model = networks.create_model((8, 8, 1), _SIZES)
    init_fn = jax.jit(lambda key: model.init(key, ('decoder', 'energy')))
    params = init_fn(jax.random.key(0))
    self.assertEqual(set(params), {'decoder', 'energy'})
    others = init_fn(jax.random.key(1))
    with self.assertRaises(AssertionError):
      chex.assert_trees_all_equal(params, others)

  @parameterized.product(
      learn_scale=(False, True), encoder=tuple(networks.ENCODERS)
  )
  def test_autoencoder_names_hold_a_learned_scale_and_no_missing_encoder(
      self, learn_scale, encoder
  ):
    model = networks.create_model(
        (8, 8, 1), _SIZES, learn_scale=learn_scale, encoder=encoder
    )
    names = model.autoencoder_names()
    self.assertEqual('scale' in names, learn_scale)
    self.assertEqual('encoder' in names, encoder != 'none')
    self.assertIn('decoder', names)


class GaussianEncoderTest(chex.TestCase):

  def setUp(self):
    super().setUp()
    self.model = networks.create_model((8, 8, 1), _SIZES)
    self.params = _params(self.model, 'encoder')

  def _with_raw_log_std(self, raw):
    """The weights with `raw` as the pre-activation of log sigma."""
    weights = dict(self.params['encoder']['params'])
    weights['moments'] = {
        'kernel': np.zeros_like(weights['moments']['kernel']),
        'bias': np.array([0.0] * 3 + [raw] * 3, np.float32),
    }
    return {'encoder': {'params': weights}}

  @parameterized.parameters((-3.0,), (3.0,))
  def test_extreme_scales_have_a_way_back(self, raw):
    def total(params):
      z, _, logvar = self.model.particles(
          params, _images(2, (8, 8, 1)), _keys(2), 1
      )
      del z
      return jnp.sum(logvar)

    params = self._with_raw_log_std(raw)
    value, grads = jax.jit(jax.value_and_grad(total))(params)
    std = math.exp(0.5 * float(value) / 6)
    self.assertBetween(std, math.exp(-5.0), math.exp(1.0))
    gradient = np.asarray(grads['encoder']['params']['moments']['bias'])
    gradient = gradient[3:]  # the first three are the mean's
    # 2 images x 2 x 3 (1 - tanh(3)^2) = 0.12; a hard clip has 0
    np.testing.assert_allclose(gradient, 12.0 / np.cosh(3.0) ** 2, rtol=1e-4)

  def test_bounds_of_the_scale_are_finite(self):
    encoder_fn = jax.jit(self.model.modules['encoder'].apply)
    for raw, bound in ((-1e6, -5.0), (1e6, 1.0)):
      _, logvar = encoder_fn(
          self._with_raw_log_std(raw)['encoder'], _images(1, (8, 8, 1))
      )
      np.testing.assert_allclose(logvar, 2.0 * bound, rtol=1e-6)

  def test_particles_are_reparameterised_draws(self):
    images = _images(2, (8, 8, 1))
    particles_fn = jax.jit(
        functools.partial(self.model.particles, num_particles=4000)
    )
    z, mean, logvar = jax.device_get(
        particles_fn(self.params, images, _keys(2))
    )
    # 4000 draws: four standard errors of the mean and of the deviation
    std = np.exp(0.5 * logvar)
    error = 4.0 / math.sqrt(4000)
    self.assertLess(np.max(np.abs(np.mean(z, axis=1) - mean) / std), error)
    np.testing.assert_allclose(np.std(z, axis=1) / std, 1.0, atol=error)


class ParticlesTest(chex.TestCase):

  @parameterized.parameters('gaussian', 'implicit', 'warped')
  def test_an_image_knows_its_own_key_only(self, encoder):
    model = networks.create_model((8, 8, 1), _SIZES, encoder=encoder)
    params = _params(model, 'encoder')
    images, keys = _images(4, (8, 8, 1)), _keys(4)
    particles_fn = jax.jit(functools.partial(model.particles, num_particles=3))
    whole = np.asarray(particles_fn(params, images, keys)[0])
    for rows in (slice(0, 1), slice(1, 4)):
      part, _, _ = particles_fn(params, images[rows], keys[rows])
      # the noise is equal; matmuls of another batch may round differently
      np.testing.assert_allclose(part, whole[rows], rtol=1e-5, atol=1e-6)
    other, _, _ = particles_fn(params, images, _keys(4, seed=1))
    self.assertGreater(np.min(np.abs(other - whole)), 0.0)

  @parameterized.parameters('gaussian', 'implicit', 'warped')
  def test_particles_of_one_image_differ(self, encoder):
    model = networks.create_model((8, 8, 1), _SIZES, encoder=encoder)
    params = _params(model, 'encoder')
    particles_fn = jax.jit(functools.partial(model.particles, num_particles=2))
    z = np.asarray(particles_fn(params, _images(1, (8, 8, 1)), _keys(1))[0])
    self.assertGreater(np.max(np.abs(z[:, 0] - z[:, 1])), 1e-3)

  def test_a_warped_encoder_begins_as_a_gaussian_and_may_be_another(self):
    model = networks.create_model((8, 8, 1), _SIZES, encoder='warped')
    encoder, images = model.modules['encoder'], _images(2, (8, 8, 1))
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(2, 4, 3 + 5)).astype(np.float32)

    encoder_fn = jax.jit(encoder.apply)

    def spread(params, noise):
      still = encoder_fn(params, images, np.zeros_like(noise))
      return np.asarray(encoder_fn(params, images, noise)) - np.asarray(still)

    init_fn = jax.jit(lambda key: model.init(key, ['encoder']))
    first = init_fn(jax.random.key(0))['encoder']
    own = spread(first, noise)
    ratio = own / noise[..., :3]  # the standard deviations of an image
    np.testing.assert_allclose(ratio, ratio[:, :1] + 0 * own, rtol=1e-4)
    self.assertBetween(np.exp(np.mean(np.log(ratio))), 0.5, 2.0)
    self.assertGreater(np.min(ratio), 0.0)
    self.assertGreater(np.max(np.abs(ratio[0] - ratio[1])), 1e-4)
    params = _params(model, 'encoder')['encoder']  # its warp is not 0
    bent = spread(params, 2.0 * noise) - 2.0 * spread(params, noise)
    self.assertGreater(np.max(np.abs(bent)), 1e-2)
    others = spread(params, noise * (np.arange(8) >= 3)[None, None])
    self.assertGreater(np.min(np.std(others, axis=1)), 1e-3)

  def test_those_of_a_deterministic_encoder_are_its_code(self):
    model = networks.create_model((8, 8, 1), _SIZES, encoder='deterministic')
    params = _params(model, 'encoder')
    particles_fn = jax.jit(functools.partial(model.particles, num_particles=3))
    z, mean, _ = jax.device_get(
        particles_fn(params, _images(2, (8, 8, 1)), _keys(2))
    )
    for k in range(3):
      np.testing.assert_array_equal(z[:, k], mean)


class LikelihoodTest(chex.TestCase):

  @parameterized.parameters(
      ('bernoulli',), ('gaussian',), ('discretized_logistic',)
  )
  def test_matches_one_image_and_particle_at_a_time(self, likelihood):
    model = networks.create_model(
        (8, 8, 1), _SIZES, likelihood=likelihood, scale=0.2
    )
    params = _params(model, 'decoder')
    images = np.round(_images(2, (8, 8, 1)) * 255.0) / np.float32(255.0)
    z = np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)
    actual = np.asarray(jax.jit(model.log_likelihood)(params, images, z))

    @jax.jit
    def one(image, z):
      logits = model.modules['decoder'].apply(params['decoder'], z)
      if likelihood == 'bernoulli':
        return elbo.bernoulli_log_likelihood(logits, image)
      likelihood_fn = {
          'gaussian': elbo.gaussian_log_likelihood,
          'discretized_logistic': elbo.discretized_logistic_log_likelihood,
      }[likelihood]
      return likelihood_fn(jax.nn.sigmoid(logits), image, math.log(0.2))

    for b in range(2):
      for k in range(3):
        # float32, 64 pixels
        np.testing.assert_allclose(
            actual[b, k], one(images[b], z[b, k]), rtol=1e-5
        )

  def test_a_learned_scale_starts_where_it_is_put_and_learns(self):
    fixed = networks.create_model((8, 8, 1), _SIZES, scale=0.2)
    learned = networks.create_model(
        (8, 8, 1), _SIZES, scale=0.2, learn_scale=True
    )
    names = learned.autoencoder_names()
    params = jax.jit(lambda key: learned.init(key, names))(jax.random.key(0))
    images, z = _images(2, (8, 8, 1)), np.ones((2, 1, 3), np.float32)
    # float32, 64 pixels
    np.testing.assert_allclose(
        jax.jit(learned.log_likelihood)(params, images, z),
        jax.jit(fixed.log_likelihood)(params, images, z),
        rtol=1e-6,
    )

    @jax.jit
    @jax.grad
    def grad_fn(scale):
      scaled = {**params, 'scale': scale}
      return jnp.mean(learned.log_likelihood(scaled, images, z))

    gradient = grad_fn(params['scale'])
    # images uniform in [0, 1], grey means: residuals of 0.29 > 0.2: wider
    self.assertGreater(float(gradient['params']['log_scale']), 0.0)


class SamplerNetTest(chex.TestCase):

  def test_starts_as_the_identity(self):
    net = networks.SamplerNet(width=16, num_blocks=2)
    noise = jax.random.normal(jax.random.key(1), (7, 3))
    params = jax.jit(net.init)(jax.random.key(0), noise)
    np.testing.assert_array_equal(jax.jit(net.apply)(params, noise), noise)

  def test_the_identity_is_no_trap(self):
    net = networks.SamplerNet(width=16, num_blocks=2)
    noise = jax.random.normal(jax.random.key(1), (7, 3))
    params = jax.jit(net.init)(jax.random.key(0), noise)
    loss_fn = lambda params: jnp.sum(jnp.square(net.apply(params, noise) - 1.0))
    grads = jax.jit(jax.grad(loss_fn))(params)
    largest = max(np.max(np.abs(x)) for x in jax.tree.leaves(grads))
    self.assertGreater(largest, 0.1)


class LatentEnergyTest(chex.TestCase):

  def test_one_number_for_each_latent(self):
    net = networks.LatentEnergy(width=16, num_blocks=2)
    u = np.asarray(jax.random.normal(jax.random.key(1), (2, 5, 3)))
    params = jax.jit(net.init)(jax.random.key(0), u)
    apply_fn = jax.jit(net.apply)
    values = np.asarray(apply_fn(params, u))
    chex.assert_shape(values, (2, 5))
    # one latent alone has the value it has among others; float32
    np.testing.assert_allclose(
        apply_fn(params, u[1, 3]), values[1, 3], rtol=1e-5, atol=1e-6
    )

  def test_smooth_to_the_second_derivative(self):
    # of R1, which differentiates a gradient: a ReLU net has curvature 0
    net = networks.LatentEnergy(width=16, num_blocks=1)
    params = jax.jit(net.init)(jax.random.key(0), np.zeros(3, np.float32))
    hessian_fn = jax.jit(jax.hessian(lambda u: net.apply(params, u)))
    hessian = hessian_fn(np.ones(3, np.float32))
    self.assertGreater(np.max(np.abs(hessian)), 1e-4)


if __name__ == '__main__':
  absltest.main()
