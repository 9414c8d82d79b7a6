"""The run report: one HTML page that holds a workdir's numbers and pictures.

The page stands alone: pictures are data URIs, the style is inline, and nothing
is fetched. What a workdir lacks is left out, and the page says so.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
import html
import json
import os
import pathlib
import re
import shlex
import statistics
import struct
import sys
from typing import Any, NamedTuple

from ldc_vae import config as config_lib
from ldc_vae.reporting import figures
from ldc_vae.runtime import files

_LOWER, _HIGHER = 'lower', 'higher'
_METHODS = {
    'aae': 'Adversarial autoencoder',
    'ae': 'Autoencoder',
    'beta_vae': 'Beta-VAE',
    'info_vae': 'InfoVAE',
    'iwae': 'IWAE',
    'ldc': 'LDC-VAE',
    'lebm': 'Latent energy-based prior',
    'rae_gp': 'RAE-GP',
    'rae_l2': 'RAE-L2',
    'stein_vae': 'Stein VAE',
    'vae': 'VAE',
    'vamp': 'VampPrior',
    'wae_mmd': 'WAE-MMD',
}

# A distance is FAMILY/SOURCE. What each family measures:
_DISTANCES = {
    'frechet_classifier': (
        'Fréchet, classifier',
        'Fréchet distance in the features of a small classifier trained on'
        ' this data set. It is not FID and must not be put beside published'
        ' FID.',
    ),
    'frechet_inception': (
        'Fréchet, Inception',
        'Fréchet distance in Inception features (FID), with the reference and'
        ' the number of samples stated on this page.',
    ),
    'frechet_pca': (
        'Fréchet, PCA',
        'Fréchet distance in the first 64 principal components of the pixels,'
        ' for data without labels.',
    ),
    'kid_classifier': (
        'KID, classifier',
        'Kernel distance (squared MMD, cubic polynomial kernel) in the same'
        ' classifier features; unbiased, so it may fall slightly below 0.',
    ),
}
# ... and where the images come from.
_SOURCES = {
    'real': 'Training images: the floor, two draws of the data itself.',
    'reconstruction': 'Decoded posterior means of held-out images.',
    'aggregate': (
        'One decoded posterior sample of each of many training images: what a'
        ' perfect sampler of the latents would reach with this decoder.'
    ),
    'generator': 'The method\'s own way to make images.',
    'prior': 'Decoded draws from N(0, I).',
    'gaussian': 'One full Gaussian fitted to the latents after training.',
    'two_stage': 'A second VAE fitted to the latents after training.',
    'langevin': (
        'An energy of the latents, learned after training; drawn from by short'
        ' chains of Langevin dynamics.'
    ),
    'flow_matching': (
        'A velocity of the latents, learned after training; drawn from by an'
        ' ODE, in many evaluations of its net.'
    ),
    'flow': (
        'A normalising flow of splines, fitted to the latents after training by'
        ' maximum likelihood.'
    ),
    'drifting': (
        'A net of one pass, trained afterwards by a kernel flow onto the'
        ' latents.'
    ),
    'svgd': (
        'A net of one pass, trained afterwards by SVGD on a learned energy, as'
        ' that of `ldc` is.'
    ),
    'nearest': (
        'Training latents with a little noise: no model, but the control for'
        ' memorisation.'
    ),
}
_MIXTURE = 'A mixture of {} Gaussians fitted to the latents after training.'

# Every other metric: family -> (heading, metric -> (better, meaning)).
_FAMILIES = {
    'nll': (
        'Likelihood of held-out images (nats per image)',
        {
            'elbo': (_LOWER, 'Negative ELBO: the loosest bound.'),
            'importance': (_LOWER, 'Importance-weighted bound; tighter.'),
            'ais': (
                _LOWER,
                'Annealed importance sampling; also scores encoders without a'
                ' density.',
            ),
            'ais_importance': (
                _LOWER,
                'Importance sampling of the same few images.',
            ),
            'ais_gap': (
                _LOWER,
                'What annealing leaves open between bounds from above and'
                ' below, on images that the model made.',
            ),
        },
    ),
    'prdc': (
        'Fidelity and diversity',
        {
            'precision': (_HIGHER, 'Share of samples among real images.'),
            'recall': (_HIGHER, 'Share of real images among samples.'),
            'density': (
                _HIGHER,
                'Samples per real neighbourhood; 1 for the data itself.',
            ),
            'coverage': (
                _HIGHER,
                'Share of real neighbourhoods that hold a sample.',
            ),
        },
    ),
    'classifier': (
        'Predicted classes of the samples',
        {
            'entropy': (
                _LOWER,
                'Mean entropy of the classifier\'s prediction, in nats: how'
                ' unclear single samples are.',
            ),
            'class_balance': (
                _HIGHER,
                'Effective share of the classes that occur; 1 where all are'
                ' equally frequent.',
            ),
        },
    ),
    'nearest': (
        'Copies of training images',
        {
            'train_generator': (
                '',
                'Median distance of a sample from its nearest training image,'
                ' pixels in [0, 1]. Far below the next line, samples are'
                ' copies.',
            ),
            'train_test': ('', 'The same of held-out images.'),
        },
    ),
    'latent': (
        'Latent consistency with the aggregate posterior',
        {
            'mmd_generator': (
                _LOWER,
                'Squared maximum mean discrepancy of the generator\'s latents.',
            ),
            'mmd_prior': (
                _LOWER,
                'Squared maximum mean discrepancy of N(0, I).',
            ),
            'sliced_wasserstein_generator': (
                _LOWER,
                'Sliced Wasserstein distance of the generator\'s latents.',
            ),
            'sliced_wasserstein_prior': (
                _LOWER,
                'Sliced Wasserstein distance of N(0, I).',
            ),
            'sliced_wasserstein_aggregate': (
                _LOWER,
                'The same of other draws of the aggregate posterior, for scale:'
                ' what a perfect sampler would have, as it is biased upwards.',
            ),
            'ksd_generator': (
                _LOWER,
                'Squared kernel Stein discrepancy of the generator\'s latents;'
                ' unbiased, so it may fall below 0.',
            ),
            'ksd_prior': (
                _LOWER,
                'Squared kernel Stein discrepancy of N(0, I).',
            ),
            'ksd_aggregate': (
                _LOWER,
                'The same of draws of the aggregate posterior itself, for'
                ' scale: expected 0, a little below with few training images,'
                ' as each gives one draw.',
            ),
            'missed_share_generator': (
                _LOWER,
                'Share of the aggregate posterior that the generator visits'
                ' less than half as often as is due.',
            ),
            'active_units': (
                _HIGHER,
                'Latent dimensions that carry information about the image.',
            ),
        },
    ),
    'eval': (
        'Reconstruction',
        {
            'reconstruction_mse': (
                _LOWER,
                'Mean squared error of held-out images, pixels in [0, 1].',
            ),
        },
    ),
    'protocol': (
        'Protocol',
        {
            'distances': ('', 'What is compared.'),
            'kid': ('', 'How the kernel distance is estimated.'),
            'prdc': ('', 'Of precision, recall, density and coverage.'),
            'inception': ('', 'How Inception features are computed.'),
            'device': ('', 'What evaluated, and took the seconds below.'),
        },
    ),
    'time': (
        'Cost',
        {
            'sample_10k_seconds': (_LOWER, 'Seconds to make 10,000 images.'),
            'sample_10k_latents_seconds': (
                _LOWER,
                'Of these, seconds to draw their latents.',
            ),
        },
    ),
}
_RUN_FIELDS = ('seed', 'step', 'num_samples', 'wall_seconds')

# Pictures in reading order; others follow by name.
_FIGURES = {
    'sample_grid': (
        'Images made by the method\'s own generator, in the order in which they'
        ' were drawn.'
    ),
    'source_grid': (
        'The same decoder fed from different sources of latents, with each'
        ' source\'s distance from the reference.'
    ),
    'decomposition_bars': (
        'Distance from the reference by source of latents. What separates the'
        ' aggregate posterior from the real images is the decoder; what'
        ' separates the generator from the aggregate posterior is the latents.'
    ),
    'reconstructions': 'Held-out images and what the model makes of them.',
    'interpolations': (
        'Straight lines in latent space from one image (t = 0) to another'
        ' (t = 1); the ends are framed.'
    ),
    'latent_map': (
        'Latents by source under one linear projection, fitted on the aggregate'
        ' posterior. A sampler is right where it fills the outlines as the'
        ' aggregate does.'
    ),
    'training_curves': 'Everything that was logged, over the steps.',
}

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --muted: #5f5f5f;
  --line: #dcdcdc; --card: #f5f6f7; --page: #ffffff; --accent: #0068a5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8;
  --muted: #a8a8a8; --line: #3a3d41; --card: #1f2225; --page: #15171a;
  --accent: #6cb8e6; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem;
  background: var(--page); color: var(--ink); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .7rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
.muted, figcaption, .note { color: var(--muted); font-size: .9rem; }
.cards { display: grid; gap: .8rem; margin: 1.4rem 0 0; padding: 0;
  grid-template-columns: repeat(auto-fit, minmax(min(15rem, 44%), 1fr)); }
.cards div { background: var(--card); border-radius: .5rem;
  padding: .8rem 1rem; }
.cards dt { color: var(--muted); font-size: .85rem; line-height: 1.3; }
.cards dd { margin: .2rem 0 0; font-size: 1.6rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .7rem .4rem 0;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 500; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; padding-right: 1.6rem; }
tr.own > * { font-weight: 700; }
tr.own > .meaning { font-weight: 400; }
.meaning { color: var(--muted); min-width: 14rem; }
.metrics th:first-child { width: 18.5rem; }
.metrics th:nth-child(2) { width: 7rem; }
.metrics th:nth-child(3) { width: 4.5rem; }
figure { margin: 1.6rem 0 2.2rem; }
figure img { display: block; max-width: 100%; height: auto;
  background: #ffffff; border: 1px solid var(--line); border-radius: .4rem; }
figcaption { margin-top: .5rem; max-width: 46rem; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--accent); }
pre { background: var(--card); border-radius: .5rem; padding: .9rem 1rem;
  overflow-x: auto; font-size: .85rem; line-height: 1.45;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code, .code { font-family: ui-monospace, Menlo, Consolas, monospace;
  font-size: .9em; overflow-wrap: anywhere; }
@media print {
  :root { --ink: #000; --muted: #444; --line: #bbb; --card: #f3f3f3;
    --page: #fff; --accent: #000; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  figure, tr, .cards, pre { break-inside: avoid; }
  h2, h3, thead { break-after: avoid; }
  h2 { margin-top: 1.6rem; }
  figure { margin: .8rem 0 1.2rem; }
  figure img { max-height: 11.4cm; width: auto; }
  table { font-size: 9pt; }
  th, td { padding: .15rem .5rem .15rem 0; }
  .meaning { min-width: 0; }
  details table { font-size: 8pt; }
  details::details-content { content-visibility: visible; }
}
"""


