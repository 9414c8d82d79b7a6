"""The vocabulary: every metric of results.json and every latent source, once.

The order of `METRICS` and of `SOURCES` is that of rows and columns in every
table and picture. To add a metric, write its entry here and the function in
`evaluation/measures.py` that measures it. Outside of this package, call
`register`.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import re
from typing import Any

from ldc_vae import formats

LOWER, HIGHER = 'lower', 'higher'
# What braces in a metric's name stand for.
_BRACES = {'source': '.+', 'seed': r'\d+', 'features': '[^/]+'}
# Among `Metric.sources`: every sampler in `config.evaluate.samplers`.
SAMPLERS = '*'

BOUND, GENERATOR, BASELINE, SAMPLER = range(4)  # kinds of sources


@dataclasses.dataclass(frozen=True)
class Metric:
  """One metric of results.json, or one metric for each latent source.

  Attributes:
    name: FAMILY/REST, its name in results.json. It may stand for many names:
      `{source}` is any latent source.
    label: Few words, for a column or an axis.
    better: `LOWER`, `HIGHER` or ''.
    meaning: One sentence for the report; `{source}` becomes a label.
    sources: The sources that results.json always names, with null where a
      number does not apply.
    compared: Whether it is a column of the comparison of methods.
    unscaled: Whether its unit differs between runs, so that a number says
      nothing by itself; it is left to the lists of all numbers.
    format: How a number is written, as ',.2f'; '' for significant digits.
    measure_fn: For a metric from outside of this package: maps what
      `evaluate.make_sources` returns to a number, or to {source: number}.
  """

  name: str
  label: str
  better: str
  meaning: str
  sources: tuple[str, ...] = ()
  compared: bool = False
  unscaled: bool = False
  format: str = ''
  measure_fn: Callable[[Any], Any] | None = None

  @property
  def family(self) -> str:
    """The name up to the first slash, 'frechet_classifier'."""
    return self.name.partition('/')[0]

  @property
  def is_per_source(self) -> bool:
    """Whether it is a column of numbers, one for each source."""
    return self.name.endswith('/{source}')

  @property
  def arrow(self) -> str:
    """The end of a column's label: the direction of better values, or ''."""
    return {LOWER: ' ↓', HIGHER: ' ↑'}.get(self.better, '')

  def text(self, value: Any, *, digits: int = 3, sign: str = '') -> str:
    """Writes what results.json holds; see `format_number`."""
    if value is None:
      return '–'
    if isinstance(value, int) and not isinstance(value, bool):
      return f'{value:{sign},}'
    if not formats.is_number(value):
      return str(value)
    if self.format:
      return f'{value:{sign}{self.format}}'
    return formats.format_number(value, digits=digits, sign=sign)


@dataclasses.dataclass(frozen=True)
class Source:
  """One way to make the latents that the decoder turns into images.

  Attributes:
    name: As in results.json; a final _K is any number, as in 'gmm_10'.
    label: Few words; `{K}` becomes the number.
    meaning: One sentence for the report; `{K}` becomes the number.
    kind: `BOUND` for what bounds every sampler of one decoder, `GENERATOR`,
      `BASELINE` for what is too simple for a row in the comparison of methods,
      `SAMPLER` for all others.
  """

  name: str
  label: str
  meaning: str
  kind: int = SAMPLER


SOURCES: dict[str, Source] = {}
METRICS: dict[str, Metric] = {}


def register(*entries: Metric | Source) -> None:
  """Adds metrics and latent sources to the vocabulary, after all others.

  Raises:
    ValueError: A name is already there.
  """
  for entry in entries:
    known: dict[str, Any] = METRICS if isinstance(entry, Metric) else SOURCES
    if entry.name in known:
      raise ValueError(f'{entry.name!r} is already in the vocabulary')
    known[entry.name] = entry


