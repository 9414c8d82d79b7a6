"""Tests for the TPU VM launcher, with a gcloud that only records."""

import os
import signal
import subprocess

from absl.testing import absltest
from absl.testing import parameterized

from tests.launch import launch_case

_ZONE = '--zone=us-east5-b'
_RUN = ('--', '--config=configs/mnist.py:vae', '--workdir=runs/mnist')

_TPU_FIELDS = (
    '--format=csv[no-heading](state,acceleratorType.basename(),'
    'networkEndpoints.len(),labels.ldc_vae)'
)
_QUEUE_FIELDS = (
    '--format=csv[no-heading](state.state,'
    'tpu.nodeSpec[0].node.acceleratorType.basename(),'
    'tpu.nodeSpec[0].node.labels.ldc_vae,state.failedData.error.message)'
)

# What gcloud says of a TPU VM that is not there.
_NOT_FOUND = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource"
    " 'projects/p/locations/us-east5-b/nodes/x' was not found\n"
)
_NO_CAPACITY = """\
ERROR: (gcloud.compute.tpus.tpu-vm.create) {
  "code": 8,
  "message": "There is no more capacity in the zone \\"us-east5-b\\"."
}
"""
_EXISTS = (
    'ERROR: (gcloud.compute.tpus.tpu-vm.create) ALREADY_EXISTS: Resource'
    " 'projects/p/locations/us-east5-b/nodes/x' already exists\n"
)


class _TpuTestCase(launch_case.LaunchTestCase):

  SCRIPT = 'tpu.sh'

  def setUp(self):
    super().setUp()
    self.program('gcloud')
    self.answer('gcloud * describe *', err=_NOT_FOUND, code=1)

  def vm(self, state='READY', kind='v6e-8', workers=1, label='ldc-vae', **how):
    self.answer(
        '*tpu-vm describe*', out=f'{state},{kind},{workers},{label}\n', **how
    )

  def queue(self, state, kind='v6e-8', label='ldc-vae', reason='', **how):
    self.answer(
        '*queued-resources describe*',
        out=f'{state},{kind},{label},{reason}\n', **how
    )

  def verbs(self):
    """The recorded calls without gcloud's questions: 'group verb'."""
    calls = [' '.join(call[3:5]) for call in self.calls('gcloud')]
    return [call for call in calls if not call.endswith('describe')]

  def create(self, *args):
    return self.launch(
        'create', 'x', _ZONE, '--accelerator-type=v6e-8', *args,
        LDC_VAE_POLL_SECONDS='0',
    )


