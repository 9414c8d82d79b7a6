"""Loads, checks and compares configs; every error is one sentence.

A config is an `ml_collections.ConfigDict` that a run file's `get_config(arg)`
returns. A user's mistake raises `ConfigError`, which names the field, its value
and the remedy.
"""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
import contextlib
import difflib
import fnmatch
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
from typing import Any, NamedTuple

from ml_collections import config_dict

ROOT = pathlib.Path(__file__).resolve().parent.parent

ARCHITECTURES = ('mlp', 'gated_mlp', 'conv', 'conv64')
DATASETS = (
    'digits', 'mnist', 'fashion_mnist', 'cifar10', 'celeba64', 'images'
)
DTYPES = ('float32', 'bfloat16')
ENCODERS = ('gaussian', 'implicit', 'warped', 'deterministic', 'none')
# The encoders that each method can train.
METHOD_ENCODERS = {
    'ae': ('deterministic',),
    'vae': ('gaussian',),
    'beta_vae': ('gaussian',),
    'iwae': ('gaussian',),
    'wae_mmd': ('deterministic', 'gaussian', 'implicit', 'warped'),
    'info_vae': ('gaussian',),
    'aae': ('deterministic', 'gaussian', 'implicit', 'warped'),
    'rae_l2': ('deterministic',),
    'rae_gp': ('deterministic',),
    'vamp': ('gaussian',),
    'stein_vae': ('implicit', 'warped', 'gaussian'),
    'lebm': ('none',),
    'ldc': ('gaussian', 'implicit', 'warped'),
}
SET_METHODS = ('info_vae', 'wae_mmd')  # their loss compares sets of latents
BANDWIDTH_RULE = 'expected'
_TINY = 2.0**-126  # the least float32 with all its digits
KERNELS = ('rbf', 'imq', 'multi_scale', 'linear')
POSITIVE_KERNELS = ('rbf', 'imq', 'multi_scale')
LIKELIHOODS = ('bernoulli', 'gaussian', 'discretized_logistic')
SCHEDULES = ('cosine', 'constant')
CONVOLUTIONS = ('auto', 'native', 'subpixel', 'patches')
CHECKPOINTS = ('latest', 'best')
SPLITS = ('test', 'validation')
NON_FINITE = ('stop', 'skip')
# a final _K stands for any number of at least 1
LATENT_SAMPLERS = (
    'prior',
    'gaussian',
    'gmm_K',
    'two_stage',
    'langevin',
    'flow_matching',
    'flow',
    'drifting',
    'svgd',
    'nearest',
)

# Names the commit where the code lies in no repository.
COMMIT_VARIABLE = 'LDC_VAE_COMMIT'

# Fields that may differ between a run and its continuation: none of them
# reaches the parameters, but for rounding. `train.num_epochs` does, through
# the schedules.
MAY_CHANGE = (
    'dataset.data_dir',
    'dataset.path',  # of these, the images themselves are compared
    'evaluate.*',
    'model.convolution',
    'train.checkpoint_every',
    'train.log_every',
    'train.non_finite',
    'train.validate_every',
)

# Fields that runs of earlier versions lack, with the value that does what these
# did, and the methods that have them (None: all).
_ADDED = {
    'evaluate.num_draws': (1, None),
    'objective.bandwidth_factor': (1.0, ('ldc', 'stein_vae')),
    'objective.kl_warmup': (
        0.0, ('beta_vae', 'iwae', 'ldc', 'stein_vae', 'vae', 'vamp')
    ),
}

_LARGEST = 2**31 - 1  # steps are counted in int32, and so are sizes

# Fields on which others depend: told first where they differ too.
_CAUSES = ('objective.name', 'dataset.name', 'debug')

# Fields that say where files lie, which is nobody else's business.
_PLACES = ('dataset.data_dir', 'dataset.path')

# Fields that the word after the colon of --config decides.
_CHOSEN_BY_ARG = ('debug', 'objective.name')

_PACKAGES = (
    'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'orbax-checkpoint'
)


class ConfigError(ValueError):
  """A mistake in a config or its flags, told in one sentence."""


class Plan(NamedTuple):
  """One of several methods that are to be compared.

  Attributes:
    spec: `FILE:METHOD[,debug]`.
    overrides: `--config.a.b=value` strings.
    config: What `load` gives for the two.
  """

  spec: str
  overrides: tuple[str, ...]
  config: config_dict.ConfigDict


