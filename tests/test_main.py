"""Tests for main: flags in, exit code and one sentence out."""

import contextlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax

from configs import default
from ldc_vae import config as config_lib
from ldc_vae import main
from ldc_vae.runtime import cluster
from tests.runtime import rights_case

_RUN_FILE = """
from configs import default

def get_config(arg=''):
  return default.create(arg)
"""


class _Jobs:
  """Stands in for ldc_vae.train and ldc_vae.evaluate; records their calls."""

  def __init__(self, error=None):
    self.calls = []
    self._error = error

  def __getattr__(self, name):
    def job(config, *args, **kwargs):
      self.calls.append((name, config, *args, kwargs))
      if self._error is not None:
        raise self._error
    return job


class _MainTestCase(parameterized.TestCase):
  """Runs `main.main` in a folder of the test, with the jobs stubbed."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
        self.enter_context(tempfile.TemporaryDirectory())
    ).resolve()
    self.enter_context(contextlib.chdir(self.folder))
    self.enter_context(
        mock.patch.dict(os.environ, LDC_VAE_CACHE=str(self.folder / 'cache'))
    )
    os.environ.pop('LDC_VAE_TRACEBACK', None)
    (self.folder / 'toy.py').write_text(_RUN_FILE)
    self.updates = {}
    self.enter_context(
        mock.patch.object(jax.config, 'update', self.updates.__setitem__)
    )

  def trained(self, arg='', checkpoint=True):
    """Returns a workdir as training leaves it."""
    workdir = self.folder / 'trained'
    (workdir / 'checkpoints').mkdir(parents=True)
    if checkpoint:
      (workdir / 'checkpoints' / '10').mkdir()
    record = config_lib.to_json(default.create(arg))
    (workdir / 'config.json').write_text(json.dumps(record))
    return str(workdir)

  def run_main(self, *argv, error=None):
    """Returns (exit code, calls, stdout, stderr)."""
    jobs = _Jobs(error)
    out, err = io.StringIO(), io.StringIO()
    modules = {
        f'ldc_vae.{name}': jobs for name in ('train', 'evaluate', 'compare')
    }
    package = sys.modules['ldc_vae']
    with (
        mock.patch.dict(sys.modules, modules),
        mock.patch.object(package, 'train', jobs, create=True),
        mock.patch.object(package, 'evaluate', jobs, create=True),
        mock.patch.object(package, 'compare', jobs, create=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
      code = main.main(argv)
    return code, jobs.calls, out.getvalue(), err.getvalue()

  def assert_refused(self, *argv, part):
    """The command is a mistake, told in one sentence that holds `part`."""
    code, calls, out, err = self.run_main(*argv)
    self.assertEqual(code, 2)
    self.assertEmpty(calls)
    self.assertEmpty(out)
    self.assertStartsWith(err, 'error: ')
    self.assertLen(err.splitlines(), 1)
    self.assertIn(part, err)


class TrainTest(_MainTestCase):

  def test_config_and_workdir_reach_training(self):
    code, calls, _, err = self.run_main(
        '--config=toy.py:vae', '--workdir=w', '--config.objective.beta=2',
        '--config.seed', '3',
    )
    self.assertEqual((code, err), (0, ''))
    (name, config, workdir, _), = calls
    self.assertEqual((name, workdir), ('train_and_evaluate', 'w'))
    self.assertEqual(config.objective.beta, 2.0)
    self.assertEqual(config.seed, 3)

  @parameterized.parameters(
      ('toy.py', 'runs/toy_ldc'),
      ('toy.py:vae,debug', 'runs/toy_vae'),
  )
  def test_the_workdir_defaults_to_config_and_method(self, spec, expected):
    _, ((_, _, workdir, _),), _, _ = self.run_main(f'--config={spec}')
    self.assertEqual(workdir, expected)

  def test_compiled_programs_are_cached(self):
    self.run_main('--config=toy.py')
    self.assertEqual(
        self.updates,
        {
            'jax_compilation_cache_dir': str(self.folder / 'cache' / 'xla'),
            'jax_persistent_cache_min_compile_time_secs': 0,
            'jax_persistent_cache_min_entry_size_bytes': -1,
        },
    )


class WorkdirModesTest(_MainTestCase):

  def test_the_config_of_the_workdir_is_read(self):
    workdir = self.trained('vae')
    code, ((name, config, where, _),), _, _ = self.run_main(
        '--mode=evaluate', f'--workdir={workdir}',
        '--config.evaluate.num_samples=50',
    )
    self.assertEqual((code, name, where), (0, 'evaluate', workdir))
    self.assertEqual(config.objective.name, 'vae')
    self.assertEqual(config.evaluate.num_samples, 50)

  def test_sample_gets_number_and_output(self):
    workdir = self.trained()
    _, ((name, _, _, kwargs),), _, _ = self.run_main(
        '--mode=sample', f'--workdir={workdir}', '--num_samples=5',
        '--output=x.npz',
    )
    self.assertEqual(name, 'sample')
    self.assertEqual(kwargs, {'num_samples': 5, 'output': 'x.npz'})

  def test_sample_may_write_samples_elsewhere(self):
    workdir = self.trained()
    code, *_ = self.run_main(
        '--mode=sample', f'--workdir={workdir}', '--output=samples.npz'
    )
    self.assertEqual(code, 0)

  def test_sample_has_defaults(self):
    workdir = self.trained()
    _, ((_, _, _, kwargs),), _, _ = self.run_main(
        '--mode=sample', f'--workdir={workdir}'
    )
    self.assertEqual(
        kwargs, {'num_samples': 64, 'output': f'{workdir}/generated.npz'}
    )

  def test_a_config_that_was_trained_is_accepted(self):
    workdir = self.trained()
    code, *_ = self.run_main(
        '--mode=evaluate', '--config=toy.py', f'--workdir={workdir}'
    )
    self.assertEqual(code, 0)

  @parameterized.parameters('--config=toy.py', '--config.seed=4')
  def test_another_config_is_refused(self, argument):
    workdir = self.trained()
    extra = ['--config.seed=4'] if argument == '--config=toy.py' else []
    self.assert_refused(
        '--mode=evaluate', argument, *extra, f'--workdir={workdir}',
        part='config.seed differs from',
    )

  @parameterized.parameters('evaluate', 'sample')
  def test_a_workdir_is_needed(self, mode):
    self.assert_refused(f'--mode={mode}', part='--workdir is missing')
    self.assert_refused(
        f'--mode={mode}', '--workdir=nowhere', part='no such folder'
    )

  def test_a_trained_workdir_is_needed(self):
    os.mkdir('empty')
    self.assert_refused(
        '--mode=sample', '--workdir=empty', part='config.json: no such file'
    )
    workdir = self.trained(checkpoint=False)
    self.assert_refused(
        '--mode=sample', f'--workdir={workdir}', part='holds no checkpoint'
    )

  @parameterized.parameters('config.json', 'checkpoints')
  def test_what_may_not_be_read_is_told(self, name):
    path = pathlib.Path(self.trained(), name)
    path.chmod(0)
    with rights_case.as_nobody(path):
      code, calls, out, err = self.run_main(
          '--mode=evaluate', f'--workdir={path.parent}'
      )
    self.assertEqual((code, calls, out), (1, [], ''))
    self.assertRegex(
        err,
        rf'^error: {path} cannot be read \(Permission denied\); [^\n]*'
        r'--workdir[^\n]*\n$',
    )
    self.assertNotIn('LDC_VAE_TRACEBACK', err)


class StopTest(_MainTestCase):

  def test_a_signal_within_an_import_is_a_stop(self):
    def load(*unused):
      with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
      raise ImportError('initialization failed')

    with mock.patch.object(main, '_set_up_jax', load):
      code, _, _, err = self.run_main('--config=toy.py', '--workdir=w')
    self.assertEqual(code, 130)
    self.assertEqual(
        err,
        'interrupted: the same command continues w from its latest checkpoint'
        '\n',
    )

  def test_a_module_that_is_missing_is_no_stop(self):
    with self.assertRaisesRegex(ImportError, 'no such module'):
      self.run_main('--config=toy.py', error=ImportError('no such module'))

  def test_a_process_is_left_at_once_while_it_loads(self):
    program = (
        'import os, signal, sys\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'from ldc_vae import main\n'
        'main.main = lambda argv: signal.raise_signal(signal.SIGINT)\n'
        'main.run()\n'
    )
    done = subprocess.run(
        (sys.executable, '-c', program), capture_output=True, text=True,
        check=False, cwd=config_lib.ROOT,
    )
    self.assertEqual((done.returncode, done.stderr), (130, 'interrupted\n'))


class CompareTest(_MainTestCase):

  def test_plans_and_seeds_reach_the_comparison(self):
    code, ((name, plans, seeds, workdir, kwargs),), _, err = self.run_main(
        '--config=toy.py', '--mode=compare', '--methods=vae, ldc',
        '--seeds=4, 1', '--jobs=2', '--workdir=w', '--config.train.num_epochs',
        '3', '--config.vae.objective.beta=2',
    )
    self.assertEqual((code, err), (0, ''))
    self.assertEqual((name, workdir, seeds), ('compare', 'w', [4, 1]))
    self.assertEqual(kwargs, {'num_jobs': 2})
    self.assertEqual(list(plans), ['vae', 'ldc'])
    self.assertEqual(plans['vae'].spec, 'toy.py:vae')
    self.assertEqual(plans['vae'].config.objective.beta, 2.0)
    self.assertEqual(plans['ldc'].config.train.num_epochs, 3)

  def test_all_methods_and_three_seeds_by_default(self):
    _, ((_, plans, seeds, workdir, kwargs),), _, _ = self.run_main(
        '--config=toy.py,debug', '--mode=compare'
    )
    self.assertSameElements(plans, default.OBJECTIVES)
    self.assertEqual(seeds, [0, 1, 2])
    self.assertEqual(workdir, 'runs/toy_compare')
    self.assertEqual(kwargs, {'num_jobs': 1})
    self.assertTrue(plans['ldc'].config.debug)

  def test_it_leaves_the_accelerator_to_its_runs(self):
    self.run_main('--config=toy.py', '--mode=compare')
    self.assertEqual(self.updates['jax_platforms'], 'cpu')
    self.updates.clear()
    self.run_main('--config=toy.py')
    self.assertNotIn('jax_platforms', self.updates)

  def test_an_interrupt_says_how_to_continue(self):
    code, _, _, err = self.run_main(
        '--config=toy.py', '--mode=compare', '--workdir=w',
        error=KeyboardInterrupt(),
    )
    self.assertEqual(code, 130)
    self.assertEqual(
        err, 'interrupted: the same command continues the runs of w\n'
    )

  def test_one_of_several_processes_is_refused(self):
    with mock.patch.dict(os.environ, LDC_VAE_DISTRIBUTED='1'):
      self.assert_refused(
          '--config=toy.py', '--mode=compare',
          part='LDC_VAE_DISTRIBUTED=1: --mode=compare starts its runs by',
      )


class MistakesTest(_MainTestCase):

  @parameterized.parameters(
      ([], '--config is missing'),
      (['--config='], '--config is missing'),
      (['--config'], 'config'),
      (['--config=digits.py'], '--config=digits.py: no such file'),
      (['--config=toy.py:vea'], "unknown method 'vea'"),
      (['--config=toy.py', 'x'], "'x' is not a flag"),
      (['--config=toy.py', '--workdr=x'], 'Did you mean: workdir'),
      (['--config=toy.py', '--config.seed=-1'], 'config.seed=-1'),
      (['--config=toy.py', '--config.seed', '-1'], 'config.seed=-1'),
      (['--config=toy.py', '--config.sede=1'], 'did you mean seed?'),
      (['--config=toy.py', '--mode=tarin'], 'train, evaluate, sample'),
      (['--config=toy.py', '--num_samples=3'], '--mode=sample only'),
      (['--config=toy.py', '--output=3'], '--mode=sample only'),
      (['--mode=sample', '--num_samples=0'], 'num_samples=0'),
      (['--mode=sample', '--num_samples=many'], 'num_samples=many'),
      (['--config=toy.py', '--process_id=0'], '--coordinator_address is mis'),
      (['--config=toy.py', '--num_processes=0'], 'num_processes=0'),
  )
  def test_are_told_in_one_sentence(self, argv, part):
    self.assert_refused(*argv, part=part)

  @parameterized.parameters(
      ('localhost', 2, 0, 'not HOST:PORT'),
      ('localhost:http', 2, 0, 'not HOST:PORT'),
      (':8476', 2, 0, 'not HOST:PORT'),
      ('localhost:99999', 2, 0, 'not HOST:PORT'),
      ('localhost:8476', 2, 2, 'use 0 to 1'),
  )
  def test_of_several_processes_are_told(self, address, count, index, part):
    self.assert_refused(
        '--config=toy.py', f'--coordinator_address={address}',
        f'--num_processes={count}', f'--process_id={index}', part=part,
    )


class PathsTest(absltest.TestCase):

  def test_a_tilde_is_the_users_home(self):  # bash leaves it after a =
    with mock.patch.dict(os.environ, HOME='/home/me'):
      values, _ = main._parse(['--mode=sample', '--workdir=~/w', '--output=x'])
    self.assertEqual((values.workdir, values.output), ('/home/me/w', 'x'))


class RuntimeErrorsTest(_MainTestCase):

  @parameterized.parameters(
      (ValueError('train.batch_size=3: odd'), 'train.batch_size=3: odd', 2),
      (OSError('disk\nfull'), 'disk full', 1),
      (FloatingPointError('step 7'), 'step 7', 2),
  )
  def test_a_mistake_is_one_sentence(self, error, expected, wanted):
    # raised from a line of the package, as the real jobs would
    lines = pathlib.Path(main.__file__).read_text().splitlines()
    line = next(i for i, x in enumerate(lines) if x.strip().startswith('raise'))
    code = compile('\n' * line + 'raise error', main.__file__, 'exec')
    def fail(*args):
      exec(code, {'error': error})
    with mock.patch.dict(main._JOBS, train=fail):
      code, _, _, err = self.run_main('--config=toy.py')
    self.assertEqual(code, wanted)
    self.assertEqual(err, f'error: {expected}\n')

  def test_an_error_of_a_function_in_c_names_its_type(self):
    # it has no frame of its own: the last one is a line of the package
    code = compile('(-1) ** 0.5 + float("x")', main.__file__, 'exec')
    with mock.patch.dict(main._JOBS, train=lambda *_: exec(code)):
      code, _, _, err = self.run_main('--config=toy.py')
    self.assertEqual(code, 2)
    self.assertStartsWith(err, 'error: ValueError: could not convert string')

  def test_an_error_of_a_library_names_its_type(self):
    code, _, _, err = self.run_main('--config=toy.py', error=ValueError('x'))
    self.assertEqual(code, 2)
    self.assertStartsWith(err, 'error: ValueError: x (LDC_VAE_TRACEBACK=1')

  def test_too_little_memory_has_its_remedy(self):
    error = RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 GB')
    code, _, _, err = self.run_main('--config=toy.py', error=error)
    self.assertEqual(code, 2)
    self.assertStartsWith(err, 'error: the device has too little memory; raise')
    self.assertLen(err.splitlines(), 1)

  def test_the_traceback_is_shown_on_request(self):
    with mock.patch.dict(os.environ, LDC_VAE_TRACEBACK='1'):
      code, _, _, err = self.run_main('--config=toy.py', error=OSError('x'))
    self.assertEqual(code, 1)
    self.assertIn('Traceback (most recent call last)', err)

  def test_a_bug_keeps_its_traceback(self):
    with self.assertRaises(TypeError):
      self.run_main('--config=toy.py', error=TypeError('x'))

  def test_an_interrupt_says_how_to_continue(self):
    code, _, _, err = self.run_main(
        '--config=toy.py', '--workdir=w', error=KeyboardInterrupt()
    )
    self.assertEqual(code, 130)
    self.assertStartsWith(err, 'interrupted: the same command continues w')

  def test_a_signal_gives_its_exit_code(self):
    code, _, _, err = self.run_main('--config=toy.py', error=SystemExit(143))
    self.assertEqual(code, 143)
    self.assertStartsWith(err, 'interrupted')


class ProcessesTest(_MainTestCase):

  def joined(self, *argv, **environ):
    """Returns the calls of jax's own joining, and of training, in order."""
    order = []
    distributed = types.SimpleNamespace(
        initialize=lambda **kwargs: order.append(kwargs)
    )
    with (
        mock.patch.object(jax, 'distributed', distributed),
        mock.patch.dict(main._JOBS, train=lambda *_: order.append('train')),
        mock.patch.dict(os.environ, environ),
    ):
      code, *_ = self.run_main('--config=toy.py', *argv)
    self.assertEqual(code, 0)
    return order

  def test_are_joined_before_training(self):
    flags = dict(
        coordinator_address='localhost:8476', num_processes=2, process_id=1
    )
    argv = [f'--{name}={value}' for name, value in flags.items()]
    flags['heartbeat_timeout_seconds'] = cluster.HEARTBEAT
    self.assertEqual(self.joined(*argv), [flags, 'train'])
    # its service would take SIGTERM away from us
    self.assertIs(self.updates['jax_enable_preemption_service'], False)

  def test_that_jax_has_joined_by_itself_are_refused(self):
    with mock.patch.object(jax, 'process_count', return_value=4):
      code, calls, _, err = self.run_main('--config=toy.py')
    self.assertEqual((code, calls), (2, []))
    self.assertIn('4 processes by itself; set LDC_VAE_DISTRIBUTED=1', err)

  def test_are_found_by_jax_only_where_it_is_asked(self):
    found = [{'heartbeat_timeout_seconds': cluster.HEARTBEAT}, 'train']
    self.assertEqual(self.joined(LDC_VAE_DISTRIBUTED='1'), found)
    self.assertEqual(self.joined(LDC_VAE_DISTRIBUTED='0'), ['train'])
    self.assertEqual(self.joined(LDC_VAE_DISTRIBUTED=''), ['train'])

  @parameterized.parameters(
      ('yes', 'neither 0 nor 1', 2), ('1', 'no cluster', 1)
  )
  def test_that_are_not_found_are_told(self, value, part, wanted):
    def initialize(**unused_kwargs):
      raise ValueError('coordinator_address should be defined.')

    distributed = types.SimpleNamespace(initialize=initialize)
    with (
        mock.patch.object(jax, 'distributed', distributed),
        mock.patch.dict(os.environ, LDC_VAE_DISTRIBUTED=value),
    ):
      code, calls, _, err = self.run_main('--config=toy.py')
    self.assertEqual((code, calls), (wanted, []))
    self.assertStartsWith(err, f'error: LDC_VAE_DISTRIBUTED={value}')
    self.assertIn(part, err)
    self.assertLen(err.splitlines(), 1)


