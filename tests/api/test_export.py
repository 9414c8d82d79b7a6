"""Tests of ldc_vae.api.export: a run as a folder to share."""

import importlib.util
import json
import pathlib
import shutil
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from PIL import Image

import ldc_vae
from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import run as run_lib
from ldc_vae import use
from ldc_vae.api import export
from ldc_vae.api import latent_files
from tests import evaluate_case


class ExportTest(evaluate_case.RunTest):
  """Tests without the package safetensors."""

  MODEL = 'model.npz'
  MODULES = {'safetensors': None}

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.enterClassContext(mock.patch.dict(sys.modules, cls.MODULES))
    cls.run_ = ldc_vae.load(cls.workdir)
    cls.folder = cls.workdir / 'export'
    use.export(cls.config, cls.workdir, output=cls.folder)

  def copy(self):
    folder = pathlib.Path(self.create_tempdir().full_path, 'shared')
    shutil.copytree(self.folder, folder)
    return folder

  def test_the_folder_alone_samples_identically(self):
    with self.assertNoLogs(level='WARNING'):  # as it was written
      run = ldc_vae.load(self.copy())
    self.assertTrue((self.folder / self.MODEL).exists())
    np.testing.assert_array_equal(run.sample(20), self.run_.sample(20))
    images = self.experiment.dataset.images['test'][:5]
    np.testing.assert_array_equal(
      run.encode(images, seed=1), self.run_.encode(images, seed=1)
    )
    self.assertEqual(run.step, self.run_.step)
    self.assertEmpty(config_lib.differences(run.config, self.config))

  def test_no_place_of_this_machine_is_told(self):
    for name in ('config.json', 'README.md', 'results.json'):
      text = (self.folder / name).read_text()
      self.assertNotIn(str(self.workdir.parent), text)
      self.assertNotIn(str(self.evaluated.parent), text)

  def test_the_card_has_results_and_a_picture(self):
    card = (self.folder / 'README.md').read_text()
    self.assertIn('](sample_grid.png)', card)
    self.assertIn('| images | 8x8, 1 channel |', card)
    own = json.loads((self.folder / 'results.json').read_text())
    self.assertEqual(
      own['eval/reconstruction_mse'], self.results['eval/reconstruction_mse']
    )
    self.assertRegex(card, r'\| [^|]*reconstruction[^|]* \| [\d.e-]+ ?\S* \|')
    self.assertIn('Compared with the test split', card)
    commit = json.loads((self.workdir / 'config.json').read_text())
    self.assertIn(
      f'commit of the code | {commit["git_commit"] or "unknown"}', card
    )
    with Image.open(self.folder / 'sample_grid.png') as image:
      self.assertGreater(min(image.size), 100)

  def test_an_export_can_be_exported_again(self):
    folder = self.copy()
    run = ldc_vae.load(folder)
    other = folder.with_name('other')
    for target in (folder, other):  # onto itself, too
      run.export(target)
      with self.assertNoLogs(level='WARNING'):
        again = ldc_vae.load(target)
      np.testing.assert_array_equal(again.sample(5), self.run_.sample(5))
      for name in ('README.md', 'results.json'):
        self.assertEqual(
          (target / name).read_text(), (self.folder / name).read_text()
        )

  def test_a_run_without_results_says_so(self):
    folder = self.copy()
    (folder / 'results.json').unlink()
    ldc_vae.load(folder).export(folder)
    self.assertIn(
      'This run was not evaluated.', (folder / 'README.md').read_text()
    )
    self.assertFalse((folder / 'results.json').exists())

  def test_other_files_are_kept(self):
    folder = self.copy()
    (folder / 'thesis.tex').write_text('mine')
    file = folder.with_name('file')
    file.write_text('mine')
    for target in (folder, file):
      with self.assertRaisesRegex(ldc_vae.UserError, 'other files are there'):
        use.export(self.config, self.workdir, output=target)
    self.assertEqual(file.read_text(), 'mine')

  def test_what_is_not_as_written_is_refused(self):
    folder = self.copy()
    data = bytearray((folder / self.MODEL).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / self.MODEL).write_bytes(data)
    with self.assertRaisesRegex(ldc_vae.UserError, f'{self.MODEL} is not as'):
      ldc_vae.load(folder)

  def test_weights_of_another_version_are_refused(self):
    folder = self.copy()
    arrays = latent_files.load_arrays(folder / self.MODEL)
    name, array = arrays.popitem()
    path = export._write_model(folder, {**arrays, 'other': array})
    record = json.loads((folder / 'config.json').read_text())
    record['model_sha256'] = export._digest(path)
    (folder / 'config.json').write_text(json.dumps(record))
    with self.assertRaisesRegex(ldc_vae.UserError, f'have {name}; use the com'):
      ldc_vae.load(folder)


@absltest.skipIf(
  importlib.util.find_spec('safetensors') is None,
  "safetensors is missing: pip install '.[safetensors]'",
)
class SafetensorsTest(ExportTest):
  MODEL = 'model.safetensors'
  MODULES = {}

  def test_an_export_of_the_other_kind_is_replaced(self):
    folder = self.copy()
    with mock.patch.dict(sys.modules, ExportTest.MODULES):
      with self.assertRaisesRegex(ldc_vae.UserError, r'install .*\[safetens'):
        ldc_vae.load(folder)
      self.run_.export(folder)
      self.assertFalse((folder / self.MODEL).exists())
    images = ldc_vae.load(folder).sample(5)  # of the .npz file
    np.testing.assert_array_equal(images, self.run_.sample(5))
    self.run_.export(folder)
    self.assertFalse((folder / ExportTest.MODEL).exists())
    np.testing.assert_array_equal(ldc_vae.load(folder).sample(5), images)


class UntrainedTest(parameterized.TestCase):
  @parameterized.parameters('lebm', 'aae', 'vamp', 'rae_gp', 'stein_vae')
  def test_any_method_comes_back(self, method):
    folder = pathlib.Path(self.create_tempdir().full_path) / 'export'
    config = config_lib.load(
      f'images:{method},debug', {'dataset.path': '/home/me/photos'}
    )
    model = experiment_lib.create_model(config, (8, 8, 3))
    algorithm = experiment_lib.create_algorithm(config, model)
    trained = run_lib.Trained(
      config,
      model,
      algorithm,
      model.init(jax.random.key(0), algorithm.trained),
      algorithm.init_stats(),
      step=5,
    )
    images = np.zeros((2, 8, 8, 3), np.uint8)
    export.write(trained, folder, images=images, record={}, results=None)
    read = export.read(folder)
    self.assertEqual(read.config.dataset.path, 'photos')
    self.assertEqual(read.model.image_shape, (8, 8, 3))
    wanted = jax.tree.leaves((trained.params, trained.stats))
    actual = jax.tree.leaves((read.params, read.stats))
    for a, b in zip(actual, wanted, strict=True):
      np.testing.assert_array_equal(a, b)


if __name__ == '__main__':
  absltest.main()
