"""The metrics of an evaluation, computed from images and from latents.

Each function returns a dict from names in results.json to values. Metrics that
do not apply are left out.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from absl import logging
import jax
from ml_collections import config_dict
import numpy as np
import threadpoolctl

from ldc_vae import names
from ldc_vae import run as run_lib
from ldc_vae.data import datasets
from ldc_vae.data import pixels
from ldc_vae.evaluation import cautions
from ldc_vae.evaluation import classifier as classifier_lib
from ldc_vae.evaluation import requirements
from ldc_vae.methods import base
from ldc_vae.metrics import classes
from ldc_vae.metrics import frechet
from ldc_vae.metrics import kid
from ldc_vae.metrics import latent
from ldc_vae.metrics import neighbours
from ldc_vae.metrics import stein

Array = jax.Array
FeaturesFn = Callable[[np.ndarray], np.ndarray]
RedrawFn = Callable[[int], Mapping[str, np.ndarray]]

_NUM_COMPONENTS = 64  # principal components of pixels, for data without labels
_KID_SUBSETS, _KID_SUBSET_SIZE = 100, 1000  # values in Binkowski et al.'s code
# The kernel distances beside Frechet distances in the same features.
_KID_FAMILIES = {
  'frechet_classifier': 'kid_classifier',
  'frechet_imagenet': 'kid_imagenet',
}
_NUM_NEIGHBOURS = 5  # the value in Naeem et al.'s code
_NEAREST_IMAGES = 1000  # images whose nearest training images are searched
_BLOCK_IMAGES = 1000  # whose differences are in memory at once
_NUM_PROJECTIONS = 512  # directions of the sliced Wasserstein distance
_STEIN_POINTS = 2000  # points of a Stein discrepancy, whose pairs are all used
_STEIN_SCALE = 1.0  # c of its kernel: the standard deviation of the prior


def protocol(
  config: config_dict.ConfigDict,
  num_samples: int,
  num_test: int,
  dataset: datasets.Dataset,
) -> dict[str, str]:
  """Describes in words how the numbers are measured.

  Args:
    config: The run's config.
    num_samples: The number of images of each source.
    num_test: The number of images of the reference.
    dataset: The data.

  Returns:
    The results 'protocol/...'.
  """
  reference = f'the {config.evaluate.split} split of {num_test}'
  if num_test < len(dataset.images[config.evaluate.split]):
    reference = f'the first {num_test} of the {config.evaluate.split} split'
  results = {
    'protocol/evaluate': run_lib.describe_evaluation(config),
    'protocol/split': config.evaluate.split,
    'protocol/distances': (
      f'{num_samples} uint8 images of each source against {reference}'
    ),
    'protocol/kid': (
      f'mean over {_KID_SUBSETS} subsets of {_KID_SUBSET_SIZE}, or of all'
      ' where there are fewer'
    ),
    'protocol/prdc': f'{_NUM_NEIGHBOURS} nearest neighbours',
    'protocol/data': datasets.describe(dataset),
  }
  num_train = len(dataset.images['train'])
  if num_train < num_samples:
    results['protocol/distances'] += (
      f'; of real and aggregate {num_train}, all training images'
    )
    logging.warning(
      'distances of real and aggregate use %d images, those of other sources'
      ' use %d: do not compare them',
      num_train,
      num_samples,
    )
  if config.evaluate.num_draws > 1:
    results['protocol/distances'] += (
      f'; Frechet distances are means over {config.evaluate.num_draws} such'
      ' sets of each latent source, *_deviation/* is between them'
    )
  for name, network in requirements.chosen_networks(config).items():
    results[f'protocol/{name}'] = network.PROTOCOL
  return results


def image_measures(
  config: config_dict.ConfigDict,
  dataset: datasets.Dataset,
  images: Mapping[str, np.ndarray],
  network_fns: Mapping[str, FeaturesFn] | None = None,
  redraw_fn: RedrawFn | None = None,
) -> dict[str, float | str]:
  """Compares the images of all sources with those of `evaluate.split`.

  At most `evaluate.num_samples` images of each source are used, evenly spaced,
  because a distance falls with the number of images.

  Args:
    config: The run's config.
    dataset: The data, with the split 'train' and that of the reference.
    images: A dict from source to uint8 [N, H, W, C]; it must have 'generator'.
    network_fns: The feature functions of networks that others trained, by name
      in `requirements.NETWORKS`.
    redraw_fn: Maps 1, 2, ... to images like `images`, from fresh latents. It is
      only used if `evaluate.num_draws` is more than 1.

  Returns:
    Frechet and kernel distances of each source. For the generator also
    fidelity, diversity, predicted classes and nearest training images. Frechet
    distances are means over `evaluate.num_draws`; all else uses only `images`.
    'protocol/judge' describes the feature classifiers, 'protocol/caution_*'
    says which numbers are doubtful.
  """
  for name, each in images.items():
    pixels.check_uint8(each, f'images of the source {name}')
  test = dataset.reference(config.evaluate.split)
  at_most = functools.partial(_evenly_spaced, count=config.evaluate.num_samples)
  images = {name: at_most(each) for name, each in images.items()}
  train = dataset.images['train']
  results: dict[str, float | str] = {
    **_nearest_images(train, images['generator'], test)
  }
  classifiers = {}
  if dataset.num_classes:
    for seed in config.evaluate.classifier_seeds:
      classifiers[seed] = classifier_lib.load_or_train(dataset, seed=seed)
      logging.info(
        'feature classifier, seed %d: test accuracy %.4f',
        seed,
        classifiers[seed].test_accuracy,
      )
    # the weights differ if it is trained again, for example on other cores
    results['protocol/judge'] = '; '.join(
      f'seed {seed}: {classifier.describe()}'
      for seed, classifier in classifiers.items()
    )
    first, *_ = classifiers.values()
    results.update(_classes(first.probabilities(images['generator'])))
  features_fns = _feature_families(classifiers, test, network_fns or {})
  references = {family: fn(test) for family, fn in features_fns.items()}
  moments = {
    family: frechet.moments(reference)
    for family, reference in references.items()
  }
  distances = {family: [] for family in features_fns}
  for index in range(config.evaluate.num_draws):
    drawn = images
    if index:
      assert redraw_fn is not None  # num_draws > 1
      drawn = redraw_fn(index)
    for family, features_fn in features_fns.items():
      features = {
        name: features_fn(at_most(each)) for name, each in drawn.items()
      }
      distances[family].append(_frechet(features, moments[family]))
      if index:  # all else uses only the first draw
        continue
      reference = references[family]
      if family in _KID_FAMILIES:
        results.update(_kid(_KID_FAMILIES[family], features, reference))
      if family in ('frechet_classifier', 'frechet_pca'):
        results.update(_prdc(features['generator'], reference))
  for family, draws in distances.items():
    results.update(_over_draws(family, draws))
  num_images = min(len(test), *map(len, images.values()))
  num_features = {name: each.shape[1] for name, each in references.items()}
  if 'frechet_pca' in num_features:  # more images have more components
    num_features['frechet_pca'] = min(_NUM_COMPONENTS, test[0].size)
  results.update(
    cautions.of_images(dataset, classifiers, num_images, num_features)
  )
  return results


def mean_squared_error(x: np.ndarray, y: np.ndarray) -> float:
  """Returns the mean squared difference of pixels in [0, 1], in blocks.

  Args:
    x: uint8, shape [N, H, W, C].
    y: The same.
  """
  total = 0
  for start in range(0, len(x), _BLOCK_IMAGES):
    rows = slice(start, start + _BLOCK_IMAGES)
    difference = x[rows].astype(np.int64) - y[rows]  # exact
    total += int(np.sum(np.square(difference)))
  return total / (255**2 * x.size)


def _feature_families(
  classifiers: Mapping[int, classifier_lib.Classifier],
  test: np.ndarray,
  network_fns: Mapping[str, FeaturesFn],
) -> dict[str, FeaturesFn]:
  """Returns the feature functions, by the name of the distance."""
  families = {f'frechet_{name}': fn for name, fn in network_fns.items()}
  for index, (seed, classifier) in enumerate(classifiers.items()):
    suffix = f'_seed_{seed}' if index else ''
    families[f'frechet_classifier{suffix}'] = classifier.features
  if not classifiers:
    flat = lambda images: pixels.to_unit(images).reshape(len(images), -1)
    mean, components = frechet.fit_components(flat(test), _NUM_COMPONENTS)
    families['frechet_pca'] = lambda images: frechet.project(
      flat(images), mean, components
    )
  return families


def _evenly_spaced(rows: np.ndarray, count: int) -> np.ndarray:
  """Returns at most `count` of the rows [N, ...], evenly spaced."""
  if len(rows) <= count:
    return rows
  return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def latent_measures(
  latents: Mapping[str, np.ndarray],
  other_aggregate: np.ndarray,
  train: base.Posterior,
  key: Array,
) -> dict[str, float | str]:
  """Measures the distance of each source from the aggregate posterior.

  The number of active units is measured too.

  Args:
    latents: A dict from source to [N, D]; it must have 'aggregate' and
      'generator'.
    other_aggregate: Draws of the aggregate posterior from other images, shape
      [M, D]; M may be 0.
    train: Posteriors of L training images.
    key: PRNG key of the random projections.

  Returns:
    The results.
  """
  aggregate = latents['aggregate']
  active_units = latent.active_units(train.mean, train.mean_variance)
  results: dict[str, float | str] = {
    'latent/active_units': int(active_units),
    **cautions.results_of({'latent': [cautions.of_few_images(len(aggregate))]}),
  }
  if len(other_aggregate):
    results['latent/sliced_wasserstein_aggregate'] = float(
      latent.sliced_wasserstein(
        aggregate, other_aggregate, key, _NUM_PROJECTIONS
      )
    )
  for name in names.METRICS['latent/mmd_{source}'].sources:
    z = latents.get(name)
    if z is None:
      continue
    results[f'latent/mmd_{name}'] = float(latent.mmd(aggregate, z))
    results[f'latent/sliced_wasserstein_{name}'] = float(
      latent.sliced_wasserstein(aggregate, z, key, _NUM_PROJECTIONS)
    )
  distributions = [name for name in latents if name != 'reconstruction']
  for name in distributions:
    # for the aggregate itself, other draws are used
    z = other_aggregate if name == 'aggregate' else latents[name]
    if len(z):
      results[f'latent/missed_share_{name}'] = latent.missed_share(aggregate, z)
  if train.logvar is not None:
    discrepancy_fn = jax.jit(_stein_discrepancy)
    for name in distributions:
      points = _evenly_spaced(latents[name], _STEIN_POINTS)
      results[f'latent/ksd_{name}'] = float(
        discrepancy_fn(points, train.mean, train.logvar)
      )
  return results


def registered_measures(sources: Any) -> dict[str, float | None]:
  """Measures the metrics that were registered from outside this package.

  Args:
    sources: The `sources.Sources` of the checkpoint.

  Returns:
    The results; None where a metric does not apply.
  """
  results = {}
  for metric in names.METRICS.values():
    if metric.measure_fn is None:
      continue
    values = metric.measure_fn(sources)
    if not isinstance(values, Mapping):  # one number, not one for each source
      values = {'': values}
    for source, value in values.items():
      name = metric.name.replace('{source}', source)
      results[name] = None if value is None else float(value)
  return results


def _frechet(
  features: Mapping[str, np.ndarray],
  reference: tuple[np.ndarray, np.ndarray],
) -> dict[str, float]:
  """Returns Frechet distances of all sources from the reference's moments."""
  return {
    name: frechet.frechet_from_moments(*frechet.moments(own), *reference)
    for name, own in features.items()
  }


