"""The feature classifier: a small network whose features compare images.

It is trained once per data set and seed, on the training split, and kept in the
cache. Its penultimate layer gives the features of `frechet_classifier/*` and
`kid_classifier/*`. Such a distance compares methods on one data set. It is not
an FID, which needs the Inception network.

    classifier = load_or_train(dataset)
    frechet.frechet_distance(
      classifier.features(samples), classifier.features(dataset.images['test'])
    )

Letters: N images of a set, B images of a batch, H W C the shape of an image, F
features.
"""

import contextlib
import functools
import hashlib
import os
import pathlib

from absl import logging
import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ldc_vae import errors
from ldc_vae.data import array_cache
from ldc_vae.data import datasets
from ldc_vae.data import pixels
from ldc_vae.evaluation import classifier_net
from ldc_vae.runtime import caches
from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from ldc_vae.runtime import progress

# A part of the cache key: increase it with every change of the features.
VERSION = 1

Array = jax.Array

_MAX_BYTES = 2**30  # of all classifiers in the cache
_TRAIN_BATCH = 128
_EVAL_BATCH = 100  # patches of more images leave the caches
_NUM_EPOCHS = 5
_MIN_STEPS = 1000  # gives small data sets more epochs
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-4


class Classifier:
  """A trained network, which gives features and class probabilities."""

  def __init__(
    self,
    image_shape: tuple[int, int, int],
    num_classes: int,
    params: chex.ArrayTree,
    test_accuracy: float,
  ):
    self.image_shape = image_shape
    self.num_classes = num_classes
    self.params = params
    self.test_accuracy = test_accuracy
    self._network = classifier_net.create_network(self.image_shape, num_classes)

  @property
  def num_features(self) -> int:
    return self._network.num_features

  def describe(self) -> str:
    """Returns a hash of the weights, and the test accuracy."""
    digest = _digest(flax.traverse_util.flatten_dict(self.params, sep='/'))
    return f'{digest[:16]}, test accuracy {self.test_accuracy:.4f}'

  def features(self, images: np.ndarray) -> np.ndarray:
    """Returns features, the penultimate activations of images.

    Args:
      images: uint8, or floats in [0, 1], shape [N, H, W, C].

    Returns:
      float32 [N, F].
    """
    return self._apply(images)[0]

  def probabilities(self, images: np.ndarray) -> np.ndarray:
    """Returns class probabilities [N, num_classes] of images [N, H, W, C]."""
    return np.asarray(jax.nn.softmax(self._apply(images)[1], axis=-1))

  def _apply(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns features [N, F] and logits; all batches have one shape."""
    images = np.asarray(images)
    pixels.check(images, self.image_shape)
    features, logits = [], []
    for batch, mask in datasets.eval_batches(images, _EVAL_BATCH):
      outputs = _apply(self._network, self.params, pixels.to_unit(batch))
      features.append(np.asarray(outputs[0])[mask])
      logits.append(np.asarray(outputs[1])[mask])
    if not features:
      features.append(np.zeros((0, self.num_features), np.float32))
      logits.append(np.zeros((0, self.num_classes), np.float32))
    return np.concatenate(features), np.concatenate(logits)


def load_or_train(
  dataset: datasets.Dataset,
  *,
  seed: int = 0,
  cache_dir: str | os.PathLike[str] | None = None,
) -> Classifier:
  """Loads a data set's classifier from the cache, or trains it.

  Args:
    dataset: A data set with labels and the splits 'train' and 'test'.
    seed: The seed of the initial weights and of the order of the images.
    cache_dir: The folder that contains `classifiers/`; None is the cache of the
      data sets.

  Returns:
    The classifier; the same one for equal images, labels and seed.

  Raises:
    UserError: The data set has no labels or no training images.
  """
  if len(dataset.images['train']) == 0:
    raise errors.UserError(
      f'config.dataset.name={dataset.name} has an empty training split; lower'
      ' config.dataset.num_validation or config.dataset.num_test'
    )
  path = _cache_path(dataset, seed, cache_dir)
  classifier = _load(path, dataset)
  if classifier is not None:
    return classifier
  with contextlib.ExitStack() as stack:
    with contextlib.suppress(OSError):  # `_save` warns about the same error
      stack.enter_context(array_cache.locked(path.with_suffix('.lock')))
    # another process may have trained it while this one waited
    classifier = _load(path, dataset)
    if classifier is None:
      classifier = train(dataset, seed=seed)
      _save(path, classifier)
  return classifier


def train(dataset: datasets.Dataset, *, seed: int) -> Classifier:
  """Trains a classifier on the training split.

  Args:
    dataset: See `load_or_train`.
    seed: See `load_or_train`. On one machine with a fixed number of threads,
      equal seeds give equal bits.

  Returns:
    The classifier. The cache is not used.
  """
  images, labels = dataset.images['train'], _labels(dataset)['train']
  image_shape = dataset.image_shape
  pixels.check(images, image_shape)
  batch_size = min(_TRAIN_BATCH, len(images))
  steps_per_epoch = len(images) // batch_size
  num_steps = max(_MIN_STEPS, _NUM_EPOCHS * steps_per_epoch)
  network = classifier_net.create_network(image_shape, dataset.num_classes)
  params = _init(network, image_shape, jax.random.key(seed))
  opt_state = _create_tx(num_steps).init(params)
  what = f'training the feature classifier of {dataset.name}, seed {seed}'
  with progress.activity(what) as report:
    for step in range(num_steps):
      epoch, batch = divmod(step, steps_per_epoch)
      if batch == 0:
        order = np.random.default_rng((seed, epoch)).permutation(len(images))
      rows = order[batch * batch_size : (batch + 1) * batch_size]
      params, opt_state = _train_step(
        network,
        num_steps,
        params,
        opt_state,
        pixels.to_unit(images[rows]),
        labels[rows],
      )
      if step % 16 == 15:  # many queued steps can deadlock emulated devices
        jax.block_until_ready(params)
        report(step + 1, num_steps)

  params = jax.tree.map(np.asarray, params)
  classifier = Classifier(image_shape, dataset.num_classes, params, 0.0)
  predictions = classifier.probabilities(dataset.images['test']).argmax(axis=1)
  classifier.test_accuracy = float(
    np.mean(predictions == _labels(dataset)['test'])
  )
  return classifier


@functools.partial(jax.jit, static_argnums=0)
def _apply(
  network: classifier_net.Network, params: chex.ArrayTree, images: Array
):
  """Returns features [B, F] and logits of images [B, H, W, C] in [0, 1]."""
  return network.apply(params, images)


def _create_tx(num_steps: int) -> optax.GradientTransformation:
  """Returns AdamW with a rate that falls to 0 along a cosine."""
  schedule = optax.cosine_decay_schedule(_LEARNING_RATE, num_steps)
  return optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(
  network: classifier_net.Network, image_shape: tuple[int, int, int], key: Array
) -> chex.ArrayTree:
  """Returns initial weights for images of a shape (H, W, C)."""
  return network.init(key, jnp.zeros((1,) + image_shape))


# Each batch is one call: XLA's CPU code for a scan is several times slower.
@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _train_step(
  network: classifier_net.Network,
  num_steps: int,
  params: chex.ArrayTree,
  opt_state: optax.OptState,
  images: Array,
  labels: Array,
) -> tuple[chex.ArrayTree, optax.OptState]:
  """Makes one step on images [B, H, W, C] in [0, 1] and their labels [B]."""

  def loss_fn(params):
    _, logits = network.apply(params, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses)

  updates, opt_state = _create_tx(num_steps).update(
    jax.grad(loss_fn)(params), opt_state, params
  )
  return optax.apply_updates(params, updates), opt_state


def _labels(dataset: datasets.Dataset) -> dict[str, np.ndarray]:
  """The labels of each split, or a `UserError` where there are none."""
  if dataset.labels is None or dataset.num_classes == 0:
    raise errors.UserError(
      f'config.dataset.name={dataset.name} has no labels to train a classifier'
      ' on; use frechet_pca (principal components of the pixels) instead'
    )
  return dataset.labels


def _cache_path(
  dataset: datasets.Dataset,
  seed: int,
  cache_dir: str | os.PathLike[str] | None,
) -> pathlib.Path:
  """Returns the cache file for this data, seed and version."""
  folder = pathlib.Path(cache_dir) if cache_dir else datasets.cache_dir()
  name = f'{dataset.name}-{_fingerprint(dataset)}-v{VERSION}-seed{seed}.npz'
  return folder / 'classifiers' / name


def _fingerprint(dataset: datasets.Dataset) -> str:
  """Returns a hash of all images that it learns from, and of all labels."""
  digest = hashlib.sha256(str(dataset.num_classes).encode())
  for split in ('train', 'test'):
    images, labels = dataset.images[split], _labels(dataset)[split]
    digest.update(f'{split}{tuple(images.shape)}{images.dtype}'.encode())
    for start in range(0, len(images), array_cache.CHUNK):
      chunk = images[start : start + array_cache.CHUNK]
      digest.update(chunk.tobytes())
    digest.update(np.asarray(labels, np.int32).tobytes())
  return digest.hexdigest()[:16]


def _digest(arrays: dict[str, np.ndarray]) -> str:
  """Returns a hash of the names, shapes, types and bytes of arrays."""
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f'{name}{array.shape}{array.dtype}'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def entries() -> list[pathlib.Path]:
  """Returns the files of all classifiers in the cache."""
  return sorted((datasets.cache_dir() / 'classifiers').glob('*.npz'))


def damage(path: pathlib.Path) -> str:
  """Returns what is wrong with the file of a classifier; '' if nothing is."""
  return array_cache.damage_of(_read, path)


def _save(path: pathlib.Path, classifier: Classifier) -> None:
  """Writes the classifier and its digest atomically; a failure only warns."""
  arrays = flax.traverse_util.flatten_dict(classifier.params, sep='/')
  arrays['test_accuracy'] = np.asarray(classifier.test_accuracy, np.float64)
  try:
    durable.make_folder(path.parent)
    with files.open_atomically(path) as file:
      np.savez(file, digest=np.asarray(_digest(arrays)), **arrays)
    caches.drop_oldest(path.parent.glob('*.npz'), _MAX_BYTES)
  except OSError as error:
    logging.warning('Cannot write the feature classifier: %s', error)


def _load(path: pathlib.Path, dataset: datasets.Dataset) -> Classifier | None:
  """Returns the classifier in a file; None if it is missing or damaged."""
  if not path.exists():
    return None
  try:
    arrays, test_accuracy = _read(path)
  except Exception as error:  # NumPy and zipfile raise many types
    logging.warning('%s is damaged (%s); it is trained again.', path, error)
    return None
  params = flax.traverse_util.unflatten_dict(arrays, sep='/')
  return Classifier(
    dataset.image_shape, dataset.num_classes, params, test_accuracy
  )


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], float]:
  """Returns the weights and the test accuracy in a file, if they verify."""
  arrays = files.read_npz(path)
  if str(arrays.pop('digest')) != _digest(arrays):
    raise ValueError('its digest does not match')
  return arrays, float(arrays.pop('test_accuracy'))
