"""Trains on more images than fit the memory, and measures what it needs.

python -m benchmarks.large_set --output=benchmarks/results/large_set.json

A script makes the images: an array file, and a folder of PNG files. Each is
trained by `vae` in a process of its own, first with an empty cache and then
with a full one. Private memory is what the process itself holds; the pages of
files that are in memory are not counted, because the system takes them back
where memory is short. The batches of an epoch are then read without a step.
"""

import argparse
from collections.abc import Sequence
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
from PIL import Image

from benchmarks import common
from ldc_vae import config as config_lib
from ldc_vae import train
from ldc_vae.data import datasets

_CHUNK = 1000  # images that are made at a time
_BATCH = 128
_PRIVATE = re.compile(r'RssAnon:\s+(\d+) kB')
_COLUMNS = {
  'decode_seconds': 'decoding, s',
  'load_seconds': 'loading, s',
  'batches_per_second': 'images/s of batches',
  'steps_per_second': 'images/s of steps',
  'private_load': 'private memory, loading, GB',
  'private_train': 'private memory, training, GB',
}


def main(argv: Sequence[str]) -> int:
  """Measures, prints a table and writes the result."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--images', type=common.positive, default=1_000_000, help='of the array')
  add('--files', type=common.positive, default=200_000, help='of the folder')
  add('--steps', type=common.positive, default=500)
  add('--size', type=common.positive, default=32, help='pixels of a side')
  add('--path', default='', help='work on what this script has made there')
  add('--worker', default='', help=argparse.SUPPRESS)
  add('--output', default='')
  args = common.parse_args(parser, argv)
  if args.worker:
    print(json.dumps(_measure(args.worker, args.steps)))
    return 0
  record = common.create_record('benchmarks.large_set', argv, seeds=[0])
  with tempfile.TemporaryDirectory(dir=args.path or None) as folder:
    root = pathlib.Path(folder)
    make_array(root / 'images.npy', args.images, args.size)
    make_folder(root / 'files', args.files, args.size)
    record['rows'] = [
      {'source': name, 'images': count, **_both(root, name, args.steps)}
      for name, count in (('images.npy', args.images), ('files', args.files))
    ]
  markdown = _table(record['rows'], args.size)
  print(markdown)
  if args.output:
    common.write(args.output, record, markdown)
  return 0


def make_array(path: pathlib.Path, count: int, size: int) -> None:
  """Writes an array file of colour images, of which no two are equal."""
  images = np.lib.format.open_memmap(
    path, 'w+', np.uint8, (count, size, size, 3)
  )
  for start in range(0, count, _CHUNK):
    images[start : start + _CHUNK] = _images(start, size)[: count - start]


def make_folder(path: pathlib.Path, count: int, size: int) -> None:
  """Writes a folder of PNG files, a thousand in each folder."""

  def make(start: int) -> None:
    part = path / f'part_{start // _CHUNK:05d}'
    part.mkdir(parents=True)
    for index, image in enumerate(_images(start, size)[: count - start]):
      Image.fromarray(image).save(part / f'{index:03d}.png', compress_level=1)

  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(make, range(0, count, _CHUNK)))


def _images(start: int, size: int) -> np.ndarray:
  """Returns `_CHUNK` images: four by four squares of random colours."""
  rng = np.random.default_rng(start)
  small = rng.integers(0, 256, (_CHUNK, 4, 4, 3), dtype=np.uint8)
  rows = np.arange(size) * 4 // size
  return small[:, rows][:, :, rows]


def _both(root: pathlib.Path, name: str, num_steps: int) -> dict[str, float]:
  """Runs a worker with an empty cache and another with a full one."""
  words = (sys.executable, '-m', 'benchmarks.large_set')
  environment = {
    **os.environ,
    'LDC_VAE_CACHE': str(root / f'{name}.cache'),
    'JAX_PLATFORMS': os.environ.get('JAX_PLATFORMS', 'cpu'),
  }
  found = []
  for _ in range(2):
    worker = f'--worker={root / name}'
    output = subprocess.run(
      (*words, worker, f'--steps={num_steps}'),
      env=environment,
      check=True,
      stdout=subprocess.PIPE,
    ).stdout
    found.append(json.loads(output.splitlines()[-1]))
  cold, warm = found
  peaks = {
    key: max(cold[key], warm[key]) for key in ('private_load', 'private_train')
  }
  return {**warm, **peaks, 'decode_seconds': cold['load_seconds']}


def _measure(path: str, num_steps: int) -> dict[str, float]:
  """Loads and trains; returns rates, seconds and the peaks of memory."""
  peak = _Peak()
  start = time.monotonic()
  dataset = datasets.load('images', path=path, num_validation=1000)
  datasets.fingerprint(dataset)
  load_seconds, private_load = time.monotonic() - start, peak.take()
  images = dataset.images['train']
  batches = datasets.train_batches(images, _BATCH, seed=0)
  num_batches = len(images) // _BATCH
  start = time.monotonic()
  for _ in range(num_batches):
    next(batches)
  batches_per_second = num_batches * _BATCH / (time.monotonic() - start)
  config = config_lib.load(
    'configs/images.py:vae',
    {
      'dataset.path': path,
      'model.architecture': 'mlp',
      'train.batch_size': _BATCH,
      'train.num_steps': num_steps,
      'train.log_every': max(1, num_steps // 5),
    },
  )
  peak.take()
  with tempfile.TemporaryDirectory() as workdir:
    train.train_and_evaluate(config, workdir, with_evaluation=False)
    lines = pathlib.Path(workdir, 'metrics.jsonl').read_text().splitlines()
  rates = [json.loads(line).get('train/images_per_sec') for line in lines]
  return {
    'load_seconds': load_seconds,
    'batches_per_second': batches_per_second,
    'steps_per_second': float(np.median([x for x in rates[1:] if x])),
    'private_load': private_load,
    'private_train': peak.take(),
  }


class _Peak:
  """The most private memory of this process since the last reading."""

  def __init__(self):
    self._peak = 0
    threading.Thread(target=self._watch, daemon=True).start()

  def take(self) -> float:
    """Returns the peak in GB, and begins again."""
    self._look()
    peak, self._peak = self._peak, 0
    return peak / 1e9

  def _watch(self) -> None:
    while True:
      self._look()
      time.sleep(0.02)

  def _look(self) -> None:
    match = _PRIVATE.search(pathlib.Path('/proc/self/status').read_text())
    assert match  # Linux
    self._peak = max(self._peak, 1024 * int(match[1]))


def _table(rows, size: int) -> str:
  """Returns the rows as Markdown."""
  head = ' | '.join(_COLUMNS.values())
  lines = [
    f'# {size}x{size}x3 images, `vae` on MLP nets, batch {_BATCH}\n',
    f'| source | images | {head} |',
    f'|---|---:|{"---:|" * len(_COLUMNS)}',
  ]
  for row in rows:
    values = ' | '.join(common.show(row[key]) for key in _COLUMNS)
    lines.append(f'| `{row["source"]}` | {row["images"]:,} | {values} |')
  return '\n'.join(lines) + '\n'


if __name__ == '__main__':
  common.run(main)
