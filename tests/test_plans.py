"""Tests of ldc_vae.plans."""

from absl.testing import absltest

from ldc_vae import config as config_lib
from ldc_vae import plans
from tests import config_case


class LoadTest(config_case.FileTestCase):
  def load(self, *overrides, spec='configs/mnist.py', methods=('ldc', 'vae')):
    return plans.load(spec, methods, overrides)

  def test_gives_what_load_gives_for_each_method(self):
    overrides = ('--config.train.num_epochs=3',)
    found = self.load(*overrides, spec='configs/mnist.py,debug')
    self.assertEqual(list(found), ['ldc', 'vae'])
    for method, plan in found.items():
      self.assertEqual(plan.spec, f'configs/mnist.py:{method},debug')
      self.assertEqual(plan.overrides, overrides)
      self.assertEqual(
        plan.config.to_dict(),
        config_lib.load(plan.spec, overrides).to_dict(),
      )

  def test_a_field_may_be_set_for_one_method(self):
    found = self.load(
      '--config.vae.method.beta=2',
      '--config.train.batch_size=64',
      '-config.ldc.train.batch_size=32',
    )
    self.assertEqual(found['vae'].config.method.beta, 2.0)
    self.assertEqual(found['vae'].config.train.batch_size, 64)
    self.assertEqual(found['ldc'].config.train.batch_size, 32)
    self.assertEqual(
      found['ldc'].overrides,
      ('--config.train.batch_size=64', '--config.train.batch_size=32'),
    )

  def test_a_field_without_value_is_a_boolean(self):
    found = self.load(
      '--config.vae.dataset.binarize', '--config.vae.model.likelihood=bernoulli'
    )
    self.assertTrue(found['vae'].config.dataset.binarize)
    self.assertFalse(found['ldc'].config.dataset.binarize)

  def test_a_run_file_that_needs_an_override_is_loaded(self):
    found = self.load('--config.dataset.path=photos', spec='configs/images.py')
    self.assertEqual(found['vae'].config.dataset.path, 'photos')


if __name__ == '__main__':
  absltest.main()
