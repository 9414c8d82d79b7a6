"""Cautions about numbers of an evaluation, and reasons for missing ones.

A caution is a sentence of results.json under `protocol/caution_FAMILY`. It
holds for every metric of the family, which tables and the report mark.
"""

from collections.abc import Iterator, Mapping, Sequence
import math
from typing import Any

from absl import logging
from ml_collections import config_dict
import numpy as np

from ldc_vae import experiment as experiment_lib
from ldc_vae import names
from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier as classifier_lib
from ldc_vae.evaluation import requirements
from ldc_vae.methods import base

_DEVIATIONS = 3.0  # of an accuracy that is above guessing
# With fewer images than this for each feature, a covariance is mostly noise;
# with no more than one it is singular.
_IMAGES_PER_FEATURE = 2
# Among fewer images, five neighbours are a large part of all, and a kernel
# distance deviates by more than most differences of methods.
_FEWEST_IMAGES = 100

# Beginnings of the names of metrics, by what they need.
_OF_SETS = ('frechet_', 'kid_', 'prdc/', 'classifier/', 'nearest/')
_OF_A_CLASSIFIER = ('frechet_classifier/', 'kid_classifier/', 'classifier/')
_OF_A_SECOND_DRAW = (
  'latent/sliced_wasserstein_aggregate',
  'latent/missed_share_aggregate',
)
_OF_A_DENSITY = (
  'latent/ksd_',
  'nll/elbo',
  'nll/importance',
  'nll/ais_importance',
)
# Fields of `config.evaluate` that are 0 where a metric is not asked for.
_SWITCHES = {
  'nll/ais': ('ais_chains', 'ais_images'),
  'nll/ais_importance': ('importance_samples',),
  'nll/elbo': ('importance_samples', 'num_nll_images'),
  'nll/importance': ('importance_samples', 'num_nll_images'),
}


def of_classifier(accuracy: float, labels: np.ndarray) -> str:
  """Returns a caution for a feature classifier at chance, or ''.

  Args:
    accuracy: Its accuracy on the test split.
    labels: The classes of the test split, shape [N].
  """
  share = np.bincount(labels).max() / len(labels)
  deviation = math.sqrt(share * (1.0 - share) / len(labels))
  if accuracy > share + _DEVIATIONS * deviation:
    return ''
  return (
    f'the test accuracy {accuracy:.3f} of the feature classifier cannot be told'
    f' from guessing the most frequent class ({share:.3f}), so its features'
    ' mean little; check the labels, or remove them to have frechet_pca'
  )


def of_few_images(num_images: int, num_features: int = 0) -> str:
  """Returns a caution for a measure of few images, or ''.

  Args:
    num_images: The number of images of the smallest set.
    num_features: The number of features whose covariance is taken; 0 if none
      is.
  """
  fewest = _IMAGES_PER_FEATURE * num_features or _FEWEST_IMAGES
  if num_images >= fewest:
    return ''
  what = f' for {num_features} features' if num_features else ''
  return (
    f'{num_images} images are too few{what}, so that chance decides; use'
    f' {fewest} or more (config.evaluate.num_samples and the test split)'
  )


def of_images(
  dataset: datasets.Dataset,
  classifiers: Mapping[int, classifier_lib.Classifier],
  num_images: int,
  num_features: Mapping[str, int],
) -> dict[str, str]:
  """Returns the cautions of `measures.image_measures`.

  Args:
    dataset: The data.
    classifiers: The feature classifiers by seed.
    num_images: The number of images of the smallest set.
    num_features: A dict from the family of a Frechet distance to its features.
  """
  chance = []
  if dataset.labels is not None:
    chance = [
      of_classifier(each.test_accuracy, dataset.labels['test'])
      for each in classifiers.values()
    ]
  few = of_few_images(num_images)
  reasons = {'prdc': [*chance[:1], few]}
  if chance:
    reasons['kid_classifier'] = reasons['classifier'] = reasons['prdc']
  of_classifiers = iter(chance)
  for family, num in num_features.items():
    reasons[family] = [of_few_images(num_images, num)]
    if family == 'frechet_imagenet':
      reasons['kid_imagenet'] = [few]
    if family.startswith('frechet_classifier'):
      reasons[family].append(next(of_classifiers))
  return results_of(reasons)


def results_of(reasons: Mapping[str, Sequence[str]]) -> dict[str, str]:
  """Returns cautions as results, and logs each.

  Args:
    reasons: A dict from the family of a metric to cautions; '' is none.
  """
  joined = {
    family: '; '.join(filter(None, each)) for family, each in reasons.items()
  }
  found = {family: why for family, why in joined.items() if why}
  for why in dict.fromkeys(found.values()):
    families = [family for family, each in found.items() if each == why]
    logging.warning('do not rely on %s: %s', ', '.join(families), why)
  return {f'{names.CAUTION}{family}': why for family, why in found.items()}


def not_measured(
  config: config_dict.ConfigDict,
  experiment: experiment_lib.Experiment,
  results: Mapping[str, Any],
) -> dict[str, str]:
  """Returns why measures are null, as the result 'protocol/not_measured'.

  Args:
    config: The run's config.
    experiment: The run.
    results: The results of all measures.
  """
  missing = {name for name, value in results.items() if value is None}
  reasons: dict[str, list[str]] = {}
  for prefix, why in _reasons(config, experiment):
    own = {name for name in missing if name.startswith(prefix)}
    measured = any(
      value is not None and name.startswith(prefix)
      for name, value in results.items()
    )
    if own and not measured:
      missing -= own
      reasons.setdefault(why, []).append(prefix.rstrip('/_'))
  text = '; '.join(
    f'{", ".join(prefixes)}: {why}' for why, prefixes in reasons.items()
  )
  return {'protocol/not_measured': text} if text else {}


def _reasons(
  config: config_dict.ConfigDict, experiment: experiment_lib.Experiment
) -> Iterator[tuple[str, str]]:
  """Yields beginnings of names and why these metrics are null, if they are."""
  options, dataset = config.evaluate, experiment.dataset
  encoder, log_prior = experiment.model.encoder, experiment.algorithm.log_prior
  num_images = len(dataset.images[options.split])
  if min(len(dataset.images['train']), num_images) < 2:
    for prefix in (*_OF_SETS, 'latent/'):
      yield prefix, 'one image has no distances'
  for name in requirements.NETWORKS:
    for prefix in (f'frechet_{name}/', f'kid_{name}/'):
      if not options[name]:
        yield prefix, f'config.evaluate.{name}=False'
  if dataset.num_classes:
    yield 'frechet_pca/', 'the data have labels to train a classifier on'
  else:
    for prefix in _OF_A_CLASSIFIER:
      yield prefix, 'the data have no labels'
  yield 'prdc/', f'{num_images} images have too few neighbours'
  for prefix in _OF_A_SECOND_DRAW:
    yield prefix, 'no training images are left for a second draw'
  for prefix, switches in _SWITCHES.items():
    for name in switches:
      if not options[name]:
        yield prefix, f'config.evaluate.{name}=0'
  if log_prior is None:
    yield 'nll/', "the method's prior has no density"
  elif log_prior is not base.normal_log_prior:
    yield 'nll/ais_gap', 'the prior is not N(0, I), which has exact draws'
  if encoder != 'gaussian':
    for prefix in _OF_A_DENSITY:
      yield prefix, f'encoder {encoder} has no density'