class _Picture(NamedTuple):
  """A PNG file."""

  name: str
  width: int
  height: int
  data: bytes


def write_report(workdir: str | os.PathLike[str]) -> pathlib.Path:
  """Writes `workdir`/report.html from what lies in the workdir.

  Args:
    workdir: The folder of a run, with any of results.json, config.json,
      metrics.jsonl and figures/*.png.

  Returns:
    The path of the page.

  Raises:
    OSError: The workdir does not exist or cannot be written to.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise FileNotFoundError(
        f'{workdir}: no such folder; give the workdir of a run'
    )
  missing = []
  results = _read_object(workdir / 'results.json', missing)
  record = _read_object(workdir / 'config.json', missing)
  rows = _read_rows(workdir / 'metrics.jsonl', missing)
  pictures = _read_pictures(workdir / 'figures', missing)
  config = record.get('config')
  config = config if isinstance(config, Mapping) else {}

  parts = [
      _header(config, results, workdir),
      _headline(results),
      _section('Results', _results_tables(results)),
      _section('Pictures', _figures(pictures)),
      _section('Training', _training(rows, pictures)),
      _section(
          'Repeat this run', _repetition(config, record, results, workdir)
      ),
      _section('Config', _config_table(config)),
      _section('Not on this page', _missing(missing)),
  ]
  title = html.escape(_title(config, workdir))
  page = (
      '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
      f'<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
      + '\n'.join(part for part in parts if part)
      + '\n</body>\n</html>\n'
  )
  path = workdir / 'report.html'
  with files.open_atomically(path) as file:
    file.write(page.encode('utf-8', 'replace'))
  return path


def method_label(method: str) -> str:
  """Returns the words for a method, 'ldc' -> 'LDC-VAE'."""
  return _METHODS.get(method, method)


# Reading the workdir.


def _read_object(path: pathlib.Path, missing: list[str]) -> dict[str, Any]:
  """Returns the JSON object of a file; {} and a sentence without one."""
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    missing.append(f'{path.name} was missing.')
  except (OSError, ValueError, RecursionError) as error:
    missing.append(f'{path.name} could not be read ({error}).')
  else:
    if isinstance(value, dict):
      return value
    missing.append(f'{path.name} did not hold a JSON object.')
  return {}


def _read_rows(path: pathlib.Path, missing: list[str]) -> list[dict[str, Any]]:
  """Returns the lines of metrics.jsonl; counts those that are no object."""
  try:
    text = path.read_text(encoding='utf-8', errors='replace')
  except FileNotFoundError:
    missing.append(f'{path.name} was missing.')
    return []
  except OSError as error:
    missing.append(f'{path.name} could not be read ({error}).')
    return []
  rows, num_bad = [], 0
  for line in text.splitlines():
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict):
      rows.append(row)
    elif line.strip():
      num_bad += 1
  if num_bad:
    missing.append(f'{num_bad} broken lines of {path.name} were left out.')
  if not rows:
    missing.append(f'{path.name} held no lines.')
  return rows


def _read_pictures(
    folder: pathlib.Path, missing: list[str]
) -> list[_Picture]:
  """Returns the whole PNG files of a folder in reading order."""
  order = list(_FIGURES)
  paths = sorted(
      folder.glob('*.png'),
      key=lambda path: (
          order.index(path.stem) if path.stem in order else len(order),
          path.name,
      ),
  )
  pictures = []
  for path in paths:
    try:
      data = path.read_bytes()
    except OSError as error:
      missing.append(f'figures/{path.name} could not be read ({error}).')
      continue
    whole = data[:8] == b'\x89PNG\r\n\x1a\n' and b'IEND' in data[-12:]
    if not whole or len(data) < 33:
      missing.append(f'figures/{path.name} was not a whole PNG file.')
      continue
    width, height = struct.unpack('>II', data[16:24])  # of the IHDR chunk
    pictures.append(_Picture(path.stem, width, height, data))
  absent = [name for name in order if name not in {p.name for p in pictures}]
  if not pictures:
    missing.append('figures/ held no pictures.')
  elif absent:
    missing.append(f'figures/ had no {", ".join(absent)}.')
  return pictures


# The parts of the page; each is '' where there is nothing to say.


def _section(heading: str, body: str) -> str:
  """A section, or '' without a body."""
  return f'<section>\n<h2>{heading}</h2>\n{body}\n</section>' if body else ''


def _title(config: Mapping[str, Any], workdir: pathlib.Path) -> str:
  """Returns 'METHOD on DATASET', or the workdir's name."""
  method, dataset = _field(config, 'method'), _field(config, 'dataset')
  if not method or not dataset:
    return workdir.resolve().name or 'run'
  return f'{method_label(method)} on {dataset}'


