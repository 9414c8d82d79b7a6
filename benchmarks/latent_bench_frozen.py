"""Sets of real latents: of trained runs, and principal components of images.

Letters: N training images, n latents, D latent size.
"""

from collections.abc import Callable
import pathlib

from absl import logging
import jax
import numpy as np

from benchmarks import common
from benchmarks import latent_bench_sets
from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import run as run_lib
from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier as classifier_lib
from ldc_vae.evaluation import sources as sources_lib
from ldc_vae.metrics import frechet
from ldc_vae.metrics import stein

_NUM_COMPONENTS = 64  # of the images
_FITTED = 10_000  # images whose components they are


def load_run(
  workdir: str,
  *,
  data_dir: str,
  num_train: int,
  classifier_seed: int,
) -> latent_bench_sets.LatentSet:
  """The aggregate posterior of a run's latest checkpoint.

  A sampler is fitted to one draw of each training image; fresh draws and their
  reference are other draws, of one half of the training images each. Images
  are compared with the *validation* split: choices are never made on the test
  split.

  Args:
    workdir: The workdir of a trained run.
    data_dir: Instead of that in the run's config; '' for that.
    num_train: At most, of the training images.
    classifier_seed: The seed of the feature classifier.

  Returns:
    The set, named as the workdir.
  """
  config = config_lib.read(workdir)
  if data_dir:
    config = config_lib.override(config, {'dataset.data_dir': data_dir})
  experiment = experiment_lib.create(config)
  trained = run_lib.restore_without_data(config, workdir, 'latest')
  apply = sources_lib.Networks(trained)
  images = experiment.dataset.images
  keys = jax.random.split(
    jax.random.fold_in(experiment.key, 2**31 + 4),
    2,  # no step has it
  )
  posteriors = apply.encode(images['train'], keys[0])
  again = apply.encode(images['train'], keys[1]).z
  logging.info('%s: step %d, encoded', workdir, trained.step)
  score_fn = None
  if posteriors.logvar is not None:
    mixture_score = jax.jit(stein.mixture_score)
    score_fn = lambda z: np.asarray(
      mixture_score(z, posteriors.mean, posteriors.logvar)
    )
  classifier = classifier_lib.load_or_train(
    experiment.dataset, seed=classifier_seed
  )
  half = len(again) // 2
  order = np.random.default_rng(0).permutation(len(again))
  path = pathlib.Path(workdir)
  return latent_bench_sets.LatentSet(
    path.name,
    train_fn=lambda rng: _choose(posteriors.z, num_train, rng),
    fresh_fn=lambda num, rng: _choose(again[order[:half]], num, rng),
    reference_fn=lambda num, rng: _choose(again[order[half:]], num, rng),
    score_fn=score_fn,
    images_fn=make_images_fn(
      apply.decode,
      classifier.features,
      lambda x: classifier.probabilities(x).argmax(axis=1),
      images['validation'],
      experiment.dataset.num_classes,
    ),
    git_commit=common.commit_of(path),
  )


def make_images_fn(
  decode_fn: Callable[[np.ndarray], np.ndarray],
  features_fn: Callable[[np.ndarray], np.ndarray],
  classes_fn: Callable[[np.ndarray], np.ndarray],
  real: np.ndarray,
  num_classes: int,
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
  """Returns a function that compares decoded latents with real images.

  Args:
    decode_fn: Latents [n, D] to images.
    features_fn: Images to features [n, F].
    classes_fn: Images to classes 0, ..., num_classes - 1, [n].
    real: Images; at most as many latents are decoded, as the distance is biased
      by counts.
    num_classes: The number of classes of the real images.

  Returns:
    Latents [n, D] -> the Frechet distance of the features, and the share of
    each class in units of the real share, [num_classes].
  """
  moments = frechet.moments(features_fn(real))
  shares_fn = lambda images: (
    np.bincount(classes_fn(images), minlength=num_classes) / len(images)
  )
  real_shares = np.maximum(shares_fn(real), 1.0 / len(real))

  def compare(z: np.ndarray) -> tuple[float, np.ndarray]:
    images = decode_fn(np.asarray(z[: len(real)], np.float32))
    own = frechet.moments(features_fn(images))
    distance = frechet.frechet_from_moments(*own, *moments)
    return distance, shares_fn(images) / real_shares

  return compare


def load_components(
  name: str, *, data_dir: str, num_train: int
) -> latent_bench_sets.LatentSet:
  """The first 64 principal components of a data set's images.

  They are scaled together, to a mean variance of 1. A sampler is fitted to the
  training split; the reference are images of the other two splits.

  Args:
    name: The name of the data set, as 'cifar10'.
    data_dir: The folder of prepared data; '' for the default.
    num_train: At most, of the training images.

  Returns:
    The set, named as 'cifar10_pca'.
  """
  images = datasets.load(name, data_dir=data_dir).images
  train, validation, test = (
    images[split].reshape(len(images[split]), -1)
    for split in ('train', 'validation', 'test')
  )
  # in float64 all images are gigabytes, and so many tell the components
  rows = np.linspace(0, len(train) - 1, min(_FITTED, len(train))).astype(int)
  mean, components = frechet.fit_components(train[rows], _NUM_COMPONENTS)
  train, validation, test = (
    np.concatenate(
      [
        frechet.project(x[start : start + _FITTED], mean, components)
        for start in range(0, len(x), _FITTED)
      ]
    )
    for x in (train, validation, test)
  )
  scale = np.sqrt(np.mean(np.var(train, axis=0)))
  train = (train / scale).astype(np.float32)
  held_out = (np.concatenate([validation, test]) / scale).astype(np.float32)
  return latent_bench_sets.LatentSet(
    f'{name}_pca',
    train_fn=lambda rng: _choose(train, num_train, rng),
    fresh_fn=lambda num, rng: _choose(train, num, rng),
    reference_fn=lambda num, rng: _choose(held_out, num, rng),
  )


def _choose(z: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
  """At most `num` rows, none twice."""
  return z[rng.permutation(len(z))[:num]]
