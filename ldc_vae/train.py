"""The training loop: resumes by itself, logs, validates, checkpoints.

A run is a function of its config: step s takes a batch that depends on (seed,
s) only, noise that depends on (seed, s, image), and a state that is restored
bit for bit. An interrupted run that is started again therefore ends with the
same parameters as one that was not.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import os
import pathlib
import time

from absl import logging
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import step as step_lib
from ldc_vae import streams
from ldc_vae.data import datasets
from ldc_vae.evaluation import requirements
from ldc_vae.methods import base
from ldc_vae.metrics import latent as latent_metrics
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import cluster
from ldc_vae.runtime import files
from ldc_vae.runtime import health
from ldc_vae.runtime import lock
from ldc_vae.runtime import metric_writer as metric_writer_lib
from ldc_vae.runtime import progress as progress_lib
from ldc_vae.runtime import signals

# Steps that may be under way at once: enough to hide the host, few enough for
# emulated CPU devices, which deadlock on long queues.
_MAX_IN_FLIGHT = 8
# Less where steps are slow: a signal waits for all of them.
_MAX_SECONDS_IN_FLIGHT = 1.0

# Fields that may differ from host to host.
_OF_THE_HOST = ('dataset.data_dir', 'dataset.path')


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
  workdir = pathlib.Path(workdir)
  with signals.watch() as watch, lock.lock_workdir(workdir):
    if cluster.is_first():
      check_same_run(workdir, config)
    experiment = experiment_lib.create(config)  # refuses before a file is made
    requirements.check(config, experiment.dataset)
    experiment_lib.check_batch_size(
        config.train.batch_size, config.train.accumulate
    )
    _check_agreement(config, experiment)
    if cluster.is_first():
      _write_config(workdir, config)
    with checkpoint.Checkpointer(workdir / 'checkpoints') as checkpointer:
      _train(config, workdir, experiment, checkpointer, watch)
    # scikit-learn and matplotlib take two seconds, which steps need not wait
    from ldc_vae import evaluate

    # process 0 decides: the workdir may be out of sight of the others
    done = evaluate.is_evaluated(
        workdir,
        config,
        experiment.num_steps,
        datasets.describe(experiment.dataset),
    )
    if not cluster.barrier('trained', done)[0]:
      # somebody may be looking at the run: no reason to end without results
      evaluate.evaluate(config, workdir, experiment=experiment, patient=True)
    else:
      logging.info('already done: see %s', workdir / 'results.json')


def make_validation_fn(
    experiment: experiment_lib.Experiment, binarize: bool, batch_size: int
) -> Callable[..., dict[str, float] | None]:
  """Returns a function of the state: the mean metrics on the validation split.

  They are the metrics of the method's first phase under the averaged weights,
  with noise that is the same each time, and the number of active units of a
  method with an encoder. A second argument is asked after each batch whether
  to stop; the function then returns None.

  Args:
    experiment: The run.
    binarize: Draw binary images, as in training.
    batch_size: Images at a time.
  """
  algorithm = experiment.algorithm
  phase = algorithm.phases[0]
  images = experiment.dataset.images['validation']
  key = jax.random.fold_in(experiment.key, streams.Stream.VALIDATION.value)

  @jax.jit
  def batch_metrics(state, images, mask, first):
    images, keys = step_lib.eval_images(images, key, binarize, first)
    context = base.Context(
        progress=jnp.ones(()), stats=state.stats, ema_params=state.ema_params
    )

    def metrics_fn(images, keys):
      output = phase.objective_fn(state.ema_params, images, keys, context)
      return output.metrics

    if phase.per_image:
      metrics = jax.vmap(metrics_fn)(images[:, None], keys[:, None])
    else:
      metrics = metrics_fn(images, keys)
    sums = jax.tree.map(lambda x: jnp.sum(jnp.where(mask, x, 0.0)), metrics)
    if algorithm.encode is not None:  # chains: too long to run once more
      return sums, None
    posterior = base.encode(
        algorithm,
        experiment.model,
        state.ema_params,
        state.stats,
        images,
        keys,
    )
    return sums, (posterior.mean, posterior.mean_variance)

  def validate(state, is_stopping_fn=lambda: False):
    totals = collections.defaultdict(float)
    means, first = [], 0
    batches_fn = datasets.eval_batches if phase.per_image else _whole_sets
    for batch, mask in batches_fn(images, batch_size):
      if is_stopping_fn():
        return None
      sums, batch_means = jax.device_get(
          batch_metrics(state, batch, mask, first)
      )
      first += len(batch)
      if batch_means is not None:
        means.append(jax.tree.map(lambda x, mask=mask: x[mask], batch_means))
      for name, value in sums.items():
        totals[f'validation/{name}'] += float(value) / len(images)
    if len(images) > 1 and means:  # a lone mean does not vary
      totals['validation/active_units'] = float(
          latent_metrics.active_units(
              *jax.tree.map(lambda *rows: np.concatenate(rows), *means)
          )
      )
    return dict(totals)

  return validate


def _whole_sets(
    images: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """As `datasets.eval_batches`, without padding, which a set would contain.

  The parts differ by one image at most, so that none is too small a set.
  """
  for part in np.array_split(images, -(-len(images) // batch_size)):
    yield part, np.ones(len(part), bool)


def _write_config(
    workdir: pathlib.Path, config: config_dict.ConfigDict
) -> None:
  """Writes config.json; a run that goes on keeps the commit that began it."""
  record = config_lib.to_json(config)
  before = files.read_json(workdir / 'config.json') or {}
  if _holds_run(workdir) and 'git_commit' in before:
    commits = [*before.get('later_commits', ()), record['git_commit']]
    first = record['git_commit'] = before['git_commit']
    later = [each for each in dict.fromkeys(commits) if each != first]
    if later:
      record['later_commits'] = later
  files.write_json(workdir / 'config.json', record)


def _holds_run(workdir: pathlib.Path) -> bool:
  """Whether there is anything that could be continued, or lost."""
  checkpoints = workdir / 'checkpoints'
  begun = checkpoints.is_dir() and any(checkpoints.iterdir())
  return begun or (workdir / 'results.json').exists()


def check_same_run(
    workdir: pathlib.Path, config: config_dict.ConfigDict
) -> None:
  """Refuses a workdir that holds a run of another config.

  One that left no checkpoint and no results has nothing to lose, and passes.

  Args:
    workdir: Of the run; need not exist.
    config: Of the run that is to begin or to continue there.

  Raises:
    ConfigError: A field differs, or config.json cannot be read.
  """
  if not _holds_run(workdir):
    return
  if (workdir / 'config.json').exists():
    stored = config_lib.read(workdir).to_dict()
  else:  # lost, perhaps: the checkpoints have it too
    meta = checkpoint.read_meta(workdir / 'checkpoints') or {}
    stored = meta.get('config')
  if stored is not None:
    config_lib.check_same_run(stored, config, str(workdir))


def _check_agreement(config, experiment) -> None:
  """Waits for the other processes; refuses another config or other data."""
  own = {
      f'config.{name}': value
      for name, value in json.loads(
          json.dumps(config_lib.flatten(config))
      ).items()
      if not name.startswith(_OF_THE_HOST)
  }
  for split, value in datasets.fingerprint(experiment.dataset).items():
    own[f'the {split} images'] = value
  for index, other in enumerate(cluster.barrier('ready', own)):
    for name in own:
      if other.get(name) != own[name]:
        raise errors.UserError(
            f'{name} is {other.get(name)!r} on process {index} and'
            f' {own[name]!r} on process {jax.process_index()}; give every'
            ' process the same config and data'
        )


def _train(config, workdir, experiment, checkpointer, watch) -> None:
  """Runs the steps that are still to be done."""
  state, step, unfinished = _begin(config, workdir, experiment, checkpointer)
  num_steps = experiment.num_steps
  if step >= num_steps and unfinished is None:
    return
  with contextlib.ExitStack() as stack:
    metric_writer = stack.enter_context(
        metric_writer_lib.MetricWriter(workdir / 'metrics.jsonl')
    )
    metric_writer.truncate_after(step - (unfinished is not None))
    progress = stack.enter_context(
        progress_lib.ProgressBar(num_steps, initial=step)
    )
    stack.enter_context(watch.stepping(num_steps))
    loop = _Loop(
        config,
        workdir,
        experiment,
        checkpointer,
        watch,
        metric_writer,
        progress,
        state=state,
        step=step,
        unfinished=unfinished,
    )
    loop.run()
  if loop.step < num_steps:
    logging.info('interrupted: saved step %d of %s', loop.step, workdir)


def _begin(config, workdir, experiment, checkpointer):
  """The state to go on from, its step, and the row that it has yet to write.

  The row is that of a step whose validation was stopped; else None.
  """
  template = experiment.abstract_state()
  experiment_lib.log_parameters(template)
  cluster.meet('restore')
  restored = checkpointer.restore(template)
  if restored is None:
    state, step, unfinished = experiment.init_state(), 0, None
  else:
    state, step = restored.state, restored.step
    config_lib.check_same_run(
        restored.meta['config'], config, f'{workdir}/checkpoints'
    )
    datasets.check_same(
        restored.meta.get('data'), experiment.dataset, f'{workdir}/checkpoints'
    )
    unfinished = restored.meta.get('unfinished')
    logging.info('continuing from step %d of %s', step, workdir)
  cluster.meet('initialised')
  return state, step, unfinished


class _Loop:
  """The steps of a run, and what is done after some of them.

  Attributes:
    step: Train steps done.
  """

  def __init__(
      self,
      config,
      workdir,
      experiment,
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
    self._state = state
    self._unfinished = unfinished  # the row of this step, or None
    self._saved = step
    self._config = config
    self._workdir = workdir
    self._experiment = experiment
    self._checkpointer = checkpointer
    self._watch = watch
    self._metric_writer = metric_writer
    self._progress = progress
    self._train_step = step_lib.pmap_train_step(
        experiment_lib.make_train_step(
            config, experiment.algorithm, experiment.txs, experiment.num_steps
        )
    )
    self._validation_fn = make_validation_fn(
        experiment, config.dataset.binarize, config.evaluate.batch_size
    )
    self._batches = _device_batches(config, experiment, step)
    self._meta = {
        'config': config.to_dict(),
        'data': datasets.fingerprint(experiment.dataset),
    }
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
    """Takes steps to the last one, or until the run is to stop, and saves."""
    if self._unfinished is not None:
      self._finish(self._unfinished, self._is_stopping)
    while (
        self.step < self._experiment.num_steps
        and self._watch.begin(self.step + 1)
    ):
      if self._unfinished is not None:  # other processes are a step ahead
        self._finish(self._unfinished, lambda: False)
      self._finish(self._take_step(), self._is_stopping)
      self._progress.update(self.step)
      # a full disk is told of now, not at the next save
      self._checkpointer.check()
    if self.step > self._saved:  # the run is to stop between two checkpoints
      self._updates.drain()
      meta = self._meta
      if self._unfinished is not None:  # the next start validates
        meta = {**meta, 'unfinished': self._unfinished}
      self._save({}, meta)
    # a process that leaves before its part of a step is done fails the others
    jax.block_until_ready(self._state)
    self._checkpointer.wait()

  def _take_step(self) -> dict[str, float]:
    """One step; its row, which is empty if it is not logged."""
    self.step += 1
    self._state, metrics = self._train_step(
        self._state, next(self._batches), self._experiment.key
    )
    self._updates.add(self.step, metrics)
    if not step_lib.is_logged(
        self.step, self._config.train.log_every, self._experiment.num_steps
    ):
      return {}
    self._updates.drain()
    row = _row(jax.device_get(metrics))
    rate = self._clock.rate(self.step)
    row['train/images_per_sec'] = rate * self._config.train.batch_size
    self._progress.set_loss(row['train/loss'])
    return row

  def _finish(
      self, row: dict[str, float], is_stopping_fn: Callable[[], bool]
  ) -> None:
    """Validates, logs and saves as the step asks for.

    Args:
      row: Of the step.
      is_stopping_fn: Whether to give the validation up; the row is then
        unfinished.
    """
    is_checkpoint = (
        self.step == self._experiment.num_steps
        or self.step % self._experiment.checkpoint_every == 0
    )
    if is_checkpoint or self.step % self._experiment.validate_every == 0:
      self._updates.drain()  # what is under way is time of the steps
      with self._clock.paused():
        found = self._validation_fn(self._state, is_stopping_fn)
      if found is None:
        self._unfinished = row
        return
      row = {**row, **found}
    self._unfinished = None
    if row:
      if cluster.is_first():
        self._alarms.check(self.step, row)
      self._metric_writer.write(self.step, row)
    if is_checkpoint:
      with self._clock.paused():
        self._save(row, self._meta)

  def _save(self, metrics, meta) -> None:
    """Saves the state, unless it is not finite."""
    self._updates.check_state(self.step, self._state)
    self._checkpointer.save(self.step, self._state, metrics=metrics, meta=meta)
    self._saved = self.step

  def _is_stopping(self) -> bool:
    return self._watch.is_stopping

  def _last_good(self) -> str:
    """What is left of a run that cannot go on."""
    self._checkpointer.wait()
    step = self._checkpointer.latest_step()
    if step is None:
      return 'no checkpoint was saved before it'
    path = self._workdir / 'checkpoints' / str(step)
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
