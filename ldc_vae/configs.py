"""The package of the run files: `from ldc_vae.configs import default`.

Python looks for its modules in the folder that `run_files` has found.
"""

import typing

from ldc_vae import run_files

if typing.TYPE_CHECKING:
  from configs import default  # where editors and type checkers find it

__path__ = [str(run_files.FOLDER)]
