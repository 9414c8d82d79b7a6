"""Tests of benchmarks.encoder_bound and benchmarks.encoder_width."""

import json

from absl.testing import absltest
import chex
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import encoder_bound
from benchmarks import encoder_width
from ldc_vae.data import datasets
from ldc_vae.models import model as model_lib
from tests.benchmarks import benchmark_case

_folder = benchmark_case.create_folder
_without_cache = benchmark_case.without_cache
_SMALL = dict(latent_size=2, hidden_sizes=(8,))


class NormaliserTest(absltest.TestCase):
  def test_is_that_of_mnist(self):
    # log(0.2 pi) = -0.46471, half of it for each of 784 pixels
    self.assertAlmostEqual(
      encoder_bound.normaliser((28, 28, 1), 0.1**0.5), -182.17, delta=0.01
    )


class PairedDifferencesTest(absltest.TestCase):
  def _rows(self):
    values = {
      ('elbo', 0): 5.0,
      ('elbo', 1): 7.0,
      ('elbo', 2): 6.0,
      ('svgd', 0): 4.5,
      ('svgd', 1): 6.0,
    }
    return [
      {
        'method': method,
        'seed': seed,
        **{
          f'{split}/{bound}': value
          for split in ('test', 'validation')
          for bound in ('negative_elbo', 'negative_importance')
        },
      }
      for (method, seed), value in values.items()
    ]

  def test_pairs_equal_seeds(self):
    self.assertEqual(
      encoder_bound.paired_differences(
        self._rows(), 'svgd', 'elbo', 'test/negative_elbo'
      ),
      [-0.5, -1.0],
    )

  def test_summary_has_mean_and_standard_error(self):
    entry = encoder_bound.summarise(self._rows())['svgd/test/negative_elbo']
    self.assertEqual(entry['mean'], -0.75)
    # two values 0.5 apart: 0.25 sqrt(2) / sqrt(2)
    self.assertAlmostEqual(entry['standard_error'], 0.25)


class EncoderBoundTest(absltest.TestCase):
  def test_pairs_a_small_run_of_each(self):
    _without_cache(self)
    pixels = np.random.default_rng(0)
    images = {
      split: pixels.integers(256, size=(num, 6, 6, 1), dtype=np.uint8)
      for split, num in (('train', 256), ('validation', 20), ('test', 30))
    }
    # the size of the nets is the benchmark's own, so images are small instead
    self.enter_context(
      absltest.mock.patch.object(
        datasets,
        'load',
        lambda *unused_args, **unused_kwargs: datasets.Dataset(
          'mnist', images, None, 0
        ),
      )
    )
    self.enter_context(
      absltest.mock.patch.dict(
        encoder_bound.COMMON, {'model.hidden_sizes': (8,)}
      )
    )
    output = _folder(self) / 'bound.json'
    code = encoder_bound.main(
      [
        '--num_steps=3',
        '--seeds=2',
        '--num_particles=2',
        '--importance_samples=4',
        '--off_diagonal=true',
        '--whiten=false',
        f'--output={output}',
      ]
    )
    self.assertEqual(code, 0)
    record = json.loads(output.read_text())
    self.assertEqual(
      [
        (row['method'], row['seed'], row['num_steps']) for row in record['rows']
      ],
      [('elbo', 2, 3), ('svgd', 2, 3)],
    )
    # 36 pixels; `main` itself checks that the initial weights are the same
    self.assertAlmostEqual(
      record['normaliser'], encoder_bound.normaliser((6, 6, 1), 0.1**0.5)
    )
    difference = record['summary']['svgd/test/negative_elbo']
    self.assertEqual(
      difference['differences'],
      [
        record['rows'][1]['test/negative_elbo']
        - record['rows'][0]['test/negative_elbo']
      ],
    )

  def test_svgd_is_the_first_phase_at_inverse_temperature_one(self):
    for method, off_diagonal, whiten in (
      (encoder_bound.OFF_DIAGONAL, True, False),
      (encoder_bound.ALL_PAIRS, False, False),
      (encoder_bound.WHITENED, True, True),
    ):
      config, experiment = encoder_bound.create_experiment(
        'digits',
        method,
        num_particles=4,
        seed=0,
        overrides={'train.num_steps': 2},
      )
      self.assertEqual(config.method.inverse_temperature, 1.0)
      self.assertEqual(config.method.off_diagonal, off_diagonal)
      self.assertEqual(config.method.whiten, whiten)
      self.assertLen(experiment.algorithm.phases, 1)
      self.assertSameElements(experiment.txs, ('encoder', 'decoder'))

  def test_bounds_are_ordered(self):
    model = model_lib.create_model((4, 4, 1), **_SMALL)
    params = model.init(jax.random.key(0), model.autoencoder_names())
    images = np.random.default_rng(0).integers(
      256, size=(6, 4, 4, 1), dtype=np.uint8
    )
    bounds_fn = encoder_bound.make_bounds_fn(model, 512)
    bounds = bounds_fn(params, images, jax.random.key(1))
    chex.assert_tree_shape_prefix(bounds, (6,))
    # Jensen; 512 samples leave the two means within 0.1
    self.assertTrue(np.all(bounds['importance'] > bounds['elbo'] - 0.1))
    self.assertTrue(np.all(bounds['kl'] >= 0.0))


class EncoderWidthTest(absltest.TestCase):
  def test_small_run_writes_table_and_record(self):
    _without_cache(self)
    output = _folder(self) / 'width.json'
    code = encoder_width.main(
      [
        '--dim=3',
        '--used=1',
        '--hidden_sizes=8',
        '--particles=2',
        '--factors=0.5',
        '--batch_size=4',
        '--num_steps=2',
        '--seeds=0,1',
        f'--output={output}',
      ]
    )
    self.assertEqual(code, 0)
    rows = json.loads(output.read_text())['rows']
    self.assertEqual([row['factor'] for row in rows], [None, 0.5])
    # it begins at exp(-2), and the right one is 1
    np.testing.assert_allclose(rows[1]['unused_geometric'], 0.14, atol=0.1)
    table = output.with_suffix('.md').read_text()
    self.assertIn('| 2 | `rbf`, 0.5 |', table)

  def test_right_stds_are_those_of_the_posterior(self):
    model = encoder_width.Linear(3, 2, (4,))
    energy_fn = lambda z: (
      -model.log_likelihood({}, jnp.ones((1, 8, 8, 1)), z[None, None])[0, 0]
      + 0.5 * jnp.sum(z**2)
    )
    precision = jax.hessian(energy_fn)(jnp.ones(3))
    np.testing.assert_allclose(np.diag(precision), model.right**-2.0, rtol=1e-5)

  def test_unused_latents_are_needed(self):
    with self.assertRaisesRegex(ValueError, '--used needs less than --dim'):
      encoder_width.main(['--dim=4', '--used=4'])


if __name__ == '__main__':
  absltest.main()
