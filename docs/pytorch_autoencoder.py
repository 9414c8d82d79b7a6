"""Makes a generator of a small PyTorch autoencoder.

PyTorch is no dependency of this project: `pip install torch` first.

python docs/pytorch_autoencoder.py
"""

import matplotlib.pyplot as plt
from sklearn import datasets
import torch
from torch import nn

import ldc_vae

LATENT_SIZE, WIDTH, NUM_EPOCHS, BATCH_SIZE = 8, 256, 100, 64


def train(images: torch.Tensor) -> tuple[nn.Module, nn.Module]:
  """Trains an autoencoder of images [N, 64] and returns its two halves."""
  encoder = nn.Sequential(
    nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, LATENT_SIZE)
  )
  decoder = nn.Sequential(
    nn.Linear(LATENT_SIZE, WIDTH),
    nn.ReLU(),
    nn.Linear(WIDTH, 64),
    nn.Sigmoid(),
  )
  parameters = [*encoder.parameters(), *decoder.parameters()]
  optimizer = torch.optim.Adam(parameters, lr=1e-3)
  for _ in range(NUM_EPOCHS):
    for batch in images[torch.randperm(len(images))].split(BATCH_SIZE):
      loss = torch.mean(torch.square(decoder(encoder(batch)) - batch))
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
  return encoder, decoder


@torch.no_grad()
def main() -> None:
  """Trains, fits the sampler to the latents, and draws new digits."""
  torch.manual_seed(0)
  images = torch.tensor(datasets.load_digits().data / 16, dtype=torch.float32)
  with torch.enable_grad():
    encoder, decoder = train(images)
  latents = encoder(images).numpy()
  # the autoencoder stays as it is
  sampler = ldc_vae.fit_sampler(latents)
  sampler.save('sampler.npz')
  new = decoder(torch.from_numpy(sampler.sample(100)))
  grid = new.reshape(10, 10, 8, 8).permute(0, 2, 1, 3).reshape(80, 80)
  plt.imsave('generated.png', grid.numpy(), cmap='gray')


if __name__ == '__main__':
  main()
