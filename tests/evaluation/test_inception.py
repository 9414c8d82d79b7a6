"""Tests of ldc_vae.inception, with stand-ins for its library."""

import hashlib
import importlib.machinery
import os
import sys
import types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.evaluation import inception


class _Tensor:
  """The part of a torch tensor that is used."""

  def __init__(self, array):
    self.array = array

  def to(self, device):
    assert device == 'cpu'
    return self

  def cpu(self):
    return self

  def numpy(self):
    return self.array


class _Extractor:
  """The mean of each channel, under the constructor of the library."""

  def __init__(self, name, features_list, feature_extractor_weights_path=None):
    assert name == 'inception-v3-compat' and features_list == ['2048']
    with open(feature_extractor_weights_path, 'rb') as file:
      assert file.read() == b'weights'

  def to(self, device):
    assert device == 'cpu'
    return self

  def __call__(self, x):
    assert isinstance(x, _Tensor) and x.array.dtype == np.uint8
    assert x.array.shape[1] == 3
    return (_Tensor(x.array.mean(axis=(2, 3))),)


def _download(url, path, progress):
  raise OSError('<urlopen error: no network>')


def _modules(hub):
  """Stand-ins for torch and torch_fidelity, by name."""
  names = (
    'torch',
    'torch_fidelity',
    'torch_fidelity.feature_extractor_inceptionv3',
  )
  modules = {name: types.ModuleType(name) for name in names}
  for name, module in modules.items():
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
  torch, package, library = modules.values()
  torch.from_numpy = _Tensor
  torch.hub = types.SimpleNamespace(
    get_dir=lambda: hub, download_url_to_file=_download
  )
  torch.no_grad = mock.MagicMock
  torch.cuda = types.SimpleNamespace(is_available=lambda: False)
  library.FeatureExtractorInceptionV3 = _Extractor
  library.URL_INCEPTION_V3 = 'https://example.org/weights.pth'
  package.feature_extractor_inceptionv3 = library
  return modules


class LoadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    digest = hashlib.sha256(b'weights').hexdigest()
    self.enter_context(mock.patch.object(inception, '_SHA256', digest))
    self.hub = self.create_tempdir()

  def _load(self, path):
    with mock.patch.dict(sys.modules, _modules(self.hub.full_path)):
      with mock.patch.dict(os.environ, {inception.WEIGHTS_VARIABLE: path}):
        return inception.load()

  def test_features_are_those_of_the_library(self):
    path = self.create_tempfile(content=b'weights', mode='wb').full_path
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), np.uint8)
    np.testing.assert_allclose(
      self._load(path)(images), images.mean(axis=(1, 2)), rtol=1e-6
    )

  def test_no_network_is_reported_with_the_remedy(self):
    with self.assertRaisesRegex(
      inception.InceptionError,
      r'cannot be had; get https://example.org/weights.pth .* set'
      r' LDC_VAE_INCEPTION_WEIGHTS to the file \(.*no network',
    ):
      self._load('')

  def test_a_file_that_is_not_there_is_reported(self):
    with self.assertRaisesRegex(
      inception.InceptionError, 'WEIGHTS=/no/where.pth: no such file'
    ):
      self._load('/no/where.pth')

  def test_a_file_of_something_else_is_reported_on_one_line(self):
    path = self.create_tempfile(content=b'spam', mode='wb').full_path
    with self.assertRaisesRegex(
      inception.InceptionError,
      r'not contain the weights.*SHA-256 of .* is \w{64}, n',
    ) as caught:
      self._load(path)
    self.assertNotIn('\n', str(caught.exception))

  @parameterized.parameters('torch', 'torch_fidelity')
  def test_a_missing_package_is_reported_with_the_remedy(self, name):
    found = mock.Mock(side_effect=lambda each: None if each == name else each)
    with mock.patch('importlib.util.find_spec', found):
      with self.assertRaisesRegex(
        inception.InceptionError,
        rf"package {name}, .*; run pip install '\.\[inception\]' in the"
        r" project's folder, or pip install torch-fidelity$",
      ):
        inception.load()


if __name__ == '__main__':
  absltest.main()
