"""Tests for the bench of latent samplers: its sets, distances and verdicts."""

import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from scipy import stats

from benchmarks import common
from benchmarks import latent_bench
from benchmarks import latent_bench_distances as distances
from benchmarks import latent_bench_frozen as frozen_lib
from benchmarks import latent_bench_sets as sets_lib
from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier
from ldc_vae.metrics import latent as latent_metrics
from ldc_vae.runtime import checkpoint
from ldc_vae.samplers import registry

_IN_PLANE = (
  'ring_2',
  'grid_2',
  'moons_2',
  'unequal_2',
  'mixture_2',
  'swiss_roll_2',
  'shell_2',
)
_NAMES = (*_IN_PLANE, *sets_lib.DEFAULT_SETS[4:])


def _rng(seed=0):
  return np.random.default_rng(seed)


class LawTest(parameterized.TestCase):
  @parameterized.parameters(*_NAMES)
  def test_draws_have_the_moments(self, name):
    distribution = sets_lib.create_distribution(name)
    x = distribution.draw(20_000, _rng()).astype(np.float64)
    mean, cov = distribution.moments()
    stds = np.sqrt(np.diag(cov))
    # standard errors of 0.007 and at most 0.01 in these units, of 64^2 numbers
    np.testing.assert_array_less(np.abs(x.mean(axis=0) - mean) / stds, 0.04)
    errors = (np.cov(x.T) - cov) / np.outer(stds, stds)
    np.testing.assert_array_less(np.abs(errors), 0.06)

  @parameterized.parameters('moons_2', 'unequal_2', 'shell_2')
  def test_density_is_that_of_the_draws(self, name):
    distribution = sets_lib.create_distribution(name)
    # steps below the smallest std, 0.1, leave no ripple in the sum
    line = np.linspace(-4.5, 4.5, 150)
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    log_density = distribution.log_density(points)
    cells = np.exp(log_density) * (line[1] - line[0]) ** 2
    # what is beyond 4.5 is less than 1e-3
    self.assertAlmostEqual(np.sum(cells), 1.0, delta=2e-3)
    own = -distribution.log_density(distribution.draw(20_000, _rng()))
    # -log p of the distribution itself has this mean: its entropy
    self.assertAlmostEqual(
      np.mean(own),
      -np.sum(cells * log_density),
      delta=5.0 * np.std(own) / 20_000**0.5 + 5e-3,
    )

  @parameterized.parameters(*_NAMES)
  def test_score_is_the_slope_of_the_density(self, name):
    distribution = sets_lib.create_distribution(name)
    x = distribution.draw(5, _rng(1)).astype(np.float64)
    step = 1e-5
    slopes = [
      (
        distribution.log_density(x + shift)
        - distribution.log_density(x - shift)
      )
      / (2 * step)
      for shift in step * np.eye(x.shape[1])
    ]
    # third derivatives are at most std^-3 = 2e4, times step^2
    np.testing.assert_allclose(
      distribution.score(x), np.stack(slopes, axis=1), rtol=1e-4, atol=1e-3
    )

  def test_embedding_turns_and_widens(self):
    mean, root = np.array([[1.0, 2.0]]), np.array([[[0.5, 0.0], [0.3, 0.4]]])
    turn = np.linalg.qr(_rng().normal(size=(3, 3)))[0]
    distribution = sets_lib.Embedded(
      sets_lib.Mixture([1.0], mean, root), turn, [0.7]
    )
    full = np.zeros((3, 3))
    full[:2, :2], full[2, 2] = root[0] @ root[0].T, 0.49
    normal = stats.multivariate_normal(
      turn[:, :2] @ mean[0], turn @ full @ turn.T
    )
    x = _rng(1).normal(size=(7, 3))
    np.testing.assert_allclose(  # float64
      distribution.log_density(x), normal.logpdf(x), rtol=1e-9
    )

  @parameterized.parameters(*_NAMES)
  def test_draws_have_every_mode(self, name):
    distribution = sets_lib.create_distribution(name)
    masses, far = distribution.masses(distribution.draw(20_000, _rng()))
    # the lightest have 240 of the draws: five standard errors are a third
    np.testing.assert_allclose(masses, 1.0, atol=0.33)
    self.assertLess(far, 8e-4)  # 1e-4, or 2 draws

  def test_modes_are_counted_by_hand(self):
    distribution = sets_lib.create_distribution('ring_2')
    masses, far = distribution.masses(
      np.array([[2.0, 0.0], [2.0, 0.1], [0.0, 0.0]])
    )
    np.testing.assert_allclose(masses, [16.0 / 3.0, *[0.0] * 7], atol=1e-6)
    self.assertAlmostEqual(far, 1.0 / 3.0)

  def test_the_middle_of_a_shell_is_far(self):
    distribution = sets_lib.create_distribution('shell_16')
    masses, far = distribution.masses(np.zeros((4, 16)))
    self.assertEqual((masses.tolist(), far), ([0.0], 1.0))

  @parameterized.parameters('ring', 'ring_x', 'heart_2', 'ring_1')
  def test_unknown_set_is_reported(self, name):
    with self.assertRaisesRegex(ValueError, f'--sets={name} is unknown'):
      latent_bench.main([f'--sets={name}', '--output='])


