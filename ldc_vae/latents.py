"""Learns a file of latents in a workdir: the job of configs/latents.py."""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any

from absl import logging
from ml_collections import config_dict
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import run as run_lib
from ldc_vae.api import latent_files
from ldc_vae.api import latent_sampler
from ldc_vae.data import request
from ldc_vae.runtime import cluster
from ldc_vae.runtime import files
from ldc_vae.runtime import lock
from ldc_vae.runtime import outputs
from ldc_vae.samplers import sampler_net
from ldc_vae.samplers import sampler_options

_SHOWN = 2_000  # latents of each panel of the picture
# The names of sources in results.json.
_SOURCES = {latent_sampler.FRESH: 'aggregate', latent_sampler.OWN: 'generator'}


def is_config(config: config_dict.ConfigDict) -> bool:
  """Returns whether a config is of this job."""
  return config.dataset.name == request.LATENTS


def train(
  config: config_dict.ConfigDict, workdir: str | os.PathLike[str]
) -> None:
  """Trains a sampler net on the latents of a file, and measures its draws.

  Of the config it reads `seed`, `dataset.path`, `train.num_steps` and
  `train.batch_size`, `optimizer.latent_learning_rate`, `evaluate.samplers`, and
  of `method` the fields of `SamplerOptions`. The workdir gets `sampler.npz`,
  `results.json`, a picture of latents and draws, and `config.json`, all
  together at the end. Where they are there already, nothing is done.

  Args:
    config: A validated config whose data set is 'latents'.
    workdir: Made if it is missing.

  Raises:
    UserError: The latents cannot be used, or the workdir holds another run.
    OSError: A file cannot be read or written.
  """
  if config.method.name != 'ldc':
    raise errors.UserError(
      f'config.method.name={config.method.name}: latents are learned by the'
      ' sampler net of ldc; leave the method out'
    )
  if not cluster.is_alone():
    raise errors.UserError(
      'latents are learned by one process; leave --coordinator_address,'
      ' --num_processes and --process_id out'
    )
  workdir = pathlib.Path(workdir)
  latents, stds = latent_files.read(config.dataset.path)
  data = _digest(latents, stds)
  with lock.lock_workdir(workdir):
    outputs.recover(workdir)
    run_lib.check_same(workdir, config)
    stored = files.read_record(workdir / outputs.RESULTS)
    if stored is not None and stored.get('protocol/data') != data:
      raise errors.UserError(
        f'{workdir} holds a sampler of other latents than those of'
        f' config.dataset.path={config.dataset.path}; give these, or another'
        ' --workdir'
      )
    if _is_done(config, workdir, stored):
      logging.info('already done')
      return
    sampler = latent_sampler.fit_sampler(
      latents,
      stds,
      seed=config.seed,
      compare=config.evaluate.samplers,
      num_steps=config.train.num_steps or sampler_net.NUM_STEPS,
      batch_size=config.train.batch_size,
      learning_rate=config.optimizer.latent_learning_rate,
      **{
        field.name: config.method[field.name]
        for field in dataclasses.fields(sampler_options.SamplerOptions)
      },
    )
    results = {
      'num_latents': len(latents),
      'latent_size': sampler.latent_size,
      'seed': config.seed,
      'protocol/data': data,
      'protocol/evaluate': run_lib.describe_evaluation(config),
      **_named(sampler),
    }
    with outputs.replaced(workdir) as folder:
      sampler.save(folder / outputs.SAMPLER)
      _draw(sampler, latents, stds, folder / outputs.FIGURES, config.seed)
      files.write_json(folder / 'config.json', config_lib.to_json(config))
      results[outputs.DIGESTS] = outputs.seal(folder, results)
      files.write_json(folder / outputs.RESULTS, results)
  logging.info('sampler: %s', workdir / outputs.SAMPLER)


def sample(
  workdir: str | os.PathLike[str],
  *,
  seed: int,
  num_samples: int,
  output: str | os.PathLike[str],
) -> None:
  """Draws latents from the sampler of a workdir into an .npz file.

  Args:
    workdir: What `train` has made.
    seed: The seed of the draws.
    num_samples: How many.
    output: The .npz file; `latents` float32 [N, D].

  Raises:
    UserError: The sampler cannot be read.
    OSError: The file cannot be written.
  """
  path = pathlib.Path(workdir) / outputs.SAMPLER
  files.check_writable(output)
  sampler = latent_sampler.LatentSampler.load(path)
  files.write_npz(output, latents=sampler.sample(num_samples, seed=seed))
  logging.info('wrote %d latents to %s', num_samples, output)


def _digest(*arrays: np.ndarray | None) -> str:
  """Returns the SHA-256 of some arrays; None counts too."""
  digest = hashlib.sha256()
  for x in arrays:
    digest.update(repr(x is None or (x.shape, str(x.dtype))).encode())
    if x is not None:
      digest.update(np.ascontiguousarray(x).view(np.uint8).data)
  return digest.hexdigest()


def _is_done(
  config: config_dict.ConfigDict,
  workdir: pathlib.Path,
  stored: dict[str, Any] | None,
) -> bool:
  """Returns whether the workdir has what the config asks for, undamaged."""
  if stored is None:
    return False
  if stored.get('protocol/evaluate') != run_lib.describe_evaluation(config):
    return False
  damage = outputs.damage(workdir, stored)
  if damage:
    logging.warning('%s: %s: it is made again', workdir, damage)
  return not damage


def _named(sampler: latent_sampler.LatentSampler) -> dict[str, float | None]:
  """Returns the distances under the names of results.json."""
  return {
    f'latent/{metric}_{_SOURCES.get(source, source)}': (
      None if found is None else found[metric]
    )
    for source, found in sampler.distances.items()
    for metric in ('sliced_wasserstein', 'missed_share')
  }


def _draw(
  sampler: latent_sampler.LatentSampler,
  latents: np.ndarray,
  stds: np.ndarray | None,
  folder: pathlib.Path,
  seed: int,
) -> None:
  """Draws latents, or draws of their posteriors, beside those of the net."""
  from ldc_vae.reporting import latent_map  # pictures take a second to import

  folder.mkdir()
  rng = np.random.default_rng(seed)
  chosen = rng.permutation(len(latents))[:_SHOWN]
  aggregate = np.asarray(latents[chosen], np.float64)
  if stds is not None:
    aggregate += stds[chosen] * rng.normal(size=aggregate.shape)
  latent_map.latent_map(
    {
      'aggregate': aggregate,
      'generator': sampler.sample(len(chosen), seed=seed),
    },
    folder / 'latent_map.png',
    title=f'{latents.shape[1]} dimensions: latents, and draws of the net',
  )
