"""From command-line arguments to a config and a workdir."""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import os
import pathlib
import re
import stat
import sys

from absl import flags

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import methods
from ldc_vae import plans as plans_lib
from ldc_vae import run_files
from ldc_vae.data import request
from ldc_vae.runtime import addresses

MODES = ('train', 'evaluate', 'sample', 'compare', 'check', 'encode', 'export')
# They need a trained workdir.
USES = ('evaluate', 'sample', 'encode', 'export')

_LONGEST_FLAG = 100  # characters of its name, and more

_TOGETHER = ('coordinator_address', 'num_processes', 'process_id')
# Flags that few modes read.
_MODES_OF_A_FLAG = {
  'num_samples': ('sample',),
  'images': ('encode',),
  'output': ('sample', 'encode', 'export'),
  'methods': ('compare',),
  'seeds': ('compare',),
  'jobs': ('compare',),
  'repair': ('check',),
}


def _define_flags() -> flags.FlagValues:
  """Returns the flags, apart from absl's own of the process."""
  values = flags.FlagValues()
  for name in (
    'config',
    'workdir',
    'images',
    'output',
    'methods',
    'seeds',
    'coordinator_address',
  ):
    flags.DEFINE_string(name, None, '', flag_values=values)
  flags.DEFINE_string('mode', 'train', '', flag_values=values)
  flags.DEFINE_boolean('repair', None, '', flag_values=values)
  flags.DEFINE_integer('jobs', None, '', lower_bound=1, flag_values=values)
  flags.DEFINE_integer(
    'num_samples', None, '', lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer(
    'num_processes', None, '', lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer(
    'process_id', None, '', lower_bound=0, flag_values=values
  )
  return values


def read_flag_files(argv: Sequence[str]) -> list[str]:
  """Returns arguments with those that `--flagfile=FILE` lists in its place."""
  try:
    return flags.FlagValues().read_flags_from_files(argv)
  except (flags.Error, UnicodeDecodeError) as error:
    cause = error.__context__
    file, why = '', str(error)
    if isinstance(cause, OSError):
      file, why = f'={cause.filename}', cause.strerror
    raise errors.UserError(
      f'--flagfile{file} cannot be read ({why}); give a text file with one'
      ' argument in each line'
    ) from error


def parse(argv: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
  """Returns the checked flags and the '--config.a.b=value' overrides."""
  plain, overrides = [], []
  arguments = list(argv)
  while arguments:
    argument = arguments.pop(0)
    if argument.startswith(('--config.', '-config.')):
      follows = arguments and not arguments[0].startswith('--')
      if '=' not in argument and follows:  # --config.a.b value
        argument = f'{argument}={arguments.pop(0)}'
      overrides.append(argument)
    else:
      plain.append(argument)
  for argument in plain:
    name = argument.partition('=')[0]
    if len(name) > _LONGEST_FLAG:  # absl would look for similar ones for ever
      raise errors.UserError(
        f'{name!r} is not a flag; see --help for the flags'
      )
  values = _define_flags()
  rest = values(['ldc_vae', *plain])[1:]
  if rest:
    raise errors.UserError(
      f'{rest[0]!r} is not a flag; see --help for the flags'
    )
  _check_flags(values)
  for name in ('workdir', 'output', 'images'):
    path = values[name].value
    if path is not None:
      values[name].value = os.path.expanduser(path)
  return values, overrides


def _check_flags(values: flags.FlagValues) -> None:
  """Raises a `UserError` for flags that do not hold, alone or together."""
  if values.mode not in MODES:
    raise errors.UserError(
      f'--mode={values.mode}: unknown mode; known: {", ".join(MODES)}'
    )
  for name, modes in _MODES_OF_A_FLAG.items():
    if values[name].value is not None and values.mode not in modes:
      raise errors.UserError(
        f'--{name}: read by --mode={" and --mode=".join(modes)} only; leave it'
        f' out of --mode={values.mode}'
      )
  if values.mode == 'encode' and not values.images:
    raise errors.UserError(
      '--images is missing; give a folder of images, an .npz or an .npy file,'
      ' or a split (train, validation, test)'
    )
  for name in ('workdir', 'output'):
    path = values[name].value
    if path is None:
      continue
    if not path:
      raise errors.UserError(
        f'--{name}=: it is empty; give a path, or leave the flag out'
      )
    is_run = name == 'workdir' and values.mode in ('train', *USES)
    if addresses.is_address(path) and not is_run:
      raise errors.UserError(
        f'--{name}={path}: not a local path; use one, or the'
        ' path where the storage is mounted'
      )
  missing = [name for name in _TOGETHER if values[name].value is None]
  if values.mode == 'compare':
    if name := several_processes(values):
      raise errors.UserError(
        f'{name}: --mode=compare starts its runs by itself, on this host;'
        ' leave it out'
      )
    parse_seeds(values.seeds)
  if len(missing) == len(_TOGETHER):
    return
  if missing:
    raise errors.UserError(
      f'--{missing[0]} is missing; give --coordinator_address,'
      ' --num_processes and --process_id together'
    )
  host, _, port = values.coordinator_address.rpartition(':')
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise errors.UserError(
      f'--coordinator_address={values.coordinator_address}: not HOST:PORT;'
      ' use the address of process 0, as 10.0.0.1:8476'
    )
  if values.process_id >= values.num_processes:
    raise errors.UserError(
      f'--process_id={values.process_id}: out of range; use 0 to'
      f' {values.num_processes - 1} with --num_processes='
      f'{values.num_processes}'
    )


def several_processes(values: flags.FlagValues) -> str:
  """Returns the flag or variable that asks for several processes, or ''."""
  variable = 'LDC_VAE_DISTRIBUTED'
  if os.environ.get(variable, '0') not in ('', '0'):
    return f'{variable}={os.environ[variable]}'
  given = [name for name in _TOGETHER if values[name].value is not None]
  return f'--{min(given)}' if given else ''


def parse_seeds(text: str | None) -> list[int]:
  """Returns the seeds of a comparison."""
  seeds = []
  for word in ('0,1,2' if text is None else text).split(','):
    word = word.strip()
    if not (word.isascii() and word.isdigit() and int(word) < 2**32):
      raise errors.UserError(
        f'--seeds={text}: {word!r} is no seed; use whole numbers from 0 on,'
        ' as --seeds=0,1,2'
      )
    if int(word) in seeds:
      raise errors.UserError(
        f'--seeds={text}: {word} is there twice; name each seed once'
      )
    seeds.append(int(word))
  return seeds


def resolve(values: flags.FlagValues, overrides: Sequence[str]):
  """Returns the config of the run, or the plans of several, and the workdir."""
  if values.mode in ('train', 'compare') and not values.config:
    raise errors.UserError(
      '--config is missing; give a run file, as --config=configs/digits.py'
    )
  if not values.config and not values.workdir:
    raise errors.UserError(
      f'--workdir is missing; --mode={values.mode} needs a trained workdir'
    )
  if values.mode == 'compare':
    names = ','.join(methods.METHODS)
    names = names if values.methods is None else values.methods
    plans = plans_lib.load(
      values.config, [word.strip() for word in names.split(',')], overrides
    )
    for plan in plans.values():
      if plan.config.dataset.name == request.LATENTS:
        raise errors.UserError(
          f'--config={values.config}: --mode=compare trains on images; leave'
          ' the mode out to learn latents'
        )
    stem = pathlib.Path(run_files.split(values.config)[0]).stem
    workdir = values.workdir or os.path.join('runs', f'{stem}_compare')
    _check_workdir(workdir)
    return plans, workdir
  config = values.config and config_lib.load(values.config, overrides)
  workdir = values.workdir or _default_workdir(values.config, config)
  if addresses.is_address(workdir):
    from ldc_vae.data import array_cache  # imports jax

    cache = array_cache.cache_dir()
    workdir = str(addresses.local_folder(workdir, cache))
  _check_workdir(workdir)
  return config, workdir


def resolve_trained(
  values: flags.FlagValues, overrides: Sequence[str], config, workdir: str
):
  """Returns the config of a trained workdir, which process 0 alone reads.

  Args:
    values: The flags.
    overrides: '--config.a.b=value' texts, read where there is no `--config`.
    config: The config of `--config`, or None.
    workdir: The workdir.

  Raises:
    UserError: The workdir was not trained, or with another config.
  """
  extensions = config_lib.load_extensions_of(overrides)
  stored = _read_trained(workdir, extensions, values.mode)
  if values.output is not None and values.mode != 'export':
    _check_output(values.output, stored, values)
  config = config or config_lib.override(stored, overrides)
  changed = config_lib.differences(stored, config)
  if changed:
    raise errors.UserError(
      f'config.{changed[0]} differs from {workdir}/config.json; leave'
      f' --config out of --mode={values.mode}, or name the workdir that was'
      ' trained with it'
    )
  return config


def _default_workdir(spec: str, config) -> str:
  stem = pathlib.Path(run_files.split(spec)[0]).stem
  return os.path.join('runs', f'{stem}_{config.method.name}')


def _check_workdir(workdir: str) -> None:
  """Raises for a workdir that cannot be one, whatever is done."""
  path = os.path.abspath(workdir)
  reason, remedy = '', 'give another folder'
  try:
    path.encode()
  except UnicodeEncodeError:
    encoding = sys.getfilesystemencoding()
    reason = f'its name is not {encoding.upper()}'
    if encoding != 'utf-8':
      reason += ', which this locale has names in'
      remedy = 'set PYTHONUTF8=1, or give another folder'
  else:
    # tensorstore takes it for a pattern, and saves into nothing
    special = re.search(r'\[.*\]|\\', path)
    if special:
      reason = f'checkpoints cannot lie below {special[0]!r}'
  if reason:
    raise errors.UserError(
      f'--workdir={os.fsencode(workdir).decode(errors="replace")}: {reason};'
      f' {remedy}'
    )
  try:
    is_folder = stat.S_ISDIR(os.stat(path).st_mode)
  except FileNotFoundError:
    return
  except OSError as error:
    if error.errno not in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP):
      return  # the mode reports it if it needs the folder
    raise errors.UserError(
      f'--workdir={workdir}: it cannot be a folder ({error.strerror}); give'
      ' another'
    ) from error
  if not is_folder:
    raise errors.UserError(f'--workdir={workdir}: it is a file; give a folder')


def _check_output(output: str, config, values: flags.FlagValues) -> None:
  """Raises unless samples or latents of a run may be written to `output`."""
  path = pathlib.Path(output)
  if path.suffix != '.npz':
    beside = ' (a grid is put beside it, as a .png)' * (values.mode == 'sample')
    raise errors.UserError(
      f'--output={output}: not the name of an .npz file; give one that ends'
      f' in .npz{beside}'
    )
  is_of_a_run = path.name == 'samples.npz' and any(
    os.path.exists(path.parent / name)
    for name in ('config.json', 'results.json')
  )
  kept = None
  if is_of_a_run:
    kept = 'the samples that a run was evaluated with'
  elif _is_same_file(output, config.dataset.path):
    kept = 'the images that the run was trained on'
  elif _is_same_file(output, values.images):
    kept = 'the images to encode'
  if kept:
    raise errors.UserError(
      f'--output={output}: {kept} are there; give another name'
    )
  if values.mode != 'sample':
    return
  picture = path.with_suffix('.png')
  if os.path.exists(picture) and not os.path.exists(path):
    raise errors.UserError(
      f'--output={output}: the grid beside it would replace {picture}; give'
      ' another name, or move that file away'
    )


def _is_same_file(path: str, other: str | None) -> bool:
  """Returns whether another path, if there is one, names the same file."""
  if not other:
    return False
  return os.path.realpath(path) == os.path.realpath(os.path.expanduser(other))


def _read_trained(workdir: str, extensions: Sequence[str] | None, mode: str):
  """Returns the config of a workdir that a mode can use."""
  path = pathlib.Path(workdir)
  with _reading(workdir):
    is_there = path.is_dir()
  if not is_there:
    raise errors.UserError(
      f'--workdir={workdir}: no such folder; train it first'
    )
  config = config_lib.read(path, extensions)
  if config.dataset.name == request.LATENTS:
    if mode != 'sample':
      raise errors.UserError(
        f'--workdir={workdir}: it holds a sampler of latents, which has'
        ' --mode=sample only'
      )
    return config
  checkpoints = path / 'checkpoints'
  with _reading(checkpoints):
    is_trained = checkpoints.is_dir() and any(checkpoints.iterdir())
  if not is_trained:
    raise errors.UserError(
      f'--workdir={workdir}: it holds no checkpoint; train it first'
    )
  return config


@contextlib.contextmanager
def _reading(folder: str | os.PathLike[str]) -> Iterator[None]:
  """Tells in one sentence why a folder of --workdir cannot be read."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f'{folder} cannot be read ({error.strerror}); give a --workdir that you'
      ' may read'
    ) from error
