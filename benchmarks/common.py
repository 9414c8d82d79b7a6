"""Shared by the benchmarks: their record, their tables, their errors.

A benchmark writes one JSON file, which names the command, commit, seeds and
device of its numbers, and beside it a Markdown table of the same name.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
import math
import os
import pathlib
import platform
import signal
import sys
from typing import Any

from absl import logging
import jax

from ldc_vae.data import datasets
from ldc_vae.metrics import intervals
from ldc_vae.runtime import compiled
from ldc_vae.runtime import files
from ldc_vae.runtime import jobs
from ldc_vae.runtime import provenance

# Flags and fields that say where files lie, which is nobody else's business.
_PLACES = (
  'data_dir',
  'output',
  'path',
  'peer_python',
  'torch_python',
  'workdir',
  'workdirs',
)


def set_up_jax() -> None:
  """Turns the compilation cache on, and shows this package's messages."""
  compiled.use_cache(datasets.cache_dir() / 'xla')
  logging.set_verbosity(logging.INFO)


def run(main_fn: Callable[[Sequence[str]], int]) -> None:
  """Runs a benchmark and exits; a user's mistake is told in one sentence.

  SIGTERM ends it in order, so that the processes that it started end too.
  """
  signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
  try:
    code = main_fn(sys.argv[1:])
  except (OSError, ValueError) as error:
    print(f'error: {error}', file=sys.stderr)
    code = 1
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    code = 130
  sys.exit(code)


def names(text: str) -> tuple[str, ...]:
  """Parses 'a,b'."""
  return tuple(word.strip() for word in text.split(',') if word.strip())


def integers(text: str) -> tuple[int, ...]:
  """Parses '0,1,2', for argparse."""
  return tuple(int(word) for word in _some(text))


def numbers(text: str) -> tuple[float, ...]:
  """Parses '0.5,1', for argparse."""
  return tuple(float(word) for word in _some(text))


def _some(text: str) -> tuple[str, ...]:
  """Returns names like `names`, but refuses none."""
  words = names(text)
  if not words:
    raise argparse.ArgumentTypeError('needs at least one number, as 1,2')
  return words


def positive(text: str) -> int:
  """Parses a whole number of at least 1."""
  number = int(text)
  if number < 1:
    raise ValueError(f'{text} is not positive')
  return number


def choose(
  flag: str,
  chosen: Sequence[str],
  known: Iterable[str],
  *,
  required: bool = False,
) -> None:
  """Raises a ValueError for something unknown, or nothing if it is required.

  Something twice is refused too: it would count as two.
  """
  known = tuple(known)
  distinct(flag, chosen)
  if required and not chosen:
    raise ValueError(f'--{flag} names nothing; known: {", ".join(known)}')
  for name in chosen:
    if name not in known:
      raise ValueError(f'--{flag}={name} is unknown; known: {", ".join(known)}')


def same_run(one: Sequence[str] | None, other: Sequence[str]) -> bool:
  """Whether two lists of `ldc_vae.main`'s arguments mean one training.

  They may differ in where things lie: a run notices other data by itself.
  """
  meant = lambda words: [word for word in words if not _is_place(word)]
  return one is not None and meant(one) == meant(other)


def _is_place(word: str) -> bool:
  """Whether an argument FLAG=VALUE is the path of something."""
  return word.partition('=')[0].lstrip('-').rpartition('.')[2] in _PLACES


def distinct(flag: str, values: Sequence[Any]) -> None:
  """Raises a ValueError for a value that is there twice."""
  for value in values:
    if values.count(value) > 1:
      raise ValueError(f'--{flag} names {value} twice; name it once')


def parse_args(
  parser: argparse.ArgumentParser, argv: Sequence[str]
) -> argparse.Namespace:
  """Parses the flags of a benchmark, and looks at those that many have.

  Args:
    parser: With `--output`, '' for no file.
    argv: The arguments.

  Raises:
    ValueError: A seed is named twice, or the output is no JSON file.
    OSError: The output cannot be written: told before the work.
  """
  args = parser.parse_args(argv)
  _check(args)
  return args


