"""Tests of local.sh, test.sh and of the environment that they make."""

import os
import re
import signal
import subprocess

from absl.testing import absltest
from absl.testing import parameterized

from tests.launch import launch_case


class _LocalTestCase(launch_case.LaunchTestCase):
  SCRIPT = 'local.sh'
  PROGRAMS = ('python3.11',)

  def setUp(self):
    super().setUp()
    self.env['LDC_VAE_ACCELERATOR'] = 'cpu'
    self.venv = self.root / '.venv'

  def launch_well(self, **env):
    self.assert_done(self.launch(**env))

  def assert_made(self, times):
    self.assertLen(self.calls('pip'), times)


class LocalTest(_LocalTestCase):
  def test_makes_the_environment_and_trains_the_digits(self):
    self.launch_well()
    (pip,) = self.calls('pip')
    self.assertContainsSubset(
      (
        'install',
        '--require-hashes',
        '-r',
        f'{self.root}/launch/locks/cpu.txt',
      ),
      pip,
    )
    (run,) = self.calls('ldc_vae.main')
    self.assertEqual(
      run[5:],
      (
        '-P',
        '-m',
        'ldc_vae.main',
        '--config=configs/digits.py',
        '--workdir=runs/digits',
      ),
    )

  def test_arguments_and_folder_reach_the_program(self):
    elsewhere = self.folder / 'else where'
    elsewhere.mkdir()
    self.assert_done(self.launch('--a=b c', '', cwd=elsewhere))
    (run,) = self.calls('ldc_vae.main')
    self.assertEqual(run[1], str(elsewhere))
    self.assertEqual(run[-2:], ('--a=b c', ''))

  def test_the_exit_code_is_the_programs(self):
    self.assertEqual(self.launch(FAKE_CODE='7').returncode, 7)

  def test_the_second_run_reuses_the_environment(self):
    self.launch_well()
    before = os.times()
    result = self.launch()
    after = os.times()
    seconds = after.children_user - before.children_user
    seconds += after.children_system - before.children_system
    self.assertEqual((result.returncode, result.stderr), (0, ''))
    self.assert_made(1)
    self.assertLen(self.calls('ldc_vae.main'), 2)
    # of processors, as the machine may be busy; one Python takes as much
    self.assertLess(seconds, 0.3)

  def test_other_requirements_make_it_again(self):
    self.launch_well()
    (self.venv / 'old').touch()
    (self.root / 'requirements.txt').write_text('jax==2\n')
    self.launch_well()
    self.assert_made(2)
    self.assertFalse((self.venv / 'old').exists())

  def test_another_python_makes_it_again(self):
    self.launch_well()
    self.program('python4', launch_case.PYTHON)
    for _ in range(2):
      self.launch_well(LDC_VAE_PYTHON='python4')
    self.assert_made(2)

  def test_the_environment_may_be_elsewhere(self):
    self.launch_well(LDC_VAE_VENV='some/where')  # relative
    self.assertTrue((self.root / 'some/where/bin/python').exists())
    self.assertFalse(self.venv.exists())


class DocsTest(_LocalTestCase):
  SCRIPT = 'docs.sh'

  def setUp(self):
    super().setUp()
    text = (self.root / 'launch/docs.sh').read_text()
    for name in re.search(r'parts=\((.*?)\)', text, re.DOTALL)[1].split():
      self.assertTrue((launch_case.ROOT / name).exists(), name)
      if '.' in name or name == 'LICENSE':
        (self.root / name).write_text('text')
      else:
        (self.root / name).mkdir()
        (self.root / name / 'page.md').touch()
    (self.root / 'docs/requirements.txt').write_text('mkdocs==1\n')

  def test_has_an_environment_of_its_own_and_builds_from_a_copy(self):
    for _ in range(2):
      self.launch_well(LDC_VAE_VENV='elsewhere')
    (pip,) = self.calls('pip')
    self.assertEqual(
      pip[-3:], ('--require-hashes', '-r', f'{self.root}/launch/locks/docs.txt')
    )
    self.assertTrue((self.root / 'build/docs_venv/bin/python').exists())
    self.assertTrue((self.root / 'build/pages/docs/page.md').exists())
    self.assertLen(self.calls('mkdocs', '--strict'), 2)
    self.assertLen(self.calls('twine', 'check', '--strict'), 2)

  @parameterized.parameters(('mkdocs', 3), ('build', 1), ('twine', 3))
  def test_fails_with_each_of_its_programs(self, name, code):
    self.assertEqual(self.launch(FAKE_FAILING=f'{name} ').returncode, code)

  def test_a_failed_installation_names_its_file(self):
    result = self.launch(FAKE_PIP_CODE='1')
    self.assert_failed(result, 'launch/locks/docs.txt')


