"""Tests of ldc_vae.runtime.bucket against services on this machine."""

import random
import shutil

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import errors
from ldc_vae.runtime import storage
from tests.runtime import bucket_case
from tests.runtime import service_case

_FAULTS = ('unavailable', 'cut upload', 'cut answer', 'slow')
_PROTOCOLS = ('s3', 'gs')


class ServiceTest(bucket_case.BucketTestCase):
  def begin(self, protocol, fault_fn=lambda is_upload: ''):
    """Starts a service behind a proxy, which is returned."""
    proxy = service_case.Proxy(fault_fn)
    self.addCleanup(proxy.close)
    service = service_case.start(self, protocol, proxy.port)
    proxy.target = service.own_port
    self.address = service.address
    return proxy

  def names(self):
    return set(storage.Bucket(self.address).sizes())

  @parameterized.parameters(*_PROTOCOLS)
  def test_another_machine_goes_on_from_the_copy(self, protocol):
    self.begin(protocol)
    with self.mirrored():
      self.save(10)
      self.await_step(10)
      self.save(20, 30)
      (self.workdir / 'results.json').write_text('{}')
    self.assertEqual(self.restored(), 30)
    steps = {x.split('/')[1] for x in self.names() if 'checkpoints/' in x}
    self.assertEqual(steps, {'20', '30'})
    for path in self.workdir.rglob('*'):
      if path.is_file():
        copy = self.folder / 'b' / 'run' / path.relative_to(self.workdir)
        self.assertEqual(copy.read_bytes(), path.read_bytes())

  @parameterized.parameters(*_PROTOCOLS)
  def test_faults_of_the_service_lose_nothing(self, protocol):
    rng = random.Random(0)

    def fault(is_upload):
      kind = rng.choice(_FAULTS) if rng.random() < 0.2 else ''
      return kind if is_upload or kind != 'cut upload' else ''

    proxy = self.begin(protocol, fault)
    with self.mirrored():
      for step in (10, 20, 30, 40):
        self.save(step)
        self.await_step(step)
    self.assertEqual(self.restored(), 40)
    self.assertContainsSubset(_FAULTS, proxy.counts)
    proxy.fault_fn = lambda is_upload: ''
    for name, size in storage.Bucket(self.address).sizes().items():
      self.assertEqual((self.workdir / name).stat().st_size, size)

  @parameterized.parameters(*_PROTOCOLS)
  def test_an_outage_is_caught_up_with(self, protocol):
    proxy = self.begin(protocol)
    with self.assertLogs(level='INFO') as logs, self.mirrored():
      self.save(10)
      self.await_step(10)
      proxy.fault_fn = lambda is_upload: 'unavailable'
      self.save(20)
      self.save(30)
      proxy.fault_fn = lambda is_upload: ''
    self.assertIn('has all files of the run', '\n'.join(logs.output))
    shutil.rmtree(self.workdir)
    self.assertEqual(self.restored(), 30)

  @parameterized.parameters(*_PROTOCOLS)
  def test_a_missing_bucket_is_one_sentence(self, protocol):
    self.begin(protocol)
    self.address = f'{protocol}://none/run'
    with self.assertRaisesRegex(
      errors.UserError, f'{protocol}://none/run: it cannot be used'
    ):
      with self.mirrored():
        pass


if __name__ == '__main__':
  absltest.main()
