"""The modes of the command line that use a trained run."""

import os
import pathlib
import shutil

from absl import logging
from ml_collections import config_dict
import numpy as np

from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae.api import export as export_lib
from ldc_vae.api import trained_run
from ldc_vae.data import datasets
from ldc_vae.data import own_images
from ldc_vae.data import splits
from ldc_vae.reporting import run_figures
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import cluster
from ldc_vae.runtime import files
from ldc_vae.runtime import memory

_SHOWN = 100  # images of a grid


def sample(
  config: config_dict.ConfigDict,
  workdir: str | os.PathLike[str],
  *,
  num_samples: int,
  output: str | os.PathLike[str],
) -> None:
  """Draws images from a trained run into an .npz file like samples.npz.

  Args:
    config: The run's config.
    workdir: The workdir of a run with a checkpoint; its data are not needed.
    num_samples: How many.
    output: The .npz file; `images` uint8 [N, H, W, C], `latents` float32
      [N, D]. A grid of the first hundred is put beside it as a PNG.

  Raises:
    FloatingPointError: A latent is not finite.
    OSError: No checkpoint, or a file cannot be read or written.
    UserError: So many samples have no room.
  """
  workdir, output = pathlib.Path(workdir), pathlib.Path(output)
  picture = output.with_suffix('.png')
  files.check_writable(output)
  files.check_writable(picture)
  run = trained_run.restore(config, workdir)
  if cluster.is_first():
    wanted = trained_run.require_memory('--num_samples', num_samples, run.model)
    _check_disk(num_samples, wanted, output)
    z = run.sample_latents(num_samples)
    images = run.decode(z)
    files.write_npz(output, images=images, latents=z)
    run_figures.sample_grid(
      images[:_SHOWN],
      picture,
      title=f'Samples of {workdir.name}, step {run.step}',
    )
    logging.info('wrote %d samples to %s and %s', num_samples, output, picture)
  cluster.barrier('sampled')


def encode(
  config: config_dict.ConfigDict,
  workdir: str | os.PathLike[str],
  *,
  images: str,
  output: str | os.PathLike[str],
) -> None:
  """Writes the latents of images into an .npz file.

  The file has `latents` float32 [N, D], one draw of each posterior, and
  `means` [N, D]; `logvars` [N, D] of a gaussian encoder; and `labels` int32 [N]
  of a split with labels.

  Args:
    config: The run's config.
    workdir: The workdir of a run with a checkpoint.
    images: A folder of image files, an .npz or an .npy file, which are read as
      `config.dataset.path` is, but kept in their order; or 'train',
      'validation' or 'test', a split of the run's own data.
    output: The .npz file.

  Raises:
    OSError: No checkpoint, or a file cannot be read or written.
    UserError: The images cannot be used, or are a split of other data than
      those that the run was trained on.
  """
  workdir, output = pathlib.Path(workdir), pathlib.Path(output)
  files.check_writable(output)
  run = trained_run.restore(config, workdir)
  if cluster.is_first():
    if images in splits.NAMES:
      pixels, labels = _read_split(config, workdir, images)
    else:
      shape, background = run.model.image_shape, config.dataset.background
      pixels, labels = own_images.read(images, shape, background), None
    posterior = run.posterior(pixels, seed=config.seed)
    arrays = {
      'latents': posterior.z,
      'means': posterior.mean,
      'logvars': posterior.logvar,
      'labels': labels,
    }
    arrays = {name: x for name, x in arrays.items() if x is not None}
    files.write_npz(output, **arrays)
    logging.info('wrote latents of %d images to %s', len(pixels), output)
  cluster.barrier('encoded')


def export(
  config: config_dict.ConfigDict,
  workdir: str | os.PathLike[str],
  *,
  output: str | os.PathLike[str],
) -> None:
  """Writes a run into a folder to share; see `TrainedRun.export`.

  Args:
    config: The run's config.
    workdir: The workdir of a run with a checkpoint; its data are not needed.
    output: The folder.

  Raises:
    OSError: No checkpoint, or a file cannot be read or written.
    UserError: The folder has other files.
  """
  export_lib.check_folder(pathlib.Path(output))
  run = trained_run.restore(config, workdir)
  if cluster.is_first():
    run.export(output)
    logging.info('wrote the run to %s', output)
  cluster.barrier('exported')


def _read_split(
  config: config_dict.ConfigDict, workdir: pathlib.Path, split: str
) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns a split of the run's own data, and its labels if it has any."""
  dataset = experiment_lib.load_dataset(config)
  checkpoints = workdir / 'checkpoints'
  meta = checkpoint_folder.read_meta(checkpoints) or {}
  present = datasets.fingerprint(dataset)
  datasets.check_same(meta.get('data'), present, dataset, str(checkpoints))
  labels = dataset.labels[split] if dataset.labels is not None else None
  return dataset.images[split], labels


def _check_disk(num_samples: int, wanted: int, output: pathlib.Path) -> None:
  """Raises a `UserError` if the samples do not fit the disk."""
  free = shutil.disk_usage(output.absolute().parent).free
  if wanted > free:
    raise errors.UserError(
      f'--num_samples={num_samples} makes {memory.gigabytes(wanted)}, of which'
      f' {memory.gigabytes(free)} fit the disk of {output}; draw fewer at a'
      ' time'
    )