class BrokenEnvironmentTest(_LocalTestCase):
  def test_a_failed_installation_is_reported_and_done_again(self):
    self.assert_failed(self.launch(FAKE_PIP_CODE='1'), 'launch/locks/cpu.txt')
    self.assertEmpty(self.calls('ldc_vae.main'))
    self.launch_well()
    self.assert_made(2)

  @parameterized.parameters(True, False)
  def test_a_killed_installation_is_done_again(self, flock):
    if not flock:  # as on macOS
      (self.bin / 'flock').unlink(missing_ok=True)
    process = self.start(FAKE_PIP_SECONDS='60')
    self.wait_for(lambda: self.calls('pip'))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    self.assertTrue((self.venv / 'bin/python').exists())
    self.launch_well()
    self.assert_made(2)

  def test_two_at_once_install_once(self):
    processes = [self.start(FAKE_PIP_SECONDS='1') for _ in range(2)]
    for process in processes:
      _, err = process.communicate(timeout=launch_case.TIMEOUT)
      self.assertEqual(process.returncode, 0, err)
    self.assert_made(1)
    self.assertLen(self.calls('ldc_vae.main'), 2)

  def test_a_file_of_the_user_is_left_alone(self):
    self.venv.touch()
    self.assert_failed(self.launch(), f'{self.venv} exists', 'LDC_VAE_VENV')
    self.assertTrue(self.venv.is_file())

  def test_a_folder_of_the_user_is_left_alone(self):
    self.venv.mkdir()
    (self.venv / 'precious').touch()
    self.assert_failed(self.launch(), str(self.venv), 'LDC_VAE_VENV')
    self.assertTrue((self.venv / 'precious').exists())

  def test_a_removed_interpreter_makes_it_again(self):
    self.launch_well()
    (self.venv / 'bin/python').unlink()
    self.launch_well()
    self.assert_made(2)


class FindPythonTest(_LocalTestCase):
  def test_none_is_reported(self):
    (self.bin / 'python3.11').unlink()
    self.assert_failed(self.launch(), 'Python 3.11 or newer is needed')

  def test_an_old_one_is_reported(self):
    (self.bin / 'python3.11').rename(self.bin / 'python3')
    self.assert_failed(self.launch(FAKE_OLD='1'), 'Python 3.11 or newer')

  def test_a_name_that_does_not_run_is_passed_over(self):
    self.program('python3.13', '#!/bin/bash\nexit 127\n')
    self.launch_well()

  def test_one_without_ensurepip_is_reported_what_to_install(self):
    self.assert_failed(
      self.launch(FAKE_NO_ENSUREPIP='1'),
      'ensurepip',
      'apt-get install python3.11-venv',
    )
    self.assertFalse(self.venv.exists())

  @parameterized.parameters('python3', 'python', 'python3.12', 'python3.14')
  def test_any_usual_name_is_found(self, name):
    (self.bin / 'python3.11').rename(self.bin / name)
    self.launch_well()

  def test_a_wrong_choice_is_reported(self):
    self.assert_failed(self.launch(LDC_VAE_PYTHON='/no/python'), '/no/python')