register(
    Source('real', 'real images', 'Training images. Their distance is what'
           ' chance alone leaves between two sets of real images.', BOUND),
    Source('reconstruction', 'reconstructions',
           'Held-out images, encoded to posterior means and decoded.', BOUND),
    Source('aggregate', 'aggregate posterior',
           'One posterior sample for each of many training images, decoded.'
           ' No sampler of the latents can do much better with this decoder.',
           BOUND),
    Source('generator', 'generator',
           'The method\'s own way to make images.', GENERATOR),
    Source('nearest', 'training latents + noise',
           'Training latents with a little noise. This is no model; it shows'
           ' how memorised images would score.'),
    Source('svgd', 'sampler net by SVGD',
           'A one-pass net, trained by SVGD on a learned energy after the'
           ' training, like the sampler net of `ldc`.'),
    Source('drifting', 'drifting net',
           'A one-pass net, trained after the training: a kernel flow moves'
           ' its samples towards the latents.'),
    Source('flow_matching', 'flow matching',
           'A velocity field of the latents, learned after the training. An'
           ' ODE solver draws from it and calls its net many times.'),
    Source('flow', 'normalising flow',
           'A normalising flow of splines, fitted to the latents by maximum'
           ' likelihood after the training.'),
    Source('langevin', 'latent energy',
           'An energy of the latents, learned after the training. Short chains'
           ' of Langevin dynamics draw from it.'),
    Source('two_stage', 'two-stage VAE',
           'A second VAE, fitted to the latents after the training.'),
    Source('gmm_K', 'GMM-{K}',
           'A mixture of {K} Gaussians, fitted to the latents after the'
           ' training.'),
    Source('gaussian', 'one Gaussian',
           'One Gaussian with full covariance, fitted to the latents after the'
           ' training.', BASELINE),
    Source('prior', 'prior N(0, I)', 'Decoded draws from N(0, I).', BASELINE),
)  # fmt: skip

# results.json names these sources in every run.
_IMAGES = (
  'real', 'reconstruction', 'aggregate', 'generator', 'prior', 'gaussian',
  'gmm_10', 'gmm_50', 'gmm_200', 'two_stage', SAMPLERS,
)  # fmt: skip
_NATS = ',.2f'  # a tenth of a nat matters, however many there are

