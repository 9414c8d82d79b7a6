"""Latent samplers: distributions fitted to latents after training."""
