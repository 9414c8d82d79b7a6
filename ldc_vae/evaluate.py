"""The final evaluation of a run.

The distance of decoded images from the test split is reported for each latent
source of one checkpoint. So the loss by the latent distribution is separate
from the loss by the decoder. All weights are the averaged ones.
"""

import os
import pathlib
import time
from typing import Any

from absl import logging
import jax
from ml_collections import config_dict

from ldc_vae import experiment as experiment_lib
from ldc_vae import names
from ldc_vae import room
from ldc_vae import run as run_lib
from ldc_vae import sections
from ldc_vae import streams
from ldc_vae.evaluation import cautions
from ldc_vae.evaluation import likelihood
from ldc_vae.evaluation import measures
from ldc_vae.evaluation import requirements
from ldc_vae.evaluation import sources as sources_lib
from ldc_vae.metrics import latent as latent_metrics
from ldc_vae.reporting import evaluation_figures
from ldc_vae.reporting import report
from ldc_vae.reporting import result_tables
from ldc_vae.runtime import cluster
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs
from ldc_vae.runtime import lock
from ldc_vae.runtime import outputs
from ldc_vae.runtime import progress

Array = jax.Array

_TIMED_SAMPLES = 10_000
_TIMED_PASSES = 5


def evaluate(
  config: config_dict.ConfigDict,
  workdir: str | os.PathLike[str],
  *,
  experiment: experiment_lib.Experiment | None = None,
  patient: bool = False,
) -> dict[str, Any]:
  """Evaluates a checkpoint of `workdir` against `config.evaluate.split`.

  Writes results.json, samples.npz, figures/ and report.html, which replace
  those of an evaluation before once all are written.

  Args:
    config: The run's config; `config.evaluate` may differ from training's.
    workdir: The workdir of a run with a checkpoint.
    experiment: What `experiment.create(config)` gives, if it is at hand.
    patient: Wait for another process that evaluates the same workdir.

  Returns:
    The content of results.json.

  Raises:
    FloatingPointError: A latent of the method's own is not finite.
    OSError: No checkpoint, a file cannot be read or written, or another process
      is evaluating the same workdir (unless `patient`).
    UserError: Features are asked for and cannot be had.
  """
  workdir = pathlib.Path(workdir)
  files.check_writable(workdir / outputs.RESULTS)
  with lock.lock_workdir(workdir, lock.EVALUATION_LOCK_NAME, patient=patient):
    return _evaluate(config, workdir, experiment)


