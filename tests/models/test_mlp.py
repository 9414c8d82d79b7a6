"""Tests of ldc_vae.models.mlp."""

from absl.testing import absltest
import chex
import jax
import numpy as np

from ldc_vae.models import model as model_lib
from tests.models import model_case

_SIZES = model_case.SIZES
_params = model_case.params


class MlpTest(chex.TestCase):
  def test_weights_of_the_mlp_counted_by_hand(self):
    model = model_lib.create_model(
      (28, 28, 1), hidden_sizes=(512, 512), latent_size=16, learn_scale=True
    )
    params = jax.eval_shape(
      lambda key: model.init(key, ('encoder', 'decoder', 'scale')),
      jax.random.key(0),
    )
    encoder = 784 * 512 + 512 + 512 * 512 + 512 + 2 * (512 * 16 + 16)
    decoder = 16 * 512 + 512 + 512 * 512 + 512 + 512 * 784 + 784
    self.assertEqual(model_lib.num_parameters(params['encoder']), encoder)
    self.assertEqual(model_lib.num_parameters(params['decoder']), decoder)
    self.assertEqual(model_lib.num_parameters(params), encoder + decoder + 1)

  def test_gated_layers_match_numpy(self):
    model = model_lib.create_model(
      (2, 3, 1), **_SIZES, architecture='gated_mlp'
    )
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
    model = model_lib.create_model(
      (28, 28, 1),
      latent_size=40,
      hidden_sizes=(300, 300),
      architecture='gated_mlp',
    )
    params = jax.eval_shape(
      lambda key: model.init(key, ('encoder', 'decoder')), jax.random.key(0)
    )
    hidden = 2 * (784 * 300 + 300 + 300 * 300 + 300)
    mirrored = 2 * (40 * 300 + 300 + 300 * 300 + 300)
    self.assertEqual(
      model_lib.num_parameters(params),
      hidden + 2 * (300 * 40 + 40) + mirrored + 300 * 784 + 784,
    )


if __name__ == '__main__':
  absltest.main()
