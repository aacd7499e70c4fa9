"""Each notebook agrees with its source file, and all its cells run on small inputs."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from tiny import ROOT

spec = importlib.util.spec_from_file_location('build', ROOT / 'notebooks' / 'build.py')
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

SMALL = {
  'data.source': 'synthetic',
  'data.synthetic.train': 24,
  'data.synthetic.validation': 8,
  'data.synthetic.classes': 3,
  'model.width': 1 / 32,
  'train.batch_size': 8,
  'eval.batch_size': 8,
  'log.tensorboard': False,
}
# The notebooks that train the paper's network use smaller images and one tower, which halves the layers.
SMALLER = SMALL | {
  'model.input_size': 64,
  'model.towers': 1,
  'data.canvas.size': 72,
  'eval.views': 1,
  'eval.baseline': False,
}


@pytest.fixture(autouse=True)
def compile_without_optimisation(monkeypatch):
  """Compiles without optimisation, which takes a third of the time, because each program runs only once."""
  flags = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  monkeypatch.setenv('XLA_FLAGS', flags)


def run(name, **settings):
  """Executes a notebook with parameters set, and returns its text outputs and the number of its pictures."""
  values = {key: repr(value) for key, value in settings.items()}
  notebook = build.execute(build.make(name, values))
  outputs = [output for cell in notebook.cells for output in cell.get('outputs', ())]
  pictures = sum('image/png' in output.get('data', {}) for output in outputs)
  texts = [output.get('text', output.get('data', {}).get('text/plain', '')) for output in outputs]
  return '\n'.join(texts), pictures


@pytest.mark.parametrize('name', build.NAMES)
def test_a_notebook_agrees_with_its_source(name):
  """The cells equal those of the source, except for set parameters, and were executed in order."""
  notebook = nbformat.read(ROOT / 'notebooks' / f'{name}.ipynb', as_version=4)
  nbformat.validate(notebook)
  cells = [cell for cell in notebook.cells if not cell.source.startswith(build._SET)]
  made = build.make(name).cells
  assert [(c.cell_type, c.source) for c in cells] == [(c.cell_type, c.source) for c in made]
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
  outputs = [output for cell in code for output in cell.outputs]
  assert not [output for output in outputs if output.output_type == 'error']
  assert any('image/png' in output.get('data', {}) for output in outputs)


def test_the_repository_address_is_defined_once():
  """The sources contain {REPOSITORY}; the badge and the installation contain the address."""
  for path in [
    *(ROOT / 'notebooks').glob('[0-9h]*.py'),
    ROOT / 'README.md',
    ROOT / 'pyproject.toml',
  ]:
    assert build.REPOSITORY not in path.read_text(), path
  badge, install = (cell.source for cell in build.make(build.NAMES[0]).cells[:2])
  assert f'colab.research.google.com/github/{build.REPOSITORY}/blob' in badge
  assert f'{build.NAMES[0]}.ipynb' in badge
  assert f'git+https://github.com/{build.REPOSITORY}@' in install
  with pytest.raises(ValueError, match='NONSENSE'):
    build.make(build.NAMES[0], {'NONSENSE': '1'})


@pytest.mark.parametrize('version', ['1.0', None])
def test_outside_a_checkout_the_header_installs_the_package(version, tmp_path, monkeypatch, capsys):
  """The session restarts if it has imported another version of a package than is now installed.

  A clone in the current folder is not the package.
  """
  (tmp_path / 'alexnet_jax').mkdir()
  monkeypatch.chdir(tmp_path)
  monkeypatch.delitem(sys.modules, 'alexnet_jax', raising=False)
  monkeypatch.setattr(sys, 'path', [str(tmp_path)])
  monkeypatch.setattr(shutil, 'which', lambda name: None)
  monkeypatch.setattr(importlib.metadata, 'version', lambda name: version or np.__version__)
  monkeypatch.setitem(sys.modules, 'PIL', None)
  monkeypatch.delitem(sys.modules, 'PIL')
  monkeypatch.delitem(sys.modules, 'matplotlib', raising=False)
  installed, killed = [], []
  monkeypatch.setattr(subprocess, 'run', lambda line, check: installed.append(line[-1]))
  monkeypatch.setattr(os, 'kill', lambda *args: killed.append(args))
  exec(build.make(build.NAMES[0]).cells[1].source, {})
  assert installed == [
    f'alexnet-jax[data,report] @ git+https://github.com/{build.REPOSITORY}@{build.BRANCH}'
  ]
  assert killed == ([(os.getpid(), signal.SIGKILL)] if version else [])
  assert ('run all cells again' in capsys.readouterr().out) == bool(version)


@pytest.mark.long
def test_the_notebook_alexnet_in_one_hour_runs():
  text, pictures = run('01_alexnet_in_one_hour', WIDTH=1 / 16, BATCH=2)
  assert pictures == 3
  assert re.search(r'conv1 +\(55, 55, 3\) and \(55, 55, 3\)', text)
  assert re.search(r'conv2 +changed +- ', text) and re.search(r'conv3 +changed changed', text)
  assert text.count('all-gather') == 3


@pytest.mark.long
def test_the_notebook_relu_or_tanh_runs(tmp_path):
  text, pictures = run(
    '02_relu_or_tanh', SOURCE='synthetic', EPOCHS=1.0, SETTINGS=SMALL, WORKDIR=str(tmp_path)
  )
  assert pictures == 4
  assert re.search('times sooner with ReLU|no better than guessing', text)
  assert text.count('conv1: ') == 3


@pytest.mark.parametrize(
  ('relu', 'tanh', 'message'),
  [
    ([90, 60, 40], [90, 80, 70], '70.0 % after 0.7 epochs of relu, 2.0 epochs of tanh'),
    ([90, 80, 85], [90, 60, 40], '80.0 % after 1.0 epochs of relu, 0.3 epochs of tanh'),
    ([90, 50, 50], [90, 50, 55], '50.0 % after 1.0 epochs of relu, 1.0 epochs of tanh'),
    ([90, 95, 92], [90, 60, 40], 'no better than guessing'),
  ],
)
def test_relu_and_tanh_are_compared_at_an_error_that_both_reach(relu, tanh, message, capsys):
  """The notebook compares the curves at the lowest error that both have reached."""
  cell = next(cell for cell in build.make('02_relu_or_tanh').cells if 'level =' in cell.source)
  curves = {name: ([0, 1, 2], error) for name, error in {'relu': relu, 'tanh': tanh}.items()}
  exec(cell.source, {'np': np, 'curves': curves})
  assert message in capsys.readouterr().out


@pytest.mark.long
def test_the_notebooks_your_own_photos_and_look_inside_run(tmp_path):
  """The second notebook inspects the run that the first one has trained."""
  workdir = str(tmp_path / 'run')
  text, pictures = run(
    '03_your_own_photos', SOURCE='synthetic', EPOCHS=1.0, SETTINGS=SMALLER, WORKDIR=workdir
  )
  assert pictures == 4
  assert "'top1_error':" in text and 'index.html' in text
  text, pictures = run('04_look_inside', WORKDIR=workdir, BITS=8)
  assert pictures == 6
  assert "'colour':" in text and '8 bits in place of' in text
