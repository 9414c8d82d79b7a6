"""Tests of ldc_vae.reporting.style."""

import warnings

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae.reporting import curves
from ldc_vae.reporting import run_figures
from ldc_vae.reporting import style
from tests.reporting import picture_case as case


class TitleTest(case.PictureTestCase):
  def test_a_dollar_is_no_formula(self):
    title = 'Training (run $x_{$ of \u65e5)'
    with warnings.catch_warnings():
      warnings.simplefilter('error')  # a letter that the font lacks
      curves.training_curves(
        [{'step': 1, 'train/loss': 3.0}], self.path, title=title
      )
      style.write_no_data(self.path, title, 'there is none')


class WritingTest(case.PictureTestCase):
  def test_missing_folders_are_made(self):
    path = self.folder / 'a' / 'b' / 'figure.png'
    run_figures.sample_grid(case.digits(1), path, title='x')
    self.assert_whole_png(path)

  @parameterized.named_parameters(
    (
      'tiles',
      lambda path: run_figures.sample_grid(case.digits(1), path, title='x'),
    ),
    ('plot', lambda path: curves.training_curves([], path)),
  )
  def test_failure_names_the_file(self, draw):
    (self.folder / 'file').write_bytes(b'old')
    with self.assertRaisesRegex(OSError, 'figure.png cannot be written'):
      draw(self.folder / 'file' / 'figure.png')
    self.assertEqual((self.folder / 'file').read_bytes(), b'old')
    self.assertLen(list(self.folder.iterdir()), 1)


if __name__ == '__main__':
  absltest.main()
