"""Tests of ldc_vae.models.resnet."""

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.models import resnet
from tests.models import model_case


class ResidualBlockTest(chex.TestCase):
  def _block(self):
    block = resnet.ResidualBlock(jnp.float32, 'native')
    x = jnp.asarray(model_case.images(2, (5, 4, 8)))
    return block, block.init(jax.random.key(0), x), x

  def test_matches_its_equation(self):
    block, params, x = self._block()
    y = np.asarray(x)
    for i in range(2):
      convolution = params['params'][f'Conv_{i}']
      y = y.reshape(2, 20, 8)  # 8 groups of one channel each
      y = (y - y.mean(1, keepdims=True)) / np.sqrt(
        y.var(1, keepdims=True) + 1e-6
      )
      y = (y / (1.0 + np.exp(-y))).reshape(2, 5, 4, 8)
      padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
      y = sum(
        padded[:, a : a + 5, b : b + 4] @ convolution['kernel'][a, b]
        for a in range(3)
        for b in range(3)
      )
    # float32, sums of 72 products
    np.testing.assert_allclose(
      block.apply(params, x), x + y, rtol=1e-4, atol=1e-5
    )

  def test_is_the_identity_if_its_last_weights_are_zero(self):
    block, params, x = self._block()
    last = jax.tree.map(jnp.zeros_like, params['params']['Conv_1'])
    params = {'params': {**params['params'], 'Conv_1': last}}
    np.testing.assert_array_equal(block.apply(params, x), x)


if __name__ == '__main__':
  absltest.main()