class DryRunTest(_TpuTestCase):

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
        f'gcloud compute tpus tpu-vm create x --accelerator-type={kind}'
        f' --version={image} --labels=ldc_vae=ldc-vae {_ZONE}',
    )

  def test_another_image_and_network(self):
    *_, line = self.dry_run(
        'create', 'x', _ZONE, '--accelerator-type=v2-8', '--spot',
        '--runtime-version=tpu-vm-base', '--network=n', '--subnetwork=s',
        '--internal-ip', '--project=my-project',
    )
    self.assertEqual(
        line,
        'gcloud compute tpus tpu-vm create x --accelerator-type=v2-8'
        ' --version=tpu-vm-base --labels=ldc_vae=ldc-vae --network=n'
        ' --subnetwork=s --spot --internal-ips --zone=us-east5-b'
        ' --project=my-project',
    )

  def test_a_queued_resource_is_asked_for_by_other_flags(self):
    lines = self.dry_run(
        'create', 'x', _ZONE, '--accelerator-type=v6e-8', '--queued', '--spot'
    )
    self.assertEqual(lines, [
        f"gcloud compute tpus tpu-vm describe x '{_TPU_FIELDS}' {_ZONE}",
        'gcloud compute tpus queued-resources describe x'
        f" '{_QUEUE_FIELDS}' {_ZONE}",
        'gcloud compute tpus queued-resources create x --node-id=x'
        ' --accelerator-type=v6e-8 --runtime-version=v2-alpha-tpuv6e'
        f' --labels=ldc_vae=ldc-vae --spot --async {_ZONE}',
    ])

  @parameterized.parameters(
      ('setup', (), [
          f'scp ldc_vae.tar.gz x:ldc_vae.tar.gz --worker=all {_ZONE}',
          "ssh x --worker=all '--command=set -e;"
          ' if [ -f ldc_vae/launch/_tpu_worker.sh ];'
          ' then bash ldc_vae/launch/_tpu_worker.sh idle; fi;'
          ' mkdir -p ldc_vae; tar -xzf ldc_vae.tar.gz -C ldc_vae;'
          f" bash ldc_vae/launch/_tpu_worker.sh setup' {_ZONE}",
      ]),
      ('train', _RUN, [
          "ssh x --worker=all '--command=bash ldc_vae/launch/_tpu_worker.sh"
          ' train 1 --config=configs/mnist.py:vae --workdir=runs/mnist\''
          f' {_ZONE}',
      ]),
      ('stop', (), [
          "ssh x --worker=all '--command=bash ldc_vae/launch/_tpu_worker.sh"
          f" stop' {_ZONE}",
      ]),
  )
  def test_work_on_all_workers(self, command, args, expected):
    first, *lines = self.dry_run(command, 'x', _ZONE, *args)
    self.assertIn(' describe x ', first)
    expected = [f'gcloud compute tpus tpu-vm {line}' for line in expected]
    self.assertEqual(lines, expected)

  def test_status_asks_all(self):
    tpu, queue, ssh = self.dry_run('status', 'x', _ZONE)
    self.assertIn('tpu-vm describe x', tpu)
    self.assertIn('queued-resources describe x', queue)
    self.assertIn('--worker=all', ssh)

  def test_fetch_copies_from_the_first_worker(self):
    _, *lines = self.dry_run('fetch', 'x', _ZONE, '--workdir=runs/mnist')
    self.assertEqual(lines, [
        'mkdir -p runs/x',
        'gcloud compute tpus tpu-vm scp x:ldc_vae/runs/mnist runs/x/ --recurse'
        f' --worker=0 {_ZONE}',
    ])

  def test_delete_names_both(self):
    self.assertEqual(self.dry_run('delete', 'x', _ZONE), [
        'gcloud compute tpus queued-resources delete x --force --quiet'
        f' {_ZONE}',
        f'gcloud compute tpus tpu-vm delete x --quiet {_ZONE}',
    ])

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


_CREATE = ('create', 'x', _ZONE)


