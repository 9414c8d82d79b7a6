"""Tests of ldc_vae.samplers.sampler_options."""

import dataclasses
import subprocess
import sys

from absl.testing import absltest

from configs import default
from ldc_vae import config as config_lib
from ldc_vae.samplers import sampler_options


class SamplerOptionsTest(absltest.TestCase):

  def test_are_fields_of_the_method_with_their_values(self):
    options = dataclasses.asdict(sampler_options.SamplerOptions())
    fields = default.OBJECTIVES['ldc']
    self.assertEqual({name: fields[name] for name in options}, options)

  def test_cannot_be_changed(self):
    options = sampler_options.SamplerOptions()
    with self.assertRaises(dataclasses.FrozenInstanceError):
      options.sampler_mass = 1.0
    hash(options)  # it is a static argument of the training

  def test_a_config_is_made_and_checked_without_jax(self):
    code = (
        'import sys; from configs import default; from ldc_vae import config;'
        ' config.validate(default.create());'
        " sys.exit('jax' in sys.modules)"
    )
    subprocess.run(
        (sys.executable, '-c', code), cwd=config_lib.ROOT, check=True
    )


if __name__ == '__main__':
  absltest.main()
