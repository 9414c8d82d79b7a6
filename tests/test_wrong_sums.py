"""Tests that no jaxlib is used in a way in which it is known to be wrong."""

from importlib import metadata
import os
import subprocess
import sys

from absl.testing import absltest

import ldc_vae
from ldc_vae.runtime import provenance

# https://github.com/jax-ml/jax/issues/39103: sums of some rows were wrong.
_SUM = """
import ldc_vae
import jax
import jax.numpy as jnp
import numpy as np

def squares(x):
  return jax.vmap(lambda row: jnp.sum(jnp.square(jnp.eye(3) @ row)))(x)

for num in (32_769, 40_000):
  x = np.zeros((num, 3), np.float32)
  x[:, 0] = np.arange(num)
  found = jax.jit(squares)(x)
  np.testing.assert_allclose(found, np.square(x[:, 0]), rtol=1e-6)
"""

# https://github.com/jax-ml/jax/issues/39257: it crashed.
_RANK_7 = """
import ldc_vae
import jax
import jax.numpy as jnp
import numpy as np

x, y = np.random.default_rng(0).normal(size=(2, 3, 1, 2, 2, 8, 8, 8))
found = jax.jit(lambda x, y: jnp.sum(x * y, axis=3))(x, y)
np.testing.assert_allclose(found, np.sum(x * y, axis=3), atol=1e-5)
"""

_LATE = """
import jax
jax.devices()
import ldc_vae
"""

_FLAGS = """
import os
import ldc_vae
print(os.environ.get('XLA_FLAGS'))
"""


def _run(program, flags=''):
  env = dict(os.environ, XLA_FLAGS=flags, JAX_PLATFORMS='cpu')
  return subprocess.run(
    (sys.executable, '-c', program),
    capture_output=True,
    text=True,
    check=False,
    cwd=provenance.ROOT,
    env=env,
  )


class WrongSumsTest(absltest.TestCase):
  def test_a_product_and_its_sum_are_right(self):
    done = _run(_SUM)
    self.assertEqual(done.returncode, 0, done.stderr)

  def test_a_sum_of_seven_axes_does_not_crash(self):
    done = _run(_RANK_7)
    self.assertEqual(done.returncode, 0, done.stderr)

  def test_it_warns_where_the_flag_comes_too_late(self):
    affected = metadata.version('jaxlib') in ldc_vae._WRONG_JAXLIBS
    done = _run(_LATE)
    self.assertEqual('import ldc_vae first' in done.stderr, affected)
    self.assertNotIn('import ldc_vae first', _run(_FLAGS).stderr)

  def test_flags_of_the_user_are_kept(self):
    own = '--xla_cpu_experimental_ynn_fusion_type='
    self.assertEqual(_run(_FLAGS, own).stdout.strip(), own)
    other = '--xla_force_host_platform_device_count=2'
    self.assertIn(other, _run(_FLAGS, other).stdout)


if __name__ == '__main__':
  absltest.main()
