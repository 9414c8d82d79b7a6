"""The methods by name; a new one is a file and a line here."""

from ldc_vae.methods import aae
from ldc_vae.methods import ae
from ldc_vae.methods import beta_vae
from ldc_vae.methods import info_vae
from ldc_vae.methods import iwae
from ldc_vae.methods import ldc
from ldc_vae.methods import lebm
from ldc_vae.methods import rae_gp
from ldc_vae.methods import rae_l2
from ldc_vae.methods import stein_vae
from ldc_vae.methods import vae
from ldc_vae.methods import vamp
from ldc_vae.methods import wae_mmd

METHODS = {
    'aae': aae.create,
    'ae': ae.create,
    'beta_vae': beta_vae.create,
    'info_vae': info_vae.create,
    'iwae': iwae.create,
    'ldc': ldc.create,
    'lebm': lebm.create,
    'rae_gp': rae_gp.create,
    'rae_l2': rae_l2.create,
    'stein_vae': stein_vae.create,
    'vae': vae.create,
    'vamp': vamp.create,
    'wae_mmd': wae_mmd.create,
}
