"""LDC-VAE: variational autoencoders with a consistent latent distribution."""

from importlib import metadata
import os

__version__ = '0.1.0'

# On CPUs these take wrong sums of some products of matrices and vectors, or
# crash, where XLA gives its library YNNPACK more at once than one product:
# https://github.com/jax-ml/jax/issues/39103 and issues/39257. Single products
# are right, and training is as fast with them.
_WRONG_JAXLIBS = ('0.10.2', '0.11.0')
_FLAG = '--xla_cpu_experimental_ynn_fusion_type'


def _avoid_wrong_sums() -> None:
  """Sets the flag of XLA, which jax reads when it is first used."""
  flags = os.environ.get('XLA_FLAGS', '')
  if metadata.version('jaxlib') in _WRONG_JAXLIBS and _FLAG not in flags:
    value = 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
    os.environ['XLA_FLAGS'] = f'{flags} {_FLAG}={value}'.strip()


_avoid_wrong_sums()
