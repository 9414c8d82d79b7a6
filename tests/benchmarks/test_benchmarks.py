"""Tests for the benchmarks: their pure pieces, and a small run of each kind."""

import argparse
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from benchmarks import common
from benchmarks import conv_step
from benchmarks import conv_step_ldc_vae
from benchmarks import encoder_bound
from benchmarks import encoder_width
from benchmarks import few_particles
from benchmarks import search
from benchmarks import seeds
from benchmarks import svgd_directions
from benchmarks import svgd_directions_worker
from benchmarks import variance_collapse
from configs import default
from ldc_vae import config as config_lib
from ldc_vae import svgd
from ldc_vae.data import datasets
from ldc_vae.models import networks
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs as jobs_lib

_SMALL = networks.Sizes(latent_size=2, hidden_sizes=(8,))


def _folder(test):
  folder = tempfile.TemporaryDirectory()
  test.addCleanup(folder.cleanup)
  return pathlib.Path(folder.name)


def _without_cache(test):
  """Leaves jax's compilation cache as it is: it outlives a test."""
  test.enter_context(absltest.mock.patch.object(common, 'set_up_jax'))


class CommandTest(parameterized.TestCase):

  @parameterized.parameters(
      (['--data_dir=/home/me/tfds', '--seeds=0,1'],
       '--data_dir=DATA_DIR --seeds=0,1'),
      (['--workdir', '/scratch/run', '--collect_only'],
       '--workdir=WORKDIR --collect_only'),
      (['--config.dataset.data_dir=../data'],
       '--config.dataset.data_dir=DATA_DIR'),
  )
  def test_names_no_place(self, argv, expected):
    self.assertEqual(
        common.command('benchmarks.x', argv),
        f'python -m benchmarks.x {expected}',
    )


class StatisticsTest(parameterized.TestCase):

  def test_one_value_has_no_spread(self):
    self.assertEqual(common.show_spread([1.25]), '1.25')

  def test_missing_values_are_counted(self):
    self.assertEqual(common.show_spread([2.0, None, 4.0]), '3.00 (2 of 3)')
    self.assertEqual(common.show_spread([None]), 'n/a')

  @parameterized.parameters(
      (0.0123456, '0.0123'),
      (4.0, '4.00'),
      (123.456, '123'),
      (98765.4, '98765'),
      (1.2345e-5, '1.23e-05'),
      (-0.5, '-0.500'),
      (0.0, '0'),
      (7, '7'),
      (None, 'n/a'),
      (math.nan, 'n/a'),
  )
  def test_shows_three_digits(self, value, expected):
    self.assertEqual(common.show(value), expected)


class TableTest(absltest.TestCase):

  def test_record_and_table_lie_side_by_side(self):
    output = _folder(self) / 'results' / 'x.json'
    record = common.create_record('benchmarks.x', ['--seeds=3'], [3])
    common.write(output, record, 'the table\n')
    stored = json.loads(output.read_text())
    self.assertEqual(stored['command'], 'python -m benchmarks.x --seeds=3')
    self.assertEqual(stored['seeds'], [3])
    self.assertIn('git_commit', stored)
    self.assertGreater(stored['device']['count'], 0)
    markdown = output.with_suffix('.md').read_text()
    self.assertStartsWith(markdown, 'the table\n')
    self.assertIn('python -m benchmarks.x --seeds=3', markdown)

  def test_names_the_commits_of_the_runs(self):
    record = common.create_record('benchmarks.x', [], [0])
    record['rows'] = [{'git_commit': 'b'}, {'git_commit': 'a'}, {}]
    output = _folder(self) / 'x.json'
    common.write(output, record, 'table')
    self.assertIn('; runs of a, b.', output.with_suffix('.md').read_text())


