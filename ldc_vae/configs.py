"""The package of the run files: `from ldc_vae.configs import default`.

Python looks for its modules in the folder that `run_files` has found.
"""

import typing

from ldc_vae import run_files

if typing.TYPE_CHECKING:
  # Where editors and type checkers find it.
  from configs import default as default

__path__ = [str(run_files.FOLDER)]
