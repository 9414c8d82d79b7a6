"""Tests of ldc_vae/svgd/."""
