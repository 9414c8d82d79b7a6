"""The text of --help: the flags, the methods, and the fields of a config."""

from collections.abc import Sequence
import textwrap

from ldc_vae import config as config_lib
from ldc_vae import fields
from ldc_vae import methods
from ldc_vae import sections

_HELP = """\
LDC-VAE: trains an autoencoder and its latent sampler by SVGD.

  python -m ldc_vae.main --config=FILE[:METHOD][,debug] [flags]

  --config=FILE[:METHOD][,debug]
                       run file, such as configs/digits.py, or the name of one
                       in configs/, such as digits; METHOD is one of the methods
                       below (default: ldc); debug shrinks the run to seconds
  --config.GROUP.FIELD=VALUE
                       overrides a field; --help --config=FILE:METHOD explains
                       all fields
                       (compare: --config.METHOD.GROUP.FIELD for one method)
  --workdir=DIR        where the run lives and resumes by itself
                       (default: runs/<config>_<method>, or _compare); an
                       address, gs://BUCKET/RUN or s3://BUCKET/RUN, is copied
                       from a local folder after each checkpoint
  --mode=MODE          train (default): train, evaluate, draw pictures
                       evaluate: evaluate a trained workdir again
                       sample: draw images from a trained workdir
                       encode: write the latents of images
                       export: write a folder to share
                       compare: train and evaluate several methods, tabulate
                       check: say which files of a workdir are as written
  --num_samples=N      sample: how many images (default: 64)
  --images=PATH        encode: a folder, an .npz or .npy file, or train,
                       validation or test, a split of the run's own data
  --output=PATH        where to write: an .npz file of sample (default:
                       WORKDIR/generated.npz) and encode (WORKDIR/latents.npz),
                       a folder of export (WORKDIR/export)
  --methods=A,B        compare: which methods (default: all)
  --seeds=0,1,2        compare: of each method (default: 0,1,2)
  --jobs=N             compare: runs at once, each on its own cores (default: 1)
  --repair             check: mend what can be mended without a loss
  --coordinator_address=HOST:PORT --num_processes=N --process_id=I
                       one run over several processes; give all three, or set
                       LDC_VAE_DISTRIBUTED=1 where jax is to find them itself
                       (TPU pod slices, SLURM, MPI; Kubernetes with jax[k8s]);
                       LDC_VAE_JOIN_SECONDS bounds the wait (default: 300)
  --flagfile=FILE      reads more arguments from a file, one in each line
  --help               this text; with --config, all fields of that config

Methods:
{methods}

Modes that use a trained workdir read its config where --config is missing.
Caches lie under $LDC_VAE_CACHE (default: ~/.cache/ldc_vae). LDC_VAE_TRACEBACK=1
shows where an error was raised. SIGINT, SIGTERM and SIGHUP save and stop a run.
Exit code 2: the same command would fail again; 1: it may succeed.
"""


def help_text(spec: str | None = None, overrides: Sequence[str] = ()) -> str:
  """Returns the text of `--help`.

  Args:
    spec: The value of `--config`, whose fields are explained; or None.
    overrides: '--config.a.b=value' texts; extensions are loaded.

  Raises:
    UserError: There is no such config.
  """
  config_lib.load_extensions_of(overrides)
  if spec:
    return _explain(config_lib.load(spec, overrides))
  listed = '\n'.join(
    f'  {name:10s} {method.summary()}'
    for name, method in methods.METHODS.items()
  )
  return _HELP.replace('{methods}', listed)


def _explain(config) -> str:
  """Returns a line or two for each field: its value and its meaning."""
  values = config_lib.flatten(config)
  method = methods.METHODS[config.method.name]
  lines = []
  for group in (*sections.SECTIONS, method):
    lines.append(f'{group.group}: {group.summary()}')
    for name, _, meaning in group.describe():
      lines.append(f'  --config.{name}={fields.show(values[name])}')
      wrapped = textwrap.wrap(meaning, width=74)
      lines += [f'      {line}' for line in wrapped]
  return '\n'.join(lines) + '\n'
