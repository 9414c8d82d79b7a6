"""Tests of ldc_vae.api.latent_sampler: a sampler for any latents."""

import contextlib
import io
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from sklearn import datasets
from sklearn import decomposition

import ldc_vae
from ldc_vae.api import latent_sampler
from ldc_vae.samplers import registry
from ldc_vae.samplers import sampler_net

_QUICK = {'num_steps': 30, 'verbose': False}


def _components(num=6):
  images = datasets.load_digits().data / 16
  return decomposition.PCA(num, random_state=0).fit_transform(images)


class FitSamplerTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.latents = _components()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
      cls.sampler = ldc_vae.fit_sampler(
        cls.latents, num_steps=30, compare=('gaussian', 'gmm_3', 'gmm_5000')
      )
    cls.printed = out.getvalue()

  def test_draws_have_the_moments_of_the_latents(self):
    draws = self.sampler.sample(20_000)
    self.assertEqual((draws.dtype, draws.shape), (np.float32, (20_000, 6)))
    # nine tenths of them were trained on, so that a few percent differ
    error = np.cov(draws.T) - np.cov(self.latents.T)
    self.assertLess(np.abs(error).max(), 0.1 * self.latents.var(axis=0).max())
    self.assertLess(np.abs(draws.mean(axis=0)).max(), 0.1)

  def test_seeds_decide(self):
    first, again, other = (self.sampler.sample(5, seed=i) for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    self.assertGreater(np.abs(first - other).min(), 0.0)

  def test_distances_rank_what_is_known(self):
    distances = self.sampler.distances
    self.assertEqual(
      list(distances),
      ['training latents', 'sampler net', 'gaussian', 'gmm_3', 'gmm_5000'],
    )
    self.assertIsNone(distances['gmm_5000'])
    fresh, net, gaussian, mixture = (
      distances[name]['sliced_wasserstein'] for name in list(distances)[:4]
    )
    self.assertLess(fresh, mixture)
    self.assertLess(mixture, gaussian)
    self.assertLess(fresh, net)
    self.assertEqual(self.sampler.num_held_out, 179)
    self.assertEqual(distances['training latents']['missed_share'], 0.0)

  def test_the_table_is_printed(self):
    table = self.sampler.table()
    self.assertEndsWith(self.printed, f'{table}\n')
    self.assertRegex(self.printed, r'^training the sampler net: \d+ s\n')
    self.assertIn('\nfitting gmm_3: ', self.printed)
    lines = table.splitlines()
    self.assertLen(lines, 7)
    self.assertRegex(lines[2], r'^sampler net +0\.\d{4} +\d\.\d\d$')
    self.assertRegex(lines[5], r'^gmm_5000 +could not be fitted$')
    self.assertIn('179 held-out latents', lines[6])
    self.assertIn(table, repr(self.sampler))

  def test_a_file_holds_all_of_it(self):
    path = pathlib.Path(self.create_tempdir().full_path, 'sampler.npz')
    self.sampler.save(path)
    loaded = ldc_vae.LatentSampler.load(path)
    np.testing.assert_array_equal(
      loaded.sample(9, seed=4), self.sampler.sample(9, seed=4)
    )
    self.assertEqual(repr(loaded), repr(self.sampler))
    self.assertEqual(loaded.latent_size, 6)

  def test_other_files_are_refused(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    with self.assertRaisesRegex(ldc_vae.UserError, 'name that ends in .npz'):
      self.sampler.save(folder / 'sampler.pt')
    np.savez(folder / 'other.npz', latents=self.latents)
    (folder / 'torn.npz').write_bytes(b'PK\x03\x04')
    for name in ('other.npz', 'torn.npz', 'missing.npz'):
      with self.assertRaisesRegex(ldc_vae.UserError, f'{name} cannot be read'):
        ldc_vae.LatentSampler.load(folder / name)

  def test_files_are_as_good_as_arrays(self):
    path = pathlib.Path(self.create_tempdir().full_path, 'z.npy')
    np.save(path, self.latents)
    other = ldc_vae.fit_sampler(path, compare=(), **_QUICK)
    np.testing.assert_array_equal(other.sample(7), self.sampler.sample(7))


class TrainedOnTest(absltest.TestCase):
  """What the samplers are given."""

  def _fit(self, *args, **kwargs):
    """Returns the latents that were trained on, and those held out."""
    seen = []
    fit = registry.fit

    def note(name, latents, **options):
      seen.append((name, latents))
      if name == 'svgd':
        return fit(name, latents, **options)
      return fit('prior', latents, seed=0)

    with (
      mock.patch.object(registry, 'fit', note),
      mock.patch.object(
        latent_sampler, '_distances', lambda _, train, held_out, seed: held_out
      ),
    ):
      sampler = ldc_vae.fit_sampler(*args, **_QUICK, **kwargs)
    for _, latents in seen[1:]:
      np.testing.assert_array_equal(latents, seen[0][1])
    held_out = sampler.distances['sampler net']
    return [name for name, _ in seen], seen[0][1], held_out

  def test_all_see_the_same_and_never_what_is_held_out(self):
    latents = np.random.default_rng(0).normal(size=(100, 2))
    names, train, held_out = self._fit(latents)
    self.assertEqual(names, ['svgd', *latent_sampler.RIVALS])
    np.testing.assert_array_equal(
      np.sort(np.concatenate([train, held_out]), axis=0),
      np.sort(latents, axis=0),
    )
    self.assertLen(held_out, 10)

  def test_standard_deviations_are_drawn_from(self):
    means = np.tile([[3.0, 0.0]], (200, 1))
    _, train, held_out = self._fit(means, means / 3, compare=())
    self.assertGreaterEqual(len(train), 50_000)
    self.assertLen(held_out, 20)
    # 5 standard errors of 50,000 normal numbers
    self.assertAlmostEqual(train[:, 0].mean(), 3.0, delta=5 / 50_000**0.5)
    self.assertAlmostEqual(train[:, 0].std(), 1.0, delta=4 / 50_000**0.5)
    self.assertEqual(train[:, 1].std(), 0.0)

  def test_options_reach_the_training(self):
    fit = mock.Mock(wraps=sampler_net.fit)
    with mock.patch.dict(registry.SAMPLERS, svgd=fit):
      ldc_vae.fit_sampler(
        _components(), compare=(), seed=7, sampler_mass=1.0, **_QUICK
      )
    self.assertEqual(
      fit.call_args.kwargs, {'seed': 7, 'num_steps': 30, 'sampler_mass': 1.0}
    )


class MistakesTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('one_axis', (np.zeros(30),), {}, r'shape \(30,\); give shape \[N, D\]'),
    ('few', (np.zeros((5, 2)),), {}, r'shape \(5, 2\); .* N at least 20'),
    ('empty', (np.zeros((30, 0)),), {}, r'shape \(30, 0\)'),
    ('texts', (np.full((30, 2), 'a'),), {}, 'have dtype <U1; give numbers'),
    ('nan', (np.full((30, 2), np.nan),), {}, '30 of 30 latents are not finite'),
    (
      'stds',
      (np.zeros((30, 2)), np.ones((30, 3))),
      {},
      r'stds have shape \(30, 3\) .* shape of the latents, \(30, 2\)',
    ),
    (
      'negative_stds',
      (np.zeros((30, 2)), -np.ones((30, 2))),
      {},
      'are at least -1; give numbers from 0 on',
    ),
    (
      'rival',
      (np.zeros((30, 2)),),
      {'compare': ('gmn_10',)},
      r"'gmn_10' is unknown \(did you mean gmm_10\?\)",
    ),
    (
      'option',
      (np.zeros((30, 2)),),
      {'num_step': 3},
      r'num_step is no option \(did you mean num_steps\?\)',
    ),
    ('ragged', ([[1], [2, 3]],), {}, 'latents make no NumPy array'),
    ('complex', (np.full((30, 2), 1j),), {}, 'have dtype complex128'),
    ('equal', (np.full((30, 2), 3.0),), {}, 'latents are all equal'),
    ('text', (np.eye(30),), {'num_steps': 'x'}, "num_steps='x'"),
    ('batch', (np.eye(30),), {'batch_size': -3}, 'batch_size=-3'),
    ('rate', (np.eye(30),), {'learning_rate': -1.0}, 'learning_rate=-1.0'),
    ('value', (np.eye(30),), {'sampler_mass': -1.0}, 'sampler_mass=-1.0'),
    ('steps', (np.ones((30, 2)),), {'num_steps': 0}, 'num_steps=0'),
    ('seed', (np.ones((30, 2)),), {'seed': -1}, 'seed=-1'),
  )
  def test_told_in_a_sentence(self, args, options, part):
    with self.assertRaisesRegex(ldc_vae.UserError, part):
      ldc_vae.fit_sampler(*args, **options)


if __name__ == '__main__':
  absltest.main()
