"""Checks the structure of the package: the direction of imports, the mirror of tests, and sizes.

The order of the packages is that of the layout in docs/: a module may import modules of its own package
and of the packages on the lines below it. Imports inside functions count too.
"""

import ast
import graphlib
import pathlib

import pytest
from tiny import ROOT

PACKAGE = ROOT / 'alexnet_jax'
# From top to bottom. Packages on one line do not import each other.
ORDER = (
  ('cli',),
  ('training',),
  ('serve',),
  ('report',),
  ('inference',),
  ('interop',),
  ('evaluation',),
  ('workdir',),
  ('config',),
  ('steps',),
  ('distributed',),
  ('models', 'data'),
  ('utils',),
  ('errors', 'version'),
)
LEVEL = {name: level for level, names in enumerate(reversed(ORDER)) for name in names}
MAX_LINES, MAX_FUNCTION_LINES, MAX_MODULES = 400, 60, 12

# Modules without a test file of their own name, with the place where they are tested.
TESTED_ELSEWHERE = {
  'errors': 'exception classes without behaviour',
  'version': 'one constant; tests/test_packaging.py installs the package',
  'models/layers/cpu_conv': 'tests/models/layers/test_cpu.py, like the other layers for the CPU',
  'models/layers/cpu_norm': 'tests/models/layers/test_cpu.py',
  'models/layers/cpu_pool': 'tests/models/layers/test_cpu.py',
  'models/layers/dispatch': 'tests/models/layers/test_cpu.py',
}
# Test files that are not named after a module, with what they test.
TESTS_OF_SEVERAL = {
  'interop/torch': 'the networks of PyTorch and Caffe as independent references',
  'steps/average': 'the exponential moving average through training, evaluation and export',
  'training/golden': 'recorded metrics of two training steps',
  'training/trajectory': 'single steps on every mesh against one device, from states along a run',
}


def module_name(path: pathlib.Path) -> str:
  """`alexnet_jax.data.order` of its file; a package's name of its `__init__.py`."""
  return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob('*.py'))}
PROGRAMS = [
  path
  for folder in ('alexnet_jax', 'benchmarks', 'configs', 'experiments', 'launch', 'notebooks')
  for path in sorted((ROOT / folder).rglob('*.py'))
]


def imported_names(tree: ast.Module) -> set[tuple[str, bool]]:
  """(name, whether inside a function) of everything that a module imports; names are absolute."""
  found = set()

  def visit(node: ast.AST, late: bool) -> None:
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.Import):
        found.update((alias.name, late) for alias in child.names)
      elif isinstance(child, ast.ImportFrom):
        assert not child.level, 'imports are absolute'
        found.update((f'{child.module}.{alias.name}', late) for alias in child.names)
      visit(child, late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

  visit(tree, False)
  return found


IMPORTS = {name: imported_names(ast.parse(path.read_text())) for name, path in MODULES.items()}


def module_of(name: str) -> str | None:
  """The module that holds an imported name: itself a module, or an attribute of one."""
  while name and name not in MODULES:
    name = name.rpartition('.')[0]
  return name or None


# By module: the modules of this package that it imports.
GRAPH = {
  name: {found for imported, _ in names if (found := module_of(imported))} - {name}
  for name, names in IMPORTS.items()
}


def package_of(name: str) -> str:
  """`data` of `alexnet_jax.data.order`; '' of the package itself."""
  return '.'.join(name.split('.')[1:2])


def test_every_package_has_its_place_in_the_order():
  assert set(map(package_of, MODULES)) - {''} == set(LEVEL)


@pytest.mark.parametrize('name', sorted(LEVEL))
def test_imports_go_down(name):
  """From a package to itself or to one below it, never up, across, or to the package as a whole."""
  upwards = {
    (module, imported)
    for module, found in GRAPH.items()
    if package_of(module) == name
    for imported in found
    if package_of(imported) != name and LEVEL.get(package_of(imported), len(ORDER)) >= LEVEL[name]
  }
  assert not upwards


def test_imports_form_no_circle():
  """Not even inside a package, or through an import inside a function."""
  try:
    list(graphlib.TopologicalSorter(GRAPH).static_order())
  except graphlib.CycleError as error:
    pytest.fail(f'a circle of imports: {" <- ".join(error.args[1])}')


def test_tensorflow_is_imported_by_data_alone():
  """Elsewhere it is loaded by name, late, through utils.optional_import."""
  importers = {
    module
    for module, names in IMPORTS.items()
    for imported, _ in names
    if imported.split('.')[0] in ('tensorflow', 'tensorflow_datasets')
  }
  assert {package_of(module) for module in importers} <= {'data'}


def test_every_module_has_its_test_file():
  """tests/PACKAGE/test_MODULE.py, unless the table above names the place of its tests."""
  modules = {
    str(path.relative_to(PACKAGE).with_suffix(''))
    for path in MODULES.values()
    if path.name != '__init__.py'
  }
  folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
  tests = {
    str((path.parent / path.stem.removeprefix('test_')).relative_to(ROOT / 'tests'))
    for path in (ROOT / 'tests').rglob('test_*.py')
    if path.relative_to(ROOT / 'tests').parts[0] in folders
  }
  assert modules - tests == set(TESTED_ELSEWHERE)
  assert tests - modules == set(TESTS_OF_SEVERAL)


def test_sizes():
  """Files, functions and folders stay short enough to be read."""
  files, functions = set(), set()
  for path in PROGRAMS:
    text, name = path.read_text(), str(path.relative_to(ROOT))
    if text.count('\n') > MAX_LINES:
      files.add(name)
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES:
        functions.add(f'{name}:{node.name}')
  assert not files
  assert not functions
  folders = [PACKAGE, *(path for path in PACKAGE.rglob('*') if path.is_dir())]
  crowded = [
    folder
    for folder in folders
    if len([path for path in folder.glob('*.py') if path.name != '__init__.py']) > MAX_MODULES
  ]
  assert not crowded
