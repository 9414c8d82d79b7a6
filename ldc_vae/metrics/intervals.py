"""Means over seeds, their standard errors, and differences paired by seed."""

from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
  """A mean difference paired by seed.

  Attributes:
    mean: Mean of value - reference.
    low: Lower end of its confidence interval; None with fewer than two pairs.
    high: Upper end of the interval, or None.
    num_pairs: The number of seeds that both sides have.
  """

  mean: float
  low: float | None
  high: float | None
  num_pairs: int


def mean(values: Sequence[float]) -> float | None:
  """Returns the mean; None if there are no values."""
  return float(np.mean(values)) if len(values) else None


def standard_deviation(values: Sequence[float]) -> float | None:
  """Returns sqrt(sum (x - mean x)^2 / (n - 1)); None if n is less than 2."""
  return float(np.std(values, ddof=1)) if len(values) > 1 else None


def standard_error(values: Sequence[float]) -> float | None:
  """Returns the standard deviation / sqrt(n); None if n is less than 2."""
  std = standard_deviation(values)
  return None if std is None else std / math.sqrt(len(values))


def paired_difference(
  values: Mapping[int, float],
  reference: Mapping[int, float],
  confidence: float,
) -> Difference | None:
  """Returns the mean of value - reference over common seeds, with an interval.

  The interval is mean d ± t * s / sqrt(n). Here s is the standard deviation of
  the n differences d. t is the quantile (1 + confidence) / 2 of Student's
  distribution with n - 1 degrees of freedom (Student 1908).

  Args:
    values: A dict from seed to value.
    reference: A dict from seed to the value to compare with.
    confidence: The confidence of the interval, for example 0.95.

  Returns:
    The difference; None if no seed is common.
  """
  seeds = [seed for seed in values if seed in reference]
  if not seeds:
    return None
  differences = [values[seed] - reference[seed] for seed in seeds]
  centre = float(np.mean(differences))
  error = standard_error(differences)
  if error is None:
    return Difference(centre, None, None, 1)
  quantile = stats.t.ppf((1.0 + confidence) / 2.0, len(seeds) - 1)
  half = float(quantile) * error
  return Difference(centre, centre - half, centre + half, len(seeds))