class ParseTest(parameterized.TestCase):

  def _parse(self, *argv):
    parser = argparse.ArgumentParser()
    parser.add_argument('--seeds', type=common.integers, default=(0,))
    parser.add_argument('--output', default='')
    return common.parse_overrides(parser, argv)

  @parameterized.parameters(
      ('--output=x.txt', 'must end in .json'),
      ('--output=/dev/null/x.json', '/dev/null'),
      ('--seeds=1,2,1', '--seeds names 1 twice'),
  )
  def test_a_mistake_is_told_before_the_work(self, argument, message):
    with self.assertRaisesRegex((ValueError, OSError), message):
      self._parse(argument)

  @parameterized.parameters('--seeds=', '--seeds=a', '--foo=3', 'config.py')
  def test_what_argparse_tells(self, argument):
    with self.assertRaises(SystemExit):
      self._parse(argument)

  def test_the_folder_of_the_output_is_made(self):
    output = _folder(self) / 'new' / 'x.json'
    args, overrides = self._parse(
        f'--output={output}', '--config.seed=3', '--seeds=1,2'
    )
    self.assertEqual((args.seeds, overrides), ((1, 2), ['--config.seed=3']))
    self.assertTrue(output.parent.is_dir())
    self.assertFalse(output.exists())


class RunTest(absltest.TestCase):

  def test_a_signal_ends_the_jobs_too(self):
    program = """
import sys
from benchmarks import common
from ldc_vae.runtime import jobs

child = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'
job = jobs.Job('child', (sys.executable, '-c', child))
common.run(lambda unused_argv: jobs.run_all([job], 1))
"""
    with subprocess.Popen(
        (sys.executable, '-c', program), stdout=subprocess.PIPE, text=True
    ) as process:
      child = int(process.stdout.readline())
      process.terminate()
      self.assertEqual(process.wait(30), 128 + signal.SIGTERM)
    with self.assertRaises(ProcessLookupError):
      os.kill(child, 0)


