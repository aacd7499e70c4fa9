"""The package has the required structure: the direction of imports, a test file per module, and sizes.

A module may import modules of its own package and of the packages below it in ORDER. This includes imports
inside functions.
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

# Modules that have no test file of the same name, with the reason or the file that tests them.
TESTED_ELSEWHERE = {
  'errors': 'exception classes without behaviour',
  'version': 'one constant; tests/test_packaging.py installs the package',
  'models/layers/blocks': 'tests/models/layers/test_cpu.py and test_gpu.py',
  'models/layers/cpu_conv': 'tests/models/layers/test_cpu.py, like the other layers for the CPU',
  'models/layers/cpu_norm': 'tests/models/layers/test_cpu.py',
  'models/layers/cpu_pool': 'tests/models/layers/test_cpu.py',
  'models/layers/dispatch': 'tests/models/layers/test_cpu.py',
}
# Test files that are not named after a module, and what they test.
TESTS_OF_SEVERAL = {
  'interop/torch': 'the networks of PyTorch and Caffe as independent references',
  'steps/average': 'the exponential moving average through training, evaluation and export',
  'training/golden': 'recorded metrics of two training steps',
  'training/trajectory': 'single steps on every mesh against one device, from states along a run',
}


def module_name(path: pathlib.Path) -> str:
  """Returns the dotted name of the module in a file; `__init__.py` has the name of its package."""
  return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob('*.py'))}
PROGRAMS = [
  path
  for folder in ('alexnet_jax', 'benchmarks', 'configs', 'experiments', 'launch', 'notebooks')
  for path in sorted((ROOT / folder).rglob('*.py'))
]


def imported_names(tree: ast.Module) -> set[tuple[str, bool]]:
  """Returns (absolute name, whether the import is inside a function) for every import of a module."""
  found = set()

  def visit(node: ast.AST, inside_function: bool) -> None:
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.Import):
        found.update((alias.name, inside_function) for alias in child.names)
      elif isinstance(child, ast.ImportFrom):
        assert not child.level, 'imports are absolute'
        found.update((f'{child.module}.{alias.name}', inside_function) for alias in child.names)
      visit(
        child,
        inside_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda),
      )

  visit(tree, False)
  return found


IMPORTS = {name: imported_names(ast.parse(path.read_text())) for name, path in MODULES.items()}


def module_of(name: str) -> str | None:
  """Returns the module of this package that defines an imported name, or None.

  The name may be that of a module or of an attribute of a module.
  """
  while name and name not in MODULES:
    name = name.rpartition('.')[0]
  return name or None


# Maps each module to the modules of this package that it imports.
GRAPH = {
  name: {found for imported, _ in names if (found := module_of(imported))} - {name}
  for name, names in IMPORTS.items()
}


def package_of(name: str) -> str:
  """Returns the package of a module: `data` for `alexnet_jax.data.order`, '' for `alexnet_jax`."""
  return '.'.join(name.split('.')[1:2])


def test_order_names_every_package():
  assert set(map(package_of, MODULES)) - {''} == set(LEVEL)


@pytest.mark.parametrize('name', sorted(LEVEL))
def test_packages_import_only_packages_below_them(name):
  """No package imports one above it, one beside it, or `alexnet_jax` as a whole."""
  upwards = {
    (module, imported)
    for module, found in GRAPH.items()
    if package_of(module) == name
    for imported in found
    if package_of(imported) != name and LEVEL.get(package_of(imported), len(ORDER)) >= LEVEL[name]
  }
  assert not upwards


def test_imports_have_no_cycle():
  """This includes imports within one package and imports inside functions."""
  try:
    list(graphlib.TopologicalSorter(GRAPH).static_order())
  except graphlib.CycleError as error:
    pytest.fail(f'import cycle: {" <- ".join(error.args[1])}')


def test_only_data_imports_tensorflow():
  """Other packages load it through utils.optional_import when they need it."""
  importers = {
    module
    for module, names in IMPORTS.items()
    for imported, _ in names
    if imported.split('.')[0] in ('tensorflow', 'tensorflow_datasets')
  }
  assert {package_of(module) for module in importers} <= {'data'}


def test_every_module_has_its_test_file():
  """The file is tests/PACKAGE/test_MODULE.py, unless TESTED_ELSEWHERE names another one."""
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


def test_files_functions_and_folders_are_short():
  """The limits keep each of them readable."""
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
