"""The workers of vae_epoch.py that train with PyTorch: by Pythae, or bare.

They run in an environment with Pythae and without this project. Model, trainer
and their options are Pythae's defaults but for what makes all comparable: batch
size, learning rate, latent size, CPU.

`pythae` is `BaseTrainer.train`, unmodified but that it waits for its turn
before each epoch. Timed is its `train_step`, the pass over the training set;
the copy of the best model after it is not. `torch` is the same model in a loop
of nothing but the step, on images that are float32 and in memory already.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time

import numpy as np
from pythae.data import datasets
from pythae.models import IWAE
from pythae.models import IWAEConfig
from pythae.models import VAE
from pythae.models import VAEConfig
from pythae.trainers import BaseTrainer
from pythae.trainers import BaseTrainerConfig
import torch

_LOSSES = {'gaussian': 'mse', 'bernoulli': 'bce'}
_PACKAGES = ('pythae', 'torch', 'numpy')


class Trainer(BaseTrainer):
  """Pythae's trainer, which waits for its turn and tells its time."""

  def __init__(self, answers, **kwargs):
    super().__init__(**kwargs)
    self._answers = answers

  def train_step(self, epoch):
    """An epoch."""
    if not sys.stdin.readline():
      sys.exit()  # nothing more is asked for
    start, cpu_start = time.perf_counter(), time.process_time()
    loss = super().train_step(epoch)
    answer = {
      'seconds': time.perf_counter() - start,
      'cpu_seconds': time.process_time() - cpu_start,
      'loss': float(loss),
    }
    print(json.dumps(answer), file=self._answers, flush=True)
    return loss


def train_bare(model, images, batch_size, answers):
  """Answers each line of stdin with the seconds of an epoch in a bare loop."""
  optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
  model.train()
  for _ in sys.stdin:
    start, cpu_start = time.perf_counter(), time.process_time()
    losses = []
    for batch in images.split(batch_size):
      optimizer.zero_grad()
      loss = model(datasets.DatasetOutput(data=batch)).loss
      loss.backward()
      optimizer.step()
      losses.append(loss.detach())
    loss = float(torch.stack(losses).mean())
    answer = {
      'seconds': time.perf_counter() - start,
      'cpu_seconds': time.process_time() - cpu_start,
      'loss': loss,
    }
    print(json.dumps(answer), file=answers, flush=True)


def train_by_pythae(model, images, batch_size, answers):
  """The same by Pythae's trainer."""
  with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(
      answers,
      model=model,
      train_dataset=datasets.BaseDataset(images, torch.ones(len(images))),
      training_config=BaseTrainerConfig(
        output_dir=folder,
        num_epochs=1_000_000,  # until stdin ends
        per_device_train_batch_size=batch_size,
        learning_rate=1e-3,
        no_cuda=True,
      ),
    )
    trainer.train()


TRAINERS = {'pythae': train_by_pythae, 'torch': train_bare}


def start(path):
  """The file of the answers, and the images [N, C, H, W] in [0, 1].

  Args:
    path: The path of images, uint8 [N, H, W, C].
  """
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what libraries print must not pass for an answer
  if hasattr(os, 'sched_getaffinity'):
    # by itself it may count physical cores only
    torch.set_num_threads(len(os.sched_getaffinity(0)))
  images = np.load(path).transpose(0, 3, 1, 2)
  images = torch.from_numpy(images.astype(np.float32) / 255.0)
  return answers, images.contiguous()


def describe(model):
  """The worker's device, threads and versions, and the model's parameters."""
  versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
  versions['python'] = platform.python_version()
  return {
    'device': 'cpu',
    'num_threads': torch.get_num_threads(),
    'num_parameters': sum(each.numel() for each in model.parameters()),
    'versions': versions,
  }


def create_model(image_shape, likelihood, num_samples):
  """A VAE, or an IWAE of more than one sample, with the default networks.

  They are 784-512-16 and 16-512-784.

  Args:
    image_shape: (C, H, W).
    likelihood: A key of _LOSSES.
    num_samples: K.
  """
  options = dict(
    input_dim=image_shape,
    latent_dim=16,
    reconstruction_loss=_LOSSES[likelihood],
  )
  if num_samples == 1:
    return VAE(VAEConfig(**options))
  return IWAE(IWAEConfig(number_samples=num_samples, **options))


def main() -> None:
  """Answers each line of stdin with the seconds of an epoch."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--images', required=True)
  parser.add_argument('--batch_size', type=int, required=True)
  parser.add_argument('--likelihood', choices=sorted(_LOSSES), required=True)
  parser.add_argument('--method', required=True)  # what it is put beside
  parser.add_argument('--num_samples', type=int, required=True)
  parser.add_argument('--trainer', choices=sorted(TRAINERS), required=True)
  args = parser.parse_args()
  answers, images = start(args.images)
  model = create_model(
    tuple(images.shape[1:]), args.likelihood, args.num_samples
  )
  print(json.dumps(describe(model)), file=answers, flush=True)
  TRAINERS[args.trainer](model, images, args.batch_size, answers)


if __name__ == '__main__':
  main()
