"""One door to a workdir: its lock, its config, its checkpoints, its results.

A workdir belongs to process 0. The others never look at it: they take part in
`Run.restore`, which gives them process 0's checkpoint, and wait at barriers.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

from absl import logging
import jax
from ml_collections import config_dict

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import fields
from ldc_vae.data import datasets
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import cluster
from ldc_vae.runtime import copies
from ldc_vae.runtime import files
from ldc_vae.runtime import health
from ldc_vae.runtime import lock
from ldc_vae.runtime import metric_writer
from ldc_vae.runtime import outputs
from ldc_vae.runtime import writers


@dataclasses.dataclass(frozen=True)
class Run:
  """A workdir, the config of its run and what the config describes.

  Attributes:
    workdir: The folder.
    config: The run's config.
    experiment: What `experiment.create(config)` gives.
  """

  workdir: pathlib.Path
  config: config_dict.ConfigDict
  experiment: experiment_lib.Experiment

  @property
  def checkpoints(self) -> pathlib.Path:
    """The folder of checkpoints."""
    return self.workdir / 'checkpoints'

  @functools.cached_property
  def data(self) -> dict[str, list[Any]]:
    """The fingerprint of the images, taken once."""
    return datasets.fingerprint(self.experiment.dataset)

  @property
  def meta(self) -> dict[str, Any]:
    """What each checkpoint keeps beside the state."""
    return {
      'config': self.config.to_dict(),
      'data': self.data,
      'devices': jax.device_count(),
    }

  def write_config(self) -> None:
    """Writes config.json; a run that goes on keeps the commit that began it."""
    record = config_lib.to_json(self.config)
    path = self.workdir / 'config.json'
    before = files.read_json(path) or {}
    if has_begun(self.workdir) and 'git_commit' in before:
      later = before.get('later_commits')
      later = later if isinstance(later, list) else []
      if record['git_commit'] not in (before['git_commit'], *later):
        later = [*later, record['git_commit']]
      record['git_commit'] = before['git_commit']
      if later:
        record['later_commits'] = later
    files.write_record(path, record)

  def restore(
    self, checkpointer: checkpoint.Checkpointer, which: str = 'latest'
  ) -> checkpoint.Restored | None:
    """Restores a checkpoint on every process.

    Args:
      checkpointer: The checkpointer of `checkpoints`.
      which: 'latest', or 'best' by validation loss.

    Returns:
      The state, its step and its meta; None if there is no checkpoint.

    Raises:
      UserError: The checkpoint is of another config or of other data.
    """
    template = self.experiment.abstract_state()
    cluster.meet('restore')
    restored = checkpointer.restore(template, which)
    if restored is not None:
      place = str(self.checkpoints)
      config_lib.check_same_run(restored.meta['config'], self.config, place)
      datasets.check_same(
        restored.meta.get('data'), self.data, self.experiment.dataset, place
      )
      if cluster.is_first():
        damage = metric_writer.damage(
          self.workdir / metric_writer.NAME,
          restored.meta.get(metric_writer.NAME),
        )
        if damage:
          logging.warning('%s: %s; its curves are wrong', self.workdir, damage)
    return restored

  def open_copies(self, step: int, *, training: bool) -> copies.Copies:
    """Returns the writers of `config.logging`, which close as a context.

    Args:
      step: The last step.
      training: Whether the rows of metrics.jsonl are written, which no other
        process may do at once.
    """
    names = set(self.config.logging.writers) & set(writers.WRITERS)
    path = self.workdir / metric_writer.NAME
    rows: list[dict[str, Any]] = []
    if not cluster.is_first():
      names = set()
    elif names and training:
      rows = metric_writer.read_metrics(path)
    target = writers.Target(
      folder=self.workdir / writers.FOLDER,
      name=self.workdir.absolute().name,
      project=self.config.logging.project,
      config={
        name: value
        if isinstance(value, (bool, int, float, str))
        else fields.show(value)
        for name, value in config_lib.flatten(
          config_lib.public(self.config)
        ).items()
      },
      step=step,
    )
    return copies.Copies(names, target, rows)

  def check_agreement(self) -> None:
    """Waits for the other processes; refuses another config or other data."""
    own = {
      f'config.{name}': value
      for name, value in json.loads(
        json.dumps(config_lib.flatten(self.config))
      ).items()
      if name not in config_lib.HOST_FIELDS
    }
    for split, value in self.data.items():
      own[f'the {split} images'] = value
    for index, other in enumerate(cluster.barrier('ready', own)):
      for name in own:
        if other.get(name) != own[name]:
          raise errors.UserError(
            f'{name} is {other.get(name)!r} on process {index} and'
            f' {own[name]!r} on process {jax.process_index()}; give every'
            ' process the same config and data'
          )

  def restore_trained(self) -> tuple['Trained', int]:
    """Restores the checkpoint that `evaluate.checkpoint` names.

    Returns:
      The networks, and the step of the latest checkpoint.

    Raises:
      UserError: There is none, or it has numbers that are not finite.
    """
    with checkpoint.Checkpointer(
      self.checkpoints, read_only=True
    ) as checkpointer:
      restored = self.restore(checkpointer, self.config.evaluate.checkpoint)
      # process 0 alone sees the files
      last_step = checkpointer.latest_step()
    model, algorithm = self.experiment.model, self.experiment.algorithm
    trained = _trained(self.config, model, algorithm, restored, self.workdir)
    return trained, last_step or trained.step


class Trained(NamedTuple):
  """The trained networks of a run, which need no data.

  Attributes:
    config: The run's config.
    model: The networks.
    algorithm: The method with these networks.
    params: The averaged weights by network name.
    stats: The method's statistics.
    step: The step of their checkpoint.
  """

  config: config_dict.ConfigDict
  model: model_lib.Model
  algorithm: base.Algorithm
  params: dict[str, Any]
  stats: Any
  step: int


def restore_without_data(
  config: config_dict.ConfigDict,
  workdir: str | os.PathLike[str],
  which: str | None = None,
) -> Trained:
  """Restores the networks of a checkpoint; no data and no lock are needed.

  Args:
    config: The run's config.
    workdir: Its workdir; another process may be training there.
    which: 'latest' or 'best'; None for what `evaluate.checkpoint` says.

  Raises:
    UserError: There is no checkpoint, it is of another config, or it has
      numbers that are not finite.
    OSError: It cannot be read.
  """
  workdir = pathlib.Path(workdir)
  checkpoints = workdir / 'checkpoints'
  shape = _image_shape(config, checkpoints) if cluster.is_first() else None
  shape = cluster.barrier('image_shape', shape)[0]
  model = experiment_lib.create_model(config, tuple(shape))
  algorithm = experiment_lib.create_algorithm(config, model)
  template = experiment_lib.abstract_state(config, model, algorithm)
  cluster.meet('restore')
  with checkpoint.Checkpointer(checkpoints, read_only=True) as checkpointer:
    restored = checkpointer.restore(
      template, which or config.evaluate.checkpoint
    )
  if restored is not None:
    config_lib.check_same_run(restored.meta['config'], config, str(checkpoints))
  return _trained(config, model, algorithm, restored, workdir)


def _image_shape(
  config: config_dict.ConfigDict, checkpoints: pathlib.Path
) -> tuple[int, ...]:
  """Returns (H, W, C) of the images that a run was trained on."""
  meta = checkpoint_folder.read_meta(checkpoints) or {}
  if meta.get('data'):  # the shape [N, H, W, C] and a digest
    return tuple(meta['data']['train'][1:4])
  return experiment_lib.load_dataset(config).image_shape


def _trained(
  config: config_dict.ConfigDict,
  model: model_lib.Model,
  algorithm: base.Algorithm,
  restored: checkpoint.Restored | None,
  workdir: pathlib.Path,
) -> Trained:
  """Returns the networks, or raises if there are none or if they diverged."""
  if restored is None:
    raise errors.UserError(
      f'{workdir} holds no checkpoint; train in it first (--mode=train)',
      exit_code=1,
    )
  state = restored.state
  bad = health.first_non_finite(state.ema_params)
  if bad is not None:  # decoded, it would look like black images
    raise errors.UserError(
      f'{workdir / "checkpoints"}/{restored.step} has numbers in {bad} that'
      ' are not finite; train again with a lower'
      ' config.optimizer.learning_rate',
      exit_code=1,
    )
  return Trained(
    config, model, algorithm, state.ema_params, state.stats, restored.step
  )


@contextlib.contextmanager
def open_run(
  config: config_dict.ConfigDict, workdir: str | os.PathLike[str]
) -> Iterator[Run]:
  """Opens a workdir to train in it; no other process can meanwhile.

  Args:
    config: A validated config.
    workdir: Made if it is missing.

  Yields:
    The run.

  Raises:
    UserError: The workdir holds a run of another config, or is in use.
    OSError: A file or the data cannot be read.
  """
  workdir = pathlib.Path(workdir)
  with lock.lock_workdir(workdir):
    if cluster.is_first():
      check_same(workdir, config)
      # pictures of an evaluation that was killed would stay for ever
      with contextlib.suppress(lock.LockedError):
        with lock.lock_workdir(workdir, lock.EVALUATION_LOCK_NAME):
          outputs.recover(workdir)
    yield Run(workdir, config, experiment_lib.create(config))


def has_begun(workdir: pathlib.Path) -> bool:
  """Returns whether the workdir has a checkpoint or results."""
  checkpoints = workdir / 'checkpoints'
  has_checkpoint = checkpoints.is_dir() and any(checkpoints.iterdir())
  return has_checkpoint or (workdir / outputs.RESULTS).exists()


def check_same(workdir: pathlib.Path, config: config_dict.ConfigDict) -> None:
  """Refuses a workdir that holds a run of another config.

  A workdir without checkpoint and results has nothing to lose, and passes.

  Args:
    workdir: It need not exist.
    config: The config of the run that is to begin or to continue there.

  Raises:
    UserError: A field differs, or config.json cannot be read.
  """
  if not has_begun(workdir):
    return
  if (workdir / 'config.json').exists():
    stored = config_lib.read(workdir).to_dict()
  else:  # the checkpoints have it too
    meta = checkpoint_folder.read_meta(workdir / 'checkpoints') or {}
    stored = meta.get('config')
  if stored is not None:
    config_lib.check_same_run(stored, config, str(workdir))


def log_files(workdir: pathlib.Path) -> None:
  """Says where the report and the numbers of an evaluated run are."""
  logging.info('report: %s', (workdir / outputs.REPORT).absolute())
  logging.info('all numbers: %s', (workdir / outputs.RESULTS).absolute())


def is_evaluated(
  workdir: pathlib.Path,
  config: config_dict.ConfigDict,
  step: int,
  data: Sequence[str] = (),
) -> bool:
  """Returns whether the workdir has the results of a run's end, undamaged.

  Args:
    workdir: The folder.
    config: Its `evaluate` must be that of the results.
    step: The step of the latest checkpoint.
    data: The `datasets.descriptions` of the data that the results must be of;
      empty for any.
  """
  results = files.read_record(workdir / outputs.RESULTS)
  if results is None:
    return False
  of_best = config.evaluate.checkpoint == 'best'  # whichever step that is
  is_of_run = (
    results.get('last_step') == step
    and (of_best or results.get('step') == step)
    and results.get('protocol/evaluate') == describe_evaluation(config)
    and (not data or results.get('protocol/data', data[0]) in data)
    and (workdir / outputs.REPORT).exists()
  )
  if not is_of_run:
    return False
  damage = outputs.damage(workdir, results)
  if damage:
    logging.warning('%s: %s: the run is evaluated again', workdir, damage)
  return not damage


def describe_evaluation(config: config_dict.ConfigDict) -> str:
  """Returns the fields of `config.evaluate`, which results depend on."""
  return ', '.join(
    f'{name}={value}'
    for name, value in config_lib.flatten(config.evaluate).items()
    if (name, value) != ('num_draws', 1)  # older results do not have it
  )
