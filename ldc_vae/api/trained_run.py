"""A trained run in a notebook: encode, decode, sample, likelihoods.

    import ldc_vae

    run = ldc_vae.load('runs/mnist')
    latents = run.encode(images)
    new_images = run.sample(64, seed=1)

A run is loaded without its data set and without a lock, also while another
process trains it.

Letters: N images or latents, D latent size, H W C image.
"""

from collections.abc import Iterable
import functools
import math
import os
import pathlib
from typing import Any

from absl import logging
import jax
from ml_collections import config_dict
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import run as run_lib
from ldc_vae import streams
from ldc_vae.api import arguments
from ldc_vae.api import export as export_lib
from ldc_vae.api import functions as functions_lib
from ldc_vae.data import datasets
from ldc_vae.data import pixels
from ldc_vae.data import request
from ldc_vae.evaluation import likelihood
from ldc_vae.evaluation import sources as sources_lib
from ldc_vae.methods import base
from ldc_vae.models import model as model_lib
from ldc_vae.runtime import addresses
from ldc_vae.runtime import compiled
from ldc_vae.runtime import files
from ldc_vae.runtime import memory
from ldc_vae.runtime import outputs
from ldc_vae.runtime import storage

# Importance samples and AIS chains where the run's config asks for none.
_NUM_SAMPLES, _NUM_CHAINS = 64, 10
_NUM_SHOWN = 100  # samples in the picture of an export


