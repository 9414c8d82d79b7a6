"""The schema of a JobSet, as far as our manifest uses it."""

import pathlib

import yaml

SCHEMA = yaml.safe_load(pathlib.Path(__file__).with_suffix('.yaml').read_text())
_TYPES = {'str': str, 'int': int, 'bool': bool}


def errors(value, schema=SCHEMA, path='manifest'):
  """Returns where a manifest leaves the schema."""
  if isinstance(schema, list):
    if not isinstance(value, list):
      return [f'{path}: not a list']
    return sum(
      (errors(x, schema[0], f'{path}[{i}]') for i, x in enumerate(value)),
      [],
    )
  if isinstance(schema, dict):
    if not isinstance(value, dict):
      return [f'{path}: not a mapping']
    fields = {name.removesuffix('!'): schema[name] for name in schema}
    found = [
      f'{path}.{name[:-1]}: missing'
      for name in schema
      if name.endswith('!') and name[:-1] not in value
    ]
    for name, x in value.items():
      if name in fields or '*' in fields:
        inner = fields.get(name, fields.get('*'))
        found += errors(x, inner, f'{path}.{name}')
      else:
        found.append(f'{path}.{name}: unknown')
    return found
  if schema in _TYPES:
    right = type(value) is _TYPES[schema]  # a bool is an int otherwise
  else:
    right = value in schema.split('|')
  return [] if right else [f'{path}: {value!r} is not {schema}']
