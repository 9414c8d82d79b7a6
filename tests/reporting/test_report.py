"""Tests of ldc_vae.reporting.report."""

import contextlib
import html
import json
import pathlib
import re
import shlex
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from ldc_vae import config as config_lib
from ldc_vae import names
from ldc_vae.configs import default
from ldc_vae.reporting import curves
from ldc_vae.reporting import report
from ldc_vae.reporting import run_figures
from tests import config_case
from tests.reporting import page_case

_RESULTS = {
  'frechet_classifier/real': 1.03,
  'frechet_classifier/aggregate': 3.5,
  'frechet_classifier/generator': 4.2,
  'frechet_classifier/gmm_10': 11.9,
  'frechet_classifier/prior': 85.2,
  'frechet_classifier/two_stage': None,
  'nll/importance': 98.312,
  'nll/ais': None,
  'latent/active_units': 16,
  'eval/reconstruction_mse': 0.00912,
  'mine/score': 0.5,
  'seed': 3,
  'step': 19500,
  'num_samples': 10000,
  'wall_seconds': 3725.4,
}


class WriteReportTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.workdir = pathlib.Path(folder.name) / 'run'
    self.workdir.mkdir()

  def _write(self, name: str, value) -> None:
    path = self.workdir / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))

  def _fill(self, **overrides) -> None:
    """A workdir with everything."""
    config = default.create('ldc')
    config.update_from_flattened_dict(overrides)
    self._write(
      'config.json',
      {
        'config': config.to_dict(),
        'versions': {'jax': '0.10.2', 'flax': None},
        'git_commit': '0123abc+dirty',
      },
    )
    self._write('results.json', _RESULTS)
    rows = [
      {'step': s, 'train/loss': 90.0 - s, 'train/images_per_sec': 1000.0 + s}
      for s in (1, 2, 3)
    ]
    self._write('metrics.jsonl', '\n'.join(map(json.dumps, rows)))
    images = np.zeros((3, 8, 8, 1), np.uint8)
    folder = self.workdir / 'figures'
    curves.training_curves(rows, folder / 'training_curves.png')
    run_figures.sample_grid(images, folder / 'sample_grid.png', title='Samples')
    run_figures.sample_grid(images, folder / 'my_own.png', title='Mine')

  def _report(self) -> page_case.Page:
    path = report.write_report(self.workdir)
    self.assertEqual(path, self.workdir / 'report.html')
    return page_case.Page(path.read_text(encoding='utf-8'))

  def test_everything_of_a_run_is_on_the_page(self):
    self._fill()
    page = self._report()
    for words in (
      'LDC-VAE on digits',
      'seed 3',
      'evaluated at step 19,500',
      '1 h 2 min of evaluation',
      'Fréchet, classifier: generator 4.20',
      'one set of 10,000 images',
      '98.31',
      '0.00912',
      'mine/score 0.500',
      'not FID',
      'The median speed was 1,002 images/s.',
      'jax 0.10.2',
      'flax not installed',
      'git checkout 0123abc python',
      'The working tree had changes',
      'method.temperature_start 1.0',
      'frechet_classifier/two_stage –',
      'active units Latent dimensions that carry information about the image.'
      ' Higher is better. 16 of 16',
      'figures/ had no source_grid',
    ):
      self.assertIn(words, page.text)
    captions = [picture['alt'] for picture in page.pictures]
    self.assertLen(captions, 3)
    self.assertEqual(captions[1], 'my own')

  def test_page_stands_alone(self):
    self._fill()
    page = self._report()
    for link in page.links:
      self.assertStartsWith(link, 'data:image/png;base64,')
    self.assertNoCommonElements(page.tags, ('script', 'link', 'iframe'))
    text = (self.workdir / 'report.html').read_text()
    self.assertNotRegex(text, r'https?://|url\(|@import')
    self.assertIn('prefers-color-scheme: dark', text)

  def test_registered_names_have_their_words(self):
    self.enter_context(absltest.mock.patch.dict(names.METRICS))
    self.enter_context(absltest.mock.patch.dict(names.SOURCES))
    names.register(
      names.Metric('mine/score', 'score', names.HIGHER, 'My own.'),
      names.Source('mine_K', 'Mine-{K}', 'With {K} parts.'),
    )
    self._write('results.json', {'mine/score': 2.0, 'frechet_pca/mine_3': 5.0})
    text = self._report().text
    self.assertIn('score My own. Higher is better. 2.00', text)
    self.assertIn('Mine-3 With 3 parts. 5.00', text)

  def test_pictures_come_before_tables_and_tables_are_in_boxes(self):
    self._fill()
    self._report()
    text = (self.workdir / 'report.html').read_text()
    self.assertLess(text.rindex('<img'), text.index('<table'))
    self.assertLen(
      re.findall('<div class="scroll"><table', text), text.count('<table')
    )

  def test_pictures_are_shown_at_half_their_pixels(self):
    self._fill()
    picture = self._report().pictures[0]
    with Image.open(self.workdir / 'figures/sample_grid.png') as image:
      self.assertEqual(
        (int(picture['width']), int(picture['height'])),
        (image.width // 2, image.height // 2),
      )

  @parameterized.parameters(
    ('results.json',), ('config.json',), ('metrics.jsonl',)
  )
  def test_missing_file_is_reported(self, name):
    self._fill()
    (self.workdir / name).unlink()
    self.assertIn(f'{name} was missing or broken.', self._report().text)

  def test_empty_workdir_gives_a_page_that_says_so(self):
    text = self._report().text
    for name in ('results.json', 'config.json', 'metrics.jsonl', 'figures/'):
      self.assertIn(name, text)

  @parameterized.parameters(
    ('results.json', '{"a": ', 'results.json was missing or broken'),
    ('results.json', '[1]', 'results.json was missing or broken'),
    ('config.json', '\x00', 'config.json was missing or broken'),
    ('config.json', '{"config": 3}', 'LDC-VAE|run'),
    ('config.json', '{"config": {"objective": 1}}', 'run'),
    ('config.json', '{"git_commit": 5, "versions": []}', 'run'),
    ('metrics.jsonl', '{"step": 1}\n{"st', '1 broken lines'),
    ('metrics.jsonl', '{"step": "x", "train/images_per_sec": []}', 'run'),
    ('figures/sample_grid.png', 'no picture', 'was not a whole PNG'),
  )
  def test_broken_file_never_stops_the_page(self, name, content, sentence):
    self._fill()
    self._write(name, content)
    self.assertRegex(self._report().text, sentence)

  def test_cut_picture_is_left_out(self):
    self._fill()
    path = self.workdir / 'figures/sample_grid.png'
    path.write_bytes(path.read_bytes()[:-20])
    page = self._report()
    self.assertLen(page.pictures, 2)
    self.assertIn('sample_grid.png was not a whole PNG file', page.text)

  @parameterized.parameters(
    ({'frechet_classifier/generator': float('nan')},),
    ({'frechet_classifier/generator': 4.0, 'frechet_classifier/real': 'x'},),
    ({'frechet_pca/generator': 4.0, 'frechet_pca/aggregate': 0},),
    ({'frechet_classifier/gmm_10': [1, {'a': None}]},),
    ({'nll/elbo': float('inf'), 'nll/importance': 10**400},),
    ({'': 1.0, '/': 2.0, 'nll/': 3.0, 'plain': 4},),
  )
  def test_odd_results_never_stop_the_page(self, results):
    self._write('results.json', results)
    self.assertIn('Results', self._report().text)

  def test_text_is_escaped(self):
    evil = '<script>alert(1)</script>&"\''
    self._fill(**{'dataset.name': evil, 'dataset.path': evil})
    self._write('results.json', {evil: evil, f'nll/{evil}': 1.0, 'x': evil})
    self._write('figures/<b>&.png', '')
    picture = (self.workdir / 'figures/sample_grid.png').read_bytes()
    (self.workdir / 'figures/<b>&.png').write_bytes(picture)
    page = self._report()
    self.assertNoCommonElements(page.tags, ('script', 'b'))
    self.assertIn(f'{evil} {evil}', page.text)

  def test_command_gives_the_same_config_again(self):
    overrides = {
      'dataset.data_dir': "a folder's name",
      'model.hidden_sizes': (64,),
      'method.num_particles': 5,
      'method.off_diagonal': False,
      'evaluate.samplers': ('prior', 'gmm_50'),
      'seed': 7,
    }
    self._fill(**overrides)
    self._write('configs/digits.py', config_case.RUN_FILE)
    self.enter_context(contextlib.chdir(self.workdir))  # found here first
    standard = config_lib.load('configs/digits.py:ldc')
    config = config_lib.override(standard, overrides)
    self._write('config.json', config_lib.to_json(config))
    self._report()
    text = html.unescape((self.workdir / 'report.html').read_text())
    command = re.search(r'python -m ldc_vae.main.*?</pre>', text, re.DOTALL)
    words = shlex.split(command[0].removesuffix('</pre>'))
    arguments = [w for w in words if w.startswith('--config.')]
    self.assertLen(arguments, len(overrides))
    again = config_lib.load('configs/digits.py:ldc', arguments)
    self.assertEqual(again.to_dict(), config.to_dict())

  def test_command_of_own_images_has_their_path(self):
    self._fill()
    config = config_lib.load(
      'configs/images.py:ldc', {'dataset.path': '/photos', 'seed': 3}
    )
    self._write('config.json', config_lib.to_json(config))
    text = self._report().text
    self.assertIn('--config.dataset.path=/photos', text)
    self.assertIn('--config.seed=3', text)
    self.assertNotIn('could not be loaded', text)

  def test_says_how_the_results_were_made_where_the_config_says_otherwise(self):
    self._fill()
    made = "samplers=('prior',), split=validation"
    self._write('results.json', {**_RESULTS, 'protocol/evaluate': made})
    text = self._report().text
    self.assertIn(f'evaluate {made}', text)
    self.assertIn('A later evaluation may have other values', text)

  def test_run_file_that_is_gone_is_reported(self):
    self._fill(**{'dataset.name': 'no_such_data'})
    text = self._report().text
    self.assertIn('--config=configs/no_such_data.py:ldc', text)
    self.assertIn('could not be loaded', text)

  def test_no_workdir_is_an_error_of_one_sentence(self):
    with self.assertRaisesRegex(OSError, 'nowhere: no such folder'):
      report.write_report(self.workdir / 'nowhere')

  def test_same_workdir_gives_the_same_page(self):
    self._fill()
    first = report.write_report(self.workdir).read_bytes()
    self.assertEqual(report.write_report(self.workdir).read_bytes(), first)


if __name__ == '__main__':
  absltest.main()
