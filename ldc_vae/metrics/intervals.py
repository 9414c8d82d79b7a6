"""The spread of a number over seeds, and of differences paired by seed."""

from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple

import numpy as np
from scipy import stats


class Difference(NamedTuple):
  """A mean difference paired by seed.

  Attributes:
    mean: Of value - reference.
    low: Lower end of its interval; None of fewer than two pairs.
    high: Upper end.
    num_pairs: Seeds that both have.
  """

  mean: float
  low: float | None
  high: float | None
  num_pairs: int


def mean(values: Sequence[float]) -> float | None:
  """The mean; None of no values."""
  return float(np.mean(values)) if len(values) else None


def standard_deviation(values: Sequence[float]) -> float | None:
  """sqrt(sum (x - mean x)^2 / (n - 1)); None of fewer than two values."""
  return float(np.std(values, ddof=1)) if len(values) > 1 else None


def standard_error(values: Sequence[float]) -> float | None:
  """Of the mean: the standard deviation / sqrt(n); None of one value."""
  deviation = standard_deviation(values)
  return None if deviation is None else deviation / math.sqrt(len(values))


def paired_difference(
    values: Mapping[int, float],
    reference: Mapping[int, float],
    confidence: float,
) -> Difference | None:
  """The mean of value - reference over common seeds, with its t interval.

  mean d ± t * s / sqrt(n), with s the standard deviation of the n differences
  d and t the quantile (1 + confidence) / 2 of Student's law with n - 1 degrees
  of freedom (Student 1908).

  Args:
    values: Seed -> value.
    reference: Seed -> value of what it is compared with.
    confidence: Of the interval, as 0.95.

  Returns:
    The difference; None where no seed is common.
  """
  seeds = [seed for seed in values if seed in reference]
  if not seeds:
    return None
  differences = [values[seed] - reference[seed] for seed in seeds]
  centre, error = mean(differences), standard_error(differences)
  if error is None:
    return Difference(centre, None, None, 1)
  quantile = stats.t.ppf((1.0 + confidence) / 2.0, len(seeds) - 1)
  half = float(quantile) * error
  return Difference(centre, centre - half, centre + half, len(seeds))
