"""What `ldc_vae` offers in a notebook; `import ldc_vae` names all of it."""
