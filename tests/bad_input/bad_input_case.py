"""A mistake, and the one sentence that answers it."""

from collections.abc import Callable
import contextlib
import hashlib
import io
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple
from unittest import mock

from absl.testing import parameterized
import jax

from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import main
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import files
from ldc_vae.runtime import provenance

LASTING, RUNTIME = 2, 1
CONFIG = 'configs/digits.py:ldc,debug'
VAE = 'configs/digits.py:vae,debug'
COMPARED = 'configs/digits.py,debug'
IMAGES = 'configs/images.py:vae,debug'
STEP = 24  # of the checkpoint in a trained workdir


class Case(NamedTuple):
  """A mistake: what is there, what is typed, and what the answer says.

  `part` is the regular expression that the sentence must match: the field, flag
  or file with its value, and the remedy.
  """

  argv: tuple[str, ...]
  part: str
  code: int = LASTING
  setup: Callable[[pathlib.Path], None] | None = None


def train_argv(*overrides, config=CONFIG):
  return (f'--config={config}', '--workdir=w', *overrides)


def set_field(field, value):
  return train_argv(f'--config.{field}={value}')


def set_vae_field(field, value):
  return train_argv(f'--config.{field}={value}', config=VAE)


def write_file(name, content):
  def write(folder):
    (folder / name).write_text(content)

  return write


def make_trained(workdir):
  """Makes a workdir as training leaves it, but that the weights are new."""
  workdir.mkdir()
  config = config_lib.load(VAE)
  files.write_record(workdir / 'config.json', config_lib.to_json(config))
  files.write_json(workdir / 'results.json', {'step': STEP})
  (workdir / 'metrics.jsonl').write_text('{"step": 24, "train/loss": 1.0}\n')
  with checkpoint.Checkpointer(workdir / 'checkpoints') as checkpointer:
    checkpointer.save(
      STEP,
      experiment_lib.create(config).init_state(),
      metrics={},
      meta={'config': config.to_dict()},
    )


def tree(folder):
  """Every name below a folder, with a digest of what it holds."""
  return {
    path.relative_to(folder).as_posix(): (
      hashlib.sha256(path.read_bytes()).hexdigest()
      if path.is_file()
      else 'a folder'
    )
    for path in folder.rglob('*')
  }


class BadInputTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    outer = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    ).resolve()
    self.folder = outer / 'here'
    self.folder.mkdir()
    self.enter_context(contextlib.chdir(self.folder))
    self.enter_context(
      mock.patch.dict(
        os.environ,
        LDC_VAE_CACHE=str(outer / 'cache'),
        HTTPS_PROXY='http://127.0.0.1:9',
        HTTP_PROXY='http://127.0.0.1:9',
        https_proxy='http://127.0.0.1:9',
        http_proxy='http://127.0.0.1:9',
      )
    )
    for name in ('LDC_VAE_TRACEBACK', 'TFDS_DATA_DIR'):
      os.environ.pop(name, None)
    self.enter_context(mock.patch.object(jax.config, 'update'))

  def check(self, case):
    """The case is answered as it says, and changes no file."""
    if case.setup is not None:
      case.setup(self.folder)
    before = tree(self.folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      code = main.main(case.argv)
    self.assert_answer(case, code, out.getvalue(), err.getvalue())
    self.assertEqual(tree(self.folder), before)

  def assert_answer(self, case, code, out, err):
    """One sentence, which begins with 'error: ' and ends the output."""
    self.assertEqual(code, case.code, err)
    self.assertEmpty(out)
    lines = err.splitlines()
    self.assertStartsWith(lines[-1], 'error: ')
    self.assertLen([x for x in lines if x.startswith('error: ')], 1)
    self.assertRegex(lines[-1], case.part)
    self.assertNotIn('Traceback', err)
    self.assertNotIn('LDC_VAE_TRACEBACK', err)  # said of errors not our own

  def command(self, case, **env):
    """The same as `check` through a process of its own."""
    before = tree(self.folder)
    result = subprocess.run(
      (sys.executable, '-m', 'ldc_vae.main', *case.argv),
      env=dict(os.environ, PYTHONPATH=str(provenance.ROOT), **env),
      capture_output=True,
      text=True,
      check=False,
    )
    self.assert_answer(case, result.returncode, result.stdout, result.stderr)
    self.assertEqual(tree(self.folder), before)
