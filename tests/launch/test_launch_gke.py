"""Tests for the JobSet launcher, with a kubectl that only records."""

import subprocess

from absl.testing import absltest
from absl.testing import parameterized
import yaml

from tests.launch import jobset_schema
from tests.launch import launch_case

_IMAGE = ('--image=registry.example/ldc_vae:tpu', '--claim=shared')
_TPU = ('--tpu=v6e', '--topology=4x4')
_GPU = ('--gpu=nvidia-h100-80gb', '--gpus-per-node=8', '--nodes=2')
_RUN = launch_case.RUN_INSIDE
_SUBMIT = ('submit', 'mnist', *_IMAGE)

_EXCLUSIVE = 'alpha.jobset.sigs.k8s.io/exclusive-topology'
_EXISTS = (
  'Error from server (AlreadyExists): error when creating "STDIN":'
  ' jobsets.jobset.x-k8s.io "mnist" already exists\n'
)
_NO_JOBSET = 'error: the server doesn\'t have a resource type "jobsets"\n'
_REFUSED = 'The connection to the server 10.0.0.1 was refused\n'


class _GkeTestCase(launch_case.LaunchTestCase):
  SCRIPT = 'gke.sh'
  PROGRAMS = ('kubectl',)

  def setUp(self):
    super().setUp()
    self.answer('*create*', run='cat > "$FAKES/manifest"')

  def submit(self, *args, run=_RUN, **env):
    return self.launch(*_SUBMIT, *(args or _TPU), *run, **env)

  def manifest(self, *args, run=_RUN):
    """The manifest of a run, checked against the schema."""
    result = self.submit(*args, run=run)
    self.assertEqual(result.returncode, 0, result.stderr)
    return self.read_manifest((self.fakes / 'manifest').read_text())

  def read_manifest(self, text):
    self.assertNotIn('__', text)  # all words are filled in
    manifest = yaml.safe_load(text)
    self.assertEmpty(jobset_schema.errors(manifest))
    return manifest

  def jobset(self, label='ldc-vae', digest='', state='', **how):
    self.answer(
      '*get jobsets* mnist --ignore-not-found *',
      out=f'{label},{digest},{state}',
      **how,
    )

  def verbs(self):
    return [call[1] for call in self.calls('kubectl') if call[1] != 'get']


def _job(manifest):
  (job,) = manifest['spec']['replicatedJobs']
  return job['template']['spec']


def _pod(manifest):
  return _job(manifest)['template']['spec']


def _container(manifest):
  (container,) = _pod(manifest)['containers']
  return container


