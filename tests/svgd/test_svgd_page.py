"""Runs the examples of docs/svgd.md and docs/method.md, one after another."""

import pathlib
import re

from absl.testing import absltest
import numpy as np

_PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'svgd.md'
_METHOD = _PAGE.with_name('method.md')
_PYTHON = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)


class PageTest(absltest.TestCase):
  def test_examples_do_what_the_page_says(self):
    names = {}
    blocks = _PYTHON.findall(_PAGE.read_text(encoding='utf-8'))
    self.assertLen(blocks, 6)
    for block in blocks:
      exec(compile(block, str(_PAGE), 'exec'), names)  # our own page
    with self.subTest('in_one_call'):
      particles = np.asarray(names['result'].particles)
      # the set is symmetric at rest, which it nearly is after 500 steps
      np.testing.assert_allclose(particles.mean(axis=0), [1, -2], atol=5e-3)
      self.assertLess(names['result'].speeds[-1], 1e-3)
    with self.subTest('step_by_step'):
      np.testing.assert_allclose(
        names['state'].particles, particles, rtol=1e-4, atol=1e-4
      )
      self.assertEqual(names['states'].particles.shape, (3, 50, 2))
    with self.subTest('batches'):
      # a posterior standard deviation is 1/32; batches are a tenth of the data
      mean = np.sum(names['data'], axis=0) / 1001.0
      found = np.mean(names['batched'].particles, axis=0)
      np.testing.assert_allclose(found, mean, atol=3 / 32)
    with self.subTest('diagnostics'):
      self.assertLess(names['discrepancy'], 0.0)
      self.assertGreater(names['size'], 50.0)
    with self.subTest('variances'):
      nuts = np.asarray(names['draws'])
      for key, width, error in (
        ('plain', (0.46, 0.50), (0.11, 0.15)),
        ('noisy', (0.90, 1.04), (0.0, 0.11)),
      ):
        found = np.asarray(names[key].particles)
        # the page's numbers, and the noise of 1000 draws or of 100 particles
        self.assertBetween(
          found.std(axis=0).mean() / nuts.std(axis=0).mean(), *width
        )
        off = np.abs(found.mean(axis=0) - nuts.mean(axis=0)) / nuts.std(axis=0)
        self.assertBetween(off.mean(), *error)

  def test_the_example_of_the_method_is_a_direction(self):
    names = {}
    (block,) = _PYTHON.findall(_METHOD.read_text(encoding='utf-8'))
    exec(compile(block, str(_METHOD), 'exec'), names)
    particles, direction = names['particles'], names['direction']
    self.assertEqual(direction.shape, particles.shape)
    # far out, the score of N(0, I) wins
    far = np.argmax(np.linalg.norm(particles, axis=1))
    self.assertLess(np.dot(direction[far], particles[far]), 0.0)


if __name__ == '__main__':
  absltest.main()
