"""Four emulated devices for all tests, set before jax starts."""

import os

# XLA sizes its thread pool by NPROC; with as many threads as cores, emulated
# devices wait for each other for ever.
os.environ.setdefault('NPROC', '32')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
_DEVICES = '--xla_force_host_platform_device_count=4'
if _DEVICES not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_DEVICES}'
