"""The beta-VAE: the `vae` with another weight of its KL divergence.

Higgins et al. (2017), eq. 4, https://openreview.net/forum?id=Sy2fzU9gl. Its
posterior is the Gibbs posterior of inverse temperature 1 / beta.
"""

from ldc_vae.methods import vae

create = vae.create