def _over_draws(
  family: str, draws: Sequence[Mapping[str, float]]
) -> dict[str, float]:
  """Returns means and, for sources with several draws, standard deviations."""
  results = {}
  for name in draws[0]:
    values = [draw[name] for draw in draws if name in draw]
    results[f'{family}/{name}'] = float(np.mean(values))
    if len(values) > 1:
      std = float(np.std(values, ddof=1))
      results[f'{family}_deviation/{name}'] = std
  return results


def _kid(
  family: str, features: Mapping[str, np.ndarray], reference: np.ndarray
) -> dict[str, float]:
  """Returns kernel distances of all sources from the reference's features."""
  results = {}
  for name, own in features.items():
    distances = kid.kernel_distance(
      own,
      reference,
      num_subsets=_KID_SUBSETS,
      subset_size=_KID_SUBSET_SIZE,
      seed=0,
    )
    results[f'{family}/{name}'] = float(np.mean(distances))
  return results


def _prdc(fake: np.ndarray, real: np.ndarray) -> dict[str, float]:
  """Returns the fidelity and the diversity of the generator's features."""
  if min(len(real), len(fake)) <= _NUM_NEIGHBOURS:
    return {}
  with threadpoolctl.threadpool_limits(1, 'blas'):  # more would only wait
    values = neighbours.precision_recall_density_coverage(
      real, fake, _NUM_NEIGHBOURS
    )
  return {f'prdc/{name}': value for name, value in values.items()}


def _classes(probabilities: np.ndarray) -> dict[str, float]:
  """Returns the metrics of the class probabilities [N, Y] of samples."""
  return {
    'classifier/entropy': classes.mean_entropy(probabilities),
    'classifier/class_balance': classes.class_balance(probabilities),
  }


def _nearest_images(
  train: np.ndarray, samples: np.ndarray, test: np.ndarray
) -> dict[str, float]:
  """Returns median distances from the nearest training image.

  The unit is that of pixels in [0, 1].
  """
  flat = lambda images: images.reshape(len(images), -1)
  train = flat(train)
  results = {}
  for name, images in {'generator': samples, 'test': test}.items():
    chosen = flat(_evenly_spaced(images, _NEAREST_IMAGES))
    distances = neighbours.nearest_distances(chosen, train)
    results[f'nearest/train_{name}'] = float(np.median(distances)) / 255.0
  return results


def _stein_discrepancy(points: Array, means: Array, logvars: Array) -> Array:
  """Returns the discrepancy of points [n, D] and a mixture of L posteriors."""
  scores = stein.mixture_score(points, means, logvars)
  return stein.kernel_stein_discrepancy(points, scores, _STEIN_SCALE)
