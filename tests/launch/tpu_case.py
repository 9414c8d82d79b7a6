"""Shared by the tests of tpu.sh: a gcloud that only records."""

from tests.launch import launch_case

ZONE = '--zone=us-east5-b'

# What gcloud says of a TPU VM that is not there.
NOT_FOUND = (
  'ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource'
  " 'projects/p/locations/us-east5-b/nodes/x' was not found\n"
)


class TpuTestCase(launch_case.LaunchTestCase):
  """A gcloud to which a test tells what exists."""

  SCRIPT = 'tpu.sh'
  PROGRAMS = ('gcloud',)

  def setUp(self):
    super().setUp()
    self.answer('gcloud * describe *', err=NOT_FOUND, code=1)

  def vm(self, state='READY', kind='v6e-8', workers=1, label='ldc-vae', **how):
    self.answer(
      '*tpu-vm describe*', out=f'{state},{kind},{workers},{label}\n', **how
    )

  def queue(self, state, kind='v6e-8', label='ldc-vae', reason='', **how):
    self.answer(
      '*queued-resources describe*',
      out=f'{state},{kind},{label},{reason}\n',
      **how,
    )

  def verbs(self):
    """The recorded calls without gcloud's questions: 'group verb'."""
    calls = [' '.join(call[3:5]) for call in self.calls('gcloud')]
    return [call for call in calls if not call.endswith('describe')]

  def create(self, *args):
    return self.launch(
      'create',
      'x',
      ZONE,
      '--accelerator-type=v6e-8',
      *args,
      LDC_VAE_POLL_SECONDS='0',
    )
