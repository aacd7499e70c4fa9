"""The command line is parsed into options; unknown and incompatible flags are refused."""

import pytest
from tiny import ROOT

from alexnet_jax.cli import flags
from alexnet_jax.errors import UserError

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
    ['--mode=eval', '--checkpoints=a,b', '--weights=1,0.5', PAPER, '--port=0', '--search_weights']
  )
  assert options.checkpoints == ('a', 'b') and options.weights == (1.0, 0.5)
  assert options.port == 0 and options.search_weights is True


def test_weights_of_an_import_are_a_file():
  args = ['--mode=import', '--format=torchvision', '--weights=my,file.safetensors', RUN]
  options = flags.parse(args)
  assert options.file == 'my,file.safetensors' and options.weights == ()


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
    ([PAPER, RUN, '--process_id=1'], '--process_id describes several processes: add'),
    (['--mode=serve', PAPER], '--mode=serve needs --workdir'),
    (['--mode=prepare', PAPER, '--output=s', '--distributed'], 'divide the work with --shard'),
    (['--mode=eval', RUN, PAPER, '--dry_run'], 'need --mode=train'),
  ],
)
def test_invalid_command_lines_are_refused(args, message):
  with pytest.raises(UserError, match=message):
    flags.parse(args)


def test_take():
  argv = ['--a=1', '--b', '2', '--a', '3', 'rest']
  assert flags.take(argv, 'a') == ('3', ['--b', '2', 'rest'])
  assert flags.take(argv, 'c') == ('', argv)
