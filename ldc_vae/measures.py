"""What an evaluation measures on images and on latents.

Each function returns names of results.json; what does not apply is left out.
"""

from collections.abc import Callable, Mapping

from absl import logging
import jax
from ml_collections import config_dict
import numpy as np

from ldc_vae import classifier as classifier_lib
from ldc_vae import config as config_lib
from ldc_vae import datasets
from ldc_vae import inception
from ldc_vae.metrics import classes
from ldc_vae.metrics import frechet
from ldc_vae.metrics import kid
from ldc_vae.metrics import latent
from ldc_vae.metrics import neighbours
from ldc_vae.metrics import stein

Array = jax.Array
FeaturesFn = Callable[[np.ndarray], np.ndarray]

_NUM_COMPONENTS = 64  # of the pixels, for data without labels
_KID_SUBSETS, _KID_SUBSET_SIZE = 100, 1000  # of Binkowski et al.'s code
_NUM_NEIGHBOURS = 5  # of Naeem et al.'s code
_NEAREST_IMAGES = 1000  # whose nearest training images are sought
_NUM_PROJECTIONS = 512  # of the sliced Wasserstein distance
_STEIN_POINTS = 2000  # of a Stein discrepancy: all pairs of them
_STEIN_SCALE = 1.0  # c of its kernel, the prior's standard deviation


def describe_evaluation(config: config_dict.ConfigDict) -> str:
  """The fields of `config.evaluate` that results depend on, in one line."""
  return ', '.join(
      f'{name}={value}'
      for name, value in config_lib.flatten(config.evaluate).items()
  )


def protocol(
    config: config_dict.ConfigDict, num_samples: int, num_test: int
) -> dict[str, str]:
  """How the numbers come about, in words.

  Args:
    config: The run's config.
    num_samples: Images of each source.
    num_test: Images of the reference.

  Returns:
    The results 'protocol/...'.
  """
  results = {
      'protocol/evaluate': describe_evaluation(config),
      'protocol/split': config.evaluate.split,
      'protocol/distances': (
          f'{num_samples} uint8 images of each source against the'
          f' {config.evaluate.split} split of {num_test}'
      ),
      'protocol/kid': (
          f'mean over {_KID_SUBSETS} subsets of {_KID_SUBSET_SIZE}, or of all'
          ' where there are fewer'
      ),
      'protocol/prdc': f'{_NUM_NEIGHBOURS} nearest neighbours',
  }
  if config.evaluate.inception:
    results['protocol/inception'] = inception.PROTOCOL
  return results


def image_measures(
    config: config_dict.ConfigDict,
    dataset: datasets.Dataset,
    images: Mapping[str, np.ndarray],
    inception_fn: FeaturesFn | None = None,
) -> dict[str, float]:
  """Compares the images of all sources with those of `evaluate.split`.

  Of each source as many as `evaluate.num_samples`, evenly spaced where there
  are more: a distance falls with the number of images.

  Args:
    config: The run's config.
    dataset: With the split 'train' and that of the reference.
    images: Source -> uint8 [N, H, W, C]; with 'generator'.
    inception_fn: Features of the Inception network, if they are wanted.

  Returns:
    Frechet and kernel distances of each source; of the generator also
    fidelity and diversity, predicted classes, nearest training images.
  """
  test = dataset.images[config.evaluate.split]
  images = {
      name: _evenly(each, config.evaluate.num_samples)
      for name, each in images.items()
  }
  results = _nearest_images(dataset.images['train'], images['generator'], test)
  if inception_fn is not None:
    features = _features(inception_fn, images, test)
    results.update(_frechet('frechet_inception', features))
  if not dataset.num_classes:
    flat = lambda images: images.reshape(len(images), -1) / np.float32(255)
    mean, components = frechet.fit_components(flat(test), _NUM_COMPONENTS)
    features = _features(
        lambda images: frechet.project(flat(images), mean, components),
        images,
        test,
    )
    return {
        **results,
        **_frechet('frechet_pca', features),
        **_prdc(features),
    }
  seeds = config.evaluate.classifier_seeds
  for seed in seeds:
    classifier = classifier_lib.load_or_train(dataset, seed=seed)
    logging.info(
        'feature classifier, seed %d: test accuracy %.4f',
        seed,
        classifier.test_accuracy,
    )
    features = _features(classifier.features, images, test)
    if seed != seeds[0]:
      results.update(_frechet(f'frechet_classifier_seed_{seed}', features))
      continue
    results.update(_frechet('frechet_classifier', features))
    results.update(_kid('kid_classifier', features))
    results.update(_prdc(features))
    results.update(_classes(classifier.probabilities(images['generator'])))
  return results


