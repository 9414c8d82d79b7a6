"""Tests of benchmarks.few_particles and benchmarks.variance_collapse."""

import json
import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats

from benchmarks import few_particles
from benchmarks import variance_collapse
from ldc_vae import svgd
from tests.benchmarks import benchmark_case

_folder = benchmark_case.create_folder
_without_cache = benchmark_case.without_cache


class FewParticlesTest(parameterized.TestCase):
  def test_the_divergence_is_that_of_scipy(self):
    target = few_particles.create_target(3, correlated=True)
    np.testing.assert_allclose(
      target.precision @ target.covariance, np.eye(3), atol=1e-12
    )
    rng = np.random.default_rng(0)
    mean, factor = rng.normal(size=3), rng.normal(size=(3, 3))
    ours = scipy.stats.multivariate_normal(mean, factor @ factor.T)
    draws = ours.rvs(200_000, random_state=1)
    theirs = scipy.stats.multivariate_normal(np.zeros(3), target.covariance)
    ratios = ours.logpdf(draws) - theirs.logpdf(draws)
    self.assertAlmostEqual(
      few_particles.kl_divergence(mean, factor, target),
      np.mean(ratios),
      delta=5 * np.std(ratios) / np.sqrt(len(ratios)),
    )

  @parameterized.product(encoder=('diagonal', 'full'), factor=(None, 1.0))
  def test_training_finds_the_law_from_afar(self, encoder, factor):
    self.enter_context(  # in few steps
      absltest.mock.patch.object(few_particles, '_LEARNING_RATE', 0.01)
    )
    target = few_particles.create_target(2, correlated=encoder == 'full')
    before, after = [
      few_particles.train(
        target, encoder, factor, 8, start=0.3, num_steps=num_steps, seed=0
      )
      for num_steps in (1, 400)
    ]
    self.assertGreater(before['kl'], 0.8)
    # few steps, and for SVGD 8 particles; far less than the 0.8 of before
    self.assertLess(after['kl'], 0.05)
    self.assertAlmostEqual(after['width'], 1.0, delta=0.1)

  def test_small_run_writes_table_and_record(self):
    _without_cache(self)
    output = _folder(self) / 'few.json'
    code = few_particles.main(
      [
        '--dim=2',
        '--particles=2',
        '--factors=0.5',
        '--starts=1',
        '--num_steps=2',
        '--seeds=0,1',
        f'--output={output}',
      ]
    )
    self.assertEqual(code, 0)
    rows = json.loads(output.read_text())['rows']
    self.assertEqual(
      [(row['encoder'], row['direction']) for row in rows],
      [
        (encoder, direction)
        for encoder in ('diagonal', 'full')
        for direction in ('ELBO', '`rbf`, 0.5 of the rule')
      ],
    )
    self.assertLen(rows[0]['kl'], 2)
    table = output.with_suffix('.md').read_text()
    self.assertIn('| full L from 1, ELBO | 2 |', table)

  def test_a_lone_particle_is_an_error(self):
    with self.assertRaisesRegex(ValueError, '--particles needs numbers of'):
      few_particles.main(['--particles=4,1'])


