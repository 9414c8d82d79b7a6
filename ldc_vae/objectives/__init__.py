"""The methods by name; a new one is a file and a line here."""

from ldc_vae.objectives import ldc
from ldc_vae.objectives import vae

METHODS = {
    'ldc': ldc.create,
    'vae': vae.create,
}
