"""A sampler for the latents of any autoencoder, embedding or encoder.

    sampler = ldc_vae.fit_sampler(latents)
    new_latents = sampler.sample(1000, seed=1)

It is `ldc`'s sampler net, trained by SVGD on latents that stay as they are: the
latent sampler `svgd`. A draw is one pass of the net.

Letters: N latents, D latent size.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import dataclasses
import inspect
import json
import math
import os
import pathlib
import time
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from ldc_vae import errors
from ldc_vae import fields as fields_lib
from ldc_vae.api import arguments
from ldc_vae.api import latent_files
from ldc_vae.api import trained_run
from ldc_vae.metrics import latent as latent_metrics
from ldc_vae.runtime import files
from ldc_vae.runtime import progress
from ldc_vae.samplers import registry
from ldc_vae.samplers import sampler_net
from ldc_vae.samplers import sampler_options

# What the draws are compared with, by the names of `registry.SAMPLERS`.
RIVALS = ('gaussian', 'gmm_10', 'gmm_50', 'gmm_200', 'flow_matching')
FRESH, OWN = 'training latents', 'sampler net'

_FEWEST = 20  # latents
_LARGEST_HELD_OUT = 10_000
_NUM_DRAWS = 10_000  # of each source: few held-out latents need many draws
_DRAWN = 50_000  # latents at least, where they have standard deviations
_NUM_PROJECTIONS = 200
_NUM_SETS = 3  # sets of draws over which distances are averaged


@dataclasses.dataclass(frozen=True)
class LatentSampler:
  """A trained sampler of latents, and how near its draws are.

  Attributes:
    net: The trained net.
    distances: Source of latents to its distances from held-out latents, None
      where a source could not be fitted. 'sliced_wasserstein' is in standard
      deviations of the latents. 'missed_share' is the share of the latents that
      the draws visit less than half as often as they should.
      'training latents' are as near as a perfect sampler gets.
    num_held_out: The number of held-out latents.
  """

  net: sampler_net.Fit
  distances: Mapping[str, Mapping[str, float] | None]
  num_held_out: int

  @property
  def latent_size(self) -> int:
    """The dimension D."""
    return len(self.net.affine['mean'])

  def sample(self, num: int, *, seed: int = 0) -> np.ndarray:
    """Draws latents, float32 [num, D]; equal seeds give equal draws.

    Raises:
      UserError: The number or the seed is none.
    """
    return self.net(
      arguments.number('num', num, 1),
      arguments.number('seed', seed, 0),
    )

  def table(self) -> str:
    """Returns the distances as a table of text."""
    width = max(map(len, self.distances))
    rows = [f'{"":{width}}  sliced Wasserstein  missed share']
    for name, values in self.distances.items():
      cells = 'could not be fitted'
      if values is not None:
        distance, share = values['sliced_wasserstein'], values['missed_share']
        cells = f'{distance:18.4f}  {share:12.2f}'
      rows.append(f'{name:{width}}  {cells}')
    rows.append(
      f'distance from {self.num_held_out:,} held-out latents, in standard'
      ' deviations'
    )
    return '\n'.join(rows)

  def __repr__(self) -> str:
    return f'LatentSampler(latent size {self.latent_size})\n{self.table()}'

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the sampler into an .npz file.

    Args:
      path: The file; its name ends in .npz.

    Raises:
      UserError: Its name has another end.
      OSError: It cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix != '.npz':
      raise errors.UserError(f'{path}: give a name that ends in .npz')
    described = {
      'distances': self.distances,
      'num_held_out': self.num_held_out,
    }
    arrays = traverse_util.flatten_dict(
      {'weights': self.net.params, 'affine': self.net.affine}, sep='/'
    )
    files.write_npz(path, described=np.array(json.dumps(described)), **arrays)

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> 'LatentSampler':
    """Reads what `save` has written.

    Raises:
      UserError: The file is none of a sampler.
    """
    try:
      flat = files.read_npz(path)
      described = json.loads(str(flat.pop('described')))
      tree = traverse_util.unflatten_dict(flat, sep='/')
      net = sampler_net.Fit(tree['weights'], tree['affine'], metrics={})
      return cls(net, described['distances'], described['num_held_out'])
    except Exception as error:  # NumPy, zipfile and json raise many types
      raise errors.UserError(
        f'{path} cannot be read as a sampler ({error}); give a file that'
        ' LatentSampler.save has written'
      ) from error


def fit_sampler(
  latents: Any,
  stds: Any = None,
  *,
  seed: int = 0,
  compare: Iterable[str] = RIVALS,
  verbose: bool = True,
  **options: Any,
) -> LatentSampler:
  """Trains a sampler on latents, and compares its draws with held-out ones.

  A tenth of the latents is held out, 10,000 at most. Training takes a minute or
  two on two cores, whatever N is.

  Args:
    latents: Finite numbers, shape [N, D], N at least 20; or a file: an .npy, an
      .npz or a .safetensors file, see `latent_files.read`.
    stds: Posterior standard deviations, shape [N, D]; `latents` are the means
      then, and draws of the posteriors are learned. None for none.
    seed: The seed of the split, the training and all draws.
    compare: Other samplers to fit and compare, names of
      `ldc_vae.samplers.registry.SAMPLERS`.
    verbose: Whether to print times and the table.
    **options: Options of `samplers.sampler_net.fit`, such as `num_steps`, and
      fields of `samplers.sampler_options.SamplerOptions`.

  Returns:
    The sampler.

  Raises:
    UserError: The latents or an option cannot be used, or the training
      diverged.
    OSError: A file cannot be read.
  """
  trained_run.prepare_jax()
  seed = arguments.number('seed', seed, 0)
  compare = _checked_names(compare)
  _check_options(options)
  if isinstance(latents, (str, os.PathLike)):
    latents, of_file = latent_files.read(latents)
    stds = of_file if stds is None else stds
  train, held_out = _split(*_checked(latents, stds), seed)
  with _timed('training the sampler net', verbose):
    net = registry.fit('svgd', train, seed=seed, **options)
  assert isinstance(net, sampler_net.Fit)  # what 'svgd' gives
  sources: dict[str, registry.SampleFn | None] = {
    FRESH: lambda num, seed: np.random.default_rng(seed).permutation(train)[
      :num
    ],
    OWN: net,
  }
  for name in compare:
    with _timed(f'fitting {name}', verbose):
      try:
        sources[name] = registry.fit(name, train, seed=seed)
      except errors.UserError:  # fewer latents than components
        sources[name] = None
  distances = {
    name: sample_fn and _distances(sample_fn, train, held_out, seed)
    for name, sample_fn in sources.items()
  }
  sampler = LatentSampler(net, distances, len(held_out))
  if verbose:
    print(sampler.table())
  return sampler


@contextlib.contextmanager
def _timed(what: str, verbose: bool) -> Iterator[None]:
  """Says how long something took."""
  start = time.monotonic()
  with progress.activity(what):
    yield
  if verbose:
    print(f'{what}: {time.monotonic() - start:.0f} s', flush=True)


def _checked(latents: Any, stds: Any) -> tuple[np.ndarray, np.ndarray | None]:
  """Returns the arrays as float64, or raises a `UserError`."""
  latents = arguments.points('latents', latents, fewest=_FEWEST)
  latents = latents.astype(np.float64)
  if stds is None:
    if not np.ptp(latents, axis=0).any():
      raise errors.UserError('latents are all equal; give some that vary')
    return latents, None
  stds = arguments.points('stds', stds, fewest=_FEWEST).astype(np.float64)
  if stds.shape != latents.shape or stds.min() < 0.0:
    raise errors.UserError(
      f'stds have shape {stds.shape} and are at least {stds.min():.3g}; give'
      f' numbers from 0 on in the shape of the latents, {latents.shape}'
    )
  return latents, stds


def _split(
  latents: np.ndarray, stds: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns latents to train on and latents that are held out.

  With standard deviations both are draws; those to train on are several of each
  posterior where there are few.
  """
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(latents))
  num_held_out = min(max(len(latents) // 10, 2), _LARGEST_HELD_OUT)
  held_out, train = order[:num_held_out], order[num_held_out:]
  if stds is None:
    return latents[train], latents[held_out]
  train = np.tile(train, max(1, math.ceil(_DRAWN / len(train))))
  draw = lambda rows: (
    latents[rows] + stds[rows] * rng.normal(size=latents[rows].shape)
  )
  return draw(train), draw(held_out)


def _distances(
  sample_fn: registry.SampleFn,
  train: np.ndarray,
  held_out: np.ndarray,
  seed: int,
) -> dict[str, float]:
  """Returns the mean distances of some sets of draws from held-out latents."""
  unit = np.maximum(train.std(axis=0), 1e-6 * train.std() + 1e-30)
  found = []
  for index in range(_NUM_SETS):
    z = np.asarray(sample_fn(_NUM_DRAWS, seed + index), np.float64)
    distance = latent_metrics.sliced_wasserstein(
      (z / unit).astype(np.float32),
      (held_out / unit).astype(np.float32),
      jax.random.key(seed),
      _NUM_PROJECTIONS,
    )
    found.append((float(distance), latent_metrics.missed_share(held_out, z)))
  distance, share = np.mean(found, axis=0)
  return {'sliced_wasserstein': float(distance), 'missed_share': float(share)}


def _checked_names(names: Iterable[str]) -> tuple[str, ...]:
  """Returns the names of known samplers, or raises a `UserError`."""
  names = (names,) if isinstance(names, str) else tuple(names)
  for name in names:
    if not registry.is_known(name):
      raise errors.UserError(
        f'compare: {name!r} is unknown{fields_lib.suggest(name, RIVALS)};'
        f' known: {", ".join(registry.SAMPLERS)}, where K is a number'
      )
  return names


def _check_options(options: Mapping[str, Any]) -> None:
  """Raises a `UserError` for an option that is unknown or out of range."""
  of_fit = inspect.signature(sampler_net.fit).parameters
  own = {'latents', 'seed', 'options'}
  known = [name for name in of_fit if name not in own]
  described = dataclasses.fields(sampler_options.SamplerOptions)
  known += [each.name for each in described]
  for name in options:
    if name not in known:
      raise errors.UserError(
        f'{name} is no option{fields_lib.suggest(name, known)}; known:'
        f' {", ".join(known)}'
      )
  for name in ('num_steps', 'batch_size'):
    arguments.number(name, options.get(name, 1), 1)
  rate = options.get('learning_rate', 1.0)
  if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
    raise errors.UserError(f'learning_rate={rate!r}: give a number above 0')