def load(
    spec: str, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> config_dict.ConfigDict:
  """Returns the locked and validated config of a run file.

  Args:
    spec: `FILE[:METHOD][,debug]`. FILE is relative to the current directory,
      or else to the project's root.
    overrides: `--config.a.b=value` strings (the prefix is optional), or a
      mapping of dotted names to values; text is read as the field's type.

  Raises:
    ConfigError: For a missing or broken file, an unknown field, or a value
      that has the wrong type or is out of range.
  """
  path, arg = split_spec(spec)
  config = _execute(_find(path), arg, spec)
  return override(config, overrides)


def load_each(
    spec: str, methods: Iterable[str], overrides: Iterable[str] = ()
) -> dict[str, Plan]:
  """Returns the plan of each method, for a comparison of them.

  Args:
    spec: `FILE[,debug]`, without a method.
    methods: Their names.
    overrides: `--config.a.b=value` for all methods, which must all have the
      field; `--config.METHOD.a.b=value` for one of them.

  Raises:
    ConfigError: As in `load`; or for an unknown or repeated method, a field
      that some of them lack, and one that the comparison sets itself.
  """
  methods = list(methods)
  path, arg = split_spec(spec)
  words = [word for word in arg.split(',') if word]
  if any(word != 'debug' for word in words):
    raise ConfigError(
        f'--config={spec}: a comparison takes its methods from --methods; use'
        f' --config={path}, with or without ",debug"'
    )
  for index, method in enumerate(methods):
    if method not in METHOD_ENCODERS:
      raise ConfigError(
          f'--methods={",".join(methods)}: unknown method {method!r}'
          f'{_suggest(method, METHOD_ENCODERS)}; known:'
          f' {", ".join(METHOD_ENCODERS)}'
      )
    if method in methods[:index]:
      raise ConfigError(
          f'--methods={",".join(methods)}: {method} is there twice; name each'
          ' method once'
      )
  for_all, for_one = [], {method: [] for method in methods}
  for text in overrides:
    (name, _), = _pairs([text])
    head, _, field = name.partition('.')
    own = head in METHOD_ENCODERS and field
    if own and head not in for_one:
      raise ConfigError(
          f'--config.{name}: {head} is not among'
          f' --methods={",".join(methods)}; add it, or leave this out'
      )
    if name == 'seed' or own and field == 'seed':
      raise ConfigError(
          f'--config.{name}: a comparison takes its seeds from --seeds; use'
          ' that'
      )
    if own:
      text = f'--config.{field}{text.partition(name)[2]}'
      for_one[head].append(text)
    else:
      for_all.append(text)
  specs = {method: f'{path}:{",".join([method, *words])}' for method in methods}
  bases = {
      method: _execute(_find(path), split_spec(each)[1], each)
      for method, each in specs.items()
  }
  for name, _ in _pairs(for_all):
    owners = [m for m in methods if name in flatten(bases[m])]
    if not owners:
      every = {}
      for base in bases.values():
        every.update(flatten(base))
      _check_known(name, every)
    if owners and len(owners) < len(methods):
      have = 'has' if len(owners) == 1 else 'have'
      raise ConfigError(
          f'--config.{name}: of the compared methods only'
          f' {", ".join(owners)} {have} this field; set it for one of them, as'
          f' --config.{owners[0]}.{name}=VALUE'
      )
  plans = {}
  for method in methods:
    own = (*for_all, *for_one[method])
    plans[method] = Plan(specs[method], own, override(bases[method], own))
  return plans


def split_spec(spec: str) -> tuple[str, str]:
  """Splits `FILE[:METHOD][,debug]` into (FILE, 'METHOD,debug')."""
  match = re.fullmatch(r'(.+?\.py)(?:[:,](.*))?', spec, re.DOTALL)
  if match is None:
    path, _, arg = spec.partition(':')
    return path, arg
  return match[1], match[2] or ''


def override(
    config: config_dict.ConfigDict,
    overrides: Mapping[str, Any] | Iterable[str],
) -> config_dict.ConfigDict:
  """Returns a locked, validated copy of a config with some fields set.

  Args:
    config: The config to start from; it stays as it is.
    overrides: As in `load`.
  """
  config = config_dict.ConfigDict(config.to_dict())
  for name, value in _pairs(overrides):
    _set(config, name, value)
  validate(config)
  return config.lock()


def validate(config: config_dict.ConfigDict) -> None:
  """Raises a `ConfigError` for the first field that is out of range."""
  values = flatten(config)
  for name, value in values.items():
    _check_type(name, value)
  optional = 'objective.'  # each method has its own fields
  missing = [
      rule.field for rule in _RULES
      if rule.field not in values and not rule.field.startswith(optional)
  ] + ['objective.name'] * ('objective.name' not in values)
  if missing:
    raise ConfigError(
        f'config.{missing[0]} is missing; start the config file from'
        ' default.create(arg), which has every field'
    )
  for rule in _RULES:
    if rule.field in values and not rule.holds(values[rule.field]):
      value = values[rule.field]
      raise ConfigError(
          f'config.{rule.field}={_show(value)} {rule.explain(value)}'
      )
  for relation in _RELATIONS:
    if all(name in values for name in relation.fields):
      if not relation.holds(*(values[name] for name in relation.fields)):
        shown = ' with '.join(
            f'config.{name}={_show(values[name])}' for name in relation.fields
        )
        raise ConfigError(f'{shown} {relation.explanation}')


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a config under their dotted names, in order."""

  def walk(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
      if isinstance(value, (Mapping, config_dict.ConfigDict)):
        yield from walk(value, f'{prefix}{name}.')
      else:
        yield prefix + name, value

  return dict(walk(config, ''))


def differences(
    a: config_dict.ConfigDict, b: config_dict.ConfigDict
) -> list[str]:
  """Returns the fields, dotted, that keep `b` from continuing a run of `a`.

  A field counts when the two values differ or one config lacks it, unless it
  matches a pattern of `MAY_CHANGE`. The method, the data set and `debug`, which
  decide other fields, come first.
  """
  a, b = flatten(a), flatten(b)
  missing = object()
  return [
      name for name in {**dict.fromkeys(_CAUSES), **a, **b}
      if a.get(name, missing) != b.get(name, missing)
      and not any(fnmatch.fnmatchcase(name, each) for each in MAY_CHANGE)
  ]


def describe() -> dict[str, Any]:
  """Returns the versions and the git commit that a run depends on.

  The commit ends in '+dirty' where tracked files are modified, and is None
  where the package does not lie at the top of a git repository.
  """
  versions = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  return {'versions': versions, 'git_commit': _git_commit()}


def to_json(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns what config.json holds: the config, versions and git commit."""
  return {'config': config.to_dict(), **describe()}


def from_json(record: Mapping[str, Any]) -> config_dict.ConfigDict:
  """Returns the locked, validated config of a record made by `to_json`."""
  if not isinstance(record, Mapping) or not isinstance(
      record.get('config'), Mapping
  ):
    raise ConfigError(
        'the record has no group "config", as config.json has; restore it'
    )
  config = config_dict.ConfigDict(_with_added(_revive(record['config'])))
  _check_fields(flatten(config))
  validate(config)
  return config.lock()


def _check_fields(values: Mapping[str, Any]) -> None:
  """Raises a `ConfigError` unless the fields are those of this version."""
  method = values.get('objective.name')
  if method not in METHOD_ENCODERS:
    raise ConfigError(
        f'config.objective.name={_show(method)} is unknown; known:'
        f' {", ".join(METHOD_ENCODERS)}'
    )
  with _run_files():
    from configs import default
  own = flatten(default.create(method))
  for name in own:
    if name not in values:
      raise ConfigError(f'config.{name} is missing; restore it')
  for name, value in values.items():
    if name not in own:
      raise ConfigError(
          f'config.{name} is no field of this version; use the one that wrote'
          ' it'
      )
    if type(own[name]) is int and type(value) is not int:
      raise ConfigError(
          f'config.{name}={_show(value)} is no whole number; restore it'
      )


def public(config: config_dict.ConfigDict) -> dict[str, Any]:
  """Returns a config as a dict, without the places of its data."""
  fields = config.to_dict()
  for name in _PLACES:
    group, _, leaf = name.partition('.')
    if leaf in fields[group]:
      fields[group][leaf] = ''
  return fields


def public_override(text: str) -> str:
  """Returns an override, '--config.dataset.data_dir=DATA_DIR' for a place."""
  name, equals, value = text.partition('=')
  if equals and value and name.endswith(_PLACES):
    value = name.rpartition('.')[2].upper()
  return f'{name}{equals}{value}'


def check_same_run(
    stored: Mapping[str, Any], config: config_dict.ConfigDict, where: str
) -> None:
  """Raises a `ConfigError` where a config cannot continue a stored run.

  Args:
    stored: The fields of the run as nested dictionaries, read from JSON or not.
    config: The config that is to continue it.
    where: What holds the run, for the message.
  """
  before = config_dict.ConfigDict(_with_added(_revive(stored)))
  changed = differences(before, config)
  if changed:
    missing = 'nothing'
    old = flatten(before).get(changed[0], missing)
    new = flatten(config).get(changed[0], missing)
    raise ConfigError(
        f'{where} holds a run with config.{changed[0]}={_show(old)}, not'
        f' {_show(new)}; use its config, or another --workdir'
    )


def read(workdir: str | os.PathLike[str]) -> config_dict.ConfigDict:
  """Returns the config that a run left in its `workdir`/config.json.

  Raises:
    ConfigError: The file is missing, or holds no valid config.
    OSError: It cannot be read.
  """
  path = pathlib.Path(workdir) / 'config.json'
  try:
    return from_json(json.loads(path.read_text(encoding='utf-8')))
  except FileNotFoundError:
    raise ConfigError(
        f'{path}: no such file; give a --workdir that was trained in'
    ) from None
  except OSError as error:
    raise OSError(
        f'{path} cannot be read ({error.strerror}); make it a file that you may'
        ' read, or give another --workdir'
    ) from error
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ConfigError(
        f'{path}: not valid JSON ({error}); restore it, or delete it and run'
        ' --mode=train: the checkpoints hold the config too'
    ) from None
  except ConfigError as error:
    raise ConfigError(f'{path}: {error}') from None


def _with_added(fields: dict[str, Any]) -> dict[str, Any]:
  """Gives the fields of a run what it lacks, being older than they are."""
  for name, (value, methods) in _ADDED.items():
    group, _, leaf = name.partition('.')
    own = fields.get(group)
    if isinstance(own, dict) and leaf not in own:
      if methods is None or own.get('name') in methods:
        own[leaf] = value
  return fields


def _revive(value: Any) -> Any:
  """Returns the fields of a config as they were before JSON made lists."""
  if isinstance(value, Mapping):
    return {name: _revive(each) for name, each in value.items()}
  return tuple(value) if isinstance(value, list) else value


# Reading a run file.


def _find(path: str) -> pathlib.Path:
  """Returns the run file that `path` names."""
  places = (pathlib.Path(path), ROOT / path)
  try:
    for place in places:
      if place.is_file():
        return place
  except OSError as error:
    raise OSError(
        f'--config={path} cannot be read ({error.strerror}); give a run file'
        ' that you may read'
    ) from error
  known = sorted(
      each.relative_to(ROOT).as_posix()
      for each in (ROOT / 'configs').glob('*.py')
      if each.stem != 'default' and not each.stem.startswith('_')
  )
  what = 'a folder' if places[0].is_dir() else 'no such file'
  raise ConfigError(
      f'--config={path}: {what}{_suggest(path, known)};'
      f' available: {", ".join(known) or "none"}'
  )


def _execute(
    path: pathlib.Path, arg: str, spec: str
) -> config_dict.ConfigDict:
  """Returns `get_config(arg)` of a run file."""
  if path.suffix != '.py':
    raise ConfigError(
        f'--config={spec}: {path} is no run file; name one that ends in .py, as'
        ' configs/digits.py (a trained run is named by --workdir)'
    )
  try:
    module_spec = importlib.util.spec_from_file_location('_run_file', path)
    module = importlib.util.module_from_spec(module_spec)
    with _run_files():
      module_spec.loader.exec_module(module)
      get_config = getattr(module, 'get_config', None)
      if get_config is None:
        raise ConfigError('it does not define get_config(arg)')
      config = get_config(arg)
    if not isinstance(config, config_dict.ConfigDict):
      raise ConfigError(
          f'get_config returned {type(config).__name__}, not a ConfigDict'
      )
    return config
  except ValueError as error:  # a sentence meant for the user
    raise ConfigError(f'--config={spec}: {error}') from error
  except Exception as error:
    line = _line_in(path, error)
    message = ' '.join(str(error).split())
    raise ConfigError(
        f'--config={spec}: {path}{line} raised {type(error).__name__}:'
        f' {message}'
    ) from error


@contextlib.contextmanager
def _run_files() -> Iterator[None]:
  """Makes `configs` importable, as a run file expects it."""
  added = str(ROOT) not in sys.path
  if added:
    sys.path.append(str(ROOT))
  try:
    yield
  finally:
    if added:
      sys.path.remove(str(ROOT))


def _line_in(path: pathlib.Path, error: BaseException) -> str:
  """Returns ', line N,' of the innermost frame of an error in `path`."""
  if isinstance(error, SyntaxError):
    return f', line {error.lineno},'
  line, trace = None, error.__traceback__
  file = os.path.abspath(path)
  while trace is not None:
    if trace.tb_frame.f_code.co_filename == file:
      line = trace.tb_lineno
    trace = trace.tb_next
  return '' if line is None else f', line {line},'


# Setting a field.


def _pairs(
    overrides: Mapping[str, Any] | Iterable[str],
) -> Iterator[tuple[str, Any]]:
  """Yields (dotted name, value); the value is None where text has no '='."""
  if isinstance(overrides, Mapping):
    pairs = ((name, value) for name, value in overrides.items())
  else:
    split = (text.partition('=') for text in overrides)
    pairs = ((name, value if equals else None) for name, equals, value in split)
  for name, value in pairs:
    yield re.sub(r'^(--?)?config\.', '', name), value


def _set(config: config_dict.ConfigDict, name: str, value: Any) -> None:
  """Sets one field of an unlocked config, given text or a value."""
  fields = flatten(config)
  if name in _CHOSEN_BY_ARG:
    raise ConfigError(
        f'--config.{name}: chosen by the word after the colon, as in'
        ' --config=FILE.py:METHOD,debug'
    )
  _check_known(name, fields)
  *groups, leaf = name.split('.')
  node = config
  for group in groups:
    node = node[group]
  node[leaf] = _convert(name, value, fields[name])


def _check_known(name: str, fields: Mapping[str, Any]) -> None:
  """Raises a `ConfigError` unless a name is one of the fields."""
  if name not in fields:
    inside = [each for each in fields if each.startswith(f'{name}.')]
    if inside:
      raise ConfigError(
          f'--config.{name}: a group of fields; set one of'
          f' {", ".join(inside)}'
      )
    raise ConfigError(
        f'--config.{name}: no such field{_suggest_field(name, fields)}'
    )


def _suggest_field(name: str, fields: Mapping[str, Any]) -> str:
  """Returns '; did you mean ...?' or the fields of the group."""
  leaf = name.rpartition('.')[2]
  group = name.partition('.')[0]
  leaves = {}
  for each in fields:
    leaves.setdefault(each.rpartition('.')[2], []).append(each)
  siblings = [each for each in fields if each.startswith(f'{group}.')]
  sibling_leaves = [each.rpartition('.')[2] for each in siblings]
  if leaf in leaves:  # a known field, in another group
    close = [leaf]
  else:
    close = _nearest(leaf, sibling_leaves) or _nearest(leaf, leaves)
  if close:
    candidates = leaves[close[0]]
    same_group = [each for each in candidates if each in siblings]
    best = same_group or _nearest(name, candidates, cutoff=0.0)
    return f'; did you mean {best[0]}?'
  if siblings:
    return f'; known: {", ".join(siblings)}'
  groups = dict.fromkeys(each.partition('.')[0] for each in fields)
  return f'; its fields start with one of {", ".join(groups)}'


def _suggest(name: Any, known: Iterable[str]) -> str:
  """Returns ' (did you mean ...?)' for the nearest known name, or ''."""
  close = _nearest(str(name), known)
  return f' (did you mean {close[0]}?)' if close else ''


def _nearest(
    name: str, known: Iterable[str], cutoff: float = 0.6
) -> list[str]:
  """Returns the known name that is spelt most alike, if any is."""
  return difflib.get_close_matches(name, list(known), 1, cutoff)


def _convert(name: str, value: Any, old: Any) -> Any:
  """Returns `value`, text or not, as the type of the field's old value."""
  if value is None:
    if isinstance(old, bool):
      return True  # --config.a.b alone
    raise ConfigError(f'--config.{name}: needs a value, --config.{name}=VALUE')
  try:
    if isinstance(old, tuple):
      elements = _split(value) if isinstance(value, str) else value
      if isinstance(elements, Mapping) or not isinstance(elements, Iterable):
        elements = (elements,)
      return tuple(
          _scalar(each, old[0] if old else _guess(each)) for each in elements
      )
    return _scalar(value, old)
  except (TypeError, ValueError):
    raise ConfigError(
        f'--config.{name}={_show(value)}: not {_kind(old)}, as'
        f' {_show(old)} is'
    ) from None


def _split(text: str) -> tuple[str, ...]:
  """Splits '(1, 2)', '[1, 2]', '1,2' or 'a,b' into its elements."""
  text = text.strip()
  if text[:1] + text[-1:] in ('()', '[]'):
    text = text[1:-1]
  parts = [part.strip() for part in text.split(',')]
  if parts[-1] == '':  # '1,' and ''
    parts.pop()
  return tuple(
      part[1:-1] if part[:1] in ('"', "'") and part[-1:] == part[:1] else part
      for part in parts
  )


def _guess(text: Any) -> Any:
  """Returns a value whose type an element of unknown type has."""
  try:
    return ast.literal_eval(text) if isinstance(text, str) else text
  except (SyntaxError, ValueError):
    return ''


def _scalar(value: Any, old: Any) -> Any:
  """Returns a value as the type of `old`, or raises a TypeError, ValueError."""
  text = isinstance(value, str)
  if isinstance(old, bool):
    if text:
      return _BOOLEANS[value.lower()] if value.lower() in _BOOLEANS else int('')
    if isinstance(value, bool):
      return value
  elif isinstance(old, int):
    if text:
      return int(value, 0)
    if isinstance(value, int) and not isinstance(value, bool):
      return value
  elif isinstance(old, float):
    if text or isinstance(value, (int, float)) and not isinstance(value, bool):
      return float(value)
  elif isinstance(old, str):
    if text:
      return value
  raise TypeError(value)


_BOOLEANS = {'true': True, '1': True, 'false': False, '0': False}


def _kind(old: Any) -> str:
  """Returns the type of a field in words."""
  if isinstance(old, tuple):
    element = _KINDS[type(old[0])] if old else 'value'
    return f'a tuple, each element {element}'
  return _KINDS.get(type(old), f'a {type(old).__name__}')


_KINDS = {
    bool: 'a boolean (true, false, 1 or 0)',
    int: 'a whole number',
    float: 'a number',
    str: 'text',
}


def _show(value: Any) -> str:
  """Returns a value as a user would write it after '='."""
  if isinstance(value, tuple):
    comma = ',' if len(value) == 1 else ''
    return f'({", ".join(str(each) for each in value)}{comma})'
  return repr(value) if value == '' else str(value)


# The rules of `validate`.


class _Rule(NamedTuple):
  """What one field must satisfy, wherever a config has that field."""

  field: str
  holds: Callable[[Any], bool]
  explain: Callable[[Any], str]  # follows 'config.FIELD=VALUE'


class _Relation(NamedTuple):
  """What several fields must satisfy together."""

  fields: tuple[str, ...]
  holds: Callable[..., bool]
  explanation: str  # follows 'config.A=1 with config.B=2'


def _check_type(name: str, value: Any) -> None:
  """Raises unless a value is a finite scalar, text or a tuple of these."""
  for each in value if isinstance(value, tuple) else (value,):
    if not isinstance(each, (bool, int, float, str)):
      raise ConfigError(
          f'config.{name}={value!r} is a {type(each).__name__}; use a number,'
          ' a boolean, text, or a tuple of them'
      )
    if isinstance(each, float) and not math.isfinite(each):
      raise ConfigError(f'config.{name}={_show(value)} is not finite')
    if isinstance(each, int) and each > _LARGEST and name != 'seed':
      raise ConfigError(
          f'config.{name}={_show(value)} is too large; use {_LARGEST} or less'
      )


def _says(text: str) -> Callable[[Any], str]:
  return lambda value: text


def _at_least(bound: int | float, *fields: str) -> Iterator[_Rule]:
  for field in fields:
    holds = lambda x: _is_number(x) and x >= bound
    yield _Rule(field, holds, _says(f'is too small; use {bound} or more'))


def _above_zero(*fields: str) -> Iterator[_Rule]:
  for field in fields:
    holds = lambda x: _is_number(x) and x > 0
    yield _Rule(field, holds, _says('is not positive; use more than 0'))


def _fraction(*fields: str) -> Iterator[_Rule]:
  for field in fields:
    holds = lambda x: _is_number(x) and 0 <= x < 1
    yield _Rule(field, holds, _says('is outside [0, 1); use 0 <= value < 1'))


def _one_of(known: tuple[Any, ...], *fields: str) -> Iterator[_Rule]:
  for field in fields:
    yield _Rule(
        field,
        lambda x: x in known,
        lambda x: (
            f'is unknown{_suggest(x, map(str, known))}; known:'
            f' {", ".join(map(str, known))}'
        ),
    )


def _sizes(*fields: str, empty: bool) -> Iterator[_Rule]:
  wanted = '' if empty else 'one or more '
  for field in fields:
    yield _Rule(
        field,
        lambda x: (
            isinstance(x, tuple)
            and (empty or bool(x))
            and all(_is_number(each) and each > 0 for each in x)
            and not any(isinstance(each, float) for each in x)
        ),
        _says(f'does not hold; use a tuple of {wanted}positive whole numbers'),
    )


def _is_number(x: Any) -> bool:
  return isinstance(x, (int, float)) and not isinstance(x, bool)


def _is_bandwidth(x: Any) -> bool:
  """True for 'expected' and a positive float32, as text or not."""
  if x == BANDWIDTH_RULE:
    return True
  try:
    return not isinstance(x, bool) and _TINY <= float(x) < math.inf
  except (TypeError, ValueError):
    return False


def _explain_bandwidth(x: Any) -> str:
  """Says why a rule of svgd is none of the encoder."""
  remedy = 'use expected, or a positive number'
  if x in ('mean', 'median'):
    return (
        'follows the few particles of an image, which makes posteriors too'
        f' wide; {remedy}'
    )
  return f'is unknown; {remedy}'


def is_sampler(name: Any) -> bool:
  """Whether a name is of `LATENT_SAMPLERS`, a final _K being any number."""
  if not isinstance(name, str):
    return False
  family = re.sub(r'_[1-9]\d*$', '_K', name)
  return family in LATENT_SAMPLERS and not name.endswith('_K')


def _explain_samplers(names: Any) -> str:
  """Names the first sampler that is unknown or given twice."""
  known = (*LATENT_SAMPLERS, 'gmm_10', 'gmm_50', 'gmm_200')
  for name in names if isinstance(names, tuple) else ():
    if not is_sampler(name):
      return (
          f'holds an unknown sampler {name!r}{_suggest(name, known)};'
          f' known: {", ".join(LATENT_SAMPLERS)}, where K is a number'
      )
  return 'does not hold; use a tuple of different names, as prior,gmm_10'


_RULES = (
    _Rule(
        'seed',
        lambda x: _is_number(x) and 0 <= x < 2**32,
        _says('is outside [0, 2**32); use a seed in that range'),
    ),
    *_one_of(DATASETS, 'dataset.name'),
    *_one_of((0, 1, 3), 'dataset.num_channels'),
    *_at_least(0, 'dataset.image_size', 'dataset.num_test'),
    *_at_least(1, 'dataset.num_validation'),
    *_one_of(ARCHITECTURES, 'model.architecture'),
    *_one_of(CONVOLUTIONS, 'model.convolution'),
    *_one_of(ENCODERS, 'model.encoder'),
    *_one_of(LIKELIHOODS, 'model.likelihood'),
    *_one_of(DTYPES, 'model.dtype'),
    *_at_least(
        1,
        'model.latent_size',
        'model.noise_size',
        'model.num_pseudo_inputs',
    ),
    *_above_zero('model.scale'),
    *_sizes('model.hidden_sizes', empty=True),
    *_at_least(
        1,
        'model.sampler_width',
        'model.sampler_blocks',
        'model.energy_width',
        'model.energy_blocks',
    ),
    *_sizes('model.channels', empty=False),
    *_at_least(
        0,
        'objective.beta',
        'objective.adversarial_weight',
        'objective.decoder_weight',
        'objective.embedding_weight',
        'objective.gradient_weight',
        'objective.mmd_scaling',
        'objective.mmd_weight',
    ),
    _Rule(
        'objective.alpha',
        lambda x: _is_number(x) and x <= 1,
        _says('is more than 1; use 1 or less'),
    ),
    *_above_zero(
        'objective.inverse_temperature',
        'objective.posterior_step_size',
        'objective.prior_step_size',
        'objective.bandwidth_factor',
        'objective.sampler_mass',
        'objective.temperature_start',
        'objective.temperature_end',
    ),
    *_at_least(
        1,
        'objective.num_samples',
        'objective.num_particles',
        'objective.num_discriminator_updates',
        'objective.num_latent_updates',
        'objective.posterior_steps',
        'objective.prior_steps',
        'objective.latents_per_image',
    ),
    *_one_of(KERNELS, 'objective.kernel'),
    *_one_of(POSITIVE_KERNELS, 'objective.sampler_kernel'),
    _Rule(
        'objective.bandwidth',
        _is_bandwidth,
        _explain_bandwidth,
    ),
    *_at_least(
        0,
        'objective.latent_energy_weight',
        'objective.r1_weight',
        'objective.gradient_penalty',
    ),
    _Rule(
        'objective.temperature_fraction',
        lambda x: _is_number(x) and 0 < x <= 1,
        _says('is outside (0, 1]; use a fraction of training'),
    ),
    _Rule(
        'objective.kl_warmup',
        lambda x: _is_number(x) and 0 <= x <= 1,
        _says('is outside [0, 1]; use a fraction of training, 0 for none'),
    ),
    *_fraction('objective.moments_decay'),
    *_above_zero('optimizer.learning_rate', 'optimizer.latent_learning_rate'),
    *_one_of(SCHEDULES, 'optimizer.schedule'),
    _Rule(
        'optimizer.latent_final_fraction',
        lambda x: _is_number(x) and 0 <= x <= 1,
        _says('is outside [0, 1]; use a fraction of latent_learning_rate'),
    ),
    *_fraction('optimizer.b1', 'optimizer.latent_b1', 'optimizer.b2'),
    *_at_least(
        0,
        'optimizer.warmup_steps',
        'optimizer.weight_decay',
        'optimizer.clip_norm',
    ),
    *_at_least(
        1,
        'train.batch_size',
        'train.accumulate',
        'train.log_every',
        'evaluate.batch_size',
        'evaluate.two_stage_steps',
        'evaluate.langevin_steps',
        'evaluate.flow_matching_steps',
        'evaluate.flow_steps',
        'evaluate.drifting_steps',
        'evaluate.svgd_steps',
        'evaluate.ais_temperatures',
    ),
    *_at_least(
        0,
        'train.num_epochs',
        'train.num_steps',
        'train.validate_every',
        'train.checkpoint_every',
        'evaluate.nearest_noise',
        'evaluate.importance_samples',
        'evaluate.num_nll_images',
        'evaluate.ais_chains',
        'evaluate.ais_images',
    ),
    *_fraction('train.ema_decay'),
    *_one_of(NON_FINITE, 'train.non_finite'),
    *_at_least(2, 'evaluate.num_samples'),
    *_at_least(1, 'evaluate.num_draws'),
    _Rule(
        'evaluate.samplers',
        lambda x: (
            isinstance(x, tuple)
            and all(is_sampler(each) for each in x)
            and len(set(x)) == len(x)
        ),
        _explain_samplers,
    ),
    _Rule(
        'evaluate.classifier_seeds',
        lambda x: (
            isinstance(x, tuple)
            and len(x) > 0
            and all(isinstance(each, int) and each >= 0 for each in x)
            and len(set(x)) == len(x)
        ),
        _says('is no list of seeds; use different whole numbers from 0 on'),
    ),
    *_one_of(CHECKPOINTS, 'evaluate.checkpoint'),
    *_one_of(SPLITS, 'evaluate.split'),
    *_one_of((False, True), 'evaluate.inception'),
)

_RELATIONS = (
    _Relation(
        ('train.num_epochs', 'train.num_steps'),
        lambda epochs, steps: epochs > 0 or steps > 0,
        'trains for no step; make one of them positive',
    ),
    _Relation(
        ('train.batch_size', 'train.accumulate'),
        lambda batch_size, accumulate: batch_size % accumulate == 0,
        'does not divide; use a batch_size that is a multiple of accumulate',
    ),
    _Relation(
        ('objective.num_particles', 'objective.off_diagonal'),
        lambda count, off_diagonal: count > 1 or not off_diagonal,
        'leaves a lone particle no direction; use 2 particles or more',
    ),
    _Relation(
        ('objective.bandwidth_factor', 'objective.bandwidth'),
        lambda factor, bandwidth: factor == 1 or bandwidth == BANDWIDTH_RULE,
        'multiplies no rule; use factor 1, or bandwidth expected',
    ),
    _Relation(
        ('objective.latents_per_image', 'objective.num_particles'),
        lambda latents, count: latents <= count,
        'asks for more latents than there are; use num_particles at most',
    ),
    *(
        _Relation(
            ('model.encoder', 'objective.name'),
            lambda encoder, name, method=method, encoders=encoders: (
                name != method or encoder in encoders
            ),
            f'does not go together; use encoder {" or ".join(encoders)}',
        )
        for method, encoders in METHOD_ENCODERS.items()
    ),
    _Relation(
        ('model.hidden_sizes', 'model.encoder'),
        lambda sizes, encoder: (
            bool(sizes) or encoder not in ('implicit', 'warped')
        ),
        'has no layer for its noise; use one size or more',
    ),
    _Relation(
        ('objective.whiten', 'model.encoder'),
        lambda whiten, encoder: not whiten or encoder == 'gaussian',
        'has no standard deviations; use whiten=false or encoder gaussian',
    ),
    _Relation(
        ('objective.alpha', 'objective.mmd_scaling'),
        lambda alpha, scaling: alpha + scaling >= 1,
        'rewards a discrepancy; use alpha + mmd_scaling of 1 or more',
    ),
    _Relation(
        ('train.batch_size', 'objective.name'),
        lambda batch_size, name: batch_size > 1 or name not in SET_METHODS,
        'compares no sets; use a batch_size of 2 or more',
    ),
    _Relation(
        (
            'train.batch_size',
            'objective.latents_per_image',
            'objective.sampler_mass',
        ),
        lambda batch_size, latents, mass: batch_size * latents - 1 > mass,
        'gives a particle too few others to feel; use a batch_size above'
        ' sampler_mass + 1',
    ),
    _Relation(
        ('model.learn_scale', 'model.likelihood'),
        lambda learn, likelihood: not learn or likelihood != 'bernoulli',
        'has no scale to learn; use learn_scale=false or another likelihood',
    ),
    _Relation(
        ('dataset.binarize', 'model.likelihood'),
        lambda binarize, likelihood: not binarize or likelihood == 'bernoulli',
        'gives no density to binary pixels; use likelihood bernoulli',
    ),
    _Relation(
        ('dataset.name', 'dataset.path'),
        lambda name, path: (name == 'images') == bool(path),
        'does not go together; path is the folder or array of images, of no'
        ' other data set',
    ),
)


def _git_commit() -> str | None:
  """Returns the commit of the repository whose top is the project's root.

  Where there is none, as in a container, `COMMIT_VARIABLE` may name it.
  """

  def git(*args: str) -> str:
    return subprocess.run(
        ('git', '-C', str(ROOT), *args),
        check=True, capture_output=True, text=True, timeout=10,
    ).stdout.strip()

  try:
    if pathlib.Path(git('rev-parse', '--show-toplevel')).resolve() != ROOT:
      return None  # installed into an environment inside another repository
    commit = git('rev-parse', 'HEAD')
    modified = git('status', '--porcelain', '--untracked-files=no')
    return commit + '+dirty' * bool(modified)
  except (OSError, subprocess.SubprocessError):
    return os.environ.get(COMMIT_VARIABLE) or None
