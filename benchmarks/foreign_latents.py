"""How near `fit_sampler` comes to the latents of other people's encoders.

python -m benchmarks.foreign_latents --torch_python=PYTHON_WITH_TORCH \\
  --output=benchmarks/results/foreign_latents.json

Three sets of latents of training images: posteriors of a PyTorch VAE of MNIST,
Fashion-MNIST's first 32 principal components, and 512 activations of a PyTorch
classifier of CIFAR-10, reduced to 64 components. `fit_sampler` learns each with
its defaults. A row has the distances of draws from held-out latents, as
`fit_sampler` reports them.
"""

import argparse
from collections.abc import Callable, Sequence
import pathlib
import subprocess
import tempfile
from typing import Any

import numpy as np

from benchmarks import common
import ldc_vae
from ldc_vae.data import datasets
from ldc_vae.reporting import tables

MODULE = 'benchmarks.foreign_latents'
_WORKER = pathlib.Path(__file__).with_name('foreign_latents_torch.py')
_NUM_FASHION, _NUM_REDUCED = 32, 64  # principal components

Latents = tuple[np.ndarray, np.ndarray | None]  # and standard deviations


def principal(x: np.ndarray, count: int) -> np.ndarray:
  """The first principal components [N, count] of rows [N, P]."""
  x = np.asarray(x, np.float64) - np.mean(x, axis=0, dtype=np.float64)
  _, directions = np.linalg.eigh(x.T @ x)  # the largest is last
  return x @ directions[:, : -count - 1 : -1]


def _pixels(name: str, data_dir: str) -> tuple[np.ndarray, np.ndarray]:
  """The training images of a set as float32 [N, P] in [0, 1], and labels."""
  dataset = datasets.load(name, data_dir=data_dir)
  images = dataset.images['train']
  assert dataset.labels is not None  # all three have some
  pixels = images.reshape(len(images), -1).astype(np.float32) / 255.0
  return pixels, dataset.labels['train']


def _by_torch(
  kind: str, torch_python: str, images: np.ndarray, labels: np.ndarray
) -> Latents:
  """Latents of a net that another Python trains."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'arrays.npz')
    np.savez(path, images=images, labels=labels)
    subprocess.run((torch_python, str(_WORKER), kind, str(path)), check=True)
    with np.load(path) as arrays:
      return arrays['latents'], arrays.get('stds')


def _mnist_vae(torch_python: str, data_dir: str) -> Latents:
  return _by_torch('vae', torch_python, *_pixels('mnist', data_dir))


def _fashion_pca(torch_python: str, data_dir: str) -> Latents:
  del torch_python  # it needs none
  images, _ = _pixels('fashion_mnist', data_dir)
  return principal(images, _NUM_FASHION), None


def _cifar10_embeddings(torch_python: str, data_dir: str) -> Latents:
  images, labels = _pixels('cifar10', data_dir)
  embeddings, _ = _by_torch('classifier', torch_python, images, labels)
  return principal(embeddings, _NUM_REDUCED), None


SETS: dict[str, Callable[[str, str], Latents]] = {
  'mnist_vae': _mnist_vae,
  'fashion_mnist_pca': _fashion_pca,
  'cifar10_embeddings': _cifar10_embeddings,
}


def to_markdown(rows: Sequence[dict[str, Any]]) -> str:
  """One table for each set: distances, mean and deviation over the seeds."""
  parts = []
  for name in dict.fromkeys(row['set'] for row in rows):
    own = [row for row in rows if row['set'] == name]
    sources = list(own[0]['distances'])
    lines = [
      [
        source,
        *(
          common.show_spread(
            [(row['distances'][source] or {}).get(key) for row in own]
          )
          for key in ('sliced_wasserstein', 'missed_share')
        ),
      ]
      for source in sources
    ]
    head = f'{name}, {own[0]["size"]} dimensions, {len(own)} seeds'
    parts.append(
      tables.markdown_table(
        [head, 'sliced Wasserstein distance', 'missed share'], lines
      )
    )
  return '\n'.join(parts)


def main(argv: Sequence[str]) -> int:
  """Fits, prints the tables and writes them with the JSON file."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data_dir', default='', help='prepared TFDS data')
  parser.add_argument(
    '--torch_python', default='', help='a Python that can import torch'
  )
  parser.add_argument('--sets', type=common.names, default=tuple(SETS))
  parser.add_argument('--seeds', type=common.integers, default=(0, 1, 2))
  parser.add_argument('--output', default='')
  args = common.parse_args(parser, argv)
  common.choose('sets', args.sets, SETS, required=True)
  if not args.torch_python and set(args.sets) != {'fashion_mnist_pca'}:
    raise ValueError(
      '--torch_python is missing; give a Python that can import torch, or'
      ' --sets=fashion_mnist_pca'
    )
  common.set_up_jax()
  record = common.create_record(MODULE, argv, args.seeds)
  record['rows'] = rows = []
  for name in args.sets:
    latents, stds = SETS[name](args.torch_python, args.data_dir)
    for seed in args.seeds:
      print(f'{name}, seed {seed}', flush=True)
      sampler = ldc_vae.fit_sampler(latents, stds, seed=seed)
      rows.append(
        {
          'set': name,
          'size': sampler.latent_size,
          'seed': seed,
          'distances': dict(sampler.distances),
        }
      )
      if args.output:
        common.write(args.output, record, to_markdown(rows))
  print(to_markdown(rows))
  return 0


if __name__ == '__main__':
  common.run(main)
