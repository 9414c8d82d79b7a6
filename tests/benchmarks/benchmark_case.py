"""Shared by the tests of benchmarks."""

import pathlib
import tempfile

from absl.testing import absltest

from benchmarks import common


def create_folder(test):
  folder = tempfile.TemporaryDirectory()
  test.addCleanup(folder.cleanup)
  return pathlib.Path(folder.name)


def without_cache(test):
  """Leaves jax's compilation cache as it is: it outlives a test."""
  test.enter_context(absltest.mock.patch.object(common, 'set_up_jax'))
