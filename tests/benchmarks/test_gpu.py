"""The GPU benchmark on the CPU: its budget and resumption, its stages run small, and its tables.

The functions `ends_well` to `takes_long` are stages; the processes that `plan` starts import them from here.
"""

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
from benchmarks.gpu import correct, host, plan, racers, tables, two_devices

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = 'tests.benchmarks.test_gpu'


# --- Stages


def ends_well(context):
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
  """Runs stages; the exit code and the summary."""
  code = plan.Plan(stages, output, 'a device', small, seconds).run()
  return code, plan.read(output, 'summary')['stages']


# --- The plan


def test_a_failed_stage_is_loud_and_stops_no_other(tmp_path, capsys):
  stages = [stage(f.__name__) for f in (fails, is_killed, does_not_apply, ends_well)]
  code, outcomes = run(tmp_path, *stages)
  assert code == 3
  assert {name: outcome['status'] for name, outcome in outcomes.items()} == {
    'fails': 'failed',
    'is_killed': 'failed',
    'does_not_apply': 'skipped',
    'ends_well': 'done',
  }
  assert 'RuntimeError: the losses of the two sides differ' in outcomes['fails']['reason']
  assert outcomes['does_not_apply']['reason'] == 'there is no GPU of this kind'
  assert capsys.readouterr().err.splitlines()[-1] == 'FAILED: fails, is_killed'
  assert plan.read(tmp_path, 'fails')['status'] == 'failed'
  assert plan.read(tmp_path, 'ends_well')['result'] == {'small': True, 'argument': None}


def test_what_ended_well_is_not_run_again(tmp_path, monkeypatch):
  stages = stage('ends_well', argument=1), stage('fails')

  def status(*args, **more):
    return [o['status'] for o in run(tmp_path, *args, **more)[1].values()]

  assert status(*stages) == ['done', 'failed']
  assert status(*stages) == ['reused', 'failed']  # what failed is tried again
  assert status(stage('ends_well', argument=2)) == ['done']  # other arguments
  assert status(stage('ends_well', argument=2), small=False) == ['done']
  monkeypatch.setattr(plan, 'code_version', lambda: 'another')
  assert status(stage('ends_well', argument=2), small=False) == ['done']
  assert status(stage('ends_well', argument=2), small=False) == ['reused']
  (tmp_path / 'ends_well.json').write_text('{"status": "do')  # a file that is not whole
  assert status(stage('ends_well', argument=2), small=False) == ['done']


def test_what_would_not_fit_is_skipped_and_says_so(tmp_path):
  code, outcomes = run(tmp_path, stage('fails', estimate=5000), stage('ends_well'))
  assert code == 0 and outcomes['ends_well']['status'] == 'done'
  assert outcomes['fails']['status'] == 'skipped'
  assert 'it takes about 5000 s, and ' in outcomes['fails']['reason']
  assert not (tmp_path / 'fails.json').exists()


def test_what_it_needs_must_have_passed(tmp_path):
  code, outcomes = run(tmp_path, stage('fails'), stage('ends_well', needs=['fails']))
  assert code == 3 and outcomes['ends_well']['status'] == 'skipped'
  assert outcomes['ends_well']['reason'] == 'it needs fails, which did not succeed'


@pytest.mark.parametrize(('seconds', 'status'), [(600, 'failed'), (2.2, 'skipped')])
def test_a_stage_that_takes_too_long_is_stopped(tmp_path, monkeypatch, seconds, status):
  """With its children; it counts as failed, unless the whole time was up."""
  monkeypatch.setattr(plan, '_SLACK', 4.0)
  monkeypatch.setattr(plan, '_SMALL_PATIENCE', 1.0)
  code, outcomes = run(tmp_path, stage('takes_long', estimate=1), seconds=seconds)
  assert outcomes['takes_long']['status'] == status and code == (3 if status == 'failed' else 0)
  assert 'it was stopped after' in outcomes['takes_long']['reason']
  if (tmp_path / 'child').exists():  # a slow machine may not have come so far
    child = pathlib.Path('/proc', (tmp_path / 'child').read_text())
    for _ in range(200):
      if not child.exists() or (child / 'stat').read_text().split()[2] == 'Z':
        break
      time.sleep(0.05)
    else:
      pytest.fail('a process that the stage had started still runs')


def test_the_version_of_the_code_is_that_of_its_files(tmp_path, monkeypatch):
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs/a.py').write_text('1')
  monkeypatch.setattr(plan, 'ROOT', tmp_path)
  before = plan.code_version()
  assert plan.code_version() == before
  (tmp_path / 'configs/a.py').write_text('2')
  assert plan.code_version() != before


def test_stages_are_selected_by_letter_or_name_with_what_they_need():
  def names(*wanted):
    return [s.name for s in plan.select(command.STAGES, wanted)]

  assert names('a', 'i') == ['ceilings', 'imagenet']
  assert names('training_float32_512') == ['correct_network', 'training_float32_512']
  with pytest.raises(ValueError, match="no stage 'z': choose among a, b"):
    names('z')


