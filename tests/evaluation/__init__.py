"""Tests of ldc_vae/evaluation/."""
