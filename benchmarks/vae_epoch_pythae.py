"""The worker of vae_epoch.py that trains with Pythae's own trainer.

It runs in an environment with Pythae and without this project. Model, trainer
and their options are Pythae's defaults but for what makes the two comparable:
batch size, learning rate, latent size, CPU. `BaseTrainer.train` runs unmodified
but waits for its turn before each epoch. Timed is its `train_step`, the pass
over the training set; the copy of the best model after it is not.
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


def main() -> None:
  """Answers each line of stdin with the seconds of an epoch."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--images', required=True)
  parser.add_argument('--batch_size', type=int, required=True)
  parser.add_argument('--likelihood', choices=sorted(_LOSSES), required=True)
  args = parser.parse_args()
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what libraries print must not pass for an answer
  if hasattr(os, 'sched_getaffinity'):
    # by itself it may count physical cores only
    torch.set_num_threads(len(os.sched_getaffinity(0)))
  images = np.load(args.images).transpose(0, 3, 1, 2)  # [N, C, H, W]
  dataset = datasets.BaseDataset(
      torch.from_numpy(images.astype(np.float32) / 255.0),
      torch.ones(len(images)),
  )
  model = VAE(
      VAEConfig(
          input_dim=images.shape[1:],
          latent_dim=16,
          reconstruction_loss=_LOSSES[args.likelihood],
      )
  )  # its default networks: 784-512-16 and 16-512-784
  with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(
        answers,
        model=model,
        train_dataset=dataset,
        training_config=BaseTrainerConfig(
            output_dir=folder,
            num_epochs=1_000_000,  # until stdin ends
            per_device_train_batch_size=args.batch_size,
            learning_rate=1e-3,
            no_cuda=True,
        ),
    )
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions['python'] = platform.python_version()
    description = {
        'device': 'cpu',
        'num_threads': torch.get_num_threads(),
        'num_parameters': sum(each.numel() for each in model.parameters()),
        'versions': versions,
    }
    print(json.dumps(description), file=answers, flush=True)
    trainer.train()


if __name__ == '__main__':
  main()
