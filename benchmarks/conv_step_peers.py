"""The workers of conv_step.py that train with PyTorch: bare, or by Pythae.

They run in an environment with Pythae and without this project. Both train the
same networks, those of `create_model(architecture='conv')`: `pythae`
by `BaseTrainer.train` as it is, `torch` in a loop of nothing but the step, on
images that are float32 and permuted already.
"""

import argparse
import json
import math

from pythae.data import datasets
from pythae.models import VAE
from pythae.models import VAEConfig
from pythae.models.base import base_utils
from pythae.models.nn import BaseDecoder
from pythae.models.nn import BaseEncoder
import torch
from torch import nn
from torch.nn import functional
import vae_epoch_pythae

_LATENT_SIZE = 16


class Encoder(BaseEncoder):
  """Convolutions that halve, padding SAME, and a bounded log std."""

  def __init__(self, image_shape, channels):
    super().__init__()
    inputs, *sides = image_shape
    layers = []
    for outputs in channels:
      odd = [side % 2 for side in sides]
      if any(odd):
        layers.append(nn.ZeroPad2d((0, odd[1], 0, odd[0])))
      layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
      inputs, sides = outputs, [-(-side // 2) for side in sides]
    self.torso = nn.Sequential(*layers)
    self.moments = nn.Linear(inputs * math.prod(sides), 2 * _LATENT_SIZE)

  def forward(self, x):
    mean, raw = self.moments(self.torso(x).flatten(1)).chunk(2, dim=1)
    logvar = 2.0 * (-2.0 + 3.0 * torch.tanh(raw))
    return base_utils.ModelOutput(embedding=mean, log_covariance=logvar)


class Decoder(BaseDecoder):
  """Transposed convolutions that double, one more, and the middle of it."""

  def __init__(self, image_shape, channels):
    super().__init__()
    colours, *self.sides = image_shape
    factor = 2 ** len(channels)
    self.start = (channels[-1], *(-(-side // factor) for side in self.sides))
    self.dense = nn.Linear(_LATENT_SIZE, math.prod(self.start))
    layers, inputs = [], channels[-1]
    for outputs in (*channels[-2::-1], channels[0]):
      layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
      inputs = outputs
    self.layers = nn.Sequential(*layers, nn.Conv2d(inputs, colours, 3, 1, 1))

  def forward(self, z):
    x = functional.relu(self.dense(z)).unflatten(1, self.start)
    x = self.layers(x)
    top, left = (
      (side - wanted) // 2 for side, wanted in zip(x.shape[2:], self.sides)
    )
    x = x[:, :, top : top + self.sides[0], left : left + self.sides[1]]
    return base_utils.ModelOutput(reconstruction=torch.sigmoid(x))


def create_model(image_shape, channels):
  """Pythae's VAE with these networks.

  Args:
    image_shape: (C, H, W).
    channels: The channels of the encoder.
  """
  config = VAEConfig(
    input_dim=image_shape,
    latent_dim=_LATENT_SIZE,
    reconstruction_loss='mse',
  )
  return VAE(
    config,
    encoder=Encoder(image_shape, channels),
    decoder=Decoder(image_shape, channels),
  )


def count_multiply_adds(model, image):
  """The multiply-adds of one image's pass, as `conv_step_ldc_vae.count`.

  Args:
    model: Its layers are called once each.
    image: Shape [1, C, H, W].
  """
  total = 0

  def add(module, inputs, output):
    nonlocal total
    is_transposed = isinstance(module, nn.ConvTranspose2d)
    seen = inputs[0] if is_transposed else output
    total += math.prod(seen.shape[2:]) * module.weight.numel()

  kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
  hooks = [
    each.register_forward_hook(add)
    for each in model.modules()
    if isinstance(each, kinds)
  ]
  with torch.no_grad():
    model(datasets.DatasetOutput(data=image))
  for hook in hooks:
    hook.remove()
  return total


def main() -> None:
  """Describes itself, then trains."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--images', required=True)
  parser.add_argument('--batch_size', type=int, required=True)
  parser.add_argument('--channels', required=True)
  parser.add_argument(
    '--trainer', choices=sorted(vae_epoch_pythae.TRAINERS), required=True
  )
  parser.add_argument('--channels_last', action='store_true')
  args = parser.parse_args()
  answers, images = vae_epoch_pythae.start(args.images)
  channels = tuple(int(each) for each in args.channels.split(','))
  model = create_model(tuple(images.shape[1:]), channels)
  if args.channels_last:
    model = model.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
  description = {
    **vae_epoch_pythae.describe(model),
    'multiply_adds': count_multiply_adds(model, images[:1]),
  }
  print(json.dumps(description), file=answers, flush=True)
  train = vae_epoch_pythae.TRAINERS[args.trainer]
  train(model, images, args.batch_size, answers)


if __name__ == '__main__':
  main()