class SearchTest(parameterized.TestCase):

  def test_methods_have_as_many_trials_each(self):
    self.assertCountEqual(search.TRIALS, default.OBJECTIVES)
    self.assertLen(set(map(len, search.TRIALS.values())), 1)
    for trials in search.TRIALS.values():
      self.assertLen(set(map(tuple, trials)), 1)  # of the same fields
      self.assertLen(set(tuple(each.items()) for each in trials), len(trials))

  @parameterized.parameters(('mnist',), ('fashion_mnist',))
  def test_configs_have_what_was_chosen(self, name):
    for method in default.OBJECTIVES:
      config = config_lib.flatten(
          config_lib.load(f'configs/{name}.py:{method}')
      )
      chosen = default.SEARCHED.get(method, {})
      for field, value in chosen.items():
        self.assertEqual(config[field], value, method)
      if chosen:
        self.assertIn(chosen, search.TRIALS[method])

  # the filed trials of ldc are of an earlier sampler
  @parameterized.parameters(*sorted(set(default.OBJECTIVES) - {'ldc'}))
  def test_the_best_of_the_filed_trials_was_chosen(self, method):
    rows = []
    results = config_lib.ROOT / 'benchmarks' / 'results'
    for path in results.glob('search*.json'):
      rows += json.loads(path.read_text())['rows']
    rows = [row for row in rows if row['method'] == method]
    self.assertCountEqual(
        [row['options'] for row in rows], search.TRIALS[method]
    )
    best = min(rows, key=lambda row: row['frechet_classifier/generator'])
    self.assertTrue(best['chosen'])
    config = config_lib.flatten(config_lib.load(f'configs/mnist.py:{method}'))
    for field, value in best['options'].items():
      self.assertEqual(config[field], value)

  def test_the_validation_split_decides_and_is_read(self):
    # a method's own generator decides, whatever fits its latents better
    values = {'ae': (3.0, 1.0, 2.0), 'vae': (5.0, 4.0, None)}
    root = _folder(self)
    trials = search.create_trials(
        'configs/digits.py:debug', ('ae', 'vae'), 7, root
    )
    self.assertLen(trials, 6)
    for trial in trials:
      self.assertIn('--config.evaluate.split=validation', trial.arguments)
      value = values[trial.method][int(trial.workdir.name[-1])]
      trial.workdir.mkdir()
      results = {
          'frechet_classifier/generator': value,
          'frechet_classifier/gmm_10': 9.0 - (value or 0.0),
          'protocol/split': 'validation' if value else 'test',
      }
      (trial.workdir / 'results.json').write_text(json.dumps(results))
      files.write_json(trial.workdir / 'trial.json', list(trial.arguments))
    rows = search.collect(trials)
    self.assertEqual(
        [(row['method'], row['options']) for row in rows if row['chosen']],
        [('ae', search.TRIALS['ae'][1])],  # one of vae's is not there
    )
    self.assertLen(rows, 5)
    text = search.to_markdown(rows)
    for trial in trials[:3]:  # data without labels have no such distance
      (trial.workdir / 'results.json').write_text(
          '{"protocol/split": "validation"}'
      )
    self.assertFalse(any(row['chosen'] for row in search.collect(trials)))
    self.assertIn('| **`ae` `optimizer.learning_rate=0.002`** | 1.00 |', text)
    self.assertIn('| `ae` `optimizer.learning_rate=0.001` | 3.00 |', text)
    others = search.create_trials(
        'configs/digits.py:debug', ('ae', 'vae'), 8, root
    )
    self.assertEmpty(search.collect(others))  # of another seed

  def test_a_finished_trial_is_not_run_again(self):
    root = _folder(self)
    trials = search.create_trials('configs/digits.py', ('ae',), 7, root)
    started = []

    def run_all(jobs, unused_num_jobs, *, on_end):
      for job in jobs:
        started.append(job.name)
        folder = root / job.name
        folder.mkdir(exist_ok=True)
        failed = job.name == 'ae_1' and len(started) < 4
        if not failed:
          (folder / 'results.json').write_text(
              '{"protocol/split": "validation"}'
          )
        on_end(jobs_lib.End(job, int(failed), 1.0, ''))

    with absltest.mock.patch.object(jobs_lib, 'run_all', run_all):
      self.assertEqual(search.run(trials, 1), ['ae_1'])
      self.assertEqual(search.run(trials, 1), [])
      self.assertEqual(search.run(trials, 1), [])
      self.assertEqual(started, ['ae_0', 'ae_1', 'ae_2', 'ae_1'])
      # another length is another trial
      longer = search.create_trials(
          'configs/digits.py', ('ae',), 7, root, ['--config.train.num_epochs=2']
      )
      self.assertEqual(search.run(longer, 1), [])
      self.assertLen(started, 7)

  def test_a_failed_trial_fails_whatever_lies_there(self):
    root = _folder(self)
    for trial in search.create_trials(
        'configs/digits.py', ('ae',), 100, str(root)
    ):
      trial.workdir.mkdir()
      (trial.workdir / 'results.json').write_text(json.dumps({
          'protocol/split': 'validation', 'frechet_classifier/generator': 1.0,
      }))
      files.write_json(trial.workdir / 'trial.json', list(trial.arguments))
    argv = [
        '--config=configs/digits.py', '--methods=ae', f'--workdir={root}',
        f'--output={root}/search.json',
    ]
    for failed, code in ([], 0), (['ae_1'], 1):
      with absltest.mock.patch.object(search, 'run', lambda *_: failed):
        self.assertEqual(search.main(argv), code)

  def test_a_mistake_is_told_before_the_first_trial(self):
    with self.assertRaisesRegex(ValueError, '--methods=vea is unknown'):
      search.main(['--methods=vea'])
    with self.assertRaisesRegex(ValueError, 'learning_rat'):
      search.main(['--config.optimizer.learning_rat=1'])
    with self.assertRaisesRegex(ValueError, 'sets evaluate.split'):
      search.main(['--config.evaluate.split=test'])
    with self.assertRaisesRegex(ValueError, '--methods does that'):
      search.main(['--config=configs/mnist.py:vae'])


class NormaliserTest(absltest.TestCase):

  def test_is_that_of_mnist(self):
    # log(0.2 pi) = -0.46471, half of it for each of 784 pixels
    self.assertAlmostEqual(
        encoder_bound.normaliser((28, 28, 1), 0.1**0.5), -182.17, delta=0.01
    )


