"""The log of all evaluations on the test split, made from the result files."""

from collections.abc import Iterable, Mapping
import textwrap
from typing import Any

_TITLE = '# Evaluations on the test split\n'
_START = (
  'The files of `results/` with numbers of the test split. Each evaluation of'
  ' one checkpoint is counted. The comparison of λ = 1 and λ = 8 is among'
  ' them. It was known when the defaults of `ldc` were chosen on the validation'
  ' split. This page is written by'
  ' `python -m benchmarks.check_tables --write`.'
)


def create(
  records: Mapping[str, Any], not_kept: Iterable[tuple[str, str, int]]
) -> str:
  """The text of test_split_log.md.

  Args:
    records: The content of the files of results, by name.
    not_kept: Page, heading and number of the tables without a file.
  """
  parts = [_TITLE, textwrap.fill(_START, 100) + '\n']
  for name, record in records.items():
    num = count(record)
    if not num:
      continue
    runs = record.get('runs', ())
    commits = {run['git_commit'] for run in runs} or {record['git_commit']}
    methods = ', '.join(dict.fromkeys(run['method'] for run in runs))
    parts += [
      f'## [{name}](results/{name})\n',
      f'* evaluations: {num}',
      *([f'* methods: {methods}'] if methods else []),
      f'* seeds: {", ".join(map(str, record["seeds"]))}',
      f'* commits: {", ".join(sorted(commit[:7] for commit in commits))}\n',
      f'```bash\n{_wrap(record["command"])}\n```\n',
    ]
  parts.append(
    '## Not kept\n\nTables of the test split whose files are lost:\n'
  )
  parts += [
    f'* {page}, "{heading}", table {number}'
    for page, heading, number in not_kept
  ]
  return '\n'.join(parts) + '\n'


def count(value: Any) -> int:
  """How many evaluations in a record are of the test split."""
  if isinstance(value, list):
    return sum(map(count, value))
  if not isinstance(value, Mapping):
    return 0
  if 'protocol/split' in value:  # results of a run
    return int(value['protocol/split'] == 'test')
  if 'nll/ais' in value or any(name.startswith('test/') for name in value):
    return 1
  return sum(map(count, value.values()))


def _wrap(command: str) -> str:
  lines = textwrap.wrap(
    command, 96, break_long_words=False, break_on_hyphens=False
  )
  return ' \\\n  '.join(lines)
