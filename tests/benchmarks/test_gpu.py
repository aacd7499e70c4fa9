"""The stages of the GPU benchmark, run small on the CPU, and its tables."""

import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from alexnet_jax import models
from alexnet_jax.config import recipes
from alexnet_jax.data import open_dataset
from alexnet_jax.models.layers import gpu
from benchmarks import sides
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import correct, device, host, layers, plan, racers, speed, tables, two_devices

ROOT = pathlib.Path(__file__).resolve().parents[2]


# --- The stages


def test_a_layer_with_a_wrong_gradient_fails_its_stage_if_networks_use_it(tmp_path, monkeypatch):
  """An error of one per cent is detected, and the correct gradient passes."""
  case = {'map_response_norm': correct.cases(True)['map_response_norm']}
  monkeypatch.setattr(correct, 'cases', lambda small: case)
  context = plan.Context(tmp_path, True, 60)
  assert max(max(e) for e in correct.check_layers(context)['errors'].values()) < 0.02
  right = gpu.map_response_norm

  @jax.custom_vjp
  def wrong(x):
    return right(x, **correct._NORM)

  def backward(x, g):
    (dx,) = jax.vjp(lambda x: right(x, **correct._NORM), x)[1](g)
    return (dx * jnp.asarray(1.01, dx.dtype),)

  wrong.defvjp(lambda x: (wrong(x), x), backward)
  exact, forms, shapes = case['map_response_norm']
  case['map_response_norm'] = exact, forms | {'gpu': wrong}, shapes
  result = correct.check_layers(context)
  assert set(result['failed']) == {'map_response_norm | gpu | float32'}
  case['map_response_norm'] = exact, forms | {'in use': wrong}, shapes
  with pytest.raises(RuntimeError, match=r'map_response_norm \| in use \| float32: '):
    correct.check_layers(context)


def does_not_run(*arrays, **constants):
  raise NotImplementedError('no kernel for this GPU\n(a long explanation)')


def test_a_form_that_does_not_run_is_recorded_and_the_others_are_checked(tmp_path, monkeypatch):
  case = {'map_response_norm': correct.cases(True)['map_response_norm']}
  exact, forms, shapes = case['map_response_norm']
  case['map_response_norm'] = exact, forms | {'new': does_not_run}, shapes
  monkeypatch.setattr(correct, 'cases', lambda small: case)
  context = plan.Context(tmp_path, True, 60)
  result = correct.check_layers(context)
  assert result['failed'] == {
    f'map_response_norm | new | {kind}': 'NotImplementedError: no kernel for this GPU'
    for kind in ('float32', 'bfloat16')
  }
  assert 'map_response_norm | in use | bfloat16' in result['errors']
  record = {'status': 'done', 'settings': {'small': False}, 'result': result}
  plan.write(tmp_path, 'correct_layers', record)
  text = tables.render(tmp_path, 'correctness')
  assert 'no network uses | map_response_norm, new, float32; map_response_norm, new, bf' in text
  case['map_response_norm'] = exact, {'in use': does_not_run}, shapes
  with pytest.raises(RuntimeError, match=r'in use .* no kernel for this GPU'):
    correct.check_layers(context)


@pytest.mark.parametrize('bad', [does_not_run, lambda x: 1.1 * x])
def test_a_form_that_cannot_be_compared_leaves_the_times_of_the_others(bad):
  sets = [[jnp.ones((2, 3))]]
  forms = {'plain': jnp.sin, 'same': lambda x: jnp.sin(x), 'bad': bad}
  works, reasons = layers._usable(forms, sets, False, 1e-3)
  assert list(works) == ['plain', 'same'] and list(reasons) == ['bad']
  with pytest.raises(NotImplementedError):
    layers._usable({'plain': does_not_run}, sets, False, 1e-3)


