"""Tests for the TPU VM launcher, with a gcloud that only records."""

import subprocess

from absl.testing import absltest
from absl.testing import parameterized

from tests.launch import launch_case
from tests.launch import tpu_case

_ZONE = tpu_case.ZONE
_RUN = launch_case.RUN

_TPU_VM = 'gcloud compute tpus tpu-vm'
_WORKER = 'ldc_vae/launch/_tpu_worker.sh'

_TPU_FIELDS = (
  '--format=csv[no-heading](state,acceleratorType.basename(),'
  'networkEndpoints.len(),labels.ldc_vae)'
)
_QUEUE_FIELDS = (
  '--format=csv[no-heading](state.state,'
  'tpu.nodeSpec[0].node.acceleratorType.basename(),'
  'tpu.nodeSpec[0].node.labels.ldc_vae,state.failedData.error.message)'
)


class DryRunTest(tpu_case.TpuTestCase):
  @parameterized.parameters(
    ('v2-8', 'tpu-ubuntu2204-base'),
    ('v3-2048', 'tpu-ubuntu2204-base'),
    ('v4-24', 'tpu-ubuntu2204-base'),
    ('v5litepod-1', 'v2-alpha-tpuv5-lite'),
    ('v5p-128', 'v2-alpha-tpuv5'),
    ('v6e-256', 'v2-alpha-tpuv6e'),
  )
  def test_every_generation_has_its_image(self, kind, image):
    *_, line = self.dry_run('create', 'x', _ZONE, f'--accelerator-type={kind}')
    self.assertEqual(
      line,
      f'{_TPU_VM} create x --accelerator-type={kind} --version={image}'
      f' --labels=ldc_vae=ldc-vae {_ZONE}',
    )

  def test_another_image_and_network(self):
    *_, line = self.dry_run(
      'create',
      'x',
      _ZONE,
      '--accelerator-type=v2-8',
      '--spot',
      '--runtime-version=tpu-vm-base',
      '--network=n',
      '--subnetwork=s',
      '--internal-ip',
      '--project=my-project',
    )
    self.assertEqual(
      line,
      f'{_TPU_VM} create x --accelerator-type=v2-8'
      ' --version=tpu-vm-base --labels=ldc_vae=ldc-vae --network=n'
      f' --subnetwork=s --spot --internal-ips {_ZONE} --project=my-project',
    )

  def test_a_queued_resource_is_asked_for_by_other_flags(self):
    lines = self.dry_run(
      'create', 'x', _ZONE, '--accelerator-type=v6e-8', '--queued', '--spot'
    )
    self.assertEqual(
      lines,
      [
        f"{_TPU_VM} describe x '{_TPU_FIELDS}' {_ZONE}",
        'gcloud compute tpus queued-resources describe x'
        f" '{_QUEUE_FIELDS}' {_ZONE}",
        'gcloud compute tpus queued-resources create x --node-id=x'
        ' --accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e'
        f' --labels=ldc_vae=ldc-vae --spot --async {_ZONE}',
      ],
    )

  @parameterized.parameters(
    (
      'setup',
      (),
      f'set -e; if [ -f {_WORKER} ]; then bash {_WORKER} idle; fi;'
      ' mkdir -p ldc_vae; rm -rf ldc_vae/.git;'
      ' tar -xzf ldc_vae.tar.gz -C ldc_vae;'
      f' bash {_WORKER} setup',
    ),
    ('train', _RUN, f'bash {_WORKER} train 1 {" ".join(_RUN[1:])}'),
    ('stop', (), f'bash {_WORKER} stop'),
  )
  def test_work_on_all_workers(self, command, args, expected):
    first, *copies, last = self.dry_run(command, 'x', _ZONE, *args)
    self.assertIn(' describe x ', first)
    scp = 'scp ldc_vae.tar.gz x:ldc_vae.tar.gz --worker=all'
    self.assertEqual(
      copies, [f'{_TPU_VM} {scp} {_ZONE}'] * (command == 'setup')
    )
    self.assertEqual(
      last, f"{_TPU_VM} ssh x --worker=all '--command={expected}' {_ZONE}"
    )

  def test_status_asks_all(self):
    queue, tpu, ssh = self.dry_run('status', 'x', _ZONE)
    self.assertIn('tpu-vm describe x', tpu)
    self.assertIn('queued-resources describe x', queue)
    self.assertIn('--worker=all', ssh)

  def test_fetch_copies_from_the_first_worker(self):
    _, *lines = self.dry_run('fetch', 'x', _ZONE, '--workdir=runs/mnist')
    self.assertEqual(
      lines,
      [
        'mkdir -p runs/x',
        f'{_TPU_VM} scp x:ldc_vae/runs/mnist runs/x/ --recurse --worker=0'
        f' {_ZONE}',
      ],
    )

  def test_delete_names_both(self):
    self.assertEqual(
      self.dry_run('delete', 'x', _ZONE),
      [
        'gcloud compute tpus queued-resources delete x --force --quiet'
        f' {_ZONE}',
        f'{_TPU_VM} delete x --quiet {_ZONE}',
      ],
    )

  def test_needs_no_gcloud(self):
    (self.bin / 'gcloud').unlink()
    self.assertNotEmpty(self.dry_run('delete', 'x', _ZONE))

  def test_what_is_printed_can_be_pasted(self):
    *_, line = self.dry_run(
      'train', 'x', _ZONE, *_RUN, "--config.dataset.path=/it's $HOME/a b"
    )
    subprocess.run(('bash', '-c', line), env=self.env, check=True)
    (call,) = self.calls()
    self.assertIn("'--config.dataset.path=/it'\\''s $HOME/a b'", call[7])


