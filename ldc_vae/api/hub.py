"""The upload of an exported run to the Hugging Face hub."""

import os
import pathlib

from ldc_vae import errors
from ldc_vae.api import export
from ldc_vae.data import array_cache


def push(
  folder: str | os.PathLike[str], name: str, *, private: bool = False
) -> str:
  """Uploads an exported run to the Hugging Face hub.

  Its model card is the page of the repository. `pip install 'ldc_vae[hub]'`,
  and `hf auth login` or the variable HF_TOKEN, come first.

  Args:
    folder: A folder that `TrainedRun.export` or `--mode=export` has written.
    name: The repository, such as 'user/mnist'; made if it is missing.
    private: Whether a new repository is visible to its owner alone.

  Returns:
    The address of the repository.

  Raises:
    UserError: The folder is no export, the package huggingface_hub is missing,
      or the hub refuses the upload or cannot be reached.
  """
  folder = pathlib.Path(folder).expanduser()
  if not export.is_export(folder):
    raise errors.UserError(
      f'{folder} is no export; write one by run.export(folder)'
    )
  try:
    import huggingface_hub
  except ImportError:
    raise errors.UserError(
      "the package huggingface_hub is missing; pip install 'ldc_vae[hub]'"
    ) from None
  try:
    api = huggingface_hub.HfApi(library_name='ldc_vae')
    address = api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(
      repo_id=name,
      folder_path=folder,
      allow_patterns=list(export.FILES),
      commit_message='Add an LDC-VAE run',
    )
  except Exception as error:  # also of the network's packages
    raise errors.UserError(
      f'{name} cannot be uploaded ({array_cache.first_line(error)}); check the'
      ' name and the network, and log in by `hf auth login`',
      exit_code=1,
    ) from error
  return str(address)
