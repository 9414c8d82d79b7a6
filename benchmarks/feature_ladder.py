"""Whether distances in features rise step by step as images get worse.

python -m benchmarks.feature_ladder --output=runs/feature_ladder.json

Validation images of CIFAR-10 are made worse in five ways, three steps each, and
compared with the test split: by the feature classifier of this project and by
the network that others trained on ImageNet. A feature that does not see a step
cannot rank methods by it. The extra `imagenet` has the weights; --features
chooses one of the two.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks import common
from ldc_vae.data import datasets
from ldc_vae.evaluation import classifier as classifier_lib
from ldc_vae.evaluation import imagenet
from ldc_vae.metrics import frechet

FeaturesFn = Callable[[np.ndarray], np.ndarray]
FEATURES = ('classifier', 'imagenet')


def blur(images, labels, level, rng):
  """A Gaussian filter; the level is its standard deviation in pixels."""
  del labels, rng
  return ndimage.gaussian_filter(images, (0, level, level, 0))


def noise(images, labels, level, rng):
  """Normal noise; the level is its standard deviation in grey levels."""
  del labels
  return images + level * rng.normal(size=images.shape)


def colour(images, labels, level, rng):
  """A share of each colour comes from the next channel."""
  del labels, rng
  return (1.0 - level) * images + level * np.roll(images, 1, axis=-1)


def mix(images, labels, level, rng):
  """A share of each image comes from an image of another class."""
  others = rng.permutation(len(images))
  same = labels[others] == labels
  while same.any():  # a few are drawn again until none is left
    others[same] = rng.integers(len(images), size=same.sum())
    same = labels[others] == labels
  return (1.0 - level) * images + level * images[others]


def one_class(images, labels, level, rng):
  """A share of the images is replaced by images of the first class."""
  replaced = np.arange(len(images)) < level * len(images)
  chosen = rng.choice(np.flatnonzero(labels == 0), size=replaced.sum())
  images = images.copy()
  images[replaced] = images[chosen]
  return images


# name -> (function, levels from good to bad)
DAMAGES = {
  'blur': (blur, (0.5, 1.0, 2.0)),
  'noise': (noise, (8, 16, 32)),
  'colour': (colour, (0.1, 0.25, 0.5)),
  'mix': (mix, (0.1, 0.2, 0.4)),
  'one_class': (one_class, (0.1, 0.25, 0.5)),
}


def distances(
  images: np.ndarray,
  labels: np.ndarray,
  reference: np.ndarray,
  features_fn: FeaturesFn,
) -> dict[str, list[float]]:
  """Returns the Frechet distances of damaged images, from good to bad.

  Args:
    images: uint8 [N, H, W, C].
    labels: Their classes, int32 [N].
    reference: uint8 [M, H, W, C].
    features_fn: Maps uint8 images to features [N, F].

  Returns:
    A dict from the damage to the distances, the first without any damage.
  """
  moments = frechet.moments(features_fn(reference))
  distance_fn = lambda x: frechet.frechet_from_moments(
    *frechet.moments(features_fn(x)), *moments
  )
  clean = distance_fn(images)
  found = {}
  for name, (damage_fn, levels) in DAMAGES.items():
    found[name] = [clean]
    for level in levels:
      rng = np.random.default_rng(0)
      worse = damage_fn(images.astype(np.float32), labels, level, rng)
      grey = np.round(worse.clip(0, 255)).astype(np.uint8)
      found[name].append(distance_fn(grey))
  return found


def rises(steps: Sequence[float]) -> bool:
  """Returns whether each step is larger than the one before."""
  return all(a < b for a, b in zip(steps, steps[1:]))


def main(argv: Sequence[str]) -> int:
  """Measures, prints the table and writes it with the JSON file."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data_dir', default='', help='prepared TFDS data')
  parser.add_argument('--images', type=common.positive, default=2560)
  parser.add_argument('--features', type=common.names, default=FEATURES)
  parser.add_argument('--output', default='')
  args = common.parse_args(parser, argv)
  common.choose('features', args.features, FEATURES, required=True)
  common.set_up_jax()
  if 'imagenet' in args.features:
    imagenet.require()
  dataset = datasets.load(
    'cifar10', data_dir=args.data_dir, num_validation=5_000
  )
  record = common.create_record('benchmarks.feature_ladder', argv, seeds=[0])
  record['images'] = args.images
  record['rows'] = []
  for features in args.features:
    if features == 'imagenet':
      features_fn, protocol = imagenet.load(), imagenet.PROTOCOL
    else:
      classifier = classifier_lib.load_or_train(dataset, seed=0)
      features_fn, protocol = classifier.features, classifier.describe()
    found = distances(
      dataset.images['validation'][: args.images],
      dataset.labels['validation'][: args.images],
      dataset.images['test'][: args.images],
      features_fn,
    )
    record[features] = protocol
    record['rows'] += [
      {'features': features, 'damage': name, 'distances': steps}
      for name, steps in found.items()
    ]
  text = to_markdown(record)
  print(text)
  if args.output:
    common.write(args.output, record, text)
  return 0


def to_markdown(record: Mapping[str, Any]) -> str:
  """The table of a record."""
  lines = [
    '| features | damage | levels | none | first | second | third | rises |',
    '|---' * 8 + '|',
  ]
  for row in record['rows']:
    levels = ', '.join(f'{x:g}' for x in DAMAGES[row['damage']][1])
    steps = ' | '.join(map(common.show, row['distances']))
    verdict = 'yes' if rises(row['distances']) else 'no'
    lines.append(
      f'| {row["features"]} | {row["damage"]} | {levels} | {steps} |'
      f' {verdict} |'
    )
  lines += ['', f'{record["images"]} images of each set.', '']
  return '\n'.join(lines)


if __name__ == '__main__':
  common.run(main)
