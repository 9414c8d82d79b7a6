"""Groups of options: dataclass fields that know their range and meaning.

    @dataclasses.dataclass(frozen=True)
    class Vae(Method):
      beta: float = fields.at_least(0, default=1.0, help='weight of the KL')

A field's name, type, default, range and meaning stand in this one place. The
command line reads them, `--help` prints them, and the class checks them when it
is made, so that a library user and a command-line user get the same error.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import difflib
import math
from typing import Any, ClassVar, NamedTuple, Self

from ldc_vae import errors

LARGEST = 2**31 - 1  # steps and sizes are counted in int32


class MissingError(errors.UserError):
  """A config lacks a field; `name` is its dotted name."""

  def __init__(self, name: str):
    super().__init__(
      f'{name} is missing; start the config file from default.create(arg),'
      ' which has every field'
    )
    self.name = name


class Range(NamedTuple):
  """The values that a field may have.

  Attributes:
    holds: Whether a value is one of them.
    words: Describes them, for `--help`; a function where names may be added.
    explain: Maps a wrong value to the end of the sentence 'FIELD=VALUE ...'.
  """

  holds: Callable[[Any], bool]
  words: str | Callable[[], str]
  explain: Callable[[Any], str]


def field(
  default: Any,
  help: str,  # pylint: disable=redefined-builtin
  allowed: Range | None = None,
  also: tuple[type, ...] = (),
) -> Any:
  """Returns a dataclass field.

  Args:
    default: Its type is the field's.
    help: The meaning.
    allowed: The range; None for all values of the type.
    also: Further types that a value may have.
  """
  return dataclasses.field(
    default=default,
    metadata={'help': help, 'allowed': allowed, 'also': also},
  )


def at_least(bound: float, *, default: Any, help: str) -> Any:
  """Returns a field for numbers of at least `bound`."""
  allowed = _range(lambda x: x >= bound, f'{bound} or more', 'is too small')
  return field(default, help, allowed)


def at_most(bound: float, *, default: Any, help: str) -> Any:
  """Returns a field for numbers of at most `bound`."""
  allowed = _range(lambda x: x <= bound, f'{bound} or less', 'is too large')
  return field(default, help, allowed)


def between(low: float, high: float, *, default: Any, help: str) -> Any:
  """Returns a field for numbers from `low` to `high`."""
  allowed = _range(
    lambda x: low <= x <= high, f'{low} to {high}', 'is out of range'
  )
  return field(default, help, allowed)


def positive(*, default: Any, help: str) -> Any:
  """Returns a field for numbers above 0."""
  allowed = _range(lambda x: x > 0, 'more than 0', 'is not positive')
  return field(default, help, allowed)


def fraction(
  *, default: float, help: str, low: bool = True, high: bool = True
) -> Any:
  """Returns a field for numbers from 0 to 1.

  Args:
    default: The default.
    help: The meaning.
    low: Whether 0 is allowed.
    high: Whether 1 is allowed.
  """
  words = f'{"[" if low else "("}0, 1{"]" if high else ")"}'
  allowed = _range(
    lambda x: (x >= 0 if low else x > 0) and (x <= 1 if high else x < 1),
    f'a number in {words}',
    f'is outside {words}',
  )
  return field(default, help, allowed)


def one_of(known: Iterable[Any], *, default: Any, help: str) -> Any:
  """Returns a field for one of the known values.

  Args:
    known: The values, or the keys of a registry. A registry is read at each
      check, so that names that are registered later count.
    default: The default.
    help: The meaning.
  """
  names = lambda: ', '.join(map(str, known))
  return field(
    default,
    help,
    Range(
      lambda x: x in known,
      names,
      lambda x: f'is unknown{suggest(x, known)}; known: {names()}',
    ),
  )


def sizes(*, default: tuple[int, ...], help: str, empty: bool = False) -> Any:
  """Returns a field for a tuple of positive whole numbers."""
  count = 'any number of' if empty else 'one or more'
  allowed = _range(
    lambda x: (empty or bool(x)) and all(each > 0 for each in x),
    f'{count} positive whole numbers',
    'does not hold',
  )
  return field(default, help, allowed)


def _range(holds: Callable[[Any], bool], words: str, fault: str) -> Range:
  """Returns the range whose error is 'FIELD=VALUE fault; use words'."""
  return Range(holds, words, lambda x: f'{fault}; use {words}')


@dataclasses.dataclass(frozen=True)
class Options:
  """The base of a group of options.

  A subclass is a frozen dataclass with the fields of this module. It may
  override `check` for relations between its fields.

  Attributes:
    group: The group's name in the config.
  """

  group: ClassVar[str] = ''

  def __post_init__(self):
    for each in dataclasses.fields(self):
      check_value(f'{self.group}.{each.name}', getattr(self, each.name), each)
    self.check()

  def check(self) -> None:
    """Raises a `UserError` for fields that do not fit each other."""

  def conflict(
    self, names: tuple[str, ...], explanation: str
  ) -> errors.UserError:
    """Returns the error for fields of this group; see `conflict` below."""
    values = {f'{self.group}.{name}': getattr(self, name) for name in names}
    return conflict(values, explanation)

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> Self:
    """Returns the options of a config's group.

    Args:
      config: The group's fields; a field 'name' that is not one of the class's
        fields is left out.

    Raises:
      UserError: A field is unknown, missing or out of range.
    """
    values = dict(config.items())
    known = {each.name for each in dataclasses.fields(cls)}
    if 'name' not in known:
      values.pop('name', None)
    for name in sorted(set(values) - known):
      raise errors.UserError(
        f'config.{cls.group}.{name} is no field{suggest(name, known)}; known:'
        f' {", ".join(sorted(known))}'
      )
    for name in sorted(known - set(values)):
      raise MissingError(f'config.{cls.group}.{name}')
    return cls(**values)

  @classmethod
  def summary(cls) -> str:
    """Returns the first line of the class's docstring."""
    return (cls.__doc__ or '').partition('\n')[0]

  @classmethod
  def describe(cls) -> list[tuple[str, Any, str]]:
    """Returns (dotted name, default, meaning and range) of each field."""
    described = []
    for each in dataclasses.fields(cls):
      allowed = each.metadata.get('allowed')
      words = allowed.words if allowed else ''
      words = words() if callable(words) else words
      words = f' ({words})' if words else ''
      described.append(
        (
          f'{cls.group}.{each.name}',
          each.default,
          each.metadata.get('help', '') + words,
        )
      )
    return described


