"""The worker of vae_epoch.py that trains with this project.

It takes the path of a run: `configs/mnist.py`, `datasets.train_batches`,
`step.train_step` under `pmap_train_step`, and the loop of `ldc_vae.train` with
its progress bar and its reading of the metrics, without validation, checkpoints
and files.
"""

import argparse
from collections.abc import Callable, Mapping
import functools
import json
import math
import os
import sys
import time
from typing import Any

import jax
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import optimizers
from ldc_vae import sections
from ldc_vae import step as step_lib
from ldc_vae.data import datasets
from ldc_vae.runtime import health
from ldc_vae.runtime import memory
from ldc_vae.runtime import progress
from ldc_vae.runtime import provenance

_WIDTH, _LATENTS = 512, 16  # Pythae's default networks
_SAMPLES = {'iwae': 'num_samples', 'ldc': 'num_particles'}  # K's field
_MAX_IN_FLIGHT, _MAX_SECONDS_IN_FLIGHT = 8, 1.0  # as in ldc_vae.train


def make_epoch_fn(
  images: np.ndarray,
  batch_size: int,
  likelihood: str,
  overrides: Mapping[str, Any] | None = None,
  *,
  method_name: str = 'vae',
  num_samples: int = 1,
):
  """Returns a function that trains one epoch and goes on where it ended.

  Args:
    images: uint8, shape [N, H, W, C], N a multiple of the batch size.
    batch_size: Images per step.
    likelihood: 'gaussian' with variance 1, or 'bernoulli'.
    overrides: Fields of the config, by dotted name.
    method_name: 'vae', 'iwae' or 'ldc'.
    num_samples: K, posterior samples or particles of each image; 1 for 'vae'.

  Returns:
    `() -> loss`, the mean of the epoch's logged steps in nats per image; as in
    Pythae's, without the Gaussian's normaliser.
  """
  fields = {}
  if method_name in _SAMPLES:
    fields[f'method.{_SAMPLES[method_name]}'] = num_samples
  config = config_lib.load(
    f'configs/mnist.py:{method_name}',
    {
      **fields,
      'model.hidden_sizes': (_WIDTH,),
      'model.latent_size': _LATENTS,
      'model.likelihood': likelihood,
      'model.scale': 1.0,
      'optimizer.learning_rate': 1e-3,
      'optimizer.schedule': 'constant',
      'optimizer.warmup_steps': 0,
      'train.batch_size': batch_size,
      **(overrides or {}),
    },
  )
  model = experiment_lib.create_model(config, images.shape[1:])
  algorithm = experiment_lib.create_algorithm(config, model)
  steps_per_epoch = len(images) // batch_size
  num_steps = config.train.num_epochs * steps_per_epoch
  txs = optimizers.create_optimizers(
    algorithm,
    sections.Optimizer.from_config(config.optimizer),
    num_steps=num_steps,
  )
  train_step = step_lib.pmap_train_step(
    experiment_lib.make_train_step(config, algorithm, txs, num_steps)
  )
  key = jax.random.key(config.seed)
  state = step_lib.create_train_state(key, model, algorithm, txs)
  batches = datasets.train_batches(images, batch_size, seed=config.seed)
  num_devices = jax.local_device_count()
  normaliser = 0.0
  if likelihood == 'gaussian':
    normaliser = 0.5 * math.log(2.0 * math.pi) * math.prod(images.shape[1:])

  def run_epoch():
    nonlocal state
    losses = []
    updates = health.Watch(
      config.train.non_finite,
      skipped=0,
      depth=_MAX_IN_FLIGHT,
      seconds=_MAX_SECONDS_IN_FLIGHT,
      last_good_fn=lambda: 'nothing was saved',
    )
    with progress.ProgressBar(steps_per_epoch) as bar:
      for step in range(1, steps_per_epoch + 1):
        batch = next(batches)
        batch = batch.reshape(num_devices, -1, *batch.shape[1:])
        state, metrics = train_step(state, batch, key)
        updates.add(step, metrics)
        if step % config.train.log_every == 0 or step == steps_per_epoch:
          losses.append(float(jax.device_get(metrics)['loss']))
        bar.update(step, updates.newest_loss)
    jax.block_until_ready(state)
    return sum(losses) / len(losses) - normaliser

  return run_epoch


