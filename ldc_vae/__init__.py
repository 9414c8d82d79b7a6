"""LDC-VAE: variational autoencoders with a consistent latent distribution."""

__version__ = '0.1.0'
