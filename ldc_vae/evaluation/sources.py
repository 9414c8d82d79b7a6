"""The latent sources of a checkpoint: their latents and decoded images."""

from collections.abc import Mapping
from typing import NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import run as run_lib
from ldc_vae import step as step_lib
from ldc_vae import streams
from ldc_vae.data import datasets
from ldc_vae.data import pixels
from ldc_vae.evaluation import measures
from ldc_vae.methods import base
from ldc_vae.runtime import progress
from ldc_vae.samplers import registry

Array = jax.Array

_MAX_POSTERIORS = 200_000  # training images that are encoded; the first ones


class Sources(NamedTuple):
  """The latents and images of the latent sources of one checkpoint.

  Attributes:
    latents: A dict from source to float32 [N, D].
    images: A dict from source to uint8 [N, H, W, C].
    test_images: The reference images, uint8 [M, H, W, C]; by default the test
      split.
    test_means: Posterior means of the reference, float32 [M, D].
    train: Posteriors of L training images: all, or the first 200,000.
    other_aggregate: Like `latents['aggregate']`, but for other training images;
      fewer if the training split is too small.
    aggregate_labels: Classes of the images that `latents['aggregate']` comes
      from, or None.
    redraw_fn: Maps 1, ..., `evaluate.num_draws` - 1 to images like `images`.
      They are decoded from fresh draws of every source with a distribution. For
      the aggregate these come from fresh training images, with repeats.
    left_out: Why a sampler of `evaluate.samplers` has no latents, by its name.
  """

  latents: dict[str, np.ndarray]
  images: dict[str, np.ndarray]
  test_images: np.ndarray
  test_means: np.ndarray
  train: base.Posterior
  other_aggregate: np.ndarray
  aggregate_labels: np.ndarray | None
  redraw_fn: measures.RedrawFn
  left_out: dict[str, str]


