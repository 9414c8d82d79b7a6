"""Copies of a run's curves and pictures for TensorBoard, W&B and MLflow.

The files of a run hold all numbers and pictures; these copies are for viewers.
A writer is a subclass of `Writer` and a line of `WRITERS`; `copies.py` calls
it.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import shutil
import time
from typing import ClassVar

from absl import logging
import numpy as np
from PIL import Image

FOLDER = 'logging'  # in a workdir
JSONL = 'jsonl'  # metrics.jsonl, which every run has: `metric_writer`


@dataclasses.dataclass(frozen=True)
class Target:
  """The run whose copies are written.

  Attributes:
    folder: Where local files go.
    name: The name of the run.
    project: The project of W&B, or the experiment of MLflow.
    config: The fields of the run, without places on this machine.
    step: The step from which the training goes on.
  """

  folder: pathlib.Path
  name: str
  project: str
  config: Mapping[str, bool | int | float | str]
  step: int


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What an evaluation found.

  Attributes:
    step: The step of the checkpoint.
    results: The numbers of results.json.
    pictures: PNG files by name.
    latents: Latents [N, D] by latent source.
  """

  step: int
  results: Mapping[str, float]
  pictures: Mapping[str, pathlib.Path]
  latents: Mapping[str, np.ndarray]


