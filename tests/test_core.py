"""The packages of the core are enough to train, resume, evaluate, predict and describe.

The child processes of these tests find no package that `pip install .` would not install. Whatever needs
another package ends with one line that names its extra.
"""

from importlib import metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

from data_helpers import encode, photo
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest
from tiny import ROOT, main, write_config

# Python runs a module of this name when it starts. It replaces Python's finder of files by one that does not
# see some packages, so that importing them fails as if they were not installed.
_SITECUSTOMIZE = """
from importlib.machinery import PathFinder
import sys

HIDDEN = {hidden!r}


class CoreOnly(PathFinder):
  @classmethod
  def find_spec(cls, name, path=None, target=None):
    hidden = name.partition('.')[0] in HIDDEN
    return None if hidden else PathFinder.find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = CoreOnly
"""
# Runs several command lines in one process; prints the exit code and the last line of stderr of each.
_RUN_ALL = """
import contextlib, io, json, sys
from alexnet_jax.cli import main as cli

results = []
for argv in json.loads(sys.argv[1]):
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = cli.main(argv)
  results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps([results, sorted({name.partition('.')[0] for name in sys.modules})]))
"""


def core() -> set[str]:
  """Returns the names of the distributions that the core requires, directly or not."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  found, todo = set(), [Requirement(line) for line in project['dependencies']]
  while todo:
    requirement = todo.pop()
    name = canonicalize_name(requirement.name)
    wanted = {(name, extra) for extra in ('', *requirement.extras)} - found
    found |= wanted
    for line in metadata.requires(name) or () if wanted else ():
      needed = Requirement(line)
      if any(not needed.marker or needed.marker.evaluate({'extra': e}) for _, e in wanted):
        todo.append(needed)
  return {name for name, _ in found}


@pytest.fixture(scope='module')
def environment(tmp_path_factory):
  """The environment of a process that finds only the packages of the core."""
  kept = core()
  hidden = {
    module
    for module, names in metadata.packages_distributions().items()
    if not kept & set(map(canonicalize_name, names))
  }
  assert {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'starlette'} <= hidden
  assert not hidden & {'jax', 'flax', 'orbax', 'google', 'PIL', 'numpy'}
  folder = tmp_path_factory.mktemp('site')
  (folder / 'sitecustomize.py').write_text(_SITECUSTOMIZE.format(hidden=hidden))
  return os.environ | {'PYTHONPATH': str(folder)}


def run_all(environment: dict, commands: list[list[str]]) -> tuple[list[list], set[str]]:
  """Runs command lines in a process that finds only the core.

  Returns:
    `[exit code, stdout, stderr]` of each, and the top-level modules that the process has imported.
  """
  line = [sys.executable, '-c', _RUN_ALL, json.dumps(commands)]
  done = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-3000:]
  results, modules = json.loads(done.stdout.splitlines()[-1])
  return results, set(modules)


@pytest.fixture(scope='module')
def run(tmp_path_factory, environment) -> tuple[pathlib.Path, list[list], set[str]]:
  """A run that was trained from a folder of image files, resumed and used, and what the modes returned."""
  folder = tmp_path_factory.mktemp('core')
  for i in range(24):
    path = folder / 'photos' / f'class{i % 2}' / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(photo(i, 90, 80)))
  config = write_config(folder, data__source=f'folder:{folder / "photos"}')
  train = [f'--config={config}', f'--workdir={folder / "run"}', '--config.log.tensorboard=True']
  used = [f'--workdir={folder / "run"}']
  commands = [
    [*train, '--config.train.steps=3'],
    [*train, '--config.train.steps=6'],
    [*used, '--mode=eval'],
    [*used, '--mode=predict', f'--images={folder / "photos"}'],
    [*used, '--mode=features', f'--output={folder / "features.npz"}'],
    [*used, '--mode=describe'],
    [*used, '--mode=export', '--format=safetensors', f'--output={folder / "net.safetensors"}'],
    ['--mode=predict', f'--weights={folder / "net.safetensors"}', f'--images={folder / "photos"}'],
  ]
  return folder, *run_all(environment, commands)


@pytest.mark.long
def test_the_core_trains_resumes_evaluates_predicts_and_describes(run):
  folder, results, modules = run
  assert [code for code, _, _ in results] == [0] * len(results), results
  first, second, evaluated, predicted, *_ = (json.loads(out) for _, out, _ in results)
  assert [first['step'], second['step']] == [3, 6]
  assert 'at step 3 of 6' in results[1][2]
  assert evaluated['examples'] == 2 and len(predicted['images']) == 24
  assert list((folder / 'run').rglob('events.*'))
  assert not modules & {'tensorflow', 'tensorflow_datasets', 'array_record', 'chex', 'matplotlib'}


@pytest.mark.long
def test_the_core_trains_from_a_store(run, environment, tmp_path):
  folder, *_ = run
  config = write_config(tmp_path, data__source=f'folder:{folder / "photos"}', train__steps=2)
  prepared = main(f'--config={config}', '--mode=prepare', f'--output={tmp_path / "store"}')
  assert prepared.returncode == 0, prepared.stderr
  store = f'--config.data.source=store:{tmp_path / "store"}'
  ((code, out, err),), _ = run_all(
    environment, [[f'--config={config}', store, f'--workdir={tmp_path / "run"}']]
  )
  assert code == 0, err
  assert json.loads(out)['step'] == 2


@pytest.mark.long
def test_a_missing_extra_is_one_line_that_names_it(run, environment, tmp_path):
  folder, *_ = run
  used, new = f'--workdir={folder / "run"}', f'--workdir={tmp_path / "new"}'
  config = f'--config={write_config(tmp_path, train__steps=1)}'
  cases = [
    ('data', [config, '--mode=prepare', f'--output={tmp_path / "store"}']),
    ('data', [config, new, '--config.data.source=elpv']),
    ('data', [config, new, '--config.data.source=tfds:mnist']),
    ('data', [config, new, '--config.data.loader=tf.data', '--config.data.cache_mib=0']),
    ('data', [used, '--mode=export', '--format=savedmodel', f'--output={tmp_path / "saved"}']),
    ('report', [used, '--mode=report']),
    ('report', [used, '--mode=predict', f'--images={folder / "photos"}', '--picture=a.png']),
    ('interop', [used, '--mode=export', '--format=stablehlo', f'--output={tmp_path / "b"}']),
    ('torch', [used, '--mode=export', '--format=pytorch', f'--output={tmp_path / "a.pth"}']),
    ('serve', [used, '--mode=serve', '--port=0']),
    ('wandb', [config, new, '--config.log.wandb=project']),
  ]  # fmt: skip
  results, _ = run_all(environment, [argv for _, argv in cases])
  for (extra, argv), (code, out, err) in zip(cases, results, strict=True):
    assert code == 2 and out == '', (argv, err)
    last = err.splitlines()[-1]
    assert re.search(rf"needs .*: pip install '(\.|alexnet_jax)\[{extra}\]'", last), (argv, err)