def _field(config: Mapping[str, Any], group: str) -> str:
  """Returns config[group]['name'], or ''."""
  group = config.get(group)
  return str(group.get('name') or '') if isinstance(group, Mapping) else ''


def _header(
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    workdir: pathlib.Path,
) -> str:
  """The title and one line about the run."""
  facts = [f'workdir {workdir}']
  for name, text in (
      ('seed', 'seed {}'),
      ('step', 'evaluated at step {}'),
      ('num_samples', '{} samples'),
  ):
    if _is_number(results.get(name)):
      facts.append(text.format(f'{results[name]:,.0f}'))
  if _is_number(results.get('wall_seconds')):
    facts.append(f'{_duration(results["wall_seconds"])} of evaluation')
  line = html.escape(' · '.join(facts))
  title = html.escape(_title(config, workdir))
  return f'<header>\n<h1>{title}</h1>\n<p class="muted">{line}</p>\n</header>'


def _headline(results: Mapping[str, Any]) -> str:
  """The numbers to read first, as cards."""
  cards = []
  for family in _DISTANCES:
    values = {
        source: results.get(f'{family}/{source}')
        for source in ('generator', 'aggregate', 'prior')
    }
    values = {k: v for k, v in values.items() if _is_number(v)}
    if 'generator' not in values:
      continue
    label = _DISTANCES[family][0]
    for source, value in values.items():
      name = f'{label}: {figures.source_label(source)}'
      cards.append((name, _show(value)))
    if values.get('aggregate', 0) > 0:
      ratio = values['generator'] / values['aggregate']
      cards.append(('Generator ÷ aggregate posterior', f'{_show(ratio)}×'))
    break
  for name, label in (
      ('eval/reconstruction_mse', 'Held-out reconstruction MSE'),
      ('nll/importance', 'Held-out NLL, importance-weighted (nats)'),
  ):
    if _is_number(results.get(name)):
      cards.append((label, _show(results[name], name.split('/')[0])))
  if not cards:
    return ''
  items = '\n'.join(
      f'<div><dt>{html.escape(label)}</dt><dd>{value}</dd></div>'
      for label, value in cards
  )
  return f'<dl class="cards">\n{items}\n</dl>'


