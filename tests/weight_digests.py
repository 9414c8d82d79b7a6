"""Prints a digest of all weights of each method after 24 steps of training.

python -m tests.weight_digests                  # all methods, on digits
python -m tests.weight_digests vae ldc

Two commits that print the same lines on one machine compute the same weights,
bit for bit. Other machines may round otherwise, so the digests are compared and
not stored.
"""

import hashlib
import os
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', '')

# pylint: disable=g-import-not-at-top
import jax
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import methods
from ldc_vae import step as step_lib
from ldc_vae.data import datasets


def digest(method: str) -> str:
  """Returns the digest of the state after a debug run's training.

  Args:
    method: A method's name.

  Returns:
    The first 32 digits of a SHA-256 over names, shapes and bytes.
  """
  config = config_lib.load(f'configs/digits.py:{method},debug')
  experiment = experiment_lib.create(config)
  step_fn = step_lib.pmap_train_step(
    experiment_lib.make_train_step(
      config, experiment.algorithm, experiment.txs, experiment.num_steps
    ),
    num_devices=1,
  )
  state = experiment.init_state()
  batches = datasets.train_batches(
    experiment.dataset.images['train'],
    config.train.batch_size,
    seed=config.seed,
    start_step=0,
  )
  for _ in range(experiment.num_steps):
    state, _ = step_fn(state, next(batches)[None], experiment.key)
  found = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(state)):
    leaf = np.asarray(leaf)
    name = jax.tree_util.keystr(path)
    found.update(f'{name} {leaf.shape} {leaf.dtype}'.encode())
    found.update(leaf.tobytes())
  return found.hexdigest()[:32]


def main(names: list[str]) -> None:
  """Prints a line for each method."""
  for method in names or sorted(methods.METHODS):
    print(f'{method:10s} {digest(method)}', flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
