"""The command line: flags in, exit code out.

python -m ldc_vae.main --config=configs/digits.py --workdir=runs/digits
"""

from collections.abc import Iterator, Sequence
import contextlib
import errno
import linecache
import logging
import os
import pathlib
import re
import signal
import stat
import sys
from typing import NoReturn

from absl import flags
from absl import logging as absl_logging

from ldc_vae import config as config_lib

_PACKAGE = str(config_lib.ROOT / 'ldc_vae') + os.sep

# 0 is success; 1 what another start may mend: files, devices, other processes;
# 2 what the same command would meet again: a mistake in its arguments, config
# or data, an update that is not finite, too little memory. Launchers start a
# run that ended with 2 no more. A signal gives 128 and its number.
_RUNTIME_ERROR, _LASTING_ERROR = 1, 2

# What a user causes and can mend; anything else is our bug, with a traceback.
_LASTING = (ValueError, FloatingPointError, MemoryError)
_TOLD_IN_A_SENTENCE = (*_LASTING, OSError)

_OUT_OF_MEMORY = (
    'the device has too little memory; raise config.train.accumulate, or lower'
    ' config.train.batch_size, config.evaluate.batch_size,'
    ' config.evaluate.importance_samples or the sizes of config.model'
)

# What is said of a workdir when a signal has stopped its command.
_CONTINUES = {
    'train': ': the same command continues {} from its latest checkpoint',
    'compare': ': the same command continues the runs of {}',
}

# How XLA begins its errors, whatever their type.
_XLA_STATUS = re.compile(
    '(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|UNKNOWN'
    '|UNAVAILABLE): '
)

_HELP = """\
LDC-VAE: trains an autoencoder and its latent sampler by SVGD.

  python -m ldc_vae.main --config=FILE[:METHOD][,debug] [flags]

  --config=FILE[:METHOD][,debug]
                       run file, as configs/digits.py; METHOD is ldc (default),
                       ae, aae, beta_vae, info_vae, iwae, lebm, rae_gp, rae_l2,
                       stein_vae, vae, vamp or wae_mmd; debug shrinks the run
                       to seconds
  --config.GROUP.FIELD=VALUE
                       overrides a field; configs/default.py explains them all
                       (compare: --config.METHOD.GROUP.FIELD for one method)
  --workdir=DIR        where the run lives and resumes by itself
                       (default: runs/<config>_<method>, or _compare)
  --mode=MODE          train (default): train, evaluate, draw pictures
                       evaluate: evaluate a trained workdir again
                       sample: draw images from a trained workdir
                       compare: train and evaluate several methods, tabulate
  --num_samples=N      sample: how many images (default: 64)
  --output=FILE.npz    sample: where to write (default: WORKDIR/generated.npz)
  --methods=A,B        compare: which methods (default: all)
  --seeds=0,1,2        compare: of each method (default: 0,1,2)
  --jobs=N             compare: runs at once, each on its own cores (default: 1)
  --coordinator_address=HOST:PORT --num_processes=N --process_id=I
                       one run over several processes; give all three, or set
                       LDC_VAE_DISTRIBUTED=1 where jax is to find them itself
                       (TPU pod slices, SLURM, MPI; Kubernetes with jax[k8s])
  --help               this text

evaluate and sample read the config of the workdir where --config is missing.
Caches lie under $LDC_VAE_CACHE (default: ~/.cache/ldc_vae). LDC_VAE_TRACEBACK=1
shows where an error was raised. SIGINT, SIGTERM and SIGHUP save and stop a run.
Exit code 2: giving the same command again would not help; 1: it may.
"""


def run() -> NoReturn:
  """Runs the command line of this process and exits with its code."""
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # what is being imported may drop a KeyboardInterrupt, or crash by it
    signal.signal(signal.SIGINT, _leave)
  _show_messages()
  try:
    code = main(sys.argv[1:])
  except KeyboardInterrupt:  # before anything was begun
    print('interrupted', file=sys.stderr)
    code = 128 + signal.SIGINT
  except Exception:
    sys.excepthook(*sys.exc_info())
    code = _RUNTIME_ERROR
  if code:
    # XLA may still be at work, and aborts where Python is taken down around it.
    with contextlib.suppress(OSError, ValueError):
      sys.stdout.flush()
      sys.stderr.flush()
    os._exit(code)
  sys.exit()


