"""Tests for the JobSet launcher, with a kubectl that only records."""

import re
import subprocess

from absl.testing import absltest
from absl.testing import parameterized
import yaml

from tests.launch import launch_case

_SCHEMA = yaml.safe_load(
    (launch_case.ROOT / 'tests/launch/jobset_schema.yaml').read_text()
)
_TYPES = {'str': str, 'int': int, 'bool': bool}

_IMAGE = ('--image=registry.example/ldc_vae:tpu', '--claim=shared')
_TPU = ('--tpu=v6e', '--topology=4x4')
_GPU = ('--gpu=nvidia-h100-80gb', '--gpus-per-node=8', '--nodes=2')
_RUN = ('--', '--config=configs/mnist.py:vae', '--workdir=/runs/mnist')
_SUBMIT = ('submit', 'mnist', *_IMAGE)

_EXISTS = (
    'Error from server (AlreadyExists): error when creating "STDIN":'
    ' jobsets.jobset.x-k8s.io "mnist" already exists\n'
)
_NO_JOBSET = 'error: the server doesn\'t have a resource type "jobsets"\n'
_REFUSED = 'The connection to the server 10.0.0.1 was refused\n'


def _errors(value, schema, path='manifest'):
  """Returns where a manifest leaves the schema."""
  if isinstance(schema, list):
    if not isinstance(value, list):
      return [f'{path}: not a list']
    return sum(
        (_errors(x, schema[0], f'{path}[{i}]') for i, x in enumerate(value)),
        [],
    )
  if isinstance(schema, dict):
    if not isinstance(value, dict):
      return [f'{path}: not a mapping']
    fields = {name.removesuffix('!'): schema[name] for name in schema}
    errors = [
        f'{path}.{name[:-1]}: missing' for name in schema
        if name.endswith('!') and name[:-1] not in value
    ]
    for name, x in value.items():
      if name in fields or '*' in fields:
        inner = fields.get(name, fields.get('*'))
        errors += _errors(x, inner, f'{path}.{name}')
      else:
        errors.append(f'{path}.{name}: unknown')
    return errors
  if schema in _TYPES:
    right = type(value) is _TYPES[schema]  # a bool is an int otherwise
  else:
    right = value in schema.split('|')
  return [] if right else [f'{path}: {value!r} is not {schema}']


class SchemaTest(parameterized.TestCase):
  """The checker finds what it is there for."""

  def setUp(self):
    super().setUp()
    text = (launch_case.ROOT / 'launch/jobset.yaml').read_text()
    for word in ('__MAX_RESTARTS__', '__HOSTS__', '__PORT__'):
      text = text.replace(word, '1')
    for word in re.findall(r'(?<=[\[{])__[A-Z_]+__(?=[\]}])', text):
      text = text.replace(word, '')
    self.manifest = yaml.safe_load(text)

  def test_the_file_is_yaml_and_holds(self):
    self.assertEmpty(_errors(self.manifest, _SCHEMA))

  def test_finds_what_is_wrong(self):
    spec = self.manifest['spec']
    spec['failurePolicy']['maxRestart'] = 1
    spec['failurePolicy']['rules'][0]['action'] = 'Fail'
    spec['replicatedJobs'][0]['template']['spec']['completions'] = '2'
    spec['network']['enableDNSHostnames'] = 1
    del self.manifest['kind']
    self.assertEqual(
        [error.partition(': ')[0] for error in _errors(self.manifest, _SCHEMA)],
        ['manifest.kind', 'manifest.spec.network.enableDNSHostnames',
         'manifest.spec.failurePolicy.rules[0].action',
         'manifest.spec.failurePolicy.maxRestart',
         'manifest.spec.replicatedJobs[0].template.spec.completions'],
    )


