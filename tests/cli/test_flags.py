"""The command line is parsed into options; unknown and incompatible flags are refused."""

import pytest
from tiny import ROOT

from alexnet_jax import config as config_lib
from alexnet_jax.cli import flags
from alexnet_jax.config import recipes
from alexnet_jax.errors import UserError
from alexnet_jax.workdir import archive

PAPER = f'--config={ROOT / "configs" / "alexnet.py"}'
RUN = '--workdir=w'


def test_flags_have_defaults():
  options = flags.parse([PAPER, RUN])
  assert (options.mode, options.workdir, options.checkpoint) == ('train', 'w', 'best')
  assert (options.layer, options.split, options.host, options.port) == (
    'fc7', 'validation', '127.0.0.1', 8000,
  )  # fmt: skip
  assert options.checkpoints == options.weights == options.images == ()
  assert options.cluster is None and options.peer_timeout == 30
  assert not options.dry_run and not options.search_weights
  assert options.argv == (PAPER, RUN)


def test_an_empty_value_is_the_default():
  empty = [f'--{name}=' for name in ('checkpoint', 'layer', 'split', 'host', 'images', 'sweep')]
  assert flags.parse([PAPER, RUN, *empty]).checkpoint == 'best'
  options = flags.parse([PAPER, RUN, *empty])
  assert (options.layer, options.split, options.host) == ('fc7', 'validation', '127.0.0.1')
  assert options.images == () and options.sweep == ''


def test_values_are_converted_to_their_types():
  options = flags.parse(
    ['--mode=eval', '--checkpoints=a,b', '--weights=1,0.5', PAPER, '--search_weights']
  )
  assert options.checkpoints == ('a', 'b') and options.weights == (1.0, 0.5)
  assert options.search_weights is True
  assert flags.parse(['--mode=serve', RUN, PAPER, '--port=0']).port == 0


def test_weights_of_an_import_are_a_file():
  args = ['--mode=import', '--format=torchvision', '--weights=my, file.safetensors', RUN]
  options = flags.parse(args)
  assert options.file == 'my, file.safetensors' and options.weights == ()


def test_a_file_of_weights_replaces_the_workdir(tmp_path):
  path = tmp_path / 'net.safetensors'
  metadata = {'format': archive.FORMAT, 'version': archive.VERSION}
  metadata['config'] = config_lib.to_json(recipes.get('owt'))
  archive.write_tensors(str(path), {}, metadata)
  options = flags.parse(['--mode=predict', f'--weights={path}', '--images=a.jpg'])
  assert options.workdir == str(path) and options.config.recipe == 'owt' and options.weights == ()
  ensemble = flags.parse(['--mode=eval', f'--checkpoints={path},run', '--weights=1,2'])
  assert ensemble.config.recipe == 'owt' and ensemble.weights == (1.0, 2.0)


def test_overrides_change_the_config():
  changes = ['--config.mesh=1,2', '--config.optim.boundaries=(1.0,)', '--config.seed=7']
  options = flags.parse([PAPER, '--workdir', 'w', *changes])
  assert options.workdir == 'w'
  assert options.config.mesh == (1, 2) and options.config.seed == 7
  assert options.config.optim.boundaries == (1.0,)


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    ([PAPER, RUN, '--mode=trian'], r'--mode=trian: did you mean train\?'),
    ([PAPER, RUN, '--mode=xyz'], '--mode=xyz: choose one of train, eval, config'),
    ([PAPER, '--wrokdir=w'], r'unknown flag --wrokdir: did you mean workdir\?'),
    ([PAPER, RUN, '--config.modell.width=2'], r'config\.modell\.width: did you mean model\?'),
    ([PAPER, RUN, '--config.model.conv1.foo=2'], r'model\.conv1\.foo: choose one of bias, '),
    ([PAPER, RUN, '--config.seed.more=2'], 'it is inside a key that has a value'),
    ([PAPER, RUN, '--peer_timeout=0'], 'peer_timeout'),
    ([PAPER, RUN, '--peer_timeout=60'], '--peer_timeout describes several processes: add'),
    ([PAPER, RUN, '--config.recipe=caffe'], 'choose another one behind the config file'),
    ([PAPER, '--mode=describe', '--devices_per_host=4'], 'is used with --images_per_s'),
    (
      ['--mode=features', PAPER, RUN, '--output=f', '--images=a', '--split=train'],
      'both name images',
    ),
    ([PAPER, RUN, '--process_id=1'], '--process_id describes several processes: add'),
    (['--mode=serve', PAPER], '--mode=serve needs --workdir'),
    (['--mode=prepare', PAPER, '--output=s', '--distributed'], 'divide the work with --shard'),
    (['--mode=eval', RUN, PAPER, '--dry_run'], 'does not use --dry_run, which belongs to train'),
    (['--mode=eval', RUN, PAPER, '--images=a.jpg'], '--images, which belongs to predict, features'),
    (['--mode=predict', RUN, PAPER, '--images=a', '--split=train'], 'does not use --split'),
    ([PAPER, RUN, '--weights=x.safetensors'], '--mode=train does not use --weights'),
    (['--mode=predict', '--images=a', '--weights=w.safetensors', RUN], 'leave one of them out'),
    (['--mode=predict', '--images=a', '--weights=w.pth'], r'name a \.safetensors file'),
    (['--mode=eval', RUN, PAPER, '--weights=1,2'], 'both name a network'),
    (['--mode=eval', '--weights=1,2'], 'several networks with --checkpoints'),
    (['--mode=eval', RUN, PAPER, '--checkpoints=a,b'], 'both name networks'),
  ],
)
def test_invalid_command_lines_are_refused(args, message):
  with pytest.raises(UserError, match=message):
    flags.parse(args)


def test_paths_may_begin_with_the_home_folder(monkeypatch):
  monkeypatch.setenv('HOME', '/home/ada')
  options = flags.parse([PAPER, '--workdir=~/runs/a', '--config.init_from=~/runs/b'])
  assert options.workdir == '/home/ada/runs/a' and options.config.init_from == '/home/ada/runs/b'
  options = flags.parse(['--mode=eval', PAPER, '--checkpoints=~/a,b', '--output=~/all.json'])
  assert options.checkpoints == ('/home/ada/a', 'b') and options.output == '/home/ada/all.json'
  options = flags.parse(['--mode=serve', PAPER, RUN, '--features=~/x.npz'])
  assert options.features == '/home/ada/x.npz'


def test_take():
  argv = ['--a=1', '--b', '2', '--a', '3', 'rest']
  assert flags.take(argv, 'a') == ('3', ['--b', '2', 'rest'])
  assert flags.take(argv, 'c') == ('', argv)
