"""Parts that the networks with trained weights from elsewhere share."""

from collections.abc import Callable
import hashlib
import os
import pathlib

import numpy as np

BATCH_SIZE = 50


def read(path: str | os.PathLike[str], sha256: str) -> bytes:
  """Returns the content of a file.

  Args:
    path: The file.
    sha256: The digest that it must have, in hexadecimal digits.

  Raises:
    ValueError: It has another digest.
  """
  content = pathlib.Path(path).read_bytes()
  digest = hashlib.sha256(content).hexdigest()
  if digest != sha256:
    raise ValueError(f'the SHA-256 of {path} is {digest}, not {sha256}')
  return content


def features(
  images: np.ndarray, extract: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
  """Computes features of images in batches; grey images are three times RGB.

  Args:
    images: uint8, shape [N, H, W, C], C 1 or 3.
    extract: Maps uint8 [B, H, W, 3] to [B, F]; B is at most `BATCH_SIZE`.

  Returns:
    float32 [N, F].
  """
  images = np.asarray(images)
  if (
    images.ndim != 4
    or images.dtype != np.uint8
    or (images.shape[-1] not in (1, 3))
  ):
    raise ValueError(
      f'images have shape {images.shape} and dtype {images.dtype}; a network'
      ' for features needs uint8 [N, H, W, C] with C 1 or 3'
    )
  parts = []
  for start in range(0, len(images), BATCH_SIZE):
    batch = images[start : start + BATCH_SIZE]
    if batch.shape[-1] == 1:
      batch = np.repeat(batch, 3, axis=-1)
    parts.append(np.asarray(extract(batch), np.float32))
  return np.concatenate(parts)