class ManifestTest(_GkeTestCase):
  @parameterized.parameters(
    ('v4', '2x2x1', 'tpu-v4-podslice', 1, 4),
    ('v4', '2x2x4', 'tpu-v4-podslice', 4, 4),
    ('v5e', '1x1', 'tpu-v5-lite-podslice', 1, 1),
    ('v5e', '2x2', 'tpu-v5-lite-podslice', 1, 4),
    ('v5e', '2x4', 'tpu-v5-lite-podslice', 1, 8),
    ('v5p', '4x4x4', 'tpu-v5p-slice', 16, 4),
    ('v6e', '16x16', 'tpu-v6e-slice', 64, 4),
  )
  def test_a_tpu_slice_has_its_hosts(self, tpu, topology, label, hosts, chips):
    manifest = self.manifest(f'--tpu={tpu}', f'--topology={topology}')
    self.assertEqual(
      _pod(manifest)['nodeSelector'],
      {
        'cloud.google.com/gke-tpu-accelerator': label,
        'cloud.google.com/gke-tpu-topology': topology,
      },
    )
    job = _job(manifest)
    self.assertEqual((job['completions'], job['parallelism']), (hosts, hosts))
    container = _container(manifest)
    self.assertEqual(
      container['resources']['limits'], {'google.com/tpu': chips}
    )
    distributed = '--num_processes' in ' '.join(container['args'])
    self.assertEqual(distributed, hosts > 1)
    # a lone host shares its node pool with other runs
    annotations = manifest['metadata']['annotations']
    self.assertEqual(_EXCLUSIVE in annotations, hosts > 1)

  @parameterized.parameters('on', 'null')
  def test_a_name_stays_text(self, name):
    self.assert_done(self.launch('submit', name, *_IMAGE, *_TPU, *_RUN))
    manifest = self.read_manifest((self.fakes / 'manifest').read_text())
    self.assertEqual(manifest['metadata']['name'], name)

  def test_chips_of_a_host_can_be_reported(self):
    manifest = self.manifest(
      '--tpu=v6e', '--topology=2x4', '--chips-per-node=4'
    )
    self.assertEqual(_job(manifest)['completions'], 2)

  def test_gpu_nodes(self):
    manifest = self.manifest(*_GPU)
    self.assertEqual(
      _pod(manifest)['nodeSelector'],
      {'cloud.google.com/gke-accelerator': 'nvidia-h100-80gb'},
    )
    container = _container(manifest)
    self.assertEqual(container['resources']['limits'], {'nvidia.com/gpu': 8})
    self.assertEqual(_job(manifest)['completions'], 2)
    env = {each['name']: each['value'] for each in container['env']}
    self.assertEqual(env['LD_LIBRARY_PATH'], '/usr/local/nvidia/lib64')
    self.assertEqual(env['JAX_LOCAL_DEVICE_IDS'], '0,1,2,3,4,5,6,7')
    self.assertNotIn(_EXCLUSIVE, manifest['metadata']['annotations'])

  def test_processes_meet_at_the_first_pod(self):
    args = _container(self.manifest())['args']
    self.assertEqual(
      args,
      [
        *_RUN[1:],
        '--coordinator_address=mnist-worker-0-0.mnist:8476',
        '--num_processes=4',
        '--process_id=$(JOB_COMPLETION_INDEX)',
      ],
    )

  def test_the_program_gets_the_arguments_as_they_are(self):
    args = ('--a="b" \\c', '--b=$(HOME) $X `id` &__name__', "--c=it's: {1, #2}")
    run = (*_RUN, *args)
    self.assert_done(self.submit(*_TPU, run=run))
    text = (self.fakes / 'manifest').read_text()
    found = _container(yaml.safe_load(text))['args'][2:5]
    # Kubernetes makes $(HOME) of $$(HOME), and would expand $(HOME).
    self.assertEqual(found, [args[0], args[1].replace('$(', '$$('), args[2]])

  def test_pre_emption_is_survived(self):
    manifest = self.manifest(*_TPU, '--spot', '--max-restarts=7')
    pod = _pod(manifest)
    self.assertEqual(manifest['spec']['failurePolicy']['maxRestarts'], 7)
    self.assertEqual(_job(manifest)['backoffLimit'], 0)
    self.assertEqual(pod['restartPolicy'], 'Never')
    self.assertGreaterEqual(pod['terminationGracePeriodSeconds'], 30)
    self.assertEqual(pod['nodeSelector']['cloud.google.com/gke-spot'], 'true')
    self.assertEqual(pod['tolerations'][0]['key'], 'cloud.google.com/gke-spot')

  def test_a_mistake_of_the_arguments_does_not_start_again(self):
    manifest = self.manifest()
    (rule,) = _job(manifest)['podFailurePolicy']['rules']
    self.assertEqual(rule['onExitCodes']['values'], [2])
    self.assertEqual(
      rule['onExitCodes']['containerName'], _container(manifest)['name']
    )
    (rule,) = manifest['spec']['failurePolicy']['rules']
    self.assertEqual(rule['action'], 'FailJobSet')
    self.assertEqual(rule['onJobFailureReasons'], ['PodFailurePolicy'])

  def test_the_claim_is_mounted(self):
    pod = _pod(self.manifest())
    volumes = {volume['name']: volume for volume in pod['volumes']}
    mounts = {
      mount['mountPath']: volumes[mount['name']]
      for mount in pod['containers'][0]['volumeMounts']
    }
    self.assertEqual(
      mounts['/runs']['persistentVolumeClaim'], {'claimName': 'shared'}
    )
    self.assertEqual(mounts['/dev/shm']['emptyDir'], {'medium': 'Memory'})

  def test_a_run_in_a_bucket_needs_no_claim(self):
    workdir = '--workdir=gs://bucket/mnist'
    result = self.launch(*_SUBMIT[:3], *_TPU, *_RUN[:2], workdir)
    self.assertEqual(result.returncode, 0, result.stderr)
    manifest = self.read_manifest((self.fakes / 'manifest').read_text())
    volume, _ = _pod(manifest)['volumes']
    self.assertEqual(volume, {'name': 'runs', 'emptyDir': {}})
    self.assertIn(workdir, _container(manifest)['args'])


