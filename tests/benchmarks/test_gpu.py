"""The GPU benchmark, run on the CPU: its time budget, its resumption, small stages, and its tables.

The functions from `succeeds` to `takes_long` are stages. The processes that `plan` starts import them from
this file.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from alexnet_jax.config import recipes
from alexnet_jax.data import open_dataset
from alexnet_jax.models.layers import gpu
from benchmarks import sides
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import correct, device, host, plan, racers, tables, two_devices

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = 'tests.benchmarks.test_gpu'


# --- Stages


def succeeds(context):
  return {'small': context.small, 'argument': context.arguments.get('argument')}


def fails(context):
  raise RuntimeError('the losses of the two sides differ')


def is_killed(context):
  os.kill(os.getpid(), 9)


def does_not_apply(context):
  raise plan.Skip('there is no GPU of this kind')


def takes_long(context):
  child = subprocess.Popen(['sleep', '600'])
  (context.output / 'child').write_text(str(child.pid))
  time.sleep(600)


def stage(name, estimate=1.0, needs=(), **arguments):
  return plan.Stage(
    name, 'x', 'a test', f'{HERE}:{name}', estimate, estimate, arguments, tuple(needs)
  )


def run(output, *stages, seconds=600.0, small=True):
  """Runs stages, and returns the exit code and the outcome of each stage."""
  code = plan.Plan(stages, output, 'a device', small, seconds).run()
  return code, plan.read(output, 'summary')['stages']


# --- The plan


@pytest.mark.long
def test_a_failed_stage_is_reported_and_the_others_run(tmp_path, capsys):
  stages = [stage(f.__name__) for f in (fails, is_killed, does_not_apply, succeeds)]
  code, outcomes = run(tmp_path, *stages)
  assert code == 3
  assert {name: outcome['status'] for name, outcome in outcomes.items()} == {
    'fails': 'failed',
    'is_killed': 'failed',
    'does_not_apply': 'skipped',
    'succeeds': 'done',
  }
  assert 'RuntimeError: the losses of the two sides differ' in outcomes['fails']['reason']
  assert outcomes['does_not_apply']['reason'] == 'there is no GPU of this kind'
  assert capsys.readouterr().err.splitlines()[-1] == 'FAILED: fails, is_killed'
  assert plan.read(tmp_path, 'fails')['status'] == 'failed'
  assert plan.read(tmp_path, 'succeeds')['result'] == {'small': True, 'argument': None}


@pytest.mark.long
def test_a_successful_stage_is_not_repeated(tmp_path, monkeypatch):
  stages = stage('succeeds', argument=1), stage('fails')

  def status(*args, **more):
    return [o['status'] for o in run(tmp_path, *args, **more)[1].values()]

  assert status(*stages) == ['done', 'failed']
  assert status(*stages) == ['reused', 'failed']  # a failed stage is repeated
  assert status(stage('succeeds', argument=2)) == ['done']  # other arguments
  assert status(stage('succeeds', argument=2), small=False) == ['done']
  monkeypatch.setattr(plan, 'code_version', lambda: 'another')
  assert status(stage('succeeds', argument=2), small=False) == ['done']
  assert status(stage('succeeds', argument=2), small=False) == ['reused']
  (tmp_path / 'succeeds.json').write_text('{"status": "do')  # an incomplete file
  assert status(stage('succeeds', argument=2), small=False) == ['done']


def test_a_stage_that_exceeds_the_time_budget_is_skipped_with_a_reason(tmp_path):
  code, outcomes = run(tmp_path, stage('fails', estimate=5000), stage('succeeds'))
  assert code == 0 and outcomes['succeeds']['status'] == 'done'
  assert outcomes['fails']['status'] == 'skipped'
  assert 'it takes about 5000 s, and ' in outcomes['fails']['reason']
  assert not (tmp_path / 'fails.json').exists()


def test_a_stage_is_skipped_if_a_stage_that_it_needs_has_failed(tmp_path):
  code, outcomes = run(tmp_path, stage('fails'), stage('succeeds', needs=['fails']))
  assert code == 3 and outcomes['succeeds']['status'] == 'skipped'
  assert outcomes['succeeds']['reason'] == 'it needs fails, which did not succeed'


@pytest.mark.long
@pytest.mark.parametrize(('seconds', 'status'), [(600, 'failed'), (2.2, 'skipped')])
def test_a_stage_that_takes_too_long_is_stopped_with_its_children(
  tmp_path, monkeypatch, seconds, status
):
  """It counts as failed, or as skipped if the time budget of all stages was used up."""
  monkeypatch.setattr(plan, '_SLACK', 4.0)
  monkeypatch.setattr(plan, '_SMALL_PATIENCE', 1.0)
  code, outcomes = run(tmp_path, stage('takes_long', estimate=1), seconds=seconds)
  assert outcomes['takes_long']['status'] == status and code == (3 if status == 'failed' else 0)
  assert 'it was stopped after' in outcomes['takes_long']['reason']
  if (tmp_path / 'child').exists():  # on a slow machine the stage may not have started the child
    child = pathlib.Path('/proc', (tmp_path / 'child').read_text())
    for _ in range(200):
      if not child.exists() or (child / 'stat').read_text().split()[2] == 'Z':
        break
      time.sleep(0.05)
    else:
      pytest.fail('a child process of the stage is still running')


def test_the_code_version_changes_with_the_files(tmp_path, monkeypatch):
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs/a.py').write_text('1')
  monkeypatch.setattr(plan, 'ROOT', tmp_path)
  before = plan.code_version()
  assert plan.code_version() == before
  (tmp_path / 'configs/a.py').write_text('2')
  assert plan.code_version() != before


def test_stages_are_selected_by_letter_or_name_with_their_requirements():
  def names(*wanted):
    return [s.name for s in plan.select(command.STAGES, wanted)]

  assert names('a', 'i') == ['ceilings', 'imagenet']
  assert names('training_float32_512') == ['correct_network', 'training_float32_512']
  with pytest.raises(ValueError, match="no stage 'z': choose among a, b"):
    names('z')


def test_stages_come_after_their_requirements_and_have_functions():
  names = [s.name for s in command.STAGES]
  assert len(set(names)) == len(names)
  assert {s.letter for s in command.STAGES} == set('abcdefghij')
  for i, s in enumerate(command.STAGES):
    module, function = s.function.split(':')
    assert callable(getattr(sys.modules.get(module) or __import__(module, fromlist='_'), function))
    assert set(s.needs) <= set(names[:i]), s.name
  timed = [i for i, s in enumerate(command.STAGES) if s.letter in 'cd']
  assert names.index('correct_network') < min(timed)
  assert all('correct_network' in command.STAGES[i].needs for i in timed)


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ([], '--output=DIR is required'),
    (['--output=x', '--minutes=0'], 'it must be positive'),
    (['--output=x', '--stages=a,z'], "there is no stage 'z'"),
    (['--output=x', '--cifar10=tfds:cifar10'], 'write folder:PATH or store:PATH'),
    (['--output=x', '--cifar10=folder:/does/not/exist'], 'write folder:PATH or store:PATH'),
  ],
)
def test_an_invalid_command_line_gets_a_message(args, message, capsys):
  with pytest.raises(SystemExit) as ended:
    command.parse(args)
  assert ended.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


# --- The stages


def test_a_layer_with_a_wrong_gradient_fails_its_stage(tmp_path, monkeypatch):
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
  with pytest.raises(RuntimeError, match='map_response_norm, gpu, float32: '):
    correct.check_layers(context)


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
  monkeypatch.setattr(two_devices, 'collectives', lambda text, mesh: two_devices.Counter())
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
    'peers': {'eager': {**spread, 'median': 20000.0}, 'compiled': None},
    'ratio': {'eager': 2.56, 'compiled': None},
    'roofline_share': 0.412,
  }
  record = {'status': 'done', 'settings': {'small': False}, 'result': result}
  plan.write(tmp_path, 'training_bfloat16_128', record)
  plan.write(tmp_path, 'training_float32_128', {'status': 'failed', 'settings': {}})
  row = '| bfloat16 | 128 | 51,234 | 2.498 | 20,000 | not measured | 2.56 | 41.2% |'
  assert tables.render(tmp_path, 'training').splitlines()[-1] == row


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
    'fast_layers_bfloat16,fast_step_bfloat16,g,h,i,j'
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
  assert {s.letter for s in command.STAGES if s.name in outcomes} == set('abcdefghij')
  text = tables.render(output)
  assert text.startswith(tables.SMALL)
  for section in tables.SECTIONS:
    assert tables.render(output, section).strip().splitlines()[-1].startswith('|'), section
  again = run_benchmark()
  outcomes = json.loads((output / 'summary.json').read_text())['stages']
  assert again.returncode == 0
  assert {outcomes[name]['status'] for name in outcomes.keys() - without_peer} == {'reused'}
