"""Tests of gpu.sh and container.sh, which run on this machine."""

import os
import re

from absl.testing import absltest
from absl.testing import parameterized

from tests.launch import launch_case

_RUN = launch_case.RUN
_RUN_INSIDE = launch_case.RUN_INSIDE


class GpuTest(launch_case.LaunchTestCase):
  SCRIPT = 'gpu.sh'
  PROGRAMS = ('nvidia-smi',)

  def setUp(self):
    super().setUp()
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

  @parameterized.parameters(
    'configs/mnist.py,debug', 'mnist', 'mnist,debug', 'mnist:vae,debug'
  )
  def test_run_files_are_found(self, config):
    self.assert_done(self.launch('--', f'--config={config}', '--workdir=r'))

  def test_the_exit_code_is_the_programs(self):
    self.assertEqual(self.launch(*_RUN, FAKE_CODE='130').returncode, 130)

  def test_dry_run(self):
    self.assertEqual(
      self.dry_run('--devices=0,1', *_RUN),
      [
        'env LDC_VAE_ACCELERATOR=cuda CUDA_DEVICE_ORDER=PCI_BUS_ID'
        f" CUDA_VISIBLE_DEVICES=0,1 bash '{self.root}/launch/local.sh'"
        ' --config=configs/mnist.py:vae --workdir=runs/mnist',
      ],
    )

  @parameterized.parameters(
    (('--devices=all', *_RUN), '--devices=all', 'as 0,1'),
    (('--devices=0,', *_RUN), '--devices=0,'),
    (('--gpus=2', *_RUN), '--gpus=2 is not an option', '--devices='),
    ((), '--config is missing'),
  )
  def test_mistakes_are_reported(self, args, *parts):
    self.assert_mistake(self.launch(*args), *parts)

  @parameterized.parameters(
    (('--mode=evaluate',), '--workdir is missing'),
    ((_RUN[1],), '--workdir is missing', 'runs/mnist'),
    ((_RUN[1], '--workdir', 'r'), '--workdir has no value'),
    ((_RUN[1], '--workdir=gs://bucket'), '=gs://bucket is', 'gs://BUCKET/'),
    ((_RUN[1], '--workdir=gs://bucket/'), '=gs://bucket/ is', 'gs://BUCKET/'),
    ((_RUN[1], '--workdir=http://a/b'), '=http://a/b is', 'gs://BUCKET/'),
    ((_RUN[1], '--workdir=~/mnist'), '--workdir=~/mn', 'write the path'),
    (('--config=/no/such.py', '--workdir=r'), '--config=/no/such.py'),
    (('--config=no_name', '--workdir=r'), '--config=no_name'),
    ((*_RUN[1:], '--mode', 'sample'), '--mode=VALUE'),
    ((*_RUN[1:], '--mode=sample'), '--mode=sample', 'local.sh'),
    ((*_RUN[1:], '--num_processes=2'), '--num_processes=2', 'leave'),
    ((*_RUN[1:], '--process_id=0'), '=0', 'leave --process_id out'),
    ((*_RUN[1:], '--coordinator_address=a:1'), '--coordinator_address=a:1'),
    ((*_RUN[1:], '--distributed'), '--distributed'),
  )
  def test_mistakes_of_the_program_are_reported(self, run, *parts):
    self.assert_mistake(self.launch('--', *run), *parts)

  def test_a_gpu_that_is_not_there_is_reported(self):
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
  def test_a_machine_without_gpus_is_reported(self, out, err, code):
    self.answer('nvidia-smi*', out=out, err=err, code=code)
    result = self.launch(*_RUN)
    self.assert_failed(result, 'finds no GPU', 'local.sh')
    self.assertIn((out + err).strip(), result.stderr)

  def test_a_missing_driver_is_reported(self):
    (self.bin / 'nvidia-smi').unlink()
    self.assert_failed(self.launch(*_RUN), 'nvidia-smi', 'driver')