@pytest.mark.long
def test_the_table_of_layers_is_complete_without_the_profiler(tmp_path, monkeypatch):
  monkeypatch.setattr(layers, 'LAYERS', {'norm1': layers.LAYERS['norm1']})
  monkeypatch.setattr(layers, '_DENSE', {})
  monkeypatch.setattr(layers, '_traced', does_not_run)
  arguments = {'dtype': 'float32', 'batch': 128}
  result = layers.layer_table(plan.Context(tmp_path, True, 60, arguments=arguments))
  assert [row['layer'] for row in result['layers']] == ['norm1']
  reason = 'NotImplementedError: no kernel for this GPU'
  assert result['traced'] == {'rows': [], 'reason': reason}


def test_layers_have_the_sizes_of_the_network():
  """With its towers, a layer has the parameters and the products of the whole layer of the network."""
  table = {row['layer']: row for row in models.layer_table(recipes.get('paper').model)}
  for name in ('conv1', 'conv2', 'conv3', 'conv4', 'conv5'):
    _, kernel, bias = layers.tower_shapes(name, 128, False)
    side = table[name]['output'][0]
    assert math.prod(kernel) + math.prod(bias) == table[name]['parameters'], name
    assert math.prod(kernel) * side**2 == table[name]['macs'], name
    alone = sum(map(math.prod, layers.shapes(name, 128, False)[2][1:]))
    assert alone == table[name]['parameters'] // (1 if name in layers._SHARED else 2), name
  for name in ('fc6', 'fc7', 'fc8'):
    assert 2 * math.prod(layers._DENSE[name]) == table[name]['macs'], name


def constant(value):
  return lambda: device.Work(lambda i: value, lambda result: None)


def test_a_pytorch_form_that_does_not_run_leaves_the_other_figures():
  missing = {}
  starts = {'ours': constant(1), 'eager': constant(2), 'compiled': does_not_run}
  works, seconds = speed._started(starts, missing)
  assert list(works) == list(seconds) == ['ours', 'eager']
  assert missing == {'compiled': 'NotImplementedError: no kernel for this GPU'}
  missing['compiled, CUDA graphs'] = 'it was not tried'
  times = {'ours': [0.5, 0.5], 'eager': [1.0, 1.0]}
  report = speed._report(times, 128, missing)
  assert list(report['peers']) == list(report['ratio']) == list(racers.MODES) == list(tables.PEERS)
  assert report['ratio'] == {'eager': 2.0, 'compiled': None, 'compiled, CUDA graphs': None}
  with pytest.raises(NotImplementedError):
    speed._started({'ours': does_not_run}, {})


def test_the_form_of_pytorch_is_reported_with_its_origin(tmp_path):
  context = plan.Context(tmp_path, True, 60)
  assert racers.form_of(context, 'eager') == (racers.DEFAULT_FORM, 'the default, not measured')
  result = {'eager': [True, False, 'band'], 'compiled': None, 'chosen_in': 'training in bfloat16'}
  plan.write(tmp_path, 'peer_form', {'status': 'done', 'settings': {}, 'result': result})
  assert racers.form_of(context, 'eager') == ((True, False, 'band'), 'training in bfloat16')
  assert racers.form_of(context, 'compiled')[0] == racers.DEFAULT_FORM


def test_a_non_finite_number_is_an_infinite_error():
  assert correct.error([1.0, 2.0], [1.0, 2.0]) == 0
  assert correct.error([1.0, float('nan')], [1.0, 2.0]) == float('inf')
  assert correct.error([1.0], [1.0, 2.0]) == float('inf')