class TrainedRun:
  """The networks of a trained run, and what they can do with arrays.

  Images are uint8, or floats in [0, 1]; their shape is [N, H, W, C], or
  [N, H, W] where they are grey. Results are NumPy arrays. The weights are the
  averaged ones, as in the evaluation.

  Attributes:
    workdir: The folder that the run was loaded from.
    config: The run's config.
    model: The networks: `ldc_vae.models.model.Model`.
    params: The weights, a dict by network name.
    stats: The method's statistics, such as the moments of the latents.
    step: The step of the checkpoint.
    functions: The same as pure, jittable functions of `params`.
  """

  def __init__(self, trained: run_lib.Trained, workdir: pathlib.Path):
    """Prepares the functions; use `ldc_vae.load` or `ldc_vae.fit`."""
    self.workdir = workdir
    self._trained = trained
    self.config, self.model = trained.config, trained.model
    self.params, self.stats = trained.params, trained.stats
    self.step = trained.step
    self._networks = sources_lib.Networks(trained)
    self.functions = functions_lib.Functions(trained)

  def __repr__(self) -> str:
    shape = 'x'.join(map(str, self.model.image_shape))
    return (
      f'TrainedRun({self.workdir}: {self.config.method.name}, images {shape},'
      f' latent size {self.model.latent_size}, step {self.step})'
    )

  def encode(self, images: Any, *, seed: int | None = None) -> np.ndarray:
    """Returns latents of images, float32 [N, D].

    Args:
      images: See the class.
      seed: The seed of one draw of each posterior; None for posterior means.

    Raises:
      UserError: The images have another shape, type or range.
    """
    posterior = self.posterior(images, seed=seed or 0)
    return np.asarray(posterior.mean if seed is None else posterior.z)

  def posterior(self, images: Any, *, seed: int = 0) -> base.Posterior:
    """Returns the posteriors of images.

    Args:
      images: See the class.
      seed: The seed of the draws.

    Returns:
      `z`, one draw of each posterior, and `mean`, both float32 [N, D];
      `logvar` [N, D] of a gaussian encoder, else None; and `mean_variance`
      [N, D] where the mean is estimated from draws, else None.

    Raises:
      UserError: The images have another shape, type or range.
    """
    images = self._checked_images(images)
    key = jax.random.key(arguments.number('seed', seed, 0))
    return self._networks.encode(images, key)

  def decode(self, latents: Any) -> np.ndarray:
    """Returns the mean images, uint8 [N, H, W, C], of latents.

    Args:
      latents: Finite numbers, shape [N, D].

    Raises:
      UserError: They have another shape, or are not finite.
    """
    return self._networks.decode(self._checked_latents(latents))

  def sample_latents(self, num: int, *, seed: int | None = None) -> np.ndarray:
    """Draws latents from the method's own generator, float32 [num, D].

    For `ldc` this is one pass of the sampler net. The first latents do not
    depend on `num`.

    Args:
      num: The number of latents.
      seed: The seed; None for `config.seed`, as `--mode=sample` has it.

    Raises:
      UserError: The number or the seed is none.
      FloatingPointError: A latent is not finite.
    """
    num = arguments.number('num', num, 1)
    require_memory('num', num, self.model)
    seed = self.config.seed if seed is None else seed
    key = jax.random.key(arguments.number('seed', seed, 0))
    key = jax.random.fold_in(key, streams.Stream.SAMPLE.value)
    z = self._networks.generate(num, key)
    sources_lib.require_finite({'generator': z})
    return z

  def sample(self, num: int, *, seed: int | None = None) -> np.ndarray:
    """Draws images, uint8 [num, H, W, C]; see `sample_latents`."""
    return self.decode(self.sample_latents(num, seed=seed))

  def reconstruct(self, images: Any) -> np.ndarray:
    """Decodes the posterior means of images, uint8 [N, H, W, C]."""
    return self.decode(self.encode(images))

  def interpolate(self, starts: Any, stops: Any, num_steps: int) -> np.ndarray:
    """Decodes the straight lines in latent space between pairs.

    Args:
      starts: Images, or latents [N, D].
      stops: As many images, or latents.
      num_steps: S, with both ends; at least 2.

    Returns:
      uint8 [N, S, H, W, C].

    Raises:
      UserError: They differ in number, or are neither images nor latents.
    """
    num_steps = arguments.number('num_steps', num_steps, 2)
    first, last = self._latents_of(starts), self._latents_of(stops)
    if len(first) != len(last):
      raise errors.UserError(
        f'{len(first)} starts and {len(last)} stops do not make pairs; give as'
        ' many of each'
      )
    return self._networks.interpolate(first, last, num_steps)

  def log_likelihood(
    self,
    images: Any,
    *,
    method: str = 'importance',
    seed: int = 0,
    num_samples: int | None = None,
  ) -> np.ndarray:
    """Estimates log p(x) of each image, a lower bound in nats.

    It is what 'nll/importance' and 'nll/ais' are means of, with the opposite
    sign. See `docs/metrics.md`.

    Args:
      images: See the class.
      method: 'importance' draws from the encoder, which must be gaussian.
        'ais' is annealed importance sampling with `config.evaluate`'s number of
        temperatures; it is slow, and needs no encoder.
      seed: The seed of all noise.
      num_samples: Latents of importance sampling, or chains of AIS, for each
        image; None for those of `config.evaluate`, else 64 and 10.

    Returns:
      float64, shape [N].

    Raises:
      UserError: The method of estimation is unknown or cannot be used, or the
        images have another shape, type or range.
    """
    images = self._checked_images(images)
    key = jax.random.key(arguments.number('seed', seed, 0))
    options = self.config.evaluate
    if method == 'importance':
      functions_lib.require_densities(self._trained)
      if num_samples is None:
        num_samples = options.importance_samples or _NUM_SAMPLES
      num_samples = arguments.number('num_samples', num_samples, 1)
      return likelihood.importance_bounds(
        self._trained, images, key, num_samples=num_samples
      )[1]
    if method != 'ais':
      raise errors.UserError(
        f'method={method!r} is unknown; known: importance, ais'
      )
    if self._trained.algorithm.log_prior is None:
      raise errors.UserError(
        f'the prior of config.method.name={self.config.method.name} has no'
        ' density, so that images have no likelihood'
      )
    if num_samples is None:
      num_samples = options.ais_chains or _NUM_CHAINS
    return likelihood.annealed_bounds(
      self._trained,
      images,
      key,
      num_chains=arguments.number('num_samples', num_samples, 1),
      num_temperatures=options.ais_temperatures,
      num_samples=0,
    )[0]

  def export(self, folder: str | os.PathLike[str]) -> None:
    """Writes a folder to share, which `ldc_vae.load` reads.

    It has the weights, the config without places on this machine, a model card
    with the results of the last evaluation, and a picture of 100 samples.

    Args:
      folder: Made if it is missing; an earlier export in it is replaced.

    Raises:
      UserError: The folder has other files.
      OSError: A file cannot be read or written.
    """
    export_lib.write(
      self._trained,
      folder,
      images=self.sample(_NUM_SHOWN),
      record=files.read_json(self.workdir / 'config.json') or {},
      results=files.read_json(self.workdir / outputs.RESULTS),
    )

  def _latents_of(self, values) -> np.ndarray:
    """Returns latents [N, D] of images or latents."""
    values = arguments.array('starts and stops', values)
    if values.ndim == 2:
      return self._checked_latents(values)
    return self.encode(values)

  def _checked_images(self, images) -> np.ndarray:
    """Returns images [N, H, W, C], or raises a `UserError`."""
    images = arguments.array('images', images)
    shape = self.model.image_shape
    if images.ndim == 3 and (*images.shape[1:], 1) == shape:
      images = images[..., np.newaxis]
    pixels.check(images, shape)
    if not len(images):
      raise errors.UserError('there are 0 images; give at least one')
    return images

  def _checked_latents(self, latents) -> np.ndarray:
    """Returns latents float32 [N, D], or raises a `UserError`."""
    size = self.model.latent_size
    with np.errstate(over='ignore'):  # beyond float32 is not finite
      latents = arguments.points('latents', latents, size=size)
      return arguments.points('latents', latents.astype(np.float32))


