"""Metrics of a classifier's predictions for a set of images.

Letters: n images, Y classes.
"""

import chex
import numpy as np


def mean_entropy(probabilities: chex.Array) -> float:
  """Returns the mean entropy of p(y|x): the classifier's mean uncertainty.

  Args:
    probabilities: Class probabilities, shape [n, Y]; rows sum to 1.

  Returns:
    Nats in [0, log Y]; 0 if each image has one class with probability 1.
  """
  return float(np.mean(_entropy(_check(probabilities))))


def class_balance(probabilities: chex.Array) -> float:
  """Returns exp(H(mean p(y|x))) / Y, the effective share of classes that occur.

  This number and `mean_entropy` give the inception score IS, Salimans et al.
  (2016), https://arxiv.org/abs/1606.03498: log IS = log(Y balance) - mean
  entropy.

  Args:
    probabilities: Class probabilities, shape [n, Y]; rows sum to 1.

  Returns:
    A number in [1 / Y, 1]. It is 1 if all classes are equally frequent, and
    j / Y if only j classes occur and these are equally frequent.
  """
  probabilities = _check(probabilities)
  marginal = np.mean(probabilities, axis=0)
  return float(np.exp(_entropy(marginal)) / len(marginal))


def _entropy(probabilities: np.ndarray) -> np.ndarray:
  """Returns -sum p log p over the last axis, with 0 log 0 = 0."""
  logs = np.log(np.where(probabilities > 0.0, probabilities, 1.0))
  return -np.sum(probabilities * logs, axis=-1)


def _check(probabilities: chex.Array) -> np.ndarray:
  """Returns the probabilities [n, Y] in float64; n and Y must not be 0."""
  probabilities = np.asarray(probabilities, np.float64)
  chex.assert_rank(probabilities, 2)
  if not probabilities.size:
    raise ValueError(
      f'probabilities have shape {probabilities.shape}: there is no image'
    )
  return probabilities
