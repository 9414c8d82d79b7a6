"""The latent samplers by name: distributions fitted to latents after training.

A sampler is a function `(latents, *, seed) -> sample_fn` in `SAMPLERS`. It may
have more options. A key that ends in `_K` takes a number: `gmm_10` calls the
sampler `gmm_K` with 10. A `sample_fn(num, seed)` returns float32 [num, D], and
equal seeds give equal draws.

Letters: N latents, D latent size.
"""

from collections.abc import Callable
import re
from typing import Any

import numpy as np

from ldc_vae import errors
from ldc_vae.samplers import coupling_flow
from ldc_vae.samplers import drifting
from ldc_vae.samplers import flow_matching
from ldc_vae.samplers import gaussian_mixture
from ldc_vae.samplers import langevin
from ldc_vae.samplers import nearest
from ldc_vae.samplers import sampler_net
from ldc_vae.samplers import two_stage

SampleFn = Callable[[int, int], np.ndarray]


def fit(
  name: str, latents: np.ndarray, *, seed: int = 0, **options: Any
) -> SampleFn:
  """Fits the sampler of a name to latents.

  Args:
    name: A key of `SAMPLERS`; for `gmm_K`, K is a number, such as 'gmm_10'.
    latents: Draws of the aggregate posterior, shape [N, D].
    seed: The seed of a random fit.
    **options: The sampler's own options, for example `num_steps`.

  Returns:
    A function `(num, seed) -> float32 [num, D]`.

  Raises:
    UserError: The name is unknown, or the latents cannot be fitted.
  """
  family, number = _parse_name(name)
  latents = np.asarray(latents, np.float64)
  if latents.ndim != 2 or 0 in latents.shape:
    raise errors.UserError(
      f'latents have shape {latents.shape}; {name!r} needs shape [N, D]'
    )
  num_bad = int(np.sum(~np.isfinite(latents).all(axis=1)))
  if num_bad:
    raise errors.UserError(
      f'{num_bad} of {len(latents)} latents are not finite, so {name!r}'
      ' cannot be fitted; check whether the training diverged'
    )
  if number is None:
    return SAMPLERS[family](latents, seed=seed, **options)
  return SAMPLERS[family](latents, number, seed=seed, **options)


def fit_prior(latents: np.ndarray, *, seed: int) -> SampleFn:
  """Returns draws of N(0, I); only the size D of the latents [N, D] is used."""
  del seed
  dim = latents.shape[1]

  def sample(num: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(num, dim))
    return noise.astype(np.float32)

  return sample


def fit_gaussian(latents: np.ndarray, *, seed: int) -> SampleFn:
  """Fits a Gaussian with full covariance to latents [N, D]."""
  del seed
  if len(latents) < 2:
    raise errors.UserError(
      "1 latent has no covariance; 'gaussian' needs at least 2"
    )
  mean = np.mean(latents, axis=0)
  centered = latents - mean
  # Eigenvectors, because a Cholesky factor fails where a latent is constant.
  values, vectors = np.linalg.eigh(centered.T @ centered / (len(latents) - 1))
  root = vectors * np.sqrt(np.maximum(values, 0.0))

  def sample(num: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(num, len(mean)))
    return (mean + noise @ root.T).astype(np.float32)

  return sample


# A K at the end of a key stands for a number.
SAMPLERS: dict[str, Callable[..., SampleFn]] = {
  'prior': fit_prior,
  'gaussian': fit_gaussian,
  'gmm_K': gaussian_mixture.fit,
  'two_stage': two_stage.fit,
  'langevin': langevin.SAMPLER.fit,
  'flow_matching': flow_matching.SAMPLER.fit,
  'flow': coupling_flow.SAMPLER.fit,
  'drifting': drifting.SAMPLER.fit,
  'svgd': sampler_net.fit,
  'nearest': nearest.fit,
}


def is_known(name: str) -> bool:
  """Returns whether a name is in `SAMPLERS`, with a positive number for K."""
  try:
    _, number = _parse_name(name)
  except ValueError:
    return False
  return number is None or number > 0


def _parse_name(name: str) -> tuple[str, int | None]:
  """Returns the key of SAMPLERS and the number of a name: ('gmm_K', 10)."""
  match = re.fullmatch(r'(.+_)(\d+)', name)
  if name in SAMPLERS and not name.endswith('_K'):
    return name, None
  if match and match[1] + 'K' in SAMPLERS:
    return match[1] + 'K', int(match[2])
  known = ', '.join(sorted(SAMPLERS))
  raise errors.UserError(
    f'unknown latent sampler {name!r}; known: {known} (K is a number, for'
    ' example gmm_10)'
  )