def check_value(name: str, value: Any, spec: dataclasses.Field) -> None:
  """Raises a `UserError` unless a field's value has its type and range.

  Args:
    name: The field's dotted name, for the message.
    value: Its value.
    spec: The field of the dataclass.
  """
  also = spec.metadata.get('also', ())
  if not _has_type(value, spec.default) and not isinstance(value, also):
    raise errors.UserError(
      f'config.{name}={show(value)}: not {kind(spec.default)}, as'
      f' {show(spec.default)} is'
    )
  for each in value if isinstance(value, tuple) else (value,):
    if isinstance(each, float) and not math.isfinite(each):
      raise errors.UserError(f'config.{name}={show(value)} is not finite')
    if isinstance(each, int) and each > LARGEST and name != 'seed':
      raise errors.UserError(
        f'config.{name}={show(value)} is too large; use {LARGEST} or less'
      )
  allowed = spec.metadata.get('allowed')
  if allowed and not allowed.holds(value):
    raise errors.UserError(
      f'config.{name}={show(value)} {allowed.explain(value)}'
    )


def conflict(values: Mapping[str, Any], explanation: str) -> errors.UserError:
  """Returns the error for fields that do not fit each other.

  Args:
    values: Dotted names of the fields and their values.
    explanation: The end of the sentence 'A=1 with B=2 ...'.
  """
  shown = ' with '.join(
    f'config.{name}={show(value)}' for name, value in values.items()
  )
  return errors.UserError(f'{shown} {explanation}')


# How values are read and shown.