class DistancesTest(absltest.TestCase):
  def test_sliced_is_that_of_the_package(self):
    x, y = _rng().normal(size=(2, 300, 3)).astype(np.float32)
    key = jax.random.key(0)
    slopes = np.asarray(jax.random.normal(key, (20, 3))).T
    slopes = slopes / np.linalg.norm(slopes, axis=0)
    expected = latent_metrics.sliced_wasserstein(x, y, key, 20)
    actual = distances.sliced_wasserstein([x], [y], slopes)
    self.assertAlmostEqual(actual, float(expected), delta=1e-5)  # float32

  def test_sliced_is_over_all_pairs(self):
    x, y = _rng().normal(size=(2, 3, 50, 4))
    slopes = distances.directions(6, 4, _rng(1))
    one = lambda a, b: distances.sliced_wasserstein([a], [b], slopes)
    expected = np.sqrt(np.mean([one(a, b) ** 2 for a in x for b in y]))
    actual = distances.sliced_wasserstein(list(x), list(y), slopes)
    self.assertAlmostEqual(actual, expected, delta=1e-6)  # float32

  def test_classifier_tells_what_differs(self):
    x, y = _rng().normal(size=(2, 2000, 2))
    # 2,000 held-out ones: a standard error of 0.011
    self.assertAlmostEqual(
      distances.two_sample_accuracy(x, y, seed=0), 0.5, delta=0.05
    )
    # the best there is has Phi(1) = 0.84
    self.assertAlmostEqual(
      distances.two_sample_accuracy(x + [2.0, 0.0], y, seed=0),
      0.84,
      delta=0.04,
    )

  def test_the_decoded_distance_decides_where_there_is_one(self):
    own = dict.fromkeys((*distances.RATIOS, *distances.OTHERS), 1.0)
    own['smallest'] = 0.1  # a rare class
    floor = {**own, 'frechet': 0.8, 'sliced': 0.01}
    self.assertTrue(distances.compare(own, floor)['within'])
    floor['frechet'] = 0.7
    row = distances.compare(own, floor)
    self.assertFalse(row['within'])
    self.assertAlmostEqual(row['verdict_ratio'], 1.0 / 0.7)

  def test_the_worst_sliced_distance_decides_elsewhere(self):
    own = dict.fromkeys((*distances.RATIOS, *distances.OTHERS), 1.0)
    own['frechet'] = None
    self.assertTrue(distances.compare(own, own)['within'])
    row = distances.compare({**own, 'sliced_plane': 1.4}, own)
    self.assertEqual(row['verdict_ratio'], 1.4)
    self.assertFalse(row['within'])
    row = distances.compare({**own, 'largest': 2.1}, own)
    self.assertTrue(row['within_distance'])
    self.assertFalse(row['within'])


