"""Runs of one config with several seeds, and the result file that they write."""

import json
import subprocess
import sys

import pytest
from tiny import ROOT

sys.path.insert(0, str(ROOT / 'experiments'))
import cats_dogs


def call(output, workdir, *more):
  """Runs experiments/seeds.py with two training steps of LeNet-5."""
  arguments = [
    '--config=configs/lenet.py:cifar10',
    f'--workdir={workdir}',
    '--seeds=0',
    f'--output={output}',
    '--config.data.source=synthetic',
    '--config.data.synthetic.train=40',
    '--config.data.synthetic.validation=10',
    '--config.train.batch_size=8',
    '--config.train.steps=2',
  ]
  return subprocess.run(
    [sys.executable, 'experiments/seeds.py', *arguments, *more],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


@pytest.mark.long
def test_seeds_are_trained_evaluated_and_recorded(tmp_path):
  """Each run is recorded with its command and its time, and is not repeated. Other flags are refused."""
  path, workdir = tmp_path / 'out' / 'lenet.json', tmp_path / 'runs'
  done = call(path, workdir)
  assert done.returncode == 0, done.stderr
  made = json.loads(path.read_text())
  (run,) = made['runs']
  assert run['train']['step'] == run['eval']['checkpoint'] == 2 and run['seconds'] > 0
  assert 'checkpoint' not in run['train']  # the path is specific to the machine
  assert f'--workdir={workdir}/seed0' in run['command'] and '--config.seed=0' in run['command']
  assert run['versions']['jax'] and 'cores; JAX on' in run['hardware']
  assert (
    made['top1_error']['mean'] == run['eval']['top1_error'] and made['top1_error']['seeds'] == 1
  )

  again = call(path, workdir)
  assert again.returncode == 0 and 'nothing to do' in again.stderr
  assert json.loads(path.read_text()) == made
  other = call(path, workdir, '--config.optim.rate=0.02')
  assert other.returncode == 2 and 'now: --config.optim.rate=0.02)' in other.stderr
  assert json.loads(path.read_text()) == made


@pytest.mark.long
def test_a_failed_run_is_reported_and_recorded_without_numbers(tmp_path):
  """The message and the exit code are those of main.py."""
  path = tmp_path / 'lenet.json'
  failed = call(path, tmp_path / 'runs', '--config.data.source=folder:nowhere')
  assert failed.returncode == 2 and 'nowhere' in failed.stderr
  made = json.loads(path.read_text())
  assert made['top1_error'] == {'mean': None, 'min': None, 'max': None, 'seeds': 0}
  assert made['runs'][0]['train'] is None and made['runs'][0]['eval'] is None
  assert made['runs'][0]['commits'] and made['runs'][0]['evaluated_by']


def test_cats_and_dogs_are_summarised_by_variant():
  """Each variant has its own mean, minimum and maximum. The baselines are listed once."""

  def run(variant, error):
    return {
      'variant': variant,
      'eval': {'top1_error': error, 'majority_error': 50.0, 'baseline_error': 43.3},
    }

  stopped = {'variant': 'features', 'eval': None}
  found = cats_dogs.summarise([run('scratch', 30.0), run('scratch', 40.0), stopped])
  assert found['baselines'] == {'majority': 50.0, 'ridge on pixel means': 43.3}
  assert found['top1_error']['scratch'] == {'mean': 35.0, 'min': 30.0, 'max': 40.0, 'seeds': 2}
  assert found['top1_error']['features']['seeds'] == 0
  assert cats_dogs.summarise([stopped])['baselines'] is None