def _results_tables(results: Mapping[str, Any]) -> str:
  """Every metric of results.json in the table of its family."""
  metrics = {k: v for k, v in results.items() if k not in _RUN_FIELDS}
  not_measured = [name for name, value in metrics.items() if value is None]
  metrics = {k: v for k, v in metrics.items() if v is not None}
  groups = {}
  for name, value in metrics.items():
    family, slash, metric = name.partition('/')
    groups.setdefault(family if slash else '', {})[metric or family] = value
  distances = {
      family: groups.pop(family)
      for family in _in_order(groups, _DISTANCES)
      if family in _DISTANCES or figures.is_distance(family, 'frechet_', 'kid_')
  }
  parts = [_distance_table(distances)]
  for family in _in_order(groups, _FAMILIES):
    parts.append(_metric_table(family, groups[family]))
  if not_measured:
    names = ', '.join(f'<code>{html.escape(name)}</code>'
                      for name in not_measured)
    parts.append(f'<p class="note">Does not apply to this run: {names}.</p>')
  return '\n'.join(part for part in parts if part)


def _distance_table(distances: Mapping[str, Mapping[str, Any]]) -> str:
  """Sources down, families across."""
  if not distances:
    return ''
  sources = dict.fromkeys(s for family in distances.values() for s in family)
  head = ''.join(
      f'<th class="number">{html.escape(_distance_label(family))}</th>'
      for family in distances
  )
  body = []
  for source in sorted(sources, key=figures.source_order):
    cells = ''.join(
        f'<td class="number">{_show(family.get(source))}</td>'
        for family in distances.values()
    )
    own = ' class="own"' if source == 'generator' else ''
    body.append(
        f'<tr{own}><th>{html.escape(figures.source_label(source))}</th>{cells}'
        f'<td class="meaning">{html.escape(_source_meaning(source))}</td></tr>'
    )
  notes = ''.join(
      f'<p class="note"><strong>{html.escape(label)}.</strong>'
      f' {html.escape(meaning)}</p>\n'
      for family, (label, meaning) in _DISTANCES.items()
      if family in distances
  )
  return (
      '<h3>Distance from the reference, by source of the images'
      ' (lower is better)</h3>\n<div class="scroll"><table>\n'
      f'<thead><tr><th>source</th>{head}<th>meaning</th></tr></thead>\n'
      '<tbody>\n'
      + '\n'.join(body)
      + f'\n</tbody></table></div>\n{notes}'
  )


