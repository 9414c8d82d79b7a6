"""Tests of ldc_vae.metrics.classes."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import scipy.stats

from ldc_vae.metrics import classes


class ClassesTest(parameterized.TestCase):
  def test_entropy_is_that_of_scipy(self):
    logits = np.random.default_rng(0).normal(size=(30, 7))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    self.assertAlmostEqual(
      classes.mean_entropy(probabilities),
      np.mean(scipy.stats.entropy(probabilities, axis=1)),
      places=12,
    )

  def test_certain_images_have_no_entropy(self):
    self.assertEqual(classes.mean_entropy(np.eye(4)), 0.0)
    self.assertAlmostEqual(
      classes.mean_entropy(np.full((3, 4), 0.25)), np.log(4), places=12
    )

  @parameterized.parameters(1, 2, 5)
  def test_balance_counts_the_classes_that_occur(self, num):
    probabilities = np.repeat(np.eye(5)[:num], 6, axis=0)
    self.assertAlmostEqual(
      classes.class_balance(probabilities), num / 5, places=12
    )

  def test_both_give_the_inception_score(self):
    logits = np.random.default_rng(1).normal(size=(50, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    log_score = np.mean(np.sum(p * np.log(p / p.mean(axis=0)), axis=1))
    self.assertAlmostEqual(
      np.log(4 * classes.class_balance(p)) - classes.mean_entropy(p),
      log_score,
      places=12,
    )

  @parameterized.parameters(classes.mean_entropy, classes.class_balance)
  def test_no_images_are_refused(self, measure):
    with self.assertRaisesRegex(ValueError, r'\(0, 4\)'):
      measure(np.zeros((0, 4)))


if __name__ == '__main__':
  absltest.main()