class MistakesTest(_TpuTestCase):

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
      (('status', 'x', '--zone=us-central1'), '--zone=us-central1 ', 'us-ce'),
      (('status', 'x', '--zone=a;b'), '--zone=a;b'),
      (('status', 'x', _ZONE, '--project=My Project'), '--project=My Project'),
      (('status', 'x', _ZONE, '--spot'), '--spot is not an option here'),
      (('status', 'x', _ZONE, '-v'), '-v is not an option', '--internal-ip'),
      (('status', 'x', _ZONE, '--dry-run=1'), '--dry-run=1', 'no value'),
      (('status', 'x', _ZONE, *_RUN), '--config=configs/mnist.py:vae',
       'only train'),
      (_CREATE, '--accelerator-type is missing', 'v6e-8'),
      ((*_CREATE, '--accelerator-type=v5e-8'), 'v5e-8', 'v5litepod-8'),
      ((*_CREATE, '--accelerator-type=tpu7x-8'), 'tpu7x-8', 'gke.sh'),
      ((*_CREATE, '--accelerator-type=a100'), 'a100', 'v6e-8'),
      ((*_CREATE, '--accelerator-type=v2-16'), 'v2-16', '8, 32, 128'),
      ((*_CREATE, '--accelerator-type=v4-12'), 'v4-12', 'multiple of 8'),
      ((*_CREATE, '--accelerator-type=v4-0'), 'v4-0', 'multiple of 8'),
      ((*_CREATE, '--accelerator-type=v6e-many'), 'v6e-many', '1, 4, 8'),
      ((*_CREATE, '--accelerator-type=v6e-8', '--wait'), '--wait', '--queued'),
      ((*_CREATE, '--accelerator-type=v6e-8', '--queued=1'), '--queued=1'),
      (('train', 'x', _ZONE), '--config is missing', 'configs/mnist.py'),
      (('train', 'x', _ZONE, '--config=configs/mnist.py'),
       '--config=configs/mnist.py is not an option', 'after --'),
      (('train', 'x', _ZONE, '--', '--config=no.py', '--workdir=r'),
       '--config=no.py', 'configs/mnist.py'),
      (('train', 'x', _ZONE, *_RUN[:2]), '--workdir is missing', 'runs/mnist'),
      (('train', 'x', _ZONE, *_RUN[:2], '--workdir', 'r'),
       '--workdir has no value'),
      (('train', 'x', _ZONE, *_RUN[:2], '--workdir=gs://bucket/mnist'),
       'gs://bucket/mnist', 'mounted'),
      (('train', 'x', _ZONE, *_RUN[:2], '--workdir=~/mnist'), '--workdir=~/mn',
       'write the folder'),
      (('train', 'x', _ZONE, *_RUN, '--mode', 'sample'), '--mode=VALUE'),
      (('train', 'x', _ZONE, *_RUN, '--process_id=0'), '--process_id=0',
       'leave --process_id out'),
      (('train', 'x', _ZONE, *_RUN, '--distributed'), '--distributed'),
      (('train', 'x', _ZONE, *_RUN, '--mode=sample'), '--mode=sample',
       'local.sh'),
      (('fetch', 'x', _ZONE), '--workdir is missing'),
      (('fetch', 'x', _ZONE, '--workdir=../other'), '--workdir=../other'),
      (('fetch', 'x', _ZONE, '--workdir=/'), '--workdir='),
      (('fetch', 'x', _ZONE, '--workdir=gs://b'), 'gs://b'),
      (('fetch', 'x', _ZONE, '--workdir=r', '--output=~/x'), '--output=~/x'),
  )
  def test_is_told_in_a_sentence(self, args, *parts):
    self.assert_mistake(self.launch(*args), *parts)

  def test_a_missing_gcloud_is_told(self):
    (self.bin / 'gcloud').unlink()
    self.assert_failed(
        self.launch('status', 'x', _ZONE), 'gcloud', 'cloud.google.com/sdk'
    )


class CreateTest(_TpuTestCase):

  def test_makes_one_with_the_label(self):
    self.vm(times=1)  # after it was made: the newest rule is used up first
    self.answer('*tpu-vm describe*', err=_NOT_FOUND, code=1, times=1)
    self.assert_done(self.create(), 'x is READY', 'setup x')
    (call,) = self.calls('tpu-vm', 'create')
    self.assertIn('--labels=ldc_vae=ldc-vae', call)

  def test_one_that_exists_is_success(self):
    self.vm()
    self.assert_done(self.create(), 'x is READY')
    self.assertEmpty(self.verbs())

  def test_one_that_others_made_is_used_and_told(self):
    self.vm(label='')
    self.assert_done(self.create(), 'not made by this script')

  def test_one_that_appears_meanwhile_is_success(self):
    self.vm(times=1)
    self.answer('*tpu-vm describe*', err=_NOT_FOUND, code=1, times=1)
    self.answer('*tpu-vm create*', err=_EXISTS, code=1)
    self.assert_done(self.create(), 'x is READY')

  def test_another_type_is_refused(self):
    self.vm(kind='v2-8')
    self.assert_failed(self.create(), 'v2-8', '--accelerator-type=v6e-8')
    self.assertEmpty(self.verbs())

  @parameterized.parameters(
      ('PREEMPTED', 'pre-empted', 'create it again'),
      ('TERMINATED', 'TERMINATED', 'create it again'),
      ('STOPPED', 'STOPPED', 'create it again'),
      ('CREATING', 'CREATING', 'wait'),
      ('REPAIRING', 'REPAIRING', 'wait'),
  )
  def test_one_that_is_not_ready_is_told(self, state, *parts):
    self.vm(state)
    self.assert_failed(self.create(), *parts)
    self.assertEmpty(self.verbs())

  def test_no_capacity_is_told_with_the_reason(self):
    self.answer('*tpu-vm create*', err=_NO_CAPACITY, code=1)
    result = self.create()
    self.assert_failed(result, 'there is no x', '--queued')
    self.assertIn('no more capacity', result.stderr)

  def test_spot_warns_of_the_disk(self):
    self.vm()
    self.assert_done(self.create('--spot'), 'lost', 'mounted file system')

  def test_a_gcloud_that_cannot_be_asked_makes_nothing(self):
    error = 'ERROR: (gcloud) PERMISSION_DENIED: Cloud TPU API is disabled\n'
    self.answer('*describe*', err=error, code=1)
    result = self.create()
    self.assert_failed(result, 'could not look x up')
    self.assertIn('PERMISSION_DENIED', result.stderr)
    self.assertEmpty(self.verbs())


