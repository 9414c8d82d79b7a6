"""Recomputes every table of README.md and docs/ from benchmarks/results.

python -m benchmarks.check_tables

It prints a sentence for each difference, and fails if there is one. A number of
a page is right where the recomputed one rounds to it. Pages of
benchmarks/results are made again and compared as text; `--write` writes those,
and benchmarks/test_split_log.md. A page with sentences is corrected by hand.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import difflib
import functools
import importlib
import itertools
import json
import pathlib
import re
from typing import Any, NamedTuple

from benchmarks import common
from benchmarks import page_tables
from benchmarks import page_tables_speed
from benchmarks import split_log
from ldc_vae.reporting import comparison_page
from ldc_vae.reporting import tables

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = 'benchmarks/results'
LOG = 'benchmarks/test_split_log.md'
TABLES = {**page_tables.TABLES, **page_tables_speed.TABLES}
NOT_KEPT = page_tables.NOT_KEPT
_UNCHECKED_COLUMNS = ('file', 'source')

# First words of a file's name -> what makes its page, and of which field; the
# first that fits counts. Comparisons are told by their content.
_WRITERS: Mapping[str, tuple[str, str | None]] = {
  'conv_step': ('conv_step.format_table', 'results'),
  'encoder_bound': ('encoder_bound_tables.to_markdown', None),
  'encoder_width': ('encoder_width.to_markdown', 'rows'),
  'few_particles': ('few_particles.to_markdown', 'rows'),
  'latent_bench': ('latent_bench.to_markdown', None),
  'scaling': ('scaling.to_markdown', None),
  'search': ('search.to_markdown', 'rows'),
  'svgd': ('svgd_directions_tables.format_tables', None),
  'temperature_line': ('temperature_line.to_markdown', 'rows'),
  'train_step': ('train_step.to_markdown', None),
  'variance_collapse': ('variance_collapse.to_markdown', None),
}

_NOTHING = object()
# A missing or damaged file, or one without a field or a row.
_UNREADABLE = (OSError, LookupError, ValueError)
_NUMBER = re.compile(r'-?\d[\d,]*(?:\.\d+)?')
_MEASURED = re.compile(r'[+-]?\d+(\.\d+|:\d\d)(?![\d.]).*')


class Table(NamedTuple):
  """A table of a page.

  Attributes:
    page: The page.
    heading: The heading above it, as written.
    number: Which table below that heading, from 1.
    header: Its column names.
    rows: Its cells, without bold.
    to_the_right: Whether a column is of numbers.
  """

  page: str
  heading: str
  number: int
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  to_the_right: bool

  @property
  def key(self) -> tuple[str, str, int]:
    """As in `page_tables.TABLES`; pages of results have tables by number."""
    return self.page, self.heading, self.number

  @property
  def name(self) -> str:
    return f'{self.page}, "{self.heading}", table {self.number}'

  @property
  def is_measured(self) -> bool:
    """Whether its cells are numbers that were measured."""
    cells = (cell for row in self.rows for cell in row[1:])
    return self.to_the_right or any(map(_MEASURED.fullmatch, cells))


def read_tables(text: str, page: str) -> list[Table]:
  """The tables of a page.

  Args:
    text: Its Markdown.
    page: Its name.
  """
  found, heading, number, in_code = [], '', 0, False
  lines = iter([*text.split('\n'), ''])
  for line in lines:
    if line.startswith('```'):
      in_code = not in_code
    elif line.startswith('#') and not in_code:
      heading, number = line.lstrip('#').strip(), 0
    elif line.startswith('|') and not in_code:
      number += 1
      rest = itertools.takewhile(lambda x: x.startswith('|'), lines)
      header, rules, *rows = map(_cells, (line, *rest))
      is_right = any(rule.endswith('-:') for rule in rules)
      found.append(Table(page, heading, number, header, rows, is_right))
  return found


def _cells(line: str) -> list[str]:
  cells = re.split(r'(?<!\\)\|', line.strip())[1:-1]
  return [cell.strip().replace('**', '') for cell in cells]


def check(root: pathlib.Path) -> list[str]:
  """A sentence for each difference.

  Args:
    root: The folder of README.md, docs/ and benchmarks/.
  """
  found = []
  keys = set()
  made = _made_files(root)
  for path in (
    root / 'README.md',
    *sorted((root / 'docs').glob('*.md')),
    *sorted((root / RESULTS).glob('*.md')),
  ):
    if path in made:
      continue
    page = path.relative_to(root).as_posix()
    text = path.read_text(encoding='utf-8')
    for table in read_tables(text, page):
      keys.add(table.key)
      if table.key in TABLES:
        found += check_table(table, root, text)
      elif table.is_measured and table.key not in NOT_KEPT:
        found.append(f'{table.name}: nothing says which file it is made from.')
  for page, heading, number in sorted({*TABLES, *NOT_KEPT} - keys):
    found.append(f'{page}, "{heading}", table {number}: it is not there.')
  for path, make in made.items():
    page = path.relative_to(root).as_posix()
    try:
      found += _compare_texts(path.read_text(encoding='utf-8'), make(), page)
    except _UNREADABLE as error:
      found.append(f'{page}: {_reason(error)}.')
  return found


def check_table(table: Table, root: pathlib.Path, text: str) -> list[str]:
  """A sentence for each difference of a table.

  Args:
    table: One of `TABLES`.
    root: As of `check`.
    text: The page, which must name the files.
  """
  names: dict[str, None] = {}

  def read(name: str) -> Any:
    names[name] = None
    return _read(root / RESULTS / f'{name}.json')

  try:
    expected = TABLES[table.key](read)
  except _UNREADABLE as error:
    return [f'{table.name}: {_reason(error)}; needed: {", ".join(names)}.']
  source = ', '.join(f'{name}.json' for name in names)
  found = [
    f'{table.name}: the page does not name {RESULTS}/{name}.'
    for name in names
    if f'{name}.' not in text and pathlib.PurePath(table.page).stem != name
  ]
  num_labels = expected[0][0].count(' | ') + 1
  written = [' | '.join(row[:num_labels]) for row in table.rows]
  labels = [label for label, _ in expected]
  if written != labels:
    for label in labels:
      if label not in written:
        found.append(f'{table.name}: the row "{label}" of {source} is missing.')
    for label in written:
      if label not in labels:
        found.append(f'{table.name}: no file gives the row "{label}".')
    return found or [f'{table.name}: the rows have another order.']
  for (label, values), row in zip(expected, table.rows, strict=True):
    for column, cell, value in itertools.zip_longest(
      table.header[num_labels:], row[num_labels:], values, fillvalue=_NOTHING
    ):
      if value is _NOTHING and column in _UNCHECKED_COLUMNS:
        continue
      right = as_written(cell, value)
      if right is not None:
        found.append(
          f'{table.name}, row "{label}", column "{column}": the page says'
          f' "{cell}", {source} gives "{right}".'
        )
  return found


def as_written(cell: str, value: Any) -> str | None:
  """What a cell must say, in its own digits; None if it says that."""
  if value == page_tables.UNKEPT:
    return None
  if value is None or value is _NOTHING:
    return '' if cell else None
  numbers = list(value) if isinstance(value, Sequence) else [value]
  found = _NUMBER.findall(cell)
  if len(found) != len(numbers):
    return ', '.join(f'{number:.6g}' for number in numbers)
  if cell.endswith(' M'):
    numbers = [number / 1e6 for number in numbers]
  right = iter([_round(x, y) for x, y in zip(numbers, found, strict=True)])
  text = _NUMBER.sub(lambda _: next(right), cell)
  return None if text == cell else text


def _round(value: float, written: str) -> str:
  """A number with as many digits as another has; 228,000 has three."""
  whole, _, decimals = written.partition('.')
  if decimals or ',' not in whole:
    return f'{value:.{len(decimals)}f}'
  digits = whole.replace(',', '')
  zeros = len(digits) - len(digits.rstrip('0'))
  return f'{round(value, -zeros):,.0f}'


def _made_files(
  root: pathlib.Path,
) -> dict[pathlib.Path, Callable[[], str]]:
  """The files that are made as a whole, and what makes the text of each."""
  by_hand = {page for page, _, _ in (*TABLES, *NOT_KEPT)}
  made: dict[pathlib.Path, Callable[[], str]] = {}
  for path in sorted((root / RESULTS).iterdir()):
    if path.suffix == '.csv':
      made[path] = functools.partial(_make, path, _create_csv)
    elif path.suffix == '.md' and f'{RESULTS}/{path.name}' not in by_hand:
      made[path] = functools.partial(_make, path, _create_page)
  made[root / LOG] = functools.partial(_create_log, root)
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


def _create_log(root: pathlib.Path) -> str:
  paths = sorted((root / RESULTS).glob('*.json'))
  not_kept = [key for key, of in NOT_KEPT.items() if of == page_tables.TEST]
  return split_log.create({path.name: _read(path) for path in paths}, not_kept)


def _compare_texts(written: str, made: str, page: str) -> list[str]:
  """A sentence for each line of a page that its file does not give."""
  source = f'{pathlib.PurePath(page).stem}.json'
  if page == LOG:
    source = RESULTS
  old, new = written.split('\n'), made.split('\n')
  found = []
  for tag, *ends in difflib.SequenceMatcher(
    None, old, new, autojunk=False
  ).get_opcodes():
    if tag == 'equal':
      continue
    start, stop, first, last = ends
    for line, right in itertools.zip_longest(
      old[start:stop], new[first:last], fillvalue='nothing'
    ):
      cells, expected = _cells(line), _cells(right)
      if len(cells) == len(expected) > 0 and cells[0] == expected[0]:
        header = _header(new, first)
        found += [
          f'{page}, row "{cells[0]}", column "{column}": the page says'
          f' "{one}", {source} gives "{other}".'
          for column, one, other in zip(header, cells, expected, strict=True)
          if one != other
        ]
      else:
        found.append(
          f'{page}, line {start + 1}: the page says "{line}", {source} gives'
          f' "{right}".'
        )
  return found


def _header(lines: Sequence[str], index: int) -> Sequence[str]:
  """The column names of the table that has a line."""
  while lines[index - 1].startswith('|'):
    index -= 1
  return _cells(lines[index])


def _read(path: pathlib.Path) -> Any:
  return json.loads(path.read_text(encoding='utf-8'))


def _reason(error: Exception) -> str:
  """Why a file gives no numbers, as the end of a sentence."""
  if isinstance(error, FileNotFoundError):
    return f'{pathlib.PurePath(error.filename).name} is missing'
  if isinstance(error, KeyError):
    return f'the file lacks {error}'
  return f'the file cannot be used ({error})'


def main(argv: Sequence[str]) -> int:
  """Prints the differences; returns 1 if there is one."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    '--write', action='store_true', help='write what is made as a whole'
  )
  args = parser.parse_args(argv)
  if args.write:
    for path, make in _made_files(ROOT).items():
      path.write_text(make(), encoding='utf-8')
  found = check(ROOT)
  for sentence in found:
    print(sentence)
  print(f'{len(found)} differences')
  return 1 if found else 0


if __name__ == '__main__':
  common.run(main)
