"""Four emulated devices for all tests, set before jax and NumPy start."""

import gc
import os
import pathlib

from absl import flags

from tests import device_case

# XLA sizes its thread pool by NPROC; with as many threads as cores, emulated
# devices wait for each other for ever.
os.environ.setdefault('NPROC', '32')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# The threads of NumPy and scikit-learn wait for each other by spinning. With
# several test processes a product takes up to fifty times as long.
for _name in ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS'):
  os.environ.setdefault(_name, '1')
# later flags win over those of the environment
_FLAGS = device_case.xla_flags(num_devices=4)
if _FLAGS not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {_FLAGS}'

# What takes long to compile is read the second time; the rest is compiled
# sooner than read.
_CACHE = os.environ.get('LDC_VAE_CACHE', '~/.cache/ldc_vae')
_COMPILED = pathlib.Path(_CACHE).expanduser() / 'xla_tests'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_COMPILED))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')

flags.FLAGS.mark_as_parsed()  # absl's temporary folders read a flag

# Files that take long come first, so that no process ends with one of them.
_LONG = (
  'cluster_runs',
  'evaluate',
  'torture',
  'evaluate_methods',
  'evaluate_sources',
  'python_page',
  'sharded_step',
  'ldc_autoencoder',
  'step',
  'train',
  'train_refusals',
  'particle_benchmarks',
  'encoder_benchmarks',
  'svgd_directions',
  'experiment',
  'classifier',
  'compare',
  'compare_command',
  'latent_energy',
  'rest',
  'svgd_properties',
  'particles',
  'blocks',
  'model',
  'encoders',
  'warmup',
  'lebm',
  'figures',
  'speed_benchmarks',
  'bad_data',
  'bad_workdirs',
  'bad_fields',
  'two_stage',
)


def pytest_collection_finish():
  """Leaves all that was imported out of garbage collections.

  Looking through it again and again takes a twentieth of the time of all tests.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


def pytest_collection_modifyitems(items):
  """Sorts the tests by file, the long ones first."""
  ranks = {f'test_{name}': rank for rank, name in enumerate(_LONG)}
  items.sort(key=lambda item: ranks.get(item.path.stem, len(_LONG)))
