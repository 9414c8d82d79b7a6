"""Metrics of generated images and of latents, as pure functions."""
