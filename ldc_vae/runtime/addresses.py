"""The addresses of folders in buckets."""

import os
import pathlib
import re

from ldc_vae import errors

# The protocols, and what pip installs for each.
PACKAGES = {'gs': 'ldc_vae[gcs]', 's3': 'ldc_vae[s3]', 'file': 'fsspec'}

_ADDRESS = re.compile(r'(\w+)://(.+)')


def is_address(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path is an address, as s3://bucket/run is."""
  return '://' in str(path)


def local_folder(address: str, cache: pathlib.Path) -> pathlib.Path:
  """Returns the folder that stands for a bucket's folder on this machine.

  Args:
    address: Such as gs://bucket/run.
    cache: The folder of caches.

  Raises:
    UserError: It is no address of a folder in a bucket.
  """
  found = _ADDRESS.fullmatch(address)
  protocol, rest = found.groups() if found else ('', '')
  if protocol not in PACKAGES:
    raise errors.UserError(
      f'--workdir={address}: neither a local path nor an address; known:'
      f' {", ".join(f"{name}://" for name in PACKAGES)}'
    )
  parts = rest.strip('/').split('/')
  if len(parts) < 2 or any(part in ('', '.', '..') for part in parts):
    raise errors.UserError(
      f'--workdir={address}: give a folder of a bucket, as'
      f' {protocol}://bucket/run'
    )
  return cache.joinpath('buckets', protocol, *parts)
