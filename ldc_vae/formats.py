"""Which values are numbers, and how numbers are written."""

import numbers
import sys
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
  """Whether a value is a finite real number."""
  is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return is_real and abs(value) <= sys.float_info.max


def format_number(value: float, *, digits: int = 3, sign: str = '') -> str:
  """Writes a finite number with few digits and no needless exponent.

  Args:
    value: The number.
    digits: Significant digits.
    sign: '+' to write the sign of positive numbers.
  """
  scientific = f'{value:{sign}.{digits - 1}e}'
  exponent = int(scientific.partition('e')[2])  # after rounding
  if value == 0.0:
    return '0'
  if not -4 <= exponent < 6:
    return scientific
  return f'{value:{sign},.{max(digits - 1 - exponent, 0)}f}'