def _distance_label(family: str) -> str:
  """Returns the heading of a family's column."""
  return _DISTANCES[family][0] if family in _DISTANCES else family


def _source_meaning(source: str) -> str:
  """Returns one sentence about a source, '' for one that is not known."""
  if source.startswith('gmm_'):
    return _MIXTURE.format(source[4:])
  return _SOURCES.get(source, '')


def _of_source(
    known: Mapping[str, tuple[str, str]], name: str
) -> tuple[str, str]:
  """Which is better, and the meaning, of the generator's metric of a source."""
  for other, (better, meaning) in known.items():
    prefix = other.removesuffix('generator')
    if prefix != other and name.startswith(prefix):
      label = figures.source_label(name.removeprefix(prefix))
      return better, meaning.replace('the generator', label)
  return '', ''


def _metric_table(family: str, values: Mapping[str, Any]) -> str:
  """One metric a row: name, value, which is better, meaning."""
  heading, known = _FAMILIES.get(family, (family or 'Other', {}))
  rows = []
  for name in _in_order(values, known):
    better, meaning = known.get(name) or _of_source(known, name)
    full_name = f'{family}/{name}' if family else name
    rows.append(
        f'<tr><th class="code">{html.escape(full_name)}</th>'
        f'<td class="number">{_show(values[name], family)}</td>'
        f'<td>{better}</td><td class="meaning">{html.escape(meaning)}</td></tr>'
    )
  return (
      f'<h3>{html.escape(heading)}</h3>\n<div class="scroll">'
      '<table class="metrics">\n<thead>'
      '<tr><th>metric</th><th class="number">value</th><th>better</th>'
      '<th>meaning</th></tr></thead>\n<tbody>\n'
      + '\n'.join(rows)
      + '\n</tbody></table></div>'
  )