def _evenly(images: np.ndarray, count: int) -> np.ndarray:
  """At most `count` of images [N, ...], evenly spaced."""
  if len(images) <= count:
    return images
  return images[np.linspace(0, len(images) - 1, count).astype(np.int64)]


def latent_measures(
    latents: Mapping[str, np.ndarray],
    train_means: np.ndarray,
    train_logvars: np.ndarray | None,
    key: Array,
) -> dict[str, float]:
  """Distances of latent laws from the aggregate posterior; active units.

  Args:
    latents: Source -> [N, D]; with 'aggregate' and 'generator'.
    train_means: Posterior means of the training images, shape [L, D].
    train_logvars: Their log variances, or None without a gaussian encoder.
    key: Of random projections.

  Returns:
    The results.
  """
  aggregate = latents['aggregate']
  results = {'latent/active_units': int(latent.active_units(train_means))}
  for name in ('generator', 'prior'):
    z = latents.get(name)
    if z is None:
      continue
    results[f'latent/mmd_{name}'] = float(latent.mmd(aggregate, z))
    results[f'latent/sliced_wasserstein_{name}'] = float(
        latent.sliced_wasserstein(aggregate, z, key, _NUM_PROJECTIONS)
    )
  if train_logvars is not None:
    discrepancy_fn = jax.jit(_stein_discrepancy)
    for name in ('aggregate', 'generator', 'prior'):
      if name in latents:
        points = _spread(latents[name], _STEIN_POINTS)
        results[f'latent/ksd_{name}'] = float(
            discrepancy_fn(points, train_means, train_logvars)
        )
  return results


def _features(
    features_fn: FeaturesFn,
    images: Mapping[str, np.ndarray],
    test: np.ndarray,
) -> dict[str, np.ndarray]:
  """Features [N, F] of every source, and of the reference as 'test'."""
  features = {name: features_fn(each) for name, each in images.items()}
  return {**features, 'test': features_fn(test)}


def _frechet(
    family: str, features: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Frechet distances of all sources from 'test'."""
  moments = {name: frechet.moments(each) for name, each in features.items()}
  reference = moments.pop('test')
  return {
      f'{family}/{name}': frechet.frechet_from_moments(*own, *reference)
      for name, own in moments.items()
  }


def _kid(family: str, features: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Kernel distances of all sources from 'test'."""
  results = {}
  for name, own in features.items():
    if name != 'test':
      distances = kid.kernel_distance(
          own,
          features['test'],
          num_subsets=_KID_SUBSETS,
          subset_size=_KID_SUBSET_SIZE,
          seed=0,
      )
      results[f'{family}/{name}'] = float(np.mean(distances))
  return results


def _prdc(features: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Fidelity and diversity of the generator."""
  real, fake = features['test'], features['generator']
  if min(len(real), len(fake)) <= _NUM_NEIGHBOURS:
    return {}
  values = neighbours.precision_recall_density_coverage(
      real, fake, _NUM_NEIGHBOURS
  )
  return {f'prdc/{name}': value for name, value in values.items()}


def _classes(probabilities: np.ndarray) -> dict[str, float]:
  """What the classifier says of samples, given its probabilities [N, Y]."""
  return {
      'classifier/entropy': classes.mean_entropy(probabilities),
      'classifier/class_balance': classes.class_balance(probabilities),
  }


def _nearest_images(
    train: np.ndarray, samples: np.ndarray, test: np.ndarray
) -> dict[str, float]:
  """Median distances from the nearest training image; pixels in [0, 1]."""
  flat = lambda images: images.reshape(len(images), -1)
  train = flat(train)
  results = {}
  for name, images in {'generator': samples, 'test': test}.items():
    chosen = flat(_spread(images, _NEAREST_IMAGES))
    distances = neighbours.nearest_distances(chosen, train)
    results[f'nearest/train_{name}'] = float(np.median(distances)) / 255.0
  return results


def _stein_discrepancy(points: Array, means: Array, logvars: Array) -> Array:
  """Of points [n, D] from the mixture of the posteriors [L, D]."""
  scores = stein.mixture_score(points, means, logvars)
  return stein.kernel_stein_discrepancy(points, scores, _STEIN_SCALE)


def _spread(rows: np.ndarray, num: int) -> np.ndarray:
  """At most `num` rows, evenly spaced."""
  chosen = np.linspace(0, len(rows) - 1, min(num, len(rows)))
  return np.asarray(rows[chosen.astype(np.int64)])
