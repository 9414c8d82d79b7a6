"""Tests of ldc_vae/metrics/."""
