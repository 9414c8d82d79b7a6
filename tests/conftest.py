"""Four emulated devices for all tests, set before jax starts."""

import os
import pathlib

from absl import flags

# XLA sizes its thread pool by NPROC; with as many threads as cores, emulated
# devices wait for each other for ever.
os.environ.setdefault('NPROC', '32')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_DEVICES = '--xla_force_host_platform_device_count=4'
if _DEVICES not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_DEVICES}'

# Many tests compile the same small programs; the second time they are read.
_CACHE = os.environ.get('LDC_VAE_CACHE', '~/.cache/ldc_vae')
_COMPILED = pathlib.Path(_CACHE).expanduser() / 'xla_tests'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_COMPILED))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

flags.FLAGS.mark_as_parsed()  # absl's temporary folders read a flag
