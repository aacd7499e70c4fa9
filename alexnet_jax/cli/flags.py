"""The flags of the command line: their declarations, how they are read, and what each mode requires."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from alexnet_jax import config as config_lib
from alexnet_jax.distributed import cluster as cluster_lib
from alexnet_jax.errors import UserError
from alexnet_jax.utils.suggestion import suggest

MODES = {
  'train': 'Train, or resume the run in --workdir. This is the default.',
  'eval': 'Evaluate a run, or the average of several runs.',
  'config': 'Print every key of the config with its value.',
  'describe': 'Describe the layers, the memory of each device and the communication between devices.',
  'prepare': 'Decode and scale images once and write them to a store.',
  'predict': 'Print the most probable classes of image files.',
  'features': 'Write the activations of a layer.',
  'import': 'Create a workdir from the weights of another framework.',
  'export': 'Write weights, or a program, for another framework.',
  'serve': 'Serve a local web page that classifies the images dropped on it.',
  'report': 'Write a page about a run, WORKDIR/report/index.html.',
}


class Flag(NamedTuple):
  """One flag of the command line.

  Attributes:
    default: value where the flag is absent; its type is the type of the flag, and a tuple is a list that is
      written with commas. None stands for an integer that is absent.
    meaning: what the flag does.
    minimum: smallest allowed value of an integer.
  """

  default: Any
  meaning: str
  minimum: int | None = None


FLAGS = {
  'mode': Flag('train', f'What to do: {", ".join(MODES)}.'),
  'workdir': Flag('', 'The folder of the run.'),
  'dry_run': Flag(
    False, 'train: compile and time one step, print time and memory of the run, and write nothing.'
  ),
  'sweep': Flag(
    '', 'train: one run for each combination of values, as in "optim.rate=0.01,0.02 seed=0,1".'
  ),
  'checkpoint': Flag('best', 'The checkpoint to read: best, latest or the number of a step.'),
  'checkpoints': Flag((), 'eval: the workdirs of several runs, whose probabilities are averaged.'),
  'weights': Flag(
    (), 'eval with --checkpoints: one weight for each workdir. import: the file of weights.'
  ),
  'search_weights': Flag(
    False,
    'eval with --checkpoints: search for the weights with the fewest errors on the images evaluated. '
    'The resulting error is optimistic.',
  ),
  'images': Flag((), 'predict, features: image files, folders or globs.'),
  'output': Flag('', 'prepare, features, export: the folder or file to write.'),
  'picture': Flag(
    '',
    'predict: an image file (.png, .pdf, .svg or .jpg) that shows the images with their most '
    'probable classes.',
  ),
  'layer': Flag('fc7', 'features: the name of the layer.'),
  'split': Flag('validation', 'features without --images: validation or train.'),
  'features': Flag(
    '',
    'serve: the .npz file written by --mode=features --images=..., in which nearest images are '
    'searched.',
  ),
  'host': Flag('127.0.0.1', 'serve: the address to listen on.'),
  'port': Flag(8000, 'serve: the port to listen on; 0 chooses a free one.', minimum=0),
  'shard': Flag('', 'prepare: i/n does the i-th of n parts of the work.'),
  'format': Flag(
    '',
    'import: torchvision, pytorch, caffe, cuda_convnet or safetensors. export: torchvision, pytorch, '
    'cuda_convnet, safetensors, stablehlo or savedmodel.',
  ),
  'mean': Flag(
    '', 'import: the mean to subtract, as R,G,B in grey levels or a .binaryproto or .npy file.'
  ),
  'classes': Flag('', 'import: a text file with the name of one class on each line.'),
  'channels': Flag(
    '',
    'import: the channel order of the images that the weights expect, rgb or bgr. The default is bgr '
    'for caffe and rgb for every other format.',
  ),
  'images_per_s': Flag(
    None,
    'describe: an assumed speed of one device in images per second. The table then shows what the mesh '
    'demands of the network, the hosts and the store.',
    minimum=1,
  ),
  'devices_per_host': Flag(8, 'describe: the number of devices in a host.', minimum=1),
  'distributed': Flag(
    False,
    'Run as one of several processes, which are found through SLURM, a Kubernetes JobSet, a Cloud '
    'TPU or the next three flags.',
  ),
  'coordinator': Flag('', 'The address of process 0, HOST[:PORT].'),
  'num_processes': Flag(None, 'The number of processes.', minimum=1),
  'process_id': Flag(None, 'The number of this process, counted from 0.', minimum=0),
  'peer_timeout': Flag(
    30, 'The seconds without contact after which a process counts as lost.', minimum=1
  ),
}
HELP = ('help', 'helpfull')

# The flags that a mode requires, and what each must name.
_REQUIRED = {
  'eval': {'workdir': 'the folder of a run, or give --checkpoints'},
  'prepare': {'output': 'the folder of the store to write'},
  'predict': {'workdir': 'the folder of a run', 'images': 'files, folders or a glob'},
  'features': {'workdir': 'the folder of a run', 'output': 'the .npz file to write'},
  'import': {
    'format': 'torchvision, pytorch, caffe, cuda_convnet or safetensors',
    'weights': 'the file of weights',
    'workdir': 'the folder to create',
  },
  'serve': {'workdir': 'the folder of a run'},
  'report': {'workdir': 'the folder of a run'},
  'export': {
    'workdir': 'the folder of a run',
    'format': 'torchvision, pytorch, cuda_convnet, safetensors, stablehlo or savedmodel',
    'output': 'the file to write',
  },
}
_DISTRIBUTED = ('train', 'eval', 'describe')  # the modes that several processes can run together


@dataclasses.dataclass(frozen=True)
class Options:
  """The command line after parsing. A field without a comment is the flag of the same name."""

  mode: str
  workdir: str
  config: ConfigDict
  checkpoint: str
  checkpoints: tuple[str, ...]
  weights: tuple[float, ...]  # of --checkpoints
  search_weights: bool
  file: str  # --weights of --mode=import
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
  cluster: cluster_lib.Cluster | None  # None: this is the only process
  peer_timeout: int
  dry_run: bool
  sweep: str
  features: str
  images_per_s: int | None
  devices_per_host: int
  host: str
  port: int
  argv: tuple[str, ...]  # the whole command line, without the name of the program


def take(argv: Sequence[str], name: str) -> tuple[str, list[str]]:
  """Takes `--name=value` or `--name value` out of `argv`.

  Returns:
    The value of the last occurrence, '' if there is none, and the other arguments.
  """
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


def _check_names(argv: Sequence[str]) -> None:
  """Raises UserError for an unknown flag."""
  known = ('config', *FLAGS, *HELP)
  for arg in argv:
    name = arg.lstrip('-').partition('=')[0].partition('.')[0]
    if arg.startswith('--') and name not in known:
      raise UserError(f'unknown flag --{name}: {suggest(name, known)}')


def _check_keys(config: ConfigDict, argv: Sequence[str]) -> None:
  """Raises UserError for a `--config.KEY` that the config lacks."""
  for arg in argv:
    prefix, _, path = arg.partition('=')[0].partition('.')
    if prefix != '--config':
      continue
    group = config
    for key in path.split('.'):
      if not isinstance(group, ConfigDict):
        raise UserError(f'unknown config key config.{path}: it is inside a key that has a value')
      if key not in group:
        hint = suggest(key, sorted(group), 'the same command with --helpfull lists the keys')
        raise UserError(f'unknown config key config.{path}: {hint}')
      group = group[key]


def _check_required(mode: str, given: Mapping[str, str]) -> None:
  """Raises UserError if a flag that the mode requires is absent."""
  for name, what in _REQUIRED.get(mode, {}).items():
    if not given[name]:
      raise UserError(f'--mode={mode} needs --{name}: name {what}')


def _load_config(mode: str, spec: str, given: Mapping[str, str]) -> ConfigDict:
  """Returns the config before overrides: that of --config, or what the mode starts from without it."""
  if spec:
    return config_lib.load_file(spec)
  if mode == 'train':
    raise UserError('--config is missing: give one, as in --config=configs/quickstart.py')
  if mode == 'import':
    from alexnet_jax.interop import importer

    return importer.default_config(given['format'], given['weights'])
  if given['workdir']:
    return config_lib.load_workdir(given['workdir'])
  return config_lib.load_file('alexnet')


def _define(config: ConfigDict, argv: list[str]) -> flags.FlagValues:
  """Declares all flags, and those of the config's keys, to absl, which reads their values."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_dict('config', config, '', flag_values=values, sys_argv=argv)
  for name, flag in FLAGS.items():
    default, meaning, minimum = flag
    if isinstance(default, bool):
      flags.DEFINE_bool(name, default, meaning, flag_values=values)
    elif isinstance(default, tuple):
      flags.DEFINE_list(name, list(default), meaning, flag_values=values)
    elif isinstance(default, str):
      flags.DEFINE_string(name, default, meaning, flag_values=values)
    else:
      flags.DEFINE_integer(name, default, meaning, minimum, flag_values=values)
  return values