@pytest.mark.parametrize('form', ['raw', 'jpeg'])
def test_a_store_written_with_numpy_can_be_read(tmp_path, form):
  """The store is larger than one block of the file, so that some images extend over block headers."""
  rng = np.random.default_rng(0)
  images = [host.picture(rng, 72) for _ in range(6)]
  host.write_store(tmp_path / 'store', form, images)
  data = recipes.get('original').data
  data.source, data.canvas.size = f'store:{tmp_path / "store"}', 72
  dataset = open_dataset(data, 0)
  (batch,) = dataset.eval_batches(6, split='train')
  difference = np.abs(batch['image'].astype(int) - np.stack(images))
  assert batch['mask'].all() and batch['label'].tolist() == list(range(6))
  assert difference.max() == 0 if form == 'raw' else 0 < difference.mean() < 8


@pytest.mark.long
def test_the_two_device_program_has_the_collectives_of_the_paper(tmp_path):
  """Lowered for CUDA, it has all-gathers before conv3, fc6 and fc7, and reduce-scatters for gradients."""
  result = two_devices.check(plan.Context(tmp_path, True, 60))
  tower = {'all_gather over tower': 3, 'reduce_scatter over tower': 3, 'all_reduce over tower': 1}
  assert {k: n for k, n in result['1,2'].items() if k != 'all_reduce over tower'} == {
    k: n for k, n in tower.items() if k != 'all_reduce over tower'
  }
  assert result['1,2']['all_reduce over tower'] >= 1
  assert 'all_reduce over data' not in result['1,2'] and result['2,2']['all_reduce over data'] > 1


def test_a_program_with_other_collectives_is_detected(tmp_path, monkeypatch):
  empty = types.SimpleNamespace(mlir_module=lambda: '', mlir_module_serialized=b'')
  monkeypatch.setattr(two_devices, 'lowered', lambda config, mesh: empty)
  with pytest.raises(RuntimeError, match='the collectives are'):
    two_devices.check(plan.Context(tmp_path, True, 60))


@pytest.mark.long
@pytest.mark.parametrize('form', [(True, True, 'slices'), (True, False, 'band')])
def test_the_compiled_pytorch_network_is_one_graph_with_the_eager_losses(monkeypatch, form):
  """torch.compile captures the whole network. The comparison would not be fair with a fragmented graph."""
  torch = pytest.importorskip('torch')
  config = racers.network(True, 'float32', 8, dropout=False, rate=0.01)
  inputs = sides.batches(config)
  params = sides.Ours(config).params()
  real = torch.compile  # no machine code is generated, because that takes minutes on a CPU

  def compile_graph(f, mode, **more):
    return real(f, backend='aot_eager', **more)

  monkeypatch.setattr(torch, 'compile', compile_graph)

  def losses(mode):
    work = racers.Peer(config, params, form, inputs, 'cpu', mode).training()
    return [float(work.call(i)) for i in range(3)]

  assert losses('default') == pytest.approx(losses(None), rel=1e-6)


@pytest.mark.long
@pytest.mark.parametrize('name', ['library', 'slices', 'band'])
def test_maps_stay_bfloat16_after_pytorch_has_normalised_them(monkeypatch, name):
  """On a GPU autocast computes roots and powers in float32, which is imitated here."""
  torch = pytest.importorskip('torch')
  from benchmarks import torch_peer

  norm, constants = torch_peer.NORMS[name], {'size': 5, 'k': 2.0, 'alpha': 1e-4, 'beta': 0.75}
  x = torch.randn(2, 8, 5, 5)
  exact = x * torch_peer.power(2 + torch.ones_like(x), 0.75)
  root = torch.rsqrt(2 + torch.ones_like(x))
  assert torch.equal(exact, x * (root * torch.sqrt(root)))  # float32 is not changed
  plain, power = norm(x, **constants), torch.Tensor.pow
  for function in ('rsqrt', 'sqrt'):
    real = getattr(torch, function)
    monkeypatch.setattr(torch, function, lambda x, real=real: real(x.float()))
  monkeypatch.setattr(torch.Tensor, 'pow', lambda x, y: power(x.float(), y))
  with torch.autocast('cpu', torch.bfloat16):
    half = norm(x.bfloat16(), **constants)
  assert half.dtype == torch.bfloat16
  assert torch.allclose(half.float(), plain, rtol=0.02, atol=0.02)


