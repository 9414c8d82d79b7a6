"""Random mistakes are answered by one sentence, or do no harm.

A command does one of three things: it prints one sentence and ends with another
code than 0; or its work begins, which the tests stop there; or it prints what
it was asked for.
"""

import contextlib
import io
import pathlib
import random
import shutil
import tempfile
import time
import traceback
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import main
from ldc_vae import run as run_lib
from ldc_vae import train
from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier
from ldc_vae.evaluation import measures
from ldc_vae.evaluation import sources
from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs
from tests.bad_input import bad_input_case
from tests.bad_input import fuzz_case

_SHORT, _LONG = 64, 504  # inputs, as many of each kind
_LONGEST = 2000  # characters of a sentence
_SECONDS = 10.0  # that no answer may take
_CHECK, _HELP = {'--mode=check'}, {'--help', '-h', '-help'}
_DONE = ('already done', 'report: ')
_shared = {}
_restore = run_lib.Run.restore


class _Begun(BaseException):
  """The work of a command would begin now."""


def _begin(*unused_args, **unused_kwargs):
  raise _Begun


def _restore_or_begin(*args, **kwargs):
  restored = _restore(*args, **kwargs)
  return _begin() if restored is None else restored


def _run_all(jobs, *unused_args, **unused_kwargs):
  if jobs:
    raise _Begun


def setUpModule():
  folder = tempfile.TemporaryDirectory()
  _shared['folder'] = folder
  _shared['trained'] = path = pathlib.Path(folder.name) / 'trained'
  bad_input_case.make_trained(path)
  config = config_lib.load(bad_input_case.VAE)
  dataset = experiment_lib.load_dataset(config)
  results = {
    'step': bad_input_case.STEP,
    'last_step': bad_input_case.STEP,
    'seed': 0,
    'eval/reconstruction_mse': 0.01,
    'frechet_classifier/generator': 3.0,
    'frechet_classifier/gmm_10': 4.0,
    'latent/active_units': None,
    **measures.protocol(config, 120, 120, dataset),
  }
  files.write_json(path / 'results.json', results)
  (path / 'report.html').write_text('')
  z = np.zeros((8, 8), np.float32)
  images = np.zeros((8, 8, 8, 1), np.uint8)
  files.write_npz(path / 'samples.npz', images=images, latents=z)


def tearDownModule():
  _shared['folder'].cleanup()


class FuzzTest(bad_input_case.BadInputTest):
  def setUp(self):
    super().setUp()
    for owner, name, replacement in (
      (run_lib.Run, 'restore', _restore_or_begin),
      (train.loop_lib.Loop, 'run', _begin),
      (sources, 'make_sources', _begin),
      (sources.Networks, '__init__', _begin),
      (classifier, 'load_or_train', _begin),
      (jobs, 'run_all', _run_all),
    ):
      self.enter_context(mock.patch.object(owner, name, replacement))
    path = self.folder.parent / 'whole.npy'
    images = np.random.default_rng(0).integers(0, 256, (80, 8, 8), np.uint8)
    np.save(path, images)
    datasets.load('images', path=str(path), num_validation=64)
    self._cache = self.folder.parent / 'cache'
    shutil.copytree(self._cache, self.folder.parent / 'whole')

  def test_some(self):
    self._fuzz(_SHORT)

  @pytest.mark.slow
  def test_many(self):
    self._fuzz(_LONG)

  def _fuzz(self, count):
    faults = {}
    for seed in range(count):
      kind = fuzz_case.KINDS[seed % len(fuzz_case.KINDS)]
      argv, fault = self._answer(kind, seed)
      if fault:
        faults[f'{seed} {kind.__name__} {argv}'] = fault
    self.assertEmpty('\n'.join(map(str, faults.items())))

  def _answer(self, kind, seed):
    """Returns a command, and what is wrong with its answer; '' if nothing."""
    rng = random.Random(f'{kind.__name__} {seed}')
    for path in self.folder.iterdir():
      durable.delete(path)
    shutil.copytree(_shared['trained'], self.folder / 'trained')
    if kind is fuzz_case.cache:
      shutil.rmtree(self._cache)
      shutil.copytree(self.folder.parent / 'whole', self._cache)
    argv = kind(rng, self.folder)
    code, begun = 0, False
    start = time.monotonic()
    out, err = io.StringIO(), io.StringIO()
    with (
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
      self.assertLogs(level='INFO') as logs,
    ):
      main.logging.getLogger().info('begins')  # one line at least
      try:
        code = main.main(argv)
      except _Begun:
        begun = True
      except BaseException:
        return argv, traceback.format_exc()
    if time.monotonic() - start > _SECONDS:
      return argv, f'it took {time.monotonic() - start:.0f} s'
    begun = begun or any(x in line for line in logs.output for x in _DONE)
    return argv, _fault(argv, code, begun, out.getvalue(), err.getvalue())


def _fault(argv, code, begun, out, err):
  """Returns what is wrong with an answer; '' if nothing is."""
  errors = [x for x in err.splitlines() if x.startswith('error: ')]
  if 'Traceback' in err or 'LDC_VAE_TRACEBACK' in err:
    return f'it has no sentence of ours: {err}'
  if begun:
    return f'its work begins with an error: {err}' if errors else ''
  asked = _CHECK | (_HELP if code == 0 else set())
  if out and asked & {*argv}:
    return ''
  if code == 0:
    return 'it ends with 0 and has done nothing'
  if len(errors) != 1 or errors[0] != err.splitlines()[-1]:
    return f'it has not one sentence: {err}'
  if len(errors[0]) > _LONGEST:
    return f'it has a sentence of {len(errors[0])} characters'
  text = errors[0].encode(errors='surrogateescape').decode(errors='replace')
  return '' if text.isprintable() else f'it cannot be printed: {text!r}'


if __name__ == '__main__':
  absltest.main()
