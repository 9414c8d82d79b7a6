"""Recomputes every table of README.md and docs/ from benchmarks/results.

python -m benchmarks.check_tables

It prints a sentence for each difference, and fails if there is one. A number of
a page is right where the recomputed one rounds to it. Pages of
benchmarks/results are made again and compared as text; `--write` writes those,
and benchmarks/test_split_log.md. A page with sentences is corrected by hand.
"""

import argparse
from collections.abc import Callable, Sequence
import difflib
import functools
import itertools
import json
import pathlib
import re
from typing import Any, NamedTuple

from benchmarks import common
from benchmarks import made_pages
from benchmarks import page_sentences
from benchmarks import page_tables
from benchmarks import page_tables_speed

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = 'benchmarks/results'
LOG = 'benchmarks/test_split_log.md'
TABLES = {**page_tables.TABLES, **page_tables_speed.TABLES}
NOT_KEPT = page_tables.NOT_KEPT
_UNCHECKED_COLUMNS = ('file', 'source')

_NOTHING = object()
# A missing or damaged file, or one without a field or a row.
_UNREADABLE = (OSError, LookupError, ValueError, TypeError)
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
    """As in `page_tables.TABLES`."""
    return self.page, self.heading, self.number

  @property
  def name(self) -> str:
    return f'{self.page}, "{self.heading}", table {self.number}'

  @property
  def is_measured(self) -> bool:
    """Whether its cells are numbers that were measured."""
    cells = (cell for row in self.rows for cell in row[1:])
    return self.to_the_right or any(map(_MEASURED.fullmatch, cells))


class _Reader:
  """Reads files of results by their names, and knows which."""

  def __init__(self, root: pathlib.Path):
    self._root = root
    self.names: dict[str, None] = {}  # in their order

  def __call__(self, name: str) -> Any:
    self.names[name] = None
    return _read(self._root / RESULTS / f'{name}.json')

  @property
  def source(self) -> str:
    return ', '.join(f'{name}.json' for name in self.names)


def read_tables(text: str, page: str) -> list[Table]:
  """The tables of a page.

  Args:
    text: Its Markdown.
    page: Its name.
  """
  found, heading, number, in_code = [], '', 0, False
  block: list[str] = []
  for line in [*text.split('\n'), '']:
    if line.startswith('|') and not in_code:
      block.append(line)
      continue
    if block:
      number += 1
      header, rules, *rows = map(_cells, block)
      is_right = any(rule.endswith('-:') for rule in rules)
      found.append(Table(page, heading, number, header, rows, is_right))
      block = []
    if line.startswith('```'):
      in_code = not in_code
    elif line.startswith('#') and not in_code:
      heading, number = line.lstrip('#').strip(), 0
  return found


def _cells(line: str, bold: str = '') -> list[str]:
  """The cells of a line of a table, with or without asterisks."""
  cells = re.split(r'(?<!\\)\|', line.strip())[1:-1]
  return [cell.strip().replace('**', bold) for cell in cells]


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
    found += check_sentences(page, text, root)
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


def check_sentences(page: str, text: str, root: pathlib.Path) -> list[str]:
  """A sentence for each number that differs in those of `SENTENCES`.

  Args:
    page: The page.
    text: Its Markdown.
    root: As of `check`.
  """
  plain = ' '.join(text.replace('**', '').replace('`', '').split())
  found = []
  for (name, words), make in page_sentences.SENTENCES.items():
    if name != page:
      continue
    pattern = re.escape(words).replace(r'\{\}', f'({_NUMBER.pattern})')
    matches = re.findall(pattern, plain)
    reader = _Reader(root)
    try:
      numbers = make(reader)
    except _UNREADABLE as error:
      found.append(
        f'{page}, "{words}": {_reason(error)}, reading {reader.source}.'
      )
      continue
    if len(matches) != 1:
      found.append(
        f'{page}: "{words}" is there {len(matches)} times, not once.'
      )
      continue
    written = [matches[0]] if len(numbers) == 1 else matches[0]
    right = [_round(x, y) for x, y in zip(numbers, written, strict=True)]
    if list(written) != right:
      found.append(
        f'{page}, "{words}": the page says {", ".join(written)},'
        f' {reader.source} gives {", ".join(right)}.'
      )
  return found


def check_table(table: Table, root: pathlib.Path, text: str) -> list[str]:
  """A sentence for each difference of a table.

  Args:
    table: One of `TABLES`.
    root: As of `check`.
    text: The page, which must name the files.
  """
  reader = _Reader(root)
  try:
    expected = TABLES[table.key](reader)
  except _UNREADABLE as error:
    return [f'{table.name}: {_reason(error)}, reading {reader.source}.']
  source = reader.source
  found = [
    f'{table.name}: the page does not name {RESULTS}/{name}.'
    for name in reader.names
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
      cells, expected = _cells(line, '**'), _cells(right, '**')
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
  return _parse(path.read_text(encoding='utf-8'))


@functools.cache
def _parse(text: str) -> Any:
  return json.loads(text)


def _reason(error: Exception) -> str:
  """Why a file gives no numbers, as the end of a sentence."""
  if isinstance(error, FileNotFoundError):
    return f'{pathlib.PurePath(error.filename).name} is missing'
  if isinstance(error, KeyError):
    return f'there is no {error}'
  return f'a file cannot be used ({error})'


def _made_files(root: pathlib.Path) -> dict[pathlib.Path, Callable[[], str]]:
  return made_pages.made_files(
    root / RESULTS,
    root / LOG,
    by_hand={
      pathlib.PurePath(page).name for page, _, _ in {*TABLES, *NOT_KEPT}
    },
    lost=[key for key, of in NOT_KEPT.items() if of == page_tables.TEST],
  )


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
