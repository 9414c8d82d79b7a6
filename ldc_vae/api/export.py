"""A trained run as one folder to share: weights, config, card and pictures.

The folder has the averaged weights and the statistics by name, in
`model.safetensors`, or in `model.npz` where the package safetensors is missing;
`config.json`, without places on this machine; `README.md`, a model card;
`sample_grid.png`; and `results.json` of a run that was evaluated.
`ldc_vae.load` reads it, and the run samples identically.
"""

from collections.abc import Iterable, Mapping
import hashlib
import os
import pathlib
from typing import Any

from absl import logging
import jax
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import experiment as experiment_lib
from ldc_vae import run as run_lib
from ldc_vae.api import latent_files
from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from ldc_vae.runtime import manifest
from ldc_vae.runtime import outputs

MODELS = ('model.safetensors', 'model.npz')  # one of them
CONFIG, CARD, GRID = 'config.json', 'README.md', 'sample_grid.png'
FILES = (*MODELS, CONFIG, CARD, GRID, outputs.RESULTS)  # no others

_CARD = """\
---
library_name: ldc_vae
tags: [{tags}]
---

# {label} on {dataset}

![Samples of the generator, unselected]({grid})

| what | value |
|---|---|
| method | `{method}`: {summary} |
| images | {shape} |
| latent size | {latent_size} |
| weights | {num_weights:,}, averaged, of step {step:,} |
| seed | {seed} |
| commit of the code | {commit} |

## Results

{results}

## Use

```python
import ldc_vae

run = ldc_vae.load('.')  # this folder
images = run.sample(64)
latents = run.encode(images)
```

`config.json` has all fields of the training.
"""


def write(
  trained: run_lib.Trained,
  folder: str | os.PathLike[str],
  *,
  images: np.ndarray,
  record: Mapping[str, Any],
  results: Mapping[str, Any] | None,
) -> None:
  """Writes a run into a folder.

  Args:
    trained: The run.
    folder: Made if it is missing; an earlier export in it is replaced.
    images: Samples for the picture, uint8 [N, H, W, C].
    record: The content of the run's config.json, with its versions and commit.
    results: The content of results.json; None without an evaluation.

  Raises:
    UserError: The folder has files that are no export.
    OSError: A file cannot be written.
  """
  from ldc_vae.reporting import run_figures  # a second, for pictures alone

  folder = pathlib.Path(folder).expanduser()
  check_folder(folder)
  try:
    durable.make_folder(folder)
    # what is half-way is no export
    for name in (CONFIG, outputs.RESULTS, *MODELS):
      (folder / name).unlink(missing_ok=True)
  except OSError as error:
    raise files.file_error(folder, error) from error
  values, _ = manifest.to_host(_tree(trained.params, trained.stats))
  model = _write_model(folder, values)
  label = config_lib.create_method(trained.config).label
  title = f'Samples of {label}, step {trained.step}'
  run_figures.sample_grid(images, folder / GRID, title=title)
  with files.open_atomically(folder / CARD) as file:
    file.write(_card(trained, record, results).encode())
  if results is not None:
    kept = {name: x for name, x in results.items() if name != outputs.DIGESTS}
    files.write_json(folder / outputs.RESULTS, kept)
  record = {
    **record,
    'config': _public(trained.config),
    'image_shape': trained.model.image_shape,
    'step': trained.step,
    'model_sha256': _digest(model),
  }
  files.write_record(folder / CONFIG, record)


def _write_model(
  folder: pathlib.Path, values: Mapping[str, np.ndarray]
) -> pathlib.Path:
  """Writes the arrays, and returns their file."""
  safe, plain = (folder / name for name in MODELS)
  try:
    from safetensors import numpy as safetensors
  except ImportError:
    logging.info(
      '%s has the weights: the package safetensors is missing', plain
    )
    files.write_npz(plain, **values)
    return plain
  with files.open_atomically(safe) as file:
    file.write(safetensors.save(dict(values)))
  return safe


def _model(folder: pathlib.Path) -> pathlib.Path | None:
  """Returns the file with the weights, if there is one."""
  found = (folder / name for name in MODELS)
  return next((path for path in found if path.is_file()), None)


