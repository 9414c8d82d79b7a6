"""Tests of ldc_vae.api.latent_files: latents of other programs."""

import pathlib
import sys
import types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae import errors
from ldc_vae.api import latent_files

_Z = np.arange(6.0).reshape(3, 2)


class ReadTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  @parameterized.named_parameters(
    ('only', {'any_name': _Z}, None),
    ('named', {'latents': _Z, 'labels': np.zeros(3)}, None),
    ('means', {'means': _Z, 'latents': _Z + 1, 'stds': _Z + 2}, _Z + 2),
    ('logvars', {'means': _Z, 'logvars': 2 * np.log(_Z + 2)}, _Z + 2),
    ('codes', {'codes': _Z, 'other': _Z + 1}, None),
  )
  def test_an_archive(self, arrays, wanted):
    np.savez(self.folder / 'z.npz', **arrays)
    latents, stds = latent_files.read(self.folder / 'z.npz')
    np.testing.assert_array_equal(latents, _Z)
    if wanted is None:
      self.assertIsNone(stds)
    else:
      np.testing.assert_allclose(stds, wanted)

  def test_an_array(self):
    np.save(self.folder / 'z.npy', _Z)
    latents, stds = latent_files.read(str(self.folder / 'z.npy'))
    np.testing.assert_array_equal(latents, _Z)
    self.assertIsNone(stds)

  def test_safetensors_where_the_package_is(self):
    path = self.folder / 'z.safetensors'
    with mock.patch.dict(sys.modules, {'safetensors': None}):
      with self.assertRaisesRegex(errors.UserError, 'package safetensors is m'):
        latent_files.read(path)
    load_file = mock.Mock(return_value={'latents': _Z})
    stand_in = types.SimpleNamespace(
      numpy=types.SimpleNamespace(load_file=load_file)
    )
    with mock.patch.dict(sys.modules, {'safetensors': stand_in}):
      np.testing.assert_array_equal(latent_files.read(path)[0], _Z)
      load_file.assert_called_once_with(path)
      load_file.side_effect = Exception('torn header')
      with self.assertRaisesRegex(errors.UserError, 'read .torn header'):
        latent_files.read(path)

  def test_what_is_no_latents_is_named(self):
    np.savez(self.folder / 'two.npz', a=_Z, b=_Z)
    np.save(self.folder / 'pickle.npy', np.array([{}]), allow_pickle=True)
    (self.folder / 'torn.npz').write_bytes(b'PK')
    with open(self.folder / 'array.npz', 'wb') as file:
      np.save(file, _Z)
    with open(self.folder / 'archive.npy', 'wb') as file:
      np.savez(file, z=_Z)
    for name, part in (
      ('array.npz', 'array.npz cannot be read .it is an .npy file'),
      ('archive.npy', 'archive.npy cannot be read'),
      ('two.npz', "has the arrays a, b; name one of them 'latents'"),
      ('pickle.npy', 'pickle.npy cannot be read'),
      ('torn.npz', 'torn.npz cannot be read'),
      ('missing.npy', 'missing.npy cannot be read'),
      ('weights.pt', 'give an .npy, an .npz or a .safetensors file'),
    ):
      with self.assertRaisesRegex(errors.UserError, part):
        latent_files.read(self.folder / name)


if __name__ == '__main__':
  absltest.main()