class PairedDifferencesTest(absltest.TestCase):

  def _rows(self):
    values = {('elbo', 0): 5.0, ('elbo', 1): 7.0, ('elbo', 2): 6.0,
              ('svgd', 0): 4.5, ('svgd', 1): 6.0}
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

  @parameterized.product(
      encoder=('diagonal', 'full'), factor=(None, 1.0)
  )
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
    code = few_particles.main([
        '--dim=2', '--particles=2', '--factors=0.5', '--starts=1',
        '--num_steps=2',
        '--seeds=0,1', f'--output={output}',
    ])
    self.assertEqual(code, 0)
    rows = json.loads(output.read_text())['rows']
    self.assertEqual(
        [(row['encoder'], row['direction']) for row in rows],
        [(encoder, direction) for encoder in ('diagonal', 'full')
         for direction in ('ELBO', '`rbf`, 0.5 of the rule')],
    )
    self.assertLen(rows[0]['kl'], 2)
    table = output.with_suffix('.md').read_text()
    self.assertIn('| full L from 1, ELBO | 2 |', table)

  def test_a_lone_particle_is_an_error(self):
    with self.assertRaisesRegex(ValueError, '--particles needs numbers of'):
      few_particles.main(['--particles=4,1'])


class EncoderWidthTest(absltest.TestCase):

  def test_small_run_writes_table_and_record(self):
    _without_cache(self)
    output = _folder(self) / 'width.json'
    code = encoder_width.main([
        '--dim=3', '--used=1', '--hidden_sizes=8', '--particles=2',
        '--factors=0.5', '--batch_size=4', '--num_steps=2', '--seeds=0,1',
        f'--output={output}',
    ])
    self.assertEqual(code, 0)
    rows = json.loads(output.read_text())['rows']
    self.assertEqual([row['factor'] for row in rows], [None, 0.5])
    # it begins at exp(-2), and the right one is 1
    np.testing.assert_allclose(rows[1]['unused_geometric'], 0.14, atol=0.1)
    table = output.with_suffix('.md').read_text()
    self.assertIn('| 2 | `rbf`, 0.5 |', table)

  def test_right_deviations_are_those_of_the_posterior(self):
    model = encoder_width.Linear(3, 2, (4,))
    energy_fn = lambda z: -model.log_likelihood(
        {}, jnp.ones((1, 8, 8, 1)), z[None, None]
    )[0, 0] + 0.5 * jnp.sum(z**2)
    precision = jax.hessian(energy_fn)(jnp.ones(3))
    np.testing.assert_allclose(
        np.diag(precision), model.right**-2.0, rtol=1e-5
    )

  def test_unused_latents_are_needed(self):
    with self.assertRaisesRegex(ValueError, '--used needs less than --dim'):
      encoder_width.main(['--dim=4', '--used=4'])


class VarianceCollapseTest(parameterized.TestCase):

  def test_measures_by_hand(self):
    draws = np.array([[-1.0, 0.0], [1.0, 4.0]])  # deviations sqrt(2), sqrt(8)
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
        posterior, kernel, whiten=whiten, num_particles=4, num_steps=200,
        rate=0.5, seeds=(0,),
    )
    self.assertEqual(ends.shape, (2, 1, 4, 31))
    start = mode + np.random.default_rng(0).normal(size=(4, 31)) @ factor.T
    # at rate 1/2 attraction alone leaves less than (1 - 1/8)^400
    self.assertLess(speed(ends[1, 0]), 1e-2 * speed(start))

  def test_small_form_has_a_row_for_each_kernel(self):
    _without_cache(self)
    output = _folder(self) / 'collapse.json'
    cases = variance_collapse.CASES
    with absltest.mock.patch.multiple(
        variance_collapse, _NUM_WARMUP=10,
        CASES={name: cases[name] for name in ('imq', 'linear')},
    ):
      code = variance_collapse.main([
          '--particles=5', '--num_steps=2', '--nuts_samples=20', '--seeds=0,1',
          f'--output={output}',
      ])
    self.assertEqual(code, 0)
    rows = json.loads(output.read_text())['rows']
    self.assertEqual(
        [(row['kernel'], row['weights']) for row in rows],
        [(name, weights) for weights in ('as they are', 'whitened')
         for name in ('imq', 'linear')],
    )
    for row in rows:
      for key in ('width', 'width_at_twice_the_steps', 'error'):
        self.assertLen(row[key], 2)
        self.assertTrue(np.all(np.isfinite(row[key])))
    self.assertIn('least effective', output.with_suffix('.md').read_text())

  def test_a_lone_particle_is_an_error(self):
    with self.assertRaisesRegex(ValueError, '--particles=1 has no deviation'):
      variance_collapse.main(['--particles=1'])


