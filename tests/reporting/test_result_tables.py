"""Tests of ldc_vae.reporting.result_tables."""

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import names
from ldc_vae.reporting import result_tables

_ONE_SET = {
  'frechet_classifier/real': 12.4,
  'frechet_classifier/aggregate': 17.9,
  'frechet_classifier/generator': 13.3,
  'frechet_classifier/gmm_50': 14.0,
  'frechet_classifier/prior': 65.7,
  'num_samples': 360,
  'protocol/evaluate': "num_samples=10000, samplers=('prior',)",
}
# Ten sets: the standard errors of the means are a third of the deviations.
_TEN_SETS = {
  **_ONE_SET,
  'protocol/evaluate': 'num_draws=10, num_samples=10000',
  'frechet_classifier_deviation/aggregate': 1.0,
  'frechet_classifier_deviation/generator': 1.0,
  'frechet_classifier_deviation/gmm_50': 1.0,
  'frechet_classifier_deviation/prior': 2.0,
}


def _cells(table):
  return {label: cells for label, _, cells in table.rows}


class HeadlinesTest(parameterized.TestCase):
  def test_everything_gives_ten_numbers_in_words(self):
    results = {
      **dict.fromkeys(names.result_names(('prior',)), 0.5),
      'nearest/train_generator': 0.2,
      'nearest/train_test': 0.8,
    }
    headlines = result_tables.headlines(results)
    self.assertLen(headlines, 10)
    for label, value in headlines:
      self.assertNotIn('/', label)
      self.assertNotEmpty(value)
    self.assertEqual(
      headlines[-1],
      ('distance to training images (held-out images: 1, copies: 0)', '0.250'),
    )

  @parameterized.parameters(
    ({},),
    ({'frechet_classifier/generator': float('nan'), 'prdc/recall': 'x'},),
    ({'nearest/train_generator': 1.0, 'nearest/train_test': 0.0},),
  )
  def test_what_is_no_number_is_left_out(self, results):
    self.assertEmpty(result_tables.headlines(results))

  def test_spread_between_sets_is_beside_its_distance(self):
    values = dict(result_tables.headlines(_TEN_SETS))
    self.assertEqual(values['Fréchet, classifier: generator'], '13.3 ± 1.0')
    self.assertEqual(values['Fréchet, classifier: real images'], '12.4')


class ChanceTest(absltest.TestCase):
  def test_one_set_ranks_nothing_and_names_the_remedy(self):
    text = result_tables.chance(_ONE_SET)
    self.assertIn('one set of 360 images', text)
    self.assertIn('cannot be ranked', text)
    self.assertIn('config.evaluate.num_draws=10', text)

  def test_several_sets_say_what_their_spread_is(self):
    text = result_tables.chance(_TEN_SETS)
    self.assertIn('means over 10 sets of 360 images', text)
    self.assertIn('standard deviation between the sets', text)

  def test_nothing_is_said_without_a_distance(self):
    self.assertEmpty(result_tables.chance({'num_samples': 360}))


class CautionsTest(absltest.TestCase):
  def test_doubtful_numbers_are_marked_and_the_reason_is_told(self):
    results = {
      'prdc/recall': 1.0,
      'eval/reconstruction_mse': 0.5,
      'protocol/caution_prdc': 'few images',
    }
    self.assertEqual(
      result_tables.headlines(results),
      [('recall', '1.00 ⚠'), ('reconstruction MSE', '0.500')],
    )
    self.assertEqual(result_tables.cautions(results), ['prdc: few images'])
    ((row,),) = [
      rows
      for heading, rows in result_tables.families(results).items()
      if heading == result_tables.HEADINGS['prdc']
    ]
    self.assertEqual(row[2], '1.00 ⚠')


class BySourceTest(absltest.TestCase):
  def test_sources_within_two_standard_errors_are_not_told_apart(self):
    (table,) = result_tables.by_source(_TEN_SETS)
    self.assertEqual(
      table.header, ['Fréchet, classifier ↓', 'beside the generator']
    )
    # 2 * sqrt((1 + 1) / 10) = 0.89, and 14.0 - 13.3 = 0.7
    self.assertEqual(
      {label: cells[1] for label, cells in _cells(table).items()},
      {
        'real images': '–',
        'aggregate posterior': 'further',
        'generator': '–',
        'GMM-50': 'not told apart',
        'prior N(0, I)': 'further',
      },
    )
    nearer = {**_TEN_SETS, 'frechet_classifier/gmm_50': 12.4}
    (table,) = result_tables.by_source(nearer)
    self.assertEqual(_cells(table)['GMM-50'][1], 'nearer')

  def test_every_family_has_a_heading_or_is_a_column(self):
    for metric in names.METRICS.values():
      if not metric.is_per_source:
        self.assertIn(metric.family, result_tables.HEADINGS)

  def test_one_set_has_no_verdict(self):
    (table,) = result_tables.by_source(_ONE_SET)
    self.assertEqual(table.header, ['Fréchet, classifier ↓'])

  def test_numbers_without_a_scale_are_in_the_list_of_all_only(self):
    results = {
      'frechet_classifier/generator': 13.3,
      'kid_classifier/generator': -348.0,
      'latent/ksd_prior': 5.37e6,
      'latent/ksd_aggregate': 0.01,
    }
    (table,) = result_tables.by_source(results)
    self.assertEqual(table.header, ['Fréchet, classifier ↓'])
    self.assertEmpty(result_tables.families(results))
    self.assertEqual(
      dict(result_tables.numbers(results))['latent/ksd_prior'], '5.37e+06'
    )

  def test_latents_have_the_aggregate_beside_them_as_their_scale(self):
    results = {
      'latent/sliced_wasserstein_aggregate': 0.106,
      'latent/sliced_wasserstein_generator': 0.129,
      'latent/missed_share_aggregate': 0.0,
      'latent/missed_share_generator': 0.01,
      'latent/missed_share_gmm_10': 0.02,
    }
    (table,) = result_tables.by_source(results)
    self.assertEqual(table.header, ['sliced Wasserstein ↓', 'missed share ↓'])
    self.assertEqual(
      _cells(table),
      {
        'aggregate posterior': ['0.106', '0'],
        'generator': ['0.129', '0.0100'],
        'GMM-10': ['–', '0.0200'],
      },
    )
    self.assertIn('perfect sampler', dict(table.notes)['aggregate posterior'])


if __name__ == '__main__':
  absltest.main()
