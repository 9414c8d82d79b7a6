"""Tests of ldc_vae/data/."""
