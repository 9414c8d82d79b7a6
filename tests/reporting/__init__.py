"""Tests of ldc_vae/reporting/."""
