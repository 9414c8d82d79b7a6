"""Tests of how tpu.sh makes and deletes a TPU VM."""

from absl.testing import absltest
from absl.testing import parameterized

from tests.launch import tpu_case

_ZONE = tpu_case.ZONE

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


class CreateTest(tpu_case.TpuTestCase):
  @parameterized.parameters(False, True)
  def test_makes_one_with_the_label(self, another_was_faster):
    self.vm(times=1)  # after it was made: the newest rule is used up first
    self.answer('*tpu-vm describe*', err=tpu_case.NOT_FOUND, code=1, times=1)
    if another_was_faster:
      self.answer('*tpu-vm create*', err=_EXISTS, code=1)
    self.assert_done(self.create(), 'x is READY', 'setup x')
    (call,) = self.calls('tpu-vm', 'create')
    self.assertIn('--labels=ldc_vae=ldc-vae', call)

  def test_one_that_exists_is_success(self):
    self.vm()
    self.assert_done(self.create(), 'x is READY')
    self.assertEmpty(self.verbs())

  def test_one_that_others_made_is_used_and_reported(self):
    self.vm(label='')
    self.assert_done(self.create(), 'not made by this script')

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
  def test_one_that_is_not_ready_is_reported(self, state, *parts):
    self.vm(state)
    self.assert_failed(self.create(), *parts)
    self.assertEmpty(self.verbs())

  def test_no_capacity_is_reported_with_the_reason(self):
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
    self.assert_failed(result, 'could not look up x')
    self.assertIn('PERMISSION_DENIED', result.stderr)
    self.assertEmpty(self.verbs())


class QueueTest(tpu_case.TpuTestCase):
  def test_is_made_and_waits_in_the_queue(self):
    self.queue('WAITING_FOR_RESOURCES')
    self.answer(
      '*queued-resources describe*', err=tpu_case.NOT_FOUND, code=1, times=1
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
  def test_one_that_was_lost_is_reported(self, state, part):
    self.queue(state, reason='quota, of v6e, exceeded')
    self.queue('WAITING_FOR_RESOURCES', times=1)
    self.assert_failed(
      self.create('--queued', '--wait'), part, 'delete it and create it again'
    )
    self.assertEmpty(self.verbs())

  def test_a_refused_request_is_reported(self):
    self.answer('*queued-resources create*', err=_NO_CAPACITY, code=1)
    self.assert_failed(self.create('--queued'), 'there is no queued resource x')

  @parameterized.parameters('setup', 'status', 'stop')
  def test_other_commands_tell_why_there_is_no_vm(self, command):
    self.queue('SUSPENDED')
    result = self.launch(command, 'x', _ZONE)
    self.assert_failed(result, 'queued resource x was pre-empted')
    self.assertEmpty(self.calls('ssh'))


class DeleteTest(tpu_case.TpuTestCase):
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
    self.assert_failed(self.delete(), 'could not look up x')
    self.assertEmpty(self.verbs())


if __name__ == '__main__':
  absltest.main()