class EncoderBoundTest(absltest.TestCase):

  def test_pairs_a_small_run_of_each(self):
    _without_cache(self)
    pixels = np.random.default_rng(0)
    images = {
        split: pixels.integers(256, size=(num, 6, 6, 1), dtype=np.uint8)
        for split, num in (('train', 256), ('validation', 20), ('test', 30))
    }
    # the size of the nets is the benchmark's own, so images are small instead
    self.enter_context(absltest.mock.patch.object(
        datasets, 'load',
        lambda *unused_args, **unused_kwargs: datasets.Dataset(
            'mnist', images, None, 0
        ),
    ))
    self.enter_context(absltest.mock.patch.dict(
        encoder_bound.COMMON, {'model.hidden_sizes': (8,)}
    ))
    output = _folder(self) / 'bound.json'
    code = encoder_bound.main([
        '--num_steps=3', '--seeds=2', '--num_particles=2',
        '--importance_samples=4', '--off_diagonal=true', '--whiten=false',
        f'--output={output}',
    ])
    self.assertEqual(code, 0)
    record = json.loads(output.read_text())
    self.assertEqual(
        [(row['method'], row['seed'], row['num_steps'])
         for row in record['rows']],
        [('elbo', 2, 3), ('svgd', 2, 3)],
    )
    # 36 pixels; `main` itself checks that the initial weights are the same
    self.assertAlmostEqual(
        record['normaliser'], encoder_bound.normaliser((6, 6, 1), 0.1**0.5)
    )
    difference = record['summary']['svgd/test/negative_elbo']
    self.assertEqual(
        difference['differences'],
        [record['rows'][1]['test/negative_elbo']
         - record['rows'][0]['test/negative_elbo']],
    )

  def test_svgd_is_the_first_phase_at_inverse_temperature_one(self):
    for method, off_diagonal, whiten in (
        (encoder_bound.OFF_DIAGONAL, True, False),
        (encoder_bound.ALL_PAIRS, False, False),
        (encoder_bound.WHITENED, True, True),
    ):
      config, experiment = encoder_bound.create_experiment(
          'digits', method, num_particles=4, seed=0,
          overrides={'train.num_steps': 2},
      )
      self.assertEqual(config.objective.inverse_temperature, 1.0)
      self.assertEqual(config.objective.off_diagonal, off_diagonal)
      self.assertEqual(config.objective.whiten, whiten)
      self.assertLen(experiment.method.phases, 1)
      self.assertSameElements(experiment.txs, ('encoder', 'decoder'))

  def test_bounds_are_ordered(self):
    model = networks.create_model((4, 4, 1), _SMALL)
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


class RunsTest(absltest.TestCase):

  def test_commas_inside_a_spec_stay(self):
    self.assertEqual(
        seeds.split_specs('configs/a.py:ldc,debug, configs/b.py,c.py:vae'),
        ('configs/a.py:ldc,debug', 'configs/b.py', 'c.py:vae'),
    )

  def test_every_config_has_every_seed(self):
    runs = seeds.create_runs(('configs/a.py', 'configs/a.py:vae'), (0, 5), 'r')
    self.assertEqual(
        [(run.name, run.seed, str(run.workdir)) for run in runs],
        [
            ('a', 0, os.path.join('r', 'a_0')),
            ('a', 5, os.path.join('r', 'a_5')),
            ('a_vae', 0, os.path.join('r', 'a_vae_0')),
            ('a_vae', 5, os.path.join('r', 'a_vae_5')),
        ],
    )

  def test_two_configs_of_one_name_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'names a twice'):
      seeds.create_runs(('x/a.py', 'y/a.py'), (0,), 'r')


class CollectTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    _without_cache(self)
    self.root = _folder(self)
    self.runs = seeds.create_runs(
        ('configs/digits.py',), (0, 1, 2), str(self.root)
    )
    for run, generator in zip(self.runs[:2], (6.0, 4.0), strict=True):
      run.workdir.mkdir()
      files.write_json(run.workdir / 'results.json', {
          'seed': run.seed,
          'step': 10,
          'wall_seconds': 3.0,
          'eval/reconstruction_mse': 0.01,
          'frechet_classifier/generator': generator,
          'frechet_classifier/aggregate': 4.0,
          'frechet_classifier/gmm_10': None,
          'frechet_classifier_seed_1/generator': generator,
          'frechet_classifier_seed_1/aggregate': 2.0,
      })
      files.write_json(
          run.workdir / 'benchmark.json',
          {'finished': seeds.arguments(run, []), 'wall_seconds': 2.5},
      )

  def test_ratios_are_of_each_run(self):
    rows = seeds.collect(self.runs, [])
    self.assertLen(rows, 2)  # the third has not been run
    name = 'ratio/frechet_classifier/generator/aggregate'
    self.assertEqual([row[name] for row in rows], [1.5, 1.0])
    self.assertNotIn('ratio/frechet_classifier/generator/gmm_10', rows[0])
    self.assertEqual(rows[0]['wall_seconds'], 2.5)

  def test_summary_is_over_seeds(self):
    summary = seeds.summarise(seeds.collect(self.runs, []))['digits']
    entry = summary['ratio/frechet_classifier_seed_1/generator/aggregate']
    self.assertEqual(entry['values'], [3.0, 2.0])
    self.assertEqual(entry['mean'], 2.5)
    self.assertAlmostEqual(entry['standard_deviation'], math.sqrt(0.5))
    self.assertEqual(entry['worst'], 3.0)
    self.assertNotIn('seed', summary)

  def test_collect_only_writes_the_table(self):
    output = self.root / 'seeds.json'
    code = seeds.main([
        '--collect_only', '--configs=configs/digits.py', '--seeds=0,1',
        f'--workdir={self.root}', f'--output={output}',
    ])
    self.assertEqual(code, 0)
    self.assertLen(json.loads(output.read_text())['rows'], 2)
    table = output.with_suffix('.md').read_text()
    self.assertIn('generator ÷ aggregate, second classifier', table)
    self.assertNotIn(str(self.root), output.read_text() + table)

  def test_a_missing_run_is_no_success(self):
    code = seeds.main([
        '--collect_only', '--configs=configs/digits.py', '--seeds=0,1,2',
        f'--workdir={self.root}', f'--output={self.root / "seeds.json"}',
    ])
    self.assertEqual(code, 1)

  def test_another_seed_in_the_workdir_is_refused(self):
    wrong = self.runs[0]._replace(seed=9)
    with self.assertRaisesRegex(ValueError, 'holds a run of seed 0, not 9'):
      seeds.read_results(wrong)

  def test_finished_means_the_same_arguments(self):
    run = self.runs[0]
    self.assertTrue(seeds.is_finished(run, []))
    others = ['--config.train.num_steps=3']
    self.assertFalse(seeds.is_finished(run, others))
    self.assertEmpty(seeds.collect(self.runs, others))
    elsewhere = ['--config.dataset.data_dir=/data']
    self.assertLen(seeds.collect(self.runs, elsewhere), 2)
    (run.workdir / 'benchmark.json').unlink()  # it was not run by this script
    self.assertFalse(seeds.is_finished(run, []))
    self.assertLen(seeds.collect(self.runs, []), 1)


def _svgd_row(ours, peer, floor):
  return {
      'seconds': {'ldc_vae': ours, 'blackjax': peer}, 'floor_seconds': floor
  }


