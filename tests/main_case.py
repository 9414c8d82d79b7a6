"""Shared by the tests of the command line: jobs that only record calls."""

import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
from unittest import mock

from absl.testing import parameterized
import jax

from ldc_vae import config as config_lib
from ldc_vae import main
from ldc_vae.configs import default

_RUN_FILE = """
from ldc_vae.configs import default

def get_config(arg=''):
  return default.create(arg)
"""


class _Jobs:
  """Stands in for the modules of the modes; records their calls."""

  def __init__(self, error=None):
    self.calls = []
    self._error = error

  def __getattr__(self, name):
    def job(config, *args, **kwargs):
      self.calls.append((name, config, *args, kwargs))
      if self._error is not None:
        raise self._error

    return job


class MainTestCase(parameterized.TestCase):
  """Runs `main.main` in a folder of the test, with the jobs stubbed."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    ).resolve()
    self.enter_context(contextlib.chdir(self.folder))
    self.enter_context(
      mock.patch.dict(os.environ, LDC_VAE_CACHE=str(self.folder / 'cache'))
    )
    os.environ.pop('LDC_VAE_TRACEBACK', None)
    (self.folder / 'toy.py').write_text(_RUN_FILE)
    self.updates = {}
    self.enter_context(
      mock.patch.object(jax.config, 'update', self.updates.__setitem__)
    )

  def trained(self, arg='', checkpoint=True):
    """Returns a workdir as training leaves it."""
    workdir = self.folder / 'trained'
    (workdir / 'checkpoints').mkdir(parents=True)
    if checkpoint:
      (workdir / 'checkpoints' / '10').mkdir()
    record = config_lib.to_json(default.create(arg))
    (workdir / 'config.json').write_text(json.dumps(record))
    return str(workdir)

  def run_main(self, *argv, error=None):
    """Returns (exit code, calls, stdout, stderr)."""
    jobs = _Jobs(error)
    out, err = io.StringIO(), io.StringIO()
    modules = {
      f'ldc_vae.{name}': jobs
      for name in ('train', 'evaluate', 'use', 'compare')
    }
    package = sys.modules['ldc_vae']
    with (
      mock.patch.dict(sys.modules, modules),
      mock.patch.object(package, 'train', jobs, create=True),
      mock.patch.object(package, 'evaluate', jobs, create=True),
      mock.patch.object(package, 'use', jobs, create=True),
      mock.patch.object(package, 'compare', jobs, create=True),
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
    ):
      code = main.main(argv)
    return code, jobs.calls, out.getvalue(), err.getvalue()

  def assert_refused(self, *argv, part):
    """Asserts that a command fails with one sentence that has `part`."""
    code, calls, out, err = self.run_main(*argv)
    self.assertEqual(code, 2)
    self.assertEmpty(calls)
    self.assertEmpty(out)
    self.assertStartsWith(err, 'error: ')
    self.assertLen(err.splitlines(), 1)
    self.assertIn(part, err)