def convert(name: str, value: Any, old: Any) -> Any:
  """Returns a value, text or not, as the type of a field's old value.

  Args:
    name: The field's dotted name, for messages.
    value: What the user gave; None stands for a flag without a value.
    old: The value that the field has; its type is the field's.

  Raises:
    UserError: The value has another type.
  """
  if value is None:
    if isinstance(old, bool):
      return True  # --config.a.b alone
    raise errors.UserError(
      f'--config.{name}: needs a value, --config.{name}=VALUE'
    )
  try:
    if isinstance(old, tuple):
      elements = _split(value) if isinstance(value, str) else value
      if isinstance(elements, Mapping) or not isinstance(elements, Iterable):
        elements = (elements,)
      # an empty tuple does not know its elements' type: numbers, else text
      return tuple(
        _scalar(each, old[0]) if old else _guess(each) for each in elements
      )
    return _scalar(value, old)
  except (TypeError, ValueError):
    raise errors.UserError(
      f'--config.{name}={show(value)}: not {kind(old)}, as {show(old)} is'
    ) from None


def show(value: Any) -> str:
  """Returns a value as a user would write it after '='."""
  if isinstance(value, tuple):
    comma = ',' if len(value) == 1 else ''
    return f'({", ".join(str(each) for each in value)}{comma})'
  return repr(value) if value == '' else str(value)


def suggest(name: Any, known: Iterable[Any]) -> str:
  """Returns ' (did you mean ...?)' for the nearest known name, or ''."""
  close = difflib.get_close_matches(str(name), list(map(str, known)), 1)
  return f' (did you mean {close[0]}?)' if close else ''


def suggest_field(name: str, known: Iterable[str]) -> str:
  """Returns '; did you mean ...?', or the fields of the group."""
  group, _, leaf = name.rpartition('.')
  siblings = [each for each in known if each.startswith(f'{group}.') and group]
  leaf_of = lambda each: each.rpartition('.')[2]
  # the same name in another group, else one that is spelt alike
  same = [each for each in known if leaf_of(each) == leaf]
  for best in difflib.get_close_matches(name, same, 1, 0.0):
    return f'; did you mean {best}?'
  for among in (siblings, list(known)):
    close = difflib.get_close_matches(leaf, list(map(leaf_of, among)), 1)
    if close:
      best = next(each for each in among if leaf_of(each) == close[0])
      return f'; did you mean {best}?'
  if siblings:
    return f'; known: {", ".join(siblings)}'
  groups = dict.fromkeys(each.partition('.')[0] for each in known)
  return f'; its fields start with one of {", ".join(groups)}'


def kind(default: Any) -> str:
  """Returns the type of a field in words, given its default."""
  if isinstance(default, tuple):
    element = _KINDS[type(default[0])] if default else 'value'
    return f'a tuple, each element {element}'
  return _KINDS[type(default)]


_KINDS = {
  bool: 'a boolean (true, false, 1 or 0)',
  int: 'a whole number',
  float: 'a number',
  str: 'text',
}
_BOOLEANS = {'true': True, '1': True, 'false': False, '0': False}


def _has_type(value: Any, default: Any) -> bool:
  """Whether a value has the type of a default; whole numbers are numbers."""
  if isinstance(default, tuple):
    return isinstance(value, tuple) and all(
      _has_type(each, default[0]) for each in value if default
    )
  if isinstance(default, bool) or isinstance(value, bool):
    return isinstance(default, bool) and isinstance(value, bool)
  if isinstance(default, float):
    return isinstance(value, (int, float))
  return isinstance(value, type(default))


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


def _guess(value: Any) -> Any:
  """Returns text as a whole number where it is one."""
  try:
    return int(value) if isinstance(value, str) else value
  except ValueError:
    return value


def _scalar(value: Any, old: Any) -> Any:
  """Returns a value as the type of `old`, or raises a TypeError, ValueError."""
  if not isinstance(value, str):
    if not _has_type(value, old):
      raise TypeError(value)
    return type(old)(value)
  if isinstance(old, bool):
    if value.lower() not in _BOOLEANS:
      raise ValueError(value)
    return _BOOLEANS[value.lower()]
  return int(value, 0) if isinstance(old, int) else type(old)(value)