class SvgdDirectionsTest(parameterized.TestCase):

  @parameterized.parameters(('cpu', 1), ('gpu', 8), ('tpu', 8))
  def test_an_accelerators_calls_follow_each_other(self, platform, in_flight):
    clock, waits = [0.0], []

    def call(seconds):
      clock[0] += seconds

    library = absltest.mock.Mock(platform=platform)
    library.wait = waits.append  # of a call: nothing more to wait for
    seconds_in_flight = svgd_directions_worker._OTHER_SECONDS_IN_FLIGHT
    each = seconds_in_flight / 8.5
    with absltest.mock.patch.object(
        svgd_directions_worker.time, 'perf_counter', lambda: clock[0]
    ):
      seconds, count = svgd_directions_worker._time(library, call, each)
      self.assertAlmostEqual(seconds, each)
      timed = waits[2:]
      # none of the first, which compiles, nor of that which tells how many
      self.assertLen(timed, count // in_flight)
      self.assertEqual(count % in_flight, 0)
      # a call of more than a second is timed by the first
      clock[0], waits[:] = 0.0, []
      seconds, count = svgd_directions_worker._time(library, call, 9.0)
    self.assertEqual((seconds, count, len(waits)), (9.0, 1, 1))

  def test_floor_is_two_products_and_the_exponentials(self):
    case = {'batch': 3, 'n': 10, 'dim': 4}
    rates = {'matmul': 100.0, 'exp': 50.0}
    # 2 products of 10 x 10 x 4 multiplications and additions, 100 exponentials
    self.assertAlmostEqual(
        svgd_directions.floor_seconds(case, rates), 3 * (16.0 + 2.0)
    )

  def test_ratios_pair_the_turns(self):
    row = _svgd_row([1.0, 2.0, 4.0], [3.0, 8.0, 20.0], [0.5, 1.8, 3.0])
    self.assertEqual(svgd_directions.median_ratio(row, 'blackjax'), 4.0)
    self.assertEqual(svgd_directions.floor_share(row), 0.75)
    self.assertIsNone(svgd_directions.median_ratio(row, 'torch'))

  @parameterized.parameters(
      ('blackjax', 4.29), ('torch', 0.0168), ('ldc_vae', 0.0)
  )
  def test_arrays_of_pairs_have_a_size(self, name, gigabytes):
    case = {'batch': 0, 'n': 2048, 'dim': 256}
    self.assertAlmostEqual(
        svgd_directions.gigabytes_needed(name, case), gigabytes, delta=5e-3
    )

  def test_reference_of_two_particles_is_that_by_hand(self):
    # two particles at -a and a, s = -z: the score of one's own is -a, the
    # other's +a, the repulsion 2/h 2a, so that phi(a) = -a + k (a + 4a/h)
    with absltest.mock.patch.object(
        svgd_directions_worker, 'make_particles',
        return_value=np.array([[-0.5], [0.5]], np.float32),
    ):
      case = {'batch': 0, 'n': 2, 'dim': 1}
      actual = svgd_directions.reference(case, np.arange(2), rule=False)
    h = svgd_directions_worker.bandwidth(2, 1)
    phi = 0.5 * (-0.5 + math.exp(-1.0 / h) * (0.5 + 2.0 / h))
    np.testing.assert_allclose(actual, [[-phi], [phi]], rtol=1e-12)

  def test_another_direction_is_refused_by_name(self):

    class Worker:

      def ask(self, request):
        np.save(json.loads(request)['path'], np.ones((16, 2)))
        return {}

    with self.assertRaisesRegex(ValueError, 'torch computes another direction'):
      svgd_directions.check(
          {'torch': Worker()}, {'batch': 0, 'n': 16, 'dim': 2}, _folder(self)
      )

  def test_small_form_leaves_a_peer_out_where_it_needs_too_much(self):
    output = _folder(self) / 'x.json'
    code = svgd_directions.main([
        '--debug',
        '--peers=blackjax',
        f'--peer_python={sys.executable}',
        '--rounds=1',
        '--peer_gigabytes=5e-6',  # 2 kB at n=16, D=2, and 13 kB at n=40
        f'--output={output}',
    ])
    self.assertEqual(code, 0)
    record = json.loads(output.read_text())
    self.assertIn('--peer_python=PEER_PYTHON', record['command'])
    smaller, larger = record['one target']
    (batched,), (memory,) = record['batched'], record['memory']
    ours = ['ldc_vae', 'ldc_vae_rule']
    self.assertEqual(list(smaller['seconds']), [*ours, 'blackjax'])
    self.assertEqual(list(larger['seconds']), ours)
    self.assertEqual(list(batched['seconds']), [*ours, 'blackjax'])
    self.assertEqual(list(memory['bytes']), ours)
    for row in (smaller, larger, batched):
      self.assertGreater(min(row['floor_seconds']), 0.0)
      # float32, 40 terms at most
      self.assertLess(max(row['errors'].values()), 1e-5)
    markdown = output.with_suffix('.md').read_text()
    self.assertIn('blackjax ÷ ldc_vae', markdown)
    (line,) = [
        line for line in markdown.splitlines()
        if line.startswith('| 40 | 2 |')
    ]
    self.assertEndsWith(line, '| n/a |')

  @parameterized.parameters(
      ('--peers=pyro', '--peers=pyro is unknown'),
      ('--tables=x', '--tables=x is unknown'),
      ('--sizes=7', '--sizes and --dims leave no case'),
      ('--tables=', '--tables names nothing'),
  )
  def test_a_wrong_choice_is_told(self, argument, message):
    with self.assertRaisesRegex(ValueError, message):
      svgd_directions.main([argument])


class ConvStepTest(absltest.TestCase):

  def test_counts_by_hand(self):
    # 32x32x3, one layer of 4: 16x16 outputs; the decoder starts from 16x16
    encoder = 256 * 4 * 4 * 3 * 4 + 1024 * 32
    decoder = 16 * 1024 + 256 * 4 * 4 * 4 * 4 + 1024 * 3 * 3 * 4 * 3
    found = conv_step_ldc_vae.count((32, 32, 3), (4,))
    self.assertEqual(found['multiply_adds'], encoder + decoder)
    weights = (48 * 4 + 4) + (1024 * 32 + 32)
    weights += (16 * 1024 + 1024) + (64 * 4 + 4) + (36 * 3 + 3)
    self.assertEqual(found['num_parameters'], weights)

  def test_agrees_with_the_count_of_the_peers(self):
    # what conv_step_peers.py finds for the same networks
    found = conv_step_ldc_vae.count((28, 28, 1), (4,))
    self.assertEqual(found['multiply_adds'], 128_576)
    self.assertEqual(found['num_parameters'], 38_813)

  def test_unequal_networks_are_refused(self):
    fake = (
        'import json, sys; print(json.dumps('
        '{"num_parameters": int(sys.argv[1]), "multiply_adds": 1}))'
    )
    workers = {name: (sys.executable, '-c', fake, name) for name in ('7', '8')}
    with self.assertRaisesRegex(ValueError, 'differ in num_parameters'):
      conv_step.run(workers, (4, 4, 1), batch_size=1, steps=1, rounds=1)

  def test_debug_run_writes_what_it_measured(self):
    output = _folder(self) / 'step.json'
    code = conv_step.main(
        ['--debug', '--images=28x28x1', f'--output={output}']
    )
    self.assertEqual(code, 0)
    record = json.loads(output.read_text())
    self.assertIn('--output=OUTPUT', record['command'])
    rows = record['results']['28x28x1']
    self.assertEqual(list(rows), ['patches', 'native'])
    self.assertEqual(rows['patches']['ratios'], [1.0])
    # the same weights, images and noise; float32, four steps
    self.assertAlmostEqual(
        rows['patches']['loss'], rows['native']['loss'], delta=1e-3
    )
    table = output.with_suffix('.md').read_text()
    self.assertIn('| 28x28x1, native |', table)


if __name__ == '__main__':
  absltest.main()
