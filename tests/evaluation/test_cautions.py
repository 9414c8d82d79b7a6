"""Tests of ldc_vae.evaluation.cautions."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import names
from ldc_vae.evaluation import cautions


class OfClassifierTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('ids', 0.0, np.arange(60)),  # every label is its own class
    ('shuffled', 0.13, np.repeat(np.arange(10), 36)),  # 0.1 +- 3 * 0.016
    ('one_class', 1.0, np.zeros(100, int)),
    ('most_frequent', 0.9, np.repeat([0, 1], [90, 10])),
    ('two_coins', 1.0, np.array([0, 0, 1, 1])),  # 1 in 16 by chance
  )
  def test_chance_is_told(self, accuracy, labels):
    why = cautions.of_classifier(accuracy, labels)
    self.assertStartsWith(why, f'the test accuracy {accuracy:.3f} of the feat')
    self.assertIn('check the labels', why)

  @parameterized.named_parameters(
    ('digits', 0.95, np.repeat(np.arange(10), 36)),
    ('weak', 0.2, np.repeat(np.arange(10), 36)),
    ('hundred_classes', 0.05, np.repeat(np.arange(100), 100)),
  )
  def test_what_beats_guessing_is_sound(self, accuracy, labels):
    self.assertEqual(cautions.of_classifier(accuracy, labels), '')


class OfFewImagesTest(parameterized.TestCase):
  @parameterized.parameters(
    (4, 0, 100), (30, 64, 128), (99, 0, 100), (127, 64, 128), (63, 32, 64)
  )
  def test_are_told(self, num_images, num_features, wanted):
    why = cautions.of_few_images(num_images, num_features)
    self.assertStartsWith(why, f'{num_images} images are too few')
    self.assertIn(f'use {wanted} or more', why)

  @parameterized.parameters((100, 0), (360, 32), (10_000, 2048), (128, 64))
  def test_enough_are_not(self, num_images, num_features):
    self.assertEqual(cautions.of_few_images(num_images, num_features), '')


class ResultsOfTest(absltest.TestCase):
  def test_only_what_has_a_reason_is_a_result_and_a_warning(self):
    with self.assertLogs('absl', 'WARNING') as logs:
      results = cautions.results_of(
        {'prdc': ['a', ''], 'latent': ['a'], 'kid': ['', ''], 'x': ['a', 'b']}
      )
    self.assertEqual(
      results,
      {
        'protocol/caution_prdc': 'a',
        'protocol/caution_latent': 'a',
        'protocol/caution_x': 'a; b',
      },
    )
    self.assertLen(logs.output, 2)
    self.assertIn('do not rely on prdc, latent: a', logs.output[0])
    for name in results:
      metric, _ = names.find_metric(name)
      self.assertIn('marked with', metric.meaning)

  def test_a_metric_is_marked_by_its_family(self):
    results = {'protocol/caution_frechet_classifier': 'x'}
    mark = lambda name: names.mark(name, results)
    self.assertEqual(mark('frechet_classifier/prior'), ' ⚠')
    self.assertEqual(mark('frechet_classifier_seed_3/prior'), '')
    self.assertEqual(mark('prdc/recall'), '')


class NotMeasuredTest(parameterized.TestCase):
  @parameterized.parameters(
    ('vae', 'nll/ais: config.evaluate.ais_chains=0', {}),
    ('vae', 'nll/elbo, nll/importance: config.evaluate.num_nll_images=0',
     {'evaluate.num_nll_images': 0}),
    ('ae', "nll: the method's prior has no density", {}),
    ('vamp', 'nll/ais_gap: the prior is not N(0, I), which has exact draws',
     {'evaluate.ais_chains': 2}),
    ('stein_vae', 'latent/ksd, nll/elbo, nll/importance, nll/ais_importance:'
     ' encoder implicit has no density', {'evaluate.ais_chains': 2}),
  )  # fmt: skip
  def test_says_why(self, method, part, overrides):
    config = config_lib.load(f'configs/digits.py:{method},debug', overrides)
    experiment = experiment_lib.create(config)
    results = dict.fromkeys(names.result_names())
    found = cautions.not_measured(config, experiment, results)
    self.assertIn(part, found['protocol/not_measured'])

  def test_what_is_measured_has_no_reason(self):
    config = config_lib.load('configs/digits.py:vae,debug')
    experiment = experiment_lib.create(config)
    results = dict.fromkeys(names.result_names(), 1.0)
    self.assertEqual(cautions.not_measured(config, experiment, results), {})

  @parameterized.parameters(
    (1, 'frechet, kid, prdc, classifier, nearest, latent: one image has'),
    (5, 'prdc: 5 images have too few neighbours'),
  )
  def test_few_images_are_the_reason(self, num, part):
    config = config_lib.load('configs/digits.py:vae,debug')
    experiment = experiment_lib.create(config)
    dataset = experiment.dataset
    images = {**dataset.images, 'test': dataset.images['test'][:num]}
    experiment = experiment._replace(dataset=dataset._replace(images=images))
    results = dict.fromkeys(names.result_names())
    found = cautions.not_measured(config, experiment, results)
    self.assertIn(part, found['protocol/not_measured'])


if __name__ == '__main__':
  absltest.main()