# --- The tables


def test_tables_without_results_say_not_measured(tmp_path):
  text = tables.render(tmp_path / 'nothing')
  assert text.count(tables.NOT_MEASURED) == len(tables.SECTIONS) and tables.SMALL not in text
  assert tables.render(tmp_path, 'training') == f'{tables.NOT_MEASURED}\n'


def test_a_table_shows_the_numbers_of_the_result_files(tmp_path):
  spread = {'median': 51234.4, 'min': 5e4, 'max': 5.2e4, 'rounds': 7}
  result = {
    'dtype': 'bfloat16',
    'batch': 128,
    'images_per_s': spread,
    'ms': {**spread, 'median': 2.4983},
    'peers': {'compiled': None, 'eager': {**spread, 'median': 20000.0}},  # in any order
    'ratio': {'compiled': None, 'eager': 2.56},
    'roofline_share': 0.412,
    'forms': {'eager': 'contiguous, split, LRN by band'},
    'forms_chosen_in': {'eager': 'training in bfloat16, batch 128'},
  }
  record = {'status': 'done', 'settings': {'small': False}, 'result': result}
  plan.write(tmp_path, 'training_bfloat16_128', record)
  plan.write(tmp_path, 'training_float32_128', {'status': 'failed', 'settings': {}})
  cells = '51,234 | 2.498 | 20,000 | not measured | not measured | 2.56 | 41.2%'
  lines = tables.render(tmp_path, 'training').splitlines()
  assert lines[-1] == f'| bfloat16 | 128 | {cells} |'
  assert 'eager: contiguous, split, LRN by band (training in bfloat16, batch 128).' in lines[0]


@pytest.mark.long
def test_the_command_runs_all_stages_and_reuses_them(tmp_path):
  """It runs every kind of small stage on the CPU without TensorFlow. A second command repeats no stage."""
  photographs = tmp_path / 'photographs'
  rng = np.random.default_rng(0)
  for i in range(60):
    path = photographs / f'class{i % 3}' / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(host.picture(rng, 32)).save(path)
  stages = (
    'a,b,peer_form,training_bfloat16_128,inference_bfloat16_128,layer_table_bfloat16,'
    'fast_layers_bfloat16,fast_step_bfloat16,g,h,i'
  )
  (tmp_path / 'hidden').mkdir()
  (tmp_path / 'hidden' / 'tensorflow.py').write_text("raise ImportError('TensorFlow is hidden')")
  env = os.environ | {'PYTHONPATH': str(tmp_path / 'hidden')}
  output = tmp_path / 'results'
  line = [sys.executable, '-m', 'benchmarks.gpu', f'--output={output}', f'--stages={stages}']
  line.append(f'--cifar10=folder:{photographs}')

  def run_benchmark():
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1500)

  done = run_benchmark()
  assert done.returncode == 0, done.stderr[-3000:]
  outcomes = json.loads((output / 'summary.json').read_text())['stages']
  without_peer = {
    name for name, outcome in outcomes.items() if outcome.get('reason') == device.NO_TORCH
  }
  assert without_peer == (set() if importlib.util.find_spec('torch') else {'peer_form'})
  assert all(outcomes[name]['status'] == 'done' for name in outcomes.keys() - without_peer), (
    outcomes
  )
  assert {s.letter for s in command.STAGES if s.name in outcomes} == set('abcdefghi')
  text = tables.render(output)
  assert text.startswith(tables.SMALL)
  for section in tables.SECTIONS:
    assert tables.render(output, section).strip().splitlines()[-1].startswith('|'), section
  again = run_benchmark()
  outcomes = json.loads((output / 'summary.json').read_text())['stages']
  assert again.returncode == 0
  assert {outcomes[name]['status'] for name in outcomes.keys() - without_peer} == {'reused'}
