"""Latents of PyTorch nets, for foreign_latents.py; imports no jax.

PYTHON_WITH_TORCH benchmarks/foreign_latents_torch.py vae|classifier FILE.npz

The file has 'images', float32 [N, pixels] in [0, 1], and 'labels', int32 [N].
'latents' float32 [N, D] and, of `vae`, 'stds' are written in its place.
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional

_BATCH_SIZE = 128
_VAE_EPOCHS, _LATENT_SIZE = 10, 16
_CLASSIFIER_EPOCHS, _EMBEDDING_SIZE = 5, 512


def _batches(*tensors):
  """Yields the rows of tensors in random batches."""
  for rows in torch.randperm(len(tensors[0])).split(_BATCH_SIZE):
    yield [each[rows] for each in tensors]


def vae(images, unused_labels):
  """Means and standard deviations of a VAE's posteriors."""
  pixels = images.shape[1]
  encoder = nn.Sequential(
    nn.Linear(pixels, 512), nn.ReLU(), nn.Linear(512, 2 * _LATENT_SIZE)
  )
  decoder = nn.Sequential(
    nn.Linear(_LATENT_SIZE, 512), nn.ReLU(), nn.Linear(512, pixels)
  )
  optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])
  for _ in range(_VAE_EPOCHS):
    for (x,) in _batches(images):
      mean, logvar = encoder(x).chunk(2, dim=1)
      z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
      nll = functional.binary_cross_entropy_with_logits(
        decoder(z), x, reduction='sum'
      )
      kl = 0.5 * torch.sum(mean**2 + logvar.exp() - 1.0 - logvar)
      optimizer.zero_grad()
      ((nll + kl) / len(x)).backward()
      optimizer.step()
  with torch.no_grad():
    mean, logvar = encoder(images).chunk(2, dim=1)
  return {'latents': mean.numpy(), 'stds': torch.exp(0.5 * logvar).numpy()}


def classifier(images, labels):
  """The activations of a classifier before its last layer."""
  body = nn.Sequential(
    nn.Linear(images.shape[1], 1024),
    nn.ReLU(),
    nn.Linear(1024, _EMBEDDING_SIZE),
    nn.GELU(),
  )
  head = nn.Linear(_EMBEDDING_SIZE, int(labels.max()) + 1)
  optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()])
  for _ in range(_CLASSIFIER_EPOCHS):
    for x, y in _batches(images, labels):
      loss = functional.cross_entropy(head(body(x)), y)
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
  with torch.no_grad():
    return {'latents': body(images).numpy()}


def main():
  kind, path = sys.argv[1:]
  torch.manual_seed(0)
  torch.set_num_threads(1)
  with np.load(path) as arrays:
    images = torch.from_numpy(arrays['images'])
    labels = torch.from_numpy(arrays['labels'].astype(np.int64))
  np.savez(path, **{'vae': vae, 'classifier': classifier}[kind](images, labels))


if __name__ == '__main__':
  main()
