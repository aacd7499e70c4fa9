"""What `pip install .` gives: every package, the shipped configs, and the command."""

import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest
from tiny import ROOT

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError

PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
SHIPPED = sorted(path.stem for path in (ROOT / 'configs').glob('*.py'))


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A folder with the package installed in it, and nothing of the checkout."""
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
  """The installed command, in a folder of its own."""
  env = os.environ | {'PYTHONPATH': str(installed)}
  line = [sys.executable, str(installed / 'bin' / 'alexnet-jax'), *args]
  return subprocess.run(line, env=env, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_every_module_and_file_is_installed(installed):
  """A new room of the package must be named in pyproject.toml."""

  def there(folder):
    return {
      str(path.relative_to(folder))
      for path in folder.rglob('*')
      if path.is_file() and '__pycache__' not in path.parts
    }

  assert there(installed / 'alexnet_jax') == there(ROOT / 'alexnet_jax') | {
    f'configs/{path.name}' for path in (ROOT / 'configs').glob('*.*')
  }


def test_the_command_works_from_any_folder(installed, tmp_path):
  result = run(
    installed,
    '--config=quickstart:owt',
    f'--workdir={tmp_path / "run"}',
    '--config.data.source=synthetic',
    '--config.model.num_classes=7',  # told to be wrong once the config and the data are read
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
  (tmp_path / 'quickstart').write_text('')  # a file of the user's comes first
  with pytest.raises(UserError, match='--config=quickstart'):
    config_lib.load_file('quickstart')
  with pytest.raises(UserError, match=f'those shipped: {", ".join(SHIPPED)}'):
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
