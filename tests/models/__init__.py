"""Tests of ldc_vae/models/."""