class Networks:
  """The networks of a checkpoint as jitted functions with one batch shape."""

  def __init__(self, trained: run_lib.Trained):
    """Creates the functions of `evaluate.batch_size` images at a time."""
    model, algorithm = trained.model, trained.algorithm
    binarize = trained.config.dataset.binarize
    batch_size = trained.config.evaluate.batch_size
    self._image_shape, self._batch_size = model.image_shape, batch_size
    # The weights are arguments, because jit would compile constants in.
    self._params, self._stats = trained.params, trained.stats

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
    """Returns the posteriors of images, as NumPy arrays.

    Args:
      images: uint8, or floats in [0, 1], shape [N, H, W, C].
      key: PRNG key of all noise.
    """
    images = np.asanyarray(images)  # a memory map stays one
    pixels.check(images, self._image_shape)
    parts = []
    for index, (batch, mask) in enumerate(
      datasets.eval_batches(images, self._batch_size)
    ):
      outputs = self._encode(
        self._params, self._stats, batch, key, index * self._batch_size
      )
      rows = lambda x, mask=mask: np.asarray(x)[mask]
      parts.append(jax.tree.map(rows, outputs))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

  def decode(self, z: np.ndarray) -> np.ndarray:
    """Returns mean images, uint8 [N, H, W, C], of latents [N, D]."""
    return np.concatenate(
      [
        np.asarray(self._decode(self._params, batch.astype(np.float32)))[mask]
        for batch, mask in datasets.eval_batches(z, self._batch_size)
      ]
    )

  def interpolate(
    self, starts: np.ndarray, stops: np.ndarray, num_steps: int
  ) -> np.ndarray:
    """Decodes latents on the straight lines from one latent to another.

    Args:
      starts: Shape [N, D].
      stops: Shape [N, D].
      num_steps: S, with the two ends.

    Returns:
      uint8 [N, S, H, W, C].
    """
    fractions = np.linspace(0.0, 1.0, num_steps)
    walks = np.stack(
      [(1.0 - t) * starts + t * stops for t in fractions], axis=1
    ).astype(np.float32)
    decoded = self.decode(walks.reshape(-1, walks.shape[-1]))
    return decoded.reshape(*walks.shape[:2], *decoded.shape[1:])

  def generate(self, num_samples: int, key: Array) -> np.ndarray:
    """Draws latents [num_samples, D] from the method's own generator."""
    batches = -(-num_samples // self._batch_size)
    parts = [
      np.asarray(
        self._generate(self._params, self._stats, key, index * self._batch_size)
      )
      for index in range(batches)
    ]
    return np.concatenate(parts)[:num_samples]


def make_sources(
  config: config_dict.ConfigDict,
  experiment: experiment_lib.Experiment,
  networks: Networks,
  key: Array,
) -> Sources:
  """Makes the latents and images of every source that `config` asks for.

  Args:
    config: The run's config.
    experiment: The run.
    networks: The networks of its checkpoint.
    key: PRNG key.

  Returns:
    The sources. Each has `evaluate.num_samples` images, or fewer if the
    reference has fewer. Real and aggregate have at most as many as the training
    split.
  """
  dataset = experiment.dataset
  train = dataset.images['train'][:_MAX_POSTERIORS]
  test = dataset.reference(config.evaluate.split)
  keys = jax.random.split(key, 5)
  seed = int(jax.random.randint(keys[0], (), 0, 2**31 - 1))
  num_samples = min(config.evaluate.num_samples, len(test))
  test_means = np.asarray(networks.encode(test, keys[1]).mean)
  posteriors = networks.encode(train, keys[2])
  train_z = np.asarray(posteriors.z)
  order = np.random.default_rng(seed).permutation(len(train))
  chosen = np.sort(order[:num_samples])
  other = np.sort(order[num_samples : 2 * num_samples])
  latents = {
    'reconstruction': test_means,
    'aggregate': train_z[chosen],
    'generator': networks.generate(num_samples, keys[3]),
  }
  require_finite({**latents, 'training images': train_z})
  further = []  # the second and later draws
  for index in range(1, config.evaluate.num_draws):
    own_keys = jax.random.split(jax.random.fold_in(keys[4], index))
    order = np.random.default_rng((seed, index)).permutation(len(train))
    drawn = train[np.sort(order[:num_samples])]
    further.append(
      {
        'aggregate': np.asarray(networks.encode(drawn, own_keys[0]).z),
        'generator': networks.generate(num_samples, own_keys[1]),
      }
    )
    require_finite(further[-1])
  left_out = {}
  for name in config.evaluate.samplers:
    own = {
      option: config.evaluate[f'{name}_{field}']
      for field, option in (('steps', 'num_steps'), ('noise', 'noise'))
      if f'{name}_{field}' in config.evaluate
    }
    steps = f', {own["num_steps"]:,} steps' if 'num_steps' in own else ''
    try:
      with progress.activity(f'fitting the latent source {name}{steps}'):
        sample_fn = registry.fit(name, train_z, seed=seed, **own)
      draws = [
        sample_fn(num_samples, seed + index)
        for index in range(config.evaluate.num_draws)
      ]
      if not all(np.all(np.isfinite(z)) for z in draws):
        raise errors.UserError('some of its latents are not finite')
    except errors.UserError as error:  # e.g. fewer images than components
      left_out[name] = str(error)
      logging.warning('latent source %s is skipped: %s', name, error)
      continue
    for each, z in zip((latents, *further), draws, strict=True):
      each[name] = z
  images = {name: networks.decode(z) for name, z in latents.items()}
  images['real'] = np.asarray(train[chosen])
  labels = None
  if dataset.labels is not None:
    labels = dataset.labels['train'][chosen]

  def redraw(index: int) -> dict[str, np.ndarray]:
    return {name: networks.decode(z) for name, z in further[index - 1].items()}

  return Sources(
    latents,
    images,
    test,
    test_means,
    posteriors,
    train_z[other],
    labels,
    redraw,
    left_out,
  )


def require_finite(latents: Mapping[str, np.ndarray]) -> None:
  """Raises an error if latents are not finite; their images would be black."""
  for name, z in latents.items():
    bad = int(np.sum(~np.all(np.isfinite(z), axis=1)))
    if bad:
      raise FloatingPointError(
        f'{bad} of {len(z)} latents ({name}) are not finite, so all results'
        ' would be wrong; train again with a lower'
        ' config.optimizer.learning_rate, or smaller steps of its chains'
      )
