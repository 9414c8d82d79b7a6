"""Loads, overrides, compares and records configs; it knows no field itself.

A config is an `ml_collections.ConfigDict` that a run file's `get_config(arg)`
returns. Its groups are checked by the dataclasses that define their fields:
`sections.SECTIONS` and the method's own. A mistake raises a `UserError`.
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import fnmatch
import os
import pathlib
import re
from typing import Any

from absl import logging
from ml_collections import config_dict

from ldc_vae import errors
from ldc_vae import fields
from ldc_vae import methods
from ldc_vae import run_files
from ldc_vae import sections
from ldc_vae.runtime import files
from ldc_vae.runtime import provenance

# Fields that say where files are on one host. Hosts of one run may differ in
# them, and a published record leaves them out; the images are compared.
HOST_FIELDS = ('dataset.data_dir', 'dataset.path', 'extensions')

# Fields that may differ between a run and its continuation: none of them
# changes the parameters, except by rounding. `train.num_epochs` changes them
# through the schedules. A background changes images, which are compared.
MAY_CHANGE = (
  *HOST_FIELDS,
  'dataset.background',
  'evaluate.*',
  'logging.*',
  'model.convolution',
  'train.checkpoint_*',
  'train.log_every',
  'train.non_finite',
  'train.validate_every',
)

# Fields that earlier versions lacked: those did what the default says.
_ADDED = ('dataset.flip', 'optimizer.latent_optimizer')
# Fields that decide others: they are named first where configs differ.
_CAUSES = ('method.name', 'dataset.name', 'debug')
_CHOSEN_BY_ARG = ('debug', 'method.name')  # by the word after its colon
# The fields outside of groups, each with a value of its type.
_EXAMPLES = {'seed': 0, 'debug': False, 'extensions': ('my_method.py',)}

_RESTORE = (
  'restore it, or delete it and run --mode=train: the checkpoints hold the'
  ' config too'
)


def load(
  spec: str, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> config_dict.ConfigDict:
  """Returns the locked and validated config of a run file.

  Args:
    spec: `FILE[:METHOD][,debug]`; for FILE see `run_files.find`.
    overrides: `--config.a.b=value` strings (the prefix is optional), or a
      mapping of dotted names to values; text is read as the field's type.

  Raises:
    UserError: For a missing or broken file, an unknown field, or a value that
      has the wrong type or is out of range.
  """
  load_extensions_of(overrides)
  return override(execute(spec), overrides)


def override(
  config: config_dict.ConfigDict,
  overrides: Mapping[str, Any] | Iterable[str],
) -> config_dict.ConfigDict:
  """Returns a locked, validated copy of a config with some fields set.

  Args:
    config: The config to start from; it stays as it is.
    overrides: As in `load`.

  Raises:
    UserError: As in `load`.
  """
  config = config_dict.ConfigDict(config.to_dict())
  for name, value in pairs(overrides):
    if name in _CHOSEN_BY_ARG:
      raise errors.UserError(
        f'--config.{name}: chosen by the word after the colon, as in'
        ' --config=FILE.py:METHOD,debug'
      )
    known = flatten(config)
    check_known(name, known)
    group, _, leaf = name.rpartition('.')
    node = config[group] if group else config
    node[leaf] = fields.convert(name, value, known[name])
  validate(config)
  # absolute, so that the workdir can be read from any folder
  config.extensions = tuple(
    str(pathlib.Path(each).resolve()) if each.endswith('.py') else each
    for each in config.extensions
  )
  return config.lock()


def validate(config: config_dict.ConfigDict) -> None:
  """Raises a `UserError` for the first field that is wrong."""
  groups = [*(each.group for each in sections.SECTIONS), 'method']
  known = (*_EXAMPLES, *groups)
  for name in config:
    if name not in known:
      raise errors.UserError(
        f'config.{name} is no field{fields.suggest(name, known)}; known:'
        f' {", ".join(known)}'
      )
  for name in known:
    if name not in config:
      raise fields.MissingError(f'config.{name}')
  for name in groups:
    if not isinstance(config[name], config_dict.ConfigDict):
      raise errors.UserError(
        f'config.{name}={fields.show(config[name])}: not a group of fields'
      )
  for name, example in _EXAMPLES.items():
    fields.check_value(name, config[name], fields.field(example, ''))
  if not 0 <= config.seed < 2**32:
    raise errors.UserError(
      f'config.seed={config.seed} is outside [0, 2**32); use a seed in that'
      ' range'
    )
  run_files.load_extensions(config.extensions)
  options = sections.Groups.from_config(config)
  create_method(config).check_with(options)
  dataset, model = options.dataset, options.model
  if dataset.binarize and model.likelihood != 'bernoulli':
    raise fields.conflict(
      {
        'dataset.binarize': dataset.binarize,
        'model.likelihood': model.likelihood,
      },
      'gives no density to binary pixels; use likelihood bernoulli',
    )


def create_method(config: config_dict.ConfigDict) -> methods.Method:
  """Returns the method of a config, with its options.

  Raises:
    UserError: The method is unknown, or a field is wrong.
  """
  name = config.method.get('name')
  if not isinstance(name, str) or name not in methods.METHODS:
    raise errors.UserError(
      f'config.method.name={fields.show(name)} is unknown'
      f'{fields.suggest(name, methods.METHODS)}; known:'
      f' {", ".join(methods.METHODS)}'
    )
  return methods.METHODS[name].from_config(config.method)


def load_extensions_of(
  overrides: Mapping[str, Any] | Iterable[str],
) -> tuple[str, ...] | None:
  """Loads the extensions that overrides name: a run file may need them.

  Returns:
    Their names, or None where no override names any.
  """
  found = None
  for name, value in pairs(overrides):
    if name == 'extensions':
      found = fields.convert(name, value, _EXAMPLES[name])
      run_files.load_extensions(found)
  return found


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a config under their dotted names, in order."""

  def walk(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
      if isinstance(value, (Mapping, config_dict.ConfigDict)):
        yield from walk(value, f'{prefix}{name}.')
      else:
        yield prefix + name, value

  return dict(walk(config, ''))


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
  """Returns the fields, dotted, that keep `b` from continuing a run of `a`.

  A field counts when the two values differ or one config lacks it, unless it
  matches a pattern of `MAY_CHANGE`. The method, the data set and `debug`, which
  decide other fields, come first.
  """
  a, b = flatten(a), flatten(b)
  missing = object()
  return [
    name
    for name in {**dict.fromkeys(_CAUSES), **a, **b}
    if a.get(name, missing) != b.get(name, missing) and not _may_change(name)
  ]


def _may_change(name: str) -> bool:
  return any(fnmatch.fnmatchcase(name, each) for each in MAY_CHANGE)


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns what config.json holds: the config, versions and git commit."""
  record = {'format': files.FORMAT, 'config': config.to_dict()}
  return {**record, **provenance.describe()}


def from_json(record: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Returns the locked, validated config of a record made by `to_json`.

  Raises:
    UserError: The record holds no valid config of this version.
  """
  if not isinstance(record, Mapping) or not isinstance(
    record.get('config'), Mapping
  ):
    raise errors.UserError(
      'it has no group "config", as config.json has; restore it'
    )
  files.check_format(record)
  try:
    config = _complete(record['config'])
  except ValueError as error:  # a name with a dot
    raise errors.UserError(f'it holds no config ({error})') from None
  validate(config)
  return config.lock()


def _complete(stored: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Returns a stored config with the fields that earlier versions lacked."""
  config = config_dict.ConfigDict({'logging': {}, **_with_tuples(stored)})
  for section in sections.SECTIONS:
    group = config.get(section.group)
    if not isinstance(group, config_dict.ConfigDict):
      continue  # `validate` refuses it
    for name, value in dataclasses.asdict(section()).items():
      field = f'{section.group}.{name}'
      if name not in group and (field in _ADDED or _may_change(field)):
        group[name] = value
  return config


def public(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns a config as a dict, without places on this machine."""
  named = config.to_dict()
  for name in ('data_dir', 'path'):
    named['dataset'][name] = ''
  named['extensions'] = [
    pathlib.Path(each).name for each in named['extensions']
  ]
  return named


def public_override(text: str) -> str:
  """Returns an override, '--config.dataset.data_dir=DATA_DIR' for a place."""
  name, equals, value = text.partition('=')
  if equals and value and name.endswith(HOST_FIELDS):
    value = name.rpartition('.')[2].upper()
  return f'{name}{equals}{value}'


def check_same_run(
  stored: Mapping[str, Any], config: config_dict.ConfigDict, where: str
) -> None:
  """Raises a `UserError` where a config cannot continue a stored run.

  Args:
    stored: The fields of the run as nested dictionaries, read from JSON or not.
    config: The config that is to continue it.
    where: The place of the run, for the message.
  """
  before = _complete(stored)
  changed = differences(before, config)
  if changed:
    old = flatten(before).get(changed[0], 'nothing')
    new = flatten(config).get(changed[0], 'nothing')
    raise errors.UserError(
      f'{where} holds a run with config.{changed[0]}={fields.show(old)}, not'
      f' {fields.show(new)}; use its config, or another --workdir'
    )


def read(
  workdir: str | os.PathLike[str], extensions: Iterable[str] | None = None
) -> config_dict.ConfigDict:
  """Returns the config that a run left in its `workdir`/config.json.

  Args:
    workdir: The workdir.
    extensions: The value of `config.extensions` where the files have moved.

  Raises:
    UserError: The file is missing, or holds no valid config.
    OSError: It cannot be read.
  """
  path = pathlib.Path(workdir) / 'config.json'
  try:
    record = files.parse_json(path.read_bytes())
    if isinstance(record, dict) and files.is_changed(record):
      logging.warning('%s is not as it was written', path)
  except FileNotFoundError:
    raise errors.UserError(
      f'{path}: no such file; give a --workdir that was trained in'
    ) from None
  except OSError as error:
    raise OSError(
      f'{path} cannot be read ({error.strerror}); make it a file that you may'
      ' read, or give another --workdir'
    ) from error
  except ValueError as error:
    raise errors.UserError(
      f'{path}: not valid JSON ({error}); {_RESTORE}'
    ) from None
  try:
    if extensions is not None and isinstance(record, dict):
      record = {**record, 'config': _with_extensions(record, extensions)}
    return from_json(record)
  except RecursionError:
    raise errors.UserError(
      f'{path}: it is nested too deeply; {_RESTORE}'
    ) from None
  except fields.MissingError as error:
    text = f'{path}: {error.name} is missing; {_RESTORE}'
    raise errors.UserError(text) from None
  except errors.UserError as error:
    raise errors.UserError(f'{path}: {error}') from None


def _with_extensions(record: Mapping[str, Any], names: Iterable[str]) -> Any:
  """Returns the config of a record, with other extensions."""
  config = record.get('config')
  if isinstance(config, Mapping):
    config = {**config, 'extensions': list(names)}
  return config


def _with_tuples(value: Any) -> Any:
  """Returns the fields of a config as they were before JSON made lists."""
  if isinstance(value, Mapping):
    return {name: _with_tuples(each) for name, each in value.items()}
  return tuple(value) if isinstance(value, list) else value


def execute(spec: str) -> config_dict.ConfigDict:
  """Returns the config of `FILE[:METHOD][,debug]`."""
  config = run_files.call(spec)
  if not isinstance(config, config_dict.ConfigDict):
    raise errors.UserError(
      f'--config={spec}: get_config returned {type(config).__name__}, not a'
      ' ConfigDict'
    )
  try:
    config.to_dict()
  except RecursionError:
    raise errors.UserError(
      f'--config={spec}: its config holds itself, or is nested too deeply;'
      ' leave that out'
    ) from None
  return config


def pairs(
  overrides: Mapping[str, Any] | Iterable[str],
) -> Iterator[tuple[str, Any]]:
  """Yields (dotted name, value); the value is None where text has no '='."""
  if isinstance(overrides, Mapping):
    given = overrides.items()
  else:
    split = (text.partition('=') for text in overrides)
    given = ((name, value if equals else None) for name, equals, value in split)
  for name, value in given:
    yield re.sub(r'^(--?)?config\.', '', name), value


def check_known(name: str, known: Mapping[str, Any]) -> None:
  """Raises a `UserError` unless a dotted name is one of the fields."""
  if name in known:
    return
  inside = [each for each in known if each.startswith(f'{name}.')]
  if inside:
    raise errors.UserError(
      f'--config.{name}: a group of fields; set one of {", ".join(inside)}'
    )
  raise errors.UserError(
    f'--config.{name}: no such field{fields.suggest_field(name, known)}'
  )
