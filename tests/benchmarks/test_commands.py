"""Every benchmark runs small from its command line and prints the documented line of JSON."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest
from tiny import ROOT

from benchmarks import input_pipeline, profile_step, scale

HAS_TORCH = importlib.util.find_spec('torch') is not None
NETWORK = ['--batch=2', '--width=0.0625', '--rounds=1']


def run(*args: str) -> dict:
  """Runs `python -m benchmarks.ARGS` and returns its last line of JSON."""
  line = [sys.executable, '-m', f'benchmarks.{args[0]}', *args[1:]]
  done = subprocess.run(line, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.parametrize('name', ['train_step', 'inference'])
def test_networks_are_timed_beside_pytorch(name):
  result = run(name, *NETWORK)
  assert result['images_per_s'] > 0 and result['roofline_share'] > 0
  assert set(result['ratio']) == ({'fair', 'as it comes'} if HAS_TORCH else set())
  assert result['hardware']['jax'] and result['batch'] == 2


@pytest.mark.parametrize(
  ('name', 'layer'),
  [
    ('jit(step)/jvp(AlexNet)/conv1/norm/mul', ('norm1', 'forward')),
    ('jit(step)/transpose(jvp(AlexNet))/conv5/pool/select', ('pool5', 'backward')),
    ('jit(step)/jvp(AlexNet)/conv2/conv_general_dilated', ('conv2', 'forward')),
    ('jit(step)/jvp(AlexNet)/conv1/norm/batch_norm1/sub', ('norm1', 'forward')),
    ('jit(step)/jvp(AlexNet)/fc6/act/max', ('act6', 'forward')),
    ('jit(step)/sgd/mul', ('rest: update, loss, input', 'forward')),
  ],
)
def test_an_operation_belongs_to_a_layer(name, layer):
  assert profile_step.layer_of(name) == layer


@pytest.mark.long
@pytest.mark.parametrize('recipe', ['torchvision', 'configs/lenet.py:mnist'])
def test_other_recipes_are_timed(recipe):
  """Both sides see the same images; for grey images there is no other side."""
  result = run('train_step', f'--recipe={recipe}', *NETWORK)
  assert ('fair' in result['ratio']) == (HAS_TORCH and recipe == 'torchvision')


@pytest.mark.long
def test_the_layers_of_a_step_are_profiled():
  result = run('profile_step', *NETWORK)
  assert {'norm1', 'pool1', 'norm2', 'pool5'} <= {layer['layer'] for layer in result['layers']}
  assert sum(layer['share'] for layer in result['layers']) == pytest.approx(1, abs=0.02)
  assert {'conv1', 'conv5', 'fc8'} <= {layer['layer'] for layer in result['layers']}
  assert ('fair' in result.get('ratio', {})) == HAS_TORCH


@pytest.mark.long
def test_cpu_layers_are_timed_beside_the_reference_and_pytorch():
  result = run('layers', '--batch=1', '--width=0.125', '--rounds=1')
  names = {'conv1', 'norm1', 'pool1', 'cifar conv1'}
  assert names <= set(result['ratio']['reference'])
  assert names <= set(result['ratio']['fair']) if HAS_TORCH else not result['ratio']['fair']


@pytest.mark.long
def test_the_input_pipeline_is_timed_beside_others(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(24):
    path = tmp_path / 'photos' / f'class{i % 2}' / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (300, 280, 3), dtype=np.uint8)).save(path)
  result = run(
    'input_pipeline',
    f'--source=folder:{tmp_path / "photos"}',
    '--rounds=1',
    '--seconds=0.2',
    '--scaling=1,2',
  )
  assert {'raw_files', 'jpeg_store', 'raw_store', 'ordinary', 'ceiling'} <= set(result)
  assert (result['torch'] is not None) == HAS_TORCH
  for source in ('raw_files', 'jpeg_store', 'raw_store'):
    assert set(result['scaling'][source]) == {'tf.data', 'threads'}
    assert all(set(found) == {'1', '2'} for found in result['scaling'][source].values())
    assert result['ratios'][f'{source}/{source}_threads'] > 0
    assert result['checksums'][source] == result['checksums'][f'{source}_threads']
  assert result['checksums']['jpeg_store'] == result['checksums']['ceiling']


def test_a_pause_of_the_process_leaves_a_measurement():
  """No time is left for more batches than the first one, which is not timed, and one other."""
  assert input_pipeline.timed(lambda: iter([4, 4]), seconds=0, images=int).rate > 0


@pytest.mark.long
def test_the_time_to_the_first_step_is_measured():
  result = run(
    'first_step',
    '--config=configs/quickstart.py',
    '--rounds=1',
    '--config.data.canvas.size=72',
    '--config.model.input_size=64',
  )
  for kind in ('with', 'without'):
    assert result[f'{kind}_kept_programs_s']['median'] > 0


@pytest.mark.long
def test_the_cost_of_layer_statistics_is_measured():
  assert run('diagnostics', *NETWORK)['percent'] > 0


@pytest.mark.long
def test_locally_connected_layers_are_timed_without_a_peer():
  network = ['--recipe=configs/cifar10.py:conv_local_13pct', *NETWORK]
  assert run('train_step', *network)['ratio'] == {}


@pytest.mark.long
def test_a_search_for_neighbours_is_timed():
  assert run('neighbours', '--vectors=100', '--numbers=8', '--rounds=1')['k'] == 6


@pytest.mark.long
def test_demands_of_many_devices_are_calculated(tmp_path):
  options = ['--width=0.0625', '--devices', '2', '4', '--batch=2', '--images_per_s=100']
  result = run('scale', *options, f'--output={tmp_path / "scale.json"}')
  assert [row['mesh'] for row in result['rows']] == [[1, 2], [2, 2], [2, 1], [4, 1], [2, 1], [4, 1]]
  for row in result['rows']:
    assert row['bytes_sent_per_device'] > 0
    assert row['demand']['step_s'] == 2 / 100
  table = scale.render(tmp_path / 'scale.json').splitlines()
  assert '100 images per second' in table[0]
  assert len(table) == 10 and table[-1].startswith('| one weird trick | 4 | 4,1 | 8 | 20.0 |')
