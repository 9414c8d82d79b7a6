"""The command line: flags in, exit code out.

python -m ldc_vae.main --config=configs/digits.py --workdir=runs/digits
"""

from collections.abc import Sequence
import contextlib
import logging
import os
import re
import signal
import sys
from typing import NoReturn

from absl import flags
from absl import logging as absl_logging

from ldc_vae import errors
from ldc_vae.runtime import addresses
from ldc_vae.runtime import console
from ldc_vae.runtime import provenance

_PACKAGE = str(provenance.ROOT / 'ldc_vae') + os.sep

# 0 is success; 1 what another start may mend: files, devices, other processes;
# 2 what the same command would meet again: a mistake in its arguments, config
# or data, an update that is not finite, too little memory. Launchers start a
# run that ended with 2 no more. A signal gives 128 and its number.
_RUNTIME_ERROR, _LASTING_ERROR = 1, 2

# These are printed as one sentence; any other error keeps its traceback.
_LASTING = (FloatingPointError, MemoryError, flags.Error)
_IN_A_SENTENCE = (errors.UserError, OSError, *_LASTING)

_OUT_OF_MEMORY = (
  'the device has too little memory; raise config.train.accumulate, or lower'
  ' config.train.batch_size, config.evaluate.batch_size,'
  ' config.evaluate.importance_samples or the sizes of config.model'
)

_HAS_EXITED = (
  'the run has called sys.exit() or quit(); leave that out of the files of'
  ' config.extensions'
)

# What is said of a workdir when a signal has stopped its command.
_CONTINUES = {
  'train': ': the same command continues {} from its latest checkpoint',
  'compare': ': the same command continues the runs of {}',
  'latents': ': the same command begins {} again',
}

# How XLA begins its errors, whatever their type.
_XLA_STATUS = re.compile(
  '(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|UNKNOWN'
  '|UNAVAILABLE): '
)


def run() -> NoReturn:
  """Runs the command line of this process and exits with its code."""
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # what is being imported may drop a KeyboardInterrupt, or crash by it
    signal.signal(signal.SIGINT, _leave)
  console.protect()
  _show_messages()
  try:
    code = main(sys.argv[1:])
    sys.stdout.flush()
  except OSError as error:  # of stdout
    code = _fail(error)
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
  with contextlib.suppress(OSError):
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
  # with jax: `run` watches for signals before
  from ldc_vae import cli
  from ldc_vae import usage

  try:
    argv = cli.read_flag_files(argv)
    rest = [x for x in argv if x not in ('--help', '-h', '-help')]
    if len(rest) < len(argv):
      specs = [x.partition('=')[2] for x in rest if x.startswith('--config=')]
      overrides = [x for x in rest if x.startswith('--config.')]
      print(usage.help_text(specs[-1] if specs else None, overrides), end='')
      return 0
    values, overrides = cli.parse(argv)
    config, workdir = cli.resolve(values, overrides)
    if values.mode == 'check':
      os.environ['JAX_PLATFORMS'] = 'cpu'  # a run may have the accelerator
      from ldc_vae import check

      is_whole = check.check(workdir, repair=bool(values.repair))
      return 0 if is_whole else _RUNTIME_ERROR
    is_trained = values.mode in cli.USES
    is_in_bucket = addresses.is_address(values.workdir or '')
    is_shared = is_trained and (cli.several_processes(values) or is_in_bucket)
    if is_trained and not is_shared:
      config = cli.resolve_trained(values, overrides, config, workdir)
  except (errors.UserError, flags.Error, OSError) as error:
    return _fail(error)
  flags.FLAGS.mark_as_parsed()  # libraries read absl's own flags
  from ldc_vae.runtime import cluster
  from ldc_vae.runtime import memory
  from ldc_vae.runtime import signals

  memory.keep_freed_memory()
  with signals.watch() as watch:
    try:
      _set_up_jax(values, watch)
      with contextlib.ExitStack() as stack:
        if is_in_bucket:
          from ldc_vae.runtime import bucket

          stack.enter_context(bucket.mirrored(values.workdir, workdir))
        if is_shared:
          config = _share_config(values, overrides, config, workdir)
        _JOBS[values.mode](config, workdir, values)
      cluster.finish()
    except (KeyboardInterrupt, SystemExit) as stop:
      code = getattr(stop, 'code', 128 + signal.SIGINT)
      if isinstance(code, int) and code > 128:  # of a signal
        return _stop(code, _job(config, values), workdir)
      code = _fail(errors.UserError(_HAS_EXITED))
      cluster.leave(code, f'has failed: {_HAS_EXITED}')
      return code
    except Exception as error:
      if isinstance(error, ImportError) and watch.exit_code:
        # an extension that was being loaded has made this of the signal
        return _stop(watch.exit_code, _job(config, values), workdir)
      if 'RESOURCE_EXHAUSTED' in str(error):  # jax has no type for it
        error = MemoryError(_OUT_OF_MEMORY)
      if _is_of_the_runtime(error):
        cluster.await_verdict()  # ends here if another process has died
      if not isinstance(error, _IN_A_SENTENCE):
        if not cluster.is_alone():
          sys.excepthook(type(error), error, error.__traceback__)
        cluster.leave(_RUNTIME_ERROR, f'has failed: {_sentence(error)}')
        raise
      code = _fail(error)
      cluster.leave(code, f'has failed: {_sentence(error)}')
      return code
  return 0