class QueueTest(_TpuTestCase):

  def test_is_made_and_waits_in_the_queue(self):
    self.queue('WAITING_FOR_RESOURCES')
    self.answer(
        '*queued-resources describe*', err=_NOT_FOUND, code=1, times=1
    )
    self.assert_done(self.create('--queued'), 'WAITING_FOR_RESOURCES')
    self.assertEqual(self.verbs(), ['queued-resources create'])

  def test_is_made_once(self):
    self.queue('PROVISIONING')
    for _ in range(2):
      self.assert_done(self.create('--queued'), 'PROVISIONING')
    self.assertEmpty(self.verbs())

  def test_waits_until_it_is_active(self):
    self.queue('ACTIVE')
    self.queue('PROVISIONING', times=2)
    self.queue('WAITING_FOR_RESOURCES', times=2)
    result = self.create('--queued', '--wait')
    self.assert_done(result, 'ACTIVE')
    self.assertEqual(  # each state once
        [line.rpartition(' is ')[2] for line in result.stderr.splitlines()][:2],
        ['WAITING_FOR_RESOURCES', 'PROVISIONING'],
    )

  @parameterized.parameters(
      ('SUSPENDED', 'pre-empted'),
      ('SUSPENDING', 'pre-empted'),
      ('FAILED', 'quota, of v6e, exceeded'),
  )
  def test_one_that_was_lost_is_told(self, state, part):
    self.queue(state, reason='quota, of v6e, exceeded')
    self.queue('WAITING_FOR_RESOURCES', times=1)
    self.assert_failed(
        self.create('--queued', '--wait'), part, 'delete it and create it again'
    )
    self.assertEmpty(self.verbs())

  def test_a_refused_request_is_told(self):
    self.answer('*queued-resources create*', err=_NO_CAPACITY, code=1)
    self.assert_failed(self.create('--queued'), 'there is no queued resource x')

  @parameterized.parameters('setup', 'status', 'stop')
  def test_other_commands_tell_why_there_is_no_vm(self, command):
    self.queue('SUSPENDED')
    result = self.launch(command, 'x', _ZONE)
    self.assert_failed(result, 'queued resource x was pre-empted')
    self.assertEmpty(self.calls('ssh'))


