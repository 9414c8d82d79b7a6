"""The fixed split of a data set: images are permuted once, then cut.

A source without an official split orders its images by `permutation` and cuts
them with `cut`. The seed of a run has no influence on either.
"""

import numpy as np

NAMES = ('train', 'validation', 'test')
SPELLINGS = {
  'train': 'train',
  'training': 'train',
  'val': 'validation',
  'valid': 'validation',
  'validation': 'validation',
  'dev': 'validation',
  'test': 'test',
  'testing': 'test',
}


def permutation(num_images: int, seed: int) -> np.ndarray:
  """Returns the fixed order of a set's images before the set is cut.

  Args:
    num_images: N.
    seed: The seed of the split, at least 0.

  Returns:
    int64, shape [N]; element i is the number of the image at position i.

  Raises:
    ValueError: The seed is negative.
  """
  return np.random.default_rng(seed).permutation(num_images)


def order(sizes: np.ndarray, seed: int) -> np.ndarray:
  """Returns a permutation that keeps the parts of a source in their places.

  Args:
    sizes: The numbers of images that the source gives for each of `NAMES`, in
      this order; they add up to N.
    seed: As in `permutation`.

  Returns:
    int64, shape [N]; it permutes the images inside of each part.
  """
  images = permutation(int(np.sum(sizes)), seed)
  part = np.repeat(np.arange(len(sizes)), sizes)
  return images[np.argsort(part[images], kind='stable')]


def cut(
  array: np.ndarray, num_validation: int, num_test: int
) -> dict[str, np.ndarray]:
  """Cuts a permuted array into train, validation and test, in this order.

  Args:
    array: Images or labels, shape [N, ...].
    num_validation: V, the number of validation images.
    num_test: T, the number of test images, with V + T <= N.

  Returns:
    A dict from 'train', 'validation' and 'test' to views of shapes
    [N - V - T, ...], [V, ...] and [T, ...].
  """
  num_images = len(array)
  num_train = num_images - num_validation - num_test
  return {
    'train': array[:num_train],
    'validation': array[num_train : num_train + num_validation],
    'test': array[num_train + num_validation :],
  }
