"""What each choice of the sampler's training buys, one at a time.

python -m benchmarks.sampler_ablation --workdir=runs/mnist

Every variant is one change to the defaults of configs/default.py. It trains a
fresh sampler (and latent energy) by `ldc.latent_objective`, on two sets of
latents that stay as they are:

  images  Posterior draws of a trained run's encoder. Its decoder turns the
          sampler's latents into images, which are compared with the
          *validation* split: choices are never made on the test split.
  toy     A ring of 8 Gaussians in the plane, whose modes can be counted.

Letters: N latents' images, K draws of each, D latent size, n samples.
"""

import argparse
from collections.abc import Callable, Sequence
import functools
import time
from typing import Any, NamedTuple

from absl import logging
from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import config_dict
import numpy as np

from benchmarks import common
from configs import default
from ldc_vae import checkpoint
from ldc_vae import classifier as classifier_lib
from ldc_vae import comparison
from ldc_vae import config as config_lib
from ldc_vae import energy
from ldc_vae import evaluate
from ldc_vae import experiment as experiment_lib
from ldc_vae import latents as latents_lib
from ldc_vae import networks
from ldc_vae import step as step_lib
from ldc_vae.metrics import frechet
from ldc_vae.metrics import latent as latent_metrics
from ldc_vae.objectives import ldc
from ldc_vae.objectives import moments

Array = jax.Array

MODULE = 'benchmarks.sampler_ablation'

# Of configs/fashion_mnist.py.
_FASHION_RATES = {
    'optimizer.latent_learning_rate': 2e-3,
    'optimizer.latent_b1': 0.9,
    'optimizer.latent_final_fraction': 0.0,
}
VARIANTS = {
    'default': {},
    'temperature_end_1': {'objective.temperature_end': 1.0},
    'temperature_end_0.1': {'objective.temperature_end': 0.1},
    'temperature_end_0.03': {'objective.temperature_end': 0.03},
    'temperature_end_0.003': {'objective.temperature_end': 0.003},
    'temperature_constant_0.1': {
        'objective.temperature_start': 0.1, 'objective.temperature_end': 0.1,
    },
    'temperature_constant_0.003': {
        'objective.temperature_start': 0.003,
        'objective.temperature_end': 0.003,
    },
    'imq': {'objective.sampler_kernel': 'imq'},
    'multi_scale': {'objective.sampler_kernel': 'multi_scale'},
    'linear': {'objective.sampler_kernel': 'linear'},
    'bandwidth_1': {'objective.sampler_bandwidth_factor': 1.0},
    'bandwidth_0.2': {'objective.sampler_bandwidth_factor': 0.2},
    'bandwidth_0.05': {'objective.sampler_bandwidth_factor': 0.05},
    'imq_bandwidth_1': {
        'objective.sampler_kernel': 'imq',
        'objective.sampler_bandwidth_factor': 1.0,
    },
    'linear_bandwidth_1': {
        'objective.sampler_kernel': 'linear',
        'objective.sampler_bandwidth_factor': 1.0,
    },
    'moments_not_matched': {'objective.match_moments': False},
    'off_diagonal': {'objective.sampler_off_diagonal': True},
    'no_svgd': {'objective.sampler_svgd': False},
    'smoothed': {'objective.latent_target': 'smoothed'},
    'learned_fashion': {'objective.r1_weight': 1.0, **_FASHION_RATES},
    'ratio_fashion': {
        'objective.latent_target': 'ratio',
        'objective.r1_weight': 0.3,
        **_FASHION_RATES,
    },
    'n_128': {'objective.latents_per_image': 1, 'train.batch_size': 128},
    'n_256': {'objective.latents_per_image': 1, 'train.batch_size': 256},
    'n_512': {'objective.latents_per_image': 1, 'train.batch_size': 512},
    'n_512_two_per_image': {
        'objective.latents_per_image': 2, 'train.batch_size': 256,
    },
    'r1_0.1': {'objective.r1_weight': 0.1},
    'r1_0.3': {'objective.r1_weight': 0.3},
    'r1_1': {'objective.r1_weight': 1.0},
    'constant_rate': {'optimizer.schedule': 'constant'},
    'plain_networks': {},  # see `MODELS`
}
SECTIONS = ('images', 'toy')
_SOURCES = ('aggregate', 'gmm_10', 'gaussian', 'prior')  # to compare with

_MOMENT_SAMPLES = 50_000  # of the trained sampler
_UPDATES_AT_ONCE = 500  # so that an interrupt is heard

