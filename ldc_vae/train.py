"""The training loop: resumes by itself, logs, validates, checkpoints.

A run is a function of its config: step s takes a batch that depends on (seed,
s) only, noise that depends on (seed, s, image), and a state that is restored
bit for bit. An interrupted run that is started again therefore ends with the
same parameters as one that was not.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import os
import time

from absl import logging
import jax
from ml_collections import config_dict
import numpy as np

from ldc_vae import experiment as experiment_lib
from ldc_vae import run as run_lib
from ldc_vae import step as step_lib
from ldc_vae import validation
from ldc_vae.data import datasets
from ldc_vae.evaluation import requirements
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import cluster
from ldc_vae.runtime import health
from ldc_vae.runtime import metric_writer as metric_writer_lib
from ldc_vae.runtime import progress as progress_lib
from ldc_vae.runtime import signals

# Steps that may be under way at once: enough to hide the host, few enough for
# emulated CPU devices, which deadlock on long queues.
_MAX_IN_FLIGHT = 8
# Less where steps are slow: a signal waits for all of them.
_MAX_SECONDS_IN_FLIGHT = 1.0


def train_and_evaluate(
  config: config_dict.ConfigDict, workdir: str | os.PathLike[str]
) -> None:
  """Trains until `config`'s number of steps is reached, then evaluates.

  Continues from the latest checkpoint in `workdir`; where everything is done
  already, it does nothing. SIGINT and SIGTERM save a checkpoint first.

  Args:
    config: A validated config.
    workdir: Made if it is missing; holds the files of the run.

  Raises:
    UserError: The config is not the one that `workdir` was begun with.
    FloatingPointError: An update is not finite; the state before it is kept.
    OSError: A file cannot be read or written.
  """
  with signals.watch() as watch, run_lib.open_run(config, workdir) as run:
    experiment = run.experiment
    # these refuse before a file is made
    requirements.check(config, experiment.dataset)
    experiment_lib.check_batch_size(
      config.train.batch_size, config.train.accumulate
    )
    run.check_agreement()
    if cluster.is_first():
      run.write_config()
    with checkpoint.Checkpointer(run.checkpoints) as checkpointer:
      _train(run, checkpointer, watch)
    # process 0 decides: the others never look at the workdir
    done = cluster.is_first() and run_lib.is_evaluated(
      run.workdir,
      config,
      experiment.num_steps,
      datasets.describe(experiment.dataset),
    )
    if not cluster.barrier('trained', done)[0]:
      # pictures take a second to import, which steps need not wait for
      from ldc_vae import evaluate

      # somebody may be looking at the run: no reason to end without results
      evaluate.evaluate(config, workdir, experiment=experiment, patient=True)
    else:
      logging.info('already done: see %s', run.workdir / 'results.json')


def _train(run: run_lib.Run, checkpointer, watch) -> None:
  """Runs the steps that are still to be done."""
  state, step, meta = _begin(run, checkpointer)
  unfinished = meta.get('unfinished')
  num_steps = run.experiment.num_steps
  if step >= num_steps and unfinished is None:
    _check_trained(state, num_steps)
    return
  with contextlib.ExitStack() as stack:
    metric_writer = stack.enter_context(
      metric_writer_lib.MetricWriter(run.workdir / metric_writer_lib.NAME)
    )
    metric_writer.truncate_after(
      step - (unfinished is not None), meta.get(metric_writer_lib.NAME)
    )
    progress = stack.enter_context(
      progress_lib.ProgressBar(num_steps, initial=step)
    )
    stack.enter_context(watch.stepping(num_steps))
    loop = _Loop(
      run,
      checkpointer,
      watch,
      metric_writer,
      progress,
      state=state,
      step=step,
      unfinished=unfinished,
    )
    loop.run()
  _check_trained(loop.state, num_steps)
  if loop.step < num_steps:
    logging.info('interrupted: saved step %d of %s', loop.step, run.workdir)


def _check_trained(state, num_steps: int) -> None:
  """Raises where every update of a run was skipped."""
  if int(state.skipped) == num_steps:
    raise FloatingPointError(
      f'all {num_steps} updates were not finite and were skipped, so nothing'
      ' was trained; lower config.optimizer.learning_rate, or look for the'
      ' cause with config.train.non_finite=stop'
    )


def _begin(run: run_lib.Run, checkpointer):
  """The state to go on from, its step and its meta.

  `unfinished` in the meta is the row of a step whose validation was stopped.
  """
  experiment_lib.log_parameters(run.experiment.abstract_state())
  restored = run.restore(checkpointer)
  if restored is None:
    state, step, meta = run.experiment.init_state(), 0, {}
  else:
    state, step, meta = restored.state, restored.step, restored.meta
    logging.info('continuing from step %d of %s', step, run.workdir)
  cluster.meet('initialised')
  return state, step, meta


class _Loop:
  """The steps of a run, and what is done after some of them.

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
    progress,
    *,
    state,
    step,
    unfinished,
  ):
    self.step = step
    self.state = state
    self._unfinished = unfinished  # the row of this step until it is written
    self._saved, self._saved_at = step, time.monotonic()
    config, experiment = run.config, run.experiment
    self._run = run
    self._config, self._experiment = config, experiment
    self._checkpointer = checkpointer
    self._watch = watch
    self._metric_writer = metric_writer
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
    self._meta = run.meta
    self._updates = health.Watch(
      config.train.non_finite,
      skipped=int(state.skipped),
      depth=_MAX_IN_FLIGHT,
      seconds=_MAX_SECONDS_IN_FLIGHT,
      last_good_fn=self._last_good,
    )
    self._alarms = health.Alarms(
      latent_size=config.model.latent_size, num_steps=experiment.num_steps
    )
    self._clock = _Clock(step)

  def run(self) -> None:
    """Takes steps to the last one, or until the run is to stop, and saves.

    Whatever else ends the loop, the state that is there is saved first.
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
      self._progress.update(self.step)
      # a full disk is told of now, not at the next save
      self._checkpointer.check()
      self._save_in_time()
    if self.step > self._saved:  # the run is to stop between two checkpoints
      self._updates.drain()
      self._save({})
    # a process that leaves before its part of a step is done fails the others
    jax.block_until_ready(self.state)
    self._checkpointer.wait()

  def _rescue(self, error: Exception) -> None:
    """Saves what an error would lose, if the state is still there."""
    if self.step == self._saved:
      return
    try:
      self._updates.drain()
      self._save({})
      self._checkpointer.wait()
    except Exception as second:
      logging.warning('step %d could not be saved: %s', self.step, second)
    else:
      logging.info(
        'saved step %d before an error: %s', self.step, type(error).__name__
      )

  def _take_step(self) -> None:
    """One step; its row is empty if it is not logged."""
    self.state, metrics = self._train_step(
      self.state, next(self._batches), self._experiment.key
    )
    self.step += 1
    self._unfinished = {}
    self._updates.add(self.step, metrics)
    if not step_lib.is_logged(
      self.step, self._config.train.log_every, self._experiment.num_steps
    ):
      return
    self._updates.drain()
    row = self._unfinished = _row(jax.device_get(metrics))
    rate = self._clock.rate(self.step)
    row['train/images_per_sec'] = rate * self._config.train.batch_size
    self._progress.set_loss(row['train/loss'])

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
    self._unfinished = None
    if is_checkpoint:
      with self._clock.paused():
        self._save(row)

  def _save(self, metrics) -> None:
    """Saves the state, unless it is not finite."""
    self._updates.check_state(self.step, self.state)
    meta = {**self._meta, metric_writer_lib.NAME: self._metric_writer.sync()}
    if self._unfinished is not None:  # the next start validates
      meta['unfinished'] = self._unfinished
    self._checkpointer.save(self.step, self.state, metrics=metrics, meta=meta)
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
        self._save({})

  def _is_stopping(self) -> bool:
    return self._watch.is_stopping

  def _last_good(self) -> str:
    """What is left of a run that cannot go on."""
    self._checkpointer.wait()
    step = self._checkpointer.latest_step()
    if step is None:
      return 'no checkpoint was saved before it'
    path = self._run.checkpoints / str(step)
    return f'{path} is the last good checkpoint'


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