def make_floor_fn(
  batch_size: int,
  num_pixels: int,
  width: int,
  latents: int,
  num_samples: int = 1,
):
  """Returns a function that times the matrix products of a step, and no more.

  They are the products of encoder and decoder, forward and backward: of the
  four layers of weights, and of the three inputs of layers that are not the
  images.

  Args:
    batch_size: B.
    num_pixels: The number of pixels of an image.
    width: The width of the hidden layers.
    latents: D.
    num_samples: K, which the decoder sees of each image.

  Returns:
    `(steps) -> seconds`.
  """
  layers = (
    (num_pixels, width),
    (width, 2 * latents),
    (latents, width),
    (width, num_pixels),
  )
  counts = 2 * (batch_size,) + 2 * (batch_size * num_samples,)
  draw = functools.partial(jax.random.normal, jax.random.key(0))
  weights = [draw(shape) for shape in layers]
  inputs = [draw((count, rows)) for count, (rows, _) in zip(counts, layers)]
  grads = [
    draw((count, columns)) for count, (_, columns) in zip(counts, layers)
  ]

  @jax.jit
  def products(weights, inputs, grads):
    forward = [x @ w for x, w in zip(inputs, weights)]
    by_weights = [x.T @ g for x, g in zip(inputs, grads)]
    by_inputs = [g @ w.T for g, w in zip(grads[1:], weights[1:])]
    return forward, by_weights, by_inputs

  jax.block_until_ready(products(weights, inputs, grads))

  def run(steps):
    start = time.perf_counter()
    for _ in range(steps):
      outputs = products(weights, inputs, grads)
    jax.block_until_ready(outputs)
    return time.perf_counter() - start

  return run


def answer(
  run_epoch: Callable[[], float],
  description: Mapping[str, Any],
  file,
  measure_more: Callable[[], Mapping[str, float]] = dict,
) -> None:
  """Describes the worker, then answers each line of stdin with an epoch.

  Args:
    run_epoch: Trains an epoch and gives its mean loss.
    description: The description of the worker.
    file: Where answers are written.
    measure_more: Called after each epoch; joins its answer.
  """
  print(json.dumps(description), file=file, flush=True)
  for _ in sys.stdin:
    start, cpu_start = time.perf_counter(), time.process_time()
    loss = run_epoch()
    epoch = {
      'seconds': time.perf_counter() - start,
      'cpu_seconds': time.process_time() - cpu_start,
      'loss': loss,
      **measure_more(),
    }
    print(json.dumps(epoch), file=file, flush=True)


def describe() -> dict[str, Any]:
  """The devices and versions of this process."""
  return {
    'device': str(jax.devices()[0]),
    'num_devices': jax.device_count(),
    'versions': provenance.describe()['versions'],
  }


def answers_file():
  """Returns the old stdout, so that prints of libraries are no answers."""
  file = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  return file


def main() -> None:
  """Answers each line of stdin with the seconds of an epoch, and its floor."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--images', required=True)
  parser.add_argument('--batch_size', type=int, required=True)
  parser.add_argument('--likelihood', required=True)
  parser.add_argument('--method', required=True)
  parser.add_argument('--num_samples', type=int, required=True)
  args = parser.parse_args()
  file = answers_file()
  memory.keep_freed_memory()  # as ldc_vae.main does
  images = np.load(args.images, mmap_mode='r')
  run_epoch = make_epoch_fn(
    images,
    args.batch_size,
    args.likelihood,
    method_name=args.method,
    num_samples=args.num_samples,
  )
  run_floor = make_floor_fn(
    args.batch_size,
    math.prod(images.shape[1:]),
    _WIDTH,
    _LATENTS,
    args.num_samples,
  )
  steps = len(images) // args.batch_size
  answer(
    run_epoch,
    describe(),
    file,
    lambda: {'matmul_seconds': run_floor(steps)},
  )


if __name__ == '__main__':
  main()