def test_the_stages_are_in_order_and_have_functions():
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
  ('args', 'told'),
  [
    ([], '--output=DIR is needed'),
    (['--output=x', '--minutes=0'], 'it must be positive'),
    (['--output=x', '--stages=a,z'], "there is no stage 'z'"),
    (['--output=x', '--cifar10=tfds:cifar10'], 'write folder:PATH or store:PATH'),
    (['--output=x', '--cifar10=folder:/does/not/exist'], 'write folder:PATH or store:PATH'),
  ],
)
def test_mistakes_get_a_line_that_names_them(args, told, capsys):
  with pytest.raises(SystemExit) as ended:
    command.parse(args)
  assert ended.value.code == 2 and told in capsys.readouterr().err.splitlines()[-1]


# --- The stages


def test_a_wrong_layer_fails_its_stage(tmp_path, monkeypatch):
  """A gradient that is one per cent off is found; a right one passes."""
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


def test_a_number_that_is_not_finite_is_an_infinite_error():
  assert correct.error([1.0, 2.0], [1.0, 2.0]) == 0
  assert correct.error([1.0, float('nan')], [1.0, 2.0]) == float('inf')
  assert correct.error([1.0], [1.0, 2.0]) == float('inf')


@pytest.mark.parametrize('form', ['raw', 'jpeg'])
def test_a_store_made_by_numpy_is_read_as_any_other(tmp_path, form):
  """Of more bytes than a block of the file, so that images lie across its headers."""
  rng = np.random.default_rng(0)
  images = [host.picture(rng, 72) for _ in range(6)]
  host.write_store(tmp_path / 'store', form, images)
  data = recipes.get('original').data
  data.source, data.canvas.size = f'store:{tmp_path / "store"}', 72
  dataset = open_dataset(data, 0)
  (batch,) = dataset.eval_batches(6, split='train')
  apart = np.abs(batch['image'].astype(int) - np.stack(images))
  assert batch['mask'].all() and batch['label'].tolist() == list(range(6))
  assert apart.max() == 0 if form == 'raw' else 0 < apart.mean() < 8


def test_the_program_of_two_devices_talks_as_the_paper_says(tmp_path):
  """Lowered for CUDA: an all-gather into conv3, fc6 and fc7, and its reduce-scatter backward."""
  result = two_devices.check(plan.Context(tmp_path, True, 60))
  tower = {'all_gather over tower': 3, 'reduce_scatter over tower': 3, 'all_reduce over tower': 1}
  assert {k: n for k, n in result['1,2'].items() if k != 'all_reduce over tower'} == {
    k: n for k, n in tower.items() if k != 'all_reduce over tower'
  }
  assert result['1,2']['all_reduce over tower'] >= 1
  assert 'all_reduce over data' not in result['1,2'] and result['2,2']['all_reduce over data'] > 1


def test_a_program_that_talks_otherwise_is_found(tmp_path, monkeypatch):
  monkeypatch.setattr(two_devices, 'collectives', lambda text, mesh: two_devices.Counter())
  with pytest.raises(RuntimeError, match='the collectives are'):
    two_devices.check(plan.Context(tmp_path, True, 60))


@pytest.mark.long
@pytest.mark.parametrize('form', [(True, True, 'slices'), (True, False, 'band')])
def test_the_compiled_peer_is_one_graph_with_the_losses_of_the_eager_one(monkeypatch, form):
  """PyTorch's compiler takes the whole network; a graph in pieces would be no fair peer."""
  torch = pytest.importorskip('torch')
  config = racers.network(True, 'float32', 8, dropout=False, rate=0.01)
  inputs = sides.batches(config)
  params = sides.Ours(config).params()
  real = torch.compile  # its machine code is left out: that takes minutes on a CPU

  def compile_graph(f, mode, **more):
    return real(f, backend='aot_eager', **more)

  monkeypatch.setattr(torch, 'compile', compile_graph)

  def losses(mode):
    work = racers.Peer(config, params, form, inputs, 'cpu', mode).training()
    return [float(work.call(i)) for i in range(3)]

  assert losses('default') == pytest.approx(losses(None), rel=1e-6)


# --- The tables


def test_tables_of_nothing_say_not_measured(tmp_path):
  text = tables.render(tmp_path / 'nothing')
  assert text.count(tables.NOT_MEASURED) == len(tables.SECTIONS) and tables.SMALL not in text
  assert tables.render(tmp_path, 'training') == f'{tables.NOT_MEASURED}\n'


def test_a_table_shows_what_the_files_say(tmp_path):
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
def test_the_command_runs_to_its_end(tmp_path):
  """Every kind of stage, small, on the CPU, without TensorFlow; then its tables, and nothing twice."""
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

  def started():
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1500)

  done = started()
  assert done.returncode == 0, done.stderr[-3000:]
  outcomes = json.loads((output / 'summary.json').read_text())['stages']
  assert {outcome['status'] for outcome in outcomes.values()} == {'done'}, outcomes
  assert {s.letter for s in command.STAGES if s.name in outcomes} == set('abcdefghij')
  text = tables.render(output)
  assert text.startswith(tables.SMALL)
  for section in tables.SECTIONS:
    assert tables.render(output, section).strip().splitlines()[-1].startswith('|'), section
  again = started()
  outcomes = json.loads((output / 'summary.json').read_text())['stages']
  assert again.returncode == 0
  assert {outcome['status'] for outcome in outcomes.values()} == {'reused'}
