"""Tests of ldc_vae.main: the modes, their errors and exit codes."""

import contextlib
import os
import signal
import subprocess
import sys
import types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax

from ldc_vae import cli
from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import main
from ldc_vae import methods
from ldc_vae import usage
from ldc_vae.runtime import cluster
from ldc_vae.runtime import provenance
from tests import main_case


class TrainTest(main_case.MainTestCase):
  def test_config_and_workdir_reach_training(self):
    code, calls, _, err = self.run_main(
      '--config=toy.py:vae',
      '--workdir=w',
      '--config.method.beta=2',
      '--config.seed',
      '3',
    )
    self.assertEqual((code, err), (0, ''))
    ((name, config, workdir, _),) = calls
    self.assertEqual((name, workdir), ('train_and_evaluate', 'w'))
    self.assertEqual(config.method.beta, 2.0)
    self.assertEqual(config.seed, 3)

  @parameterized.parameters(
    ('toy.py', 'runs/toy_ldc'),
    ('toy.py:vae,debug', 'runs/toy_vae'),
  )
  def test_the_workdir_defaults_to_config_and_method(self, spec, expected):
    _, ((_, _, workdir, _),), _, _ = self.run_main(f'--config={spec}')
    self.assertEqual(workdir, expected)

  def test_a_flagfile_holds_any_argument(self):
    self.folder.joinpath('flags.txt').write_text(
      '# mine\n--config=toy.py:vae\n\n--config.seed=3\n--workdir=w\n'
    )
    code, ((_, config, workdir, _),), _, _ = self.run_main(
      '--flagfile=flags.txt', '--config.method.beta=2'
    )
    self.assertEqual((code, workdir), (0, 'w'))
    self.assertEqual((config.seed, config.method.beta), (3, 2.0))

  def test_a_flagfile_may_ask_for_help(self):
    self.folder.joinpath('flags.txt').write_text(
      '--config=toy.py:vae\n--help\n'
    )
    _, calls, out, _ = self.run_main('--flagfile=flags.txt')
    self.assertEmpty(calls)
    self.assertEqual(out, usage.help_text('toy.py:vae'))

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


class StopTest(main_case.MainTestCase):
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
      'interrupted: the same command continues w from its latest checkpoint\n',
    )

  def test_an_extension_that_quits_is_no_stop(self):
    code, _, _, err = self.run_main('--config=toy.py', error=SystemExit(0))
    self.assertEqual((code, err[:31]), (2, 'error: the run has called sys.e'))

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
      (sys.executable, '-c', program),
      capture_output=True,
      text=True,
      check=False,
      cwd=provenance.ROOT,
    )
    self.assertEqual((done.returncode, done.stderr), (130, 'interrupted\n'))


class CompareTest(main_case.MainTestCase):
  def test_plans_and_seeds_reach_the_comparison(self):
    code, ((name, plans, seeds, workdir, kwargs),), _, err = self.run_main(
      '--config=toy.py',
      '--mode=compare',
      '--methods=vae, ldc',
      '--seeds=4, 1',
      '--jobs=2',
      '--workdir=w',
      '--config.train.num_epochs',
      '3',
      '--config.vae.method.beta=2',
    )
    self.assertEqual((code, err), (0, ''))
    self.assertEqual((name, workdir, seeds), ('compare', 'w', [4, 1]))
    self.assertEqual(kwargs, {'num_jobs': 2})
    self.assertEqual(list(plans), ['vae', 'ldc'])
    self.assertEqual(plans['vae'].spec, 'toy.py:vae')
    self.assertEqual(plans['vae'].config.method.beta, 2.0)
    self.assertEqual(plans['ldc'].config.train.num_epochs, 3)

  def test_all_methods_and_three_seeds_by_default(self):
    _, ((_, plans, seeds, workdir, kwargs),), _, _ = self.run_main(
      '--config=toy.py,debug', '--mode=compare'
    )
    self.assertSameElements(plans, methods.METHODS)
    self.assertEqual(seeds, [0, 1, 2])
    self.assertEqual(workdir, 'runs/toy_compare')
    self.assertEqual(kwargs, {'num_jobs': 1})
    self.assertTrue(plans['ldc'].config.debug)

  def test_it_leaves_the_accelerator_to_its_runs(self):
    names = ('jax_platforms', 'jax_platform_name')
    self.run_main('--config=toy.py', '--mode=compare')
    self.assertEqual([self.updates[name] for name in names], ['cpu', 'cpu'])
    self.updates.clear()
    self.run_main('--config=toy.py')
    self.assertNoCommonElements(self.updates, names)

  def test_an_interrupt_says_how_to_continue(self):
    code, _, _, err = self.run_main(
      '--config=toy.py',
      '--mode=compare',
      '--workdir=w',
      error=KeyboardInterrupt(),
    )
    self.assertEqual(code, 130)
    self.assertEqual(
      err, 'interrupted: the same command continues the runs of w\n'
    )

  def test_one_of_several_processes_is_refused(self):
    with mock.patch.dict(os.environ, LDC_VAE_DISTRIBUTED='1'):
      self.assert_refused(
        '--config=toy.py',
        '--mode=compare',
        part='LDC_VAE_DISTRIBUTED=1: --mode=compare starts its runs by',
      )