class Writer:
  """A viewer's copy of a run; a subclass is made in its own thread.

  Attributes:
    package: What is imported.
    distribution: What is installed for it.
  """

  package: ClassVar[str]
  distribution: ClassVar[str]

  def __init__(self, target: Target, identity: str, last_step: int):
    """Opens the copy.

    Args:
      target: The run.
      identity: A short text that is the same in each start of the run.
      last_step: The last step that is written; -1 if this is the first start.
    """

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Writes a row of metrics; each step comes once, in their order."""

  def evaluation(self, found: Evaluation) -> None:
    """Writes final metrics, pictures and latents in place of earlier ones."""

  def close(self) -> None:
    """Waits until everything is written."""


class TensorBoard(Writer):
  """Event files in logging/tensorboard, by tensorboardX."""

  package, distribution = 'tensorboardX', 'tensorboardX'

  def __init__(self, target, identity, last_step):
    import tensorboardX
    from tensorboardX import event_file_writer
    from tensorboardX.proto import event_pb2
    from tensorboardX.proto import summary_pb2

    self._module = tensorboardX
    self._open = event_file_writer.EventsWriter
    self._event, self._summary = event_pb2.Event, summary_pb2.Summary
    self._config = target.config
    self._folder = target.folder / 'tensorboard'
    if last_step < 0:  # events of another run, which had nothing to lose
      shutil.rmtree(self._folder, ignore_errors=True)
    self._writer = None
    # files are read by name: two starts may be in one second
    self._suffix = f'.{last_step + 1:010d}'

  def scalars(self, step, values):
    if self._writer is None:
      self._folder.mkdir(exist_ok=True)
      self._writer = self._open(str(self._folder / 'events'), self._suffix)
    # one event for the row; a SummaryWriter keeps the last of them in a queue
    row = [
      self._summary.Value(tag=name, simple_value=value)
      for name, value in values.items()
    ]
    self._writer.write_event(
      self._event(
        wall_time=time.time(), step=step, summary=self._summary(value=row)
      )
    )
    self._writer.flush()

  def evaluation(self, found):
    folder = self._folder / 'evaluation'
    shutil.rmtree(folder, ignore_errors=True)
    with self._module.SummaryWriter(str(folder)) as writer:
      for each in self._module.summary.hparams(
        dict(self._config), dict(found.results)
      ):
        writer.file_writer.add_summary(each)
      for name, value in found.results.items():
        writer.add_scalar(name, value, found.step)
      for name, path in found.pictures.items():
        with Image.open(path) as picture:
          pixels = np.asarray(picture.convert('RGB'))
        writer.add_image(name, pixels, found.step, dataformats='HWC')
      for name, latents in found.latents.items():
        writer.add_histogram(f'latents/{name}', latents.ravel(), found.step)

  def close(self):
    if self._writer is not None:
      self._writer.close()


class WeightsAndBiases(Writer):
  """A run of Weights & Biases; offline where nobody is logged in."""

  package, distribution = 'wandb', 'wandb'

  def __init__(self, target, identity, last_step):
    import wandb

    mode = os.environ.get('WANDB_MODE')
    if mode is None and not wandb.login(prompt=False):
      logging.info(
        'nobody is logged in to wandb: it writes to %s, for `wandb sync`',
        target.folder / 'wandb',
      )
      mode = 'offline'
    self._module = wandb
    self._run = wandb.init(
      project=target.project,
      name=target.name,
      id=identity,
      dir=target.folder,
      config=dict(target.config),
      resume=None if mode == 'offline' else 'allow',
      mode=mode,
      settings=wandb.Settings(console='off', silent=True),
    )

  def scalars(self, step, values):
    self._run.log(dict(values), step=step)

  def evaluation(self, found):
    self._run.summary.update(dict(found.results))
    pictures = {
      name: self._module.Image(str(path))
      for name, path in found.pictures.items()
    }
    latents = {
      f'latents/{name}': self._module.Histogram(values.ravel())
      for name, values in found.latents.items()
    }
    self._run.log({**pictures, **latents})

  def close(self):
    self._run.finish()


class Mlflow(Writer):
  """A run of MLflow, at MLFLOW_TRACKING_URI or in logging/mlflow.db."""

  package, distribution = 'mlflow', 'mlflow'

  def __init__(self, target, identity, last_step):
    import mlflow

    uri = os.environ.get('MLFLOW_TRACKING_URI')
    place = None
    if not uri:
      uri = _local_store(target.folder.absolute(), mlflow.MlflowClient)
      place = (target.folder / 'mlflow').absolute().as_uri()
    self._entities = mlflow.entities
    self._client = mlflow.MlflowClient(tracking_uri=uri)
    found = self._client.get_experiment_by_name(target.project)
    experiment = (
      found.experiment_id
      if found
      else self._client.create_experiment(target.project, place)
    )
    tag = 'ldc_vae.run'
    runs = self._client.search_runs(
      [experiment], f"tags.`{tag}` = '{identity}'", max_results=1
    )
    run = (
      runs[0]
      if runs
      else self._client.create_run(
        experiment, run_name=target.name, tags={tag: identity}
      )
    )
    self._id = run.info.run_id
    if not runs:
      self._client.log_batch(
        self._id,
        params=[
          mlflow.entities.Param(name, str(value))
          for name, value in target.config.items()
        ],
      )

  def scalars(self, step, values):
    now = int(1000 * time.time())
    self._client.log_batch(
      self._id,
      metrics=[
        self._entities.Metric(name, value, now, step)
        for name, value in values.items()
      ],
    )

  def evaluation(self, found):
    self.scalars(found.step, found.results)
    for path in found.pictures.values():
      self._client.log_artifact(self._id, str(path), 'figures')

  def close(self):
    self._client.set_terminated(self._id)


def _local_store(folder: pathlib.Path, client_fn) -> str:
  """Returns the address of a database, which is made if it is missing."""
  path = folder / 'mlflow.db'
  if not path.exists():
    # it takes seconds, and one that is half made could not be opened again
    new = folder / 'mlflow.db.new'
    new.unlink(missing_ok=True)
    client_fn(tracking_uri=f'sqlite:///{new}').search_experiments(max_results=1)
    new.replace(path)
  return f'sqlite:///{path}'


WRITERS: dict[str, type[Writer]] = {
  'tensorboard': TensorBoard,
  'wandb': WeightsAndBiases,
  'mlflow': Mlflow,
}
