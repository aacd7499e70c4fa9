"""The command line prints one line of JSON, has documented exit codes, and reports errors in one line."""

import errno
import json
import os
import subprocess
import sys

import pytest
from tiny import ROOT, main, write_config

from alexnet_jax import config as config_lib
from alexnet_jax.cli import flags
from alexnet_jax.cli import main as main_lib
from alexnet_jax.config import recipes
from alexnet_jax.distributed import supervisor
from alexnet_jax.errors import Preempted, RunError, UserError
from alexnet_jax.utils import compilation_cache

PAPER = f'--config={ROOT / "configs" / "alexnet.py"}'


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (
      [PAPER, '--workdir=w', '--config.model.widht=2'],
      'key config.model.widht: did you mean width?',
    ),
    ([PAPER, '--workdir=w', '--config.train.batch_size=many'], 'config.train.batch_size=many'),
    (['--confg=x.py', '--workdir=w'], 'unknown flag --confg: did you mean config?'),
    ([PAPER, '--mode=eval'], '--mode=eval needs --workdir'),
    ([PAPER, '--workdir=w', '--config.model.input_size=16'], 'input_size=16 is too small'),
    ([PAPER, '--workdir=w', '--config.model.input_size=30'], 'the maps at fc6 have no pixels'),
    (
      [PAPER, '--workdir=w', '--config.model.conv1.padding=(2,2)'],
      'conv1.padding=(2, 2): must be ((top, bottom), (left, right))',
    ),
    (
      [PAPER, '--workdir=w', '--config.optim.boundaries=(a,b)'],
      'must be a tuple of ascending numbers',
    ),
    (
      [PAPER, '--workdir=w', '--config.optim.boundaries=(9.,3.)'],
      'must be a tuple of ascending numbers',
    ),
    (
      [PAPER, '--workdir=w', '--config.augment.std=(0.,1.,1.)'],
      'must be three numbers of more than 0',
    ),
    (
      [PAPER, '--workdir=w', '--config.model.lrn.size=0'],
      'config.model.lrn.size=0: must be a whole number from 1 to 8192',
    ),
    (
      [PAPER, '--workdir=w', '--config.optim.dexp.levels=1'],
      'config.optim.dexp.levels=1: must be a whole number of at least 2',
    ),
    ([PAPER, '--workdir=w', 'stray'], "'stray' is not a flag"),
    ([f'{PAPER}:papre', '--workdir=w'], "unknown recipe 'papre': did you mean paper?"),
    ([f'{PAPER}:paper+sigmoid', '--workdir=w'], "unknown override 'sigmoid': choose one of"),
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
    ([PAPER, '--mode=prepare'], '--mode=prepare needs --output'),
    (
      ['--mode=prepare', '--output=s', '--shard=3/2', '--config.data.source=synthetic'],
      'write i/n',
    ),
    ([PAPER, '--workdir=w', '--config.data.source=store:/nonexistent'], 'there is no store'),
  ],
)
def test_user_errors_have_one_line_and_exit_code_2(args, message, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert main_lib.main(args) == 2
  out, err = capsys.readouterr()
  lines = [line for line in err.splitlines() if line.startswith('error: ')]
  assert out == '' and len(lines) == 1 and 'Traceback' not in err
  assert message in lines[0]
  assert not list(tmp_path.glob('w/checkpoints/*'))


@pytest.mark.parametrize(('error', 'code'), [(UserError, 2), (RunError, 3), (Preempted, 75)])
def test_errors_have_their_exit_codes(error, code, tmp_path):
  def work(options):
    raise error('one line')

  assert main_lib.main([PAPER, f'--workdir={tmp_path}'], work) == code


@pytest.mark.parametrize(
  'error', [MemoryError(), RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.')]
)
def test_memory_that_ran_out_is_a_failed_run(error, tmp_path, capsys):
  def work(options):
    raise error

  assert main_lib.main([PAPER, f'--workdir={tmp_path}'], work) == 3
  assert 'error: out of memory' in capsys.readouterr().err


@pytest.mark.parametrize(('mode', 'resumes'), [('train', True), ('describe', False)])
def test_an_interrupted_training_can_be_resumed(mode, resumes, tmp_path, capsys):
  def work(options):
    raise KeyboardInterrupt

  folder = [f'--workdir={tmp_path}'] if mode == 'train' else []
  assert main_lib.main([PAPER, f'--mode={mode}', *folder], work) == 130
  assert ('resumes' in capsys.readouterr().err) == resumes


def test_ctrl_c_during_the_start_is_no_bug(monkeypatch):
  def interrupt(argv):
    raise KeyboardInterrupt

  monkeypatch.setattr('alexnet_jax.cli.flags.parse', interrupt)
  monkeypatch.setattr(sys, 'argv', ['main.py', PAPER])
  with pytest.raises(SystemExit) as raised:
    main_lib.entry_point()
  assert raised.value.code == 130


@pytest.mark.parametrize('code', [errno.EACCES, errno.ENAMETOOLONG])
def test_a_path_that_cannot_be_used_is_a_users_error(code, tmp_path, capsys):
  def work(options):
    raise OSError(code, os.strerror(code), '/root/runs')

  assert main_lib.main([PAPER, f'--workdir={tmp_path}'], work) == 2
  err = capsys.readouterr().err
  assert "'/root/runs': check its permissions, or name another path" in err and 'Trace' not in err


def test_a_missing_package_is_named():
  command = [sys.executable, '-S', ROOT / 'main.py', PAPER]
  found = subprocess.run(command, capture_output=True, text=True, env={})
  assert found.returncode == 2 and 'Traceback' not in found.stderr
  assert 'the package absl is not installed: activate the environment' in found.stderr


@pytest.mark.parametrize(
  ('code', 'remedy'),
  [(errno.ENOSPC, 'free the disk, then'), (errno.EROFS, 'make the disk writable')],
)
def test_an_error_of_the_disk_has_its_remedy(code, remedy, tmp_path, capsys):
  def work(options):
    raise OSError(code, os.strerror(code))

  assert main_lib.main([PAPER, f'--workdir={tmp_path}'], work) == 3
  err = capsys.readouterr().err
  assert remedy in err and err.count('disk') == 1


@pytest.mark.long
def test_train_and_eval_in_separate_processes(tmp_path):
  """The test runs the public commands on synthetic images."""
  config = write_config(tmp_path, train__steps=5)
  workdir = tmp_path / 'run'
  result = main(f'--config={config}', f'--workdir={workdir}')
  assert result.returncode == 0, result.stderr
  assert json.loads(result.stdout)['step'] == 5
  assert '5 steps on 1 cpu device(s), mesh (1, 1)' in result.stderr
  result = main('--mode=eval', f'--workdir={workdir}', '--config.eval.views=10')
  assert result.returncode == 0, result.stderr
  (line,) = result.stdout.splitlines()
  assert json.loads(line)['examples'] == 18 and json.loads(line)['views'] == 10


@pytest.mark.long
@pytest.mark.parametrize('form', ['jpeg', 'raw'])
def test_prepare_and_train_on_a_store_without_tensorflow(tmp_path, form, capsys):
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


@pytest.mark.long
def test_describe_without_a_config_describes_the_network_of_the_paper(capsys):
  assert main_lib.main(['--mode=describe', '--config.mesh=1,1', '--config.train.batch_size=1']) == 0
  out, err = capsys.readouterr()
  described = json.loads(out)
  assert described['parameters'] == 60_965_224 and described['macs'] == 724_406_816
  assert described['mesh'] == [1, 1] and described['collectives'] == []
  assert described['neurons'] == 659_272
  assert described['bytes_per_device'] == described['bytes_total'] == 2 * 4 * 60_965_224
  assert 'conv5' in err and '13x13x256' in err


def test_one_of_several_processes_keeps_no_programs(monkeypatch):
  kept, worked = [], []
  monkeypatch.setattr(compilation_cache, 'keep_programs', lambda: kept.append(True))
  monkeypatch.setattr(supervisor, 'is_child', lambda: True)
  monkeypatch.setattr(supervisor, 'follow_parent', lambda: None)
  monkeypatch.setattr(main_lib, '_work_with_others', lambda *_: worked.append(True))
  arguments = ['--mode=describe', PAPER]
  several = ['--distributed', '--coordinator=a:1', '--num_processes=2', '--process_id=0']
  assert main_lib.main([*arguments, *several]) == 0
  assert worked and not kept
  alone = [*several[:2], '--num_processes=1', several[3]]
  assert main_lib.main([*arguments, *alone]) == 0
  assert kept.pop()
  assert main_lib.main(arguments, work=lambda _: {}) == 0
  assert kept


def test_every_mode_has_a_function():
  assert set(main_lib._WORK) == set(flags.MODES)


def test_mode_config_prints_the_resolved_config(capsys):
  changes = ['--config.seed=7', '--config.mesh=1,2']
  assert main_lib.main(['--mode=config', '--config=quickstart', *changes]) == 0
  out, err = capsys.readouterr()
  (line,) = out.splitlines()
  expected = config_lib.load_file('quickstart')
  expected.seed, expected.mesh = 7, (1, 2)
  assert config_lib.to_json(config_lib.from_json(line)) == config_lib.to_json(expected)
  assert 'model.width = 0.125\n' in err and 'mesh = (1, 2)\n' in err


def test_mode_config_reads_a_workdir(tmp_path, capsys):
  config = recipes.get('original+no_norm')
  (tmp_path / config_lib.FILE).write_text(config_lib.to_json(config))
  assert main_lib.main(['--mode=config', f'--workdir={tmp_path}']) == 0
  assert json.loads(capsys.readouterr().out) == json.loads(config_lib.to_json(config))


def test_mode_config_checks_the_config(capsys):
  assert main_lib.main(['--mode=config', '--config.optim.momentum=2.']) == 2
  out, err = capsys.readouterr()
  assert out == '' and 'config.optim.momentum=2.0: must be a number of at least 0' in err


@pytest.mark.long
def test_the_core_does_not_import_tensorflow(tmp_path):
  config = write_config(tmp_path, train__steps=2)
  code = (
    'import sys, alexnet_jax\nfrom alexnet_jax.cli import main as cli\n'
    f'assert cli.main(["--config={config}", "--workdir={tmp_path / "run"}"]) == 0\n'
    'assert not {"tensorflow", "tensorflow_datasets"} & set(sys.modules)'
  )
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
