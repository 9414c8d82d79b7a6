"""A comparison whose runs were made before."""

import pathlib
import sys
import tempfile
from unittest import mock

from absl.testing import parameterized
import numpy as np

from ldc_vae import compare
from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import plans
from ldc_vae.evaluation import measures
from ldc_vae.reporting import comparison_page
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs

SPEC = 'configs/digits.py,debug'
STEPS = 24  # of a run of it
FIGURES = {
  f'comparison_{name}.png' for name in ('bars', 'latents', 'samples', 'time')
}

# Stands in for the program: puts a run that was made before in its place.
PROGRAM = """
import pathlib, shutil, sys
made, workdir, calls = map(pathlib.Path, sys.argv[1:])
with open(calls, 'a') as file:
  print(workdir.name, file=file)
if not made.exists():
  print('step 3/24')
  sys.exit('error: the loss is not finite')
shutil.copytree(made, workdir, dirs_exist_ok=True)
"""


class CompareTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enter_context(tempfile.TemporaryDirectory())
    )
    self.workdir = self.folder / 'w'
    self.made = self.folder / 'made'
    self.calls = self.folder / 'calls'
    config = self.plans()['vae'].config
    self.dataset = experiment_lib.load_dataset(config)
    self.enter_context(
      mock.patch.object(compare.classifier_lib, 'load_or_train')
    )
    self.enter_context(mock.patch.object(compare, '_job', self.job))
    # seconds each; they are drawn where a test undoes this
    self.undrawn = mock.patch.object(comparison_page, 'draw')
    self.undrawn.start()
    self.addCleanup(mock.patch.stopall)

  def job(self, run):
    name = run.workdir.name
    words = (
      sys.executable,
      '-c',
      PROGRAM,
      str(self.made / name),
      str(run.workdir),
      str(self.calls),
    )
    return jobs.Job(name, words, self.workdir / f'{name}.log')

  def make(self, run, generator):
    """Writes the files that the program leaves of a run."""
    folder = self.made / run.workdir.name
    folder.mkdir(parents=True)
    files.write_json(folder / 'config.json', config_lib.to_json(run.config))
    (folder / 'report.html').write_text('')
    z = np.random.default_rng(run.seed).normal(size=(120, 8))
    files.write_npz(
      folder / 'samples.npz',
      images=np.zeros((120, 8, 8, 1), np.uint8),
      latents=z,
      aggregate_latents=z + 1.0,
    )
    files.write_json(
      folder / 'results.json',
      {
        'step': STEPS,
        'last_step': STEPS,
        'seed': run.seed,
        'eval/reconstruction_mse': 0.01,
        'frechet_classifier/generator': generator,
        'frechet_classifier/prior': 2.0 * generator,
        'frechet_classifier/gmm_10': 3.0 + 0.1 * run.seed,
        'frechet_classifier/gmm_50': None,
        'time/sample_10k_seconds': 0.5,
        **measures.protocol(run.config, 120, 120, self.dataset),
      },
    )

  def plans(self, *overrides, methods=('vae', 'ldc')):
    overrides = ('--config.evaluate.samplers=prior,gmm_10', *overrides)
    return plans.load(SPEC, methods, overrides)

  def runs(self, plans, seeds=(0, 1)):
    return {
      run.workdir.name: run
      for run in compare.create_runs(plans, seeds, self.workdir)
    }

  def called(self):
    """The runs that were started since the last call."""
    names = self.calls.read_text().split() if self.calls.exists() else []
    self.calls.unlink(missing_ok=True)
    return names