class VarianceCollapseTest(parameterized.TestCase):
  def test_measures_by_hand(self):
    draws = np.array([[-1.0, 0.0], [1.0, 4.0]])  # stds sqrt(2), sqrt(8)
    found = variance_collapse.measure(draws / 2.0 + [1.0, 0.0], draws)
    self.assertAlmostEqual(found['width'], 0.5)
    # the means are off by 1 and by 1
    expected = (1.0 / math.sqrt(2.0) + 1.0 / math.sqrt(8.0)) / 2.0
    self.assertAlmostEqual(found['error'], expected)

  def test_the_mode_is_one(self):
    posterior = variance_collapse.create_posterior()
    self.assertEqual(posterior.features.shape, (569, 31))
    gradient = jax.jit(jax.grad(variance_collapse.log_density))(
      posterior.mode, posterior.features
    )
    # float32 sums of 569 terms
    np.testing.assert_allclose(gradient, np.zeros(31), atol=1e-3)

  @parameterized.parameters(False, True)
  def test_particles_come_to_rest_where_the_direction_is_none(self, whiten):
    posterior = variance_collapse.create_posterior()
    mode, factor, kernel = posterior.mode, posterior.factor, svgd.rbf(3.0)

    @jax.jit
    def speed(weights):  # of what the kernel sees, without preconditioning
      score_fn = jax.vmap(
        jax.grad(variance_collapse.log_density), in_axes=(0, None)
      )
      scores = score_fn(weights, posterior.features)
      if whiten:
        weights = jnp.linalg.solve(factor, (weights - mode).T).T
        scores = scores @ factor
      direction = svgd.svgd_direction(
        weights, scores, kernel, off_diagonal=False
      )
      return jnp.sqrt(jnp.mean(jnp.square(direction)))

    ends = variance_collapse.run_svgd(
      posterior,
      kernel,
      whiten=whiten,
      num_particles=4,
      num_steps=200,
      rate=0.5,
      seeds=(0,),
    )
    self.assertEqual(ends.shape, (2, 1, 4, 31))
    start = mode + np.random.default_rng(0).normal(size=(4, 31)) @ factor.T
    # at rate 1/2 attraction alone leaves less than (1 - 1/8)^400
    self.assertLess(speed(ends[1, 0]), 1e-2 * speed(start))

  def test_noise_is_that_of_the_package(self):
    posterior = variance_collapse.create_posterior()
    found = variance_collapse.run_svgd(
      posterior,
      svgd.rbf('mean'),
      whiten=True,
      num_particles=4,
      num_steps=1,
      rate=0.1,
      seeds=(0,),
      noise=0.5,
    )[0, 0]

    def log_density(u):
      weights = posterior.mode + posterior.factor @ u
      return variance_collapse.log_density(weights, posterior.features)

    # the key of its first step, of seed 0
    state = svgd.init(
      jax.random.normal(jax.random.key(0), (4, 31)), optax.sgd(0.1)
    )
    state = svgd.step(
      state,
      log_density,
      optax.sgd(0.1),
      svgd.rbf('mean'),
      noise=svgd.Noise(0.5, 0.1),
      key=jax.random.split(jax.random.key(1), 2)[0],
    )
    weights = posterior.mode + state.particles @ posterior.factor.T
    np.testing.assert_allclose(found, weights, rtol=1e-4, atol=1e-4)  # float32

  def test_small_form_has_a_row_for_each_kernel(self):
    _without_cache(self)
    output = _folder(self) / 'collapse.json'
    cases = variance_collapse.CASES
    with absltest.mock.patch.multiple(
      variance_collapse,
      _NUM_WARMUP=10,
      CASES={name: cases[name] for name in ('imq', 'linear')},
    ):
      code = variance_collapse.main(
        [
          '--particles=5',
          '--num_steps=2',
          '--nuts_samples=20',
          '--seeds=0,1',
          f'--output={output}',
        ]
      )
    self.assertEqual(code, 0)
    rows = json.loads(output.read_text())['rows']
    self.assertEqual(
      [(row['kernel'], row['weights']) for row in rows],
      [
        (name, weights)
        for weights in ('as they are', 'whitened')
        for name in ('imq', 'linear')
      ],
    )
    for row in rows:
      for key in ('width', 'width_at_twice_the_steps', 'error'):
        self.assertLen(row[key], 2)
        self.assertTrue(np.all(np.isfinite(row[key])))
    self.assertIn('least effective', output.with_suffix('.md').read_text())

  def test_a_lone_particle_is_an_error(self):
    with self.assertRaisesRegex(ValueError, '--particles=1 has no standard'):
      variance_collapse.main(['--particles=1'])


if __name__ == '__main__':
  absltest.main()
