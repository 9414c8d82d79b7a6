"""Tests of ldc_vae/methods/."""
