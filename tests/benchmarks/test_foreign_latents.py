"""Tests of benchmarks.foreign_latents."""

import json
import pathlib
import sys
import types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from sklearn import decomposition

from benchmarks import foreign_latents
import ldc_vae

# Stands in for the program that needs PyTorch.
_TORCH = """
import sys
import numpy as np
kind, path = sys.argv[1:]
with np.load(path) as arrays:
  images, labels = arrays['images'], arrays['labels']
assert images.dtype == np.float32 and len(images) == len(labels)
out = {'latents': images[:, :2] * 2}
if kind == 'vae':
  out['stds'] = images[:, :2] + 1
np.savez(path, **out)
"""


class ForeignLatentsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def test_components_are_those_of_scikit_learn(self):
    x = np.random.default_rng(0).normal(size=(50, 6)) * np.arange(1, 7)
    found = foreign_latents.principal(x, 3)
    expected = decomposition.PCA(3).fit_transform(x)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)

  @parameterized.parameters(('vae', True), ('classifier', False))
  def test_arrays_go_to_the_other_python_and_back(self, kind, has_stds):
    worker = self.folder / 'worker.py'
    worker.write_text(_TORCH)
    images = np.random.default_rng(0).random((5, 4), np.float32)
    with mock.patch.object(foreign_latents, '_WORKER', worker):
      latents, stds = foreign_latents._by_torch(
        kind, sys.executable, images, np.arange(5)
      )
    np.testing.assert_array_equal(latents, images[:, :2] * 2)
    if has_stds:
      np.testing.assert_array_equal(stds, images[:, :2] + 1)
    else:
      self.assertIsNone(stds)

  def test_each_seed_is_a_fit_to_the_same_latents(self):
    output = self.folder / 'foreign.json'
    calls = []

    def fit(latents, stds, *, seed):
      calls.append((latents.sum(), stds, seed))
      own = {'sliced_wasserstein': 0.1 + seed, 'missed_share': 0.0}
      distances = {'sampler net': own, 'gmm_50': None}
      return types.SimpleNamespace(latent_size=2, distances=distances)

    latents = np.ones((30, 2))
    with (
      mock.patch.object(ldc_vae, 'fit_sampler', fit, create=True),
      mock.patch.dict(
        foreign_latents.SETS, fashion_mnist_pca=lambda *_: (latents, None)
      ),
    ):
      code = foreign_latents.main(
        ['--sets=fashion_mnist_pca', '--seeds=0,2', f'--output={output}']
      )
    self.assertEqual(code, 0)
    self.assertEqual(calls, [(60.0, None, 0), (60.0, None, 2)])
    rows = json.loads(output.read_text())['rows']
    self.assertEqual([row['seed'] for row in rows], [0, 2])
    page = output.with_suffix('.md').read_text()
    self.assertIn('fashion_mnist_pca, 2 dimensions, 2 seeds', page)
    self.assertIn('| sampler net | 1.10 ± 1.4 | 0 ± 0 |', page)
    self.assertIn('| gmm_50 | n/a | n/a |', page)

  def test_a_missing_python_is_told_before_the_work(self):
    with self.assertRaisesRegex(ValueError, '--torch_python is missing'):
      foreign_latents.main([])


if __name__ == '__main__':
  absltest.main()
