"""Tests of the names of ldc_vae.svgd."""

import inspect

from absl.testing import absltest

from ldc_vae import svgd
from ldc_vae.svgd import arithmetic
from ldc_vae.svgd import bandwidths
from ldc_vae.svgd import blocks
from ldc_vae.svgd import directions
from ldc_vae.svgd import flows
from ldc_vae.svgd import kernels
from ldc_vae.svgd import particles
from ldc_vae.svgd import sampling


class NamesTest(absltest.TestCase):
  def test_the_package_has_what_its_modules_are_for(self):
    self.assertEqual(svgd.mean_bandwidth, bandwidths.mean_bandwidth)
    modules = bandwidths, directions, flows, kernels, particles, sampling
    expected = {
      name
      for module in modules
      for name, value in vars(module).items()
      if getattr(value, '__module__', None) == module.__name__
      and not name.startswith('_')
    }
    public = {
      name
      for name, value in vars(svgd).items()
      if not name.startswith('_') and not inspect.ismodule(value)
    }
    self.assertContainsSubset(expected, public)
    for name in public:
      homes = [
        module
        for module in (*modules, arithmetic, blocks)
        if getattr(module, name, None) is getattr(svgd, name)
      ]
      self.assertNotEmpty(homes, name)


if __name__ == '__main__':
  absltest.main()
