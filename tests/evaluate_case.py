"""A run of seconds, trained and evaluated once."""

import atexit
import contextlib
import functools
import json
import pathlib
import shutil
import tempfile
from unittest import mock

from absl.testing import parameterized
import jax
import numpy as np

import ldc_vae
from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import run as run_lib
from ldc_vae import train
from ldc_vae.evaluation import likelihood
from ldc_vae.evaluation import measures
from ldc_vae.evaluation import sources as sources_lib
from ldc_vae.reporting import evaluation_figures
from ldc_vae.runtime import checkpoint
from tests import device_case

_OVERRIDES = {
  'train.num_steps': 8,
  'train.checkpoint_every': 4,
  'evaluate.num_samples': 96,
}


def train_run(workdir, method='ldc', overrides=None):
  config = config_lib.load(
    f'configs/digits.py:{method},debug', {**_OVERRIDES, **(overrides or {})}
  )
  train.train_and_evaluate(config, workdir)
  return config


def without_times(workdir):
  """All numbers that a run left, but for the seconds that it took."""

  def strip(row):
    times = (
      'train/images_per_sec',
      'wall_seconds',
      'digests',
      'time/sample_10k_latents_seconds',
      'time/sample_10k_seconds',
    )
    return {name: x for name, x in row.items() if name not in times}

  found = {
    'results': strip(json.loads((workdir / 'results.json').read_text())),
    'metrics': [
      strip(json.loads(line))
      for line in (workdir / 'metrics.jsonl').read_text().splitlines()
    ],
  }
  for path in (workdir / 'checkpoints').iterdir():
    manifest = json.loads((path / 'manifest' / 'metadata').read_text())
    del manifest['digest']  # of the times too
    manifest['metrics'] = strip(manifest['metrics'])
    del manifest['meta']['metrics.jsonl']['sha256']
    found[f'manifest of {path.name}'] = manifest  # a SHA-256 for each array
  with np.load(workdir / 'samples.npz') as samples:
    found['samples'] = {name: samples[name].tobytes() for name in samples}
  return found


def trained(config, experiment, state):
  """The networks of a state, as a checkpoint gives them."""
  return run_lib.Trained(
    config,
    experiment.model,
    experiment.algorithm,
    state.ema_params,
    state.stats,
    step=0,
  )


@functools.cache
def _trained():
  """A run that is trained and evaluated once: its config and workdir."""
  folder = tempfile.TemporaryDirectory()
  atexit.register(folder.cleanup)
  workdir = pathlib.Path(folder.name) / 'run'
  with device_case.quick_classifier():
    config = train_run(workdir)
  return config, workdir


class RunTest(parameterized.TestCase):
  """Tests of a run of `ldc` on digits; each class has a copy of its own."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.workdir = pathlib.Path(folder) / 'run'
    cls.config, cls.evaluated = _trained()  # the latter stays as it is
    shutil.copytree(cls.evaluated, cls.workdir)
    cls.left = without_times(cls.workdir)  # before a test evaluates again
    cls.results = json.loads((cls.workdir / 'results.json').read_text())
    # of no field of `evaluate`: what differs in these only may share them
    cls.experiment = experiment_lib.create(cls.config)
    cls.untrained = cls.experiment.init_state()
    cls.apply = cls.untrained_networks(batch_size=50)
    with checkpoint.Checkpointer(
      cls.workdir / 'checkpoints', read_only=True
    ) as checkpointer:
      template = cls.experiment.abstract_state()
      cls.trained = checkpointer.restore(template).state

  @classmethod
  def untrained_networks(cls, *, batch_size):
    """The networks of new weights as functions of images and latents."""
    config = config_lib.override(
      cls.config, {'evaluate.batch_size': batch_size}
    )
    return sources_lib.Networks(trained(config, cls.experiment, cls.untrained))

  @contextlib.contextmanager
  def without_measures(self):
    """An evaluation that measures and draws nothing."""
    with contextlib.ExitStack() as stack:
      for module, name in (
        (measures, 'latent_measures'),
        (likelihood, 'importance'),
      ):
        stack.enter_context(mock.patch.object(module, name, return_value={}))
      stack.enter_context(mock.patch.object(evaluation_figures, 'draw'))
      yield stack.enter_context(
        mock.patch.object(measures, 'image_measures', return_value={})
      )

  def sources(self, config):
    """Returns what an untrained run is evaluated on."""
    return sources_lib.make_sources(
      config, self.experiment, self.apply, jax.random.key(0)
    )


class LoadedTest(RunTest):
  """The same run as `ldc_vae.load` gives it, and seven images."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.run_ = ldc_vae.load(cls.workdir)
    cls.images = cls.experiment.dataset.images['test'][:7]
