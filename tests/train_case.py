"""Runs of seconds, whose programs are compiled once."""

import pathlib
from unittest import mock

from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import evaluate
from ldc_vae import experiment as experiment_lib
from ldc_vae import step as step_lib
from ldc_vae import validation
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import metric_writer
from ldc_vae.runtime import signals

NUM_STEPS = 12


def load_config(method='vae', **overrides):
  return config_lib.load(
    f'configs/digits.py:{method},debug',
    {
      'train.num_steps': NUM_STEPS,
      'train.checkpoint_every': 5,
      'train.log_every': 3,
      **overrides,
    },
  )


def final_state(config, workdir):
  experiment = experiment_lib.create(config)
  with checkpoint.Checkpointer(
    pathlib.Path(workdir) / 'checkpoints', read_only=True
  ) as checkpointer:
    return checkpointer.restore(experiment.abstract_state())


def rows(workdir):
  """The lines of metrics.jsonl, but for clocks."""
  return [
    {k: v for k, v in row.items() if k != 'train/images_per_sec'}
    for row in metric_writer.read_metrics(
      pathlib.Path(workdir) / 'metrics.jsonl'
    )
  ]


def assert_same(actual, expected, **tolerances):
  leaves = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
  tolerances = {'rtol': 0.0, 'atol': 0.0, **tolerances}
  for a, b in leaves:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), **tolerances)


class _Programs:
  """Compiles for the first run of a config what its later starts use, too.

  Each start compiles the same programs, which is most of the time of a few
  steps. Those of test_processes.py and test_torture.py do so in processes of
  their own, and end bit-identical.
  """

  def __init__(self):
    self._kept = {}

  def patches(self):
    """A patch for each function whose results are kept, by what they are of."""
    config_key = lambda config, *unused: (
      config.to_json(),
      step_lib.keep_finite,  # which a test replaces
    )
    method_key = lambda experiment: experiment.algorithm
    validation_key = lambda experiment, *rest: (experiment.algorithm, *rest)
    return (
      self._keep(experiment_lib, 'create_algorithm', config_key),
      self._keep(experiment_lib, 'make_train_step', config_key),
      self._keep(step_lib, 'pmap_train_step', lambda train_step: train_step),
      self._keep(experiment_lib.Experiment, 'init_state', method_key, _copies),
      self._keep(experiment_lib.Experiment, 'abstract_state', method_key),
      self._keep(validation, 'make_validation_fn', validation_key),
    )

  def _keep(self, module, name, key_fn, use_fn=lambda result: result):
    function = getattr(module, name)

    def kept(*args):
      key = name, key_fn(*args)
      if key not in self._kept:
        with jax.ensure_compile_time_eval():  # a state's shapes are asked first
          self._kept[key] = function(*args)
      return use_fn(self._kept[key])

    return mock.patch.object(module, name, kept)


def _copies(state):
  """A state that can be donated, as often as asked for."""
  return jax.tree.map(jnp.copy, state)


_PROGRAMS = _Programs()  # one for all files of tests


class TrainTest(parameterized.TestCase):
  """Runs the loop in a folder of its own, without an evaluation."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    for patch in _PROGRAMS.patches():
      cls.enterClassContext(patch)

  def setUp(self):
    super().setUp()
    # a slow machine must not end the process of the tests
    self.enter_context(mock.patch.object(signals, 'GRACE', 300.0))
    # evaluation has tests of its own; here the loop is what is looked at
    self.enter_context(mock.patch.object(evaluate, 'evaluate'))
    self.dir = pathlib.Path(self.create_tempdir().full_path)
