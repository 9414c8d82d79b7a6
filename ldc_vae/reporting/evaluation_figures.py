"""All pictures of an evaluation."""

from collections.abc import Mapping
import pathlib
from typing import Any

from absl import logging
import numpy as np

from ldc_vae import names
from ldc_vae.evaluation import sources as sources_lib
from ldc_vae.reporting import curves
from ldc_vae.reporting import latent_map
from ldc_vae.reporting import run_figures
from ldc_vae.runtime import durable
from ldc_vae.runtime import metric_writer

_NUM_INTERPOLATIONS = 8
_INTERPOLATION_STEPS = 11
SHOWN = 100  # images of a figure


def draw(
  workdir: pathlib.Path,
  folder: pathlib.Path,
  networks: sources_lib.Networks,
  sources: sources_lib.Sources,
  results: Mapping[str, Any],
) -> None:
  """Writes the pictures of an evaluation.

  Args:
    workdir: Its metrics.jsonl gives the training curves.
    folder: Where they are written.
    networks: Decodes interpolations.
    sources: The images and latents.
    results: The content of results.json.
  """
  name, split = workdir.name, results['protocol/split']
  images = sources.images
  test = np.asarray(sources.test_images[:SHOWN])
  run_figures.sample_grid(
    images['generator'][:SHOWN],
    folder / 'sample_grid.png',
    title=f'Samples of the generator ({name})',
  )
  run_figures.reconstructions(
    test,
    images['reconstruction'][:SHOWN],
    folder / 'reconstructions.png',
    title=f'Held-out images and their reconstructions ({name})',
  )
  ends = sources.test_means[: 2 * _NUM_INTERPOLATIONS]
  if len(ends) >= 2:
    starts, stops = (
      ends[: len(ends) // 2],
      ends[len(ends) // 2 :][: len(ends) // 2],
    )
    run_figures.interpolations(
      networks.interpolate(starts, stops, _INTERPOLATION_STEPS),
      folder / 'interpolations.png',
      title=f'From one image to another, in latent space ({name})',
    )
  shown = [
    x for x in ('aggregate', 'generator', 'prior') if x in sources.latents
  ]
  labels = None
  if sources.aggregate_labels is not None:
    labels = {'aggregate': sources.aggregate_labels}
  latent_map.latent_map(
    {source: sources.latents[source] for source in shown},
    folder / 'latent_map.png',
    labels=labels,
    title=f'Latents ({name})',
  )
  family = names.main_distance(results)
  run_figures.source_grid(
    {source: x[:SHOWN] for source, x in images.items()},
    folder / 'source_grid.png',
    distances={x: results.get(f'{family}/{x}') for x in images},
    title=f'One decoder, many latent sources ({name})',
  )
  run_figures.decomposition_bars(
    results,
    folder / 'decomposition_bars.png',
    title=f'Distance from the {split} split by latent source ({name})',
  )
  try:
    rows = metric_writer.read_metrics(workdir / 'metrics.jsonl')
  except durable.FileError as error:  # the results do not need it
    logging.warning('no training curves are drawn: %s', error)
    rows = []
  curves.training_curves(
    rows,
    folder / 'training_curves.png',
    title=f'Training ({name})',
  )