def _leave(signum: int, unused_frame) -> NoReturn:
  """Ends a process that has begun nothing yet."""
  os.write(2, b'interrupted\n')
  os._exit(128 + signum)


def main(argv: Sequence[str]) -> int:
  """Runs one command.

  Args:
    argv: The arguments, without the program's name.

  Returns:
    The exit code: 0, or 1 for an error that another start may mend, 2 for one
    that it would meet again, 130 after SIGINT, 143 after SIGTERM.
  """
  if any(argument in ('--help', '-h', '-help') for argument in argv):
    print(_HELP, end='')
    return 0
  try:
    values, overrides = _parse(argv)
    config, workdir = _resolve(values, overrides)
  except (config_lib.ConfigError, flags.Error, OSError) as error:
    return _fail(error)
  flags.FLAGS.mark_as_parsed()  # libraries read absl's own flags
  from ldc_vae.runtime import cluster
  from ldc_vae.runtime import memory
  from ldc_vae.runtime import signals

  memory.keep_freed_memory()
  with signals.watch() as watch:
    try:
      _set_up_jax(values, watch)
      _JOBS[values.mode](config, workdir, values)
      cluster.finish()
    except (KeyboardInterrupt, SystemExit) as stop:
      code = stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT
      return _stop(code, values.mode, workdir)
    except Exception as error:
      if isinstance(error, ImportError) and watch.exit_code:
        # an extension that was being loaded has made this of the signal
        return _stop(watch.exit_code, values.mode, workdir)
      if 'RESOURCE_EXHAUSTED' in str(error):  # jax has no type for it
        error = MemoryError(_OUT_OF_MEMORY)
      if _is_of_the_runtime(error):
        cluster.await_verdict()  # ends here if another process has died
      if not isinstance(error, _TOLD_IN_A_SENTENCE):
        if not cluster.is_alone():
          sys.excepthook(type(error), error, error.__traceback__)
        cluster.leave(_RUNTIME_ERROR, f'has failed: {_sentence(error)}')
        raise
      code = _fail(error)
      cluster.leave(code, f'has failed: {_sentence(error)}')
      return code
  return 0


def _stop(code: int, mode: str, workdir: str) -> int:
  """Says that a signal has stopped the command, also to other processes."""
  from ldc_vae.runtime import cluster

  print(
      f'interrupted{_CONTINUES.get(mode, "").format(workdir)}', file=sys.stderr
  )
  cluster.leave(code)
  return code


# The modes. Their modules import jax, so that they are loaded only here.


def _train(config, workdir, values):
  """Trains, or continues, and evaluates."""
  del values
  from ldc_vae import train
  train.train_and_evaluate(config, workdir)


def _evaluate(config, workdir, values):
  """Evaluates a trained workdir again."""
  del values
  from ldc_vae import evaluate
  evaluate.evaluate(config, workdir)


def _sample(config, workdir, values):
  """Draws images from a trained workdir."""
  from ldc_vae import evaluate
  evaluate.sample(
      config,
      workdir,
      num_samples=values.num_samples or 64,
      output=values.output or os.path.join(workdir, 'generated.npz'),
  )


def _compare(plans, workdir, values):
  """Trains and evaluates several methods, and tabulates them."""
  from ldc_vae import compare
  compare.compare(
      plans, _seeds(values.seeds), workdir, num_jobs=values.jobs or 1
  )


_JOBS = {
    'train': _train,
    'evaluate': _evaluate,
    'sample': _sample,
    'compare': _compare,
}

# Flags that one mode alone reads.
_FLAGS_OF_A_MODE = {
    'num_samples': 'sample',
    'output': 'sample',
    'methods': 'compare',
    'seeds': 'compare',
    'jobs': 'compare',
}


# From arguments to a config and a workdir.