class _GkeTestCase(launch_case.LaunchTestCase):

  SCRIPT = 'gke.sh'

  def setUp(self):
    super().setUp()
    self.program('kubectl')
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
    self.assertEmpty(_errors(manifest, _SCHEMA))
    return manifest

  def jobset(self, label='ldc-vae', digest='', state='', **how):
    self.answer('*get jobsets* mnist --ignore-not-found *',
                out=f'{label},{digest},{state}', **how)

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
    self.assertEqual(_pod(manifest)['nodeSelector'], {
        'cloud.google.com/gke-tpu-accelerator': label,
        'cloud.google.com/gke-tpu-topology': topology,
    })
    job = _job(manifest)
    self.assertEqual((job['completions'], job['parallelism']), (hosts, hosts))
    container = _container(manifest)
    self.assertEqual(
        container['resources']['limits'], {'google.com/tpu': chips}
    )
    distributed = '--num_processes' in ' '.join(container['args'])
    self.assertEqual(distributed, hosts > 1)
    # a lone host shares its node pool with other runs
    exclusive = 'alpha.jobset.sigs.k8s.io/exclusive-topology'
    annotations = manifest['metadata']['annotations']
    self.assertEqual(exclusive in annotations, hosts > 1)

  @parameterized.parameters('on', 'null')
  def test_a_name_stays_text(self, name):
    self.assert_done(self.launch('submit', name, *_IMAGE, *_TPU, *_RUN))
    manifest = self.read_manifest((self.fakes / 'manifest').read_text())
    self.assertEqual(manifest['metadata']['name'], name)

  def test_chips_of_a_host_can_be_told(self):
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
    self.assertIn(
        {'name': 'LD_LIBRARY_PATH', 'value': '/usr/local/nvidia/lib64'},
        container['env'],
    )
    self.assertIn(
        {'name': 'JAX_LOCAL_DEVICE_IDS', 'value': '0,1,2,3,4,5,6,7'},
        container['env'],
    )
    self.assertNotIn(
        'alpha.jobset.sigs.k8s.io/exclusive-topology',
        manifest['metadata']['annotations'],
    )

  def test_processes_meet_at_the_first_pod(self):
    args = _container(self.manifest())['args']
    self.assertEqual(args, [
        *_RUN[1:], '--coordinator_address=mnist-worker-0-0.mnist:8476',
        '--num_processes=4', '--process_id=$(JOB_COMPLETION_INDEX)',
    ])

  def test_the_program_gets_the_arguments_as_they_are(self):
    args = ('--a="b" \\c', '--b=$(HOME) $X `id` &__NAME__', "--c=it's: {1, #2}")
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
      (('status', 'mnist', '--namespace=A B'), '--namespace=A B'),
      (('delete', 'mnist', *_RUN), '--config=configs/mnist.py', 'only submit'),
      (('submit', 'mnist', *_TPU, *_RUN), '--image is missing', 'registry'),
      ((*_SUBMIT[:3], *_TPU, *_RUN), '--claim is missing', '/runs'),
      (('submit', 'mnist', '--image=A b', *_TPU, *_RUN), '--image=A b'),
      ((*_SUBMIT[:3], '--claim=A', *_TPU, *_RUN), '--claim=A'),
      ((*_SUBMIT, *_RUN), '--tpu and --gpu are missing', '--topology=2x4'),
      ((*_SUBMIT, *_TPU, *_GPU, *_RUN), '--gpu=nvidia', '--tpu=v6e'),
      ((*_SUBMIT, '--tpu=v7', *_RUN), '--tpu=v7', 'v5p or v6e'),
      ((*_SUBMIT, '--tpu=v6e', *_RUN), '--topology is missing', '2x4'),
      ((*_SUBMIT, '--tpu=v6e', '--topology=3x3', *_RUN), '--topology=3x3',
       '2x2, 2x4'),
      ((*_SUBMIT, '--tpu=v4', '--topology=2x2', *_RUN), '--topology=2x2',
       '2x2x1'),
      ((*_SUBMIT, '--tpu=v6e', '--topology=2x2', '--chips-per-node=8', *_RUN),
       '--topology=2x2', '--chips-per-node'),
      ((*_SUBMIT, *_TPU, '--chips-per-node=3', *_RUN), '--chips-per-node=3'),
      ((*_SUBMIT, '--tpu=v5e', '--topology=2x4', '--chips-per-node=1', *_RUN),
       '--chips-per-node=1', '--topology=2x4 has 8'),
      ((*_SUBMIT, '--tpu=v4', '--topology=1x1x1', *_RUN), '--topology=1x1x1',
       '2x2x1'),
      ((*_SUBMIT, *_TPU, '--nodes=2', *_RUN), '--nodes=2 is given'),
      ((*_SUBMIT, *_TPU, *_GPU[1:], *_RUN),
       '--nodes=2 --gpus-per-node is given', '--topology decides'),
      ((*_SUBMIT, *_TPU, '--max-restarts=x', *_RUN), '--max-restarts=x'),
      ((*_SUBMIT, '--gpu=H100', *_RUN), '--gpu=H100', 'nvidia-h100-80gb'),
      ((*_SUBMIT, '--gpu=nvidia-l4', *_RUN), '--gpus-per-node is missing'),
      ((*_SUBMIT, *_GPU[:1], '--gpus-per-node=0', *_RUN), '--gpus-per-node=0'),
      ((*_SUBMIT, *_GPU[:2], '--nodes=-1', *_RUN), '--nodes=-1'),
      ((*_SUBMIT, *_GPU, '--topology=2x2', *_RUN), '--topology', 'leave'),
      ((*_SUBMIT, *_TPU), '--config is missing'),
      ((*_SUBMIT, *_TPU, '--', '--config=/etc/passwd'), '--config=/etc/passwd'),
      ((*_SUBMIT, *_TPU, *_RUN[:2]), '--workdir is missing', '/runs/mnist'),
      ((*_SUBMIT, *_TPU, *_RUN[:2], '--workdir=runs/mnist'),
       '--workdir=runs/mnist', 'below /runs'),
      ((*_SUBMIT, *_TPU, *_RUN[:2], '--workdir=/runs/../x'), '/runs/../x'),
      ((*_SUBMIT, *_TPU, *_RUN, '--num_processes=2'), '--num_processes=2'),
      ((*_SUBMIT, *_TPU, *_RUN, '--a=b\nc'), 'control character'),
  )
  def test_is_told_in_a_sentence(self, args, *parts):
    self.assert_mistake(self.launch(*args), *parts)

  @parameterized.parameters((), ('--image=A b',))
  def test_the_image_of_the_remedy_is_accepted(self, *image):
    result = self.launch(
        'submit', 'mnist', *image, '--claim=shared', *_TPU, *_RUN
    )
    (example,) = re.findall(r' as (\S+)$', result.stderr.strip())
    accepted = self.launch(
        'submit', 'mnist', f'--image={example}', '--claim=shared', *_TPU, *_RUN
    )
    self.assertEqual(accepted.returncode, 0, accepted.stderr)


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

  @parameterized.parameters(('', 'exists already'), ('Completed', 'completed'))
  def test_the_same_again_is_success(self, state, part):
    self.jobset(digest=self.digest(), state=state)
    self.assert_done(self.submit(), part)
    self.assertEmpty(self.verbs())

  def test_a_failed_one_is_told(self):
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

  def test_a_cluster_without_jobset_is_told(self):
    self.answer('*get jobsets*', err=_NO_JOBSET, code=1)
    self.assert_failed(self.submit(), 'jobset.sigs.k8s.io/docs/installation')

  @parameterized.parameters(
      (('submit', *_IMAGE, *_TPU, *_RUN), 2), (('status',), 4), (('delete',), 2)
  )
  def test_every_failing_call_is_told_and_can_be_repeated(self, args, count):
    if args[0] != 'submit':
      self.jobset()
    command, *rest = args
    for failing in range(1, count + 1):
      self.forget()
      result = self.launch(command, 'mnist', *rest, FAKE_FAIL_AT=str(failing))
      self.assert_failed(result)
      self.assertIn('HTTPError 503', result.stderr)
    self.forget()
    self.assert_done(self.launch(command, 'mnist', *rest))
    self.assertLen(self.calls(), count)

  def test_a_missing_kubectl_is_told(self):
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
    self.assert_failed(self.launch('delete', 'mnist'), 'could not look')
    self.assertEmpty(self.verbs())

  def test_status_of_nothing_is_told(self):
    self.assert_failed(self.launch('status', 'mnist'), 'no JobSet mnist')


if __name__ == '__main__':
  absltest.main()
