"""Tests of the benchmark of more images than fit the memory."""

import contextlib
import io
import json
import pathlib
import tempfile

from absl.testing import absltest
import numpy as np

from benchmarks import large_set


class LargeSetTest(absltest.TestCase):
  def test_small_sets_are_measured(self):
    with tempfile.TemporaryDirectory() as folder:
      output = pathlib.Path(folder, 'result.json')
      words = ['--images=1500', '--files=300', '--size=8', '--steps=10']
      with contextlib.redirect_stdout(io.StringIO()):
        large_set.main([*words, f'--output={output}', f'--path={folder}'])
      record = json.loads(output.read_text())
      self.assertIn('| `files` | 300 |', output.with_suffix('.md').read_text())
    self.assertNotIn(folder, json.dumps(record))
    array, files = record['rows']
    self.assertEqual((array['images'], files['images']), (1500, 300))
    for row in record['rows']:
      for name in large_set._COLUMNS:
        self.assertGreater(row[name], 0.0, name)

  def test_no_two_images_are_equal(self):
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, 'images.npy')
      large_set.make_array(path, 1200, 8)
      images = np.load(path)
    self.assertEqual(images.shape, (1200, 8, 8, 3))
    self.assertLen(np.unique(images.reshape(1200, -1), axis=0), 1200)


if __name__ == '__main__':
  absltest.main()
