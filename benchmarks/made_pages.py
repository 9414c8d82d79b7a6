"""Pages that are made as a whole from files of results."""

from collections.abc import Callable, Collection, Mapping, Sequence
import functools
import importlib
import json
import pathlib
from typing import Any

from benchmarks import common
from benchmarks import split_log
from ldc_vae.reporting import comparison_page
from ldc_vae.reporting import tables

# First words of a file's name -> what makes its page, and of which field; the
# first that fits counts. Comparisons are told by their content.
_WRITERS: Mapping[str, tuple[str, str | None]] = {
  'conv_step': ('conv_step.format_table', 'results'),
  'encoder_bound': ('encoder_bound_tables.to_markdown', None),
  'encoder_width': ('encoder_width.to_markdown', 'rows'),
  'few_particles': ('few_particles.to_markdown', 'rows'),
  'foreign_latents': ('foreign_latents.to_markdown', 'rows'),
  'latent_bench': ('latent_bench.to_markdown', None),
  'scaling': ('scaling.to_markdown', None),
  'search': ('search.to_markdown', 'rows'),
  'svgd': ('svgd_directions_tables.format_tables', None),
  'temperature_line': ('temperature_line.to_markdown', 'rows'),
  'train_step': ('train_step.to_markdown', None),
  'variance_collapse': ('variance_collapse.to_markdown', None),
}


def made_files(
  results: pathlib.Path,
  log: pathlib.Path,
  *,
  by_hand: Collection[str],
  lost: Sequence[tuple[str, str, int]],
) -> dict[pathlib.Path, Callable[[], str]]:
  """The files that are made as a whole, and what makes the text of each.

  Args:
    results: The folder of the files of results.
    log: Where the log of evaluations on the test split is.
    by_hand: Names of pages in `results` that no program makes.
    lost: Tables of the test split whose files are not kept.
  """
  made: dict[pathlib.Path, Callable[[], str]] = {}
  for path in sorted(results.iterdir()):
    if path.suffix == '.csv':
      made[path] = functools.partial(_make, path, _create_csv)
    elif path.suffix == '.md' and path.name not in by_hand:
      made[path] = functools.partial(_make, path, _create_page)
  made[log] = functools.partial(_create_log, results, lost)
  return made


def _make(
  path: pathlib.Path, create: Callable[[pathlib.Path, str], str]
) -> str:
  source = path.with_suffix('.json')
  return create(source, source.read_text(encoding='utf-8'))


def _create_csv(path: pathlib.Path, text: str) -> str:
  del path
  return tables.to_csv(*_comparison(text))


def _create_page(path: pathlib.Path, text: str) -> str:
  """The page of a file of results, as the program that wrote it does."""
  record = json.loads(text)
  if 'methods' in record:
    record['rows'], columns = _comparison(text)
    return comparison_page.to_markdown(record, columns, ())
  for start, (name, field) in _WRITERS.items():
    if path.name.startswith(start):
      module, _, function = name.partition('.')
      write = getattr(importlib.import_module(f'benchmarks.{module}'), function)
      page = write(record[field] if field else record)
      return common.create_page(record, page)
  raise KeyError(f'a writer of {path.name}')


@functools.cache
def _comparison(text: str) -> tuple[list[dict[str, Any]], list[Any]]:
  """The rows and columns of a comparison's tables."""
  runs = json.loads(text)['runs']
  return tables.create_rows(runs), tables.columns(runs)


def _create_log(
  results: pathlib.Path, lost: Sequence[tuple[str, str, int]]
) -> str:
  records = {
    path.name: json.loads(path.read_text(encoding='utf-8'))
    for path in sorted(results.glob('*.json'))
  }
  return split_log.create(records, lost)
