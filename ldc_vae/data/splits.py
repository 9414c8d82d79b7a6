"""The fixed split of a data set: images are permuted once, then cut.

A source that has no official split stores or reads its images in the order of
`permutation` and cuts them with `cut`. Neither depends on the seed of a run.
"""

import numpy as np


def permutation(num_images: int, seed: int) -> np.ndarray:
  """The fixed order of the images of a set before it is cut.

  Args:
    num_images: N.
    seed: Of the split, at least 0.

  Returns:
    int64, shape [N]; element i is the image that comes i-th.

  Raises:
    ValueError: The seed is negative.
  """
  return np.random.default_rng(seed).permutation(num_images)


def cut(
    array: np.ndarray, num_validation: int, num_test: int
) -> dict[str, np.ndarray]:
  """Cuts a permuted array into train, validation and test, in this order.

  Args:
    array: Images or labels, shape [N, ...].
    num_validation: V.
    num_test: T, with V + T <= N.

  Returns:
    'train', 'validation', 'test' to views of shapes [N - V - T, ...], [V, ...]
    and [T, ...].
  """
  num_images = len(array)
  num_train = num_images - num_validation - num_test
  return {
      'train': array[:num_train],
      'validation': array[num_train : num_train + num_validation],
      'test': array[num_train + num_validation :],
  }