# The toy: a ring of Gaussians.
_NUM_MODES = 8
_RADIUS = 2.0
_MODE_STD = 0.1
_FAR = 4.0  # in standard deviations: a sample beyond belongs to no mode
_TOY_POINTS = 20_000
_TOY_SIZES = networks.Sizes(
    latent_size=2,
    sampler_width=64,
    sampler_blocks=2,
    energy_width=64,
    energy_blocks=2,
)


class PlainMlp(nn.Module):
  """Vectors [..., D] -> features [..., W], by three dense layers."""

  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for _ in range(3):
      x = nn.silu(nn.Dense(self.width)(x))
    return x


class PlainSampler(nn.Module):
  """As `networks.SamplerNet`, without residual blocks."""

  width: int

  @nn.compact
  def __call__(self, noise: Array) -> Array:
    features = PlainMlp(self.width)(noise)
    zeros = nn.initializers.zeros_init()
    return noise + nn.Dense(noise.shape[-1], kernel_init=zeros)(features)


class PlainEnergy(nn.Module):
  """As `networks.LatentEnergy`, without residual blocks."""

  width: int

  @nn.compact
  def __call__(self, u: Array) -> Array:
    return nn.Dense(1)(PlainMlp(self.width)(u))[..., 0]


def with_plain_networks(model: networks.Model) -> networks.Model:
  """The model with plain layers of as many weights in both latent networks."""
  # 2 W^2 weights inside three layers, 2 b w^2 inside b residual blocks
  equal_width = lambda width, blocks: round(width * blocks**0.5)
  sizes = model.sizes
  sampler_width = equal_width(sizes.sampler_width, sizes.sampler_blocks)
  energy_width = equal_width(sizes.energy_width, sizes.energy_blocks)
  plain = {
      'sampler': PlainSampler(sampler_width),
      'energy': PlainEnergy(energy_width),
  }
  return model._replace(modules={**model.modules, **plain})


# Variants whose networks are not those of the package.
MODELS = {'plain_networks': with_plain_networks}


class Trained(NamedTuple):
  """A trained sampler.

  Attributes:
    sample_fn: `(num_samples, key) -> z [num_samples, D]`, averaged weights.
    ms_per_update: Milliseconds, compilation left out.
  """

  sample_fn: Callable[[int, Array], np.ndarray]
  ms_per_update: float


