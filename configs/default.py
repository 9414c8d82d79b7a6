"""The fields of a run, composed from their groups; a run file changes some.

The names, defaults, ranges and meanings of the fields are in
`ldc_vae/sections.py` and in the methods' files. `--help --config=FILE:METHOD`
prints them. A run file defines `get_config(arg)`, which calls `create(arg)`
below. `arg` is the text after the colon of `--config=FILE[:METHOD][,debug]`.
"""

import dataclasses

from ml_collections import config_dict

from ldc_vae import errors
from ldc_vae import methods
from ldc_vae import sections

# The values that `benchmarks/search.py` chose for 28x28 images on the
# validation split of MNIST: benchmarks/results/search*.md. A method is missing
# if its defaults were the best.
SEARCHED = {
  'aae': {'method.adversarial_weight': 3.0},
  'ae': {'optimizer.learning_rate': 2e-3},
  'info_vae': {'method.mmd_scaling': 3000.0},
  'iwae': {'optimizer.learning_rate': 2e-3},
  'lebm': {
    'method.r1_weight': 0.1,
    'optimizer.latent_learning_rate': 5e-4,
  },
  'rae_gp': {'method.gradient_weight': 0.5},
  'rae_l2': {'method.embedding_weight': 0.005},
  'stein_vae': {
    'method.num_particles': 4,
    'optimizer.learning_rate': 2e-3,
  },
  'vae': {'optimizer.learning_rate': 2e-3},
  'vamp': {'optimizer.learning_rate': 2e-3},
  'wae_mmd': {'method.mmd_weight': 2000.0},
}


def create(arg: str = '') -> config_dict.ConfigDict:
  """Returns the default config for `arg`, '' or 'METHOD' or 'METHOD,debug'.

  Raises:
    UserError: The method is unknown.
  """
  name, debug = parse_arg(arg)
  method = methods.METHODS[name]
  groups = {
    each.group: dataclasses.asdict(each()) for each in sections.SECTIONS
  }
  groups['method'] = {'name': name, **dataclasses.asdict(method())}
  config = config_dict.ConfigDict(
    {
      'seed': 0,
      'debug': debug,
      # Python files or modules that register the user's own methods etc.
      'extensions': (),
      **groups,
    }
  )
  config.model.encoder = method.encoders[0]
  config.update_from_flattened_dict(method.defaults)
  return config.lock()  # a run file can change fields, but not add any


def parse_arg(arg: str) -> tuple[str, bool]:
  """Splits 'METHOD', 'METHOD,debug', 'debug' or '' into (method, debug)."""
  words = [word for word in arg.split(',') if word]
  debug = 'debug' in words
  names = [word for word in words if word != 'debug'] or ['ldc']
  if len(names) != 1 or names[0] not in methods.METHODS:
    known = ', '.join(sorted(methods.METHODS))
    raise errors.UserError(
      f'unknown method {",".join(names)!r} after the colon of --config;'
      f' known: {known}, each optionally followed by ",debug"'
    )
  return names[0], debug


def apply_search(config: config_dict.ConfigDict) -> None:
  """Sets the options in `SEARCHED` of the config's method."""
  chosen = SEARCHED.get(config.method.name, {})
  config.update_from_flattened_dict(chosen)


def finish(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
  """Returns a run file's config, shrunk to seconds if debug was asked for."""
  if config.debug:
    config.dataset.num_validation = min(config.dataset.num_validation, 64)
    model = config.model
    model.hidden_sizes = (64,) * len(model.hidden_sizes)
    model.channels = (8,) * len(model.channels)
    model.sampler_width = model.energy_width = 32
    model.sampler_blocks = model.energy_blocks = 1
    model.num_pseudo_inputs = 16
    config.train.batch_size = min(config.train.batch_size, 32)
    config.train.num_steps = 24
    config.train.log_every = 4
    config.evaluate.num_samples = 256
    config.evaluate.num_draws = 1
    config.evaluate.two_stage_steps = config.evaluate.langevin_steps = 20
    config.evaluate.flow_matching_steps = config.evaluate.flow_steps = 20
    config.evaluate.drifting_steps = config.evaluate.svgd_steps = 20
    # a mixture of many latents takes a minute
    if config.dataset.name != 'digits':
      config.evaluate.samplers = ('prior', 'gaussian')
    config.evaluate.importance_samples = 8
    config.evaluate.num_nll_images = 128
  return config