def load(
  path: str | os.PathLike[str],
  *,
  checkpoint: str | None = None,
  extensions: Iterable[str] | None = None,
) -> TrainedRun:
  """Loads a trained run.

  It reads the checkpoint alone, and takes no lock. Programs that jax compiles
  are kept in the cache of this project, unless jax has a cache already.

  Args:
    path: The workdir of a run, or a folder that `TrainedRun.export` has
      written. It may be in a bucket, as 'gs://bucket/run'; its files are then
      copied to the folder of caches.
    checkpoint: 'latest', or 'best' by validation loss; None for what
      `config.evaluate.checkpoint` says.
    extensions: The run's files of `config.extensions`, where they have moved.

  Returns:
    The run.

  Raises:
    UserError: There is no trained run, or the bucket cannot be used.
    OSError: A file cannot be read.
  """
  prepare_jax()
  if addresses.is_address(path):
    fetch = arguments.naming_arguments(storage.fetch)
    path = fetch(str(path), datasets.cache_dir())
  path = pathlib.Path(path).expanduser()
  if not path.is_dir():
    raise errors.UserError(
      f'{path}: no such folder; give the workdir of a trained run'
    )
  if checkpoint not in (None, 'latest', 'best'):
    raise errors.UserError(
      f'checkpoint={checkpoint!r} is unknown; known: latest, best'
    )
  if export_lib.is_export(path):
    return TrainedRun(export_lib.read(path, extensions), path)
  config = config_lib.read(path, extensions)
  if config.dataset.name == request.LATENTS:
    raise errors.UserError(
      f'{path}: it holds a sampler of latents; LatentSampler.load reads its'
      ' sampler.npz'
    )
  return restore(config, path, checkpoint)


def restore(
  config: config_dict.ConfigDict,
  workdir: str | os.PathLike[str],
  checkpoint: str | None = None,
) -> TrainedRun:
  """Returns a run whose config is at hand; see `load`."""
  trained = run_lib.restore_without_data(config, workdir, checkpoint)
  return TrainedRun(trained, pathlib.Path(workdir))


def require_memory(name: str, num: int, model: model_lib.Model) -> int:
  """Returns the bytes of samples, images and latents.

  Args:
    name: What the user calls their number.
    num: The number.
    model: The networks.

  Raises:
    UserError: They do not fit half of the free memory. They are there twice
      while batches are joined.
  """
  wanted = num * (math.prod(model.image_shape) + 4 * model.latent_size)
  free = memory.available() // 2
  if wanted > free:
    raise errors.UserError(
      f'{name}={num} makes {memory.gigabytes(wanted)}, of which'
      f' {memory.gigabytes(free)} fit half of the free memory; draw fewer at'
      ' a time'
    )
  return wanted


def prepare_jax() -> None:
  """Checks jax's types, and turns on the cache of compiled programs."""
  experiment_lib.require_float32()
  _use_cache()


@functools.cache
def _use_cache() -> None:
  """Keeps compiled programs, unless jax does so already."""
  if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
    return
  try:
    compiled.use_cache(datasets.cache_dir() / 'xla')
  except errors.UserError as error:  # it only saves time
    logging.warning('%s', error)
