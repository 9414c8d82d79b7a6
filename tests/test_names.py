"""Tests of the vocabulary of metrics and latent sources."""

import json
import math
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import formats
from ldc_vae import names

_STORED = pathlib.Path(__file__).parent / 'frozen' / 'result_names.json'


class MetricsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(absltest.mock.patch.dict(names.METRICS))
    self.enter_context(absltest.mock.patch.dict(names.SOURCES))

  def test_every_result_has_a_meaning(self):
    for name in json.loads(_STORED.read_text(encoding='utf-8')):
      if name not in names.RUN_FIELDS:
        metric, _ = names.find_metric(name)
        self.assertNotEmpty(metric.meaning, name)
        self.assertNotIn('{', metric.meaning, name)

  def test_samplers_of_the_config_are_named(self):
    found = names.result_names(('flow', 'prior'))
    for name in ('frechet_pca/flow', 'latent/ksd_flow', 'prdc/recall'):
      self.assertIn(name, found)
    self.assertLen(set(found), len(found))
    self.assertNotIn('latent/ksd_flow', names.result_names())

  def test_braces_are_filled(self):
    metric, source = names.find_metric('frechet_classifier_seed_3/gmm_10')
    self.assertEqual(source, 'gmm_10')
    self.assertEqual(metric.name, 'frechet_classifier_seed_3/{source}')
    self.assertEqual(metric.label, 'Fréchet, classifier of seed 3')
    metric, _ = names.find_metric('latent/mmd_gmm_10')
    self.assertIn('GMM-10', metric.meaning)

  @parameterized.parameters('', '/', 'nll/', 'mine/score', 'a{source}')
  def test_an_unknown_name_has_no_meaning(self, name):
    metric, source = names.find_metric(name)
    self.assertEqual((metric.name, metric.meaning, source), (name, '', ''))

  def test_a_standard_deviation_is_no_distance(self):
    metric, _ = names.find_metric('frechet_classifier_seed_1_deviation/prior')
    self.assertEqual(metric.better, '')

  def test_rank_is_the_order_of_the_vocabulary(self):
    wanted = [
        'frechet_classifier/real', 'frechet_classifier/prior',
        'frechet_classifier_seed_9/real', 'frechet_classifier_seed_10/real',
        'kid_classifier/real', 'prdc/recall', 'unknown',
    ]  # fmt: skip
    found = sorted(reversed(wanted), key=names.metric_rank)
    self.assertEqual(found, wanted)

  def test_main_distance_is_the_first_that_was_measured(self):
    results = {'kid_classifier/generator': 1.0, 'frechet_pca/generator': 2.0}
    self.assertEqual(names.main_distance({}, results), 'frechet_pca')
    self.assertEqual(names.main_distance({}), 'frechet_classifier')

  def test_registered_entries_are_found_and_come_last(self):
    names.register(
      names.Metric(
        'mine/{source}',
        'mine',
        names.LOWER,
        'Mine: {source}.',
        sources=('generator', names.SAMPLERS),
      ),
      names.Source('kde_K', 'KDE-{K}', 'With {K} points.'),
    )
    metric, source = names.find_metric('mine/kde_5')
    self.assertEqual((metric.meaning, source), ('Mine: KDE-5.', 'kde_5'))
    self.assertIn('mine/kde_5', names.result_names(('kde_5',)))
    self.assertEqual(max(('kde_5', 'prior'), key=names.source_rank), 'kde_5')

  def test_a_name_is_registered_once(self):
    with self.assertRaisesRegex(ValueError, "'prior' is already"):
      names.register(names.Source('prior', '', ''))


class SourcesTest(absltest.TestCase):
  def test_large_mixtures_come_first(self):
    found = sorted(
      ['mine', 'gmm_10', 'prior', 'gmm_200', 'real', 'gmm_50'],
      key=names.source_rank,
    )
    self.assertEqual(
      found, ['real', 'gmm_200', 'gmm_50', 'gmm_10', 'prior', 'mine']
    )

  def test_an_unknown_source_is_a_sampler_in_words(self):
    source = names.find_source('my_own')
    self.assertEqual((source.label, source.kind), ('my own', names.SAMPLER))


class NumbersTest(parameterized.TestCase):
  @parameterized.parameters(
      (0.0, '0'), (1.0, '1.00'), (4.416, '4.42'), (11.94, '11.9'),
      (85.2, '85.2'), (0.00912, '0.00912'), (99.96, '100'), (0.9996, '1.00'),
      (670.4, '670'), (12345.0, '12,345'), (-3.14159, '-3.14'),
      (1e-7, '1.00e-07'), (2.5e8, '2.50e+08'),
  )  # fmt: skip
  def test_three_significant_digits(self, value, expected):
    self.assertEqual(formats.format_number(value), expected)

  def test_nats_have_two_decimals(self):
    metric = names.METRICS['nll/elbo']
    self.assertEqual(metric.text(1234.567), '1,234.57')
    self.assertEqual(metric.text(1.0, sign='+'), '+1.00')

  @parameterized.parameters((None, '–'), (1234, '1,234'), ('x', 'x'))
  def test_what_is_no_float_is_written_too(self, value, expected):
    self.assertEqual(names.METRICS['prdc/recall'].text(value), expected)

  @parameterized.parameters(
      (1, True), (1.5, True), (True, False), (None, False), ('1', False),
      (math.nan, False), (math.inf, False), (10**400, False),
  )  # fmt: skip
  def test_is_number(self, value, expected):
    self.assertEqual(formats.is_number(value), expected)


if __name__ == '__main__':
  absltest.main()
