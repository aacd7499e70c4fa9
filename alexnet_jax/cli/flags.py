"""The flags of the command line: what there are, how they are read, and what each mode needs of them."""

from collections.abc import Mapping, Sequence
import dataclasses
import difflib
import os
import pathlib
import sys
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from alexnet_jax import config as config_lib
from alexnet_jax.cli import help as help_lib
from alexnet_jax.distributed import multihost
from alexnet_jax.errors import UserError

MODES = {
  'train': 'train or resume the run of --workdir (where no mode is given)',
  'eval': 'evaluate a run, or several averaged',
  'describe': 'the layers, the bytes a device holds and what devices tell each other',
  'prepare': 'make a store of canvases',
  'predict': 'the likeliest classes of image files',
  'features': 'the vectors of a layer',
  'import': 'make a workdir of weights from elsewhere',
  'export': 'write weights, or a program, for elsewhere',
  'serve': 'a page on this machine where one drops images',
  'report': 'a page about a run, WORKDIR/report/index.html',
}

# Each flag but --config and --config.KEY: what it is where it is left out, which also says its type (a
# tuple is a list with commas), and what it is for.
FLAGS: dict[str, tuple[Any, str]] = {
  'mode': ('train', f'One of {", ".join(MODES)}.'),
  'workdir': ('', 'Folder of the run.'),
  'dry_run': (False, 'Of train: try a step and say what all would take; write nothing.'),
  'sweep': ('', 'Of train: runs of all values in turn, as in "optim.rate=0.01,0.02 seed=0,1".'),
  'checkpoint': ('best', 'Of all modes that read one: best, latest or a step.'),
  'checkpoints': ((), 'Of eval: workdirs whose softmax is averaged.'),
  'weights': ((), 'Of --checkpoints: a number a workdir. Of import: the file of weights.'),
  'search_weights': (
    False,
    'Of --checkpoints: the weights that make the fewest errors on the images evaluated, which flatters.',
  ),
  'images': ((), 'Of predict and features: files, folders, globs.'),
  'output': ('', 'What prepare, features (.npz or .parquet) and export are to make.'),
  'picture': (
    '',
    'Of predict: a .png, .pdf, .svg or .jpg of the images and their likeliest classes.',
  ),
  'layer': ('fc7', 'Of features: its name.'),
  'split': ('validation', 'Of features, without --images: validation or train.'),
  'features': ('', 'Of serve: the .npz file of --mode=features --images=, for nearest images.'),
  'host': ('127.0.0.1', 'Of serve: address to listen at.'),
  'port': (8000, 'Of serve: 0 takes any that is free.'),
  'shard': ('', 'Of prepare: i/n, one of n parts of the work.'),
  'format': (
    '',
    'Of import: torchvision, pytorch, caffe, cuda_convnet, safetensors. Of export: the same but caffe, '
    'and stablehlo, savedmodel.',
  ),
  'mean': ('', 'Of import: R,G,B in grey levels, or a .binaryproto or .npy mean image.'),
  'classes': ('', 'Of import: a text file, the name of a class a line.'),
  'channels': (
    '',
    'Of import: rgb or bgr, as the weights take images; left out, bgr of caffe, else rgb.',
  ),
  'distributed': (
    False,
    'Work with other processes: of SLURM, a JobSet, a Cloud TPU or as the next three flags say.',
  ),
  'coordinator': ('', 'HOST[:PORT] of process 0.'),
  'num_processes': (None, 'How many there are.'),
  'process_id': (None, 'Number of this one.'),
  'peer_timeout': (30, 'Seconds of silence after which a process counts as lost.'),
}
_LOWEST = {'port': 0, 'num_processes': 1, 'process_id': 0, 'peer_timeout': 1}
_HELP = ('help', 'helpfull')
_FEW = 40  # names that fit into a message

# What each of these modes cannot do without: the flag, and what it is to name.
_NEEDED = {
  'predict': {'workdir': 'the folder of a run', 'images': 'files, folders or a glob'},
  'features': {'workdir': 'the folder of a run', 'output': 'the .npz or .parquet file to write'},
  'import': {
    'format': 'torchvision, pytorch, caffe, cuda_convnet or safetensors',
    'weights': 'the file of weights',
    'workdir': 'the folder to make',
  },
  'serve': {'workdir': 'the folder of a run'},
  'report': {'workdir': 'the folder of a run'},
  'export': {
    'workdir': 'the folder of a run',
    'format': 'torchvision, pytorch, cuda_convnet, safetensors, stablehlo or savedmodel',
    'output': 'the file to write',
  },
}
_OF_SEVERAL = ('train', 'eval', 'describe')  # the modes that several processes can do together