class ContainerTest(launch_case.LaunchTestCase):
  SCRIPT = 'container.sh'
  PROGRAMS = ('docker',)

  def test_builds(self):
    self.assert_done(self.launch('build', '--accelerator=cuda12'))
    (call,) = self.calls('docker')
    self.assertEqual(
      call[1:],
      (
        'build',
        f'--file={self.root}/launch/Dockerfile',
        '--tag=ldc_vae:cuda12',
        '--build-arg=ACCELERATOR=cuda12',
        str(self.root),
      ),
    )

  def test_the_base_may_be_named_by_its_digest(self):
    base = 'python@sha256:' + 64 * 'a'
    (line,) = self.dry_run('build', f'--base={base}')
    self.assertIn(f'--build-arg=BASE={base}', line)

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
    self.program('id')
    self.answer('id -u', out='1234\n')
    self.answer('id -g', out='567\n')
    self.assert_done(self.launch('run', *_RUN_INSIDE))
    *_, call = self.calls('docker')
    self.assertContainsSubset(
      (
        'run',
        '--rm',
        '--init',
        '--user=1234:567',
        f'--volume={self.root}/runs:/runs',
        '--stop-timeout=60',
        '--security-opt=no-new-privileges',
        '--cap-drop=ALL',
      ),
      call,
    )
    self.assertEqual(call[-3:], ('ldc_vae:cpu', *_RUN_INSIDE[1:]))
    self.assertTrue((self.root / 'runs').is_dir())
    self.assertNotIn('--gpus=all', call)

  def test_a_bucket_is_as_good_as_a_folder(self):
    run = (*_RUN_INSIDE[:2], '--workdir=gs://bucket/mnist')
    names = set()
    for runs in ('runs', 'other'):
      line = self.dry_run('run', f'--runs={runs}', *run)[-1]
      self.assertEndsWith(line, ' '.join(run[1:]))
      names.add(re.search('--name=([^ ]+)', line)[1])
    (name,) = names  # wherever it is started
    self.assertStartsWith(name, 'ldc_vae-mnist-')

  def test_a_tpu_gets_no_new_rights_either(self):
    line = self.dry_run('run', '--accelerator=tpu', *_RUN_INSIDE)[-1]
    self.assertIn(f'--user={os.getuid()}:', line)
    self.assertIn('--security-opt=no-new-privileges', line)

  def test_gpus_and_other_folders(self):
    lines = self.dry_run(
      'run',
      '--accelerator=cuda13',
      '--image=r/i:1',
      f'--runs={self.folder}/my runs',
      '--detach',
      *_RUN_INSIDE,
    )
    self.assertIn('--gpus=all', lines[-1])
    self.assertIn('--detach r/i:1 --config', lines[-1])
    self.assertIn(f"'--volume={self.folder}/my runs:/runs'", lines[-1])

  def test_a_running_one_is_left_alone(self):
    self.answer('docker ps*', out='0123456789ab\n')
    self.assert_done(self.launch('run', *_RUN_INSIDE), 'is running already')
    self.assertLen(self.calls(), 1)

  def test_one_that_ended_with_the_machine_makes_room(self):
    self.answer('docker rm *', err='No such container\n', code=1)  # usually
    self.assert_done(self.launch('run', *_RUN_INSIDE))
    _, removed, call = self.calls('docker')
    self.assertEqual(removed[1], 'rm')
    self.assertContainsSubset(
      ('run', f'--name={removed[2]}', '--label=managed-by=ldc-vae'), call
    )

  @parameterized.parameters(
    (('build',), 'could not build'), (('run', *_RUN_INSIDE), 'look up')
  )
  def test_a_failing_docker_is_reported(self, args, part):
    result = self.launch(*args, FAKE_FAIL_AT='1')
    self.assert_failed(result, part)
    self.assertIn('HTTPError 503', result.stderr)
    self.forget()
    self.assert_done(self.launch(*args))

  def test_the_exit_code_is_the_programs(self):
    self.answer('docker run*', code=143)
    self.assertEqual(self.launch('run', *_RUN_INSIDE).returncode, 143)

  @parameterized.parameters(
    ((), 'command is missing', 'build, run'),
    (('push',), 'push is not a command', 'build, run'),
    (('build', '--accelerator=gpu'), '--accelerator=gpu', 'cuda12'),
    (('build', '--runs=x'), '--runs=x is not an option'),
    (('build', *_RUN_INSIDE), 'only run'),
    (('run', '--detach=1', *_RUN_INSIDE), '--detach takes no value'),
    (('run', '--runs=~/data', *_RUN_INSIDE), '--runs=~/data', 'expanded'),
    (('run',), '--config is missing'),
    (('run', *_RUN), '--workdir=runs/mnist', 'below /runs'),
    (('run', *_RUN_INSIDE[:2]), '--workdir is missing', '/runs/mnist'),
  )
  def test_mistakes_are_reported(self, args, *parts):
    self.assert_mistake(self.launch(*args), *parts)

  def test_a_missing_docker_is_reported(self):
    (self.bin / 'docker').unlink()
    self.assert_failed(self.launch('build'), 'docker', 'docs.docker.com')


if __name__ == '__main__':
  absltest.main()