def parse_overrides(
  parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
  """Parses like `parse_args`; the rest must be `--config.a.b=value`."""
  args, overrides = parser.parse_known_args(argv)
  for word in overrides:
    if not word.startswith('--config.') or '=' not in word:
      parser.error(f'{word!r} is no flag; overrides are --config.a.b=value')
  _check(args)
  return args, overrides


def _check(args) -> None:
  """Raises as `parse_args` says."""
  distinct('seeds', getattr(args, 'seeds', ()))
  if not args.output:
    return
  output = pathlib.Path(args.output)
  if output.suffix != '.json':
    raise ValueError(f'--output={output} must end in .json')
  output.parent.mkdir(parents=True, exist_ok=True)
  files.check_writable(output)


def parse_runs(
  parser: argparse.ArgumentParser,
  argv: Sequence[str],
  *,
  workdir: str,
  output: str,
  own_fields: Sequence[str],
) -> tuple[argparse.Namespace, list[str]]:
  """Parses the flags of a benchmark that runs the product's own command.

  Args:
    parser: With what is the benchmark's own; it gets `--workdir`, `--data_dir`,
      `--jobs`, `--collect_only` and `--output`.
    argv: The arguments.
    workdir: The default folder of the runs.
    output: The default record.
    own_fields: Fields of the config that the benchmark itself sets.

  Returns:
    The flags, and the `--config.a.b=value` that go to every run.

  Raises:
    ValueError: An override is of such a field; or as `parse_args`.
  """
  add = parser.add_argument
  add('--workdir', default=workdir)
  add('--data_dir', default='', help='prepared TFDS data')
  add('--jobs', type=positive, default=1, help='runs at once')
  add('--collect_only', action='store_true', help='train nothing')
  add('--output', default=output)
  args, overrides = parse_overrides(parser, argv)
  for word in overrides:
    field = word.partition('=')[0].removeprefix('--config.')
    if field in own_fields:
      raise ValueError(f'{word}: this benchmark sets {field}; leave it out')
  if args.data_dir:
    overrides.append(f'--config.dataset.data_dir={args.data_dir}')
  return args, overrides


def job(
  workdir: pathlib.Path, arguments: Sequence[str], to_file: bool = True
) -> jobs.Job:
  """The product's own command, named as its workdir.

  Args:
    workdir: The workdir of the run.
    arguments: The arguments of `ldc_vae.main`.
    to_file: Whether what it prints goes to WORKDIR.log.
  """
  words = (sys.executable, '-m', 'ldc_vae.main', *arguments)
  log = workdir.with_name(f'{workdir.name}.log') if to_file else None
  return jobs.Job(workdir.name, words, log)


def commit_of(workdir: pathlib.Path) -> str | None:
  """The commit that a run was trained by; None where it does not say."""
  record = files.read_json(workdir / 'config.json') or {}
  return record.get('git_commit')


def command(module: str, argv: Sequence[str]) -> str:
  """The command to repeat a benchmark, its places as capital words.

  Args:
    module: The module after `python -m`.
    argv: The arguments.

  Returns:
    A line without a path of this machine.
  """
  words, rest = [], list(argv)
  while rest:
    word = rest.pop(0)
    if '=' not in word and rest and not rest[0].startswith('--'):
      word = f'{word}={rest.pop(0)}'
    flag, equals, value = word.partition('=')
    if value and _is_place(word):
      value = flag.lstrip('-').rpartition('.')[2].upper()
    words.append(f'{flag}{equals}{value}')
  return ' '.join(('python -m', module, *words))


def create_record(
  module: str, argv: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
  """Returns the first fields of every result file.

  Args:
    module: The module after `python -m`.
    argv: The arguments.
    seeds: The seeds of the runs.

  Returns:
    'command', 'seeds', 'device', 'versions' and 'git_commit'.
  """
  return {
    'command': command(module, argv),
    'seeds': list(seeds),
    'device': describe_device(),
    **provenance.describe(),
  }


def describe_device() -> dict[str, Any]:
  """The devices of jax, and the processor and cores behind them."""
  devices = jax.devices()
  return {
    'kind': devices[0].device_kind,
    'count': len(devices),
    'processor': _processor(),
    'cores': jobs.num_cores(),
  }


def show(value: Any, digits: int = 3) -> str:
  """A number with `digits` significant digits; 'n/a' where there is none."""
  if value is None or (isinstance(value, float) and not math.isfinite(value)):
    return 'n/a'
  if not isinstance(value, float) or value == 0.0:
    return f'{value:g}' if isinstance(value, float) else str(value)
  magnitude = math.floor(math.log10(abs(value)))
  if magnitude < -3:
    return f'{value:.{digits - 1}e}'
  return f'{value:.{max(digits - 1 - magnitude, 0)}f}'


def show_spread(values: Sequence[float | None], digits: int = 3) -> str:
  """'mean ± standard deviation', or the value where there is one."""
  present = [value for value in values if value is not None]
  if not present:
    return 'n/a'
  if len(present) < len(values):
    mean = show(intervals.mean(present), digits)
    return f'{mean} ({len(present)} of {len(values)})'
  if len(present) == 1:
    return show(present[0], digits)
  std = intervals.standard_deviation(present)
  return f'{show(intervals.mean(present), digits)} ± {show(std, 2)}'


def write(
  output: str | os.PathLike[str], record: dict[str, Any], markdown: str
) -> None:
  """Writes a record as JSON and its tables beside it, as `.md`.

  Args:
    output: The JSON file; its folder is made if it is missing.
    record: The result of `create_record`, and the rows.
    markdown: The tables; a line with the record's origin is put below them.
  """
  output = pathlib.Path(output)
  output.parent.mkdir(parents=True, exist_ok=True)
  files.write_json(output, record)
  with files.open_atomically(output.with_suffix('.md')) as file:
    file.write(create_page(record, markdown).encode())


def create_page(record: dict[str, Any], markdown: str) -> str:
  """Returns the tables of a record, and a line with its origin below them."""
  device, commits = record['device'], record['git_commit']
  rows = record.get('rows', ())
  trained = {row['git_commit'] for row in rows if row.get('git_commit')}
  if trained:  # elsewhere, and perhaps by an earlier version
    commits = f'{commits}; runs of {", ".join(sorted(trained))}'
  return (
    f'{markdown}\n`{record["command"]}`; seeds'
    f' {", ".join(map(str, record["seeds"]))};'
    f' {device["count"]} x {device["kind"]} ({device["processor"]},'
    f' {device["cores"]} cores), jax {record["versions"]["jax"]}, commit'
    f' {commits}.\n'
  )


def _processor() -> str:
  """The processor's name, as the system tells it."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8')
  except OSError:  # not Linux
    text = ''
  for line in text.splitlines():
    name, _, value = line.partition(':')
    if name.strip() == 'model name':
      return value.strip()
  return platform.processor() or platform.machine()