@dataclasses.dataclass(frozen=True)
class Options:
  """The command line, read; fields without a word are the flags of their names."""

  mode: str
  workdir: str
  config: ConfigDict
  checkpoint: str
  checkpoints: tuple[str, ...]
  weights: tuple[float, ...]  # of --checkpoints
  search_weights: bool
  file: str  # of weights, of --mode=import
  images: tuple[str, ...]
  output: str
  picture: str
  layer: str
  split: str
  shard: str
  format: str
  mean: str
  classes: str
  channels: str
  cluster: multihost.Cluster | None  # None: this process works alone
  peer_timeout: int
  dry_run: bool
  sweep: str
  features: str
  host: str
  port: int
  argv: tuple[str, ...]  # all of it, as it came


def _take(argv: Sequence[str], name: str) -> tuple[str, list[str]]:
  """Takes `--name=value` or `--name value` out of `argv`; the last one counts."""
  value, rest, args = '', [], iter(argv)
  for arg in args:
    flag, equals, tail = arg.partition('=')
    if flag not in (f'--{name}', f'-{name}'):
      rest.append(arg)
    elif equals:
      value = tail
    else:
      value = next(args, '')
  return value, rest


def suggest(name: str, known: Sequence[str]) -> str:
  """`did you mean X?`, or the names there are, unless they are many."""
  if near := difflib.get_close_matches(name, known, 1):
    return f'did you mean {near[0]}?'
  if len(known) > _FEW:
    return 'the same command with --helpfull lists those there are'
  return f'known are {", ".join(known)}'


def _check_names(argv: Sequence[str]) -> None:
  """Raises UserError for a flag that there is not."""
  known = ('config', *FLAGS, *_HELP)
  for arg in argv:
    name = arg.lstrip('-').partition('=')[0].partition('.')[0]
    if arg.startswith('--') and name not in known:
      raise UserError(f'unknown flag --{name}: {suggest(name, known)}')


def _check_keys(config: ConfigDict, argv: Sequence[str]) -> None:
  """Raises UserError for `--config.KEY` where the config has no such key."""
  for arg in argv:
    prefix, _, path = arg.partition('=')[0].partition('.')
    if prefix != '--config':
      continue
    room = config
    for key in path.split('.'):
      if not isinstance(room, ConfigDict) or key not in room:
        known = sorted(room) if isinstance(room, ConfigDict) else ()
        raise UserError(f'unknown config key config.{path}: {suggest(key, known)}')
      room = room[key]


def _check_needed(mode: str, given: Mapping[str, str]) -> None:
  """Raises UserError where the mode lacks a flag."""
  if mode == 'eval' and not given['workdir']:
    raise UserError('--mode=eval needs --workdir: name the folder of a run, or give --checkpoints')
  for name, what in _NEEDED.get(mode, {}).items():
    if not given[name]:
      raise UserError(f'--mode={mode} needs --{name}: name {what}')


def _load_config(mode: str, spec: str, given: Mapping[str, str]) -> ConfigDict:
  """The config to start from: a file's, or what the mode takes where none is named."""
  if spec:
    return config_lib.load_file(spec)
  if mode == 'train':
    raise UserError('--config is missing: give one, as in --config=configs/quickstart.py')
  if mode == 'import':
    from alexnet_jax.interop import networks

    return networks.default_config(given['format'], given['weights'])
  if given['workdir']:
    return config_lib.load_workdir(given['workdir'])
  return config_lib.load_file('alexnet')


