"""Tests of what runs on a TPU VM, and of all commands of tpu.sh in turn."""

import os
import signal
import subprocess

from absl.testing import absltest

from tests.launch import launch_case
from tests.launch import tpu_case

_ZONE = tpu_case.ZONE
_RUN = launch_case.RUN


class WorkerTest(launch_case.LaunchTestCase):
  """Runs here what runs on a TPU VM."""

  SCRIPT = '_tpu_worker.sh'
  PROGRAMS = ('python3.11',)

  def setUp(self):
    super().setUp()
    self.state = self.folder / '.ldc_vae'
    python = self.root / '.venv/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text(launch_case.PYTHON)
    python.chmod(0o755)
    self.addCleanup(self.wait_until_idle)
    self.addCleanup(self.kill)  # this comes first

  def wait_until_idle(self):
    # the log tells of the end a moment before another run may begin
    self.wait_for(lambda: self.launch('idle').returncode == 0)

  def kill(self):
    try:
      os.kill(int((self.state / 'pid').read_text()), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
      pass

  def train(self, *args, workers='1', tenths='3000', **env):
    args = args or _RUN[1:]
    return self.launch('train', workers, *args, FAKE_TENTHS=tenths, **env)

  def status(self):
    return self.launch('status').stdout

  def test_a_run_in_a_bucket_needs_no_folder(self):
    args = (*_RUN[1:-1], '--workdir=gs://bucket/mnist')
    self.assert_done(self.train(*args), 'started as process')
    self.wait_for(lambda: self.calls('python'))
    self.assertEqual(self.calls('python')[0][-1], args[-1])
    self.assertFalse((self.root / 'gs:').exists())

  def test_starts_the_program_and_returns(self):
    self.assert_done(self.train(), 'started as process')
    self.wait_for(lambda: self.calls('python'))
    (call,) = self.calls('python')
    self.assertEqual(
      call[1:],
      (
        str(self.root),
        '',
        '',
        '',
        '-P',
        '-m',
        'ldc_vae.main',
        '--config=configs/mnist.py:vae',
        '--workdir=runs/mnist',
      ),
    )
    self.wait_for(lambda: 'step' in self.status())
    status = self.status()
    pid = (self.state / 'pid').read_text().strip()
    self.assertIn(f'running as process {pid}', status)
    self.assertIn('the log of the program', status)
    self.assertIn('{"step": 1, "train/loss": 2.5}', status)

  def test_does_not_start_twice(self):
    self.train()
    self.assert_done(self.train(), 'already running as process')
    self.wait_for(lambda: self.calls('python'))
    self.assertLen(self.calls('python'), 1)

  def test_another_run_waits_for_this_one(self):
    self.train()
    self.assert_failed(
      self.train(*_RUN[1:], '--config.seed=1'),
      'another run is under way',
      'stop it first',
    )
    self.assert_failed(self.launch('idle'), 'a run is under way')

  def test_stop_lets_it_save(self):
    self.train()
    self.wait_for(lambda: 'step' in self.status())
    self.assert_done(self.launch('stop'), 'stopped')
    self.assertEqual((self.fakes / 'saved').read_text(), 'saved\n')
    self.assertIn('ended with exit code 143', self.status())
    self.assert_done(self.launch('stop'), 'nothing is running')
    self.assert_done(self.launch('idle'))

  def test_a_program_that_saves_for_long_is_left_alone(self):
    self.train()
    self.wait_for(lambda: 'step' in self.status())
    pid = int((self.state / 'pid').read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
      self.assert_failed(
        self.launch('stop', LDC_VAE_STOP_SECONDS='1'), 'still saving'
      )
    finally:
      os.kill(pid, signal.SIGCONT)

  def test_the_exit_code_is_reported_and_the_run_continued(self):
    self.train(tenths='0', FAKE_CODE='1')
    self.wait_for(lambda: 'exit code 1' in self.status())
    self.wait_until_idle()
    self.assert_done(self.train(tenths='0'), 'started')
    self.wait_for(lambda: 'exit code 0' in self.status())
    self.assertLen(self.calls('ldc_vae.main'), 2)

  def test_a_killed_program_is_reported_and_continued(self):
    self.train()
    self.wait_for(lambda: 'step' in self.status())
    self.kill()
    self.wait_until_idle()
    self.assertIn('ended with exit code 137', self.status())
    self.assert_done(self.train(), 'started')

  def test_a_machine_that_went_down_is_reported(self):
    self.train(tenths='0')
    self.wait_for(lambda: 'exit code 0' in self.status())
    self.wait_until_idle()
    (self.state / 'exit').unlink()  # it had no time to write one
    self.assertIn('was killed; train continues it', self.status())

  def test_one_of_several_workers_joins_the_others(self):
    args = (_RUN[1], f'--workdir={self.folder}/shared')
    self.assert_done(self.train(*args, workers='4', tenths='0'), 'started')
    self.wait_for(lambda: self.calls('ldc_vae.main'))
    self.assertEqual(self.calls('ldc_vae.main')[0][4], '1')

  def test_needs_its_environment(self):
    (self.root / '.venv/bin/python').unlink()
    self.assert_failed(self.train(), 'no environment', 'set it up')

  def test_nothing_to_tell(self):
    self.assertIn('nothing was started', self.status())

  def test_an_old_python_is_joined_by_a_new_one(self):
    (self.root / '.venv/bin/python').unlink()
    (self.root / '.venv/bin').rmdir()
    self.program('sudo')
    result = self.launch('setup', FAKE_OLD='1', LDC_VAE_ACCELERATOR='cpu')
    self.assert_failed(result, 'Python 3.11 or newer')  # the fake installs none
    calls = [' '.join(call) for call in self.calls('sudo')]
    self.assertIn('ppa:deadsnakes/ppa', calls[0])
    self.assertIn('install python3.12 python3.12-venv', calls[-1])

  def test_a_failed_installation_of_python_is_reported(self):
    self.program('sudo')
    self.answer('sudo *', err='E: Unable to locate package\n', code=100)
    result = self.launch('setup', FAKE_OLD='1')
    self.assert_failed(result, 'cannot install Python 3.12', '--python')
    self.assertIn('Unable to locate', result.stderr)


# gcloud over a VM that is a folder of this machine.
_SSH = r"""
for word in "$@"; do
  case $word in --command=*) command=${word#*=} ;; esac
done
cd "$VM" && HOME=$VM bash -c "$command"
exit
"""
_SCP = r"""
from=$5 to=$6
if [[ $from == x:* ]]; then
  cp -r "$VM/${from#x:}" "$to"
else
  cp "$from" "$VM/${to#x:}"
fi
"""


class WholeWayTest(tpu_case.TpuTestCase):
  """All commands in turn; the VM is a folder."""

  PROGRAMS = ('gcloud', 'python3.11')

  def setUp(self):
    super().setUp()
    self.vm()

  def test_from_the_code_to_the_results(self):
    vm = self.folder / 'vm'
    vm.mkdir()
    self.env |= {'VM': str(vm), 'LDC_VAE_ACCELERATOR': 'cpu'}
    self.answer('*tpu-vm ssh*', run=_SSH)
    self.answer('*tpu-vm scp*', run=_SCP)
    for _ in range(2):
      self.assert_done(self.launch('setup', 'x', _ZONE), 'ready')
    self.assertTrue((vm / 'ldc_vae/configs/mnist.py').exists())
    self.assertLen(self.calls('python', 'install'), 1)
    self.assert_done(self.launch('train', 'x', _ZONE, *_RUN), 'started')
    self.wait_for(lambda: 'code 0' in self.launch('status', 'x', _ZONE).stdout)
    self.assertIn('{"step": 1', self.launch('status', 'x', _ZONE).stdout)
    self.assert_done(
      self.launch('fetch', 'x', _ZONE, '--workdir=runs/mnist'), 'fetched'
    )
    self.assertTrue((self.root / 'runs/x/mnist/metrics.jsonl').exists())
    self.assert_done(self.launch('stop', 'x', _ZONE), 'nothing is running')

  def test_of_a_checkout_what_git_tracks_travels_without_secrets(self):
    git = ('git', '-c', 'user.name=a', '-c', 'user.email=a@b', '-C', self.root)
    (self.root / '.gitignore').write_text('runs/\n')
    secrets = ('.env', 'configs/.env.local', 'configs/my.pem', 'key.json')
    for name in ('old.py', 'runs/big', 'configs/new.py', *secrets):
      (self.root / name).parent.mkdir(exist_ok=True)
      (self.root / name).touch()
    subprocess.run((*git, 'init', '-q'), check=True)
    subprocess.run((*git, 'add', 'old.py', 'launch', *secrets[1:3]), check=True)
    subprocess.run((*git, 'commit', '-qm', 'a'), check=True)
    (self.root / 'old.py').unlink()
    self.program('git', '#!/bin/bash\nPATH=/usr/bin:/bin exec git "$@"\n')
    archive = self.folder / 'code.tar.gz'
    self.answer('*tpu-vm scp*', run=f'cp "$5" \'{archive}\'')
    done = self.launch('setup', 'x', _ZONE)
    self.assert_done(done)
    self.assertIn('such as .env: they are not copied; git add', done.stderr)
    names = subprocess.run(
      ('tar', '-tzf', archive), check=True, capture_output=True, text=True
    ).stdout.splitlines()
    self.assertContainsSubset(('.commit', 'launch/tpu.sh'), names)
    self.assertNoCommonElements(
      ('old.py', 'runs/big', 'configs/new.py', *secrets), names
    )
    self.assertFalse([x for x in names if x.startswith('.git/')])
    commit = subprocess.run(
      ('tar', '-xzOf', archive, '.commit'),
      check=True,
      capture_output=True,
      text=True,
    ).stdout
    self.assertRegex(commit, r'^[0-9a-f]{40}\+dirty$')


if __name__ == '__main__':
  absltest.main()