register(
    # Distances of images from the reference, one for each source.
    Metric('frechet_classifier/{source}', 'Fréchet, classifier', LOWER,
           'Fréchet distance in the features of a small classifier that was'
           ' trained on this data set. It is not FID: do not compare it with'
           ' published FID.', _IMAGES, compared=True),
    Metric('frechet_classifier_seed_{seed}/{source}',
           'Fréchet, classifier of seed {seed}', LOWER,
           'The same distance with another classifier, trained from seed'
           ' {seed}.', compared=True),
    Metric('frechet_inception/{source}', 'Fréchet, Inception', LOWER,
           'Fréchet distance in Inception features (FID), with the reference'
           ' and the number of samples that this page states.', _IMAGES,
           compared=True),
    Metric('frechet_imagenet/{source}', 'Fréchet, ImageNet', LOWER,
           'Fréchet distance in features of EfficientNet-Lite1, which others'
           ' trained on ImageNet. It is not FID.', _IMAGES, compared=True),
    Metric('frechet_pca/{source}', 'Fréchet, PCA', LOWER,
           'Fréchet distance in the first 64 principal components of the'
           ' pixels, for data without labels.', _IMAGES, compared=True),
    Metric('frechet_{features}_deviation/{source}',
           'standard deviation, {features}', '',
           'Standard deviation of the Fréchet distance between draws of the'
           ' same source.'),
    Metric('kid_classifier/{source}', 'KID, classifier', LOWER,
           'Kernel distance (squared MMD, cubic polynomial kernel) in the'
           ' features of the same classifier. It is unbiased: 0 in expectation'
           ' for equal distributions, and often negative.', _IMAGES,
           compared=True, unscaled=True),
    Metric('kid_imagenet/{source}', 'KID, ImageNet', LOWER,
           'The same in features of EfficientNet-Lite1.', _IMAGES,
           compared=True, unscaled=True),
    # The generator's images.
    Metric('prdc/precision', 'precision', HIGHER,
           'Share of the samples that are near a real image.', compared=True),
    Metric('prdc/recall', 'recall', HIGHER,
           'Share of the real images that are near a sample.', compared=True),
    Metric('prdc/density', 'density', HIGHER,
           'Mean number of samples in a real image\'s neighbourhood, relative'
           ' to real images there; 1 for the data itself.', compared=True),
    Metric('prdc/coverage', 'coverage', HIGHER,
           'Share of the real images whose neighbourhood holds a sample.',
           compared=True),
    Metric('classifier/entropy', 'class entropy, nats', LOWER,
           'Mean entropy of the classifier\'s prediction, in nats: how unclear'
           ' single samples are. It is 0 for certain predictions and 2.3 for a'
           ' guess among ten classes.'),
    Metric('classifier/class_balance', 'class balance', HIGHER,
           'Effective number of classes among the samples, as a share of all'
           ' classes; 1 if all are equally frequent.'),
    Metric('nearest/train_generator', 'distance to training images', '',
           'Median distance of a sample from its nearest training image,'
           ' pixels in [0, 1]. If it is far below the next line, samples are'
           ' copies.'),
    Metric('nearest/train_test', 'distance of held-out images', '',
           'The same distance for held-out images.'),
    # Likelihood of the reference.
    Metric('nll/elbo', '-ELBO, nats', LOWER,
           'Negative ELBO, the loosest bound.', compared=True, format=_NATS),
    Metric('nll/importance', 'NLL by importance sampling, nats', LOWER,
           'Importance-weighted bound, tighter than the ELBO.', compared=True,
           format=_NATS),
    Metric('nll/ais', 'NLL by AIS, nats', LOWER,
           'Annealed importance sampling. It also applies to encoders without'
           ' a density.', compared=True, format=_NATS),
    Metric('nll/ais_importance', 'NLL by importance sampling, AIS images',
           LOWER, 'Importance sampling on the few images of `nll/ais`.',
           format=_NATS),
    Metric('nll/ais_gap', 'gap of AIS, nats', LOWER,
           'Gap between an upper and a lower bound by annealing, on images'
           ' that the model made.', format=_NATS),
    # Latents.
    Metric('latent/mmd_{source}', 'latent MMD', LOWER,
           'Squared maximum mean discrepancy of latents from the {source}.',
           ('generator', 'prior')),
    Metric('latent/sliced_wasserstein_{source}', 'sliced Wasserstein', LOWER,
           'Sliced Wasserstein distance of latents from the {source}.',
           ('generator', 'prior')),
    Metric('latent/sliced_wasserstein_aggregate', 'sliced Wasserstein', LOWER,
           'The same distance for other draws of the aggregate posterior. A'
           ' perfect sampler would have this value, for it is biased upwards.'),
    Metric('latent/ksd_{source}', 'KSD', LOWER,
           'Squared kernel Stein discrepancy of latents from the {source}. Its'
           ' unit is that of the posteriors\' scores, squared. It is unbiased,'
           ' so it may be below 0.', ('generator', 'prior', SAMPLERS),
           unscaled=True),
    Metric('latent/ksd_aggregate', 'KSD', LOWER,
           'The same for draws of the aggregate posterior itself: about 0, or'
           ' a little less with few training images, since each gives one'
           ' draw.', unscaled=True),
    Metric('latent/missed_share_{source}', 'missed share', LOWER,
           'Share of the aggregate posterior that latents from the {source}'
           ' visit less than half as often as they should.',
           ('aggregate', 'generator', 'prior', SAMPLERS)),
    Metric('latent/active_units', 'active units', HIGHER,
           'Latent dimensions that carry information about the image.'),
    Metric('eval/reconstruction_mse', 'reconstruction MSE', LOWER,
           'Mean squared error of held-out images, pixels in [0, 1].',
           compared=True),
    Metric('time/sample_10k_seconds', '10,000 images, s', LOWER,
           'Least seconds to make 10,000 images.', compared=True),
    Metric('time/sample_10k_latents_seconds', '10,000 latents, s', LOWER,
           'Least seconds to draw 10,000 latents.', compared=True),
    # Texts: they say how the numbers were made, and are never null.
    Metric('protocol/split', 'split', '', 'The split that is the reference.'),
    Metric('protocol/distances', 'distances', '', 'The images compared.'),
    Metric('protocol/kid', 'KID', '', 'How the kernel distance is estimated.'),
    Metric('protocol/prdc', 'neighbours', '', 'What a neighbourhood is.'),
    Metric('protocol/judge', 'classifier', '', 'The feature classifiers.'),
    Metric('protocol/inception', 'Inception', '', 'How its features are made.'),
    Metric('protocol/imagenet', 'ImageNet', '', 'How its features are made.'),
    Metric('protocol/data', 'data', '', 'The data set, with its digest.'),
    Metric('protocol/evaluate', 'evaluate', '', 'From `config.evaluate`.'),
    Metric('protocol/caution_{features}', 'caution, {features}', '',
           'Why not to rely on the numbers of {features}/*, marked with ⚠.'),
    Metric('protocol/left_out', 'left out', '',
           'Latent samplers that could not be used, and why.'),
    Metric('protocol/not_measured', 'not measured', '',
           'Metrics that are null, and why.'),
    Metric('protocol/device', 'device', '', 'Its speed sets the seconds.'),
)  # fmt: skip

