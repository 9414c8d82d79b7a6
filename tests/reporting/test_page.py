"""Tests of ldc_vae.reporting.page."""

import pathlib
import tempfile

from absl.testing import absltest
import numpy as np

from ldc_vae.reporting import page
from ldc_vae.reporting import run_figures


class ReadPicturesTest(absltest.TestCase):
  def test_captions_give_the_order_and_what_is_absent_is_told(self):
    folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    for name in ('a', 'b', 'own'):
      run_figures.sample_grid(
        np.zeros((1, 8, 8, 1), np.uint8), folder / f'{name}.png', title='T'
      )
    missing = []
    pictures = page.read_pictures(
      folder, {'b': 'Second.', 'c': 'Third.', 'a': 'First.'}, missing
    )
    self.assertEqual(
      [picture.caption for picture in pictures], ['Second.', 'First.', 'own']
    )
    self.assertEqual(missing, ['figures/ had no c.'])


class BoldTest(absltest.TestCase):
  def test_asterisks_become_bold_and_the_rest_is_escaped(self):
    self.assertEqual(
      str(page._bold('**1 ± 2** (<b>)')),
      '<strong>1 ± 2</strong> (&lt;b&gt;)',
    )


if __name__ == '__main__':
  absltest.main()
