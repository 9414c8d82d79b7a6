"""The groups of a config that every method has, field by field.

`config.method` is the sixth group: the fields of the method's own dataclass in
`ldc_vae/methods/`.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar, Self

from ldc_vae import fields
from ldc_vae.data import datasets
from ldc_vae.data import request
from ldc_vae.models import model as model_lib
from ldc_vae.runtime import writers as writers_lib
from ldc_vae.samplers import coupling_flow
from ldc_vae.samplers import drifting
from ldc_vae.samplers import flow_matching
from ldc_vae.samplers import langevin
from ldc_vae.samplers import registry
from ldc_vae.samplers import sampler_net
from ldc_vae.samplers import two_stage

SCHEDULES = ('cosine', 'constant')
LATENT_OPTIMIZERS = ('adam', 'muon')
SPLITS = ('test', 'validation')


@dataclasses.dataclass(frozen=True)
class Dataset(request.Source):
  """The images and their splits."""

  name: str = fields.one_of(
    datasets.DATASETS, default='digits', help='the data set'
  )
  binarize: bool = fields.field(
    False, 'draw binary images from the grey ones, new ones in each step'
  )
  flip: bool = fields.field(
    False, 'mirror each training image left to right in half of the steps'
  )


@dataclasses.dataclass(frozen=True)
class Optimizer(fields.Options):
  """The optimiser of each network, and the schedule of its rate."""

  group: ClassVar[str] = 'optimizer'

  learning_rate: float = fields.positive(
    default=1e-3, help='peak rate of encoder and decoder'
  )
  latent_learning_rate: float = fields.positive(
    default=1e-3,
    help='peak rate of sampler net, latent energy and discriminator',
  )
  schedule: str = fields.one_of(
    SCHEDULES,
    default='cosine',
    help='the rate after the warm-up; cosine falls to 0',
  )
  latent_final_fraction: float = fields.fraction(
    default=0.1, help='where the cosine of latent_learning_rate ends'
  )
  warmup_steps: int = fields.at_least(
    0, default=100, help='train steps of a linear warm-up from 0'
  )
  b1: float = fields.fraction(
    high=False, default=0.9, help="Adam's first decay, encoder and decoder"
  )
  latent_optimizer: str = fields.one_of(
    LATENT_OPTIMIZERS,
    default='adam',
    help='that of sampler net, latent energy and discriminator; muon learns'
    ' more by an update, and takes twice its time',
  )
  latent_b1: float = fields.fraction(
    high=False,
    default=0.5,
    help="Adam's first decay, or Muon's, for the nets of latent_optimizer",
  )
  b2: float = fields.fraction(
    high=False, default=0.999, help="Adam's second decay"
  )
  weight_decay: float = fields.at_least(
    0, default=0.0, help='decoupled weight decay; 0: none'
  )
  clip_norm: float = fields.at_least(
    0, default=0.0, help="bound on each network's gradient norm; 0: none"
  )


@dataclasses.dataclass(frozen=True)
class Train(fields.Options):
  """The training loop."""

  group: ClassVar[str] = 'train'

  batch_size: int = fields.at_least(
    1, default=256, help='images per step, over all devices'
  )
  accumulate: int = fields.at_least(
    1,
    default=1,
    help='micro-batches per step; sets of latents are compared whole',
  )
  num_epochs: int = fields.at_least(0, default=20, help='epochs')
  num_steps: int = fields.at_least(
    0, default=0, help='if positive, steps, instead of num_epochs'
  )
  ema_decay: float = fields.fraction(
    high=False,
    default=0.999,
    help='decay of the averaged weights, which are evaluated; at most'
    ' (1 + step) / (10 + step)',
  )
  log_every: int = fields.at_least(
    1, default=50, help='steps between lines of metrics.jsonl'
  )
  validate_every: int = fields.at_least(
    0, default=0, help='steps between validations; 0: twenty per run'
  )
  checkpoint_every: int = fields.at_least(
    0, default=0, help='steps between checkpoints; 0: twenty per run'
  )
  checkpoint_minutes: float = fields.at_least(
    0,
    default=30.0,
    help='minutes after which a checkpoint is saved besides; 0: never',
  )
  non_finite: str = fields.one_of(
    ('stop', 'skip'),
    default='stop',
    help='what to do with an update that is NaN or infinite',
  )

  def check(self) -> None:
    if not self.num_epochs and not self.num_steps:
      raise self.conflict(
        ('num_epochs', 'num_steps'),
        'trains for no step; make one of them positive',
      )
    if self.batch_size % self.accumulate:
      raise self.conflict(
        ('batch_size', 'accumulate'),
        'does not divide; use a batch_size that is a multiple of accumulate',
      )


def _explain_samplers(names: Any) -> str:
  """Names the first latent sampler that is unknown, or says what is wrong."""
  known = (*registry.SAMPLERS, 'gmm_10', 'gmm_50', 'gmm_200')
  for name in names:
    if not registry.is_known(name):
      return (
        f'holds an unknown sampler {name!r}{fields.suggest(name, known)};'
        f' known: {", ".join(registry.SAMPLERS)}, where K is a number'
      )
  return 'does not hold; use a tuple of different names, as prior,gmm_10'


def _steps(default: int, what: str) -> Any:
  """Returns the field for the training steps of a latent sampler."""
  return fields.at_least(1, default=default, help=f'training steps of {what}')


@dataclasses.dataclass(frozen=True)
class Evaluate(fields.Options):
  """The evaluation after the training."""

  group: ClassVar[str] = 'evaluate'

  batch_size: int = fields.at_least(1, default=500, help='images at a time')
  num_samples: int = fields.at_least(
    2, default=10_000, help='images of each latent source'
  )
  num_draws: int = fields.at_least(
    1,
    default=1,
    help='sets of num_samples over which Frechet distances are averaged;'
    ' those of one set vary by a tenth',
  )
  samplers: tuple[str, ...] = fields.field(
    ('prior', 'gaussian', 'gmm_10', 'gmm_50', 'gmm_200'),
    'latent samplers that are fitted and decoded; two_stage, langevin,'
    ' flow_matching, flow, drifting, svgd take half a minute to two each',
    fields.Range(
      lambda x: all(map(registry.is_known, x)) and len(set(x)) == len(x),
      'different names',
      _explain_samplers,
    ),
  )
  two_stage_steps: int = _steps(
    two_stage.NUM_STEPS, 'the second VAE of two_stage'
  )
  langevin_steps: int = _steps(
    langevin.SAMPLER.num_steps, 'the latent energy of langevin'
  )
  flow_matching_steps: int = _steps(
    flow_matching.SAMPLER.num_steps, 'flow_matching'
  )
  flow_steps: int = _steps(
    coupling_flow.SAMPLER.num_steps, 'the normalising flow'
  )
  drifting_steps: int = _steps(drifting.SAMPLER.num_steps, 'the drifting net')
  svgd_steps: int = _steps(
    sampler_net.NUM_STEPS, "a sampler net like ldc's on fixed latents"
  )
  nearest_noise: float = fields.at_least(
    0,
    default=0.5,
    help='nearest, the control for memorisation: noise on a training latent'
    ' over the median distance between nearest latents',
  )
  importance_samples: int = fields.at_least(
    0, default=64, help='latents per image of nll/importance; 0: null'
  )
  num_nll_images: int = fields.at_least(
    0, default=10_000, help='images of nll/elbo and nll/importance'
  )
  ais_chains: int = fields.at_least(
    0, default=0, help='chains per image of nll/ais, which is slow; 0: null'
  )
  ais_temperatures: int = fields.at_least(
    1, default=500, help='temperatures of nll/ais'
  )
  ais_images: int = fields.at_least(
    0, default=100, help='images of nll/ais, the first of evaluate.split'
  )
  classifier_seeds: tuple[int, ...] = fields.field(
    (0,),
    'seeds of feature classifiers; the first is reported, the rest check it',
    fields.Range(
      lambda x: bool(x) and min(x) >= 0 and len(set(x)) == len(x),
      'different whole numbers from 0 on',
      lambda x: 'is no list of seeds; use different whole numbers from 0 on',
    ),
  )
  inception: bool = fields.field(
    False, 'measure frechet_inception/*; needs torch-fidelity'
  )
  imagenet: bool = fields.field(
    False,
    'measure frechet_imagenet/* and kid_imagenet/*, a minute for each source'
    ' on two cores; needs the extra imagenet',
  )
  split: str = fields.one_of(
    SPLITS,
    default='test',
    help='whose images are the reference; validation to choose options by',
  )
  checkpoint: str = fields.one_of(
    ('latest', 'best'), default='latest', help='best: by validation loss'
  )


@dataclasses.dataclass(frozen=True)
class Logging(fields.Options):
  """Copies of curves and pictures for viewers; none of them can stop a run."""

  group: ClassVar[str] = 'logging'

  writers: tuple[str, ...] = fields.field(
    (writers_lib.JSONL,),
    'where curves go; all but jsonl, which every run has, need the extra of'
    ' that name',
    fields.Range(
      lambda x: writers_lib.JSONL in x and not _explain_writers(x),
      lambda: ', '.join((writers_lib.JSONL, *writers_lib.WRITERS)),
      lambda x: _explain_writers(x) or 'lacks jsonl, which every run has',
    ),
  )
  project: str = fields.field(
    'ldc_vae', 'the project of wandb, or the experiment of mlflow'
  )


def _explain_writers(names: tuple[str, ...]) -> str:
  """Says what is wrong with the names of writers; '' if nothing is."""
  known = (writers_lib.JSONL, *writers_lib.WRITERS)
  for name in names:
    if name not in known:
      return (
        f'holds an unknown writer {name!r}{fields.suggest(name, known)}; known:'
        f' {", ".join(known)}'
      )
  return 'holds a writer twice' if len(set(names)) < len(names) else ''


SECTIONS = (Dataset, model_lib.Options, Optimizer, Train, Evaluate, Logging)


@dataclasses.dataclass(frozen=True)
class Groups:
  """The options of one config, but for those of its method."""

  dataset: Dataset
  model: model_lib.Options
  optimizer: Optimizer
  train: Train
  evaluate: Evaluate
  logging: Logging

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> Self:
    """Returns the options, or raises a `UserError` for the first wrong one."""
    groups: dict[str, Any] = {
      each.group: each.from_config(config[each.group]) for each in SECTIONS
    }
    return cls(**groups)