class WorkTest(_TpuTestCase):

  @parameterized.parameters(
      ('setup',), ('train', *_RUN), ('status',), ('stop',),
      ('fetch', '--workdir=runs/mnist'),
  )
  def test_needs_a_vm(self, command, *args):
    self.assert_failed(
        self.launch(command, 'x', _ZONE, *args), 'no TPU VM x', 'create'
    )
    self.assertEmpty(self.verbs())

  @parameterized.parameters(
      ('setup',), ('train', *_RUN), ('status',), ('stop',),
      ('fetch', '--workdir=runs/mnist'),
  )
  def test_a_preempted_vm_is_told(self, command, *args):
    self.vm('PREEMPTED')
    self.assert_failed(
        self.launch(command, 'x', _ZONE, *args), 'x was pre-empted'
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
  def test_every_failing_call_is_told_and_can_be_repeated(self, args, count):
    self.vm()
    command, *rest = args
    for failing in range(1, count + 1):
      self.forget()
      result = self.launch(
          command, 'x', _ZONE, *rest, FAKE_FAIL_AT=str(failing)
      )
      self.assert_failed(result)
      self.assertIn('HTTPError 503', result.stderr)
      self.assertLen(self.calls(), failing)  # nothing follows
    self.forget()
    self.assert_done(self.launch(command, 'x', _ZONE, *rest))
    self.assertLen(self.calls(), count)

  def test_several_workers_need_a_path_that_all_see(self):
    self.vm(workers=4)
    self.assert_failed(
        self.launch('train', 'x', _ZONE, *_RUN), '--workdir=runs/mnist',
        'absolute path',
    )
    self.assertEmpty(self.calls('ssh'))
    args = (*_RUN[:2], '--workdir=/mnt/runs')
    self.assert_done(self.launch('train', 'x', _ZONE, *args))
    (call,) = self.calls('ssh')
    self.assertIn(
        '--command=bash ldc_vae/launch/_tpu_worker.sh train 4'
        ' --config=configs/mnist.py:vae --workdir=/mnt/runs', call,
    )
    self.assertIn('--worker=all', call)

  def test_fetch_leaves_a_folder_of_the_users_alone(self):
    self.vm()
    mine = self.root / 'runs/x/mnist'
    mine.mkdir(parents=True)
    self.assert_failed(
        self.launch('fetch', 'x', _ZONE, '--workdir=runs/mnist'),
        'runs/x/mnist', '--output',
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
        result, 'queued resource x: ACTIVE', 'v6e-8, READY, 2 worker(s)',
        'worker 0: running',
    )


class DeleteTest(_TpuTestCase):

  def delete(self):
    return self.launch('delete', 'x', _ZONE)

  def test_deletes_a_vm_of_its_own(self):
    self.vm()
    self.assert_done(self.delete())
    self.assertEqual(self.verbs(), ['tpu-vm delete'])

  def test_deletes_a_queued_resource_with_its_vm(self):
    self.vm()
    self.queue('ACTIVE')
    self.assert_done(self.delete())
    (call,) = self.calls('delete')
    self.assertContainsSubset(('queued-resources', '--force', '--quiet'), call)

  @parameterized.parameters('SUSPENDED', 'FAILED', 'WAITING_FOR_RESOURCES')
  def test_deletes_a_queued_resource_in_any_state(self, state):
    self.queue(state)
    self.assert_done(self.delete())
    self.assertEqual(self.verbs(), ['queued-resources delete'])

  @parameterized.product(label=('', 'mine'), queued=(True, False))
  def test_what_it_did_not_make_stays(self, label, queued):
    self.vm(label=label)
    if queued:
      self.queue('ACTIVE', label=label)
    self.assert_failed(self.delete(), 'not made by this script')
    self.assertEmpty(self.verbs())

  def test_nothing_is_nothing_to_delete(self):
    self.assert_done(self.delete(), 'nothing to delete')
    self.assertEmpty(self.verbs())

  def test_nothing_is_deleted_where_gcloud_cannot_be_asked(self):
    self.answer('*describe*', err='ERROR: (gcloud) UNAUTHENTICATED\n', code=1)
    self.assert_failed(self.delete(), 'could not look x up')
    self.assertEmpty(self.verbs())


# Stands in for the environment's Python on a worker: it writes a line of
# metrics, and ends after some seconds, or by SIGTERM once it has saved.
_PYTHON = r"""#!/bin/bash
case "$*" in
  *version_info*'< (3, 11)'*) exit "${FAKE_OLD:-0}" ;;
  *version_info*) echo 3.11; exit ;;
  *ensurepip*) exit ;;
  '-m venv '*) mkdir "$3/bin" && cp "$0" "$3/bin/python"; exit ;;
esac
{ printf '%s\x1f' python "$PWD" "${LDC_VAE_DISTRIBUTED:-}" \
    "$PYTHONPATH" "$@"; printf '\x1e'; } >> "$FAKES/log"
case "$*" in *'-m ldc_vae.main'*) ;; *) exit ;; esac
trap 'echo saved >> "$FAKES/saved"; exit 143' TERM
for word in "$@"; do
  case $word in --workdir=*) workdir=${word#*=} ;; esac
done
echo '{"step": 1, "train/loss": 2.5}' >> "$workdir/metrics.jsonl"
echo 'the log of the program'
for ((i = 0; i < ${FAKE_TENTHS:-0}; ++i)); do sleep 0.1; done
exit "${FAKE_CODE:-0}"
"""


class WorkerTest(launch_case.LaunchTestCase):
  """What runs on a TPU VM, run here."""

  SCRIPT = '_tpu_worker.sh'

  def setUp(self):
    super().setUp()
    self.program('python3.11', _PYTHON)
    self.state = self.folder / '.ldc_vae'
    python = self.root / '.venv/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text(_PYTHON)
    python.chmod(0o755)
    self.addCleanup(self.end)

  def end(self):
    """Kills the program; the one that keeps its exit code writes it first."""
    self.kill()
    self.wait_until_idle()

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

  def test_starts_the_program_and_returns(self):
    self.assert_done(self.train(), 'started as process')
    self.wait_for(lambda: self.calls('python'))
    (call,) = self.calls('python')
    self.assertEqual(
        call[1:],
        (str(self.root), '', str(self.root), '-P', '-m', 'ldc_vae.main',
         '--config=configs/mnist.py:vae', '--workdir=runs/mnist'),
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
        self.train(*_RUN[1:], '--config.seed=1'), 'another run is under way',
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

  def test_the_exit_code_is_told_and_the_run_continued(self):
    self.train(tenths='0', FAKE_CODE='1')
    self.wait_for(lambda: 'exit code 1' in self.status())
    self.wait_until_idle()
    self.assert_done(self.train(tenths='0'), 'started')
    self.wait_for(lambda: 'exit code 0' in self.status())
    self.assertLen(self.calls('ldc_vae.main'), 2)

  def test_a_killed_program_is_told_and_continued(self):
    self.train()
    self.wait_for(lambda: 'step' in self.status())
    self.kill()
    self.wait_until_idle()
    self.assertIn('ended with exit code 137', self.status())
    self.assert_done(self.train(), 'started')

  def test_a_machine_that_went_down_is_told(self):
    self.train(tenths='0')
    self.wait_for(lambda: 'exit code 0' in self.status())
    self.wait_until_idle()
    (self.state / 'exit').unlink()  # it had no time to write one
    self.assertIn('was killed; train continues it', self.status())

  def test_one_of_several_workers_joins_the_others(self):
    # The shared file system is a word of stat's.
    (self.bin / 'stat').unlink()
    self.program('stat', '#!/bin/bash\necho nfs\n')
    args = (_RUN[1], f'--workdir={self.folder}/shared')
    self.assert_done(self.train(*args, workers='4', tenths='0'), 'started')
    self.wait_for(lambda: self.calls('ldc_vae.main'))
    self.assertEqual(self.calls('ldc_vae.main')[0][2], '1')

  def test_a_disk_of_one_worker_is_refused(self):
    (self.bin / 'stat').unlink()
    self.program('stat', '#!/bin/bash\necho ext2/ext3\n')
    args = (_RUN[1], f'--workdir={self.folder}/mine')
    self.assert_failed(
        self.train(*args, workers='2'), 'own disk', 'all workers'
    )
    self.assertEmpty(self.calls())

  def test_needs_its_environment(self):
    (self.root / '.venv/bin/python').unlink()
    self.assert_failed(self.train(), 'no environment', 'set it up')

  def test_nothing_to_tell(self):
    self.assertIn('nothing was started', self.status())

  def test_an_old_python_is_joined_by_a_new_one(self):
    (self.root / '.venv/bin/python').unlink()
    (self.root / '.venv/bin').rmdir()
    self.program('sudo', launch_case.FAKE)
    result = self.launch('setup', FAKE_OLD='1', LDC_VAE_ACCELERATOR='cpu')
    self.assert_failed(result, 'Python 3.11 or newer')  # the fake installs none
    calls = [' '.join(call) for call in self.calls('sudo')]
    self.assertIn('ppa:deadsnakes/ppa', calls[0])
    self.assertIn('install python3.12 python3.12-venv', calls[-1])

  def test_a_failed_installation_of_python_is_told(self):
    self.program('sudo', launch_case.FAKE)
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


class WholeWayTest(_TpuTestCase):
  """All commands in turn; the VM is a folder."""

  def test_from_the_code_to_the_results(self):
    vm = self.folder / 'vm'
    vm.mkdir()
    self.env |= {'VM': str(vm), 'LDC_VAE_ACCELERATOR': 'cpu'}
    self.program('python3.11', _PYTHON)
    self.vm()
    self.answer('*tpu-vm ssh*', run=_SSH)
    self.answer('*tpu-vm scp*', run=_SCP)
    (self.root / 'ldc_vae').mkdir()
    for _ in range(2):
      self.assert_done(self.launch('setup', 'x', _ZONE), 'ready')
    self.assertTrue((vm / 'ldc_vae/configs/mnist.py').exists())
    self.assertLen(self.calls('python', 'install'), 1)
    self.assert_done(self.launch('train', 'x', _ZONE, *_RUN), 'started')
    self.wait_for(
        lambda: 'code 0' in self.launch('status', 'x', _ZONE).stdout
    )
    self.assertIn('{"step": 1', self.launch('status', 'x', _ZONE).stdout)
    self.assert_done(
        self.launch('fetch', 'x', _ZONE, '--workdir=runs/mnist'), 'fetched'
    )
    self.assertTrue((self.root / 'runs/x/mnist/metrics.jsonl').exists())
    self.assert_done(self.launch('stop', 'x', _ZONE), 'nothing is running')

  def test_a_checkout_travels_with_its_history_without_what_git_ignores(self):
    git = ('git', '-c', 'user.name=a', '-c', 'user.email=a@b', '-C', self.root)
    (self.root / '.gitignore').write_text('runs/\n')
    for name in ('old.py', 'runs/big', 'configs/new.py'):
      (self.root / name).parent.mkdir(exist_ok=True)
      (self.root / name).touch()
    subprocess.run((*git, 'init', '-q'), check=True)
    subprocess.run((*git, 'add', 'old.py', 'launch'), check=True)
    subprocess.run((*git, 'commit', '-qm', 'a'), check=True)
    (self.root / 'old.py').unlink()
    self.program('git', '#!/bin/bash\nPATH=/usr/bin:/bin exec git "$@"\n')
    archive = self.folder / 'code.tar.gz'
    self.vm()
    self.answer('*tpu-vm scp*', run=f"cp \"$5\" '{archive}'")
    self.assert_done(self.launch('setup', 'x', _ZONE))
    names = subprocess.run(
        ('tar', '-tzf', archive), check=True, capture_output=True, text=True
    ).stdout.splitlines()
    self.assertContainsSubset(
        ('.git/HEAD', 'configs/new.py', 'launch/tpu.sh'), names
    )
    self.assertNoCommonElements(('old.py', 'runs/big'), names)


if __name__ == '__main__':
  absltest.main()