def _share_config(values, overrides, config, workdir):
  """The config of a trained workdir, which process 0 gives to the others."""
  from ldc_vae import cli
  from ldc_vae import config as config_lib
  from ldc_vae.runtime import cluster

  record, failure = None, None
  if cluster.is_first():
    try:
      config = cli.resolve_trained(values, overrides, config, workdir)
      record = config_lib.to_json(config)
    except (errors.UserError, OSError) as error:
      failure = error
  record = cluster.barrier('config', record)[0]
  if failure is not None:
    raise failure
  if record is None:
    raise errors.UserError('process 0 found no trained workdir; see its error')
  return config if cluster.is_first() else config_lib.from_json(record)


def _job(config, values) -> str:
  """The mode, or 'latents' where these are learned instead of images."""
  from ldc_vae import latents

  is_of_latents = values.mode == 'train' and latents.is_config(config)
  return 'latents' if is_of_latents else values.mode


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
  from ldc_vae import latents
  from ldc_vae import train

  if latents.is_config(config):
    latents.train(config, workdir)
    return
  train.train_and_evaluate(config, workdir)


def _evaluate(config, workdir, values):
  """Evaluates a trained workdir again."""
  del values
  from ldc_vae import evaluate

  evaluate.evaluate(config, workdir)


def _sample(config, workdir, values):
  """Draws images or latents from a trained workdir."""
  from ldc_vae import latents
  from ldc_vae import use

  num_samples = values.num_samples or 64
  output = values.output or os.path.join(workdir, 'generated.npz')
  if latents.is_config(config):
    latents.sample(
      workdir, seed=config.seed, num_samples=num_samples, output=output
    )
    return
  use.sample(config, workdir, num_samples=num_samples, output=output)


def _encode(config, workdir, values):
  """Writes the latents of images."""
  from ldc_vae import use

  use.encode(
    config,
    workdir,
    images=values.images,
    output=values.output or os.path.join(workdir, 'latents.npz'),
  )


def _export(config, workdir, values):
  """Writes a trained run into a folder to share."""
  from ldc_vae import use

  use.export(
    config, workdir, output=values.output or os.path.join(workdir, 'export')
  )


def _compare(plans, workdir, values):
  """Trains and evaluates several methods, and tabulates them."""
  from ldc_vae import cli
  from ldc_vae import compare

  compare.compare(
    plans, cli.parse_seeds(values.seeds), workdir, num_jobs=values.jobs or 1
  )


