"""The methods by name; a new method is one new file and one line here."""

from ldc_vae import errors
from ldc_vae.methods import aae
from ldc_vae.methods import ae
from ldc_vae.methods import info_vae
from ldc_vae.methods import iwae
from ldc_vae.methods import ldc
from ldc_vae.methods import lebm
from ldc_vae.methods import rae
from ldc_vae.methods import stein_vae
from ldc_vae.methods import vae
from ldc_vae.methods import vamp
from ldc_vae.methods import wae_mmd
from ldc_vae.methods.base import Method

METHODS: dict[str, type[Method]] = {
  method.name: method
  for method in (
    ldc.Ldc,
    ae.Ae,
    vae.Vae,
    vae.BetaVae,
    iwae.Iwae,
    wae_mmd.WaeMmd,
    info_vae.InfoVae,
    aae.Aae,
    rae.RaeL2,
    rae.RaeGp,
    vamp.Vamp,
    stein_vae.SteinVae,
    lebm.Lebm,
  )
}


def register(method: type[Method]) -> type[Method]:
  """Adds a method from outside the package; usable as a decorator.

  Raises:
    UserError: It lacks a class variable, or its name is taken.
  """
  for name in ('name', 'label', 'encoders', 'encoder_reason'):
    if not hasattr(method, name):
      raise errors.UserError(
        f'the method {method.__name__} has no {name}; give it one'
      )
  if method.name in METHODS:
    raise errors.UserError(
      f'{method.name!r} is a method already; give {method.__name__} another'
      ' name'
    )
  METHODS[method.name] = method
  return method
