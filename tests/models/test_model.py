"""Tests of ldc_vae.models.model."""

from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import errors
from ldc_vae.models import conv
from ldc_vae.models import encoders
from ldc_vae.models import likelihoods
from ldc_vae.models import mlp
from ldc_vae.models import model as model_lib
from ldc_vae.models import sizes as sizes_lib
from tests.models import model_case

_SIZES = model_case.SIZES
_images = model_case.images
_keys = model_case.keys
_params = model_case.params


class CreateModelTest(chex.TestCase):
  # each shape with each architecture, and each encoder with it too
  @parameterized.product(
    (
      {'encoder': 'gaussian', 'image_shape': (8, 8, 1)},
      {'encoder': 'gaussian', 'image_shape': (28, 28, 1)},
      {'encoder': 'gaussian', 'image_shape': (64, 64, 3)},
      {'encoder': 'gaussian', 'image_shape': (30, 21, 3)},
      {'encoder': 'implicit', 'image_shape': (32, 32, 3)},
      {'encoder': 'warped', 'image_shape': (30, 21, 3)},
      {'encoder': 'deterministic', 'image_shape': (28, 28, 1)},
    ),
    architecture=tuple(model_lib.ARCHITECTURES),
  )
  def test_shapes_for_any_image(self, architecture, encoder, image_shape):
    model = model_lib.create_model(
      image_shape, **_SIZES, architecture=architecture, encoder=encoder
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
    ('mlp', 'gaussian'),
    ('conv', 'gaussian'),
    ('conv64', 'implicit'),
    ('resnet', 'gaussian'),
  )
  def test_bfloat16_is_only_inside(self, architecture, encoder):
    model = model_lib.create_model(
      (9, 6, 1),
      **_SIZES,
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

  def test_bfloat16_is_used_and_near_float32(self):
    outputs = []
    for dtype in ('float32', 'bfloat16'):
      model = model_lib.create_model((8, 8, 1), **_SIZES, dtype=dtype)
      params = _params(model, 'decoder')
      outputs.append(jax.jit(model.decode)(params, jnp.ones((4, 3))))
    difference = np.max(np.abs(outputs[0] - outputs[1]))
    # three layers of 8 bits each: 2^-8 a layer of logits of size 1
    self.assertBetween(difference, 1e-7, 0.02)

  def test_init_makes_the_named_networks_of_different_weights(self):
    model = model_lib.create_model((8, 8, 1), **_SIZES)
    init_fn = jax.jit(lambda key: model.init(key, ('decoder', 'energy')))
    params = init_fn(jax.random.key(0))
    self.assertEqual(set(params), {'decoder', 'energy'})
    others = init_fn(jax.random.key(1))
    with self.assertRaises(AssertionError):
      chex.assert_trees_all_equal(params, others)

  @parameterized.product(
    learn_scale=(False, True), encoder=tuple(encoders.ENCODERS)
  )
  def test_autoencoder_names_hold_a_learned_scale_and_no_missing_encoder(
    self, learn_scale, encoder
  ):
    model = model_lib.create_model(
      (8, 8, 1), **_SIZES, learn_scale=learn_scale, encoder=encoder
    )
    names = model.autoencoder_names()
    self.assertEqual('scale' in names, learn_scale)
    self.assertEqual('encoder' in names, encoder != 'none')
    self.assertIn('decoder', names)

  def test_an_option_out_of_range_is_refused(self):
    with self.assertRaisesRegex(errors.UserError, 'model.latent_size=0 is too'):
      model_lib.create_model((8, 8, 1), latent_size=0)
    with self.assertRaisesRegex(errors.UserError, r'model.channels=\(\) does'):
      sizes_lib.Sizes(channels=())


class RegistryTest(chex.TestCase):
  def test_an_architecture_and_a_likelihood_may_come_from_outside(self):
    def mixed(sizes, image_shape, dtype, convolution):
      return (
        mlp.MlpTorso(sizes.hidden_sizes, dtype=dtype),
        conv.ConvDecoder(
          sizes.channels, image_shape, dtype=dtype, convolution=convolution
        ),
      )

    def laplace(logits, image, log_scale):
      del log_scale
      return -jnp.sum(jnp.abs(jax.nn.sigmoid(logits) - image))

    with (
      mock.patch.dict(model_lib.ARCHITECTURES, mixed=mixed),
      mock.patch.dict(likelihoods.LIKELIHOODS, laplace=laplace),
    ):
      model = model_lib.create_model(
        (8, 8, 1), **_SIZES, architecture='mixed', likelihood='laplace'
      )
      params = _params(model, *model.autoencoder_names())
      images, z = _images(2, (8, 8, 1)), np.ones((2, 1, 3), np.float32)
      log_likelihoods = jax.jit(model.log_likelihood)(params, images, z)
      decoded = jax.jit(model.decode)(params, z)[:, 0]
    # float32, 64 pixels
    np.testing.assert_allclose(
      log_likelihoods[:, 0],
      -np.sum(np.abs(decoded - images), axis=(1, 2, 3)),
      rtol=1e-5,
    )

  @parameterized.parameters(
    (lambda logits, image, _: logits - image, r'\(8, 8, 1\)'),
    (lambda logits, image, _: (logits.sum(), 0.0), 'tuple'),
  )
  def test_a_likelihood_that_is_no_scalar_is_refused(self, mine, shape):
    with mock.patch.dict(likelihoods.LIKELIHOODS, mine=mine):
      model = model_lib.create_model((8, 8, 1), **_SIZES, likelihood='mine')
      params = _params(model, 'decoder')
      z = jnp.zeros((2, 3, model.latent_size))
      with self.assertRaisesRegex(
        errors.UserError, rf'likelihood: .*lambda.* returns {shape} for one'
      ):
        model.log_likelihood(params, _images(2, (8, 8, 1)), z)


if __name__ == '__main__':
  absltest.main()