CAUTION = 'protocol/caution_'  # and a family, whose numbers are doubtful
# What results.json says of the run itself, without a slash.
RUN_FIELDS = (
  'seed', 'step', 'last_step', 'num_samples', 'wall_seconds', 'digests',
  'format',
)  # fmt: skip


def result_names(samplers: Iterable[str] = ()) -> list[str]:
  """The names that every results.json has, null where one does not apply.

  Args:
    samplers: `config.evaluate.samplers`.
  """
  found = {}
  for metric in METRICS.values():
    if '{' not in metric.name and metric.family != 'protocol':
      found[metric.name] = None
    for source in metric.sources:
      for each in samplers if source == SAMPLERS else (source,):
        found[metric.name.replace('{source}', each)] = None
  return list(found)


def find_metric(name: str) -> tuple[Metric, str]:
  """Looks up a name of results.json; an unknown one has no meaning.

  Args:
    name: 'prdc/recall' or 'frechet_classifier/gmm_10'.

  Returns:
    The metric, whose name keeps `{source}`, and the source, or ''.
  """
  _, metric, words = _match_metric(name)
  source = words.pop('source', '')
  meant = metric.name
  for word, value in words.items():
    meant = meant.replace(f'{{{word}}}', value)
  words['source'] = find_source(source).label
  return _fill(metric, words, name=meant), source


def metric_rank(name: str) -> tuple:
  """Sorts names of results.json: known ones in the order of `METRICS`."""
  index, _, words = _match_metric(name)
  source = words.pop('source', '')
  digits = re.findall(r'\d{1,9}', ''.join(words.values()))
  return (index, [int(x) for x in digits], source_rank(source))


def mark(name: str, results: Mapping[str, Any]) -> str:
  """Returns ' ⚠' for a metric that has a caution in results.json, or ''."""
  return ' ⚠' if f'{CAUTION}{name.partition("/")[0]}' in results else ''


def main_distance(*results: Mapping[str, Any]) -> str:
  """The first distance of a generator in some contents of results.json."""
  families = [x.family for x in METRICS.values() if x.is_per_source]
  for family in families:
    if any(formats.is_number(x.get(f'{family}/generator')) for x in results):
      return family
  return families[0]


def find_source(name: str) -> Source:
  """Looks up a latent source; an unknown one counts as a sampler."""
  _, found, number = _match_source(name)
  return _fill(found, {'K': number or 'K'}, name=name)


def source_rank(name: str) -> tuple:
  """Sorts sources: in the order of `SOURCES`, large mixtures first."""
  index, _, number = _match_source(name)
  return (index, -int(number or 0), name)


def _match_metric(name: str) -> tuple[int, Metric, dict[str, str]]:
  """The place in `METRICS`, the entry, and the words for its braces."""
  if name in METRICS:
    return list(METRICS).index(name), METRICS[name], {}
  for index, metric in enumerate(METRICS.values()):
    pattern = re.escape(metric.name)
    for word, what in _BRACES.items():
      pattern = pattern.replace(rf'\{{{word}\}}', f'(?P<{word}>{what})')
    match = re.fullmatch(pattern, name)
    if match:
      return index, metric, match.groupdict()
  return len(METRICS), Metric(name, name, '', ''), {}


def _match_source(name: str) -> tuple[int, Source, str]:
  """The place in `SOURCES`, the entry, and the number that is its K."""
  order = list(SOURCES)
  if name in SOURCES:
    return order.index(name), SOURCES[name], ''
  match = re.fullmatch(r'(.+_)(\d{1,9})', name)
  if match and f'{match[1]}K' in SOURCES:
    family = f'{match[1]}K'
    return order.index(family), SOURCES[family], match[2]
  return len(order), Source(name, name.replace('_', ' '), ''), ''


def _fill(entry, words: Mapping[str, str], *, name: str):
  """A copy with words in the place of the braces of its texts."""
  label, meaning = entry.label, entry.meaning
  for word, value in words.items():
    label = label.replace(f'{{{word}}}', value)
    meaning = meaning.replace(f'{{{word}}}', value)
  return dataclasses.replace(entry, name=name, label=label, meaning=meaning)