def parse(argv: Sequence[str]) -> Options:
  """Reads a command line.

  Args:
    argv: the arguments, without the name of the program and without --help.

  Raises:
    UserError: a flag, a key or a mode is unknown, a value has the wrong type, or a flag is missing.
  """
  _check_names(argv)
  spec, rest = take(argv, 'config')
  given = {name: take(rest, name)[0] for name in FLAGS}
  mode = given['mode'] or 'train'
  given['workdir'] = given['checkpoints'].split(',')[0] or given['workdir']
  if mode not in MODES:
    raise UserError(f'--mode={mode}: {suggest(mode, MODES)}')
  _check_required(mode, given)
  config = _load_config(mode, spec, given)
  _check_keys(config, rest)
  everything = ['main.py', *rest]
  try:
    values = _define(config, everything)
    extra = values(everything)[1:]
  except (flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
    raise UserError(' '.join(str(error).split())) from None
  if extra:
    raise UserError(f'{extra[0]!r} is not a flag: flags are written --name=value')
  _check_together(values, mode)
  return _options(values, mode, argv)


def _check_together(values: flags.FlagValues, mode: str) -> None:
  """Raises UserError for flags that exclude each other, or that the mode does not take."""
  if mode != 'train' and (values.dry_run or values.sweep):
    raise UserError('--dry_run and --sweep need --mode=train: leave them out')
  if values.sweep and (values.distributed or values.dry_run):
    raise UserError(
      '--sweep cannot be combined with --distributed or --dry_run: leave one of them out'
    )
  if mode == 'train' and not values.workdir and not values.dry_run:
    raise UserError('--workdir is missing: name the folder for checkpoints and logs')
  if values.distributed and mode not in _DISTRIBUTED:
    hint = '; divide the work with --shard=i/n' if mode == 'prepare' else ''
    raise UserError(f'--mode={mode} runs in one process: leave --distributed out{hint}')


def _options(values: flags.FlagValues, mode: str, argv: Sequence[str]) -> Options:
  """Returns the options that absl read; an empty value of a flag stands for its default."""
  return Options(
    mode=mode,
    workdir=values.workdir or '',
    config=values.config,
    checkpoint=values.checkpoint or FLAGS['checkpoint'].default,
    checkpoints=tuple(values.checkpoints),
    weights=() if mode == 'import' else _numbers(values.weights),
    search_weights=values.search_weights,
    file=','.join(values.weights) if mode == 'import' else '',
    images=tuple(values.images),
    output=values.output or '',
    picture=values.picture or '',
    layer=values.layer or FLAGS['layer'].default,
    split=values.split or FLAGS['split'].default,
    shard=values.shard or '',
    format=values.format or '',
    mean=values.mean or '',
    classes=values.classes or '',
    channels=values.channels or '',
    cluster=_cluster(values),
    peer_timeout=values.peer_timeout,
    dry_run=values.dry_run,
    sweep=values.sweep or '',
    features=values.features or '',
    images_per_s=values.images_per_s,
    devices_per_host=values.devices_per_host,
    host=values.host or FLAGS['host'].default,
    port=values.port,
    argv=tuple(argv),
  )


def _numbers(weights: Sequence[str]) -> tuple[float, ...]:
  try:
    return tuple(float(weight) for weight in weights)
  except ValueError:
    raise UserError(f'--weights={",".join(weights)}: write numbers, as in 1,0.5') from None


def _cluster(values: flags.FlagValues) -> cluster_lib.Cluster | None:
  """Returns the processes of --distributed; raises UserError if they are described without that flag."""
  explicit = values.coordinator, values.num_processes, values.process_id
  if values.distributed:
    return cluster_lib.find(*explicit)
  for name, value in zip(('coordinator', 'num_processes', 'process_id'), explicit, strict=True):
    if value not in ('', None):
      raise UserError(f'--{name} describes several processes: add --distributed')
  return None
