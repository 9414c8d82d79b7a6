"""Data sets as arrays of uint8 images, and batches of them."""