def train_sampler(
    config: config_dict.ConfigDict,
    model: networks.Model,
    latents: Array,
    *,
    num_updates: int,
    key: Array,
) -> Trained:
  """Trains a fresh sampler on latents that stay as they are.

  As in the product, `num_latent_updates` updates share the images of a step and
  take different draws of them. The average of the weights moves with every
  update.

  Args:
    config: Of the variant.
    model: With the networks 'sampler' and 'energy'.
    latents: K draws of each of N latent distributions, shape [N, K, D].
    num_updates: Of the sampler.
    key: PRNG key of weights, images and noise.

  Returns:
    The sampler.
  """
  method = _create_method(config, model)
  phase = method.phases[1]
  txs = step_lib.create_optimizers(
      method,  # all of it: the first phase's networks have other rates
      num_steps=max(1, num_updates // phase.num_updates),
      **config.optimizer.to_dict(),
  )
  batch_size, decay = config.train.batch_size, config.train.ema_decay
  stats = {'latents': latent_stats(latents)}
  init_key, step_key, _ = jax.random.split(key, 3)
  params = model.init(init_key, phase.trains)
  opt_state = {name: txs[name].init(params[name]) for name in params}

  def update_fn(index, carry, latents):
    params, ema_params, opt_state = carry
    step, update = index // phase.num_updates, index % phase.num_updates
    rows_key, noise_key = jax.random.split(jax.random.fold_in(step_key, step))
    rows = jax.random.randint(rows_key, (batch_size,), 0, len(latents))
    keys = step_lib.image_keys(
        jax.random.fold_in(noise_key, update), batch_size, None
    )
    context = {
        'latents': latents[rows],
        'stats': stats,
        'update': update,
        'progress': index / num_updates,
        'axis_name': None,
    }
    grads, _ = jax.grad(phase.objective_fn, has_aux=True)(
        params, None, keys, context
    )
    params, opt_state = dict(params), dict(opt_state)
    for name in phase.trains:
      changes, opt_state[name] = txs[name].update(
          grads[name], opt_state[name], params[name]
      )
      params[name] = jax.tree.map(jnp.add, params[name], changes)
    rate = 1.0 - jnp.minimum(decay, (1.0 + index) / (10.0 + index))
    ema_params = jax.tree.map(
        lambda old, new: old + rate * (new - old), ema_params, params
    )
    return params, ema_params, opt_state

  @jax.jit
  def updates_fn(carry, latents, start, stop):
    body = lambda index, carry: update_fn(index, carry, latents)
    return jax.lax.fori_loop(start, stop, body, carry)

  carry = (params, params, opt_state)
  updates_fn = updates_fn.lower(carry, latents, 0, num_updates).compile()
  start_time = time.monotonic()
  for start in range(0, num_updates, _UPDATES_AT_ONCE):
    stop = min(start + _UPDATES_AT_ONCE, num_updates)
    carry = jax.block_until_ready(updates_fn(carry, latents, start, stop))
  seconds = time.monotonic() - start_time

  averaged = carry[1]
  if config.objective.match_moments:
    # the product keeps them in the autoencoder's phase, which is frozen here
    noise_key = jax.random.fold_in(step_key, num_updates)
    noise = jax.random.normal(noise_key, (_MOMENT_SAMPLES, latents.shape[-1]))
    u = model.modules['sampler'].apply(averaged['sampler'], noise)
    stats['sampler'] = latent_stats(u)

  @functools.partial(jax.jit, static_argnums=1)
  def generate(params, num_samples, key):
    keys = step_lib.image_keys(key, num_samples, None)
    return method.generate(params, stats, keys)

  def sample_fn(num_samples, key):
    return np.asarray(generate(averaged, num_samples, key))

  return Trained(sample_fn, 1e3 * seconds / num_updates)


def latent_stats(points: Array) -> dict[str, Array]:
  """The moments of all points [..., D], as the method keeps them."""
  dim = points.shape[-1]
  flat = jnp.asarray(points).reshape(-1, dim)
  return moments.update(moments.init(dim), flat, 0.0)


def sampler_std(z: np.ndarray, latents: Array) -> float:
  """Standard deviation of samples [n, D] in the aggregate's; 1 is right."""
  u = energy.standardise(z, *moments.mean_and_std(latent_stats(latents)))
  return float(np.mean(np.std(u, axis=0)))


class Frozen(NamedTuple):
  """A trained autoencoder, and what its samplers are judged by.

  Attributes:
    config: Of the run.
    model: Its networks.
    latents: K posterior draws of each training image, float32 [N, K, D].
    decode_fn: Latents [n, D] to images, uint8 [n, H, W, C].
    features_fn: Images to features [n, F].
    classes_fn: Images to class shares [num_classes].
    moments: Mean and covariance of the validation split's features.
    class_shares: Of the validation split, by the same classifier.
    num_samples: Images that a distance is taken of.
  """

  config: config_dict.ConfigDict
  model: networks.Model
  latents: np.ndarray
  decode_fn: Callable[[np.ndarray], np.ndarray]
  features_fn: Callable[[np.ndarray], np.ndarray]
  classes_fn: Callable[[np.ndarray], np.ndarray]
  moments: tuple[np.ndarray, np.ndarray]
  class_shares: np.ndarray
  num_samples: int


def freeze(
    workdir: str,
    *,
    data_dir: str,
    num_samples: int,
    num_draws: int,
    classifier_seed: int,
) -> Frozen:
  """Loads a run's latest checkpoint and draws the latents once.

  Args:
    workdir: Of a trained run, `ldc` or any other with a gaussian encoder.
    data_dir: Instead of that in the run's config; '' for that.
    num_samples: At most; the validation split may have fewer.
    num_draws: K.
    classifier_seed: Of the feature classifier.

  Returns:
    The autoencoder.
  """
  config = config_lib.read(workdir)
  if data_dir:
    config = config_lib.override(config, {'dataset.data_dir': data_dir})
  experiment = experiment_lib.create(config)
  with checkpoint.Checkpointer(
      f'{workdir}/checkpoints', read_only=True
  ) as checkpointer:
    restored = checkpointer.restore(experiment.abstract_state())
  if restored is None:
    raise ValueError(f'--workdir={workdir} holds no checkpoint; train it first')
  apply = evaluate.Apply(
      experiment,
      restored.state,
      binarize=config.dataset.binarize,
      batch_size=config.evaluate.batch_size,
  )
  images = experiment.dataset.images
  key = jax.random.fold_in(experiment.key, 2**31 + 4)  # no step has it
  draws = [
      apply.encode(images['train'], jax.random.fold_in(key, draw)).z
      for draw in range(num_draws)
  ]
  logging.info('drew %d latents of each training image', num_draws)
  classifier = classifier_lib.load_or_train(
      experiment.dataset, seed=classifier_seed
  )
  num_classes = experiment.dataset.num_classes

  def classes_fn(images):
    predictions = classifier.probabilities(images).argmax(axis=1)
    return np.bincount(predictions, minlength=num_classes) / len(images)

  return Frozen(
      config=config,
      model=experiment.model,
      latents=np.stack(draws, axis=1),
      decode_fn=apply.decode,
      features_fn=classifier.features,
      classes_fn=classes_fn,
      moments=frechet.moments(classifier.features(images['validation'])),
      class_shares=classes_fn(images['validation']),
      num_samples=min(num_samples, len(images['validation'])),
  )


def image_metrics(
    z: np.ndarray, frozen: Frozen, aggregate: np.ndarray
) -> dict[str, float | None]:
  """How far decoded latents are from the validation split.

  Args:
    z: Samples, shape [n, D].
    frozen: What they are decoded and judged by.
    aggregate: Posterior draws, shape [n, D].

  Returns:
    'frechet'; 'smallest_class', the smallest class share times the number of
    classes; 'class_distance', the total variation distance of the class shares
    from the validation split's; 'mmd' from the aggregate; 'sampler_std'. All
    None where the sampler has diverged.
  """
  if not np.isfinite(z).all():
    names = ('frechet', 'smallest_class', 'class_distance', 'mmd')
    return dict.fromkeys((*names, 'sampler_std'))
  images = frozen.decode_fn(z)
  own = frechet.moments(frozen.features_fn(images))
  return {
      'frechet': frechet.frechet_from_moments(*own, *frozen.moments),
      **class_coverage(frozen.classes_fn(images), frozen.class_shares),
      'mmd': float(latent_metrics.mmd(aggregate, z)),
      'sampler_std': sampler_std(z, frozen.latents),
  }


def class_coverage(
    shares: np.ndarray, reference: np.ndarray
) -> dict[str, float]:
  """How evenly classes are hit.

  Args:
    shares: Of the samples, shape [num_classes], of sum 1.
    reference: Of the data, alike.

  Returns:
    'smallest_class', min_c shares_c * num_classes, in [0, 1], and
    'class_distance', sum_c |shares_c - reference_c| / 2, in [0, 1].
  """
  return {
      'smallest_class': float(np.min(shares) * len(shares)),
      'class_distance': float(0.5 * np.sum(np.abs(shares - reference))),
  }


def ring_modes() -> np.ndarray:
  """The means of the toy's Gaussians, shape [8, 2]."""
  angles = 2.0 * np.pi * np.arange(_NUM_MODES) / _NUM_MODES
  return _RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def ring_points(num_points: int, num_draws: int, seed: int) -> np.ndarray:
  """Independent draws of the toy, float32 [num_points, num_draws, 2]."""
  rng = np.random.default_rng(seed)
  chosen = rng.integers(_NUM_MODES, size=(num_points, num_draws))
  noise = _MODE_STD * rng.normal(size=(num_points, num_draws, 2))
  return (ring_modes()[chosen] + noise).astype(np.float32)


def ring_metrics(z: np.ndarray) -> dict[str, float | int | None]:
  """Which modes of the ring samples [n, 2] cover.

  Returns:
    'modes', those with between half and twice their mass, counting samples
    within 4 standard deviations; 'smallest_mode' and 'largest_mode', in units
    of the right mass; 'far', the share of samples beyond that of every mode.
    All None where the sampler has diverged.
  """
  if not np.isfinite(z).all():
    return dict.fromkeys(('modes', 'smallest_mode', 'largest_mode', 'far'))
  distances = np.linalg.norm(z[:, None] - ring_modes()[None], axis=2)  # [n, 8]
  near = np.min(distances, axis=1) <= _FAR * _MODE_STD
  nearest = np.argmin(distances, axis=1)[near]
  masses = np.bincount(nearest, minlength=_NUM_MODES) / len(z) * _NUM_MODES
  return {
      'modes': int(np.sum((masses >= 0.5) & (masses <= 2.0))),
      'smallest_mode': float(np.min(masses)),
      'largest_mode': float(np.max(masses)),
      'far': float(np.mean(~near)),
  }


def create_config(frozen: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """The defaults of `ldc`, with the data and networks of a run."""
  config = default.create('ldc')
  config.dataset, config.model = frozen.dataset, frozen.model
  return config_lib.override(config, {})


def differing_variants(config: config_dict.ConfigDict) -> tuple[str, ...]:
  """The names of the variants that are not the default under another name."""
  fields = config_lib.flatten(config)
  return tuple(
      name
      for name, overrides in VARIANTS.items()
      if name == 'default'
      or name in MODELS
      or any(fields[field] != value for field, value in overrides.items())
  )


def ablate_images(
    frozen: Frozen,
    variants: Sequence[str],
    seeds: Sequence[int],
    num_updates: int,
    write_fn: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
  """A row for each variant and seed, and for each other source of latents.

  Args:
    frozen: The autoencoder.
    variants: Names.
    seeds: Of the samplers.
    num_updates: Of each sampler.
    write_fn: Called with the rows after each of them.

  Returns:
    The rows; 'ratio' is the distance in units of the aggregate's.
  """
  size = frozen.num_samples
  flat = frozen.latents[:, 0]
  chosen = np.random.default_rng(0).permutation(len(flat))[:size]
  aggregate = flat[chosen]
  rows = []

  def add(name, seed, z, ms_per_update, overrides):
    metrics = image_metrics(z, frozen, aggregate)
    if metrics['frechet'] is not None:
      base = rows[0]['frechet'] if rows else metrics['frechet']
      metrics['ratio'] = metrics['frechet'] / base
    else:
      metrics['ratio'] = None
    rows.append({
        'variant': name,
        'seed': seed,
        **metrics,
        'ms_per_update': ms_per_update,
        'overrides': overrides,
    })
    logging.info('images: %s, seed %s: ratio %s', name, seed,
                 common.show(metrics['ratio']))
    write_fn(rows)

  for name in _SOURCES:
    z = aggregate
    if name != 'aggregate':
      z = latents_lib.fit(name, flat, seed=0)(size, 0)
    add(f'({name})', None, z, None, {})
  config, latents = create_config(frozen.config), jnp.asarray(frozen.latents)
  for name in variants:
    for seed in seeds:
      trained = _train_variant(
          name, config, frozen.model, latents, seed, num_updates
      )
      z = trained.sample_fn(size, _sample_key(seed))
      add(name, seed, z, trained.ms_per_update, VARIANTS[name])
  return rows


def ablate_toy(
    variants: Sequence[str],
    seeds: Sequence[int],
    num_updates: int,
    num_samples: int,
    write_fn: Callable[[list[dict[str, Any]]], None],
) -> list[dict[str, Any]]:
  """A row for each variant and seed on the ring; arguments as above."""
  config = config_lib.override(default.create('ldc'), {})
  model = networks.create_model((1, 1, 1), _TOY_SIZES)
  points = ring_points(_TOY_POINTS, config.objective.num_particles, seed=0)
  latents = jnp.asarray(points)
  rows = []
  for name in variants:
    for seed in seeds:
      trained = _train_variant(name, config, model, latents, seed, num_updates)
      z = trained.sample_fn(num_samples, _sample_key(seed))
      metrics = ring_metrics(z)
      rows.append({
          'variant': name,
          'seed': seed,
          **metrics,
          'sampler_std': None if metrics['far'] is None
                         else sampler_std(z, points),
          'ms_per_update': trained.ms_per_update,
          'overrides': VARIANTS[name],
      })
      logging.info('toy: %s, seed %d: %s modes', name, seed, metrics['modes'])
      write_fn(rows)
  return rows


def tables(record: dict[str, Any]) -> str:
  """The Markdown tables of a record's 'images' and 'toy' rows."""
  parts = []
  if record['images']:
    parts.append(
        'Decoded samples against the validation split (classifier features):'
        f' {record["num_samples"]} samples, {record["num_updates"]} updates on'
        ' the frozen encoder\'s latents; ± is the standard deviation over'
        ' seeds. In brackets: other sources of latents.\n'
    )
    parts.append(_table(record['images'], _IMAGE_COLUMNS))
  if record['toy']:
    parts.append(
        f'Ring of {_NUM_MODES} Gaussians (radius {_RADIUS:g}, standard'
        f' deviation {_MODE_STD:g}): modes with between half and twice their'
        ' mass, masses in units of the right one, share of samples farther'
        f' than {_FAR:g} standard deviations from every mode;'
        f' {record["toy_updates"]} updates.\n'
    )
    parts.append(_table(record['toy'], _TOY_COLUMNS))
  return '\n'.join(parts)


_IMAGE_COLUMNS = {
    'Fréchet': 'frechet',
    '÷ aggregate': 'ratio',
    'smallest class': 'smallest_class',
    'class distance': 'class_distance',
    'MMD': 'mmd',
    'std': 'sampler_std',
    'ms/update': 'ms_per_update',
}
_TOY_COLUMNS = {
    'modes': 'modes',
    'smallest': 'smallest_mode',
    'largest': 'largest_mode',
    'far': 'far',
    'std': 'sampler_std',
    'ms/update': 'ms_per_update',
}


def main(argv: Sequence[str]) -> int:
  """Runs the ablation; 0 is success."""
  args = _parse(argv)
  common.choose('sections', args.sections, SECTIONS, required=True)
  common.choose('variants', args.variants, VARIANTS)
  if 'images' in args.sections and not args.workdir:
    raise ValueError(
        '--workdir is missing; give a trained run, or --sections=toy'
    )
  common.set_up_jax()
  record = common.create_record(MODULE, argv, args.seeds)
  record.update(
      num_updates=args.num_updates,
      toy_updates=args.toy_updates,
      num_samples=args.num_samples,
      images=[],
      toy=[],
  )

  def write_section(section, rows):
    record[section] = rows
    common.write(args.output, record, tables(record))

  if 'images' in args.sections:
    frozen = freeze(
        args.workdir,
        data_dir=args.data_dir,
        num_samples=args.num_samples,
        num_draws=args.num_draws,
        classifier_seed=args.classifier_seed,
    )
    config = create_config(frozen.config)
    record['num_samples'] = frozen.num_samples
    record['config'] = config_lib.public(config)
    record['trained_config'] = config_lib.public(frozen.config)
    variants = args.variants or differing_variants(config)
    ablate_images(
        frozen,
        variants,
        args.seeds,
        args.num_updates,
        functools.partial(write_section, 'images'),
    )
  if 'toy' in args.sections:
    config = default.create('ldc')
    record['toy_config'] = config_lib.public(config)
    record['toy_config']['model'] = _TOY_SIZES._asdict()
    ablate_toy(
        args.variants or differing_variants(config),
        args.seeds,
        args.toy_updates,
        args.num_samples,
        functools.partial(write_section, 'toy'),
    )
  print(tables(record))
  return 0


def _parse(argv: Sequence[str]) -> argparse.Namespace:
  """The flags."""
  parser = argparse.ArgumentParser(
      prog=f'python -m {MODULE}', description=__doc__.partition('\n')[0]
  )
  add = parser.add_argument
  add('--workdir', default='', help='a trained run')
  add('--data_dir', default='', help="instead of the run's dataset.data_dir")
  add('--sections', type=common.names, default=SECTIONS,
      help='images, toy (default: both)')
  add('--variants', type=common.names, default=(),
      help=f'default: all that differ, of {", ".join(VARIANTS)}')
  add('--num_updates', type=common.positive, default=6000)
  add('--toy_updates', type=common.positive, default=6000)
  add('--num_samples', type=common.positive, default=10_000,
      help='or as many as the validation split has')
  add('--num_draws', type=common.positive, default=8,
      help='posterior draws of each training image')
  add('--seeds', type=common.integers, default=(0,))
  add('--classifier_seed', type=int, default=0)
  add('--output', default='runs/sampler_ablation.json')
  return common.parse_args(parser, argv)


def _create_method(config, model):
  """The method of `config.objective`."""
  fields = config.objective.to_dict()
  del fields['name']
  return ldc.create(model, **fields)


def _train_variant(name, config, model, latents, seed, num_updates) -> Trained:
  """A sampler of a variant."""
  model_fn = MODELS.get(name, lambda model: model)
  return train_sampler(
      config_lib.override(config, VARIANTS[name]),
      model_fn(model),
      latents,
      num_updates=num_updates,
      key=jax.random.key(seed),
  )


def _sample_key(seed: int) -> Array:
  """The key of a sampler's noise, the same for all variants."""
  return jax.random.split(jax.random.key(seed), 3)[2]


def _table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
  """A line for each variant, over its seeds."""
  groups = {}
  for row in rows:
    groups.setdefault(row['variant'], []).append(row)
  lines = [
      (name, *(
          common.show_spread([row[field] for row in group])
          for field in columns.values()
      ))
      for name, group in groups.items()
  ]
  return comparison.markdown_table(('variant', *columns), lines)


if __name__ == '__main__':
  common.run(main)