def _define(config: ConfigDict, argv: list[str]) -> flags.FlagValues:
  """The flags for absl, which reads values, and those of the config's keys."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_dict('config', config, '', flag_values=values, sys_argv=argv)
  for name, (default, what) in FLAGS.items():
    if isinstance(default, bool):
      flags.DEFINE_bool(name, default, what, flag_values=values)
    elif isinstance(default, tuple):
      flags.DEFINE_list(name, list(default), what, flag_values=values)
    elif isinstance(default, str):
      flags.DEFINE_string(name, default, what, flag_values=values)
    else:
      flags.DEFINE_integer(name, default, what, _LOWEST[name], flag_values=values)
  return values


def help_text(config: ConfigDict | None = None) -> str:
  """What `--help` says, and of `--helpfull` every key of `config`."""
  program = 'alexnet-jax' if pathlib.Path(sys.argv[0]).stem == 'alexnet-jax' else 'python main.py'
  lines = [
    f'Usage: {program} --config=CONFIG --workdir=DIR [--mode=MODE] [--config.key=value ...]',
    '',
    f'  --config: FILE.py[:VARIANT], or the name of one shipped: {", ".join(config_lib.shipped())}.',
    '  --config.key=value: sets any key of the config; --helpfull explains each.',
  ]
  for name, (default, what) in FLAGS.items():
    left_out = f' ({default})' if default else ''
    lines.append(f'  --{name}: {what}{left_out}')
  lines += ['', 'Modes:', *(f'  {mode}: {what}' for mode, what in MODES.items())]
  if config is not None:
    lines += ['', 'Config, and what is in it where it is not set:', help_lib.help_text(config)]
  return '\n'.join(lines)


def parse(argv: Sequence[str]) -> Options:
  """Reads the command line (without the program's name).

  Raises:
    UserError: an unknown flag, key or mode, a value of the wrong type, a missing config or workdir.
    SystemExit: after --help.
  """
  everything = tuple(argv)
  _check_names(argv)
  spec, rest = _take(argv, 'config')
  if {'--help', '-h', '--helpfull'} & set(argv):
    config = config_lib.load_file(spec or 'alexnet') if '--helpfull' in argv else None
    try:
      print(help_text(config), flush=True)
    except BrokenPipeError:  # the reader has seen enough, as `head` does; Python flushes once more
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)
  given = {name: _take(rest, name)[0] for name in FLAGS}
  mode = given['mode'] or 'train'
  given['workdir'] = given['checkpoints'].split(',')[0] or given['workdir']
  if mode not in MODES:
    raise UserError(f'--mode={mode}: choose one of {", ".join(MODES)}')
  _check_needed(mode, given)
  config = _load_config(mode, spec, given)
  _check_keys(config, rest)
  argv = ['main.py', *rest]
  try:
    values = _define(config, argv)
    extra = values(argv)[1:]
  except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
    raise UserError(' '.join(str(error).split())) from None
  if extra:
    raise UserError(f'{extra[0]!r} is not a flag: flags are written --name=value')
  return dataclasses.replace(_options(values, mode), argv=everything)


def _options(values: flags.FlagValues, mode: str) -> Options:
  """What absl read, checked where flags hang together."""
  if mode != 'train' and (values.dry_run or values.sweep):
    raise UserError('--dry_run and --sweep are of --mode=train: leave them out')
  if values.sweep and (values.distributed or values.dry_run):
    raise UserError('--sweep goes neither with --distributed nor with --dry_run: leave one out')
  if mode == 'train' and not values.workdir and not values.dry_run:
    raise UserError('--workdir is missing: name the folder for checkpoints and logs')
  if mode == 'prepare' and not values.output:
    raise UserError('--output is missing: name the folder of the store to make')
  if values.distributed and mode not in _OF_SEVERAL:
    hint = '; share the work out with --shard=i/n' if mode == 'prepare' else ''
    raise UserError(f'--mode={mode} is for one process: leave --distributed out{hint}')
  file = ','.join(values.weights)
  try:
    weights = () if mode == 'import' else tuple(float(weight) for weight in values.weights)
  except ValueError:
    raise UserError(f'--weights={file}: write numbers, as in 1,0.5') from None
  fields = {field.name for field in dataclasses.fields(Options)}
  same = {
    name: type(default)(default if values[name].value in ('', None) else values[name].value)
    for name, (default, _) in FLAGS.items()
    if name in fields
  }
  own = {'mode': mode, 'config': values.config, 'weights': weights, 'cluster': _cluster(values)}
  return Options(**same | own, file=file if mode == 'import' else '', argv=())


def _cluster(values: flags.FlagValues) -> multihost.Cluster | None:
  """The cluster of `--distributed`; the flags that describe one need it."""
  explicit = values.coordinator, values.num_processes, values.process_id
  if values.distributed:
    return multihost.find(*explicit)
  for name, value in zip(('coordinator', 'num_processes', 'process_id'), explicit, strict=True):
    if value not in ('', None):
      raise UserError(f'--{name} is for several processes: add --distributed')
  return None
