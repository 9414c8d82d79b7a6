"""Tests for the layout: who imports whom, and the look of every file."""

import ast
import functools
import importlib
import inspect
import pathlib
import sys

from absl.testing import absltest

_ROOT = pathlib.Path(__file__).resolve().parent.parent

# A file imports files of its own folder and of lower floors. The name is that
# of a folder of `ldc_vae/`, or of a file beside them.
_FLOORS = {
  'elbo': 0,
  'energy': 0,
  'errors': 0,
  'formats': 0,
  'metrics': 0,
  'streams': 0,
  'svgd': 0,
  'fields': 1,
  'names': 1,
  'run_files': 1,
  'runtime': 1,
  'configs': 2,
  'data': 2,
  'models': 2,
  'samplers': 3,
  'sections': 4,
  'methods': 5,
  'optimizers': 6,
  'step': 6,
  'config': 7,
  'experiment': 8,
  'plans': 8,
  'room': 9,
  'cli': 9,
  'run': 9,
  'usage': 9,
  'validation': 9,
  'evaluation': 10,
  'loop': 10,
  'reporting': 11,
  'check': 12,
  'evaluate': 12,
  'train': 13,
  'api': 14,
  'compare': 14,
  'latents': 15,
  'use': 15,
  'main': 16,
}

_FLOOR_0_IMPORTS = {'jax', 'numpy', 'scipy', 'chex'}

# Config objects stop at this floor.
_CONFIG_FLOOR = 7
_CONFIG_IMPORTS = {'ml_collections'}


def _python_files(*folders):
  return [
    path.relative_to(_ROOT).as_posix()
    for folder in folders
    for path in sorted((_ROOT / folder).rglob('*.py'))
  ]


@functools.cache
def _parse(name):
  return ast.parse((_ROOT / name).read_text(), name)


@functools.cache
def _imported(name):
  """Returns the dotted names that a file imports, at its top or later.

  `from a import b` counts as `a.b`, for b may be a module.
  """
  names = []
  for node in ast.walk(_parse(name)):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'line {node.lineno}: a relative import'
      names += [f'{node.module}.{alias.name}' for alias in node.names]
  return names


def _packages(name):
  """Returns the packages that a file imports from."""
  return {each.partition('.')[0] for each in _imported(name)}


def _dotted(name):
  return name.removesuffix('.py').replace('/', '.')


def _module(name):
  """Returns the key of `_FLOORS` for 'ldc_vae.x.y', or None."""
  parts = name.split('.')
  return parts[1] if parts[0] == 'ldc_vae' and len(parts) > 1 else None


_PACKAGE = [
  name for name in _python_files('ldc_vae') if name != 'ldc_vae/__init__.py'
]
_ALL = _python_files('ldc_vae', 'configs', 'tests', 'benchmarks')


class FloorsTest(absltest.TestCase):
  def test_imports_come_from_lower_floors(self):
    for name in _PACKAGE:
      own = _module(_dotted(name))
      self.assertIn(own, _FLOORS, f'give {name} a floor')
      for imported in _imported(name):
        module = _module(imported)
        if module is None:
          continue
        self.assertIn(module, _FLOORS, f'{name} imports {imported}')
        if module != own:
          self.assertLess(
            _FLOORS[module], _FLOORS[own], f'{name} imports {imported}'
          )

  def test_pure_functions_import_mathematics_only(self):
    known = {*_FLOOR_0_IMPORTS, *sys.stdlib_module_names, 'ldc_vae'}
    for name in _PACKAGE:
      if _FLOORS[_module(_dotted(name))] == 0:
        self.assertContainsSubset(_packages(name), known, name)

  def test_config_objects_stop_at_their_floor(self):
    for name in _PACKAGE:
      if _FLOORS[_module(_dotted(name))] < _CONFIG_FLOOR:
        self.assertNoCommonElements(_packages(name), _CONFIG_IMPORTS, name)

  def test_no_circle_inside_a_floor(self):
    edges = {}
    for name in _PACKAGE:
      own = _module(_dotted(name))
      found = {_module(each) for each in _imported(name)}
      edges.setdefault(own, set()).update(found - {own, None})
    while edges:  # take away modules that import no remaining one
      free = [name for name, found in edges.items() if not found & set(edges)]
      self.assertNotEmpty(free, f'a circle among {sorted(edges)}')
      for name in free:
        del edges[name]


class LookTest(absltest.TestCase):
  def test_lines_fit(self):
    for name in _ALL:
      for number, line in enumerate((_ROOT / name).read_text().splitlines(), 1):
        where = f'{name}:{number}'
        self.assertNotIn('\t', line, where)
        self.assertEqual(line, line.rstrip(), f'{where}: trailing space')
        if 'http' not in line:  # an address cannot be broken
          self.assertLessEqual(len(line), 80, where)

  def test_files_can_be_read_in_one_sitting(self):
    for name in _ALL:
      lines = (_ROOT / name).read_text().splitlines()
      self.assertLessEqual(len(lines), 400, name)

  def test_files_have_a_docstring(self):
    for name in _ALL:
      self.assertIsNotNone(ast.get_docstring(_parse(name)), name)

  def test_what_is_public_has_a_docstring(self):
    for name in _python_files('ldc_vae'):
      for node in _public(_parse(name).body):
        where = f'{name}:{node.lineno}: {node.name}'
        self.assertIsNotNone(ast.get_docstring(node), where)
        for method in _public(getattr(node, 'body', ())):
          # A property is an attribute, explained by its class.
          if isinstance(node, ast.ClassDef) and not method.decorator_list:
            module = importlib.import_module(_dotted(name))
            # one that overrides another may have the docstring of that
            found = inspect.getdoc(
              getattr(getattr(module, node.name), method.name)
            )
            self.assertIsNotNone(found, f'{where}.{method.name}')

  def test_nothing_is_imported_by_a_star(self):
    for name in _ALL:
      for imported in _imported(name):
        self.assertFalse(imported.endswith('.*'), f'{name}: {imported}')

  def test_every_module_has_tests(self):
    tested = {
      imported
      for name in _python_files('tests')
      for imported in _imported(name)
    }
    modules = {
      _dotted(name) for name in _PACKAGE if not name.endswith('__init__.py')
    }
    self.assertEmpty(modules - tested)


def _public(nodes):
  """Returns the public functions and classes among the nodes of a body."""
  return [
    node
    for node in nodes
    if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    and not node.name.startswith('_')
  ]


if __name__ == '__main__':
  absltest.main()
