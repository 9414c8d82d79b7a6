"""The configs of several methods that are to be compared."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ml_collections import config_dict

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import fields
from ldc_vae import methods
from ldc_vae import run_files


class Plan(NamedTuple):
  """One of several methods that are to be compared.

  Attributes:
    spec: `FILE:METHOD[,debug]`.
    overrides: `--config.a.b=value` strings.
    config: What `config.load` gives for the two.
  """

  spec: str
  overrides: tuple[str, ...]
  config: config_dict.ConfigDict


def load(
  spec: str, names: Iterable[str], overrides: Iterable[str] = ()
) -> dict[str, Plan]:
  """Returns the plan of each method, for a comparison of them.

  Args:
    spec: `FILE[,debug]`, without a method.
    names: The methods' names.
    overrides: `--config.a.b=value` for all methods, which must all have the
      field; `--config.METHOD.a.b=value` for one of them.

  Raises:
    UserError: As in `config.load`; or for an unknown or repeated method, a
      field that some of them lack, and a field that the comparison sets
      itself.
  """
  names, overrides = list(names), list(overrides)
  config_lib.load_extensions_of(overrides)
  path, arg = run_files.split(spec)
  words = [word for word in arg.split(',') if word]
  if any(word != 'debug' for word in words):
    raise errors.UserError(
      f'--config={spec}: a comparison takes its methods from --methods; use'
      f' --config={path}, with or without ",debug"'
    )
  _check_methods(names)
  for_all, for_one = [], {name: [] for name in names}
  for text in overrides:
    ((field, _),) = config_lib.pairs([text])
    head, _, rest = field.partition('.')
    # `method` itself is a group of fields
    is_own = head in methods.METHODS and rest
    if is_own and head not in for_one:
      raise errors.UserError(
        f'--config.{field}: {head} is not among --methods={",".join(names)};'
        ' add it, or leave this out'
      )
    if field == 'seed' or is_own and rest == 'seed':
      raise errors.UserError(
        f'--config.{field}: a comparison takes its seeds from --seeds; use that'
      )
    if is_own:
      for_one[head].append(f'--config.{rest}{text.partition(field)[2]}')
    else:
      for_all.append(text)
  specs = {name: f'{path}:{",".join([name, *words])}' for name in names}
  bases = {name: config_lib.execute(each) for name, each in specs.items()}
  _check_shared(for_all, bases)
  plans = {}
  for name in names:
    own = (*for_all, *for_one[name])
    plans[name] = Plan(specs[name], own, config_lib.override(bases[name], own))
  return plans


def _check_methods(names: list[str]) -> None:
  """Raises a `UserError` for an unknown or repeated method."""
  for index, name in enumerate(names):
    if name not in methods.METHODS:
      raise errors.UserError(
        f'--methods={",".join(names)}: unknown method {name!r}'
        f'{fields.suggest(name, methods.METHODS)}; known:'
        f' {", ".join(methods.METHODS)}'
      )
    if name in names[:index]:
      raise errors.UserError(
        f'--methods={",".join(names)}: {name} is there twice; name each'
        ' method once'
      )


def _check_shared(
  overrides: list[str], bases: Mapping[str, config_dict.ConfigDict]
) -> None:
  """Raises a `UserError` for an override that some of the methods lack."""
  every = {}
  for base in bases.values():
    every.update(config_lib.flatten(base))
  for field, _ in config_lib.pairs(overrides):
    config_lib.check_known(field, every)
    owners = [
      name for name, base in bases.items() if field in config_lib.flatten(base)
    ]
    if len(owners) < len(bases):
      have = 'has' if len(owners) == 1 else 'have'
      raise errors.UserError(
        f'--config.{field}: of the compared methods only'
        f' {", ".join(owners)} {have} this field; set it for one of them, as'
        f' --config.{owners[0]}.{field}=VALUE'
      )
