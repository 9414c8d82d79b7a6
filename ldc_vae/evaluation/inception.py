"""Inception features, for the FID of users who have the weights.

An optional extra, `pip install '.[inception]'` in the project's folder: the
network and its weights (those of the original TensorFlow FID) come with
torch-fidelity, which needs PyTorch. Nothing else of the project does.
"""

from collections.abc import Callable
import importlib.util
import os
import pathlib

import numpy as np

from ldc_vae import errors

# A file with the weights; without it the library downloads them once.
WEIGHTS_VARIABLE = 'LDC_VAE_INCEPTION_WEIGHTS'

# How the numbers come about, in the words of results.json.
PROTOCOL = (
    'torch-fidelity inception-v3-compat, 2048 features of pool3; uint8 arrays,'
    ' never PNG files; grey images three times as RGB; resized to 299x299'
    ' inside the network, bilinear as in TensorFlow 1'
)

_BATCH_SIZE = 50


class InceptionError(errors.UserError):
  """The network cannot be had; one sentence says what to do."""


def require() -> None:
  """Raises an `InceptionError` where `load` would fail without trying."""
  for name in ('torch', 'torch_fidelity'):
    if importlib.util.find_spec(name) is None:
      raise InceptionError(
          f'config.evaluate.inception=True needs the package {name}, which is'
          " not installed; run pip install '.[inception]' in the project's"
          ' folder, or pip install torch-fidelity'
      )
  path = os.environ.get(WEIGHTS_VARIABLE)
  if path and not pathlib.Path(path).is_file():
    raise InceptionError(
        f'{WEIGHTS_VARIABLE}={path}: no such file; it must hold the weights of'
        ' torch-fidelity, weights-inception-2015-12-05-6726825d.pth'
    )


def load() -> Callable[[np.ndarray], np.ndarray]:
  """The features function of the Inception network.

  Returns:
    A function of images, uint8 [N, H, W, C] with C 1 or 3, that gives float32
    [N, 2048].

  Raises:
    InceptionError: The library or the weights cannot be had.
  """
  require()
  # as late as here: both are optional, and torch takes seconds
  import torch
  from torch_fidelity import feature_extractor_inceptionv3 as library

  path = os.environ.get(WEIGHTS_VARIABLE)
  try:
    extractor = library.FeatureExtractorInceptionV3(
        'inception-v3-compat',
        ['2048'],
        feature_extractor_weights_path=path or None,
    )
  except Exception as error:  # of urllib, pickle, zipfile or torch
    remedy = f'{WEIGHTS_VARIABLE}={path} does not hold its weights'
    if not path:
      remedy = (
          f'its weights cannot be downloaded; get {library.URL_INCEPTION_V3} on'
          f' a machine with a network and set {WEIGHTS_VARIABLE} to the file'
      )
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise InceptionError(
        f'config.evaluate.inception=True: {remedy} ({reason})'
    ) from error
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  extractor = extractor.to(device)

  def extract(images: np.ndarray) -> np.ndarray:
    batch = torch.from_numpy(images).to(device)
    with torch.no_grad():
      return extractor(batch)[0].cpu().numpy()

  return lambda images: features(images, extract)


def features(
    images: np.ndarray, extract: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
  """Features of images in batches, in the layout that the network wants.

  Args:
    images: uint8, shape [N, H, W, C], C 1 or 3.
    extract: Maps uint8 [B, 3, H, W] to [B, F].

  Returns:
    Float32 [N, F].
  """
  images = np.asarray(images)
  if images.ndim != 4 or images.dtype != np.uint8 or (
      images.shape[-1] not in (1, 3)
  ):
    raise ValueError(
        f'images of shape {images.shape} and dtype {images.dtype}; Inception'
        ' takes uint8 [N, H, W, C] with C 1 or 3'
    )
  parts = []
  for start in range(0, len(images), _BATCH_SIZE):
    batch = images[start : start + _BATCH_SIZE]
    if batch.shape[-1] == 1:
      batch = np.repeat(batch, 3, axis=-1)
    channels_first = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
    parts.append(np.asarray(extract(channels_first), np.float32))
  return np.concatenate(parts)
