"""Shapes and extreme values for tests of properties, and their settings."""

import hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np

# The same few examples each time, because each new shape is compiled.
_settings = hypothesis.settings(
  derandomize=True,
  deadline=None,
  database=None,
  max_examples=8,
  suppress_health_check=list(hypothesis.HealthCheck),
)

NUMBERS = st.floats(-4.0, 4.0, width=32)
EXTREMES = st.sampled_from([0.0, 1e-30, 1.0, -1.0, 88.0, -88.0, 1e4, -1e4])


def arrays(shape, elements=NUMBERS):
  """Arrays of a shape, float32."""
  return hnp.arrays(np.float32, shape, elements=elements)


@st.composite
def sets(draw, least=1):
  """Particles and as many scores, [n, D] of a few shapes."""
  shapes = [x for x in ((1, 3), (2, 1), (5, 3)) if x[0] >= least]
  n, dim = draw(st.sampled_from(shapes))
  return draw(arrays((n, dim))), draw(arrays((n, dim)))


def with_nan(x):
  """A copy of x with one NaN, in its middle."""
  x = np.array(x)
  x.flat[x.size // 2] = np.nan
  return x


def given(*strategies):
  """`hypothesis.given` with this file's settings."""
  return lambda test: _settings(hypothesis.given(*strategies)(test))