class DryRunTest(_GkeTestCase):
  def test_submit_prints_what_can_be_pasted(self):
    lines = self.dry_run(*_SUBMIT, *_TPU, '--namespace=ml', *_RUN)
    self.assertIn('kubectl get jobsets', lines[0])
    self.assertIn('--namespace=ml', lines[0])
    self.assertStartsWith(
      lines[1], 'kubectl create --filename=- --namespace=ml'
    )
    subprocess.run(
      ('bash', '-c', '\n'.join(lines[1:])), env=self.env, check=True
    )
    self.read_manifest((self.fakes / 'manifest').read_text())

  def test_status_and_delete(self):
    *_, logs = self.dry_run('status', 'mnist', '--context=c')
    self.assertEqual(
      logs,
      'kubectl logs --tail=20'
      ' --selector=jobset.sigs.k8s.io/jobset-name=mnist,'
      'batch.kubernetes.io/job-completion-index=0 --context=c',
    )
    *_, delete = self.dry_run('delete', 'mnist')
    self.assertEqual(
      delete,
      'kubectl delete jobsets.jobset.x-k8s.io mnist --ignore-not-found',
    )


class MistakesTest(_GkeTestCase):
  @parameterized.parameters(
    ((), 'command is missing', 'submit, status, delete'),
    (('apply', 'mnist'), 'apply is not a command', 'submit, status, delete'),
    (('status',), 'name of the run is missing', 'status mnist'),
    (('status', 'My_run'), 'NAME=My_run', 'small letters'),
    (('status', 'a' * 41), 'NAME=aaa', '40'),
    (('status', 'mnist', '--tpu=v4'), '--tpu=v4 is not an option here'),
    (('delete', 'mnist', *_RUN), '--config=configs/mnist.py', 'only submit'),
    (('submit', 'mnist', *_TPU, *_RUN), '--image= is not valid', 'registry'),
    ((*_SUBMIT[:3], *_TPU, *_RUN), '--claim= is not valid', '/runs'),
    ((*_SUBMIT, '--image=A b', *_TPU, *_RUN), '--image=A b'),
    ((*_SUBMIT, '--claim=A', *_TPU, *_RUN), '--claim=A'),
  )
  def test_is_reported_in_a_sentence(self, args, *parts):
    self.assert_mistake(self.launch(*args), *parts)

  @parameterized.parameters(
    ((), '--tpu= and --gpu=:', '--topology=2x4'),
    ((*_TPU, *_GPU), '--gpu=nvidia', '--tpu=v6e'),
    (('--tpu=v7',), '--tpu=v7', 'v5p or v6e'),
    (('--tpu=v6e',), '--topology= is not valid', '2x4'),
    (('--tpu=v6e', '--topology=3x3'), '--topology=3x3', '2x2, 2x4'),
    (('--tpu=v4', '--topology=2x2'), '--topology=2x2', '2x2x1'),
    (('--tpu=v4', '--topology=1x1x1'), '--topology=1x1x1', '2x2x1'),
    (
      ('--tpu=v6e', '--topology=2x2', '--chips-per-node=8'),
      '--topology=2x2',
      '--chips-per-node=8',
    ),
    (
      ('--tpu=v5e', '--topology=2x4', '--chips-per-node=1'),
      '--chips-per-node=1',
      '--topology=2x4 has 8',
    ),
    ((*_TPU, '--chips-per-node=3'), '--chips-per-node=3'),
    ((*_TPU, '--nodes=2'), '--nodes and', 'decides'),
    ((*_TPU, _GPU[1]), '--gpus-per-node do not go'),
    ((*_TPU, '--max-restarts=x'), '--max-restarts=x'),
    (('--gpu=H100',), '--gpu=H100', 'nvidia-h100-80gb'),
    (('--gpu=nvidia-l4',), '--gpus-per-node= is not valid'),
    ((_GPU[0], '--gpus-per-node=0'), '--gpus-per-node=0'),
    ((*_GPU[:2], '--nodes=-1'), '--nodes=-1'),
    ((*_GPU, '--topology=2x2'), '--topology', 'leave'),
  )
  def test_of_submit_is_reported(self, args, *parts):
    self.assert_mistake(self.launch(*_SUBMIT, *args, *_RUN), *parts)

  @parameterized.parameters(
    (('--', '--config=/etc/passwd'), '--config=/etc/passwd'),
    (launch_case.RUN, '--workdir=runs/mnist', 'below /runs'),
    ((*_RUN[:2], '--workdir=/runs/../x'), '/runs/../x'),
    ((*_RUN, '--a=b\nc'), 'control character'),
  )
  def test_of_the_program_is_reported(self, run, *parts):
    self.assert_mistake(self.submit(run=run), *parts)


