"""What a classifier says about a set of images.

Letters: n images, Y classes.
"""

import chex
import numpy as np


def mean_entropy(probabilities: chex.Array) -> float:
  """Mean entropy of p(y|x): how unsure a classifier is of single images.

  Args:
    probabilities: Shape [n, Y], rows sum to 1.

  Returns:
    Nats in [0, log Y]; 0 where every image has a certain class.
  """
  return float(np.mean(_entropy(_check(probabilities))))


def class_balance(probabilities: chex.Array) -> float:
  """exp(H(mean p(y|x))) / Y: the effective share of the classes that occur.

  With `mean_entropy` it gives the two terms of the inception score, Salimans et
  al. (2016), https://arxiv.org/abs/1606.03498: log IS = log(Y balance) - mean
  entropy.

  Args:
    probabilities: Shape [n, Y], rows sum to 1.

  Returns:
    A number in [1 / Y, 1]: 1 where all classes are equally frequent, j / Y
    where j of them are and the others do not occur.
  """
  probabilities = _check(probabilities)
  marginal = np.mean(probabilities, axis=0)
  return float(np.exp(_entropy(marginal)) / len(marginal))


def _entropy(probabilities: np.ndarray) -> np.ndarray:
  """-sum p log p over the last axis, 0 log 0 = 0."""
  logs = np.log(np.where(probabilities > 0.0, probabilities, 1.0))
  return -np.sum(probabilities * logs, axis=-1)


def _check(probabilities: chex.Array) -> np.ndarray:
  """The probabilities [n, Y] in float64, n and Y at least 1."""
  probabilities = np.asarray(probabilities, np.float64)
  chex.assert_rank(probabilities, 2)
  if not probabilities.size:
    raise ValueError(
        f'probabilities of shape {probabilities.shape} are of no image'
    )
  return probabilities
