"""What an evaluation measures on images and on latents.

Each function returns names of results.json; what does not apply is left out.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

from absl import logging
import jax
from ml_collections import config_dict
import numpy as np

from ldc_vae import names
from ldc_vae import run as run_lib
from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier as classifier_lib
from ldc_vae.evaluation import inception
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

_NUM_COMPONENTS = 64  # of the pixels, for data without labels
_KID_SUBSETS, _KID_SUBSET_SIZE = 100, 1000  # of Binkowski et al.'s code
_NUM_NEIGHBOURS = 5  # of Naeem et al.'s code
_NEAREST_IMAGES = 1000  # whose nearest training images are sought
_NUM_PROJECTIONS = 512  # of the sliced Wasserstein distance
_STEIN_POINTS = 2000  # of a Stein discrepancy: all pairs of them
_STEIN_SCALE = 1.0  # c of its kernel, the prior's standard deviation


def protocol(
    config: config_dict.ConfigDict,
    num_samples: int,
    num_test: int,
    dataset: datasets.Dataset,
) -> dict[str, str]:
  """How the numbers come about, in words.

  Args:
    config: The run's config.
    num_samples: Images of each source.
    num_test: Images of the reference.
    dataset: The data.

  Returns:
    The results 'protocol/...'.
  """
  results = {
      'protocol/evaluate': run_lib.describe_evaluation(config),
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
      'protocol/data': datasets.describe(dataset),
  }
  num_train = len(dataset.images['train'])
  if num_train < num_samples:
    results['protocol/distances'] += (
        f'; of real and aggregate {num_train}, all training images'
    )
    logging.warning(
        'distances of real and aggregate are of %d images, those of other'
        ' sources of %d: do not compare them',
        num_train,
        num_samples,
    )
  if config.evaluate.num_draws > 1:
    results['protocol/distances'] += (
        f'; Frechet distances are means over {config.evaluate.num_draws} such'
        ' sets of each latent source, *_deviation/* is between them'
    )
  if config.evaluate.inception:
    results['protocol/inception'] = inception.PROTOCOL
  return results


def image_measures(
    config: config_dict.ConfigDict,
    dataset: datasets.Dataset,
    images: Mapping[str, np.ndarray],
    inception_fn: FeaturesFn | None = None,
    redraw_fn: RedrawFn | None = None,
) -> dict[str, float | str]:
  """Compares the images of all sources with those of `evaluate.split`.

  Of each source as many as `evaluate.num_samples`, evenly spaced where there
  are more: a distance falls with the number of images.

  Args:
    config: The run's config.
    dataset: With the split 'train' and that of the reference.
    images: Source -> uint8 [N, H, W, C]; with 'generator'.
    inception_fn: Features of the Inception network, if they are wanted.
    redraw_fn: Maps 1, 2, ... to images as `images`, of latents drawn anew; read
      where `evaluate.num_draws` is more than 1.

  Returns:
    Frechet and kernel distances of each source; of the generator also
    fidelity and diversity, predicted classes, nearest training images. Frechet
    distances are means over `evaluate.num_draws`, all else is of `images`.
    'protocol/judge' says by which classifiers.
  """
  test = dataset.images[config.evaluate.split]
  at_most = functools.partial(_evenly, count=config.evaluate.num_samples)
  images = {name: at_most(each) for name, each in images.items()}
  train = dataset.images['train']
  results: dict[str, float | str] = {
      **_nearest_images(train, images['generator'], test)
  }
  judges = {}
  if dataset.num_classes:
    for seed in config.evaluate.classifier_seeds:
      judges[seed] = classifier_lib.load_or_train(dataset, seed=seed)
      logging.info(
          'feature classifier, seed %d: test accuracy %.4f',
          seed,
          judges[seed].test_accuracy,
      )
    # where it is trained again, on other cores say, it is another one
    results['protocol/judge'] = '; '.join(
        f'seed {seed}: {judge.describe()}' for seed, judge in judges.items()
    )
    first, *_ = judges.values()
    results.update(_classes(first.probabilities(images['generator'])))
  features_fns = _feature_families(judges, test, inception_fn)
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
      if index:  # all else is of the first draw
        continue
      reference = references[family]
      if family == 'frechet_classifier':
        results.update(_kid('kid_classifier', features, reference))
      if family in ('frechet_classifier', 'frechet_pca'):
        results.update(_prdc(features['generator'], reference))
  for family, draws in distances.items():
    results.update(_over_draws(family, draws))
  return results


def _feature_families(
    judges: Mapping[int, classifier_lib.Classifier],
    test: np.ndarray,
    inception_fn: FeaturesFn | None,
) -> dict[str, FeaturesFn]:
  """The features that images are compared in, by the name of the distance."""
  families = {}
  if inception_fn is not None:
    families['frechet_inception'] = inception_fn
  for index, (seed, judge) in enumerate(judges.items()):
    suffix = f'_seed_{seed}' if index else ''
    families[f'frechet_classifier{suffix}'] = judge.features
  if not judges:
    flat = lambda images: images.reshape(len(images), -1) / np.float32(255)
    mean, components = frechet.fit_components(flat(test), _NUM_COMPONENTS)
    families['frechet_pca'] = lambda images: frechet.project(
        flat(images), mean, components
    )
  return families


def _evenly(images: np.ndarray, count: int) -> np.ndarray:
  """At most `count` of images [N, ...], evenly spaced."""
  if len(images) <= count:
    return images
  return images[np.linspace(0, len(images) - 1, count).astype(np.int64)]


def latent_measures(
    latents: Mapping[str, np.ndarray],
    other_aggregate: np.ndarray,
    train: base.Posterior,
    key: Array,
) -> dict[str, float]:
  """Distances of latent laws from the aggregate posterior; active units.

  Args:
    latents: Source -> [N, D]; with 'aggregate' and 'generator'.
    other_aggregate: Draws of it from other images, shape [M, D]; M may be 0.
    train: Posteriors of L training images.
    key: Of random projections.

  Returns:
    The results.
  """
  aggregate = latents['aggregate']
  active_units = latent.active_units(train.mean, train.mean_variance)
  results: dict[str, float] = {'latent/active_units': int(active_units)}
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
    # the aggregate's own share is that of other draws of it
    z = other_aggregate if name == 'aggregate' else latents[name]
    if len(z):
      results[f'latent/missed_share_{name}'] = latent.missed_share(aggregate, z)
  if train.logvar is not None:
    discrepancy_fn = jax.jit(_stein_discrepancy)
    for name in distributions:
      points = _spread(latents[name], _STEIN_POINTS)
      results[f'latent/ksd_{name}'] = float(
          discrepancy_fn(points, train.mean, train.logvar)
      )
  return results


def registered_measures(sources: Any) -> dict[str, float | None]:
  """Measures the metrics that were registered from outside of this package.

  Args:
    sources: From `evaluate.make_sources`.

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
  """Frechet distances of all sources from the reference's moments."""
  return {
      name: frechet.frechet_from_moments(*frechet.moments(own), *reference)
      for name, own in features.items()
  }


def _over_draws(
    family: str, draws: Sequence[Mapping[str, float]]
) -> dict[str, float]:
  """Means over draws, and where a source has several their deviations."""
  results = {}
  for name in draws[0]:
    values = [draw[name] for draw in draws if name in draw]
    results[f'{family}/{name}'] = float(np.mean(values))
    if len(values) > 1:
      deviation = float(np.std(values, ddof=1))
      results[f'{family}_deviation/{name}'] = deviation
  return results


def _kid(
    family: str, features: Mapping[str, np.ndarray], reference: np.ndarray
) -> dict[str, float]:
  """Kernel distances of all sources from the features of the reference."""
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
  """Fidelity and diversity of the generator's features."""
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