class RunSetTest(absltest.TestCase):
  def _run(self, name, sample_fn, num_draws=8):
    """The row of a sampler on a known set."""
    rows = []
    with absltest.mock.patch.object(
      registry, 'fit', lambda *args, **kwargs: sample_fn
    ):
      latent_bench.run_set(
        sets_lib.create_set(name, 100),
        ('mine',),
        0,
        options={},
        num_samples=1000,
        num_draws=num_draws,
        num_projections=32,
        image_draws=1,
        add_fn=rows.append,
      )
    return rows[0]

  def test_a_perfect_sampler_is_at_the_floor(self):
    distribution = sets_lib.create_distribution('ring_16')
    row = self._run(
      'ring_16', lambda num, seed: distribution.draw(num, _rng(seed))
    )
    self.assertTrue(row['within'])
    for name, delta in {
      'sliced': 0.15,
      'sliced_plane': 0.25,
      'classifier': 0.1,
    }.items():
      self.assertAlmostEqual(row[f'{name}_ratio'], 1.0, delta=delta, msg=name)
    for name in ('mmd', 'ksd'):  # root mean squares of 8 around 0, skewed
      self.assertBetween(row[f'{name}_ratio'], 1.0 / 3.0, 3.0, msg=name)
    # nats; the std of the log density is 2.9, and there are 8,000 draws
    self.assertAlmostEqual(row['nll_excess'], 0.0, delta=0.2)
    self.assertLess(row['far'], 1e-3)

  def test_a_lost_mode_is_called_out(self):
    distribution = sets_lib.create_distribution('unequal_2')

    def sample(num, seed):
      x = distribution.draw(2 * num, _rng(seed))
      lightest = np.linalg.norm(x - np.array([1.5, 2.5]), axis=1) < 1.0
      return x[~lightest][:num]

    row = self._run('unequal_2', sample, num_draws=2)
    self.assertLess(row['smallest'], 0.01)
    self.assertLess(row['largest'], 1.3)
    self.assertFalse(row['within_modes'])
    self.assertFalse(row['within'])

  def test_latents_that_are_not_finite_have_no_numbers(self):
    row = self._run(
      'moons_2', lambda num, seed: np.full((num, 2), np.nan), num_draws=1
    )
    self.assertIsNone(row['sliced_ratio'])
    self.assertIsNotNone(row['sliced_floor'])
    self.assertFalse(row['within'])


class FrozenTest(absltest.TestCase):
  def _images_fn(self, real):
    return frozen_lib.make_images_fn(
      decode_fn=lambda z: z,
      features_fn=lambda images: images,
      classes_fn=lambda images: (images[:, 0] > 0.0).astype(int),
      real=real,
      num_classes=2,
    )

  def test_real_images_are_at_distance_zero(self):
    real = _rng().normal(size=(200, 2)).astype(np.float32)
    frechet, masses = self._images_fn(real)(real)
    self.assertAlmostEqual(frechet, 0.0, delta=1e-9)  # float64 moments
    np.testing.assert_array_equal(masses, [1.0, 1.0])

  def test_a_shift_is_a_distance_and_loses_a_class(self):
    real = _rng().normal(size=(200, 2)).astype(np.float32)
    frechet, masses = self._images_fn(real)(
      real + np.array([5.0, 0.0], np.float32)
    )
    # |m1 - m2|^2 of a pure shift; float32 latents
    self.assertAlmostEqual(frechet, 25.0, delta=1e-4)
    self.assertEqual(masses[0], 0.0)

  def test_a_run_is_its_aggregate_posterior(self):
    config = config_lib.load('configs/digits.py:vae,debug')
    state = experiment_lib.create(config).init_state()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    workdir = pathlib.Path(folder.name) / 'digits'
    meta = {'config': config.to_dict()}
    restored = absltest.mock.Mock(state=state, step=0, meta=meta)
    opened = absltest.mock.MagicMock()
    opened.__enter__.return_value.restore.return_value = restored
    fake = absltest.mock.Mock(
      features=lambda images: images[:, :4, 2, 0].astype(np.float64),
      probabilities=lambda images: np.eye(10)[images[:, 0, 0, 0] % 10],
    )
    patch = absltest.mock.patch.object
    with (
      patch(config_lib, 'read', lambda _: config),
      patch(checkpoint, 'Checkpointer', lambda *_, **__: opened),
      patch(classifier, 'load_or_train', lambda *_, **__: fake),
    ):
      latent_set = frozen_lib.load_run(
        str(workdir), data_dir='', num_train=300, classifier_seed=0
      )
    self.assertEqual(latent_set.name, 'digits')
    dim = config.model.latent_size
    self.assertEqual(latent_set.train_fn(_rng()).shape, (300, dim))
    # one draw of each image of a half, so that no image is in both
    fresh, reference = (
      draw_fn(10_000, _rng())
      for draw_fn in (latent_set.fresh_fn, latent_set.reference_fn)
    )
    self.assertLen(
      np.unique(np.concatenate([fresh, reference]), axis=0),
      len(fresh) + len(reference),
    )
    self.assertLess(abs(len(fresh) - len(reference)), 2)
    self.assertTrue(np.isfinite(latent_set.score_fn(fresh)).all())
    distance, masses = latent_set.images_fn(fresh)
    self.assertGreater(distance, 0.0)
    self.assertLen(masses, 10)

  def test_components_of_images(self):
    pixels = _rng()
    images = {
      split: pixels.integers(256, size=(num, 4, 4, 1), dtype=np.uint8)
      for split, num in (('train', 300), ('validation', 40), ('test', 60))
    }
    with absltest.mock.patch.object(
      datasets,
      'load',
      lambda *unused_args, **unused_kwargs: datasets.Dataset(
        'x', images, None, 0
      ),
    ):
      latent_set = frozen_lib.load_components('x', data_dir='', num_train=250)
    train = latent_set.train_fn(_rng())
    self.assertEqual(train.shape, (250, 16))
    self.assertEqual(latent_set.reference_fn(500, _rng()).shape, (100, 16))
    # all but 50 of what has a mean variance of 1
    self.assertAlmostEqual(np.mean(np.var(train, axis=0)), 1.0, delta=0.05)