def _evaluate(config, workdir, experiment) -> dict[str, Any]:
  """`evaluate`, while nobody else writes the files."""
  start = time.monotonic()
  experiment = experiment or experiment_lib.create(config)
  requirements.check(config, experiment.dataset)
  room.check(config, experiment)
  if cluster.is_first():  # those of a newer version are not replaced
    files.read_record(workdir / outputs.RESULTS)
  run = run_lib.Run(workdir, config, experiment)
  trained, last_step = run.restore_trained()
  step = trained.step
  if not cluster.is_first():  # it evaluates alone; the others wait for it
    return cluster.barrier('evaluated')[0]
  logging.info('evaluating step %d of %s', step, workdir)
  _log_left_out(config)
  networks = sources_lib.Networks(trained)
  network_fns = {
    name: network.load()
    for name, network in requirements.chosen_networks(config).items()
  }
  key = jax.random.fold_in(experiment.key, streams.Stream.EVALUATION.value)
  sources_key, projections_key, importance_key, annealed_key, time_key = (
    jax.random.split(key, 5)
  )
  sources = sources_lib.make_sources(config, experiment, networks, sources_key)

  # What does not apply stays null.
  results = dict.fromkeys(names.result_names(config.evaluate.samplers))
  train_images = experiment.dataset.images['train']
  if min(len(train_images), len(sources.test_images)) < 2:
    logging.warning('one image has no distances: they stay null')
  else:
    with progress.activity('comparing images and latents') as report_fn:
      results.update(
        measures.image_measures(
          config,
          experiment.dataset,
          sources.images,
          network_fns,
          sources.redraw_fn,
        )
      )
      report_fn(2, 3)  # about: the latents take half as long
      results.update(
        measures.latent_measures(
          sources.latents,
          sources.other_aggregate,
          sources.train,
          projections_key,
        )
      )
  if 'sampler' in experiment.algorithm.trained:
    _check_sampler(results)
  test = sources.test_images
  results.update(likelihood.importance(trained, test, importance_key))
  results.update(likelihood.annealed(trained, test, annealed_key))
  results['eval/reconstruction_mse'] = measures.mean_squared_error(
    sources.images['reconstruction'], sources.test_images
  )
  results.update(_sampling_seconds(networks, time_key))
  results.update(measures.registered_measures(sources))
  results.update(cautions.not_measured(config, experiment, results))
  if sources.left_out:
    results['protocol/left_out'] = '; '.join(
      f'{name}: {why}' for name, why in sources.left_out.items()
    )
  results['format'] = files.FORMAT
  results['seed'] = config.seed
  results['step'] = step
  results['last_step'] = last_step
  num_samples = results['num_samples'] = len(sources.images['generator'])
  results.update(
    measures.protocol(
      config, num_samples, len(sources.test_images), experiment.dataset
    )
  )
  results['protocol/device'] = (
    f'{jax.device_count()} x {jax.devices()[0].device_kind}; cores of the'
    f' host: {jobs.num_cores()}'
  )

  with outputs.replaced(workdir) as folder:
    files.write_npz(
      folder / outputs.SAMPLES,
      images=sources.images['generator'],
      latents=sources.latents['generator'],
      aggregate_latents=sources.latents['aggregate'],
    )
    figures = folder / outputs.FIGURES
    with progress.activity('drawing pictures'):
      evaluation_figures.draw(workdir, figures, networks, sources, results)
    results['wall_seconds'] = time.monotonic() - start
    files.write_json(folder / outputs.RESULTS, results)
    report.write_report(workdir, folder)
    results[outputs.DIGESTS] = outputs.seal(folder, results)
    files.write_json(folder / outputs.RESULTS, results)
  with run.open_copies(step, training=False) as copies:
    figures = workdir / outputs.FIGURES
    copies.evaluation(step, results, figures, sources.latents)
  _log(results)
  run_lib.log_files(workdir)
  cluster.barrier('evaluated', results)
  return results


def _log_left_out(config: config_dict.ConfigDict) -> None:
  """Says which latent samplers a short run does without."""
  left_out = set(sections.Evaluate.samplers) - set(config.evaluate.samplers)
  if config.debug and left_out:
    logging.info(
      'debug leaves out the latent samplers %s; config.evaluate.samplers may'
      ' name them',
      ', '.join(sorted(left_out)),
    )


def _check_sampler(results) -> None:
  """Warns where the sampler net misses part of the latents."""
  share = results['latent/missed_share_generator'] or 0.0
  if share > latent_metrics.LARGEST_MISSED_SHARE:
    logging.warning(
      'latent/missed_share_generator=%.2g: the sampler net misses this share'
      ' of the latent distribution; train longer'
      ' (config.train.num_epochs, or num_steps where it is set),'
      ' or with more config.method.num_latent_updates',
      share,
    )


def _sampling_seconds(
  networks: sources_lib.Networks, key: Array
) -> dict[str, float]:
  """Seconds for 10,000 draws from the generator, compiled before.

  One pass varies by several times on a busy machine, so the least of some is
  taken. A generator that is slow has one pass only.
  """
  latents, images = [], []
  begin = time.monotonic()
  while len(images) < _TIMED_PASSES and time.monotonic() - begin < 1.0:
    start = time.monotonic()
    z = networks.generate(_TIMED_SAMPLES, key)
    latents.append(time.monotonic() - start)
    networks.decode(z)
    images.append(time.monotonic() - start)
  return {
    'time/sample_10k_latents_seconds': min(latents),
    'time/sample_10k_seconds': min(images),
  }


def _log(results: dict[str, Any]) -> None:
  """Says what was found: the numbers to read first."""
  headlines = result_tables.headlines(results)
  width = max((len(label) for label, _ in headlines), default=0)
  for label, value in headlines:
    logging.info('  %s  %s', label.ljust(width), value)
  for text in result_tables.cautions(results):
    logging.info('  ⚠ %s', text)
