"""XLA in tests: emulated devices, and programs that are compiled quickly.

Most programs of the tests run once or twice on small arrays, so that compiling
them is what takes time. Without LLVM's optimisations, and before jax 0.11
without the fusion emitters, it takes a sixth; the arithmetic is the same, up to
the rounding of fused operations. What runs for thousands of steps is
`optimised`. `.ci/run` trains with all optimisations, and so do all tests of

    LDC_VAE_TEST_OPTIMISED=1 bash launch/test.sh
"""

from collections.abc import Iterator
import contextlib
from importlib import metadata
import os
from unittest import mock

_QUICK = (
  '--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1'
)
# `compiler_options` of `jax.jit` for what runs long: XLA's own defaults.
OPTIMISED = {'xla_backend_optimization_level': 2}
# XLA ends the process at a flag that it does not know; 0.11 has no more of this
# one. The version is read without jax, which would start before its flags.
_JAXLIB = tuple(int(x) for x in metadata.version('jaxlib').split('.')[:2])
if _JAXLIB < (0, 11):
  _QUICK += ' --xla_cpu_use_fusion_emitters=false'
  OPTIMISED['xla_cpu_use_fusion_emitters'] = True


def xla_flags(num_devices: int) -> str:
  """A value of XLA_FLAGS for a process with some emulated devices."""
  devices = f'--xla_force_host_platform_device_count={num_devices}'
  if os.environ.get('LDC_VAE_TEST_OPTIMISED', '0') == '1':
    return devices
  return f'{_QUICK} {devices}'


@contextlib.contextmanager
def optimised(module, name: str, **kwargs) -> Iterator[None]:
  """Compiles a jitted function of a module as users do.

  Args:
    module: It is looked up there by its callers.
    name: The name of the function.
    **kwargs: The arguments of its `jax.jit`: its static and donated arguments.
  """
  import jax  # after conftest.py has set its flags

  function = getattr(module, name).__wrapped__
  jitted = jax.jit(function, compiler_options=OPTIMISED, **kwargs)
  with mock.patch.object(module, name, jitted):
    yield


def quick_classifier() -> contextlib.AbstractContextManager[None]:
  """Trains feature classifiers of real size with an optimised program."""
  from ldc_vae.evaluation import classifier

  return optimised(
    classifier,
    '_train_step',
    static_argnums=(0, 1),
    donate_argnums=(2, 3),
  )


def train_classifier(spec: str) -> None:
  """Trains the feature classifier of a config's data into the cache.

  A run in a process of its own would train it for twice as long, with a program
  that is compiled quickly, and other tests would wait for it.

  Args:
    spec: The config, `FILE:METHOD`.
  """
  from ldc_vae import config as config_lib
  from ldc_vae import experiment
  from ldc_vae.evaluation import classifier

  with quick_classifier():
    classifier.load_or_train(experiment.load_dataset(config_lib.load(spec)))