class RuntimeErrorsTest(main_case.MainTestCase):
  @parameterized.parameters(
    (errors.UserError('seed=-3: odd'), 'seed=-3: odd', 2),
    (errors.UserError('in use', exit_code=1), 'in use', 1),
    (OSError('disk\nfull'), 'disk full', 1),
    (FloatingPointError('step 7'), 'step 7', 2),
  )
  def test_a_mistake_is_one_sentence(self, error, expected, wanted):
    code, _, _, err = self.run_main('--config=toy.py', error=error)
    self.assertEqual(code, wanted)
    self.assertEqual(err, f'error: {expected}\n')

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

  @parameterized.parameters(TypeError, ValueError)
  def test_a_bug_keeps_its_traceback(self, kind):
    with self.assertRaisesRegex(kind, 'x'):
      self.run_main('--config=toy.py', error=kind('x'))

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


class ProcessesTest(main_case.MainTestCase):
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
    address = 'localhost:8476'
    flags = dict(coordinator_address=address, num_processes=2, process_id=1)
    argv = [f'--{name}={value}' for name, value in flags.items()]
    flags['heartbeat_timeout_seconds'] = cluster.HEARTBEAT
    flags['initialization_timeout'] = 60
    with mock.patch.object(cluster.rendezvous, 'meet') as meet:
      self.assertEqual(self.joined(*argv), [flags, 'train'])
    meet.assert_called_once_with(address, 2, 1)
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
  def test_that_are_not_found_are_reported(self, value, part, wanted):
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
      cwd=provenance.ROOT,
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    self.assertEqual(output.strip(), '[]')


class CommandTest(parameterized.TestCase):
  """The module as a program, in a process of its own."""

  def command(self, *argv):
    return subprocess.run(
      (sys.executable, '-m', 'ldc_vae.main', *argv),
      capture_output=True,
      text=True,
      cwd=provenance.ROOT,
      timeout=60,
    )

  def test_help_names_every_flag_and_method(self):
    result = self.command('--help')
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertLessEqual(max(map(len, result.stdout.splitlines())), 80)
    for name in cli._define_flags():
      self.assertIn(f'--{name}', result.stdout)
    for name in methods.METHODS:
      self.assertRegex(result.stdout, rf'\n  {name} ')

  def test_help_of_a_config_explains_every_field(self):
    result = self.command('--help', '--config=digits:vae')
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertEqual(result.stdout, usage.help_text('digits:vae'))
    config = config_lib.load('digits:vae')
    for name in config_lib.flatten(config):
      if '.' in name and name != 'method.name':
        self.assertIn(f'  --config.{name}=', result.stdout)

  @parameterized.parameters({}, {'PYTHONUTF8': '0', 'LC_ALL': 'C'})
  def test_names_keep_their_bytes(self, **env):
    result = subprocess.run(
      (sys.executable, '-m', 'ldc_vae.main', b'--config=caf\xc3\xa9\xff.py'),
      capture_output=True,
      cwd=provenance.ROOT,
      env={**os.environ, **env},
      timeout=60,
    )
    self.assertEqual(result.returncode, 2)
    self.assertStartsWith(result.stderr, b'error: --config=caf\xc3\xa9\xff.py:')

  def test_a_mistake_is_reported(self):
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
      (sys.executable, '-c', code),
      capture_output=True,
      text=True,
      cwd=provenance.ROOT,
      timeout=60,
      check=True,
    )
    self.assertEqual(result.stderr, 'ours\ntheir warning\n')

  def test_a_reader_of_stdout_may_leave(self):
    result = subprocess.run(
      (
        'bash',
        '-c',
        '"$0" -m ldc_vae.main --help | true; exit ${PIPESTATUS[0]}',
        sys.executable,
      ),
      stderr=subprocess.PIPE,
      cwd=provenance.ROOT,
      timeout=60,
    )
    self.assertEqual(result.returncode, 128 + signal.SIGPIPE)
    self.assertEqual(result.stderr, b'')

  def test_the_module_runs(self):
    result = subprocess.run(
      (sys.executable, '-m', 'ldc_vae.main', '--mode=x'),
      capture_output=True,
      text=True,
      cwd=provenance.ROOT,
      timeout=60,
    )
    self.assertEqual(result.returncode, 2)
    self.assertEqual(
      result.stderr,
      'error: --mode=x: unknown mode; known: train, evaluate, sample,'
      ' compare, check, encode, export\n',
    )


if __name__ == '__main__':
  absltest.main()
