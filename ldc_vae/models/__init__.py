"""Networks: encoders, decoders, latent nets, likelihoods."""
