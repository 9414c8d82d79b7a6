"""Inception features, for an FID.

This is an optional extra: run `pip install '.[inception]'` in the project's
folder. The network and its weights, those of the original TensorFlow FID, come
with torch-fidelity. It needs PyTorch, which no other part of the project uses.
"""

from collections.abc import Callable
import importlib.util
import os
import pathlib

import numpy as np

from ldc_vae import errors
from ldc_vae.evaluation import feature_nets

# The environment variable that names a file with the weights. Without it, the
# library downloads them once.
WEIGHTS_VARIABLE = 'LDC_VAE_INCEPTION_WEIGHTS'

# Of the file with the weights. torch may run what a file says, so that the
# digest is checked before it reads one.
_SHA256 = '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2'

# The description of the features in results.json.
PROTOCOL = (
  'torch-fidelity inception-v3-compat, 2048 features of pool3; uint8 arrays,'
  ' never PNG files; grey images three times as RGB; resized to 299x299'
  ' inside the network, bilinear as in TensorFlow 1'
)


class InceptionError(errors.UserError):
  """The error if the network cannot be loaded; it names a remedy."""


def require() -> None:
  """Raises an `InceptionError` if `load` would certainly fail."""
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
      f'{WEIGHTS_VARIABLE}={path}: no such file; give the weights file of'
      ' torch-fidelity, weights-inception-2015-12-05-6726825d.pth'
    )


def load() -> Callable[[np.ndarray], np.ndarray]:
  """Returns the feature function of the Inception network.

  Returns:
    A function that maps images, uint8 [N, H, W, C] with C 1 or 3, to float32
    [N, 2048].

  Raises:
    InceptionError: The library or the weights cannot be loaded.
  """
  require()
  # imported here, because both are optional, and torch takes seconds
  import torch
  from torch_fidelity import feature_extractor_inceptionv3 as library

  path = os.environ.get(WEIGHTS_VARIABLE)
  try:
    file = path or _download(library.URL_INCEPTION_V3)
    feature_nets.read(file, _SHA256)  # this checks it
    extractor = library.FeatureExtractorInceptionV3(
      'inception-v3-compat', ['2048'], feature_extractor_weights_path=file
    )
  except Exception as error:  # urllib, pickle, zipfile and torch raise many
    remedy = f'{WEIGHTS_VARIABLE}={path} does not contain the weights'
    if not path:
      remedy = (
        f'the weights cannot be had; get {library.URL_INCEPTION_V3} on'
        f' a machine with a network and set {WEIGHTS_VARIABLE} to the file'
      )
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise InceptionError(
      f'config.evaluate.inception=True: {remedy} ({reason})'
    ) from error
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  extractor = extractor.to(device)

  def extract(images: np.ndarray) -> np.ndarray:
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    batch = torch.from_numpy(channels_first).to(device)
    with torch.no_grad():
      return extractor(batch)[0].cpu().numpy()

  return lambda images: feature_nets.features(images, extract)


def _download(url: str) -> str:
  """Returns the file of an address, where torch keeps it; loads it once."""
  import torch

  path = pathlib.Path(torch.hub.get_dir(), 'checkpoints', url.split('/')[-1])
  if not path.exists():
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.hub.download_url_to_file(url, str(path), progress=False)
  return str(path)
