"""Tests of ldc_vae.samplers.sampler_options."""

import dataclasses

from absl.testing import absltest

from ldc_vae.methods import ldc
from ldc_vae.samplers import sampler_options


class SamplerOptionsTest(absltest.TestCase):
  def test_are_fields_of_the_method_with_their_values(self):
    options = dataclasses.asdict(sampler_options.SamplerOptions())
    fields = dataclasses.asdict(ldc.Ldc())
    self.assertEqual({name: fields[name] for name in options}, options)

  def test_cannot_be_changed(self):
    options = sampler_options.SamplerOptions()
    with self.assertRaises(dataclasses.FrozenInstanceError):
      options.sampler_mass = 1.0
    hash(options)  # it is a static argument of the training


if __name__ == '__main__':
  absltest.main()