def check_folder(folder: pathlib.Path) -> None:
  """Raises a `UserError` if a folder has files that are no export."""
  if folder.is_dir():
    is_free = {path.name for path in folder.iterdir()} <= {*FILES}
  else:
    is_free = not folder.exists()
  if not is_free:
    raise errors.UserError(
      f'{folder}: other files are there; give a new folder, or one of an'
      ' earlier export'
    )


def is_export(folder: pathlib.Path) -> bool:
  """Returns whether a folder has been written by `write`."""
  return _model(folder) is not None and (folder / CONFIG).is_file()


def read(
  folder: pathlib.Path, extensions: Iterable[str] | None = None
) -> run_lib.Trained:
  """Reads what `write` has written.

  Args:
    folder: The folder.
    extensions: The files of `config.extensions`, which an export leaves out.

  Raises:
    UserError: A file is damaged, or of another version.
    OSError: A file cannot be read.
  """
  config = config_lib.read(folder, extensions)
  record = files.read_json(folder / CONFIG) or {}
  path = _model(folder)
  assert path is not None  # `is_export` has looked
  if record.get('model_sha256') != _digest(path):
    raise errors.UserError(
      f'{path} is not as it was written; copy the folder again'
    )
  model = experiment_lib.create_model(config, tuple(record['image_shape']))
  algorithm = experiment_lib.create_algorithm(config, model)
  state = experiment_lib.abstract_state(config, model, algorithm)
  template = _tree(state.ema_params, state.stats)
  leaves = dict(
    zip(manifest.leaf_names(template), jax.tree.leaves(template), strict=True)
  )
  values = latent_files.load_arrays(path)
  for name in {**leaves, **values}:
    if name not in values or name not in leaves:
      raise errors.UserError(
        f'{path} and this version of the code do not both have'
        f' {name}; use the commit in {CONFIG}'
      )
  restored = jax.tree.unflatten(
    jax.tree.structure(template),
    [manifest.like_leaf(like, values[name]) for name, like in leaves.items()],
  )
  return run_lib.Trained(
    config,
    model,
    algorithm,
    restored['params'],
    restored['stats'],
    record['step'],
  )


def _tree(params: Any, stats: Any) -> dict[str, Any]:
  """Returns what the file of weights holds."""
  return {'params': params, 'stats': stats}


def _public(config) -> dict[str, Any]:
  """Returns a config without places on this machine."""
  named = config_lib.public(config)
  # a run on the user's own images needs some name there
  named['dataset']['path'] = pathlib.Path(config.dataset.path).name
  return named


def _card(
  trained: run_lib.Trained,
  record: Mapping[str, Any],
  results: Mapping[str, Any] | None,
) -> str:
  """Returns the model card, Markdown."""
  config, method = trained.config, config_lib.create_method(trained.config)
  shape = trained.model.image_shape
  return _CARD.format(
    tags=', '.join(('vae', 'jax', 'image-generation', method.name)),
    label=method.label,
    dataset=config.dataset.name,
    grid=GRID,
    method=method.name,
    summary=method.summary(),
    shape=f'{shape[0]}x{shape[1]}, {shape[2]} channel' + 's' * (shape[2] > 1),
    latent_size=trained.model.latent_size,
    num_weights=sum(x.size for x in jax.tree.leaves(trained.params)),
    step=trained.step,
    seed=config.seed,
    commit=record.get('git_commit') or 'unknown',
    results=_results(trained, results),
  )


def _results(
  trained: run_lib.Trained, results: Mapping[str, Any] | None
) -> str:
  """Returns the results of a card, Markdown."""
  from ldc_vae.reporting import result_tables

  if not results:
    return 'This run was not evaluated.'
  rows = ['| metric | value |', '|---|---:|']
  rows += [
    f'| {label} | {value} |'
    for label, value in result_tables.headlines(results)
  ]
  split, step = results.get('protocol/split'), results.get('step')
  note = f'Compared with the {split} split of the data.'
  if step != trained.step:
    note += f' These are the results of step {step}.'
  return '\n'.join([*rows, '', note])


def _digest(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