class MainTest(parameterized.TestCase):
  def test_leaves_a_record_and_a_table(self):
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    output = pathlib.Path(folder.name) / 'bench.json'
    with absltest.mock.patch.object(common, 'set_up_jax'):
      code = latent_bench.main(
        [
          '--sets=ring_2,swiss_roll_3',
          '--samplers=gaussian,gmm_8',
          '--seeds=3,4',
          '--num_train=400',
          '--num_samples=200',
          '--num_draws=2',
          f'--output={output}',
        ]
      )
    self.assertEqual(code, 0)
    record = json.loads(output.read_text())
    self.assertEqual(
      [(row['set'], row['seed'], row['sampler']) for row in record['rows']],
      [
        (name, seed, sampler)
        for name in ('ring_2', 'swiss_roll_3')
        for seed in (3, 4)
        for sampler in ('gaussian', 'gmm_8')
      ],
    )
    self.assertEqual(record['summary']['gaussian'], {'within': 0, 'of': 4})
    text = output.with_suffix('.md').read_text()
    self.assertIn('**gaussian: 0 of 4 within 1.3x**', text)
    self.assertIn('| swiss_roll_3, gmm_8 |', text)
    self.assertNotIn(str(output.parent), text + output.read_text())

  def test_options_are_parsed(self):
    self.assertEqual(
      latent_bench.parse_options('num_steps=20,rate=1e-3,kernel=imq'),
      {'num_steps': 20, 'rate': 1e-3, 'kernel': 'imq'},
    )

  def test_an_option_that_does_not_fit_is_reported(self):
    with absltest.mock.patch.object(common, 'set_up_jax'):
      with self.assertRaisesRegex(ValueError, '--options do not fit gaussian'):
        latent_bench.main(
          [
            '--sets=ring_2',
            '--samplers=gaussian',
            '--options=num_steps=3',
            '--num_samples=50',
            '--num_draws=1',
            '--output=',
          ]
        )

  @parameterized.parameters(
    (['--sets='], 'name nothing to find'),
    (['--samplers='], '--samplers names nothing'),
    (['--workdirs=a/x,b/x'], '--workdirs names x twice'),
  )
  def test_a_wrong_choice_is_reported(self, argv, message):
    with self.assertRaisesRegex(ValueError, message):
      latent_bench.main([*argv, '--output='])


if __name__ == '__main__':
  absltest.main()
