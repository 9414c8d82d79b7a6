"""The final evaluation of a run, and sampling from it.

One checkpoint, many ways to make its latents: the distance of decoded images
from the test split is reported for each latent source, so that what the latent
law costs can be told from what the decoder costs. Averaged (EMA) weights
throughout.
"""

from collections.abc import Mapping
import math
import os
import pathlib
import shutil
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import names
from ldc_vae import step as step_lib
from ldc_vae import streams
from ldc_vae.data import datasets
from ldc_vae.evaluation import inception
from ldc_vae.evaluation import likelihood
from ldc_vae.evaluation import measures
from ldc_vae.evaluation import requirements
from ldc_vae.methods import base
from ldc_vae.metrics import latent as latent_metrics
from ldc_vae.reporting import curves
from ldc_vae.reporting import latent_map
from ldc_vae.reporting import report
from ldc_vae.reporting import run_figures
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import cluster
from ldc_vae.runtime import files
from ldc_vae.runtime import health
from ldc_vae.runtime import jobs
from ldc_vae.runtime import lock
from ldc_vae.runtime import manifest
from ldc_vae.runtime import metric_writer
from ldc_vae.samplers import latents as latents_lib

Array = jax.Array

_TIMED_SAMPLES = 10_000
_NUM_INTERPOLATIONS = 8
_INTERPOLATION_STEPS = 11
_SHOWN = 100  # images of a figure


class Sources(NamedTuple):
  """What the latent sources of one checkpoint made.

  Attributes:
    latents: Source -> float32 [N, D].
    images: Source -> uint8 [N, H, W, C].
    test_images: The reference, the test split unless another was chosen,
      uint8 [M, H, W, C].
    test_means: Posterior means of the reference, float32 [M, D].
    train: Posteriors of all L training images.
    other_aggregate: As `latents['aggregate']`, of other training images, as
      many where there are so many.
    aggregate_labels: Classes of the images behind the aggregate latents, or
      None.
    redraw_fn: Maps 1, ..., `evaluate.num_draws` - 1 to images as `images`, of
      latents drawn anew from the sources that are laws; the aggregate's are of
      training images chosen anew, some of them again.
  """

  latents: dict[str, np.ndarray]
  images: dict[str, np.ndarray]
  test_images: np.ndarray
  test_means: np.ndarray
  train: base.Posterior
  other_aggregate: np.ndarray
  aggregate_labels: np.ndarray | None
  redraw_fn: measures.RedrawFn