def _define_flags() -> flags.FlagValues:
  """Returns the flags, apart from absl's own of the process."""
  values = flags.FlagValues()
  for name in (
      'config', 'workdir', 'output', 'methods', 'seeds', 'coordinator_address'
  ):
    flags.DEFINE_string(name, None, '', flag_values=values)
  flags.DEFINE_string('mode', 'train', '', flag_values=values)
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


def _parse(argv: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
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
  values = _define_flags()
  rest = values(['ldc_vae', *plain])[1:]
  if rest:
    raise config_lib.ConfigError(
        f'{rest[0]!r} is not a flag; see --help for the flags'
    )
  _check_flags(values)
  for name in ('workdir', 'output'):
    if values[name].value is not None:
      values[name].value = os.path.expanduser(values[name].value)
  return values, overrides


def _check_flags(values: flags.FlagValues) -> None:
  """Raises a `ConfigError` for flags that do not hold, alone or together."""
  if values.mode not in _JOBS:
    raise config_lib.ConfigError(
        f'--mode={values.mode}: unknown mode; known: {", ".join(_JOBS)}'
    )
  for name, mode in _FLAGS_OF_A_MODE.items():
    if values[name].value is not None and values.mode != mode:
      raise config_lib.ConfigError(
          f'--{name}: read by --mode={mode} only; leave it out of'
          f' --mode={values.mode}'
      )
  for name in ('workdir', 'output'):
    if values[name].value is None:
      continue
    if not values[name].value:
      raise config_lib.ConfigError(
          f'--{name}=: it is empty; give a path, or leave the flag out'
      )
    if '://' in values[name].value:
      raise config_lib.ConfigError(
          f'--{name}={values[name].value}: not a local path; use one, or the'
          ' path where the storage is mounted'
      )
  together = ('coordinator_address', 'num_processes', 'process_id')
  missing = [name for name in together if values[name].value is None]
  if values.mode == 'compare':
    _check_alone(set(together) - set(missing))
    _seeds(values.seeds)
  if len(missing) == len(together):
    return
  if missing:
    raise config_lib.ConfigError(
        f'--{missing[0]} is missing; give --coordinator_address,'
        ' --num_processes and --process_id together'
    )
  host, _, port = values.coordinator_address.rpartition(':')
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise config_lib.ConfigError(
        f'--coordinator_address={values.coordinator_address}: not HOST:PORT;'
        ' use the address of process 0, as 10.0.0.1:8476'
    )
  if values.process_id >= values.num_processes:
    raise config_lib.ConfigError(
        f'--process_id={values.process_id}: out of range; use 0 to'
        f' {values.num_processes - 1} with --num_processes='
        f'{values.num_processes}'
    )


def _check_alone(given: set[str]) -> None:
  """Raises where a comparison is to be one of several processes."""
  variable = 'LDC_VAE_DISTRIBUTED'
  if os.environ.get(variable, '0') not in ('', '0'):
    name = f'{variable}={os.environ[variable]}'
  elif given:
    name = f'--{min(given)}'
  else:
    return
  raise config_lib.ConfigError(
      f'{name}: --mode=compare starts its runs by itself, on this host; leave'
      ' it out'
  )


def _seeds(text: str | None) -> list[int]:
  """Returns the seeds of a comparison."""
  seeds = []
  for word in ('0,1,2' if text is None else text).split(','):
    word = word.strip()
    if not (word.isascii() and word.isdigit() and int(word) < 2**32):
      raise config_lib.ConfigError(
          f'--seeds={text}: {word!r} is no seed; use whole numbers from 0 on,'
          ' as --seeds=0,1,2'
      )
    if int(word) in seeds:
      raise config_lib.ConfigError(
          f'--seeds={text}: {word} is there twice; name each seed once'
      )
    seeds.append(int(word))
  return seeds


def _resolve(values: flags.FlagValues, overrides: Sequence[str]):
  """Returns the config of the run, or the plans of several, and the workdir."""
  if values.mode in ('train', 'compare') and not values.config:
    raise config_lib.ConfigError(
        '--config is missing; give a run file, as --config=configs/digits.py'
    )
  if not values.config and not values.workdir:
    raise config_lib.ConfigError(
        f'--workdir is missing; --mode={values.mode} needs a trained workdir'
    )
  if values.mode == 'compare':
    methods = ','.join(config_lib.METHOD_ENCODERS)
    methods = methods if values.methods is None else values.methods
    plans = config_lib.load_each(
        values.config, [word.strip() for word in methods.split(',')], overrides
    )
    stem = pathlib.Path(config_lib.split_spec(values.config)[0]).stem
    workdir = values.workdir or os.path.join('runs', f'{stem}_compare')
    _check_workdir(workdir)
    return plans, workdir
  config = values.config and config_lib.load(values.config, overrides)
  workdir = values.workdir or _default_workdir(values.config, config)
  _check_workdir(workdir)
  if values.mode == 'train':
    return config, workdir
  stored = _read_trained(workdir, values.process_id)
  if values.output is not None:
    _check_output(values.output, stored)
  config = config or config_lib.override(stored, overrides)
  changed = config_lib.differences(stored, config)
  if changed:
    raise config_lib.ConfigError(
        f'config.{changed[0]} differs from {workdir}/config.json; leave'
        f' --config out of --mode={values.mode}, or name the workdir that was'
        ' trained with it'
    )
  return config, workdir


def _default_workdir(spec: str, config) -> str:
  stem = pathlib.Path(config_lib.split_spec(spec)[0]).stem
  return os.path.join('runs', f'{stem}_{config.objective.name}')


def _check_workdir(workdir: str) -> None:
  """Raises for a workdir that cannot be one, whatever is done."""
  path = os.path.abspath(workdir)
  try:
    path.encode()
  except UnicodeEncodeError:
    reason = 'its name is not UTF-8'
  else:
    # tensorstore takes it for a pattern, and saves into nothing
    special = re.search(r'\[.*\]|\\', path)
    reason = special and f'checkpoints cannot lie below {special[0]!r}'
  if reason:
    raise config_lib.ConfigError(
        f'--workdir={os.fsencode(workdir).decode(errors="replace")}: {reason};'
        ' give another folder'
    )
  try:
    is_folder = stat.S_ISDIR(os.stat(path).st_mode)
  except FileNotFoundError:
    return
  except OSError as error:
    if error.errno not in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP):
      return  # told where it matters
    raise config_lib.ConfigError(
        f'--workdir={workdir}: it cannot be a folder ({error.strerror}); give'
        ' another'
    ) from error
  if not is_folder:
    raise config_lib.ConfigError(
        f'--workdir={workdir}: it is a file; give a folder'
    )