class AcceleratorTest(_LocalTestCase):
  def nvidia(self, answer):
    self.program('nvidia-smi')
    self.answer('nvidia-smi*', out=answer, code=0 if answer else 9)

  @parameterized.named_parameters(
    ('hopper', '580.82.07, 9.0', 'cuda13'),
    ('old_driver', '570.12, 9.0', 'cuda12'),
    ('volta', '580.82.07, 7.0', 'cuda12'),
    ('one_old_of_two', '580.1, 9.0\n580.1, 6.1', 'cuda12'),
    ('driver_that_does_not_answer', '', 'cuda12'),
  )
  def test_the_driver_chooses_the_build(self, answer, name):
    self.nvidia(answer)
    for _ in range(2):
      self.launch_well(LDC_VAE_ACCELERATOR='cuda')
    (pip,) = self.calls('pip')
    self.assertEqual(
      pip[-3:],
      ('--require-hashes', '-r', f'{self.root}/launch/locks/{name}.txt'),
    )

  def test_the_cpu_is_served_by_any_build(self):
    for accelerator in ('cuda', 'cpu', 'cuda'):
      self.launch_well(LDC_VAE_ACCELERATOR=accelerator)
    self.assert_made(1)
    platforms = [call[2] for call in self.calls('ldc_vae.main')]
    self.assertEqual(platforms, ['', 'cpu', ''])

  def test_a_gpu_makes_it_again(self):
    for accelerator in ('cpu', 'cuda'):
      self.launch_well(LDC_VAE_ACCELERATOR=accelerator)
    self.assert_made(2)

  def test_the_user_chooses(self):
    self.launch_well(LDC_VAE_ACCELERATOR='tpu')
    self.assertEqual(
      self.calls('pip')[-1][-1], f'{self.root}/launch/locks/tpu.txt'
    )

  def test_an_unknown_choice_is_reported(self):
    self.assert_failed(
      self.launch(LDC_VAE_ACCELERATOR='gpu'), '=gpu', 'cpu, cuda or tpu'
    )

  @parameterized.named_parameters(
    ('nothing', '', '', True, 'cpu'),
    ('gpu', 'dev/nvidiactl', '', True, 'cuda'),
    ('gpu_of_windows', 'dev/dxg', '', True, 'cuda'),
    ('gpu_without_driver', 'dev/nvidiactl', '', False, 'cpu'),
    ('tpu_v3', '', 'DRIVER=x\nPCI_ID=1AE0:0027\n', False, 'tpu'),
    ('tpu_v5e', '', 'PCI_ID=1AE0:0063\n', True, 'tpu'),
    ('network_card', '', 'PCI_ID=1AE0:0042\n', True, 'cpu'),
  )
  def test_the_machine_decides(self, node, event, driver, expected):
    if driver:
      self.nvidia('580.1, 9.0')
    for name, text in ((node, ''), ('sys/bus/pci/devices/a/uevent', event)):
      if name and (text or name == node):
        (self.folder / name).parent.mkdir(parents=True)
        (self.folder / name).write_text(text)
    result = subprocess.run(
      (
        'bash',
        '-c',
        'source "$0"; guess_accelerator "$1/dev" "$1/sys"',
        self.root / 'launch/_environment.sh',
        self.folder,
      ),
      env=self.env,
      check=True,
      capture_output=True,
      text=True,
    )
    self.assertEqual(result.stdout, f'{expected}\n')


class TestTest(_LocalTestCase):
  SCRIPT = 'test.sh'

  def test_checks_the_whole_project(self):
    self.assert_done(self.launch(cwd=self.folder))
    lint, layout, types, tests = self.calls('python')[-4:]
    self.assertEqual(lint[5:], ('-m', 'ruff', 'check'))
    self.assertEqual(layout[5:], ('-m', 'ruff', 'format', '--check'))
    self.assertEqual(types[5:], ('-m', 'mypy'))
    self.assertEqual(tests[1], str(self.root))
    self.assertEqual(tests[5:7], ('-m', 'pytest'))
    self.assertNotIn('tests', ''.join(tests[7:]))  # nothing is selected

  @parameterized.parameters('ruff', 'mypy')
  def test_a_failing_check_ends_it(self, name):
    self.assertEqual(self.launch(FAKE_FAILING=name).returncode, 3)
    self.assertEmpty(self.calls('pytest'))

  def test_arguments_are_those_of_pytest(self):
    self.launch('tests/test_svgd.py', '-k', 'a or b')
    self.assertEmpty(self.calls('ruff'))
    (call,) = self.calls('pytest')
    self.assertEqual(
      call[5:], ('-m', 'pytest', 'tests/test_svgd.py', '-k', 'a or b')
    )

  def test_coverage_is_measured_on_request(self):
    self.launch('tests/test_svgd.py', COVERAGE='1')
    (call,) = self.calls('pytest')
    self.assertEqual(
      call[7:], ('tests/test_svgd.py', '--cov', '--cov-fail-under=1')
    )


if __name__ == '__main__':
  absltest.main()