class LoadingTest(absltest.TestCase):

  def test_heavy_packages_are_left_for_when_they_are_needed(self):
    # of a training on data that is at hand; each takes half a second or more
    program = (
        'import sys; from ldc_vae import main, train; print([x for x in'
        " ('sklearn', 'matplotlib', 'tensorflow_datasets', 'scipy.stats',"
        " 'orbax')"
        ' if x in sys.modules])'
    )
    output = subprocess.run(
        (sys.executable, '-c', program),
        cwd=config_lib.ROOT, capture_output=True, text=True, check=True,
    ).stdout
    self.assertEqual(output.strip(), '[]')


class CommandTest(parameterized.TestCase):
  """The module as a program, in a process of its own."""

  def command(self, *argv):
    code = 'import sys; from ldc_vae import main\n'
    code += 'code = main.main(sys.argv[1:])\n'
    code += 'assert "jax" not in sys.modules\nsys.exit(code)'
    return subprocess.run(
        (sys.executable, '-c', code, *argv),
        capture_output=True, text=True, cwd=config_lib.ROOT, timeout=60,
    )

  def test_help_is_short_and_loads_no_jax(self):
    result = self.command('--help')
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertLess(len(result.stdout.splitlines()), 40)
    self.assertLessEqual(max(map(len, result.stdout.splitlines())), 80)
    for name in main._define_flags():
      self.assertIn(f'--{name}', result.stdout)
    for method in config_lib.METHOD_ENCODERS:
      self.assertRegex(result.stdout, rf'[ (]{method}[ ,;]')

  def test_a_mistake_loads_no_jax(self):
    result = self.command('--config=nothing.py')
    self.assertEqual(result.returncode, 2, result.stderr)
    self.assertStartsWith(result.stderr, 'error: --config=nothing.py')

  def test_messages_are_ours_and_warnings_of_others(self):
    code = """
import os
from absl import logging
from ldc_vae import main
main._show_messages()
exec(compile('logging.info("ours")', main._PACKAGE + 'x.py', 'exec'))
logging.info('theirs')
logging.warning('their warning')
"""
    result = subprocess.run(
        (sys.executable, '-c', code), capture_output=True, text=True,
        cwd=config_lib.ROOT, timeout=60, check=True,
    )
    self.assertEqual(result.stderr, 'ours\ntheir warning\n')

  def test_the_module_runs(self):
    result = subprocess.run(
        (sys.executable, '-m', 'ldc_vae.main', '--mode=x'),
        capture_output=True, text=True, cwd=config_lib.ROOT, timeout=60,
    )
    self.assertEqual(result.returncode, 2)
    self.assertEqual(
        result.stderr,
        'error: --mode=x: unknown mode; known: train, evaluate, sample,'
        ' compare\n',
    )


if __name__ == '__main__':
  absltest.main()
