"""The command line as a user meets it: one line of JSON, exit codes, and one-line errors."""

import json
import subprocess
import sys

import pytest
from tiny import ROOT, main, write_config

from alexnet_jax.cli import flags
from alexnet_jax.cli import main as main_lib
from alexnet_jax.errors import Preempted, RunError, UserError

PAPER = f'--config={ROOT / "configs" / "alexnet.py"}'


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (
      [PAPER, '--workdir=w', '--config.modell.width=2'],
      'key config.modell.width: did you mean model?',
    ),
    (
      [PAPER, '--workdir=w', '--config.model.widht=2'],
      'key config.model.widht: did you mean width?',
    ),
    ([PAPER, '--workdir=w', '--config.train.batch_size=many'], 'config.train.batch_size=many'),
    (
      [PAPER, '--workdir=w', '--config.model.conv1.foo=2'],
      'config.model.conv1.foo: known are bias, ',
    ),
    ([PAPER, '--wrokdir=w'], 'unknown flag --wrokdir: did you mean workdir?'),
    (['--confg=x.py', '--workdir=w'], 'unknown flag --confg: did you mean config?'),
    ([PAPER, '--mode=eval'], '--mode=eval needs --workdir'),
    ([PAPER, '--workdir=w', '--config.model.input_size=16'], 'input_size=16 is too small'),
    ([PAPER, '--workdir=w', '--config.model.input_size=30'], 'nothing is left of it at fc6'),
    (
      [PAPER, '--workdir=w', '--config.model.conv1.padding=(2,2)'],
      '((top, bottom), (left, right))',
    ),
    ([PAPER, '--workdir=w', '--config.optim.boundaries=(a,b)'], 'write ascending numbers'),
    ([PAPER, '--workdir=w', '--config.optim.boundaries=(9.,3.)'], 'write ascending numbers'),
    ([PAPER, '--workdir=w', '--config.augment.std=(0.,1.,1.)'], 'write three positive numbers'),
    ([PAPER, '--workdir=w', '--config.model.lrn.size=0'], 'config.model.lrn.size=0'),
    ([PAPER, '--workdir=w', '--config.optim.dexp.levels=1'], 'config.optim.dexp.levels=1'),
    ([PAPER, '--workdir=w', 'stray'], "'stray' is not a flag"),
    ([f'{PAPER}:papre', '--workdir=w'], "unknown recipe 'papre': choose one of paper, original"),
    ([f'{PAPER}:paper+sigmoid', '--workdir=w'], "unknown choice 'sigmoid'"),
    ([PAPER, '--workdir=w', '--mode=trian'], '--mode=trian: choose one of train'),
    ([PAPER], '--workdir is missing'),
    (['--workdir=w'], '--config is missing'),
    (['--config=configs/nope.py', '--workdir=w'], 'there is no file configs/nope.py'),
    (['--mode=eval'], '--mode=eval needs --workdir'),
    (['--mode=eval', '--workdir=/nonexistent'], 'holds no config.json'),
    ([PAPER, '--workdir=w', '--config.data.source=imagenet'], 'folder:PATH'),
    ([PAPER, '--workdir=w', '--config.data.source=folder:/nonexistent'], '/nonexistent'),
    ([PAPER, '--workdir=w', '--config.data.source=synthetic', '--config.mesh=2x1'], '2x1'),
    (
      [PAPER, '--workdir=w', '--config.data.source=synthetic', '--config.model.norm=x'],
      'lrn, batch',
    ),
    (['--mode=eval', '--checkpoints=a,b', '--weights=1,x', PAPER], 'write numbers'),
    ([PAPER, '--mode=prepare'], '--output is missing'),
    (
      ['--mode=prepare', '--output=s', '--shard=3/2', '--config.data.source=synthetic'],
      'write i/n',
    ),
    ([PAPER, '--workdir=w', '--config.data.source=store:/nonexistent'], 'there is no store'),
  ],
)
def test_mistakes_get_one_line_and_exit_code_2(args, message, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert main_lib.main(args) == 2
  out, err = capsys.readouterr()
  lines = [line for line in err.splitlines() if line.startswith('error: ')]
  assert out == '' and len(lines) == 1 and 'Traceback' not in err
  assert message in lines[0]
  assert not list(tmp_path.glob('w/checkpoints/*'))


@pytest.mark.parametrize(('error', 'code'), [(UserError, 2), (RunError, 3), (Preempted, 75)])
def test_exit_codes(error, code, tmp_path):
  def work(options):
    raise error('told in one line')

  assert main_lib.main([PAPER, f'--workdir={tmp_path}'], work) == code


def test_overrides_reach_the_config():
  options = flags.parse(
    [
      PAPER,
      '--workdir',
      'w',
      '--config.mesh=1,2',
      '--config.optim.boundaries=(1.0,)',
      '--config.seed=7',
    ]
  )
  assert options.mode == 'train' and options.workdir == 'w'
  assert options.config.mesh == (1, 2) and options.config.seed == 7
  assert options.config.optim.boundaries == (1.0,)


def test_train_then_eval_in_fresh_processes(tmp_path):
  """The public commands, one after the other; without tensorflow, as the images are synthetic."""
  config = write_config(tmp_path, train__steps=5)
  workdir = tmp_path / 'run'
  result = main(f'--config={config}', f'--workdir={workdir}')
  assert result.returncode == 0, result.stderr
  assert json.loads(result.stdout)['step'] == 5
  result = main('--mode=eval', f'--workdir={workdir}', '--config.eval.views=10')
  assert result.returncode == 0, result.stderr
  (line,) = result.stdout.splitlines()
  assert json.loads(line)['examples'] == 18 and json.loads(line)['views'] == 10


@pytest.mark.parametrize('form', ['jpeg', 'raw'])
def test_prepare_then_train_on_the_store_without_tensorflow(tmp_path, form, capsys):
  config, store = write_config(tmp_path, train__steps=3), tmp_path / 'store'
  args = ['--mode=prepare', f'--output={store}', f'--config.prepare.format={form}']
  assert main_lib.main([f'--config={config}', *args]) == 0
  (line,) = capsys.readouterr().out.splitlines()
  assert json.loads(line)['images'] == {'train': 40, 'validation': 18}
  code = (
    'import sys\nsys.modules["tensorflow"] = sys.modules["array_record"] = None\n'
    'from alexnet_jax.cli import main as cli\n'
    f'sys.exit(cli.main(["--config={config}", "--workdir={tmp_path / "run"}", "--config.data.cache_mib=0",'
    f' "--config.data.source=store:{store}"]))'
  )
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  assert json.loads(result.stdout)['step'] == 3


def test_describe_without_config_is_the_papers_net(capsys):
  assert main_lib.main(['--mode=describe', '--config.mesh=1,1', '--config.train.batch_size=1']) == 0
  out, err = capsys.readouterr()
  described = json.loads(out)
  assert described['parameters'] == 60_965_224 and described['macs'] == 724_406_816
  assert described['mesh'] == [1, 1] and described['collectives'] == []
  assert described['neurons'] == 659_272
  assert described['bytes_per_device'] == described['bytes_total'] == 2 * 4 * 60_965_224
  assert 'conv5' in err and '13x13x256' in err


def test_help_explains_and_exits_0():
  result = main('--help')
  assert result.returncode == 0 and '--config.key=value' in result.stdout


def test_the_core_does_not_import_tensorflow(tmp_path):
  config = write_config(tmp_path, train__steps=2)
  code = (
    'import sys, alexnet_jax\nfrom alexnet_jax.cli import main as cli\n'
    f'assert cli.main(["--config={config}", "--workdir={tmp_path / "run"}"]) == 0\n'
    'assert not {"tensorflow", "tensorflow_datasets"} & set(sys.modules)'
  )
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
