"""`pip install .` installs every package, the shipped configs and the command; the requirements agree."""

import ast
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import packaging.requirements
import packaging.utils
import pytest
from tiny import ROOT

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
SHIPPED = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder into which the package is installed."""
  source, target = (tmp_path_factory.mktemp(name) for name in ('source', 'target'))
  for name in ('alexnet_jax', 'configs'):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  pip = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-build-isolation']
  options = ['--disable-pip-version-check', '--quiet', '--target', str(target), str(source)]
  result = subprocess.run([*pip, *options], capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  return target


def run(installed: pathlib.Path, *args: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
  """Runs the installed command in the folder `cwd`."""
  env = os.environ | {'PYTHONPATH': str(installed)}
  line = [sys.executable, str(installed / 'bin' / 'alexnet-jax'), *args]
  return subprocess.run(line, env=env, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_every_module_and_file_is_installed(installed):
  """The test fails if pyproject.toml lacks a package or a kind of data file."""

  def files_in(folder):
    return {
      str(path.relative_to(folder))
      for path in folder.rglob('*')
      if path.is_file() and '__pycache__' not in path.parts
    }

  assert files_in(installed / 'alexnet_jax') == files_in(ROOT / 'alexnet_jax') | {
    f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.*')
  }


@pytest.mark.long
def test_the_installed_command_runs_in_any_folder(installed, tmp_path):
  result = run(
    installed,
    '--config=quickstart:owt',
    f'--workdir={tmp_path / "run"}',
    '--config.data.source=synthetic',
    '--config.model.num_classes=7',  # this error is detected after the config and the data are read
    cwd=tmp_path,
  )
  assert result.returncode == 2, result.stderr
  assert 'num_classes=7, but synthetic has 10 classes' in result.stderr
  assert run(installed, '--help', cwd=tmp_path).stdout.startswith('Usage: alexnet-jax ')


def test_shipped_configs_are_found_by_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert sorted(config_lib.shipped()) == SHIPPED
  for spec in ('quickstart:owt', 'configs/quickstart.py:owt'):
    assert config_lib.load_file(spec).recipe == 'owt'
  (tmp_path / 'quickstart').write_text('')  # a file in the working directory takes precedence
  with pytest.raises(UserError, match='--config=quickstart'):
    config_lib.load_file('quickstart')
  with pytest.raises(UserError, match='did you mean quickstart'):
    config_lib.load_file('quickstrat')


def test_extras_require_the_same_jax_as_requirements_txt():
  (jax,) = [
    line.removeprefix('jax')
    for line in (ROOT / 'requirements.txt').read_text().splitlines()
    if line.startswith('jax>')
  ]
  extras = PROJECT['project']['optional-dependencies']
  accelerators = [line for name in ('gpu', 'gpu-cuda12', 'tpu') for line in extras[name]]
  assert [requirement.partition(']')[2] for requirement in accelerators] == [jax] * 3


def test_requirements_txt_has_the_core_and_three_extras():
  """The two documented commands install what requirements.txt lists."""
  extras = PROJECT['project']['optional-dependencies']
  expected = [*PROJECT['project']['dependencies']]
  for name in ('data', 'report', 'interop'):
    expected += extras[name]
  assert sorted(lines_of('requirements.txt')) == sorted(expected)
  tested = [*lines_of('requirements-test.txt'), *lines_of('requirements-docs.txt')]
  assert sorted(extras['dev']) == sorted(['alexnet-jax[data,report,interop]', *tested])


def test_the_extra_all_has_every_extra_but_those_of_developers_and_accelerators():
  extras = PROJECT['project']['optional-dependencies']
  (requirement,) = map(packaging.requirements.Requirement, extras['all'])
  assert packaging.utils.canonicalize_name(requirement.name) == PROJECT['project']['name']
  assert requirement.extras == set(extras) - {'all', 'dev', 'gpu', 'gpu-cuda12', 'tpu'}


def test_messages_name_the_extra_that_installs_the_module():
  """Every call `import_module(MODULE, EXTRA, ...)` names an extra with the package of the module."""
  extras = PROJECT['project']['optional-dependencies']
  packages = importlib.metadata.packages_distributions()
  found = set()
  for path in (ROOT / 'alexnet_jax').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'import_module':
        name, extra = (argument.value for argument in node.args[:2])
        found.add((name.partition('.')[0], extra))
  assert {extra for _, extra in found} == {'data', 'report', 'interop', 'serve', 'torch', 'wandb'}
  for module, extra in found:
    names = {packaging.requirements.Requirement(line).name for line in extras[extra]}
    provided = {packaging.utils.canonicalize_name(name) for name in packages.get(module, ())}
    if provided:  # PyTorch and Weights & Biases need not be installed
      assert provided & set(map(packaging.utils.canonicalize_name, names)), (module, extra)


def test_constraints_satisfy_the_requirements():
  """For Python 3.11 and 3.12, each requirement has a constraint within its bounds."""
  constraints = [packaging.requirements.Requirement(line) for line in lines_of('constraints.txt')]
  for python in ('3.11', '3.12'):
    pinned = {
      packaging.utils.canonicalize_name(constraint.name): next(iter(constraint.specifier)).version
      for constraint in constraints
      if constraint.marker is None or constraint.marker.evaluate({'python_version': python})
    }
    for file in ('requirements.txt', 'requirements-test.txt', 'requirements-docs.txt'):
      for line in lines_of(file):
        requirement = packaging.requirements.Requirement(line)
        name = packaging.utils.canonicalize_name(requirement.name)
        assert name in pinned, f'{file}: constraints.txt does not name {name}'
        assert requirement.specifier.contains(pinned[name]), (
          f'{file}: {requirement} excludes {pinned[name]}'
        )


def lines_of(file: str) -> list[str]:
  """Returns the lines of a requirements file without comments."""
  lines = (ROOT / file).read_text().splitlines()
  return [line for line in lines if line and not line.startswith('#')]
