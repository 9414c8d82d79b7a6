"""Tests of ldc_vae/runtime/."""
