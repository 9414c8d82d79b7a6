"""LDC-VAE: variational autoencoders with a consistent latent distribution.

    run = ldc_vae.load('runs/mnist')     a trained run: encode, decode, sample
    run = ldc_vae.fit(images)            trains one from arrays
    sampler = ldc_vae.fit_sampler(z)     draws latents of any autoencoder

See `docs/python.md`.
"""

import importlib
from importlib import metadata
import os
import sys
from typing import Any
import warnings

__version__ = '0.1.0'

# On CPUs these take wrong sums of some products of matrices and vectors, or
# crash, where XLA gives its library YNNPACK more at once than one product:
# https://github.com/jax-ml/jax/issues/39103 and issues/39257. Single products
# are right, and training is as fast with them.
_WRONG_JAXLIBS = ('0.10.2', '0.11.0')
_FLAG = '--xla_cpu_experimental_ynn_fusion_type'

# For processes with another jax, which may not know the flag.
GIVEN_XLA_FLAGS = os.environ.get('XLA_FLAGS', '')


def _avoid_wrong_sums() -> None:
  """Sets the flag of XLA, which jax reads when it is first used."""
  version = metadata.version('jaxlib')
  if version not in _WRONG_JAXLIBS or _FLAG in GIVEN_XLA_FLAGS:
    return
  value = 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
  os.environ['XLA_FLAGS'] = f'{GIVEN_XLA_FLAGS} {_FLAG}={value}'.strip()
  bridge = sys.modules.get('jax._src.xla_bridge')
  if bridge is not None and bridge.backends_are_initialized():
    warnings.warn(
      f'jax was used before ldc_vae was imported, and jaxlib {version} may'
      ' take wrong sums on CPUs: import ldc_vae first, or set'
      f' XLA_FLAGS={_FLAG}={value}',
      stacklevel=3,
    )


_avoid_wrong_sums()

# Imported when they are first used, because jax takes a second to import.
_PUBLIC = {
  'LatentSampler': 'ldc_vae.api.latent_sampler',
  'TrainedRun': 'ldc_vae.api.trained_run',
  'UserError': 'ldc_vae.errors',
  'fit': 'ldc_vae.api.fitting',
  'fit_sampler': 'ldc_vae.api.latent_sampler',
  'load': 'ldc_vae.api.trained_run',
  'push': 'ldc_vae.api.hub',
}
_MODULES = ('elbo', 'energy', 'svgd')  # pure functions, usable alone


def __getattr__(name: str) -> Any:
  """Imports a public name, such as `ldc_vae.load`, or `ldc_vae.svgd`."""
  if name in _MODULES:
    return importlib.import_module(f'{__name__}.{name}')
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
  """Returns the names of the module, those that are imported later too."""
  return sorted({*globals(), *_PUBLIC, *_MODULES})
