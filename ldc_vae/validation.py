"""The metrics of a run on the validation split."""

import collections
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import experiment as experiment_lib
from ldc_vae import step as step_lib
from ldc_vae import streams
from ldc_vae.data import datasets
from ldc_vae.methods import base
from ldc_vae.metrics import latent as latent_metrics


def make_validation_fn(
  experiment: experiment_lib.Experiment, binarize: bool, batch_size: int
) -> Callable[..., dict[str, float] | None]:
  """Returns a function of the state: the mean metrics on the validation split.

  They are the metrics of the method's first phase under the averaged weights,
  with the same noise each time, and the active units of a method with an
  encoder. The second argument is a function that says before each batch whether
  to stop. The result is then None.

  Args:
    experiment: The run.
    binarize: Whether to draw binary images, as in training.
    batch_size: Images at a time.
  """
  algorithm = experiment.algorithm
  phase = algorithm.phases[0]
  images = experiment.dataset.images['validation']
  key = jax.random.fold_in(experiment.key, streams.Stream.VALIDATION.value)

  @jax.jit
  def batch_metrics(state, images, mask, first):
    images, keys = step_lib.eval_images(images, key, binarize, first)
    context = base.Context(
      progress=jnp.ones(()), stats=state.stats, ema_params=state.ema_params
    )

    def metrics_fn(images, keys):
      output = phase.objective_fn(state.ema_params, images, keys, context)
      return output.metrics

    if phase.per_image:
      metrics = jax.vmap(metrics_fn)(images[:, None], keys[:, None])
    else:
      metrics = metrics_fn(images, keys)
    sums = jax.tree.map(lambda x: jnp.sum(jnp.where(mask, x, 0.0)), metrics)
    if algorithm.encode is not None:  # Langevin chains take too long
      return sums, None
    posterior = base.encode(
      algorithm,
      experiment.model,
      state.ema_params,
      state.stats,
      images,
      keys,
    )
    return sums, (posterior.mean, posterior.mean_variance)

  def validate(state, is_stopping_fn=lambda: False):
    totals = collections.defaultdict(float)
    means, first = [], 0
    batches_fn = datasets.eval_batches if phase.per_image else _whole_sets
    for batch, mask in batches_fn(images, batch_size):
      if is_stopping_fn():
        return None
      sums, batch_means = jax.device_get(
        batch_metrics(state, batch, mask, first)
      )
      first += len(batch)
      if batch_means is not None:
        means.append(jax.tree.map(lambda x, mask=mask: x[mask], batch_means))
      for name, value in sums.items():
        totals[f'validation/{name}'] += float(value) / len(images)
    if len(images) > 1 and means:  # one mean has no variance
      totals['validation/active_units'] = float(
        latent_metrics.active_units(
          *jax.tree.map(lambda *rows: np.concatenate(rows), *means)
        )
      )
    return dict(totals)

  return validate


def _whole_sets(
  images: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields batches like `datasets.eval_batches`, but without padding.

  Padding would be part of a set. The sizes of the batches differ by one image
  at most, so that no set is too small.
  """
  for part in np.array_split(images, -(-len(images) // batch_size)):
    yield part, np.ones(len(part), bool)
