"""Training in a workdir: begins or continues a run, then evaluates it.

`loop.py` takes the steps.

A run is a function of its config: step s takes a batch that depends on (seed,
s) only, noise that depends on (seed, s, image), and a state that is restored
bit for bit. An interrupted run that is started again therefore ends with the
same parameters as one that was not.
"""

import contextlib
import os

from absl import logging
from ml_collections import config_dict

from ldc_vae import experiment as experiment_lib
from ldc_vae import loop as loop_lib
from ldc_vae import room
from ldc_vae import run as run_lib
from ldc_vae.data import datasets
from ldc_vae.evaluation import requirements
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import cluster
from ldc_vae.runtime import metric_writer as metric_writer_lib
from ldc_vae.runtime import progress as progress_lib
from ldc_vae.runtime import signals


def train_and_evaluate(
  config: config_dict.ConfigDict,
  workdir: str | os.PathLike[str],
  *,
  with_evaluation: bool = True,
) -> None:
  """Trains until `config`'s number of steps is reached, then evaluates.

  Continues from the latest checkpoint in `workdir`; where everything is done
  already, it does nothing. SIGINT and SIGTERM save a checkpoint first.

  Args:
    config: A validated config.
    workdir: Made if it is missing; holds the files of the run.
    with_evaluation: Whether to evaluate after the training.

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
    room.check(config, experiment)
    run.check_agreement()
    if cluster.is_first():
      run.write_config()
    with checkpoint.Checkpointer(run.checkpoints) as checkpointer:
      _train(run, checkpointer, watch)
    if not with_evaluation:
      return
    # process 0 decides: the others never look at the workdir
    done = cluster.is_first() and run_lib.is_evaluated(
      run.workdir,
      config,
      experiment.num_steps,
      datasets.descriptions(experiment.dataset, run.data),
    )
    if not cluster.barrier('trained', done)[0]:
      # pictures take a second to import, which steps need not wait for
      from ldc_vae import evaluate

      # another process may be evaluating the run: wait for it
      evaluate.evaluate(config, workdir, experiment=experiment, patient=True)
    else:
      logging.info('already done')
      run_lib.log_files(run.workdir)


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
    copies = stack.enter_context(run.open_copies(step, training=True))
    progress = stack.enter_context(progress_lib.ProgressBar(num_steps))
    stack.enter_context(watch.stepping(num_steps))
    loop = loop_lib.Loop(
      run,
      checkpointer,
      watch,
      metric_writer,
      copies,
      progress,
      state=state,
      step=step,
      unfinished=unfinished,
    )
    loop.run()
  _check_trained(loop.state, num_steps)


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
    before, now = meta.get('devices'), run.meta['devices']
    if before not in (None, now):
      logging.warning(
        'this run had %d devices and has %d now: its numbers differ by rounding'
        ' from those of a run without this change',
        before,
        now,
      )
  cluster.meet('initialised')
  return state, step, meta