class SubmitTest(_GkeTestCase):
  def digest(self):
    manifest = self.manifest()
    self.forget()
    return manifest['metadata']['annotations']['ldc-vae/manifest']

  def test_is_made_with_the_label(self):
    manifest = self.manifest()
    self.assertEqual(
      manifest['metadata']['labels'],
      {'app.kubernetes.io/managed-by': 'ldc-vae'},
    )

  @parameterized.parameters(('', 'exists already'), ('Completed', 'Completed'))
  def test_the_same_again_is_success(self, state, part):
    self.jobset(digest=self.digest(), state=state)
    self.assert_done(self.submit(), part)
    self.assertEmpty(self.verbs())

  def test_a_failed_one_is_reported(self):
    self.jobset(digest=self.digest(), state='Failed')
    self.assert_failed(self.submit(), 'has failed', 'latest checkpoint')
    self.assertEmpty(self.verbs())

  def test_other_arguments_are_refused(self):
    self.jobset(digest=self.digest())
    self.assert_failed(
      self.submit(run=(*_RUN, '--config.seed=1')), 'with other arguments'
    )
    self.assertEmpty(self.verbs())

  def test_one_that_appears_meanwhile_is_success(self):
    self.jobset(digest=self.digest())
    self.answer('*get jobsets*', times=1)
    self.answer('*create*', err=_EXISTS, code=1)
    self.assert_done(self.submit(), 'exists already')

  def test_a_cluster_without_jobset_is_reported(self):
    self.answer('*get jobsets*', err=_NO_JOBSET, code=1)
    self.assert_failed(self.submit(), 'jobset.sigs.k8s.io/docs/installation')

  @parameterized.parameters(
    (('submit', *_IMAGE, *_TPU, *_RUN), 2), (('status',), 4), (('delete',), 2)
  )
  def test_every_failing_call_is_reported_and_can_be_repeated(
    self, args, count
  ):
    if args[0] != 'submit':
      self.jobset()
    self.assert_each_call_may_fail(count, args[0], 'mnist', *args[1:])

  def test_a_missing_kubectl_is_reported(self):
    (self.bin / 'kubectl').unlink()
    self.assert_failed(self.submit(), 'kubectl', 'kubernetes.io/docs')


class DeleteTest(_GkeTestCase):
  def test_deletes_its_own(self):
    self.jobset()
    self.assert_done(self.launch('delete', 'mnist'))
    self.assertEqual(self.verbs(), ['delete'])

  @parameterized.parameters('', 'Helm')
  def test_what_it_did_not_make_stays(self, label):
    self.jobset(label=label)
    self.assert_failed(
      self.launch('delete', 'mnist'), 'not made by this script'
    )
    self.assertEmpty(self.verbs())

  def test_nothing_is_nothing_to_delete(self):
    self.assert_done(self.launch('delete', 'mnist'), 'nothing to delete')
    self.assertEmpty(self.verbs())

  def test_nothing_is_deleted_where_the_cluster_does_not_answer(self):
    self.answer('*get*', err=_REFUSED, code=1)
    self.assert_failed(self.launch('delete', 'mnist'), 'look up mnist')
    self.assertEmpty(self.verbs())

  def test_status_of_nothing_is_reported(self):
    self.assert_failed(self.launch('status', 'mnist'), 'no JobSet mnist')


if __name__ == '__main__':
  absltest.main()
