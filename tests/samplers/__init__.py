"""Tests of ldc_vae/samplers/."""