class Apply:
  """The jitted functions of a checkpoint, in batches of one shape."""

  def __init__(self, experiment, state, *, binarize: bool, batch_size: int):
    """Takes the networks of `experiment` with the averaged weights of `state`.

    Args:
      experiment: The run.
      state: Of a checkpoint.
      binarize: Encode binary images, as in training.
      batch_size: Images at a time.
    """
    self._experiment, self._batch_size = experiment, batch_size
    self._params, self._stats = state.ema_params, state.stats
    # The parameters are arguments: as constants they would be compiled in.
    model, algorithm = experiment.model, experiment.algorithm

    @jax.jit
    def encode(params, stats, images, key, first):
      images, keys = step_lib.eval_images(images, key, binarize, first)
      return base.encode(algorithm, model, params, stats, images, keys)

    @jax.jit
    def decode(params, z):
      images = model.decode(params, z)
      return jnp.round(images * 255.0).astype(jnp.uint8)

    @jax.jit
    def generate(params, stats, key, first):
      keys = streams.image_keys(key, batch_size, None, first)
      return algorithm.generate(params, stats, keys)

    self._encode, self._decode, self._generate = encode, decode, generate

  def encode(self, images, key: Array) -> base.Posterior:
    """The posteriors of images uint8 [N, H, W, C], as NumPy arrays."""
    parts = []
    for index, (batch, mask) in enumerate(
        datasets.eval_batches(images, self._batch_size)
    ):
      outputs = self._encode(
          self._params, self._stats, batch, key, index * self._batch_size
      )
      parts.append(jax.tree.map(lambda x: np.asarray(x)[mask], outputs))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

  def decode(self, z: np.ndarray) -> np.ndarray:
    """Mean images, uint8 [N, H, W, C], of latents [N, D]."""
    size = self._batch_size
    parts = []
    for start in range(0, len(z), size):
      batch = z[start : start + size]
      padded = np.zeros((size, z.shape[1]), np.float32)
      padded[: len(batch)] = batch
      images = self._decode(self._params, padded)
      parts.append(np.asarray(images)[: len(batch)])
    return np.concatenate(parts)

  def generate(self, num_samples: int, key: Array) -> np.ndarray:
    """Latents [num_samples, D] from the method's own generator."""
    batches = -(-num_samples // self._batch_size)
    parts = [
        np.asarray(
            self._generate(
                self._params, self._stats, key, index * self._batch_size
            )
        )
        for index in range(batches)
    ]
    return np.concatenate(parts)[:num_samples]


def evaluate(
    config: config_dict.ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    experiment: experiment_lib.Experiment | None = None,
    patient: bool = False,
) -> dict[str, Any]:
  """Evaluates a checkpoint of `workdir` against `config.evaluate.split`.

  Writes results.json, samples.npz, figures/ and report.html.

  Args:
    config: The run's config; `config.evaluate` may differ from training's.
    workdir: Of a run with a checkpoint.
    experiment: What `experiment.create(config)` gives, if it is at hand.
    patient: Wait for another process that evaluates the same workdir.

  Returns:
    The content of results.json.

  Raises:
    FloatingPointError: A latent of the method's own is not finite.
    OSError: No checkpoint, a file cannot be read or written, or another process
      is evaluating the same workdir (unless `patient`).
    UserError: Inception features are asked for and cannot be had.
  """
  workdir = pathlib.Path(workdir)
  files.check_writable(workdir / 'results.json')
  with lock.lock_workdir(
      workdir, lock.EVALUATION_LOCK_NAME, patient=patient
  ):
    return _evaluate(config, workdir, experiment)


def _evaluate(config, workdir, experiment) -> dict[str, Any]:
  """`evaluate`, while nobody else writes the files."""
  start = time.monotonic()
  experiment = experiment or experiment_lib.create(config)
  requirements.check(config, experiment.dataset)
  state, step, last_step, apply = _restore(config, experiment, workdir)
  if not cluster.is_first():  # it evaluates alone; the others wait for it
    return cluster.barrier('evaluated')[0]
  inception_fn = inception.load() if config.evaluate.inception else None
  key = jax.random.fold_in(experiment.key, streams.Stream.EVALUATION.value)
  sources_key, projections_key, importance_key, annealed_key, time_key = (
      jax.random.split(key, 5)
  )
  sources = make_sources(config, experiment, apply, sources_key)

  # What does not apply stays null.
  results = dict.fromkeys(names.result_names(config.evaluate.samplers))
  train_images = experiment.dataset.images['train']
  if min(len(train_images), len(sources.test_images)) < 2:
    logging.warning('one image has no distances: they stay null')
  else:
    results.update(
        measures.image_measures(
            config,
            experiment.dataset,
            sources.images,
            inception_fn,
            sources.redraw_fn,
        )
    )
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
  results.update(
      likelihood.importance(config, experiment, state, importance_key)
  )
  results.update(likelihood.annealed(config, experiment, state, annealed_key))
  decoded = sources.images['reconstruction'].astype(np.float32)
  residual = (decoded - sources.test_images.astype(np.float32)) / 255.0
  results['eval/reconstruction_mse'] = float(np.mean(np.square(residual)))
  results.update(_sampling_seconds(apply, time_key))
  results.update(measures.registered_measures(sources))
  results['seed'] = config.seed
  results['step'] = step
  results['last_step'] = last_step
  results['num_samples'] = len(sources.images['generator'])
  results.update(
      measures.protocol(
          config,
          results['num_samples'],
          len(sources.test_images),
          experiment.dataset,
      )
  )
  results['protocol/device'] = (
      f'{jax.device_count()} x {jax.devices()[0].device_kind}; cores of the'
      f' host: {jobs.num_cores()}'
  )

  # an evaluation that stops from here on leaves none rather than another's
  for name in ('results.json', 'report.html'):
    (workdir / name).unlink(missing_ok=True)
  files.write_npz(
      workdir / 'samples.npz',
      images=sources.images['generator'],
      latents=sources.latents['generator'],
      aggregate_latents=sources.latents['aggregate'],
  )
  _draw(workdir, apply, sources, results)
  results['wall_seconds'] = time.monotonic() - start
  files.write_json(workdir / 'results.json', results)
  report.write_report(workdir)
  _log(results)
  cluster.barrier('evaluated', results)
  return results


def _check_sampler(results) -> None:
  """Warns where the sampler net misses part of the latents."""
  share = results['latent/missed_share_generator'] or 0.0
  if share > latent_metrics.LARGEST_MISSED_SHARE:
    logging.warning(
        'latent/missed_share_generator=%.2g: the sampler net misses this share'
        ' of the latent distribution; train longer (config.train.num_epochs),'
        ' or with more config.method.num_latent_updates',
        share,
    )


def _check_room(num_samples, model, output) -> None:
  """Raises a ValueError where samples fit neither the memory nor the disk."""
  wanted = num_samples * (
      math.prod(model.image_shape) + 4 * model.latent_size
  )
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  free = shutil.disk_usage(output.absolute().parent).free
  # in memory they are there twice while batches are joined
  if 2 * wanted > memory or wanted > free:
    raise errors.UserError(
        f'--num_samples={num_samples} makes {wanted:,} bytes, of which this'
        f' machine has {memory // 2:,} in half of its memory and {free:,} on'
        f' the disk of {output}: draw fewer at a time'
    )


def sample(
    config: config_dict.ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    num_samples: int,
    output: str | os.PathLike[str],
) -> None:
  """Draws images from a trained run into an .npz file like samples.npz.

  Args:
    config: The run's config.
    workdir: Of a run with a checkpoint.
    num_samples: How many.
    output: The .npz file; `images` uint8 [N, H, W, C], `latents` float32
      [N, D]. A grid of the first hundred is put beside it as a PNG.

  Raises:
    FloatingPointError: A latent is not finite.
    OSError: No checkpoint, or a file cannot be read or written.
    UserError: So many samples have no room.
  """
  workdir, output = pathlib.Path(workdir), pathlib.Path(output)
  picture = output.with_suffix('.png')
  files.check_writable(output)
  files.check_writable(picture)
  experiment = experiment_lib.create(config)
  _, step, _, apply = _restore(config, experiment, workdir)
  if not cluster.is_first():
    cluster.barrier('sampled')
    return
  _check_room(num_samples, experiment.model, output)
  key = jax.random.fold_in(experiment.key, streams.Stream.SAMPLE.value)
  z = apply.generate(num_samples, key)
  _require_finite({'generator': z})
  images = apply.decode(z)
  files.write_npz(output, images=images, latents=z)
  run_figures.sample_grid(
      images[:_SHOWN],
      picture,
      title=f'Samples of {workdir.name}, step {step}',
  )
  logging.info('wrote %d samples to %s and %s', num_samples, output, picture)
  cluster.barrier('sampled')


def is_evaluated(
    workdir: str | os.PathLike[str],
    config: config_dict.ConfigDict,
    step: int,
    data: str | None = None,
) -> bool:
  """Whether results.json and the report are of a run's end and its config.

  Args:
    workdir: Of the run.
    config: Whose `evaluate` should hold.
    step: Of its latest checkpoint.
    data: What `datasets.describe` says of the data that they should be of;
      None for any. Results of an earlier version, which do not tell theirs,
      may be of any.
  """
  workdir = pathlib.Path(workdir)
  results = files.read_json(workdir / 'results.json')
  if not isinstance(results, dict):
    return False
  of_best = config.evaluate.checkpoint == 'best'  # whichever step that is
  return (
      results.get('last_step') == step
      and (of_best or results.get('step') == step)
      and results.get('protocol/evaluate')
      == measures.describe_evaluation(config)
      and data in (None, results.get('protocol/data', data))
      and (workdir / 'report.html').exists()
  )


def make_sources(
    config: config_dict.ConfigDict,
    experiment: experiment_lib.Experiment,
    apply: Apply,
    key: Array,
) -> Sources:
  """Latents and images of every source that `config` asks for.

  Args:
    config: The run's config.
    experiment: The run.
    apply: Its checkpoint's functions.
    key: PRNG key.

  Returns:
    The sources; as many images of each as `evaluate.num_samples`, or as the
    reference has where that is fewer; of real and aggregate at most as many
    as the training split has.
  """
  dataset = experiment.dataset
  train = dataset.images['train']
  test = dataset.images[config.evaluate.split]
  keys = jax.random.split(key, 5)
  seed = int(jax.random.randint(keys[0], (), 0, 2**31 - 1))
  num_samples = min(config.evaluate.num_samples, len(test))
  test_means = apply.encode(test, keys[1]).mean
  posteriors = apply.encode(train, keys[2])
  train_z = posteriors.z
  order = np.random.default_rng(seed).permutation(len(train))
  chosen = np.sort(order[:num_samples])
  other = np.sort(order[num_samples : 2 * num_samples])
  latents = {
      'reconstruction': test_means,
      'aggregate': train_z[chosen],
      'generator': apply.generate(num_samples, keys[3]),
  }
  _require_finite({**latents, 'training images': train_z})
  further = []  # draws after the first
  for index in range(1, config.evaluate.num_draws):
    own_keys = jax.random.split(jax.random.fold_in(keys[4], index))
    order = np.random.default_rng((seed, index)).permutation(len(train))
    drawn = train[np.sort(order[:num_samples])]
    further.append({
        'aggregate': apply.encode(drawn, own_keys[0]).z,
        'generator': apply.generate(num_samples, own_keys[1]),
    })
    _require_finite(further[-1])
  options = {
      'two_stage': {'num_steps': config.evaluate.two_stage_steps},
      'langevin': {'num_steps': config.evaluate.langevin_steps},
      'flow_matching': {'num_steps': config.evaluate.flow_matching_steps},
      'flow': {'num_steps': config.evaluate.flow_steps},
      'drifting': {'num_steps': config.evaluate.drifting_steps},
      'svgd': {'num_steps': config.evaluate.svgd_steps},
      'nearest': {'noise': config.evaluate.nearest_noise},
  }
  for name in config.evaluate.samplers:
    start = time.monotonic()
    try:
      sample_fn = latents_lib.fit(
          name, train_z, seed=seed, **options.get(name, {})
      )
    except ValueError as error:  # e.g. fewer images than components
      logging.warning('latent source %s is left out: %s', name, error)
      continue
    draws = [
        sample_fn(num_samples, seed + index)
        for index in range(config.evaluate.num_draws)
    ]
    if not all(np.all(np.isfinite(z)) for z in draws):
      logging.warning(
          'latent source %s is left out: it makes latents that are not finite',
          name,
      )
      continue
    for each, z in zip((latents, *further), draws, strict=True):
      each[name] = z
    logging.info('latent source %s: %.1f s', name, time.monotonic() - start)
  images = {name: apply.decode(z) for name, z in latents.items()}
  images['real'] = np.asarray(train[chosen])
  labels = None
  if dataset.labels is not None:
    labels = dataset.labels['train'][chosen]

  def redraw(index: int) -> dict[str, np.ndarray]:
    return {name: apply.decode(z) for name, z in further[index - 1].items()}

  return Sources(
      latents,
      images,
      test,
      test_means,
      posteriors,
      train_z[other],
      labels,
      redraw,
  )


def _restore(config, experiment, workdir):
  """The state, its step, the latest step and the functions of a checkpoint."""
  template = experiment.abstract_state()
  cluster.meet('restore')
  with checkpoint.Checkpointer(
      workdir / 'checkpoints', read_only=True
  ) as checkpointer:
    restored = checkpointer.restore(template, config.evaluate.checkpoint)
    last_step = checkpointer.latest_step()
  if restored is None:
    raise manifest.CheckpointError(
        f'{workdir} holds no checkpoint; train in it first (--mode=train)'
    )
  config_lib.check_same_run(
      restored.meta['config'], config, f'{workdir}/checkpoints'
  )
  datasets.check_same(
      restored.meta.get('data'), experiment.dataset, f'{workdir}/checkpoints'
  )
  bad = health.first_non_finite(restored.state.ema_params)
  if bad is not None:  # decoded, it would pass for black images
    raise manifest.CheckpointError(
        f'{workdir}/checkpoints/{restored.step} has numbers in {bad} that are'
        ' not finite; train again with a lower config.optimizer.learning_rate'
    )
  apply = Apply(
      experiment,
      restored.state,
      binarize=config.dataset.binarize,
      batch_size=config.evaluate.batch_size,
  )
  return restored.state, restored.step, last_step, apply


def _require_finite(latents: Mapping[str, np.ndarray]) -> None:
  """Raises where latents are not finite: decoded, they would be black."""
  for name, z in latents.items():
    bad = int(np.sum(~np.all(np.isfinite(z), axis=1)))
    if bad:
      raise FloatingPointError(
          f'{bad} of {len(z)} latents ({name}) are not finite, so that no'
          ' number would hold; train again with a lower'
          ' config.optimizer.learning_rate, or smaller steps of its chains'
      )


def _sampling_seconds(apply: Apply, key: Array) -> dict[str, float]:
  """Seconds for 10,000 draws from the generator, compiled before."""
  start = time.monotonic()
  z = apply.generate(_TIMED_SAMPLES, key)
  drawn = time.monotonic()
  apply.decode(z)
  return {
      'time/sample_10k_latents_seconds': drawn - start,
      'time/sample_10k_seconds': time.monotonic() - start,
  }


def _draw(workdir, apply, sources, results) -> None:
  """Writes the run_figures."""
  folder = workdir / 'figures'
  name, split = workdir.name, results['protocol/split']
  images = sources.images
  test = np.asarray(sources.test_images[:_SHOWN])
  run_figures.sample_grid(
      images['generator'][:_SHOWN],
      folder / 'sample_grid.png',
      title=f'Samples of the generator ({name})',
  )
  run_figures.reconstructions(
      test,
      images['reconstruction'][:_SHOWN],
      folder / 'reconstructions.png',
      title=f'Held-out images and their reconstructions ({name})',
  )
  ends = sources.test_means[: 2 * _NUM_INTERPOLATIONS]
  if len(ends) >= 2:
    starts, stops = ends[: len(ends) // 2], ends[len(ends) // 2 :][
        : len(ends) // 2
    ]
    fractions = np.linspace(0.0, 1.0, _INTERPOLATION_STEPS)
    walks = np.stack(
        [(1.0 - t) * starts + t * stops for t in fractions], axis=1
    ).astype(np.float32)
    decoded = apply.decode(walks.reshape(-1, walks.shape[-1]))
    run_figures.interpolations(
        decoded.reshape(*walks.shape[:2], *decoded.shape[1:]),
        folder / 'interpolations.png',
        title=f'From one image to another, in latent space ({name})',
    )
  shown = [x for x in ('aggregate', 'generator', 'prior') if x in
           sources.latents]
  labels = None
  if sources.aggregate_labels is not None:
    labels = {'aggregate': sources.aggregate_labels}
  latent_map.latent_map(
      {source: sources.latents[source] for source in shown},
      folder / 'latent_map.png',
      labels=labels,
      title=f'Latents ({name})',
  )
  family = names.main_distance(results)
  run_figures.source_grid(
      {source: x[:_SHOWN] for source, x in images.items()},
      folder / 'source_grid.png',
      distances={x: results.get(f'{family}/{x}') for x in images},
      title=f'One decoder, many latent sources ({name})',
  )
  run_figures.decomposition_bars(
      results,
      folder / 'decomposition_bars.png',
      title=f'Distance from the {split} split by latent source ({name})',
  )
  try:
    rows = metric_writer.read_metrics(workdir / 'metrics.jsonl')
  except files.FileError as error:  # the results do not need it
    logging.warning('no training curves are drawn: %s', error)
    rows = []
  curves.training_curves(
      rows,
      folder / 'training_curves.png',
      title=f'Training ({name})',
  )


def _log(results: dict[str, Any]) -> None:
  """Says what was found."""
  for name, value in results.items():
    if isinstance(value, float):
      logging.info('%s = %.5g', name, value)
