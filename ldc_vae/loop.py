"""The steps of a run, and what is done after some of them.

A row of metrics, a validation, an alarm or a checkpoint may follow a step. The
loop keeps few steps under way, and leaves a checkpoint however it ends.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import time

from absl import logging
import jax
from ml_collections import config_dict
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import run as run_lib
from ldc_vae import step as step_lib
from ldc_vae import validation
from ldc_vae.data import datasets
from ldc_vae.runtime import cluster
from ldc_vae.runtime import health
from ldc_vae.runtime import metric_writer as metric_writer_lib
from ldc_vae.runtime import progress as progress_lib

# Steps that may be under way at once: enough to hide the host, few enough for
# emulated CPU devices, which deadlock on long queues.
_MAX_IN_FLIGHT = 8
# Fewer where steps are slow: a signal waits for all of them.
_MAX_SECONDS_IN_FLIGHT = 1.0

# Fields that weigh the likelihood, and what gives it more weight, and less. The
# first one that a run has is named in alarms.
_LIKELIHOOD_WEIGHTS = {
  'method.inverse_temperature': ('raise', 'lower'),
  'method.beta': ('lower', 'raise'),
  'model.scale': ('lower', 'raise'),
  'optimizer.learning_rate': ('lower', 'lower'),  # no weight, but it may help
}


class Loop:
  """Takes the steps of a run, and logs, validates and saves after some.

  Attributes:
    step: Train steps done.
    state: The train state after them.
  """

  def __init__(
    self,
    run: run_lib.Run,
    checkpointer,
    watch,
    metric_writer,
    copies,
    progress,
    *,
    state,
    step,
    unfinished,
  ):
    """Prepares the step after `step`.

    Args:
      run: The run.
      checkpointer: Saves into its workdir.
      watch: Says when the run is to stop, see `signals.watch`.
      metric_writer: Writes its metrics.
      copies: The `copies.Copies` of its metrics.
      progress: Shows its steps.
      state: The train state to go on from.
      step: The train steps done.
      unfinished: The row of that step if its validation was stopped, or None.
    """
    self.step = step
    self.state = state
    self._unfinished = unfinished  # the row of this step until it is written
    self._metrics: Mapping[str, float] = {}  # of this step's checkpoint, if due
    self._saved, self._saved_at = step, time.monotonic()
    config, experiment = run.config, run.experiment
    self._run, self._meta = run, run.meta
    self._config, self._experiment = config, experiment
    self._checkpointer = checkpointer
    self._watch = watch
    self._metric_writer = metric_writer
    self._copies = copies
    self._progress = progress
    self._train_step = step_lib.pmap_train_step(
      experiment_lib.make_train_step(
        config, experiment.algorithm, experiment.txs, experiment.num_steps
      )
    )
    self._validation_fn = validation.make_validation_fn(
      experiment, config.dataset.binarize, config.evaluate.batch_size
    )
    self._batches = _device_batches(config, experiment, step)
    self._updates = health.Watch(
      config.train.non_finite,
      skipped=int(state.skipped),
      depth=_MAX_IN_FLIGHT,
      seconds=_MAX_SECONDS_IN_FLIGHT,
      last_good_fn=self._last_good,
    )
    self._alarms = _create_alarms(config, experiment.num_steps)
    self._clock = _Clock(step)
    self._first_call: contextlib.AbstractContextManager = progress_lib.activity(
      'compiling the train step'
    )

  def run(self) -> None:
    """Takes steps to the last one, or until the run is to stop, and saves.

    An error also saves what it would lose, unless an update was not finite.
    """
    try:
      self._run_steps()
    except health.NonFiniteError:
      raise
    except Exception as error:
      self._rescue(error)
      raise

  def _run_steps(self) -> None:
    """Takes the steps."""
    if self._unfinished is not None:
      self._finish(self._is_stopping)
    while self.step < self._experiment.num_steps and self._watch.begin(
      self.step + 1
    ):
      if self._unfinished is not None:  # other processes are a step ahead
        self._finish(lambda: False)
      self._take_step()
      self._finish(self._is_stopping)
      self._progress.update(self.step, self._updates.newest_loss)
      # a full disk is reported now, not at the next save
      self._checkpointer.check()
      self._save_in_time()
    if self.step > self._saved:  # the run is to stop between two checkpoints
      self._updates.drain()
      self._save()
    # a process that leaves before its part of a step is done fails the others
    jax.block_until_ready(self.state)
    self._checkpointer.wait()

  def _rescue(self, error: Exception) -> None:
    """Saves what an error would lose, if the state is still there."""
    if self.step == self._saved:
      return
    try:
      self._updates.drain()
      self._save()
      self._checkpointer.wait()
    except Exception as second:
      logging.warning('step %d could not be saved: %s', self.step, second)
    else:
      logging.info(
        'saved step %d before an error: %s', self.step, type(error).__name__
      )

  def _take_step(self) -> None:
    """One step; its row is empty if it is not logged."""
    batch = next(self._batches)
    with self._first_call:
      self.state, metrics = self._train_step(
        self.state, batch, self._experiment.key
      )
    self._first_call = contextlib.nullcontext()
    self.step += 1
    self._unfinished, self._metrics = {}, {}
    self._updates.add(self.step, metrics)
    if not step_lib.is_logged(
      self.step, self._config.train.log_every, self._experiment.num_steps
    ):
      return
    self._updates.drain()
    row = self._unfinished = _row(jax.device_get(metrics))
    rate = self._clock.rate(self.step)
    row['train/images_per_sec'] = rate * self._config.train.batch_size

  def _finish(self, is_stopping_fn: Callable[[], bool]) -> None:
    """Validates, logs and saves as the step asks for.

    Args:
      is_stopping_fn: Whether to give the validation up; the row stays
        unfinished then.
    """
    row = self._unfinished
    is_checkpoint = (
      self.step == self._experiment.num_steps
      or self.step % self._experiment.checkpoint_every == 0
    )
    if is_checkpoint or self.step % self._experiment.validate_every == 0:
      self._updates.drain()  # what is under way is time of the steps
      with self._clock.paused():
        found = self._validation_fn(self.state, is_stopping_fn)
      if found is None:
        return
      row = {**row, **found}
    if row:
      if cluster.is_first():
        self._alarms.check(self.step, row)
      self._metric_writer.write(self.step, row)
      self._copies.scalars(self.step, row)
    self._unfinished = None
    if is_checkpoint:
      self._metrics = row
      with self._clock.paused():
        self._save()

  def _save(self) -> None:
    """Saves the state, unless it is not finite."""
    self._updates.check_state(self.step, self.state)
    meta = {**self._meta, metric_writer_lib.NAME: self._metric_writer.record}
    if self._unfinished is not None:  # the next start validates
      meta['unfinished'] = self._unfinished
    self._checkpointer.save(
      self.step,
      self.state,
      metrics=self._metrics,
      meta=meta,
      before_fn=self._metric_writer.sync,
    )
    self._saved, self._saved_at = self.step, time.monotonic()

  def _save_in_time(self) -> None:
    """Saves where the last checkpoint was made long ago."""
    seconds = 60.0 * self._config.train.checkpoint_minutes
    if (
      seconds
      and self.step > self._saved
      and time.monotonic() - self._saved_at > seconds
    ):
      self._updates.drain()
      with self._clock.paused():
        self._save()

  def _is_stopping(self) -> bool:
    return self._watch.is_stopping

  def _last_good(self) -> str:
    """Says which checkpoint of a run that cannot go on is the last good one."""
    self._checkpointer.wait()
    step = self._checkpointer.latest_step()
    if step is None:
      return 'no checkpoint was saved before it'
    path = self._run.checkpoints / str(step)
    return f'{path} is the last good checkpoint'


def _create_alarms(
  config: config_dict.ConfigDict, num_steps: int
) -> health.Alarms:
  """Returns the alarms of a run, which name fields of its own config."""
  known = config_lib.flatten(config)
  if config.model.likelihood == 'bernoulli':  # it has no scale
    del known['model.scale']
  weight = next(name for name in _LIKELIHOOD_WEIGHTS if name in known)
  more, less = (f'{x} config.{weight}' for x in _LIKELIHOOD_WEIGHTS[weight])
  return health.Alarms(
    latent_size=config.model.latent_size,
    num_steps=num_steps,
    more_likelihood=more,
    less_likelihood=less,
    kl_warmup=known.get('method.kl_warmup', 0.0),
  )


def _device_batches(config, experiment, first_step) -> Iterator[np.ndarray]:
  """Batches from a step on, with an axis for the devices of this process."""
  devices = jax.local_device_count()
  batches = datasets.train_batches(
    experiment.dataset.images['train'],
    config.train.batch_size,
    seed=config.seed,
    start_step=first_step,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )
  for batch in batches:
    yield batch.reshape(devices, -1, *batch.shape[1:])


def _row(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
  """The metrics of a train step under their logged names."""
  return {f'train/{name}': float(value) for name, value in metrics.items()}


class _Clock:
  """Steps per second since the last reading, pauses left out."""

  def __init__(self, step: int):
    self._step, self._start, self._away = step, time.monotonic(), 0.0

  def rate(self, step: int) -> float:
    """Steps per second since the last call."""
    now = time.monotonic()
    elapsed = max(now - self._start - self._away, 1e-9)
    rate = (step - self._step) / elapsed
    self._step, self._start, self._away = step, now, 0.0
    return rate

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Does not count the time spent inside."""
    start = time.monotonic()
    yield
    self._away += time.monotonic() - start