def _check_output(output: str, config) -> None:
  """Raises unless samples may be written there.

  Args:
    output: The .npz file.
    config: Of the run.
  """
  path = pathlib.Path(output)
  if path.suffix != '.npz':
    raise config_lib.ConfigError(
        f'--output={output}: not the name of an .npz file; give one that ends'
        ' in .npz (a grid is put beside it, as a .png)'
    )
  data = config.dataset.path
  is_of_a_run = path.name == 'samples.npz' and any(
      os.path.exists(path.parent / name)
      for name in ('config.json', 'results.json')
  )
  kept = None
  if is_of_a_run:
    kept = 'the samples that a run was evaluated with'
  elif data and os.path.realpath(output) == os.path.realpath(
      os.path.expanduser(data)
  ):
    kept = 'the images that the run was trained on'
  if kept:
    raise config_lib.ConfigError(
        f'--output={output}: {kept} are there; give another name'
    )
  picture = path.with_suffix('.png')
  if os.path.exists(picture) and not os.path.exists(path):
    raise config_lib.ConfigError(
        f'--output={output}: the grid beside it would replace {picture}; give'
        ' another name, or move that file away'
    )


def _read_trained(workdir: str, process_id: int | None):
  """Returns the config of a workdir that holds a checkpoint."""
  path = pathlib.Path(workdir)
  with _reading(workdir):
    is_there = path.is_dir()
  if not is_there:
    remedy = 'train it first'
    if process_id:
      remedy = f'process {process_id} must see the folder of process 0'
    raise config_lib.ConfigError(
        f'--workdir={workdir}: no such folder; {remedy}'
    )
  config = config_lib.read(path)
  checkpoints = path / 'checkpoints'
  with _reading(checkpoints):
    is_trained = checkpoints.is_dir() and any(checkpoints.iterdir())
  if not is_trained:
    raise config_lib.ConfigError(
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


# The process.


def _show_messages() -> None:
  """Prints what this package logs, and of other packages the warnings."""

  def is_shown(record: logging.LogRecord) -> bool:
    ours = record.pathname.startswith(_PACKAGE)
    return ours or record.levelno >= logging.WARNING

  handler = logging.StreamHandler()
  handler.addFilter(is_shown)
  logger = absl_logging.get_absl_logger()
  logger.addHandler(handler)
  logger.propagate = False  # absl's own handler would print it again
  absl_logging.set_verbosity(absl_logging.INFO)


def _set_up_jax(values: flags.FlagValues, watch) -> None:
  """Turns the compilation cache on and joins the other processes."""
  import jax

  from ldc_vae.data import datasets
  from ldc_vae.runtime import cluster

  cache = datasets.cache_dir() / 'xla'
  _check_cache(cache)
  jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  if values.mode == 'compare':  # its runs need the accelerator, not it
    jax.config.update('jax_platforms', 'cpu')
  cluster.join(
      values.coordinator_address, values.num_processes, values.process_id
  )
  cluster.connect(watch)
  try:
    jax.devices()
  except RuntimeError as error:  # no such platform, or in use by another
    wanted = os.environ.get('JAX_PLATFORMS')
    what = f'JAX_PLATFORMS={wanted}' if wanted else 'jax'
    raise OSError(
        f'{what}: no device can be used ({error}); unset it, or install the'
        ' jax of this platform'
    ) from error
  if cluster.is_alone():
    if jax.process_count() > 1:
      raise ValueError(
          f'jax has joined {jax.process_count()} processes by itself; set'
          ' LDC_VAE_DISTRIBUTED=1 on every host, so that they write, stop and'
          ' fail together'
      )
    return
  if not cluster.is_first():
    absl_logging.set_verbosity(absl_logging.WARNING)


def _check_cache(path: pathlib.Path) -> None:
  """Makes the folder of compiled programs, or says why it cannot be made."""
  try:
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
      raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
  except OSError as error:
    raise ValueError(
        f'LDC_VAE_CACHE={path.parent}: it cannot be written'
        f' ({error.strerror}); set it to a folder that can'
    ) from error


def _is_of_the_runtime(error: Exception) -> bool:
  """Whether XLA has failed, as its collectives do where a process died."""
  return bool(_XLA_STATUS.match(str(error)))


def _is_raised_by_us(error: Exception) -> bool:
  """True where this package worded the error itself."""
  trace = error.__traceback__
  while trace is not None and trace.tb_next is not None:
    trace = trace.tb_next
  if trace is None or isinstance(error, flags.Error):
    return True
  path = trace.tb_frame.f_code.co_filename
  # functions in C have no frame of their own
  line = linecache.getline(path, trace.tb_lineno).strip()
  return path.startswith(_PACKAGE) and (not line or line.startswith('raise'))


def _fail(error: Exception) -> int:
  """Prints an error as one sentence and returns the exit code."""
  if os.environ.get('LDC_VAE_TRACEBACK', '0') not in ('', '0'):
    sys.excepthook(type(error), error, error.__traceback__)
  print(f'error: {_sentence(error)}', file=sys.stderr)
  is_lasting = isinstance(error, (*_LASTING, flags.Error))
  return _LASTING_ERROR if is_lasting else _RUNTIME_ERROR


def _sentence(error: BaseException) -> str:
  """What an error says, in one line."""
  message = ' '.join(str(error).split())
  if message and _is_raised_by_us(error):
    return message
  return f'{type(error).__name__}: {message} (LDC_VAE_TRACEBACK=1 shows where)'


if __name__ == '__main__':
  run()