def _figures(pictures: Sequence[_Picture]) -> str:
  """All pictures but the training curves, which have their own section."""
  return '\n'.join(
      _figure(picture)
      for picture in pictures
      if picture.name != 'training_curves'
  )


def _figure(picture: _Picture) -> str:
  """A picture as a data URI, at half its pixels, with its caption."""
  caption = _FIGURES.get(picture.name, picture.name.replace('_', ' '))
  caption = html.escape(caption)
  data = base64.b64encode(picture.data).decode('ascii')
  width, height = max(1, picture.width // 2), max(1, picture.height // 2)
  return (
      f'<figure>\n<img width="{width}" height="{height}" alt="{caption}"'
      f' src="data:image/png;base64,{data}">\n'
      f'<figcaption>{caption}</figcaption>\n</figure>'
  )


def _training(
    rows: Sequence[Mapping[str, Any]], pictures: Sequence[_Picture]
) -> str:
  """The speed and length of the training, and its curves."""
  parts = []
  steps = [row['step'] for row in rows if _is_number(row.get('step'))]
  if steps:
    sentence = f'{len(rows):,} lines were logged, up to step {max(steps):,.0f}.'
    speeds = [
        row['train/images_per_sec']
        for row in rows
        if _is_number(row.get('train/images_per_sec'))
    ]
    if speeds:
      median = figures.format_number(statistics.median(speeds))
      sentence += f' The median speed was {median} images/s.'
    parts.append(f'<p>{html.escape(sentence)}</p>')
  parts += [_figure(p) for p in pictures if p.name == 'training_curves']
  return '\n'.join(parts)


def _repetition(
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    results: Mapping[str, Any],
    workdir: pathlib.Path,
) -> str:
  """The command that gives this config again, and what it ran on."""
  parts = []
  command, sentence = _command(config, workdir)
  if command:
    lines = []
    commit = record.get('git_commit')
    if isinstance(commit, str) and commit:
      lines.append(f'git checkout {shlex.quote(commit.removesuffix("+dirty"))}')
      if commit.endswith('+dirty'):
        sentence += ' The working tree had changes that no commit holds.'
    lines.append(command)
    parts.append(f'<pre>{html.escape(chr(10).join(lines))}</pre>')
  if sentence.strip():
    parts.append(f'<p class="note">{html.escape(sentence.strip())}</p>')
  evaluation = results.get('protocol/evaluate')
  if parts and isinstance(evaluation, str):
    # those of the last --mode=evaluate, where the config is of the training
    parts.append(
        '<p class="note">The results above were made with these of'
        f' config.evaluate: {html.escape(evaluation)}</p>'
    )
  versions = record.get('versions')
  if isinstance(versions, Mapping) and versions:
    text = ' · '.join(
        f'{name} {version or "not installed"}'
        for name, version in versions.items()
    )
    parts.append(f'<p class="muted">{html.escape(text)}</p>')
  return '\n'.join(parts)


def _command(
    config: Mapping[str, Any], workdir: pathlib.Path
) -> tuple[str, str]:
  """Returns the command line of a config, and a remark on it."""
  method, dataset = _field(config, 'method'), _field(config, 'dataset')
  if not method or not re.fullmatch(r'\w+', dataset):
    return '', ''
  debug = ',debug' if config.get('debug') is True else ''
  spec = f'configs/{dataset}.py:{method}{debug}'
  arguments = [f'--config={spec}', f'--workdir={workdir}_again']
  remark = ''
  try:
    standard = config_lib.flatten(config_lib.load(spec))
  except Exception:  # whatever a run file of the user's raises
    standard = None
    remark = (
        f'{spec} could not be loaded when this page was written, so overrides'
        ' of its fields are not listed; the config below has every value.'
    )
  if standard is not None:
    for name, value in config_lib.flatten(config).items():
      known = standard.get(name)
      known = list(known) if isinstance(known, tuple) else known
      if known != value:
        arguments.append(f'--config.{name}={_argument(value)}')
  words = ' \\\n    '.join(shlex.quote(argument) for argument in arguments)
  return f'python -m ldc_vae.main \\\n    {words}', remark


def _argument(value: Any) -> str:
  """Returns a config value as it is written after '='."""
  if isinstance(value, (list, tuple)):
    comma = ',' if len(value) == 1 else ''
    return f'({",".join(str(each) for each in value)}{comma})'
  return str(value)


def _config_table(config: Mapping[str, Any]) -> str:
  """Every field of the config, folded."""
  fields = config_lib.flatten(config)
  if not fields:
    return ''
  rows = '\n'.join(
      f'<tr><th class="code">{html.escape(str(name))}</th>'
      '<td class="code">'
      f'{html.escape(json.dumps(value, default=str))}</td></tr>'
      for name, value in fields.items()
  )
  return (
      f'<details>\n<summary>{len(fields)} fields</summary>\n'
      f'<div class="scroll"><table>\n<tbody>\n{rows}\n</tbody></table></div>\n'
      '</details>'
  )


def _missing(sentences: Iterable[str]) -> str:
  """What the workdir lacked."""
  return '\n'.join(
      f'<p class="note">{html.escape(sentence)}</p>' for sentence in sentences
  )


# Values.


def _is_number(value: Any) -> bool:
  """Whether a JSON value is a finite number."""
  is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
  return is_real and abs(value) <= sys.float_info.max


def _show(value: Any, family: str = '') -> str:
  """Returns a value as escaped text; nats with two decimals."""
  if value is None:
    return '–'
  if isinstance(value, int) and not isinstance(value, bool):
    return f'{value:,}'
  if _is_number(value):
    nats = family == 'nll'  # a tenth of a nat matters, however many there are
    return f'{value:,.2f}' if nats else figures.format_number(value)
  return html.escape(str(value))


def _duration(seconds: float) -> str:
  """Returns '3 h 20 min', '4 min 5 s' or '12 s'."""
  seconds = round(seconds)
  if seconds >= 3600:
    return f'{seconds // 3600} h {seconds % 3600 // 60} min'
  if seconds >= 60:
    return f'{seconds // 60} min {seconds % 60} s'
  return f'{seconds} s'


def _in_order(names: Iterable[str], known: Iterable[str]) -> list[str]:
  """Returns the known names in their order, then the others in theirs."""
  names, known = list(names), list(known)
  return [n for n in known if n in names] + [n for n in names if n not in known]
