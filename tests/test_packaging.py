"""Checks what `pip install .` installs: every package, the shipped configs, and the command."""

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
  """Installs the package into a folder of its own."""
  source, target = (tmp_path_factory.mktemp(name) for name in ('source', 'target'))
  for name in ('alexnet_jax', 'configs'):
    shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
  for name in ('pyproject.toml', 'requirements.txt', 'README.md', 'LICENSE'):
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
  """pyproject.toml must name every package and every kind of data file."""

  def there(folder):
    return {
      str(path.relative_to(folder))
      for path in folder.rglob('*')
      if path.is_file() and '__pycache__' not in path.parts
    }

  assert there(installed / 'alexnet_jax') == there(ROOT / 'alexnet_jax') | {
    f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.*')
  }


@pytest.mark.long
def test_the_command_works_from_any_folder(installed, tmp_path):
  result = run(
    installed,
    '--config=quickstart:owt',
    f'--workdir={tmp_path / "run"}',
    '--config.data.source=synthetic',
    '--config.model.num_classes=7',  # an error that is found after the config and the data are read
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


def test_extras_take_the_jax_of_the_requirements():
  (jax,) = [
    line.removeprefix('jax')
    for line in (ROOT / 'requirements.txt').read_text().splitlines()
    if line.startswith('jax>')
  ]
  extras = PROJECT['project']['optional-dependencies']
  accelerators = [wanted for name in ('gpu', 'gpu-cuda12', 'tpu') for wanted in extras[name]]
  assert [wanted.partition(']')[2] for wanted in accelerators] == [jax] * 3


def test_constraints_satisfy_the_requirements():
  """Each requirement has a constraint within its bounds, for Python 3.11 and for 3.12."""
  constraints = [packaging.requirements.Requirement(line) for line in lines_of('constraints.txt')]
  for python in ('3.11', '3.12'):
    pinned = {
      packaging.utils.canonicalize_name(one.name): next(iter(one.specifier)).version
      for one in constraints
      if one.marker is None or one.marker.evaluate({'python_version': python})
    }
    for file in ('requirements.txt', 'requirements-test.txt', 'requirements-docs.txt'):
      for line in lines_of(file):
        wanted = packaging.requirements.Requirement(line)
        name = packaging.utils.canonicalize_name(wanted.name)
        assert name in pinned, f'{file}: constraints.txt does not name {name}'
        assert wanted.specifier.contains(pinned[name]), f'{file}: {wanted} is not {pinned[name]}'


def lines_of(file: str) -> list[str]:
  """The lines of a requirements file without comments."""
  lines = (ROOT / file).read_text().splitlines()
  return [line for line in lines if line and not line.startswith('#')]
