"""`--sweep` trains several runs, and `--dry_run` trains nothing."""

import json

import pytest
from tiny import tiny_config, write_config

from alexnet_jax import config as config_lib
from alexnet_jax.cli import flags, sweep
from alexnet_jax.cli import main as main_lib
from alexnet_jax.errors import UserError
from alexnet_jax.workdir import lock


def run(capsys, *args):
  code = main_lib.main(args)
  out, err = capsys.readouterr()
  assert code == 0, err
  return json.loads(out), err


def test_a_sweep_has_all_combinations_of_values():
  config = tiny_config()
  assert sweep.combinations('optim.rate=0.01,0.02 seed=0,1', config) == [
    {'optim.rate': '0.01', 'seed': '0'},
    {'optim.rate': '0.01', 'seed': '1'},
    {'optim.rate': '0.02', 'seed': '0'},
    {'optim.rate': '0.02', 'seed': '1'},
  ]
  assert sweep.combinations('lr=0.01', config) == [{'optim.rate': '0.01'}]
  assert sweep.combinations('boundaries=(1.,2.),(3.,) patience=2', config) == [
    {'optim.boundaries': '(1.,2.)', 'optim.plateau.patience': '2'},
    {'optim.boundaries': '(3.,)', 'optim.plateau.patience': '2'},
  ]
  nested = "(('conv1',1.,0.1),('conv2',1.,0.1))"
  assert sweep.combinations(f'layer_rates={nested},()', config) == [
    {'optim.layer_rates': nested},
    {'optim.layer_rates': '()'},
  ]


def test_swept_tuples_replace_those_of_the_command_line(tmp_path):
  config = write_config(tmp_path)
  args = [f'--config={config}', f'--workdir={tmp_path}', '--config.optim.boundaries=(10.,)']
  options = flags.parse([*args, '--sweep=optim.boundaries=(12.,),(14.,)'])
  assert options.config.optim.boundaries == (10.0,)
  found = [own.config.optim.boundaries for _, own in sweep.plan(options)]
  assert found == [(12.0,), (14.0,)]


def test_the_best_run_has_a_known_loss():
  rows = [{'workdir': str(loss), 'loss': loss, 'top1_error': None} for loss in (None, 2.0, 1.0)]
  assert sweep._best(rows) == '1.0'
  assert sweep._best(rows[:1]) is None


def test_a_run_without_enough_memory_does_not_end_the_sweep(tmp_path, capsys, monkeypatch):
  def fail(config, workdir, is_followed):
    if config.seed == 0:
      raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.')
    return {'step': 1, 'loss': 2.0, 'top1_error': None, 'workdir': workdir}

  monkeypatch.setattr(sweep, 'train', fail)
  args = [f'--config={write_config(tmp_path)}', f'--workdir={tmp_path / "new"}']
  result, _ = run(capsys, *args, '--sweep=seed=0,1')
  assert [row.get('failed') for row in result['runs']] == ['out of memory', None]


def test_the_record_of_a_sweep_exists_if_its_first_run_fails(tmp_path, capsys):
  args = [f'--config={write_config(tmp_path)}', f'--workdir={tmp_path / "new"}']
  assert main_lib.main([*args, '--config.data.source=folder:none', '--sweep=seed=0']) == 3
  assert 'every run of the sweep failed' in capsys.readouterr().err
  result = json.loads((tmp_path / 'new' / sweep.FILE).read_text())
  assert 'folder:none' in result['runs'][0]['failed'] and result['best'] is None


def test_a_sweep_is_not_started_twice(tmp_path, capsys):
  args = [f'--config={write_config(tmp_path)}', f'--workdir={tmp_path}', '--sweep=seed=0']
  with lock.locked(tmp_path):
    assert main_lib.main(args) == 2
  assert 'is in use by another run' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('rate=1', "the key 'rate' may be model.dropout.rate or optim.rate"),
    ('learning=1', "unknown config key 'learning': the same command with --helpfull"),
    ('seed', 'write it as in'),
    ('seed=1,', 'write it as in'),
    ('seed=1,x', 'config.seed=x'),
    ('lr=1 optim.rate=2', 'has optim.rate twice'),
    ('note=' + 300 * 'x', 'which is too long'),
    ('recipe=caffe', 'choose another one behind the config file'),
    ('optim.schedule=cosine', 'must be one of steps, plateau'),
    ('seed=1 --dry_run', 'write it as in'),
  ],
)
def test_invalid_sweeps_are_refused_before_any_run(tmp_path, capsys, text, message):
  args = [f'--config={write_config(tmp_path)}', f'--workdir={tmp_path / "w"}', f'--sweep={text}']
  assert main_lib.main(args) == 2
  assert message in capsys.readouterr().err and not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (
      ['--mode=eval', '--workdir=w', '--sweep=seed=1'],
      'does not use --sweep, which belongs to train',
    ),
    (['--workdir=w', '--sweep=seed=1', '--dry_run'], 'cannot be combined with --distributed or'),
    (['--sweep=seed=1'], '--workdir is missing'),
  ],
)
def test_incompatible_flags_are_refused(args, message, tmp_path):
  with pytest.raises(UserError, match=message):
    flags.parse([f'--config={write_config(tmp_path)}', *args])


@pytest.mark.long
def test_a_sweep_continues_after_a_failed_run(tmp_path, capsys):
  """The same command does not repeat finished runs."""
  config, workdir = write_config(tmp_path, train__steps=2), tmp_path / 'w'
  args = [f'--config={config}', f'--workdir={workdir}', '--config.train.log_every=1']
  result, err = run(capsys, *args, '--sweep=optim.rate=0.01,2e9')
  good, bad = result['runs']
  assert good['values'] == {'optim.rate': '0.01'} and good['step'] == 2
  assert 'not finite' in bad['failed'] and result['best'] == good['workdir']
  assert json.loads((workdir / sweep.FILE).read_text()) == result
  assert config_lib.load_workdir(workdir / 'optim.rate=0.01').optim.rate == 0.01
  mixed, _ = run(capsys, *args, '--config.micro_batches=2', '--sweep=train.batch_size=7,8')
  assert 'micro' in mixed['runs'][0]['failed'] and mixed['runs'][1]['step'] == 2
  table = err[err.index('top-1 error %') :]
  assert f'{good["loss"]:.4f}' in table and 'failed' in table
  files = {path: path.stat().st_mtime_ns for path in workdir.glob('optim.rate=0.01/checkpoints/*')}
  again, err = run(capsys, *args, '--sweep=optim.rate=0.01')
  assert again['runs'] == [good] and 'nothing to do' in err
  assert files and all(path.stat().st_mtime_ns == at for path, at in files.items())


@pytest.mark.long
def test_a_dry_run_trains_nothing(tmp_path, capsys):
  config, workdir = write_config(tmp_path), tmp_path / 'w'
  result, _ = run(capsys, f'--config={config}', f'--workdir={workdir}', '--dry_run')
  assert not workdir.exists()
  assert result['steps'] == 20 and result['epochs'] == 4  # 40 images, batches of 8
  assert (result['train_images'], result['validation_images'], result['classes']) == (40, 18, 4)
  # The memory includes parameters, momentum and the batch.
  assert result['bytes_per_device'] > 8 * result['parameters'] + 8 * 72 * 72 * 3
  assert result['training_s'] == pytest.approx(20 * result['step_s'], abs=0.6)
  assert run(capsys, f'--config={config}', '--dry_run')[0]['parameters'] == result['parameters']