_JOBS = {
  'train': _train,
  'evaluate': _evaluate,
  'sample': _sample,
  'encode': _encode,
  'export': _export,
  'compare': _compare,
}

# The process.


def _show_messages() -> None:
  """Prints what this package logs, and of other packages the warnings."""

  def is_shown(record: logging.LogRecord) -> bool:
    ours = record.pathname.startswith(_PACKAGE)
    return ours or record.levelno >= logging.WARNING

  handler = logging.StreamHandler()
  handler.addFilter(is_shown)
  handler.setFormatter(_Printable())
  logger = absl_logging.get_absl_logger()
  logger.addHandler(handler)
  logger.propagate = False  # absl's own handler would print it again
  absl_logging.set_verbosity(absl_logging.INFO)


class _Printable(logging.Formatter):
  """Escapes the control characters of messages, which name files."""

  def format(self, record: logging.LogRecord) -> str:
    return console.printable(super().format(record))


def _set_up_jax(values: flags.FlagValues, watch) -> None:
  """Turns the compilation cache on and joins the other processes."""
  import jax

  from ldc_vae import experiment
  from ldc_vae.data import datasets
  from ldc_vae.runtime import cluster
  from ldc_vae.runtime import compiled

  compiled.use_cache(datasets.cache_dir() / 'xla')
  experiment.require_float32()
  if values.mode == 'compare':  # its runs need the accelerator, not it
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_platform_name', 'cpu')
  cluster.join(
    values.coordinator_address, values.num_processes, values.process_id
  )
  cluster.connect(watch)
  _check_devices()
  if cluster.is_alone():
    if jax.process_count() > 1:
      raise errors.UserError(
        f'jax has joined {jax.process_count()} processes by itself; set'
        ' LDC_VAE_DISTRIBUTED=1 on every host, so that they write, stop and'
        ' fail together'
      )
    return
  if not cluster.is_first():
    absl_logging.set_verbosity(absl_logging.WARNING)


def _check_devices() -> None:
  """Raises where the platform that was asked for cannot be used."""
  import jax

  try:
    jax.devices()
  except (AssertionError, RuntimeError) as error:
    # jax has an assertion for a platform without a device
    why, _, _ = str(error).partition(' (set JAX_PLATFORMS')
    names = ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME')
    asked = [name for name in names if os.environ.get(name)]
    what = ' and '.join(f'{name}={os.environ[name]}' for name in asked)
    remedy = (
      f'unset {" and ".join(asked)}' if asked else 'set JAX_PLATFORMS=cpu'
    )
    is_missing = not why or 'nknown backend' in why or 'known backends' in why
    raise errors.UserError(
      f'{what or "jax"}: no device can be used'
      f' ({why or "this machine has none of this platform"}); {remedy}, or'
      ' install the jax of this platform',
      exit_code=_LASTING_ERROR if is_missing else _RUNTIME_ERROR,
    ) from error


def _is_of_the_runtime(error: Exception) -> bool:
  """Whether XLA has failed, as its collectives do where a process died."""
  return bool(_XLA_STATUS.match(str(error)))


def _fail(error: Exception) -> int:
  """Prints an error as one sentence and returns the exit code."""
  if os.environ.get('LDC_VAE_TRACEBACK', '0') not in ('', '0'):
    sys.excepthook(type(error), error, error.__traceback__)
  if isinstance(error, BrokenPipeError):  # the reader of stdout has enough
    return 128 + signal.SIGPIPE
  print(f'error: {_sentence(error)}', file=sys.stderr)
  is_lasting = isinstance(error, _LASTING)
  code = _LASTING_ERROR if is_lasting else _RUNTIME_ERROR
  return getattr(error, 'exit_code', code)


def _sentence(error: BaseException) -> str:
  """What an error says, in one line."""
  message = console.sentence(str(error))
  if message and isinstance(error, _IN_A_SENTENCE):
    return message
  return f'{type(error).__name__}: {message} (LDC_VAE_TRACEBACK=1 shows where)'


if __name__ == '__main__':
  run()
