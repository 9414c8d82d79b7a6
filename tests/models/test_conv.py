"""Tests of ldc_vae.models.conv."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.models import model as model_lib
from tests.models import model_case

_SIZES = model_case.SIZES
_images = model_case.images
_params = model_case.params


class ConvTest(chex.TestCase):
  def test_any_number_of_channels_is_normalised(self):
    sizes = {**_SIZES, 'channels': (12, 20)}
    model = model_lib.create_model((8, 8, 1), **sizes, architecture='conv64')
    params = _params(model, 'decoder')
    images = jax.jit(model.decode)(params, jnp.ones((2, 3)))
    chex.assert_shape(images, (2, 8, 8, 1))

  @parameterized.parameters(
    ('conv64', 'float32'), ('conv', 'bfloat16'), ('resnet', 'float32')
  )
  def test_convolutions_agree(self, architecture, dtype):
    image_shape = (6, 5, 1)
    images = _images(4, image_shape)
    values, grads = [], []
    for convolution in ('native', 'subpixel', 'patches'):
      model = model_lib.create_model(
        image_shape,
        **_SIZES,
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
    # relative to the largest of a network: float32 through 8 layers, or the 16
    # of resnet; 8 bits of bfloat16, which sums of 4 products are rounded to
    # once more
    bound = 0.05
    if dtype == 'float32':
      bound = 2e-5 if architecture == 'resnet' else 1e-5
    for value, grad in zip(values[1:], grads[1:]):
      np.testing.assert_allclose(value, values[0], rtol=bound)
      for name in ('encoder', 'decoder'):
        native, other = (jax.tree.leaves(x[name]) for x in (grads[0], grad))
        largest = max(np.max(np.abs(x)) for x in native)
        for a, b in zip(native, other):
          self.assertLess(np.max(np.abs(a - b)), bound * largest)


if __name__ == '__main__':
  absltest.main()