class MistakesTest(tpu_case.TpuTestCase):
  @parameterized.parameters(
    ((), 'command is missing', 'create, setup, train'),
    (('make', 'x'), 'make is not a command', 'create, setup, train'),
    (('create',), 'name of the TPU is missing', 'create my-tpu'),
    (('create', _ZONE), 'name of the TPU is missing'),
    (('create', 'My_TPU', _ZONE), 'NAME=My_TPU', 'small letters'),
    (('create', 'x-', _ZONE), 'NAME=x-'),
    (('create', 'x' * 64, _ZONE), 'NAME=xxxx', '63'),
    (('status', 'x'), '--zone is missing', 'us-central1-a'),
    (('status', 'x', '--zone'), '--zone has no value', '--zone=VALUE'),
    (('status', 'x', '--zone='), '--zone has no value'),
    (('status', 'x', _ZONE, '--spot'), '--spot is not an option here'),
    (('status', 'x', _ZONE, '-v'), '-v is not an option', '--internal-ip'),
    (('status', 'x', _ZONE, '--dry-run=1'), '--dry-run=1', 'no value'),
    (('status', 'x', _ZONE, *_RUN), _RUN[1], 'only train'),
    (('train', 'x', _ZONE), '--config is missing', 'configs/mnist.py'),
    (('train', 'x', _ZONE, '--', '--config=no.py'), '--config=no.py'),
    (('train', 'x', _ZONE, _RUN[1]), 'is not an option', 'after --'),
    (('fetch', 'x', _ZONE), '--workdir is missing'),
    (('fetch', 'x', _ZONE, '--workdir=../other'), '--workdir=../other'),
    (('fetch', 'x', _ZONE, '--workdir=/'), '--workdir='),
    (('fetch', 'x', _ZONE, '--workdir=gs://b/r'), 'gs://b/r is in a bucket'),
    (('fetch', 'x', _ZONE, '--workdir=r', '--output=~/x'), '--output=~/x'),
  )
  def test_is_reported_in_a_sentence(self, args, *parts):
    self.assert_mistake(self.launch(*args), *parts)

  @parameterized.parameters(
    ('', '--accelerator-type= is not valid', 'v6e-8'),
    ('v5e-8', 'v5e-8', 'v5litepod'),
    ('tpu7x-8', 'tpu7x-8', 'gke.sh'),
    ('v4-0', 'v4-0', 'a size'),
    ('v6e-many', 'v6e-many', 'a size'),
    ('v6e-8 --wait', '--wait', '--queued'),
    ('v6e-8 --queued=1', '--queued=1'),
  )
  def test_of_create_is_reported(self, kind, *parts):
    args = f'--accelerator-type={kind}'.split() if kind else ()
    self.assert_mistake(self.launch('create', 'x', _ZONE, *args), *parts)

  def test_a_missing_gcloud_is_reported(self):
    (self.bin / 'gcloud').unlink()
    self.assert_failed(
      self.launch('status', 'x', _ZONE), 'gcloud', 'cloud.google.com/sdk'
    )


class WorkTest(tpu_case.TpuTestCase):
  @parameterized.product(
    args=(
      ('setup',),
      ('train', *_RUN),
      ('status',),
      ('stop',),
      ('fetch', '--workdir=runs/mnist'),
    ),
    state=('', 'PREEMPTED'),
  )
  def test_needs_a_vm(self, args, state):
    if state:
      self.vm(state)
    command, *rest = args
    self.assert_failed(
      self.launch(command, 'x', _ZONE, *rest),
      'x was pre-empted' if state else 'no TPU VM x in us-east5-b; make',
    )
    self.assertEmpty(self.verbs())

  @parameterized.parameters(
    (('setup',), 3),
    (('train', *_RUN), 2),
    (('status',), 3),
    (('stop',), 2),
    (('fetch', '--workdir=runs/mnist'), 2),
    (('delete',), 3),
    (('create', '--accelerator-type=v6e-8'), 1),
  )
  def test_every_failing_call_is_reported_and_can_be_repeated(
    self, args, count
  ):
    self.vm()
    self.assert_each_call_may_fail(count, args[0], 'x', _ZONE, *args[1:])

  def test_several_workers_are_started_by_one_call(self):
    self.vm(workers=4)
    self.assert_done(self.launch('train', 'x', _ZONE, *_RUN))
    (call,) = self.calls('ssh')
    self.assertIn(
      '--command=bash ldc_vae/launch/_tpu_worker.sh train 4'
      ' --config=configs/mnist.py:vae --workdir=runs/mnist',
      call,
    )
    self.assertIn('--worker=all', call)

  def test_fetch_leaves_a_folder_of_the_users_alone(self):
    self.vm()
    mine = self.root / 'runs/x/mnist'
    mine.mkdir(parents=True)
    self.assert_failed(
      self.launch('fetch', 'x', _ZONE, '--workdir=runs/mnist'),
      'runs/x/mnist',
      '--output',
    )
    self.assertEmpty(self.calls('scp'))

  def test_fetch_can_be_repeated(self):
    self.vm()
    for _ in range(2):
      self.assert_done(
        self.launch('fetch', 'x', _ZONE, '--workdir=/mnt/mnist/'),
        'runs/x/mnist',
      )
      (self.root / 'runs/x/mnist').mkdir(exist_ok=True)  # as scp would
    for call in self.calls('scp'):
      self.assertContainsSubset(('x:/mnt/mnist', 'runs/x/'), call)

  def test_status_tells_of_both(self):
    self.queue('ACTIVE')
    self.vm(workers=2)
    self.answer('*ssh*', out='worker 0: running\n')
    result = self.launch('status', 'x', _ZONE)
    self.assert_done(
      result,
      'queued resource x: ACTIVE',
      'v6e-8, READY, 2 worker(s)',
      'worker 0: running',
    )


if __name__ == '__main__':
  absltest.main()
